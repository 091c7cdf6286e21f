"exp1 from end to end: its numbers made again by hand, what a run leaves behind, that every parameter counts, and what is refused"
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest

from ser_nb.data.demo import demo, demo_unlabelled
from ser_nb.data.partition import Guard
from ser_nb.evaluation.similarity import COMPARED, classifier_two_sample, mmd
from ser_nb.features.functionals import feature_names
from ser_nb.run import declared_parameters, finished_runs
from ser_nb.synthesis import gan_options, synthetic_set

ROOT = Path(__file__).resolve().parents[1]
EMOTIONS = ["angry", "happy", "neutral", "sad"]
GAN = dict(dim_g=[8], dim_d=[8], dim_c=[8], train_epochs=3, pretrain_epochs=1)
FEW = dict(features="eGeMAPSv02", preset="tiny", lambdas=[2], gan=GAN)
pytestmark = pytest.mark.filterwarnings("ignore:the discriminators of")


def part_of(made, folder, name, sessions, sentences):
    "Some utterances of a demo corpus in a folder of their own; their CSV"
    speech, folder = made(), Path(folder)
    table = speech.table[speech.table.speaker.str[1].astype(int).isin(sessions)]
    table = table[table.file.str.extract(r"_(\d+)\.wav")[0].astype(int).isin(sentences)]
    for file in table.file:
        (folder/file).parent.mkdir(parents=True, exist_ok=True)
        os.link(speech.root/file, folder/file)
    table.assign(corpus=name).to_csv(folder/f"{name}.csv", index=False)
    return str(folder/f"{name}.csv")


def cells(): return [c for c in nbformat.read(ROOT/"nbs"/"exp1.ipynb", as_version=4).cells if c.cell_type == "code" and not c.source.startswith("%")]


def execute(**given):
    "The notebook's cells in this process, parameters injected where papermill injects them"
    names = {"__name__": "__main__", "display": lambda shown: None}
    for cell in cells():
        exec(compile(cell.source, "exp1.ipynb", "exec"), names)
        if "parameters" in cell.metadata.get("tags", []): names.update(given)
    return SimpleNamespace(**names)


def without(base, *names): return {k: v for k, v in base.items() if k not in names}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    "Three sessions, 6 speakers, 4 emotions, 4 sentences: 96 utterances; and 24 unlabelled ones"
    folder = tmp_path_factory.mktemp("small")
    return SimpleNamespace(corpus=part_of(demo, folder, "small", (1, 2, 3), (1, 2, 3, 4)), others=part_of(demo, folder, "others", (1, 2, 3), (5, 6, 7, 8)),
                           source=part_of(demo_unlabelled, folder, "speech", (1, 2, 3), (1, 2, 3, 4)), folder=folder)


@pytest.fixture(autouse=True, scope="module")
def _three_folds():
    "Classifiers are most of the work of a run, and three of them show what ten do"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ser_nb.evaluation.similarity.FOLDS", 3)
        yield


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    "Empty outputs for each test; features and stages stay in the cache of the session"
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SER_NB_OUTPUTS", str(tmp_path/"outputs"))
    return tmp_path/"outputs"/"exp1"


@pytest.fixture(scope="module")
def made(small):
    "Runs by their settings, each made once"
    done = {}
    def make(settings):
        key = json.dumps(settings, sort_keys=True)
        settings = {"source": small.source, **settings, "corpus": getattr(small, settings.get("corpus", "corpus"))}
        if key not in done: done[key] = execute(**settings)
        return done[key]
    return make


# ---- the numbers ---------------------------------------------------------------------------------------------------

def fisher(A, B):
    A, B = np.asarray(A, "float64"), np.asarray(B, "float64")
    return (A.mean(0) - B.mean(0))**2/(A.var(0) + B.var(0))


def scaled(X, how):
    X = np.asarray(X, "float64")
    return (X - X.mean(0))/X.std(0) if how == "zscore" else (X - X.min(0))/np.ptp(X, 0)


@pytest.fixture(scope="module")
def by_hand(made):
    "Target, training and synthetic rows of the run FEW, each emotion's and all"
    run = made(FEW)
    found, fold, source, emotion = run.found, run.held_out[0], run.unlabelled, run.found.table.emotion.to_numpy(object)
    syn = synthetic_set("gan", found, fold, Guard(found.table, fold), EMOTIONS, source, gan_options("tiny", lambda_cls=2., **GAN), 0)
    target, train = ({e: found.X[rows[emotion[rows] == e]] for e in EMOTIONS} for rows in (fold.test, fold.train))
    return SimpleNamespace(target=target, train=train, syn={e: syn.X[syn.y == i] for i, e in enumerate(EMOTIONS)}, files=np.array(syn.source_names), y=syn.y, source=source.X, whole=found.X[fold.test], trained=found.X[fold.train], key=syn.key, run=run)


