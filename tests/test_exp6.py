"exp6 from end to end on a few utterances: every model, what a run leaves behind, and what is refused"
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from test_exp4 import execute
from transformers import ResNetModel

import ser_nb.features.speaker as speaker
import ser_nb.pictures as pictures
from ser_nb.cli import given_parameters
from ser_nb.core import save_tensors, versions
from ser_nb.data.corpus import select, to_csv
from ser_nb.data.demo import DEMOS, demo_rows
from ser_nb.data.readers import load_corpus
from ser_nb.models.cct import CCT
from ser_nb.pictures import load_model
from ser_nb.run import code_key, read_predictions

ROOT = Path(__file__).resolve().parents[1]
VERSIONS, CODE = versions(), code_key()   # read once
NOUN = dict(angry="anger", happy="joy", neutral="neutral", sad="sadness")
QUICK = dict(epochs=2, warmup_epochs=0, cooldown_epochs=0, batch_size=8)
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:fewer than 20 utterances", "ignore:.*test speaker", "error::UserWarning")]


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    "Empty outputs for each test; stages stay in the cache of the session"
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SER_NB_OUTPUTS", str(tmp_path/"outputs"))
    monkeypatch.delenv("SER_NB_DATA", raising=False)
    for place in ("run", "pictures"): monkeypatch.setattr(f"ser_nb.{place}.versions", lambda: VERSIONS), monkeypatch.setattr(f"ser_nb.{place}.code_key", lambda: CODE)
    return tmp_path/"outputs"


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    "The first speakers and sentences of both demo corpora, all that is made of them"
    folder, made = tmp_path_factory.mktemp("demos"), {}
    for name, speakers, sentences in (("demo", 5, 2), ("demo_phone", 2, 1)):
        who = sorted({row["speaker"] for row in demo_rows(name)})[:speakers]
        rows = [row for row in demo_rows(name) if row["speaker"] in who and row["number"] <= sentences]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ser_nb.data.demo.demo_rows", lambda name, rows=rows: rows)
            made[name] = DEMOS[name](folder)
    return made


@pytest.fixture(scope="module")
def corpora(demos, tmp_path_factory):
    "CSVs of a few utterances of both demo corpora, beside copies of the audio"
    folder, made = tmp_path_factory.mktemp("few"), {}
    for name, corpus in dict(people=demos["demo"], phone=demos["demo_phone"], alone=select(demos["demo"], speaker="d1f")).items():
        for file in corpus.table.file:
            (folder/name/file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(corpus.root/file, folder/name/file)
        made[name] = str(folder/name/f"{name}.csv")
        to_csv(replace(corpus, root=folder/name, name=name, table=corpus.table.assign(corpus=name)), made[name])
    return made


def run(corpora, figures=False, **given):
    "A tiny run, with what it showed in `shown` and its figures by name in `saved`; figures take most of its time, else they are the titles of their pictures"
    shown, saved = [], {}
    with pytest.MonkeyPatch.context() as patch:
        if not figures:
            patch.setattr("ser_nb.run.save_figure", lambda run, name, figure: saved.update({name: figure}))
            patch.setattr("ser_nb.evaluation.plots.plot_pictures", lambda images, titles, weights=None: titles)
            for name in ("evaluation.plots.plot_confusion", "evaluation.plots.plot_uar", "evaluation.plots.plot_looks", "features.speaker.plot_speakers_map"): patch.setattr(f"ser_nb.{name}", lambda *given, **named: None)
        made = execute("exp6", **{**dict(eval_dataset=corpora["phone"], train_datasets=[corpora["people"]], preset="tiny", training={**QUICK, **given.pop("training", {})}, display=lambda *given: shown.extend(given)), **given})
    made.shown, made.saved = shown, saved
    return made


class Stopped(Exception): pass


def settings(**given):
    "The recipe of a run; nothing is read or trained"
    real = pictures.recipe
    def noted(**named): raise Stopped(real(**named))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "recipe", noted)
        with pytest.raises(Stopped) as e: execute("exp6", **given)
    return e.value.args[0]


