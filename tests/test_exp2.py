"exp2 from end to end: what a run leaves behind, that it can be killed, that every parameter counts, and what is refused"
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest

from ser_nb.data.demo import demo
from ser_nb.run import PREDICTION_COLUMNS, declared_parameters, finished_runs

ROOT = Path(__file__).resolve().parents[1]
PAPERMILL = Path(sys.executable).with_name("papermill")
EMOTIONS = ["angry", "happy", "neutral", "sad"]
FEW = dict(features="eGeMAPSv02", preset="small", dim_c=[8], lr=1e-3, train_epochs=5, repeated=1, batch_size=16)   # a second a run
SVM = dict(features="eGeMAPSv02", classifier="svm")
SYN = dict(FEW, train_on="real+syn", source="demo_unlabelled", gan=dict(train_epochs=5, pretrain_epochs=2))
pytestmark = pytest.mark.filterwarnings("ignore:.*test speaker")


def small_corpus(folder, sentences=(1, 2, 3, 4)):
    "Three sessions of the demo corpus in a folder of their own: 6 speakers, 4 emotions, 24 utterances of each sentence; their CSV"
    speech, folder = demo(), Path(folder)
    table = speech.table[speech.table.session.isin(["Session1", "Session2", "Session3"])]
    table = table[table.file.str.extract(r"_(\d+)\.wav")[0].astype(int).isin(sentences)]
    for file in table.file:
        (folder/file).parent.mkdir(parents=True, exist_ok=True)
        os.link(speech.root/file, folder/file)
    table.to_csv(folder/"small.csv", index=False)
    return folder/"small.csv"


def cells(): return [c for c in nbformat.read(ROOT/"nbs"/"exp2.ipynb", as_version=4).cells if c.cell_type == "code" and not c.source.startswith("%")]


def execute(**given):
    "The notebook's cells in this process, parameters injected where papermill injects them"
    names = {"__name__": "__main__", "display": lambda shown: None}
    for cell in cells():
        exec(compile(cell.source, "exp2.ipynb", "exec"), names)
        if "parameters" in cell.metadata.get("tags", []): names.update(given)
    return SimpleNamespace(**names)


def roots(folder): return dict(SER_NB_OUTPUTS=str(folder/"outputs"), SER_NB_CACHE=str(folder/"cache"))


