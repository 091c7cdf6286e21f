"Reports against scikit-learn and plain loops, TensorBoard logs of trainings that were killed, tests of genders and speakers on made-up answers"
import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import mannwhitneyu
from sklearn.metrics import accuracy_score, classification_report, confusion_matrix

from ser_nb.data.exchange import metadata_corpus
from ser_nb.data.corpus import demo_tones
from ser_nb.evaluation.reports import accuracies, by_speaker, classification, plot_speakers, quick_stats, seed_scores, speaker_tests, subsets, training_graphs, training_logs, write_reports
from ser_nb.ssl_files import EVALUATIONS, read_evaluations

LABELS = ["angry", "happy", "sad"]
GENDERS = ["female", "male", "female", "male", ""]


def answers(right=.6, seeds=3, speakers=8, each=6, corpus="x", seed=0, gender=lambda s: ("female", "male")[s % 2], skill=lambda s: 0.):
    "Predictions of speakers who say every class `each` times"
    rng, tables = np.random.default_rng(seed), []
    who, truth = np.repeat(np.arange(speakers), each*3), np.tile(LABELS, each*speakers).astype(object)
    for repeat in range(seeds):
        guess = np.where(rng.random(len(who)) < right + np.vectorize(skill, otypes=[float])(who), truth, rng.choice(LABELS, len(who)))
        tables.append(pd.DataFrame(dict(file=[f"{i}.wav" for i in range(len(who))], start=0., end=np.nan, corpus=corpus, speaker=[f"s{w}" for w in who], gender=[gender(w) for w in who], fold=0, repeat=repeat, seed=100 + repeat,
                                        truth=truth, prediction=guess, **{f"p_{e}": 1/3 for e in LABELS})))
    return pd.concat(tables, ignore_index=True)


def same(a, b): return a == pytest.approx(b, abs=1e-12)


# Reports

def test_subsets_keep_unknown_genders_last():
    table = answers(speakers=5, gender=lambda s: GENDERS[s])
    assert {k: len(t) for k, t in subsets(table).items()} == dict(overall=270, female=108, male=108, unknown=54) and list(subsets(table)) == ["overall", "female", "male", "unknown"]
    assert list(subsets(table[table.gender == "male"])) == ["overall", "male"]


def test_accuracies_are_means_over_all_seeds():
    table = answers()
    plain = {g: np.mean([accuracy_score(t.truth, t.prediction) for _, t in part.groupby("repeat")]) for g, part in (("overall", table), *table.groupby("gender"))}
    assert same(accuracies(table), plain)
    assert accuracies(table)["female"] != accuracies(table[table.repeat == 0])["female"]


def test_classification_is_scikit_learns():
    table = answers(seeds=1)
    report = classification(table)
    assert {k: report[k] for k in ("sad", "accuracy", "macro avg")} == {k: v for k, v in classification_report(table.truth, table.prediction, output_dict=True).items() if k in ("sad", "accuracy", "macro avg")}
    assert report["y_true"] == table.truth.to_list() and report["y_pred"] == table.prediction.to_list()


def test_a_class_nobody_said_can_be_written(): json.dumps(classification(answers(seeds=1).query("truth != 'sad'")), allow_nan=False)


def read(path): return json.loads(path.read_text())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    table = pd.concat([answers(seeds=2, speakers=12, each=2, gender=lambda s: "" if s == 11 else ("female", "male")[s % 2]), answers(seeds=2, speakers=2, each=2, corpus="y", seed=1)], ignore_index=True)
    write_reports({"m": table.sample(frac=1, random_state=0)}, folder, "trained")
    return folder, table


def test_published_files(written):
    folder, _ = written
    run = ["accuracies.json", "classification_report.json", "confusion_matrix.png", "female_confusion_matrix.png", "male_confusion_matrix.png"]
    mean = [f"{s}_confusion_matrix.{t}" for s in ("female", "male", "overall") for t in ("csv", "png")]   # unknown: one speaker of twelve is less than a tenth
    expected = ["evaluations.csv", "m/accuracies.json", "test/x/test.csv", "test/y/test.csv", *(f"m/{c}/{f}" for c in "xy" for f in mean), *(f"m/{c}/{s}/{f}" for c in "xy" for s in "01" for f in run)]
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) == sorted(expected)
    assert all(p.read_bytes()[:4] == b"\x89PNG" for p in folder.rglob("*.png"))


def test_numbers_in_the_files(written):
    folder, table = written
    x = table[table.corpus == "x"]
    means = read(folder/"m"/"accuracies.json")
    assert all(same(means[c], accuracies(t)) for c, t in table.groupby("corpus")) and list(means) == ["x", "y"] and "unknown" in means["x"]
    assert same(read(folder/"m"/"x"/"1"/"accuracies.json"), accuracies(x[x.repeat == 1]))
    women = [confusion_matrix(t.truth, t.prediction, labels=LABELS) for _, t in x[x.gender == "female"].groupby("repeat")]
    matrix = pd.read_csv(folder/"m"/"x"/"female_confusion_matrix.csv", index_col=0)
    assert same(matrix.to_numpy(), np.mean(women, 0)) and list(matrix) == list(matrix.index) == LABELS
    report = read(folder/"m"/"y"/"0"/"classification_report.json")
    assert sorted(zip(report["y_true"], report["y_pred"])) == sorted(zip(*(table[(table.corpus == "y") & (table.repeat == 0)][c] for c in ("truth", "prediction"))))