def left(made): return {str(p.relative_to(made.run.folder)) for p in made.run.folder.rglob("*") if p.is_file()}


# ---- models --------------------------------------------------------------------------------------------------------------

MODELS = dict(cct=("none", None), speaker_vgg_cct=("second_attention", "ge2e"), speaker_vgg_cct_end_to_end=("first_token", "ge2e"), speaker_vgg_cct_end_to_end_speaker_token=("speaker_token", "ge2e"), speaker_cct_trained=("trained", "spectra"), resnet50=("none", None), small_cnn=("none", None))


@pytest.mark.parametrize("model", MODELS)
def test_every_network(model, corpora, monkeypatch):
    if model == "resnet50": monkeypatch.setattr("transformers.ResNetConfig", partial(ResNetModel.config_class, embedding_size=8, hidden_sizes=[8, 8, 8, 2048], depths=[1]*4))   # in test_pictures it has all its layers
    given = dict(speaker_width=1/64, training=dict(epochs=1)) if model == "speaker_cct_trained" else dict(input_size=32, training=dict(epochs=1)) if model == "resnet50" else {}
    drawn = model == "speaker_vgg_cct"   # It has them all
    made = run(corpora, drawn, model=model, **given)
    p = read_predictions(made.run.folder/"predictions.csv")
    assert (made.made["variant"], made.made["speaker"]) == MODELS[model] and len(p) == 8 and set(p.corpus) == {"phone"} and list(p.columns[-4:]) == ["p_angry", "p_happy", "p_neutral", "p_sad"]
    trained = load_model(made.run.folder/"model")
    assert sum(q.numel() for q in trained.network.parameters()) == made.metrics["parameters"] and trained.labels == ["angry", "happy", "neutral", "sad"]
    figures = {"pictures", "confusion", "training", "uar", *(["speakers"] if made.made["speaker"] == "ge2e" else []), *(["saliency"] if model not in ("resnet50", "small_cnn") else [])}
    files = left(made)
    assert {"predictions.csv", "metrics.json", "manifest.json", "partition.csv", "looks.csv", "model/model.safetensors", "model/config.json", "model/recipe.json"} <= files and {f for f in files if f.startswith("figures")} == ({f"figures/{name}.png" for name in figures} if drawn else set())
    if not drawn: assert set(made.saved) == figures and all({title.replace("\n", ",").split(",")[0] for title in titles} == set(made.labels) and len(titles) == 4 for name, titles in made.saved.items() if name in ("pictures", "saliency"))
    assert hasattr(made, "masks") == (model not in ("resnet50", "small_cnn")) and (not hasattr(made, "masks") or np.isfinite(made.masks).all() and made.masks.max() == pytest.approx(1))
    assert any(f.startswith("logs/0/") for f in files) and made.manifest["failures"] == 0 and not (made.run.folder/"pretrained.csv").exists() and list(made.others) == [model]
    assert made.made["training"]["select"] == "uar"


def test_a_linear_machine_on_functionals(corpora):
    made = run(corpora, model="svm", features="eGeMAPSv02", train_datasets=[corpora["phone"]], eval_dataset=corpora["alone"])
    assert len(read_predictions(made.run.folder/"predictions.csv")) == 8 and made.metrics["parameters"] is None and "metrics.json" in left(made) and set(made.saved) == {"confusion", "uar"} and not (made.run.folder/"model").exists()
    who = made.heard.table.speaker.to_numpy(object)
    assert not {*who[made.fold.test]} & {*who[made.fold.train], *who[made.fold.dev]}


@pytest.mark.parametrize("system", list(MODELS)[:4])
def test_published_names_end_with_a_size(system):
    "A size that is given goes before the name's"
    seen = settings(model=f"{system}_14_7x2_224", preset="tiny")
    assert (seen["model"], seen["variant"], seen["input_size"]) == ("cct_14_7x2_224", MODELS[system][0], 224)
    assert settings(model=f"{system}_14_7x2_224", preset="tiny", size="tiny")["model"] == "tiny"


