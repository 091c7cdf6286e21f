"exp7 and exp8 from end to end: published files, what a run leaves behind, and what is refused"
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from test_exp4 import execute
from transformers import pipeline

from ser_nb.core import write_json
from ser_nb.data.audio import read_audio
from ser_nb.data.corpus import select, to_csv
from ser_nb.data.readers import load_corpus
from ser_nb.features.ssl import tiny_encoder
from ser_nb.run import read_predictions, record
from ser_nb.ssl_files import read_evaluations

ROOT = Path(__file__).resolve().parents[1]
NOUN = dict(angry="anger", happy="joy", neutral="neutrality", sad="sadness")
pytestmark = [pytest.mark.usefixtures("one_thread", "quiet"), pytest.mark.filterwarnings("ignore:fewer than 20 utterances", "ignore:.*test speaker", "ignore:`is_gradient_checkpointing`:FutureWarning")]


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    "Empty outputs for each test; stages and states stay in the cache of the session"
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SER_NB_OUTPUTS", str(tmp_path/"outputs"))
    monkeypatch.delenv("SER_NB_DATA", raising=False)
    return tmp_path/"outputs"


def few(corpus, speakers, sentences):
    "The first sentences of some speakers"
    speech = select(load_corpus(corpus), speaker=speakers)
    return speech, speech.table[speech.table.groupby(["speaker", "emotion"]).cumcount() < sentences]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    "An experiment and a model as published, on six demo speakers, and a test set of two others that lacks a class; a CSV of the same speech"
    folder = tmp_path_factory.mktemp("published")
    def metadata(path, speech, table, sep):
        for file in table.file:
            (path.parent/"audio"/file).parent.mkdir(parents=True, exist_ok=True)
            os.link(speech.root/file, path.parent/"audio"/file)
        table = table.assign(path="audio/" + table.file, class_id=table.emotion.map(NOUN), actor=table.speaker)
        table[["path", "class_id", "actor", "gender", "sentence"]].to_csv(path, sep=sep, index=False)
    speech, table = few("demo", sorted(load_corpus("demo").table.speaker.unique())[:6], 2)
    (folder/"people").mkdir(), (folder/"phone").mkdir()
    metadata(folder/"people"/"metadata.csv", speech, table, ";")
    for name, emotion in (("people", table.emotion), ("calm", "calm"), ("unlabelled", "")):
        to_csv(replace(speech, table=table.assign(emotion=emotion).reset_index(drop=True)), folder/"people"/"audio"/f"{name}.csv")
    phone, there = few("demo_phone", sorted(load_corpus("demo_phone").table.speaker.unique())[:2], 1)
    metadata(folder/"phone"/"test.csv", phone, there[there.emotion != "sad"], "\t")
    write_json(folder/"experiment.json", dict(experiment_name="few", output_path=str(folder/"artifacts"), experiment_results_output_path=str(folder/"trained"), model_files="models", training_dataset=dict(name="people", data_csv="people/metadata.csv"),
                                              datasets=[dict(name="phone", eval_csv_path="phone")], cross_validation=5, eval_steps=2, logging_steps=2))
    write_json(folder/"model.json", dict(model_path_or_name=tiny_encoder(folder/"wav2vec2-tiny", "wav2vec2"), number_of_training_epochs=1, per_device_batch_size=8, pooling_mode="att_stats", use_relu=False))
    return folder


def here(files, name): return str(files/"people"/"audio"/name)


# ---- exp7 ------------------------------------------------------------------------------------------------------------