def papermill(*words, folder, cwd=ROOT, params=None):
    "A papermill process with outputs and cache of its own, and with the plots of a user, not those of the tests"
    pairs = [w for name, value in (params or {}).items() for w in ("-p", name, str(value))]
    return subprocess.Popen([str(w) for w in (PAPERMILL, *words, *pairs)], cwd=cwd, env={**without(os.environ, "MPLBACKEND"), **roots(folder)}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def only_run(folder): return next((folder/"outputs"/"exp2").glob("*-s0-*"))


@pytest.fixture(scope="module")
def small(tmp_path_factory): return small_corpus(tmp_path_factory.mktemp("small"))


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    "Empty outputs for each test; the features stay in the cache of the session"
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SER_NB_OUTPUTS", str(tmp_path/"outputs"))
    return tmp_path/"outputs"/"exp2"


# ---- what a run leaves behind --------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    "Two processes, outputs, features and stages of their own: the long form of papermill in an empty place and, captured, the short form where the demo corpus is there already"
    long, short = tmp_path_factory.mktemp("long"), tmp_path_factory.mktemp("short")
    shutil.copytree(demo().root, short/"cache"/"demo"/demo().root.name)
    params = dict(session=0, preset="tiny", features="eGeMAPSv02")
    running = [papermill("nbs/exp2.ipynb", long/"executed.ipynb", folder=long, params=params), papermill("nbs/exp2.ipynb", folder=short, params=params)]
    said = [p.communicate(timeout=300) for p in running]
    assert [p.returncode for p in running] == [0, 0], [err[-2000:] for _, err in said]
    return SimpleNamespace(long=only_run(long), short=only_run(short), notebook=nbformat.read(long/"executed.ipynb", as_version=4), printed=said[1][0])


def test_a_run_leaves_its_files(twice):
    made = {str(p.relative_to(twice.long)) for p in twice.long.rglob("*") if p.is_file()}
    assert made == {"predictions.csv", "metrics.json", "manifest.json", "partition.csv", "figures/confusion.png", "figures/loss.png", "model/config.json", "model/model.safetensors"}
    for figure in twice.long.glob("figures/*.png"): assert figure.read_bytes()[:4] == b"\x89PNG" and figure.stat().st_size > 5000


def test_the_executed_copy_shows_tables_and_figures(twice):
    shown = ["".join(o.get("data", {})) for c in twice.notebook.cells for o in c.get("outputs", [])]
    assert sum("image/png" in s for s in shown) == 2 and sum("text/html" in s for s in shown) >= 7


def test_short_form_prints_the_notebook(twice):
    printed = nbformat.reads(twice.printed, as_version=4)
    assert [c.source for c in printed.cells] == [c.source for c in twice.notebook.cells]


def test_two_processes_give_the_same_bytes(twice):
    for name in ("metrics.json", "predictions.csv", "partition.csv", "model/model.safetensors"): assert (twice.long/name).read_bytes() == (twice.short/name).read_bytes(), name


def test_contract_of_metrics(twice):
    metrics = json.loads((twice.long/"metrics.json").read_text())
    contract = {"uar", "uar_low", "uar_high", "uar_low_speaker", "uar_high_speaker", "war", "f1_macro", "n", "n_speakers", *(f"recall_{e}" for e in EMOTIONS)}
    assert contract <= set(metrics)
    assert (metrics["n"], metrics["n_speakers"], metrics["n_repeats"], metrics["chance"]) == (64, 2, 2, .25)
    assert 0 <= metrics["uar_low"] < metrics["uar"] < metrics["uar_high"] <= 1 and metrics["uar"] > .4
    assert metrics["uar"] == pytest.approx(np.mean([metrics[f"recall_{e}"] for e in EMOTIONS]))
    assert metrics["lr"]["Session1"] in (1e-5, 1e-4, 1e-3)
    assert any("2 test speakers" in w for w in metrics["warnings"])


def test_contract_of_predictions(twice):
    table = pd.read_csv(twice.long/"predictions.csv")
    assert list(table) == [*PREDICTION_COLUMNS, *(f"p_{e}" for e in EMOTIONS)]
    p = table.filter(like="p_")
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)
    assert (p.idxmax(axis=1).str[2:] == table.prediction).all()
    assert set(table.speaker) == {"d1f", "d1m"} and set(table.repeat) == {0, 1} and table.seed.nunique() == 2
    assert not table.duplicated(["corpus", "file", "repeat"]).any() and len(table) == 128


def test_manifest_and_partition(twice):
    manifest, partition = json.loads((twice.long/"manifest.json").read_text()), pd.read_csv(twice.long/"partition.csv")
    assert {"parameters", "commit", "versions", "device", "seeds", "partition", "corpus", "features", "seconds", "fitted"} <= set(manifest)
    assert set(manifest["parameters"]) == set(declared_parameters("exp2")) and manifest["parameters"]["preset"] == "tiny"
    assert manifest["seeds"] == sorted(set(pd.read_csv(twice.long/"predictions.csv").seed))
    parts = partition.groupby("part").speaker.unique().map(set)
    assert parts["test"] == {"d1f", "d1m"} and not parts["test"] & (parts["train"] | parts["dev"]) and not parts["train"] & parts["dev"]
    assert all(entry["test_rows"] == 0 for entry in manifest["fitted"])


# ---- killed and started again --------------------------------------------------------------------------------------

def finished_files(folder):
    "What is complete in a folder, and how to see that it was written again"
    return {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file() and not any(part.startswith(".") for part in p.relative_to(folder).parts)}