@pytest.mark.parametrize("given, trim", [
    (dict(preset="small"), 30.), (dict(preset="paper"), 60.), (dict(preset="small", protocol="faithful", trim=45.), 45.),
    (dict(preset="small", protocol="faithful"), 60.)])
def test_silence_is_trimmed_as_preset_and_protocol_say(given, trim): assert settings(**given)["trim"] == trim


# ---- classes, protocols, corpora -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("classes, labels", [("3", ["neutral", "positive", "negative"]), ("all", ["happy", "sad", "angry", "neutral"])])
def test_class_sets(classes, labels, corpora):
    given = given_parameters("exp6", [], [("classes", classes)])
    assert given == dict(classes=classes)   # text, though 3 is a number where it is typed
    made = run(corpora, **given, model="small_cnn", training=dict(epochs=1))
    assert made.labels == labels and set(made.predictions.truth) == set(labels) and made.metrics["chance"] == pytest.approx(1/len(labels))
    if classes == "3": assert ((made.predictions.truth == "negative") == made.predictions.file.str.contains("angry|sad")).all()


def test_faithful(corpora):
    made = run(corpora, protocol="faithful", model="speaker_vgg_cct_end_to_end", percent=.25, augmentation="time_freq_aug", training=dict(epochs=1))
    assert made.made["protocol"] == "faithful" and made.made["training"]["select"] == "accuracy" and any("speaker components" in str(entry) for entry in np.atleast_1d(made.manifest["fitted"]))


def test_the_same_twice_is_the_same_bytes(corpora, outputs):
    first = run(corpora, model="speaker_vgg_cct", augmentation="freq_aug", high_seed=1, training=dict(epochs=1))
    kept = {name: (first.run.folder/name).read_bytes() for name in ("predictions.csv", "metrics.json", "looks.csv", "partition.csv")}
    shutil.rmtree(outputs)
    for place in first.places: shutil.rmtree(place)
    again = run(corpora, model="speaker_vgg_cct", augmentation="freq_aug", high_seed=1, training=dict(epochs=1))
    assert again.run.folder == first.run.folder and {name: (again.run.folder/name).read_bytes() for name in kept} == kept
    assert set(again.predictions.seed) == {0, 1} and not np.allclose(*(again.predictions[again.predictions.seed == s].p_sad for s in (0, 1)))


def test_named_folder_is_tested(corpora, tmp_path):
    table, root = load_corpus(corpora["phone"]).table, tmp_path/"phone_wav"
    root.mkdir()
    shutil.copy(Path(corpora["phone"]).parent/table.file[0], root/"nameless.wav")
    for i, row in table.iterrows(): shutil.copy(Path(corpora["phone"]).parent/row.file, root/f"{NOUN[row.emotion]}_phone_{row.speaker}_{i}.wav")
    made = run(corpora, eval_dataset=str(root), model="small_cnn", training=dict(epochs=1))
    assert made.tested == "phone" and set(made.predictions.speaker) == {f"phone-{s}" for s in table.speaker}
    assert [NOUN[truth] for truth in made.predictions.truth] == [file.split("_")[0] for file in made.predictions.file] and len(made.predictions) == 8
    problems, = [table for table in made.shown if isinstance(table, pd.DataFrame) and "reason" in table]
    assert list(problems.file) == ["nameless.wav"] and made.manifest["failures"] == 1 and not len(made.heard.failures)


def test_corpora_of_other_classes_and_of_one_speaker(corpora):
    "One without a common class is left out; one of a single speaker is trained on and held back from choosing"
    table = pd.read_csv(corpora["alone"])
    table = table.assign(**{column: "disgust" for column in ("label", "emotion") if column in table})
    odd, single = (str(Path(corpora["alone"]).with_name(f"{name}.csv")) for name in ("odd", "single"))
    table.to_csv(odd, index=False), shutil.copy(corpora["alone"], single)
    assert set(load_corpus(odd).table.emotion) == {"disgust"}
    made = run(corpora, train_datasets=[corpora["people"], odd, single], model="small_cnn", training=dict(epochs=1))
    assert set(made.heard.table.corpus) == {"people", "single", "phone"} and made.dropped.rows.sum() == 8 and made.dropped is made.shown[0]
    assert set(made.heard.table.corpus.iloc[made.fold.train]) == {"people", "single"} and set(made.heard.table.corpus.iloc[made.fold.dev]) == {"people"} and len(set(made.heard.table.speaker.iloc[made.fold.dev])) == 1
    with pytest.raises(ValueError, match="one speaker"): run(corpora, train_datasets=[single], model="small_cnn")
    with pytest.raises(ValueError, match=r"test corpus 'phone' \(classes angry, happy, neutral, sad\) and training corpora odd \(classes none\) share 0 of the class set '4'"): run(corpora, train_datasets=[odd])