def test_fisher_by_hand(by_hand):
    b, cells = by_hand, by_hand.run.metrics["fisher"]
    assert list(cells) == ["source", "source standardised", "real training", "syn_2"] and list(cells["syn_2"]) == [*EMOTIONS, "pooled"]
    for e in EMOTIONS:
        expected = {"source": fisher(b.source, b.whole), "source standardised": fisher(scaled(b.source, "zscore")*b.trained.std(0, dtype="float64") + b.trained.mean(0, dtype="float64"), b.target[e]),
                    "real training": fisher(b.train[e], b.target[e]), "syn_2": fisher(b.syn[e], b.target[e])}
        for name, ratios in expected.items():
            assert cells[name][e]["mean"] == pytest.approx(ratios.mean(), rel=1e-4), (name, e)
            assert cells[name][e]["max"] == pytest.approx(ratios.max(), rel=1e-4) and cells[name][e]["infinite"] == 0 and cells[name][e]["sd"] is None
    assert cells["syn_2"]["pooled"]["mean"] == pytest.approx(fisher(np.concatenate(list(b.syn.values())), b.whole).mean(), rel=1e-4)
    assert cells["source"]["pooled"] == cells["source"]["sad"]
    assert by_hand.run.manifest["parameters"]["lambdas"] == [2] and by_hand.run.metrics["synthetic"]["Session1"]["syn_2"]["key"] == b.key


def test_summary_by_hand(by_hand):
    cells, summary = by_hand.run.metrics["fisher"], by_hand.run.metrics["summary"]
    for name, row in summary.items():
        assert row["fisher"] == pytest.approx(np.mean([cells[name][e]["mean"] for e in EMOTIONS])) and row["pooled"] == cells[name]["pooled"]["mean"] and row["fisher_sd"] is None
        assert row["fisher_times_smaller"] == pytest.approx(summary["source"]["fisher"]/row["fisher"]) and row["pooled_times_smaller"] == pytest.approx(summary["source"]["pooled"]/row["pooled"])
        assert by_hand.run.metrics["by_fold"]["Session1"][name] == pytest.approx(row["fisher"])
    short = by_hand.run.in_short
    assert list(short.index) == list(summary) and set(short.floor) == {summary["real training"]["fisher"]} and short.auc["syn_2"] == by_hand.run.metrics["two_sample"]["syn_2"]["pooled"]["auc"]


def test_between_emotions_by_hand(by_hand):
    table = by_hand.run.metrics["between_emotions"]
    assert list(table) == ["target", "real training", "syn_2"] and len(table["target"]) == 6
    assert table["target"]["angry-sad"]["mean"] == pytest.approx(fisher(by_hand.target["angry"], by_hand.target["sad"]).mean(), rel=1e-4)
    assert table["syn_2"]["happy-neutral"]["max"] == pytest.approx(fisher(by_hand.syn["happy"], by_hand.syn["neutral"]).max(), rel=1e-4)


def test_two_samples_by_hand(by_hand):
    b, cells = by_hand, by_hand.run.metrics["two_sample"]
    for e, B, files in (("sad", b.syn["sad"], b.files[b.y == 3]), ("pooled", np.concatenate(list(b.syn.values())), b.files)):
        A = b.target["sad"] if e == "sad" else np.concatenate(list(b.target.values()))
        m, c = mmd(A, B), classifier_two_sample(A, B, None, files)
        assert cells["syn_2"][e]["by"] == "utterance"
        assert without(cells["syn_2"][e], "by") == pytest.approx(dict(mmd2=m["mmd2"], mmd_p=m["p"], auc=c["auc"], auc_low=c["auc_low"], auc_high=c["auc_high"], auc_p=c["p"]), rel=1e-6), e
    assert ["fewer than four speakers are held out: what tells the target from other sets is also their voices"] == b.run.metrics["warnings"]


def test_nothing_saw_the_held_out_speakers(made):
    for settings in (FEW, dict(FEW, source="neutral")):
        fitted = made(settings).manifest["fitted"]
        assert {entry["what"] for entry in fitted} >= {"GAN scaler", "GAN targets", "scaler that moves the source"} and not any(entry["test_rows"] for entry in fitted)


def test_same_parameters_same_bytes(made, small):
    first = made(FEW)
    again = execute(**FEW, corpus=small.corpus, source=small.source)
    assert again.run.folder.name == first.run.folder.name and again.metrics == first.metrics
    pd.testing.assert_frame_equal(again.similar, first.similar)