def test_published_files_from_end_to_end(files, tmp_path):
    made = execute("exp7", experiment_file=str(files/"experiment.json"), model_file=str(files/"model.json"), preset="tiny", low_seed=3, high_seed=4, scheme="gender")
    assert made.numbers == [3, 4] and made.made["tune"] == "full" and made.encoder_used.network.config.model_type == "wav2vec2" and made.classes == ["angry", "happy", "neutral", "sad"]
    assert (made.made["head"]["pooling_mode"], made.made["head"]["use_relu"], made.made["training"]["number_of_training_epochs"], made.made["training"]["per_device_batch_size"], made.made["training"]["eval_steps"]) == ("att_stats", False, 1, 8, 2)
    fold, = made.held_out
    who = made.speech.table.speaker.to_numpy(object)
    assert not {*who[fold.test]} & {*who[fold.train], *who[fold.dev]} and made.metrics["leak"] == 0
    # what it leaves behind
    run = made.run.folder
    left = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    assert {"predictions.csv", "metrics.json", "manifest.json", "partition.csv", "looks.csv", "model/config.json", "model/model.safetensors", "model/preprocessor_config.json", "reports/evaluations.csv", *(f"figures/{name}.png" for name in ("confusion", "uar", "training", "speakers"))} <= left
    table, manifest, metrics = read_predictions(run/"predictions.csv"), json.loads((run/"manifest.json").read_text()), json.loads((run/"metrics.json").read_text())
    assert table.groupby("corpus").size().to_dict() == dict(people=2*len(fold.test), phone=2*6) and {*table.seed} == {3, 4} and {*table.truth[table.corpus == "phone"]} == {"angry", "happy", "neutral"}
    assert manifest["seeds"] == [3, 4] and all(entry["test_rows"] == 0 for entry in manifest["fitted"]) and metrics["tests"]["people"]["chance"] == .25 and metrics["tests"]["phone"]["chance"] == pytest.approx(1/3)
    assert metrics["uar"] == metrics["tests"]["people"]["uar"] and "dev" in metrics and {*pd.read_csv(run/"looks.csv").seed} == {3, 4}
    # the published reports
    evaluations = read_evaluations(run/"reports"/"evaluations.csv")
    assert evaluations.dataset_name.value_counts().to_dict() == dict(people=2, phone=2) and evaluations.model_name.unique().tolist() == ["wav2vec2-tiny"]
    first = table[(table.corpus == "phone") & (table.repeat == 0)]
    report = json.loads((run/"reports"/"wav2vec2-tiny"/"phone"/"0"/"classification_report.json").read_text())
    assert report["accuracy"] == (first.truth == first.prediction).mean() and len(report["y_true"]) == 6
    assert json.loads((run/"reports"/"wav2vec2-tiny"/"people"/"1"/"accuracies.json").read_text()).keys() == {"overall", "female", "male"}
    published = read_evaluations(files/"artifacts"/"few"/"evals"/"evaluations.csv")
    assert sorted(published.model_path.unique()) == [str(files/"trained"/"few"/s/"wav2vec2-tiny") for s in "34"] and all((Path(p)/"model.safetensors").is_file() for p in published.model_path)
    assert all((Path(p)/"classification_report.json").is_file() for p in published.eval_out_path) and all((Path(p)/"test.csv").is_file() for p in published.eval_csv_path)
    # the model answers what the predictions say
    hear = pipeline("audio-classification", model=str(run/"model"), device="cpu")
    row = table[(table.corpus == "people") & (table.repeat == 0)].iloc[0]
    signal, rate = read_audio(made.speech.root/row.file)
    answer = {a["label"]: a["score"] for a in hear(dict(raw=signal, sampling_rate=rate), top_k=None)}
    assert answer == pytest.approx({e: row[f"p_{e}"] for e in made.classes}, abs=1e-4)
    # the same once more: nothing is trained again, and the same bytes
    before = {name: (run/name).read_bytes() for name in ("metrics.json", "predictions.csv", "looks.csv")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ser_nb.training.ssl.train", lambda *args, **given: pytest.fail("a finished training is taken as it is"))
        patch.setattr("ser_nb.evaluation.reports.write_reports", lambda *args, **given: None)
        again = execute("exp7", experiment_file=str(files/"experiment.json"), model_file=str(files/"model.json"), preset="tiny", low_seed=3, high_seed=4, scheme="gender")
    assert again.run.folder == run and {name: (run/name).read_bytes() for name in before} == before
    assert {"metrics.json", "manifest.json", "predictions.csv.gz"} == {p.name for p in record(run, tmp_path/"recorded").iterdir()}


def test_a_run_of_other_published_speech_has_another_folder(files, monkeypatch):
    "The content of the files counts, not their names alone"
    monkeypatch.setattr("ser_nb.run.Run", lambda *_, **params: pytest.skip(json.dumps(params, sort_keys=True, default=str)))
    def asked(datasets):
        path = files/"same-name.json"
        write_json(path, json.loads((files/"experiment.json").read_text()) | dict(datasets=datasets))
        with pytest.raises(pytest.skip.Exception) as caught: execute("exp7", experiment_file=str(path), model_file=str(files/"model.json"), preset="tiny", scheme="gender")
        return str(caught.value)
    assert asked([]) != asked([dict(name="phone", eval_csv_path="phone")])


@pytest.mark.parametrize("given, words", [
    (dict(pre=dict(demo={})), "pre-fine-tuning on 'demo', which is tested here"), (dict(tests=["demo_phone"], pre=dict(demo_phone={})), "pre-fine-tuning on 'demo_phone', which is tested here"),
    (dict(tests=["demo_phone"], session="all"), "with session='all' every fold would test the other corpora again"), (dict(session="total"), "give corpora to test on in tests"),
    (dict(tests=["calm.csv"]), "corpus 'calm' has none of the classes"), (dict(corpus="unlabelled.csv"), "has no labels"), (dict(emotions=["sad"]), "has one class, 'sad'"),
    (dict(session=10), "session 10 is out of range"), (dict(scheme="gendre"), "did you mean 'gender'"), (dict(protocol="correct"), "did you mean 'corrected'"), (dict(preset="huge"), "unknown preset"), (dict(tune="frozen"), "unknown tune"),
    (dict(tune="full", every=2), "averages frames of the cache"), (dict(head=dict(pooling_mode="max")), "is no pooling"), (dict(head=dict(pooling="mean")), "unknown option of the head"), (dict(training=dict(lr=1e-3)), "unknown training option"),
    (dict(head=dict(is_regression=True)), "is_regression"), (dict(augment=dict(a={})), "not in the cache"), (dict(low_seed=3, high_seed=2), "name no seed"), (dict(low_seed=-1), "low_seed"), (dict(session="0"), "session '0' is out of range"), (dict(epochs=3), "unknown parameter of exp7"), (dict(tests="demo_phone"), "exp7 expects list"),
    (dict(experiment_file="nowhere.json"), "no such file"), (dict(model_file="nowhere.json"), "no such file"), (dict(encoder="nowhere/at-all"), "nowhere/at-all")], ids=lambda v: " ".join(f"{k}={x}" for k, x in v.items())[:60] if isinstance(v, dict) else "")
def test_refused_before_anything_is_computed(given, words, files, outputs, monkeypatch):
    given = {k: [here(files, n) if n.endswith(".csv") else n for n in v] if k == "tests" and isinstance(v, list) else here(files, v) if str(v).endswith(".csv") else v for k, v in given.items()}
    for name in ("states_of", "train_fold", "fine_tuned_on"): monkeypatch.setattr(f"ser_nb.fine_tuning.{name}", lambda *args, **more: pytest.fail("computed before it was refused"))
    if given.get("session") in (10, "0"): monkeypatch.setattr("ser_nb.fine_tuning.states_of", lambda of, *rest: SimpleNamespace(table=of.table, failures=of.table[:0]))
    with pytest.raises((ValueError, FileNotFoundError, OSError)) as caught: execute("exp7", **dict(dict(preset="tiny"), **given))
    assert words in str(caught.value) and "\n" not in str(caught.value) and not outputs.exists()


def test_misspelt_options_of_published_files(files, tmp_path):
    for name, change, words in (("experiment", dict(evalsteps=3), "did you mean 'eval_steps'"), ("model", dict(pooling="max"), "did you mean 'pooling_mode'"), ("model", dict(is_regression=True), "is_regression")):
        content = json.loads((files/f"{name}.json").read_text()) | change
        content |= dict(training_dataset=dict(name="people", data_csv=str(files/"people"/"metadata.csv"))) if name == "experiment" else {}
        write_json(tmp_path/"changed.json", content)
        with pytest.raises(ValueError, match=words): execute("exp7", **dict(dict(experiment_file=str(files/"experiment.json"), model_file=str(files/"model.json")), **{f"{name}_file": str(tmp_path/"changed.json")}), preset="tiny")


# ---- exp8 ------------------------------------------------------------------------------------------------------------

def test_what_the_layers_know(files):
    made = execute("exp8", corpus=here(files, "people.csv"), baselines=["eGeMAPSv02"], preset="tiny")
    run = made.run.folder
    metrics, manifest, partition = json.loads((run/"metrics.json").read_text()), json.loads((run/"manifest.json").read_text()), pd.read_csv(run/"partition.csv")
    assert {*metrics["layers"]} == {"tiny", "eGeMAPSv02"} and {*metrics["layers"]["tiny"]} == {"0", "1", "2"} and {*metrics["layers"]["eGeMAPSv02"]} == {"0"} and metrics["chance"] == .25
    for layers in metrics["layers"].values():
        for m in layers.values(): assert 0 <= m["uar_low"] <= m["uar"] <= m["uar_high"] <= 1 and m["n"] == 48 and m["n_speakers"] == 6
    assert metrics["layers"]["tiny"][str(metrics["best"]["tiny"])]["uar"] == max(m["uar"] for m in metrics["layers"]["tiny"].values())
    cka = np.array(metrics["cka"]["tiny | tiny"])
    assert cka.shape == (3, 3) and np.allclose(np.diag(cka), 1, atol=1e-5) and np.allclose(cka, cka.T, atol=1e-5) and (0 <= cka).all() and cka[0, 2] < 1
    heard, floor = metrics["cka_functionals"]["tiny | eGeMAPSv02"], metrics["cka_shuffled"]["tiny | eGeMAPSv02, shuffled"]
    assert len(heard) == len(floor) == 3 and 0 < min(floor) and np.mean(floor) < np.mean(heard)
    assert manifest["fitted"] and all(entry["test_rows"] == 0 for entry in manifest["fitted"])
    measures = pd.read_csv(run/"measures.csv")
    tested = partition[partition.part == "test"]
    assert measures.groupby("system").size().to_dict() == {"tiny": 3*48, "tiny, layers together": 48, "eGeMAPSv02": 48} and len(tested) == 48 and set(measures.file) == set(tested.file)
    assert {"cka-0.png", "cka-functionals.png", "probes.png", "best.png"} <= {p.name for p in (run/"figures").iterdir()}


@pytest.mark.parametrize("given, words", [(dict(pre=dict(demo={})), "pre-fine-tuning on 'demo', whose speakers are tested here"), (dict(baselines=["eGeMAPS"]), "did you mean 'eGeMAPSv02'"), (dict(normalise="speakers"), "did you mean 'speaker'"), (dict(corpus="unlabelled.csv"), "has no labels"),
                                          (dict(encoders="tiny"), "exp8 expects list"), (dict(pre=dict(demo_phone=dict(lr=1))), "unknown training option")], ids=["pre", "baselines", "normalise", "unlabelled", "encoders", "training"])
def test_layers_that_cannot_be_probed(given, words, files, outputs):
    if "corpus" in given: given = dict(corpus=here(files, given["corpus"]))
    with pytest.raises(ValueError) as caught: execute("exp8", **given, preset="tiny")
    assert words in str(caught.value) and not outputs.exists()
