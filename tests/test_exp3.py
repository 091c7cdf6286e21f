"exp3 from end to end: what a run leaves behind, that every parameter counts, which rows train, choose and are tested, and what is refused"
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

from ser_nb.data.demo import demo, demo_phone
from ser_nb.features.functionals import feature_names
from ser_nb.run import declared_parameters, finished_runs
from ser_nb.synthesis import Synthetic

ROOT = Path(__file__).resolve().parents[1]
EMOTIONS = ["angry", "happy", "neutral", "sad"]
FEW = dict(features="eGeMAPSv02", preset="small", dim_c=[8], lr=1e-3, train_epochs=5, repeated=1, batch_size=16)   # a second a run
SVM = dict(features="eGeMAPSv02", classifier="svm")
SMALL_GAN = dict(dim_g=[8], dim_d=[8], dim_c=[8], train_epochs=2, pretrain_epochs=1)
GAN = dict(FEW, train_on="real+syn", source="neutral", gan=SMALL_GAN)
BLOBS = dict(FEW, train_on="real+syn", source="neutral", augment="gaussian")
TEN = feature_names("eGeMAPSv02")[5:15]
pytestmark = pytest.mark.filterwarnings("ignore:.*test speaker", "ignore:the discriminators of")


def small_corpus(made, folder, name, sentences):
    "Some sentences of a demo corpus' first three sessions, 6 speakers and 4 emotions, in a folder of their own; their CSV"
    speech, folder = made(), Path(folder)
    table = speech.table[speech.table.session.isin(["Session1", "Session2", "Session3"])]
    table = table[table.file.str.extract(r"_(\d+)\.wav")[0].astype(int).isin(sentences)]
    for file in table.file:
        (folder/file).parent.mkdir(parents=True, exist_ok=True)
        os.link(speech.root/file, folder/file)
    table.to_csv(folder/f"{name}.csv", index=False)
    return folder/f"{name}.csv"


def relabelled(path, name, change):
    "The same corpus under another name, its table changed"
    table = change(pd.read_csv(path))
    table.to_csv(path.with_name(f"{name}.csv"), index=False)
    return path.with_name(f"{name}.csv")


def next_emotion(table, where): return table.assign(emotion=table.emotion.mask(where, table.emotion.map(dict(zip(EMOTIONS, EMOTIONS[1:] + EMOTIONS[:1])))))


def cells(): return [c for c in nbformat.read(ROOT/"nbs"/"exp3.ipynb", as_version=4).cells if c.cell_type == "code" and not c.source.startswith("%")]


def execute(**given):
    "The notebook's cells in this process, parameters injected where papermill injects them"
    names = {"__name__": "__main__", "display": lambda shown: None}
    for cell in cells():
        exec(compile(cell.source, "exp3.ipynb", "exec"), names)
        if "parameters" in cell.metadata.get("tags", []): names.update(given)
    return SimpleNamespace(**names)


def without(base, *names): return {k: v for k, v in base.items() if k not in names}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    "CSVs by name: two rooms to train on, two telephones to be tested on"
    return {name: small_corpus(made, tmp_path_factory.mktemp(name), name, sentences) for name, made, sentences in
            (("room", demo, (1, 2, 3, 4)), ("hall", demo, (5, 6, 7, 8)), ("phone", demo_phone, (1, 2, 3)), ("mobile", demo_phone, (4, 5, 6)))}


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    "Empty outputs for each test; the features stay in the cache of the session"
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SER_NB_OUTPUTS", str(tmp_path/"outputs"))
    return tmp_path/"outputs"/"exp3"


@pytest.fixture(scope="module")
def made(places):
    "Runs from room to phone by their settings, each made once; a parameter of a corpus may be a name of `places`"
    done = {}
    def make(settings):
        given = {"corpus": "room", "test_corpus": "phone", **settings}
        given |= {k: str(places[given[k]]) for k in ("corpus", "test_corpus") if given[k] in places}
        key = json.dumps(given, sort_keys=True)
        if key not in done: done[key] = execute(**given)
        return done[key]
    return make