# ---- faithful ------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def faithful(made): return made(dict(FEW, protocol="faithful"))


def test_faithful_compares_sets_scaled_by_themselves(faithful):
    found, source, cells = faithful.found, faithful.unlabelled, faithful.metrics["fisher"]
    assert list(cells) == ["source", "source standardised", "syn_2"] and faithful.metrics["folds"] == ["all rows"]
    assert cells["source"]["angry"]["mean"] == pytest.approx(fisher(scaled(source.X, "minmax"), scaled(found.X, "minmax")).mean(), rel=1e-3)
    sad = found.X[(found.table.emotion == "sad").to_numpy()]
    assert cells["source standardised"]["sad"]["mean"] == pytest.approx(fisher(scaled(source.X, "zscore")*found.X.std(0, dtype="float64") + found.X.mean(0, dtype="float64"), sad).mean(), rel=1e-3)
    fold = faithful.held_out[0]
    syn = synthetic_set("gan", found, fold, Guard(found.table, fold, "faithful"), EMOTIONS, source, gan_options("tiny", "faithful", lambda_cls=2., **GAN), 0)
    assert cells["syn_2"]["sad"]["mean"] == pytest.approx(fisher(syn.X[syn.y == 3], sad).mean(), rel=1e-4)


def test_faithful_leaks_and_says_so(faithful):
    assert faithful.metrics["warnings"] == ["the GAN has seen the rows that its output is compared with"]
    assert sum(entry["test_rows"] for entry in faithful.manifest["fitted"]) >= 3*32
    assert faithful.in_short.floor.isna().all()


def test_whole_speakers_are_held_out_where_there_are_four(faithful):
    assert {cell["by"] for cell in faithful.metrics["two_sample"]["syn_2"].values()} == {"speaker"}
    A, who = faithful.found.X, faithful.speaker
    B, files = faithful.shown["syn_2"]["pooled"]
    order = np.concatenate([np.flatnonzero(faithful.emotion == e) for e in EMOTIONS])
    assert faithful.metrics["two_sample"]["syn_2"]["pooled"]["auc"] == pytest.approx(classifier_two_sample(A[order], B, who[order], files)["auc"], rel=1e-6)


# ---- all folds -----------------------------------------------------------------------------------------------------

def test_all_sessions_are_the_mean_of_the_single_ones_and_train_nothing_again(made, monkeypatch):
    singles = [made(dict(FEW, session=n)) for n in range(3)]
    def never(*_, **__): raise AssertionError("a stage that was there has been made again")
    monkeypatch.setattr("ser_nb.training.adversarial.train_gan", never)
    whole = made(dict(FEW, session="all"))
    assert whole.metrics["folds"] == ["Session1", "Session2", "Session3"] and whole.manifest["parameters"]["session"] == "all"
    for name in ("source", "real training", "syn_2"):
        each = [m.metrics["fisher"][name]["happy"]["mean"] for m in singles]
        assert whole.metrics["fisher"][name]["happy"]["mean"] == pytest.approx(np.mean(each)) and whole.metrics["fisher"][name]["happy"]["sd"] == pytest.approx(np.std(each, ddof=1))
        by_fold = [m.metrics["summary"][name]["fisher"] for m in singles]
        assert [f[name] for f in whole.metrics["by_fold"].values()] == pytest.approx(by_fold)
        assert whole.metrics["summary"][name]["fisher_sd"] == pytest.approx(np.std(by_fold, ddof=1))
        cells = [m.metrics["two_sample"][name]["sad"] for m in singles]
        assert whole.metrics["two_sample"][name]["sad"]["auc"] == pytest.approx(np.mean([c["auc"] for c in cells]))
        assert whole.metrics["two_sample"][name]["sad"]["mmd_p"] == pytest.approx(min(1, 2*np.median([c["mmd_p"] for c in cells])))


# ---- every parameter -----------------------------------------------------------------------------------------------

CHANGED = dict(  # parameter -> another value
    session=1, corpus="others", source="neutral", lambdas=[0, 2.5], gan=dict(GAN, train_epochs=4), share=.5, features="emobase2010", protocol="faithful", preset="small", seed=1,
    emotions=["angry", "sad"], labels={"happy": "excited"}, scheme="speakers", compare_features=feature_names("eGeMAPSv02")[:3],
)


def test_no_parameter_without_a_test(): assert set(CHANGED) == set(declared_parameters("exp1"))