def kill_when(reached, process):
    "kill -9 for papermill and its kernel as soon as the state is there"
    end = time.time() + 120
    while not reached():
        assert process.poll() is None and time.time() < end, f"the run ended before it could be killed: {process.communicate()[1][-2000:]}"
        time.sleep(.002)
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family: member.kill()
    psutil.wait_procs(family, timeout=20)
    process.communicate()


def test_killed_three_times_and_the_same_in_the_end(small, tmp_path, monkeypatch):
    params = dict(session=0, corpus=small, features="eGeMAPSv02", preset="tiny", train_epochs=100, batch_size=16)
    cache, run = tmp_path/"killed"/"cache", lambda: next((tmp_path/"killed"/"outputs"/"exp2").glob("*-s0-*"), Path("none"))
    entries, stages = lambda: list(cache.glob("features/??/*.npy")), lambda: list(cache.glob("stages/*/[0-9a-f]*/made_of.json"))
    start = lambda out: papermill("exp2.ipynb", tmp_path/out, folder=tmp_path/"killed", cwd=ROOT/"nbs", params=params)

    kill_when(lambda: len(entries()) >= 10, start("1.ipynb"))
    assert 10 <= len(entries()) < 96 and not stages()
    extracted = finished_files(cache)

    kill_when(stages, start("2.ipynb"))
    assert len(entries()) == 96 and 1 <= len(stages()) < 4 and not (run()/"predictions.csv").exists()
    assert extracted.items() <= finished_files(cache).items(), "features that were there have been computed again"
    chosen = finished_files(cache)

    kill_when(lambda: (run()/"predictions.csv").exists(), start("3.ipynb"))
    assert not (run()/"manifest.json").exists()
    assert len(entries()) == 96 and len(stages()) == 4
    assert chosen.items() <= finished_files(cache).items(), "stages that were there have been made again"
    trained = finished_files(cache)

    last = start("4.ipynb")
    assert last.wait(timeout=120) == 0, last.communicate()[1][-2000:]
    last.communicate()
    assert finished_files(cache) == trained, "the last run had only the end to do"

    for name, value in roots(tmp_path/"whole").items(): monkeypatch.setenv(name, value)
    whole = execute(**dict(params, corpus=str(small)))
    for name in ("metrics.json", "predictions.csv"): assert (run()/name).read_bytes() == (whole.run.folder/name).read_bytes(), name


# ---- every parameter -----------------------------------------------------------------------------------------------

def without(base, *names): return {k: v for k, v in base.items() if k not in names}


CHANGED = dict(  # parameter -> (settings, the same with another value of it)
    session=(FEW, dict(FEW, session=1)),
    corpus=(FEW, dict(FEW, corpus="others")),
    train_on=(SYN, dict(SYN, train_on="syn")),
    augment=(SYN, dict(SYN, augment="gaussian", gan=None)),
    lambda_cls=(SYN, dict(SYN, lambda_cls=0)),
    source=(SYN, dict(SYN, source="neutral")),
    gan=(SYN, dict(SYN, gan=dict(train_epochs=6, pretrain_epochs=2))),
    share=(FEW, dict(FEW, share=.5)),
    classifier=(FEW, SVM),
    features=(SVM, dict(SVM, features="emobase2010")),
    normalise=(FEW, dict(FEW, normalise="speaker")),
    protocol=(FEW, dict(FEW, protocol="faithful")),
    preset=(without(FEW, "repeated"), dict(without(FEW, "repeated"), preset="paper")),
    seed=(FEW, dict(FEW, seed=1)),
    emotions=(SVM, dict(SVM, emotions=["angry", "happy", "sad"])),
    labels=(SVM, dict(SVM, labels={"happy": "excited"})),
    scheme=(SVM, dict(SVM, scheme="speakers")),
    dim_c=(FEW, dict(FEW, dim_c=[8, 8])),
    lr=(FEW, dict(FEW, lr=1e-2)),
    batch_size=(FEW, dict(FEW, batch_size=24)),
    keep_prob=(FEW, dict(FEW, keep_prob=.5)),
    train_epochs=(FEW, dict(FEW, train_epochs=6)),
    repeated=(FEW, dict(FEW, repeated=2)),
)