def test_evaluations_table(written):
    folder, _ = written
    table = read_evaluations(folder/"evaluations.csv")
    assert tuple(table) == EVALUATIONS and table.model_path.to_list() == [f"trained/{s}/m" for s in (100, 101, 100, 101)] and table.dataset_name.to_list() == ["x", "x", "y", "y"]
    assert all((folder/"test"/d/"test.csv").samefile(f"{p}/test.csv") for d, p in zip(table.dataset_name, table.eval_csv_path))


def test_test_table_is_a_corpus_again(tmp_path):
    rows = pd.DataFrame(demo_tones(tmp_path/"audio", 4))
    table = answers(seeds=1, speakers=1, each=2).iloc[:4].assign(file=rows.file, gender=["female", "", "male", ""], start=[0., .1, 0., 0.], end=[np.nan, .3, np.nan, np.nan])
    corpus = metadata_corpus(write_reports({"m": table}, tmp_path/"out").parent/"test"/"x", tmp_path/"audio")
    for column in ("emotion", "speaker", "gender", "start", "end"):
        pd.testing.assert_series_equal(corpus.table.set_index("file")[column].sort_index(), table.set_index("file")[{"emotion": "truth"}.get(column, column)].sort_index(), check_names=False, check_dtype=False)


def test_what_is_no_table_of_predictions_is_refused_before_writing(tmp_path):
    with pytest.raises(ValueError, match="tested twice"): write_reports({"a": answers(), "b": pd.concat([answers(), answers()])}, tmp_path/"out")
    assert not (tmp_path/"out").exists()


# Training graphs

def logged(folder, steps, started=1, **tags):
    "A log as the Trainer writes it, begun at a given second"
    from torch.utils.tensorboard import SummaryWriter
    with SummaryWriter(folder) as log:
        for step in steps:
            for tag, value in ({"eval/accuracy": step/100, "eval/loss": 1., "train/loss": 2., "train/epoch": step/10} | tags).items(): log.add_scalar(tag, value, step)
    file = max(folder.glob("events*"), key=lambda f: f.stat().st_mtime_ns)
    file.rename(folder/f"events.out.tfevents.{started}.host.1.{started}")


def test_a_killed_training_goes_on_in_one_curve(tmp_path):
    logged(tmp_path/"3"/"runs"/"Jan01_00-00-00", [10, 20, 30], 1)
    logged(tmp_path/"3"/"runs"/"Feb01_00-00-00", [30, 40], 2, **{"eval/accuracy": .9})
    log, = training_logs(tmp_path).values()
    assert log["eval/accuracy"].round(6).to_dict() == {10: .1, 20: .2, 30: .9, 40: .9} and log.epoch.to_list() == [1, 2, 3, 4]


def test_a_new_training_replaces_the_old_one(tmp_path):
    logged(tmp_path/"runs"/"b", [10, 20, 30, 40], 9_999)
    logged(tmp_path/"runs"/"a", [10, 20], 10_000)   # later, though its name sorts first
    assert training_logs(tmp_path)[""].index.to_list() == [10, 20]


def test_seeds_are_told_apart(tmp_path):
    for seed in (0, 1): logged(tmp_path/"m"/str(seed)/"runs"/"now", [10*(seed + 1)])
    assert {k: v.index.to_list() for k, v in training_logs(tmp_path).items()} == {"m/0": [10], "m/1": [20]}


def test_graphs_draw_every_seed_once_per_curve_and_name_the_models_once(tmp_path):
    for model in ("a", "b"):
        for seed in (0, 1): logged(tmp_path/model/str(seed)/"runs"/"now", [10, 20])
    figure = training_graphs({model: tmp_path/model for model in ("a", "b")})
    left, right = figure.axes
    assert [t.get_text() for t in left.get_legend().get_texts()] == ["a", "b"] and len(left.lines) == 4 and len(right.lines) == 8 + 2
    assert len({line.get_color() for line in right.lines[:4]}) == 1 and {line.get_linestyle() for line in right.lines[:4]} == {"-", "--"}
    assert left.lines[0].get_xdata().tolist() == [1, 2] and left.lines[0].get_ydata() == pytest.approx([.1, .2], rel=1e-6)


def test_logs_without_epochs_and_without_training_loss_are_drawn_over_steps(tmp_path):
    from torch.utils.tensorboard import SummaryWriter
    with SummaryWriter(tmp_path) as log: log.add_scalar("eval/uar", .5, 7)
    assert training_graphs({"a": tmp_path}, "uar").axes[0].lines[0].get_xdata().tolist() == [7]