@pytest.mark.parametrize("name", CHANGED)
def test_parameter_changes_the_result(made, name):
    one, other = made(FEW), made(dict(FEW, **{name: CHANGED[name]}))
    assert one.run.folder.name != other.run.folder.name, "two results in one folder"
    if name == "compare_features": assert other.compared and not one.compared and {p.name for p in other.run.figures.glob("*")} - {p.name for p in one.run.figures.glob("*")} == {"comp_dist.png"}
    else: assert one.metrics != other.metrics
    assert "uar" not in other.metrics and other.metrics["summary"]["source"]["fisher_times_smaller"] == 1


def test_what_some_parameters_change(made):
    def of(name): return made(dict(FEW, **{name: CHANGED[name]}))
    assert list(of("lambdas").metrics["summary"])[-2:] == ["syn_0", "syn_2.5"] and of("lambdas").metrics["synthetic"]["Session1"]["syn_0"]["cls"] is None
    assert of("source").manifest["source"] == "neutral training rows" and of("source").metrics["synthetic"]["Session1"]["syn_2"]["rows"] == 4*12
    assert of("share").held_out[0].train.size == of("session").held_out[0].train.size/2
    assert of("features").compared == COMPARED and (of("features").run.figures/"comp_dist.png").stat().st_size > 5000
    assert of("labels").metrics["emotions"] == ["angry", "excited", "neutral", "sad"] and of("scheme").metrics["folds"] == ["d1f"]
    assert list(of("emotions").metrics["between_emotions"]["syn_2"]) == ["angry-sad"]


# ---- published -----------------------------------------------------------------------------------------------------

def test_published_figures(made):
    table = pd.read_csv(ROOT/"params"/"published_exp1.csv").set_index(["setting", "metric"]).value
    assert len(table) == 100 and not table.index.duplicated().any()
    assert table["source", "fisher mean, sad"] == 2.56 and table["syn_2", "fisher max, angry"] == 11.95 and table["target", "fisher mean, happy-sad"] == .32 and table["syn_3", "fisher max, angry-sad"] == 70.14
    run = made(FEW)
    papers = run.papers.set_index(["set", "metric"])
    assert set(papers.index.get_level_values("set")) == {"source", "syn_2", "target"} and len(papers) == 4 + 4 + 6 + 6
    assert papers.loc[("syn_2", "fisher mean, angry")][["paper", "ours"]].tolist() == [.78, run.metrics["fisher"]["syn_2"]["angry"]["mean"]]


def test_no_published_figure_for_other_emotions(made):
    run = made(dict(FEW, lambdas=[.5], labels=dict(zip(EMOTIONS, ("fear", "disgust", "calm", "surprise")))))
    assert run.papers.empty and run.metrics["emotions"] == ["calm", "disgust", "fear", "surprise"]


# ---- what a run leaves behind --------------------------------------------------------------------------------------

def papermill(out, folder, *words, **params):
    pairs = [w for name, value in params.items() for w in ("-p", name, str(value))]
    env = {**without(os.environ, "MPLBACKEND"), "SER_NB_OUTPUTS": str(folder/"outputs"), "SER_NB_CACHE": os.environ["SER_NB_CACHE"]}
    return subprocess.run([str(Path(sys.executable).with_name("papermill")), "nbs/exp1.ipynb", str(out), *words, *pairs], cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)


def test_papermill_from_end_to_end(tmp_path, small):
    done = papermill(tmp_path/"out.ipynb", tmp_path, "-y", "lambdas: [0, 2]", corpus=small.corpus, source=small.source, features="eGeMAPSv02", preset="tiny")
    assert done.returncode == 0, done.stderr[-2000:]
    folder = next((tmp_path/"outputs"/"exp1").glob("*-s0-*"))
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert files == {"metrics.json", "manifest.json", "partition.csv", "similarity.csv", "emotions.csv", "figures/overlap_between_sets.png", "figures/overlap_between_emotions.png", "figures/map.png"}
    for figure in folder.glob("figures/*.png"): assert figure.read_bytes()[:4] == b"\x89PNG" and figure.stat().st_size > 5000
    shown = ["".join(o.get("data", {})) for c in nbformat.read(tmp_path/"out.ipynb", as_version=4).cells for o in c.get("outputs", [])]
    assert sum("image/png" in s for s in shown) == 3 and sum("text/html" in s for s in shown) >= 9
    manifest, metrics = (json.loads((folder/f"{name}.json").read_text()) for name in ("manifest", "metrics"))
    assert {"parameters", "commit", "versions", "device", "partition", "corpus", "features", "source", "gan", "seconds", "fitted"} <= set(manifest) and set(manifest["parameters"]) == set(declared_parameters("exp1"))
    assert list(metrics["summary"]) == ["real training", "source", "source standardised", "syn_0", "syn_2"], "sorted on disk"
    assert metrics["summary"]["syn_2"]["fisher"] < metrics["summary"]["source standardised"]["fisher"], "the preset tiny must do more than scaling"