def test_nobody_held_back(corpora):
    made = run(corpora, percent=0., model="small_cnn", training=dict(epochs=1, select="last"))
    assert not len(made.fold.dev) and made.metrics["dev"] is None and "dev_uar" not in made.looks
    with pytest.raises(ValueError, match="select='last'"): run(corpora, percent=0., model="small_cnn")


def test_clips_that_cannot_be_heard(corpora, tmp_path):
    "Systems that heard other clips are compared on what all heard"
    folder, path = tmp_path/"damaged", tmp_path/"damaged"/"damaged.csv"
    shutil.copytree(Path(corpora["phone"]).parent, folder)
    table = load_corpus(str(shutil.move(folder/"phone.csv", path))).table
    run(corpora, eval_dataset=str(path), model="small_cnn", training=dict(epochs=1))
    soundfile.write(folder/table.file.iat[2], np.zeros(16000), 16000, format="wav")
    made = run(corpora, eval_dataset=str(path), model="speaker_vgg_cct", training=dict(epochs=1))
    assert made.manifest["failures"] == 1 and any(t is made.heard.failures for t in made.shown) and sorted(made.predictions.file) == sorted(table.file.drop(2)) and list(made.predictions.truth) == list(table.set_index("file").emotion[made.predictions.file])
    assert {name.split(",")[0]: len(t) for name, t in made.others.items()} == dict(small_cnn=8, speaker_vgg_cct=7) and {len(t) for t in made.shared.values()} == {7}
    for i in table.index[table.emotion == "sad"]: soundfile.write(folder/table.file.iat[i], np.zeros(16000), 16000, format="wav")
    with pytest.raises(ValueError, match="either side lacks sad"): run(corpora, eval_dataset=str(path), model="small_cnn")


def test_runs_beside_each_other_are_told_apart(corpora):
    cct = run(corpora, training=dict(epochs=1))
    run(corpora, training=dict(epochs=1, smoothing=.2), kept=2.)
    last = run(corpora, model="small_cnn", input_size=64, training=dict(epochs=1))
    assert set(last.others) == {"cct", "cct, kept 2.0, smoothing 0.2", "small_cnn"} and last.compare(last.others, "cct").shape[0] == 2
    pd.testing.assert_frame_equal(read_predictions(cct.run.folder/"predictions.csv"), last.others["cct"])
    svm = run(corpora, model="svm", features="ge2e")
    assert "svm" in svm.others and len(svm.others) == 4   # networks by their differences to one of them


def test_imagenet_weights(corpora, tmp_path):
    right, wrong = (str(save_tensors(tmp_path/f"{dim}.safetensors", CCT("tiny", n_classes=10, dim=dim).state_dict())) for dim in (32, 64))
    made = run(corpora, pretrained=right, training=dict(epochs=1))
    report = pd.read_csv(made.run.folder/"pretrained.csv")
    assert set(report.what) == {"loaded", "other shape"} and report.equals(pd.read_csv(made.places[0]/"pretrained.csv"))
    counts, left_over = made.shown[:2]
    assert dict(counts.tensors) == dict(report.what.value_counts()) and list(left_over.name) == list(report.name[report.what != "loaded"])
    with pytest.raises(ValueError, match="another architecture"): run(corpora, pretrained=wrong)


