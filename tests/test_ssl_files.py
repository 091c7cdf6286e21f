"The published files of SSL experiments: both names of an option, every way of writing it wrong, and the tables that training and evaluation exchange"
import json
import os
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import pandas as pd
import pytest

from ser_nb.data.corpus import demo_tones
from ser_nb.data.exchange import metadata_corpus
from ser_nb.ssl_files import EVALUATIONS, HEAD_OPTIONS, LIMITS, README_NAMES, ExperimentSettings, ModelSettings, experiment_settings, folders, model_settings, models_of, read_evaluations, read_table, seeds, write_evaluations

CODE = dict(experiment_name="e", model_save_folder="trained", experiment_artifacts_output_path="artifacts", model_input_files="models", training_dataset=dict(name="emovo", data_csv="metadata.csv"))
README = {{v: k for k, v in README_NAMES.items()}.get(k, k): v for k, v in CODE.items()}
ENCODER = dict(model_path_or_name="facebook/hubert-large-ll60k")

PUBLISHED_MODEL = dict(batch_size=8, per_device_batch_size=8, pooling_mode="mean", model_output_dir="./wav2vec2-xlsr", speaker_independent_scenario=True, input_column="path", output_column="class_id", is_regression=False,
                       train_test_split=.8, seed=0, use_batch_norm=False, use_dropout=False, dropout_rate=.5, use_l2_reg=False, weight_decay=.01, use_weight_encoder_layers=False, pool_position="after",
                       number_of_training_epochs=50, continue_model_training=False, skip_hp_search=True, use_relu=True)
PUBLISHED_EXPERIMENT = dict(cross_validation=1, augmentations={}, datasets=[], hp_amount_of_training_data=.3, hp_num_trials=5, save_steps=10, save_total_limit=1, run_eval=False, run_grapher=False, eval_steps=10, logging_steps=10, eval_metric="accuracy")


def refused(words, act, error=ValueError):
    with pytest.raises(error, match=words) as caught: act()
    assert "\n" not in str(caught.value)