def test_no_parameter_without_a_test(): assert set(CHANGED) == set(declared_parameters("exp2"))


@pytest.fixture(scope="module")
def made(small, tmp_path_factory):
    "Runs by their settings, each made once"
    others, done = small_corpus(tmp_path_factory.mktemp("others"), (5, 6, 7, 8)), {}
    def make(settings):
        key = json.dumps(settings, sort_keys=True)
        if key not in done: done[key] = execute(**dict(settings, corpus=str(others if settings.get("corpus") == "others" else small)))
        return done[key]
    return make


@pytest.mark.parametrize("name", CHANGED)
def test_parameter_changes_the_result(made, name):
    one, other = (made(settings) for settings in CHANGED[name])
    assert one.run.folder != other.run.folder, "two results in one folder"
    assert not one.predictions.equals(other.predictions)
    assert without(one.metrics, "warnings") != without(other.metrics, "warnings")


def test_same_parameters_same_result(made, small):
    again = execute(**dict(FEW, corpus=str(small)))
    assert again.predictions.equals(made(FEW).predictions) and again.metrics == made(FEW).metrics


def test_what_partition_and_classes_parameters_change(made):
    def of(name): return made(CHANGED[name][1])
    assert set(made(FEW).predictions.speaker) == {"d1f", "d1m"} and set(of("session").predictions.speaker) == {"d2f", "d2m"}
    assert set(of("scheme").predictions.speaker) == {"d1f"}
    assert of("emotions").classes == ["angry", "happy", "sad"] and of("emotions").metrics["chance"] == 1/3
    assert of("labels").classes == ["angry", "excited", "neutral", "sad"]
    assert len(of("repeated").models[0].config["seeds"]) == 2 and of("preset").metrics["n_repeats"] == 5
    assert of("protocol").models[0].config["options"]["train_epochs"] == 6


def test_a_repeat_does_not_depend_on_how_many_there_are(made):
    one, two = (made(settings).predictions for settings in CHANGED["repeated"])
    first = two[two.repeat == 0].reset_index(drop=True)
    assert (first.seed == one.seed).all()
    np.testing.assert_allclose(first.filter(like="p_"), one.filter(like="p_"), atol=1e-5)


def test_lr_is_chosen_on_development_speakers(small):
    chosen = execute(**without(dict(FEW, corpus=str(small)), "lr"))
    assert list(chosen.by_lr) == [1e-5, 1e-4, 1e-3] and chosen.metrics["lr"] == {"Session1": chosen.by_lr.iloc[0].idxmax()}
    assert chosen.manifest["parameters"]["lr"] is None and execute(**without(dict(FEW, corpus=str(small), protocol="faithful"), "lr")).metrics["lr"] == {"Session1": 1e-5}


def test_the_gan_sees_no_test_row_unless_faithful(made):
    fitted = {p: pd.DataFrame(made(dict(SYN, protocol=p)).manifest["fitted"]).groupby("what").test_rows.sum() for p in ("corrected", "faithful")}
    assert {"GAN scaler", "GAN targets"} <= set(fitted["corrected"].index) and not fitted["corrected"].any()
    assert fitted["faithful"]["GAN targets"] == fitted["faithful"]["GAN scaler"] == 32


def test_what_synthetic_rows_change(made):
    rows = {train_on: [m.config["trained_on"]["utterances"] for m in made(dict(SYN, train_on=train_on)).models] for train_on in ("syn", "real+syn")}
    source = rows["syn"][0]//4
    assert rows == {"syn": [4*source], "real+syn": [64 + 4*source]} and made(FEW).models[0].config["trained_on"]["utterances"] == 64
    assert made(dict(FEW, share=.5)).models[0].config["trained_on"]["utterances"] == 32
    assert (made(SYN).run.folder/"losses.csv").exists() and made(SYN).metrics["synthetic"]["Session1"]["rows"] == 4*source
    assert made(dict(SYN, source="neutral")).metrics["synthetic"]["Session1"]["rows"] < 4*source