def test_plain_papermill_refuses_a_misspelt_name(tmp_path):
    done = papermill(tmp_path/"out.ipynb", tmp_path, lamdas=2)
    assert done.returncode == 1 and "unknown parameter of exp1 'lamdas': did you mean 'lambdas'?" in done.stderr and not (tmp_path/"outputs").exists()


# ---- refused -------------------------------------------------------------------------------------------------------

REFUSED = [
    (dict(session=3), "3 folds, 0 to 2"), (dict(session="x"), "session 'x' is out of range"), (dict(corpus="demoo"), "did you mean 'demo'"), (dict(source="nutral"), "'nutral'"), (dict(source="nowhere/speech.csv"), "no such CSV"),
    (dict(lambdas=[]), "lambdas=[]"), (dict(lambdas=[0, 1, 2, 3, 4]), "one to four"), (dict(lambdas=[1, 1]), "different numbers"), (dict(lambdas=["2"]), "lambdas=['2']"), (dict(lambdas=[-1]), "lambda_cls=-1"), (dict(lambdas=2), "exp1 expects list"),
    (dict(gan=dict(lambda_cls=3)), "the list lambdas has its values"), (dict(gan=dict(train_epoch=3)), "did you mean 'train_epochs'"), (dict(gan=dict(train_epochs=0)), "train_epochs=0"), (dict(gan=3), "exp1 expects dict"),
    (dict(share=0.), "share=0"), (dict(share=1.5), "share=1.5"), (dict(features="eGeMAPS"), "did you mean 'eGeMAPSv02'"), (dict(protocol="faithfull"), "did you mean 'faithful'"), (dict(preset="smal"), "did you mean 'small'"), (dict(seed=.5), "exp1 expects int"),
    (dict(protocol="faithful", session=1), "leave session, share and scheme"), (dict(protocol="faithful", session="all"), "leave session, share and scheme"), (dict(protocol="faithful", share=.5), "leave session, share and scheme"), (dict(protocol="faithful", scheme="speakers"), "leave session"),
    (dict(emotions=["sad"]), "1 class (sad)"), (dict(emotions=["sad", "angy"]), "did you mean 'angry'"), (dict(emotions=["angry", "sad"], source="neutral"), "source='neutral' needs neutral utterances"), (dict(labels={"happy": "joyful"}), "'joyful'"),
    (dict(scheme="speaker"), "did you mean 'speakers'"), (dict(compare_features=["F0semitoneFrom27.5Hz_sma3nz_ameen"]), "nearest are F0semitoneFrom27.5Hz_sma3nz_amean"), (dict(compare_features="F0"), "exp1 expects list"),
    (dict(sesion=1), "did you mean 'session'"), (dict(lambda_cls=2), "unknown parameter of exp1 'lambda_cls'"),
]


@pytest.mark.parametrize("given, words", REFUSED, ids=[" ".join(f"{k}={v}" for k, v in given.items()) for given, _ in REFUSED])
def test_refused_before_anything_is_written(small, outputs, given, words):
    with pytest.raises((ValueError, FileNotFoundError)) as caught: execute(**{"corpus": small.corpus, "source": small.source, **FEW, **given})
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not outputs.exists() and not finished_runs("exp1")


def test_the_corpus_is_no_source_of_itself(small, outputs):
    with pytest.raises(ValueError, match="same corpus 'small'"): execute(**FEW, corpus=small.corpus, source=small.corpus)
    assert not outputs.exists()


def test_a_fold_with_a_single_utterance_of_an_emotion_is_refused(small, outputs):
    table = pd.read_csv(small.corpus)
    lonely = table[(table.session == "Session1") & (table.emotion == "sad")].index[1:]
    table.drop(lonely).to_csv(small.folder/"lonely.csv", index=False)
    with pytest.raises(ValueError, match="fold 'Session1' holds out fewer than two utterances of sad"): execute(**FEW, corpus=str(small.folder/"lonely.csv"), source=small.source)
    assert not outputs.exists() and execute(**dict(FEW, session=1), corpus=str(small.folder/"lonely.csv"), source=small.source).metrics["folds"] == ["Session2"]


def test_unlabelled_corpus_is_refused(small):
    with pytest.raises(ValueError, match="'speech' has no labels"): execute(**FEW, corpus=small.source, source=small.corpus)