def saved(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


# Settings

@pytest.mark.parametrize("given, read, published", [(CODE, experiment_settings, PUBLISHED_EXPERIMENT), (ENCODER, model_settings, PUBLISHED_MODEL)], ids=["experiment", "model"])
def test_defaults_are_the_published_ones(given, read, published):
    settings = read(given)
    assert {name: getattr(settings, name) for name in published} == published and settings.notes == ()
    assert read(given | dict.fromkeys(published)) == settings   # null is the default
    with pytest.raises(FrozenInstanceError): settings.notes = ("changed",)


def test_readme_and_code_names_read_alike(): assert experiment_settings(README) == experiment_settings(CODE) and set(README) != set(CODE)


@pytest.mark.parametrize("kind, read, given", [(ExperimentSettings, experiment_settings, CODE), (ModelSettings, model_settings, ENCODER)], ids=["experiment", "model"])
def test_every_misspelt_option_gets_its_suggestion(kind, read, given):
    for f in fields(kind):
        if f.name != "notes": refused(f"did you mean '{f.name}'", lambda: read(given | {f.name + "s": 1}))
    refused("unknown option in the settings 'notes'", lambda: read(given | dict(notes=[])))


@pytest.mark.parametrize("wrong, words", [
    (dict(batch_size="8"), "batch_size is '8', expected int"), (dict(batch_size=8.5), "expected int"), (dict(batch_size=True), "batch_size is True, expected int"), (dict(use_relu=1), "use_relu is 1, expected bool"),
    (dict(use_relu="false"), "expected bool"), (dict(per_device_batch_size=0), "expected 1 or more"), (dict(train_test_split=1), "share between 0 and 1"), (dict(train_test_split=80), "is 80, expected a share"),
    (dict(dropout_rate=1.), "from 0 to below 1"), (dict(weight_decay=float("nan")), "expected 0 or more"), (dict(weight_decay=float("inf")), "expected 0 or more"), (dict(number_of_training_epochs=-1), "1 or more"), (dict(seed=-1), "0 or more"),
    (dict(pooling_mode="ecappa"), "did you mean 'ecapa'"), (dict(pool_position="befor"), "did you mean 'before'"), (dict(name="a/b"), "without slashes"), (dict(name=".."), "name of a folder"), (dict(name=""), "name of a folder"),
    (dict(speaker_independent_scenario=False), "no test speaker is ever trained on"), (dict(output_column=["a", "b"]), "set is_regression to true"), (dict(output_column=[], is_regression=True), "expected names of columns"),
    (dict(output_column=[1], is_regression=True), "expected names"), (dict(output_column=3), "expected str or list"), (dict(eval_steps=1.5), "whole number of steps"), (dict(eval_steps=0), "whole number"),
    (dict(model_path_or_name=" "), "local folder or a hub name"), (dict(model_path_or_name=None), "'model_path_or_name' is missing")], ids=lambda v: json.dumps(v) if isinstance(v, dict) else "says")
def test_wrong_model_options(wrong, words): refused(words, lambda: model_settings(ENCODER | wrong))


@pytest.mark.parametrize("wrong, words", [
    (dict(cross_validation=0), "1 or more"), (dict(cross_validation=2.), "expected int"), (dict(save_total_limit=0), "or -1 to keep all"), (dict(hp_amount_of_training_data=0), "above 0, at most 1"), (dict(eval_metric="f1_score"), "did you mean 'f1score'"),
    (dict(experiment_name="a/b"), "without slashes"), (dict(training_dataset=[dict(name="a", data_csv="b")]), "expected dict"), (dict(training_dataset=None), "'training_dataset' is missing"), (dict(training_dataset=dict(name="a")), "has no 'data_csv'"),
    (dict(training_dataset=dict(name="a", data_csv="b", data_cvs="b")), "did you mean 'data_csv'"), (dict(training_dataset=dict(name="a/b", data_csv="b")), "without slashes"), (dict(datasets=["emovo"]), "is 'emovo', expected"),
    (dict(datasets=[dict(name="emovo", eval_csv_path="x")]), "emovo, emovo; give each a name"), (dict(augmentations=dict(noise=dict(module="audiomentations"))), "augmentation 'noise'"), (dict(augmentations=["noise"]), "expected dict"),
    (dict(model_files="models"), "keep one of them")], ids=lambda v: json.dumps(v) if isinstance(v, dict) else "says")
def test_wrong_experiment_options(wrong, words): refused(words, lambda: experiment_settings(CODE | wrong))


@pytest.mark.parametrize("content, words", [("{", "no valid JSON"), ("[]", "holds a list"), ('"x"', "holds a str"), ("", "no valid JSON"), ("\x80", "no valid JSON"), ('{"model_path_or_name": "a", "pool_mode": "max"}', "did you mean 'pooling_mode'")], ids=["half", "list", "text", "empty", "byte", "misspelt"])
def test_a_bad_file_is_named(tmp_path, content, words): refused(f"m.json.*{words}", lambda: model_settings(saved(tmp_path/"m.json", content)))


def test_a_missing_file_is_named(tmp_path): refused("no.json: no such file", lambda: model_settings(tmp_path/"no.json"), FileNotFoundError)


def test_a_file_with_a_byte_order_mark_is_read(tmp_path): assert model_settings(saved(tmp_path/"m.json", "\ufeff" + json.dumps(ENCODER))) == model_settings(ENCODER)


def test_epaca_is_ecapa_and_says_so():
    settings = model_settings(ENCODER | dict(pooling_mode="epaca"))
    assert settings.pooling_mode == "ecapa" and "epaca" in settings.notes[0] and settings.notes[0] in settings.frame().value.to_list()


def test_head_has_the_options_and_nothing_else():
    given = dict(pooling_mode="att_stats", use_relu=False, use_batch_norm=True, use_dropout=True, dropout_rate=.25, use_l2_reg=True, weight_decay=.5, use_weight_encoder_layers=True, pool_position="before", is_regression=True)
    assert model_settings(ENCODER | given).head() == given and set(given) == set(HEAD_OPTIONS)
    assert not set(given) & {k for k in PUBLISHED_MODEL if getattr(model_settings(ENCODER | given), k) == PUBLISHED_MODEL[k]}


def test_frames_show_every_option():
    for settings in (experiment_settings(CODE | dict(run_eval=True)), model_settings(ENCODER)): assert settings.frame().index.to_list() == [f.name for f in fields(settings) if f.name != "notes"]
    frame = experiment_settings(CODE | dict(run_eval=True)).frame()
    assert frame.loc["run_eval"].to_list() == [True, False] and frame.loc["experiment_name"].to_list() == ["e", "required"] and frame.loc["datasets"].to_list() == [[], []]


def test_limits_name_real_options(): assert set(LIMITS) <= {f.name for kind in (ExperimentSettings, ModelSettings) for f in fields(kind)}


def test_regression_may_name_several_columns(): assert model_settings(ENCODER | dict(output_column=["valence", "activation"], is_regression=True)).output_column == ["valence", "activation"]


# Paths, models, seeds

def test_inputs_are_found_beside_the_file_above_it_or_from_here(tmp_path, monkeypatch):
    saved(tmp_path/"models"/"a.json", ENCODER)
    saved(tmp_path/"data"/"metadata.csv", "x")
    (tmp_path/"elsewhere"/"encoder").mkdir(parents=True)
    path = saved(tmp_path/"experiments"/"e.json", CODE | dict(training_dataset=dict(name="x", data_csv="./data/metadata.csv"), datasets=[dict(name="hub", eval_csv_path="nowhere")]))
    monkeypatch.chdir(tmp_path/"elsewhere")
    settings = experiment_settings(path)
    assert settings.training_dataset["data_csv"] == str((tmp_path/"data"/"metadata.csv").resolve()) and settings.datasets[0]["eval_csv_path"] == "nowhere"
    assert [m.model_path_or_name for m in models_of(settings)] == ["facebook/hubert-large-ll60k"]
    assert model_settings(dict(model_path_or_name="encoder")).model_path_or_name == str((tmp_path/"elsewhere"/"encoder").resolve())


def experiment(folder, *models, **options):
    for i, model in enumerate(models): saved(folder/"models"/f"{i}.json", ENCODER | model)
    return experiment_settings(CODE | dict(model_input_files=str(folder/"models")) | options)


def test_models_take_their_steps_from_the_experiment_unless_they_have_their_own(tmp_path):
    first, second = models_of(experiment(tmp_path, dict(name="a"), dict(name="b", eval_steps=3), eval_steps=.25, logging_steps=7))
    assert (first.eval_steps, first.logging_steps, second.eval_steps, second.logging_steps) == (.25, 7, 3, 7)


def test_save_steps_follow_eval_steps(tmp_path):
    assert experiment(tmp_path, eval_steps=20).save_steps == 20 and experiment(tmp_path, eval_steps=20, save_steps=40).save_steps == 40


def test_models_of_a_file_and_of_a_folder(tmp_path):
    settings = experiment(tmp_path, dict(name="b"), dict(name="a"), augmentations=dict(noise=dict(module="m", **{"class": "C"})))
    assert [m.name for m in models_of(settings)] == ["b__augmented__union", "a__augmented__union"]
    assert [m.name for m in models_of(replace(settings, model_input_files=str(tmp_path/"models"/"1.json"), augmentations={}))] == ["a"]


def test_models_that_would_share_a_folder_are_refused(tmp_path):
    refused("two models are called 'hubert-large-ll60k'", lambda: models_of(experiment(tmp_path, {}, {})))
    (tmp_path/"none").mkdir()
    refused("no JSON file", lambda: models_of(experiment(tmp_path, model_input_files=str(tmp_path/"none"))), FileNotFoundError)
    refused("no such file", lambda: models_of(experiment(tmp_path, model_input_files=str(tmp_path/"no"))), FileNotFoundError)


@pytest.mark.parametrize("low, high, expected", [(None, None, [0, 1, 2]), (0, None, [0, 1, 2]), (4, None, [4, 5, 6]), (0, 1, [0, 1]), (2, 2, [2]), (0, 0, [0])])
def test_seeds(low, high, expected): assert seeds(experiment_settings(CODE | dict(cross_validation=3)), low, high) == expected


@pytest.mark.parametrize("low, high, words", [(3, 2, "seeds from 3 to 2"), (-1, None, "seeds from -1"), (None, 4, "without low_seed")])
def test_ranges_that_are_none(low, high, words): refused(words, lambda: seeds(experiment_settings(CODE), low, high))


def test_published_folders():
    found = folders(experiment_settings(CODE), model_settings(ENCODER | dict(name="m")), 5)
    assert {k: str(v) for k, v in found.items()} == dict(model="trained/e/5/m", checkpoints="trained/e/checkpoints/5/m", logs="artifacts/e/logs/m/5/runs", evals="artifacts/e/evals", graphs="artifacts/e/graphs")


# Tables

def test_evaluations_round_trip(tmp_path):
    rows = [dict(zip(EVALUATIONS, (f"m, {i}", "emovo", Path("a; b"), "c\td", "e"))) for i in range(2)]
    for i in range(2): write_evaluations(tmp_path/"evals"/f"{i}.csv", rows[i:i + 1])
    assert (tmp_path/"evals"/"0.csv").read_text().splitlines()[0] == "model_name\tdataset_name\tmodel_path\teval_csv_path\teval_out_path"
    assert read_evaluations(tmp_path/"evals").to_dict("records") == [r | dict(model_path="a; b") for r in rows]
    refused("no column 'eval_out_path'", lambda: read_evaluations(saved(tmp_path/"x.csv", "\t".join(EVALUATIONS[:4]) + "\n")))
    (tmp_path/"none").mkdir()
    refused("holds no CSV", lambda: read_evaluations(tmp_path/"none"), FileNotFoundError)


@pytest.mark.parametrize("separator", [",", ";", "\t"], ids=["comma", "semicolon", "tab"])
def test_tables_with_any_separator(tmp_path, separator):
    path = saved(tmp_path/"t.csv", "\ufeff" + separator.join("ab") + "\n" + separator.join(("NA", '"x,y;z"')) + "\n")
    assert read_table(path, ("a", "b")).to_dict("records") == [dict(a="NA", b="x,y;z")]
    refused("has no column 'c'; it has a, b", lambda: read_table(path, ("c",)))


@pytest.mark.parametrize("content", [b"", b"a,b\n\xff\xfe\n", b'a,b\n"1,2\n'], ids=["empty", "bytes", "quote"])
def test_unreadable_tables(tmp_path, content):
    (tmp_path/"t.csv").write_bytes(content)
    refused("t.csv: not a readable table", lambda: read_table(tmp_path/"t.csv"))


def metadata(folder, sep="\t", name="metadata.csv", **changes):
    "A table of four tones as published; a column that is None is left out"
    rows = demo_tones(folder/"audio", 4)
    table = pd.DataFrame(dict(path=["audio/" + r["file"] for r in rows], class_id=["joy", "neutrality", "anger", "sadness"], actor=["a", "b", "a", "b"], gender=["Female", "MALE", "f", "other"], age=["20", "", "30", "40"]) | changes)
    table.drop(columns=[c for c, v in changes.items() if v is None]).to_csv(folder/name, sep=sep, index=False)
    return folder/name


@pytest.mark.parametrize("sep", [",", ";", "\t"], ids=["comma", "semicolon", "tab"])
def test_metadata(tmp_path, sep):
    corpus = metadata_corpus(metadata(tmp_path, sep))
    expected = {"audio/f/0.wav": ("happy", "a", "female", "20"), "audio/m/1.wav": ("neutral", "b", "male", ""), "audio/f/2.wav": ("angry", "a", "female", "30"), "audio/m/3.wav": ("sad", "b", "", "40")}
    assert {r.file: (r.emotion, r.speaker, r.gender, r.age) for r in corpus.table.itertuples()} == expected and corpus.name == tmp_path.name


def test_metadata_of_a_test_folder_with_absolute_paths(tmp_path):
    (tmp_path/"split").mkdir()
    table = read_table(metadata(tmp_path))
    table.assign(path=[str(tmp_path/p) for p in table.path]).to_csv(tmp_path/"split"/"test.csv", sep="\t", index=False)
    corpus = metadata_corpus(tmp_path/"split")
    assert corpus.root == tmp_path/"audio" and corpus.table.file.to_list() == ["f/0.wav", "f/2.wav", "m/1.wav", "m/3.wav"] and corpus.name == "split"
    assert metadata_corpus(tmp_path/"split", tmp_path).table.file.iat[0] == "audio/f/0.wav"
    refused("outside the root", lambda: metadata_corpus(tmp_path/"split", tmp_path/"split"))


def test_metadata_paths_are_found_above_the_table(tmp_path):
    (tmp_path/"a"/"b").mkdir(parents=True)
    os.rename(metadata(tmp_path), tmp_path/"a"/"b"/"metadata.csv")
    assert metadata_corpus(tmp_path/"a"/"b"/"metadata.csv").root == tmp_path


def test_metadata_lists_what_cannot_be_read(tmp_path):
    path = metadata(tmp_path)
    (tmp_path/"audio"/"f"/"0.wav").write_text("not audio")
    corpus = metadata_corpus(path)
    assert len(corpus) == 3 and corpus.problems.file.to_list() == ["audio/f/0.wav"]


def test_metadata_of_a_regression(tmp_path):
    path = metadata(tmp_path, valence=["1", "2.5", "3", "4"], class_id=None)
    table = metadata_corpus(path, label=["valence"]).table
    assert table.valence.to_list() == [1., 3., 2.5, 4.] and set(table.emotion) == {""}
    refused("age is '' in row 3, expected a number", lambda: metadata_corpus(path, label=["valence", "age"]))


@pytest.mark.parametrize("changes, words", [(dict(actor=None), "has no column 'actor'"), (dict(class_id=None, emotion="joy"), "has no column 'class_id'"), (dict(class_id="happyness"), "map it with labels"), (dict(path="audio/f/0.wav"), "named more than once")],
                         ids=["no actor", "no label", "unknown label", "twice"])
def test_wrong_metadata(tmp_path, changes, words): refused(words, lambda: metadata_corpus(metadata(tmp_path, **changes)))


def test_metadata_with_other_columns_and_labels(tmp_path):
    path = metadata(tmp_path, emotion=["1", "2", "1", "2"], file="x", speaker="nobody", duration="long")
    corpus = metadata_corpus(path, label="emotion", labels={"1": "fear", "2": "calm"})
    assert corpus.table.emotion.to_list() == ["fear", "fear", "calm", "calm"] and set(corpus.table.speaker) == {"a", "b"} and corpus.table.duration.max() < 3