@pytest.mark.parametrize("augment", ["gaussian", "mixup", "smote", "aae"])
def test_comparators_are_behind_the_same_switch(made, augment):
    made = made(dict(SYN, train_on="syn", augment=augment, lr=1e-2, train_epochs=20, gan=None if augment != "aae" else dict(hidden=[16], train_epochs=3, batch_size=16)))
    assert made.metrics["synthetic"]["Session1"]["rows"] == made.models[0].config["trained_on"]["utterances"]
    assert not sum(entry["test_rows"] for entry in made.manifest["fitted"])


def test_lambdas_share_their_pretraining(made, small):
    stages = lambda: {p.name for p in (Path(os.environ["SER_NB_CACHE"])/"stages"/"pretrain").glob("*")}
    made(SYN)
    before = stages()
    execute(**dict(SYN, lambda_cls=1, corpus=str(small)))
    assert stages() == before


def test_faithful_leaks_and_says_so(made):
    tested = {name: sum(entry["test_rows"] for entry in made(settings).manifest["fitted"]) for name, settings in zip(("corrected", "faithful"), CHANGED["protocol"])}
    assert tested == {"corrected": 0, "faithful": 32}


def test_speaker_normalisation_is_called_transductive(made):
    assert any("transductive" in w for w in made(CHANGED["normalise"][1]).metrics["warnings"]) and not any("transductive" in w for w in made(FEW).metrics["warnings"])


# ---- a corpus from its sessions ------------------------------------------------------------------------------------

@pytest.mark.parametrize("settings", [FEW, SVM], ids=["mlp", "svm"])
def test_all_sessions_are_the_single_ones_pooled(small, outputs, settings):
    for session in range(3):
        assert not list(outputs.glob("*-spooled-*")), "pooled before all sessions were there"
        last = execute(**settings, corpus=str(small), session=session)
    pooled, = outputs.glob("*-spooled-*")
    assert {p.name for p in pooled.glob("figures/*")} == {"confusion.png", "confusion_folds.png", "uar.png"}
    assert json.loads((pooled/"metrics.json").read_text())["n"] == 96 and json.loads((pooled/"manifest.json").read_text())["sessions"] == [0, 1, 2]
    whole = execute(**settings, corpus=str(small), session="all")
    same = ["file", "speaker", "fold", "repeat", "seed", "truth", "prediction"]
    pd.testing.assert_frame_equal(whole.predictions[same], last.pooled[same])
    np.testing.assert_allclose(whole.predictions.filter(like="p_"), last.pooled.filter(like="p_"), atol=1e-4)
    assert whole.metrics["uar"] == pytest.approx(last.corpus_metrics["uar"])
    assert {p.name for p in whole.run.folder.glob("figures/*")} >= {"confusion.png", "confusion_folds.png", "uar.png"}
    assert len(list(outputs.glob("*-spooled-*"))) == 1 and {p.name for p in whole.run.folder.glob("model-*")} == {"model-0", "model-1", "model-2"}


def test_sessions_of_a_corpus_that_changed_are_not_pooled(tmp_path, outputs):
    (tmp_path/"speech").mkdir()
    path = small_corpus(tmp_path/"speech")
    for session in (0, 1): execute(**SVM, corpus=str(path), session=session)
    table = pd.read_csv(path)
    table.loc[0, "emotion"] = "sad"
    table.to_csv(path, index=False)
    assert list(execute(**SVM, corpus=str(path), session=2).parts) == [2] and not list(outputs.glob("*-spooled-*"))


def test_systems_on_the_same_rows_are_compared(small, outputs):
    execute(**SVM, corpus=str(small), session="all")
    assert list(execute(**FEW, corpus=str(small), session="all").others) == ["svm"]
    assert not execute(**FEW, corpus=str(small), session=0).others, "one session is not all of them"
    assert list(execute(**dict(FEW, keep_prob=.5), corpus=str(small), session="all").others) == ["mlp, lr 0.001, small, keep_prob 0.8", "svm"]