# ---- what a run leaves behind --------------------------------------------------------------------------------------

def test_papermill_from_end_to_end(places, tmp_path):
    given = dict(corpus=places["room"], test_corpus=places["phone"], features="eGeMAPSv02", preset="tiny", train_on="real+syn", source="neutral")
    pairs = [w for name, value in given.items() for w in ("-p", name, str(value))]
    env = {**without(os.environ, "MPLBACKEND"), "SER_NB_OUTPUTS": str(tmp_path/"outputs")}
    done = subprocess.run([Path(sys.executable).with_name("papermill"), "nbs/exp3.ipynb", tmp_path/"executed.ipynb", *pairs], cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    run, = (tmp_path/"outputs"/"exp3").glob("room-phone-*")
    assert {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()} == {"predictions.csv", "metrics.json", "manifest.json", "partition.csv", "losses.csv", "figures/confusion.png", "figures/loss.png", "model/config.json", "model/model.safetensors"}
    metrics, manifest = (json.loads((run/f"{name}.json").read_text()) for name in ("metrics", "manifest"))
    assert (metrics["n"], metrics["n_speakers"], metrics["n_repeats"], metrics["chance"]) == (72, 6, 2, .25) and metrics["uar"] > .25
    assert set(metrics["lr"]) == {"phone"} and metrics["synthetic"]["phone"]["rows"] == 4*20
    assert set(manifest["parameters"]) == set(declared_parameters("exp3")) and manifest["parameters"]["lambda_cls"] == 2 and manifest["synthetic"]
    assert manifest["fitted"] and all(entry["test_rows"] == 0 for entry in manifest["fitted"])
    table, partition = pd.read_csv(run/"predictions.csv"), pd.read_csv(run/"partition.csv")
    assert set(table.corpus) == {"phone"} and len(table) == 144 and set(partition.part[partition.corpus == "phone"]) == {"test"} and set(partition.part[partition.corpus == "room"]) == {"train", "dev"}
    shown = [o for c in nbformat.read(tmp_path/"executed.ipynb", as_version=4).cells for o in c.get("outputs", []) if o.output_type != "stream"]
    assert sum("image/png" in o.data for o in shown) == 2 and "no published figure for room-phone" in str(shown[-1])


# ---- every parameter -----------------------------------------------------------------------------------------------

CHANGED = dict(  # parameter -> (settings, the same with another value of it)
    corpus=(SVM, dict(SVM, corpus="hall")),
    test_corpus=(SVM, dict(SVM, test_corpus="mobile")),
    train_on=(FEW, GAN),
    augment=(BLOBS, dict(BLOBS, augment="mixup")),
    lambda_cls=(GAN, dict(GAN, lambda_cls=0.)),
    source=(BLOBS, dict(BLOBS, source="demo_unlabelled")),
    gan=(GAN, dict(GAN, gan=dict(SMALL_GAN, train_epochs=3))),
    share=(FEW, dict(FEW, share=.5)),
    dev_portion=(FEW, dict(FEW, dev_portion=.4)),
    f_names=(FEW, dict(FEW, f_names=TEN)),
    classifier=(FEW, SVM),
    features=(SVM, dict(SVM, features="emobase2010")),
    normalise=(FEW, dict(FEW, normalise="speaker")),
    protocol=(FEW, dict(FEW, protocol="faithful")),
    preset=(without(FEW, "repeated"), dict(without(FEW, "repeated"), preset="paper")),
    seed=(FEW, dict(FEW, seed=1)),
    emotions=(SVM, dict(SVM, emotions=["angry", "happy", "sad"])),
    labels=(SVM, dict(SVM, labels={"happy": "excited"})),
    test_labels=(SVM, dict(SVM, test_labels={"happy": "excited"})),
    dim_c=(FEW, dict(FEW, dim_c=[8, 8])),
    lr=(FEW, dict(FEW, lr=1e-2)),
    batch_size=(FEW, dict(FEW, batch_size=24)),
    keep_prob=(FEW, dict(FEW, keep_prob=.5)),
    train_epochs=(FEW, dict(FEW, train_epochs=6)),
    repeated=(FEW, dict(FEW, repeated=2)),
)


def test_no_parameter_without_a_test(): assert set(CHANGED) == set(declared_parameters("exp3"))


@pytest.mark.parametrize("name", CHANGED)
def test_parameter_changes_the_result(made, name):
    one, other = (made(settings) for settings in CHANGED[name])
    assert one.run.folder != other.run.folder, "two results in one folder"
    assert not one.predictions.equals(other.predictions)


def test_same_parameters_same_result(made, places):
    again = execute(**GAN, corpus=str(places["room"]), test_corpus=str(places["phone"]))
    assert again.predictions.equals(made(GAN).predictions) and again.metrics == made(GAN).metrics


def test_classes_are_those_that_both_corpora_have(made):
    for name in ("emotions", "labels", "test_labels"): assert made(CHANGED[name][1]).classes == (["angry", "happy", "sad"] if name == "emotions" else ["angry", "neutral", "sad"])
    both = made(dict(SVM, labels={"happy": "excited"}, test_labels={"happy": "excited"}))
    assert both.classes == ["angry", "excited", "neutral", "sad"] and both.metrics["chance"] == .25


@pytest.mark.parametrize("preset, train_on, dim_c, epochs, keep, repeated", [
    ("paper", "real", [50, 50], 70, .8, 5), ("paper", "syn", [200, 200], 5, .5, 5), ("paper", "real+syn", [200, 200], 30, .5, 5), ("small", "real", [100, 100], 70, .8, 3), ("small", "syn", [100, 100], 30, .5, 3)])
def test_presets_are_the_published_table(monkeypatch, places, preset, train_on, dim_c, epochs, keep, repeated):
    "Up to the run, before which the batch is made to fit: a quarter of the 80 training rows and of the 4·20 synthetic ones"
    monkeypatch.setattr("ser_nb.run.Run", lambda *_, **params: pytest.skip(str(params)))
    given = dict(corpus=str(places["room"]), test_corpus=str(places["phone"]), features="eGeMAPSv02", preset=preset, train_on=train_on, **({} if train_on == "real" else dict(source="neutral")))
    with pytest.raises(pytest.skip.Exception) as caught: execute(**given)
    params = eval(str(caught.value))
    assert (params["dim_c"], params["train_epochs"], params["keep_prob"], params["repeated"], params["lr"]) == (dim_c, epochs, keep, repeated, None)
    assert params["batch_size"] == (40 if train_on == "real+syn" else 20)


def test_faithful_is_what_the_script_does(made):
    run = made(dict(without(GAN, "lr"), protocol="faithful"))
    assert run.metrics["lr"] == {"phone": 1e-5} and run.model.config["options"]["train_epochs"] == 6
    rows = {entry["what"]: (entry["rows"], entry["test_rows"]) for entry in run.manifest["fitted"]}
    assert rows["GAN targets"] == (96, 0) and run.made.made["scaling"] == "minmax", "the target of the GAN is the whole training corpus and nothing of the test corpus"
    assert rows["scaler of the test set"] == (72, 72) and sum(tested for _, tested in rows.values()) == 72
    for part in ("train", "test"): np.testing.assert_allclose(run.scaled[np.flatnonzero(run.found.table.corpus == dict(train="room", test="phone")[part])].mean(0), 0, atol=1e-4)


# ---- which rows do what --------------------------------------------------------------------------------------------

def test_train_on_selects_the_training_rows(made):
    runs = {train_on: made(dict(BLOBS, train_on=train_on)) for train_on in ("syn", "real+syn")} | {"real": made(FEW)}
    assert {k: r.model.config["trained_on"]["utterances"] for k, r in runs.items()} == {"real": 96, "syn": 80, "real+syn": 176}
    assert all(r.model.config["trained_on"]["rows"] == k for k, r in runs.items())
    tables = [r.predictions for r in runs.values()]
    assert not any(a.equals(b) for i, a in enumerate(tables) for b in tables[:i])


def test_a_classifier_of_synthetic_rows_learns_their_labels(monkeypatch, places):
    "Synthetic rows that are the real ones under the other label: trained on them alone, everything is the wrong way round"
    def swapped(kind, found, fold, *_): return Synthetic(found.X[fold.train], (found.table.emotion.iloc[fold.train] == "angry").to_numpy(int), [], None, dict(kind=kind), "swapped")
    monkeypatch.setattr("ser_nb.synthesis.synthetic_set", swapped)
    given = dict(SVM, corpus=str(places["room"]), test_corpus=str(places["phone"]), emotions=["angry", "sad"])
    real, syn = (execute(**given, train_on=train_on, **more).metrics["uar"] for train_on, more in (("real", {}), ("syn", dict(augment="gaussian", source="demo_unlabelled"))))
    assert real > .7 and syn < .3


@pytest.mark.parametrize("settings", [without(FEW, "lr"), without(GAN, "lr"), SVM], ids=["real", "real+syn", "svm"])
def test_nothing_is_fitted_on_the_test_corpus(made, settings):
    run = made(settings)
    assert len(run.guard.log) >= 2 and not any(entry["test_rows"] for entry in run.manifest["fitted"])
    assert sorted([*run.fold.train, *run.fold.dev]) == list(range(96)) and run.fold.test.tolist() == list(range(96, 168))


def test_labels_of_the_test_corpus_reach_no_model(made, tmp_path):
    other = relabelled(small_corpus(demo_phone, tmp_path, "phone", (1, 2, 3)), "phone", lambda table: next_emotion(table, table.file != ""))
    one, two = made(without(FEW, "lr")), made(dict(without(FEW, "lr"), test_corpus=str(other)))
    assert one.metrics["lr"] == two.metrics["lr"] and not (one.predictions.truth == two.predictions.truth).any()
    pd.testing.assert_frame_equal(one.predictions.drop(columns="truth"), two.predictions.drop(columns="truth"))


def test_dev_rows_of_the_test_corpus_choose_and_nothing_else(made, places):
    settings = dict(without(GAN, "lr"), dev_portion=.4)
    run = made(settings)
    t = run.found.table
    assert set(t.speaker.iloc[run.fold.dev]).isdisjoint(t.speaker.iloc[run.fold.test]) and t.speaker.iloc[run.fold.dev].nunique() == 2 and set(t.corpus.iloc[run.fold.dev]) == {"phone"}
    assert set(run.predictions.file) == set(t.file.iloc[run.fold.test]) and run.metrics["n"] == 48
    assert run.fold.train.tolist() == list(range(96)) and run.model.config["trained_on"]["utterances"] == 96 + 4*24
    np.testing.assert_allclose(run.model.arrays["mean"], run.found.X[:96].mean(0, dtype="float64"), rtol=1e-6)
    assert {entry["what"]: entry["rows"] for entry in run.guard.log}["mlp"] == 96
    assert list(run.by_lr.index) == ["phone"]


def test_labels_of_dev_rows_reach_the_model_by_lr_only(made, tmp_path):
    settings, path = dict(FEW, dev_portion=.4), small_corpus(demo_phone, tmp_path, "phone", (1, 2, 3))
    run = made(settings)
    chosen = run.found.table.speaker.iloc[run.fold.dev].unique()
    other = made(dict(settings, test_corpus=str(relabelled(path, "phone", lambda table: next_emotion(table, table.speaker.isin(chosen))))))
    assert other.fold.dev.tolist() == run.fold.dev.tolist() and not other.found.table.emotion.equals(run.found.table.emotion)
    pd.testing.assert_frame_equal(other.predictions, run.predictions)


@pytest.mark.parametrize("portion, chosen", [(.1, 2), (.5, 9), (.9, 16)])
def test_published_dev_rows_are_a_share_of_each_class(made, portion, chosen):
    run = made(dict(FEW, protocol="faithful", dev_portion=portion))
    assert run.found.table.emotion.iloc[run.fold.dev].value_counts().to_dict() == dict.fromkeys(EMOTIONS, chosen)
    assert sorted([*run.fold.dev, *run.fold.test]) == list(range(96, 168)) and run.fold.train.tolist() == list(range(96))


def test_some_features(made):
    for settings in (FEW, GAN, SVM):
        run = made(dict(settings, f_names=TEN))
        assert run.model.config["n_features"] == len(run.model.arrays["mean"]) == 10 and not (run.run.folder/"model").exists()
        if settings is not SVM: assert run.model.arrays["w0"].shape == (1, 10, 8)
        np.testing.assert_array_equal(run.found.X, run.everything.X[:, 5:15])
    run = made(dict(GAN, f_names=TEN))
    assert run.made.X.shape == (80, 10) and len(run.trained.names) == 88, "the GAN sees all features"
    np.testing.assert_array_equal(run.made.X, made(GAN).made.X[:, 5:15])


def test_a_share_thins_training_and_generation_alike(made):
    run = made(dict(BLOBS, share=.5))
    assert run.model.config["trained_on"]["utterances"] == 48 + 4*10 and len(run.fold.test) == 72
    assert {entry["what"]: entry["rows"] for entry in run.guard.log}["gaussian"] == 40


def test_systems_on_the_same_rows_are_compared(places, outputs):
    given = dict(test_corpus=str(places["phone"]))
    execute(**SVM, **given, corpus=str(places["room"]))
    execute(**SVM, **given, corpus=str(places["hall"]))
    execute(**SVM, **given, corpus=str(places["room"]), dev_portion=.4)
    run = execute(**FEW, **given, corpus=str(places["room"]))
    assert len(run.others) == 2 and all(name.startswith("svm") for name in run.others)
    assert len(finished_runs("exp3")) == 4


# ---- refused -------------------------------------------------------------------------------------------------------

REFUSED = [
    (dict(corpus="demo", test_corpus="demo"), "both 'demo'"), (dict(test_corpus="nowhere/mine.csv"), "no such CSV"), (dict(test_corpus="demo_fone"), "did you mean 'demo_phone'"), (dict(corpus="demoo"), "did you mean 'demo'"),
    (dict(train_on="synthetic"), "unknown train_on"), (dict(classifier="smv"), "did you mean 'svm'"), (dict(features="eGeMAPS"), "did you mean 'eGeMAPSv02'"), (dict(normalise="speakers"), "did you mean 'speaker'"),
    (dict(protocol="faithfull"), "did you mean 'faithful'"), (dict(preset="smal"), "did you mean 'small'"), (dict(emotions=["sad"]), "1 class (sad)"), (dict(emotions=["sad", "angy"]), "did you mean 'angry'"),
    (dict(emotions=["sad", "surprise"]), "unknown emotion"), (dict(emotions=[]), "no utterance"), (dict(test_labels={"happy": "joyful"}), "'joyful'"),
    (dict(protocol="faithful", normalise="speaker"), "use one of the two"), (dict(train_on="syn", source="neutral", normalise="speaker"), "no speaker to normalise by"),
    (dict(augment="gan"), "augment is an option of synthetic rows"), (dict(lambda_cls=1.), "lambda_cls is an option of synthetic rows"), (dict(source="neutral"), "source is an option of synthetic rows"), (dict(gan={}), "gan is an option of synthetic rows"),
    (dict(train_on="syn", source="neutral", augment="smot"), "did you mean 'smote'"), (dict(train_on="syn", source="neutral", augment="smote", lambda_cls=1.), "lambda_cls is an option of the GAN"),
    (dict(train_on="syn", source="neutral", gan=dict(lambda_cs=2)), "did you mean 'lambda_cls'"), (dict(train_on="syn", source="neutral", gan=dict(lambda_cls=2)), "a parameter of its own"), (dict(train_on="syn", source="neutral", lambda_cls=-1.), "lambda_cls=-1"),
    (dict(train_on="syn", source="demo_unlabeled"), "did you mean 'demo_unlabelled'"), (dict(train_on="syn", source="phone"), "the corpus that is tested"), (dict(train_on="syn"), "librispeech"),
    (dict(share=0.), "share=0.0"), (dict(share=1.5), "share=1.5"), (dict(dev_portion=1.), "dev_portion=1.0"), (dict(dev_portion=-.1), "dev_portion=-0.1"), (dict(dev_portion=.95), "dev_portion=0.95 of corpus 'phone' (72 utterances, 6 speakers) leaves none"),
    (dict(f_names=["F0semitoneFrom27.5Hz_sma3nz_amen"]), "did you mean 'F0semitoneFrom27.5Hz_sma3nz_amean'"), (dict(f_names=[]), "0 feature names"), (dict(f_names=TEN[:2]*2), "4 feature names, 2 of them different"),
    (dict(testcorpus="demo"), "did you mean 'test_corpus'"), (dict(lr="high"), "exp3 expects float"), (dict(dim_c=8), "exp3 expects list"), (dict(f_names=TEN[0]), "exp3 expects list"), (dict(gan="small"), "exp3 expects dict"),
    (dict(dev_portion="all"), "exp3 expects float"), (dict(repeated=0), "repeated=0"), (dict(SVM, lr=1e-3), "lr is an option of the mlp"), (dict(SVM, repeated=2), "repeated is an option of the mlp"),
]


@pytest.mark.parametrize("given, words", REFUSED, ids=[" ".join(f"{k}={v}" for k, v in given.items())[:80] for given, _ in REFUSED])
def test_refused_before_anything_is_written(places, outputs, monkeypatch, given, words):
    monkeypatch.delenv("SER_NB_DATA", raising=False)
    base = {} if given.get("classifier") == "svm" else dict(features="eGeMAPSv02", preset="small")
    given = {"corpus": str(places["room"]), "test_corpus": str(places["phone"]), **base, **given}
    if given.get("source") == "phone": given["source"] = str(places["phone"])
    with pytest.raises((ValueError, FileNotFoundError)) as caught: execute(**given)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not outputs.exists()


def test_corpora_that_cannot_be_told_apart_or_share_nothing_are_refused(places, tmp_path):
    def with_csv(name, change): return dict(SVM, corpus=str(places["room"]), test_corpus=str(relabelled(places["phone"], name, change)))
    with pytest.raises(ValueError, match="both corpora are called 'room'.* rename one"): execute(**with_csv("room", lambda t: t))
    others = dict(zip(EMOTIONS, ["fear", "calm", "disgust", "boredom"]))
    with pytest.raises(ValueError, match=r"'room' \(angry, happy, neutral, sad\) and corpus 'strange' \(.*fear.*\) have no emotion in common"): execute(**with_csv("strange", lambda t: t.assign(emotion=t.emotion.map(others))))
    with pytest.raises(ValueError, match="'silent' has no labels"): execute(**with_csv("silent", lambda t: t.assign(emotion="")))
    with pytest.raises(ValueError, match="corpus 'nobody': 72 of 72 utterances name no speaker"): execute(**with_csv("nobody", lambda t: t.assign(speaker="")))
    with pytest.raises(ValueError, match="1 speakers.* leaves none"): execute(**with_csv("lonely", lambda t: t.assign(speaker="x")), dev_portion=.5)


def test_too_few_speakers_to_choose_with(places):
    alone = relabelled(places["room"], "alone", lambda t: t.assign(speaker="x"))
    with pytest.raises(ValueError, match="give lr"): execute(**without(FEW, "lr"), corpus=str(alone), test_corpus=str(places["phone"]))
    assert execute(**FEW, corpus=str(alone), test_corpus=str(places["phone"])).metrics["n"] == 72


@pytest.mark.skipif(not os.environ.get("SER_NB_DATA"), reason="SER_NB_DATA is not set: no real corpora here")
@pytest.mark.parametrize("corpus, test_corpus", [("ravdess", "emovo"), ("emovo", "ravdess")])
def test_real_corpora(corpus, test_corpus):
    run = execute(corpus=corpus, test_corpus=test_corpus, classifier="svm", emotions=EMOTIONS)
    assert run.classes == EMOTIONS and run.metrics["uar"] > .25