# ---- what is refused -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("given, words", [
    (dict(model="cct_14"), "unknown model"), (dict(model="resnet50_14_7x2_224"), "unknown model"), (dict(model="small_cnn", size="small"), "is of a transformer"), (dict(classes="5"), "unknown class set"), (dict(augmentation="noise"), "unknown augmentation"), (dict(balance="over"), "unknown balance"), (dict(size="large"), "unknown model"),
    (dict(window="hamming"), "unknown window"), (dict(speaker="ecapa", model="speaker_vgg_cct"), "unknown speaker encoder"), (dict(protocol="published"), "unknown protocol"), (dict(preset="huge"), "preset"), (dict(percent=.9), "0 to 0.5"), (dict(low_seed=3, high_seed=2), "name no seed"), (dict(low_seed=-1), "name no seed"),
    (dict(training=dict(epoch=3)), "did you mean 'epochs'"), (dict(training=dict(epochs=2, warmup_epochs=2)), "nothing is left"), (dict(kept=0.), "seconds that fill"), (dict(trim=0.), "decibels above 0"), (dict(input_size=4), "16 or more"), (dict(input_size="64"), "expects int"), (dict(kept=2., protocol="faithful"), "keeps the time scale"),
    (dict(eval_dataset="demo_fone"), "did you mean 'demo_phone'"), (dict(eval_datasets="demo"), "did you mean 'eval_dataset'"), (dict(features="is09", model="svm"), "unknown feature set"), (dict(model="resnet50", pretrained="a.pth"), "no ImageNet weights"), (dict(model="svm", pretrained="a.pth"), "of a transformer, and svm is none"), (given_parameters("exp6", [], [("classes", "al")]), "unknown class set 'al': did you mean 'all'"), (dict(train_datasets=[]), "no corpus is left")])
def test_refused(given, words, corpora, outputs):
    with pytest.raises(ValueError, match=words): run(corpora, **given)
    assert not list(outputs.rglob("predictions.csv"))


def test_a_corpus_is_not_tested_and_trained_on(corpora):
    for train in ([corpora["people"], corpora["phone"]], [corpora["people"], corpora["people"]]):
        with pytest.raises(ValueError, match="two corpora are called"): run(corpora, train_datasets=train)


@pytest.mark.parametrize("given", [*(dict(model=model) for model, (_, speaker) in MODELS.items() if speaker == "ge2e"), dict(model="svm", features="ge2e")], ids=lambda given: given["model"])
def test_the_extra_that_brings_the_speaker_encoder(given, corpora, monkeypatch):
    monkeypatch.setitem(sys.modules, "resemblyzer", None)
    monkeypatch.setattr(speaker, "ge2e", speaker.ge2e.__wrapped__)   # it is kept once loaded
    with pytest.raises(ImportError, match=r"'resemblyzer', which is not installed: pip install 'ser_nb\[speaker\]'"): run(corpora, **given)


def test_more_speaker_components_than_utterances(corpora, outputs):
    with pytest.raises(ValueError, match="32 dimensions from 4 rows: .*fit on more utterances"): run(corpora, train_datasets=[corpora["phone"]], eval_dataset=corpora["people"], model="speaker_vgg_cct")
    assert not list(outputs.rglob("manifest.json"))


@pytest.mark.parametrize("given, expected", [({}, ["demo", "demo_phone"]), (dict(eval_dataset="demo"), ["demo_phone", "demo"]), (dict(eval_dataset="demo_phone", train_datasets=["demo_phone"]), None)], ids=["phone", "demo", "both"])
def test_demo_corpora_by_default(given, expected, demos, monkeypatch):
    "Nothing is trained: the corpora are chosen before"
    for name, corpus in demos.items(): monkeypatch.setitem(DEMOS, name, lambda root, corpus=corpus: corpus)
    def stop(table, *other): raise Stopped([*dict.fromkeys(table.corpus)])
    monkeypatch.setattr("ser_nb.data.cross_corpus.class_set", stop)
    with pytest.raises(Stopped if expected else ValueError, match="two corpora" if not expected else None) as e: execute("exp6", preset="tiny", model="svm", **given)
    if expected: assert e.value.args[0] == expected