def test_missing_logs_and_metrics_are_named(tmp_path):
    logged(tmp_path/"a", [10])
    (tmp_path/"b").mkdir()
    with pytest.raises(ValueError, match="metric in the logs of m 'f1score': known are accuracy, loss"): training_graphs({"m": tmp_path/"a"}, "f1score")
    with pytest.raises(FileNotFoundError, match="b: holds no TensorBoard log"): training_graphs({"m": tmp_path/"b"})


# Quick statistics

@pytest.mark.parametrize("metric", ["uar", "war"])
def test_quick_stats_are_plain_numbers(metric):
    models = {"base": answers(.5, seeds=6), "better": answers(.7, seeds=6, seed=1).query("truth != 'sad' or repeat > 2 or speaker != 's1'")}
    stats = quick_stats(models, "base", metric)
    samples = {m: {s: part[metric].to_numpy() for s, part in seed_scores(t).groupby("subset")} for m, t in models.items()}
    row = stats.loc[("better", "x", "overall")]
    assert same([row["mean"], row.sd, row.n_seeds], [samples["better"]["overall"].mean(), np.std(samples["better"]["overall"]), 6])
    assert same(row.p_gender, mannwhitneyu(samples["better"]["female"], samples["better"]["male"]).pvalue)
    assert same([row.p_greater, row.p_less], [mannwhitneyu(samples["better"]["overall"], samples["base"]["overall"], alternative=a).pvalue for a in ("greater", "less")])
    assert stats.loc[("base", "x", "overall"), ["p_greater", "p_less"]].isna().all() and stats.loc[("better", "x", "female"), "p_gender"] != stats.loc[("better", "x", "female"), "p_gender"]


def test_quick_stats_of_one_seed_one_gender_and_a_corpus_the_baseline_lacks():
    stats = quick_stats({"a": answers(seeds=1, gender=lambda s: "male"), "b": answers(seeds=3, corpus="y", gender=lambda s: "male")}, "a")
    assert stats[["p_gender", "p_greater", "p_less"]].isna().all(axis=None) and stats.loc[("a", "x", "overall"), "sd"] == 0 and list(stats.index.get_level_values("subset")) == ["overall", "male"]*2


@pytest.mark.parametrize("call, words", [(dict(baseline="basse"), "did you mean 'base'"), (dict(metric="acc"), "unknown metric 'acc'")], ids=["baseline", "metric"])
def test_unknown_names(call, words):
    with pytest.raises(ValueError, match=words): quick_stats({"base": answers(seeds=1)}, **call)


# Speakers

def test_by_speaker_is_the_mean_of_recalls_over_seeds():
    table = answers(speakers=5, gender=lambda s: GENDERS[s]).query("speaker != 's2' or truth != 'sad'")
    found = by_speaker(pd.concat([table, answers(corpus="y", speakers=2, seed=1)]))
    own = table[table.speaker == "s2"]
    assert same(found.loc[("x", "s2"), "uar"], np.mean([np.mean([(t.prediction == e).mean() for e, t in part.groupby("truth")]) for _, part in own.groupby("repeat")]))
    assert same(found.loc[("x", "s2"), "war"], (own.truth == own.prediction).mean()) and found.loc[("x", "s2"), "n"] == 12
    assert found.gender.to_list() == GENDERS + ["female", "male"] and ((found.uar_low <= found.uar) & (found.uar <= found.uar_high)).all()
    pd.testing.assert_frame_equal(found, by_speaker(pd.concat([table, answers(corpus="y", speakers=2, seed=1)]).sample(frac=1, random_state=0)), check_exact=False)


@pytest.mark.parametrize("skill, differ, gender", [(lambda s: 0., False, False), (lambda s: .35*(s % 2), True, True), (lambda s: .35*(s < 6), True, False)], ids=["alike", "gender", "speakers"])
def test_speaker_tests_find_what_was_made(skill, differ, gender):
    found = speaker_tests(answers(.4, seeds=2, speakers=12, skill=skill), 199).loc["x"]
    assert (found.p_speakers < .02) == differ and (found.p_gender < .02) == gender and found.speakers == 12


def test_alike_speakers_are_rarely_told_apart():
    p = [speaker_tests(answers(.5, seeds=1, speakers=4, each=4, seed=s), 39).p_speakers["x"] for s in range(20)]
    assert np.mean(np.array(p) <= .1) < .35 and np.mean(p) > .25


def test_speaker_tests_of_one_speaker():
    found = speaker_tests(answers(speakers=1), 9).loc["x"]
    assert found[["p_speakers", "male", "p_gender"]].isna().all() and found.sd == 0


def test_speakers_are_drawn_best_first():
    speakers = by_speaker(pd.concat([answers(speakers=5, gender=lambda s: GENDERS[s]), answers(corpus="y", speakers=1)]))
    figure = plot_speakers(speakers, "t")
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["/".join(k) for k in speakers.sort_values("uar", ascending=False).index] and [t.get_text() for t in figure.legends[0].get_texts()] == ["female", "male", "unknown"]