# ---- refused -------------------------------------------------------------------------------------------------------

REFUSED = [
    (dict(session=3), "3 folds, 0 to 2"), (dict(session=-1), "out of range"), (dict(session="x"), "session 'x' is out of range"),
    (dict(corpus="demoo"), "did you mean 'demo'"), (dict(corpus="nowhere/mine.csv"), "nowhere/mine.csv: no such CSV"), (dict(corpus="nowhere/mine"), "no such file or folder"),
    (dict(train_on="synthetic"), "unknown train_on 'synthetic'"), (dict(train_on="sin"), "did you mean 'syn'"), (dict(lambda_cls=1.), "lambda_cls is an option of synthetic rows"), (dict(augment="smote"), "augment is an option of synthetic rows"),
    (dict(SYN, augment="smot"), "did you mean 'smote'"), (dict(SYN, lambda_cls=-1), "lambda_cls=-1"), (dict(SYN, augment="smote", lambda_cls=1), "lambda_cls is an option of the GAN"), (dict(SYN, gan=dict(lamda_cyc=3)), "did you mean 'lambda_cyc'"),
    (dict(SYN, gan=dict(lambda_cls=3)), "parameter of its own"), (dict(SYN, gan=dict(keep_prob=0)), "keep_prob="), (dict(SYN, normalise="speaker"), "no speaker to normalise by"), (dict(classifier="smv"), "did you mean 'svm'"), (dict(features="eGeMAPS"), "did you mean 'eGeMAPSv02'"),
    (dict(normalise="speakers"), "did you mean 'speaker'"), (dict(protocol="faithfull"), "did you mean 'faithful'"), (dict(preset="smal"), "did you mean 'small'"),
    (dict(scheme="speaker"), "did you mean 'speakers'"), (dict(scheme="corpora"), "unknown scheme 'corpora'"), (dict(scheme="fixed"), "published folds"), (dict(scheme="fixed", session="all"), "published folds"),
    (dict(emotions=["sad"]), "1 class (sad)"), (dict(emotions=["sad", "angy"]), "did you mean 'angry'"), (dict(emotions=["sad", "surprise"]), "unknown emotion"), (dict(emotions=[]), "no utterance"),
    (dict(labels={"happy": "joyful"}), "'joyful'"), (dict(protocol="faithful", normalise="speaker"), "use one of the two"),
    (dict(sesion=1), "did you mean 'session'"), (dict(LR=1e-4), "did you mean 'lr'"),
    (dict(lr="high"), "exp2 expects float"), (dict(dim_c=8), "exp2 expects list"), (dict(seed=.5), "exp2 expects int"), (dict(emotions="sad"), "exp2 expects list"),
    (dict(labels="happy"), "exp2 expects dict"), (dict(train_epochs=True), "exp2 expects int"), (dict(corpus=None), "exp2 expects str"), (dict(repeated=0), "repeated=0"),
    (dict(SVM, lr=1e-3), "lr is an option of the mlp"), (dict(SVM, dim_c=[4]), "dim_c is an option of the mlp"), (dict(SVM, repeated=2), "repeated is an option of the mlp"),
]


@pytest.mark.parametrize("given, words", REFUSED, ids=[" ".join(f"{k}={v}" for k, v in given.items()) for given, _ in REFUSED])
def test_refused_before_anything_is_written(small, outputs, given, words):
    base = {} if given.get("classifier") == "svm" else dict(features="eGeMAPSv02", preset="small")
    with pytest.raises((ValueError, FileNotFoundError)) as caught: execute(**{"corpus": str(small), **base, **given})
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not outputs.exists()


@pytest.mark.parametrize("given, words", [(dict(dim_c=[0]), "layer sizes"), (dict(lr=0.), "lr=0.0"), (dict(lr=-1), "lr=-1"), (dict(batch_size=0), "batch_size=0"), (dict(batch_size=1000), "lower batch_size"),
                                          (dict(keep_prob=0), "keep_prob=0"), (dict(keep_prob=1.5), "keep_prob=1.5"), (dict(train_epochs=0), "train_epochs=0")], ids=str)
def test_refused_while_training(small, outputs, given, words):
    with pytest.raises(ValueError) as caught: execute(**{**FEW, "corpus": str(small), **given})
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not finished_runs("exp2")


def test_plain_papermill_refuses_a_misspelt_name(tmp_path, small):
    process = papermill("nbs/exp2.ipynb", tmp_path/"out.ipynb", folder=tmp_path, params=dict(sesion=4))
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1 and "unknown parameter of exp2 'sesion': did you mean 'session'?" in said
    assert not (tmp_path/"outputs").exists()


def test_missing_corpus_names_variable_layout_and_way_out(monkeypatch, tmp_path):
    monkeypatch.delenv("SER_NB_DATA", raising=False)
    with pytest.raises(FileNotFoundError) as caught: execute(corpus="emovo")
    for words in ("SER_NB_DATA is not set", "$SER_NB_DATA/emovo", "f1/dis-f1-b1.wav", "-p corpus demo"): assert words in str(caught.value)
    monkeypatch.setenv("SER_NB_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="emovo is not there"): execute(corpus="emovo")


# ---- own and real corpora ------------------------------------------------------------------------------------------

def test_own_corpus_with_a_map_of_its_labels(small, tmp_path):
    german = dict(Wut="angry", Freude="happy", neutral="neutral", Trauer="sad")
    table = pd.read_csv(small)[["file", "emotion", "speaker"]].rename(columns=dict(emotion="label"))
    path = small.with_name("mine.csv")
    table.assign(label=table.label.map({v: k for k, v in german.items()})).to_csv(path, index=False)
    with pytest.raises(ValueError, match="map it with labels"): execute(**SVM, corpus=str(path))
    own, same = execute(**SVM, corpus=str(path), labels=german), execute(**SVM, corpus=str(small), scheme="speakers")
    assert own.classes == EMOTIONS and len(own.folds) == 6 and set(own.predictions.corpus) == {"mine"}
    pd.testing.assert_frame_equal(own.predictions[["file", "truth", "prediction"]], same.predictions[["file", "truth", "prediction"]])


def test_unlabelled_corpus_is_refused(small):
    path = small.with_name("unlabelled.csv")
    pd.read_csv(small).assign(emotion="").to_csv(path, index=False)
    with pytest.raises(ValueError, match="'unlabelled' has no labels"): execute(**SVM, corpus=str(path))


def test_unreadable_and_featureless_files_are_shown_and_left_out(small):
    import soundfile
    path = small.with_name("broken.csv")
    table = pd.read_csv(small)
    (small.parent/"Session1"/"text.wav").write_text("no audio")
    soundfile.write(small.parent/"Session1"/"silence.wav", np.zeros(16000), 16000)
    pd.concat([table, *(table.head(1).assign(file=f"Session1/{n}.wav") for n in ("text", "silence"))]).to_csv(path, index=False)
    run = execute(**SVM, corpus=str(path))
    assert list(run.speech.problems.file) == ["Session1/text.wav"] and list(run.found.failures.file) == ["Session1/silence.wav"]
    assert run.manifest["failures"] == 2 and run.metrics["n"] == 32


@pytest.mark.skipif(not os.environ.get("SER_NB_DATA"), reason="SER_NB_DATA is not set: no real corpora here")
@pytest.mark.parametrize("corpus, normalise, uar", [("emovo", "global", .374), ("emovo", "speaker", .41), ("ravdess", "global", .589), ("ravdess", "speaker", .70)])
def test_known_figures_of_real_corpora(corpus, normalise, uar):
    whole = execute(corpus=corpus, classifier="svm", session="all", normalise=normalise)
    assert whole.metrics["uar"] == pytest.approx(uar, abs=.01)
    assert len(whole.papers) and len(whole.folds) == 6
