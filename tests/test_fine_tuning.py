"Fine-tuning of speech encoders: what cannot be trained, what a training changes, which rows it hears, and that a kill changes nothing"
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import audmetric
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.io import wavfile

from ser_nb import fine_tuning
from ser_nb.core import LeakageError
from ser_nb.data.corpus import select
from ser_nb.data.partition import Fold, Guard, grouped_by_class, leak, make_partition
from ser_nb.data.readers import load_corpus
from ser_nb.features.ssl import load_encoder, tiny_encoder
from ser_nb.fine_tuning import answers, as_classifier, load_model, recipe, states_of, train_fold
from ser_nb.models.ssl_classifier import SSLClassifier
from ser_nb.run import check_predictions
from ser_nb.training.ssl import Labelled, OnFrames, Rows, _ByLength, class_weights, fine_tune, last_checkpoint, probabilities, search_learning_rate, train_head, training_settings, usable

pytestmark = [pytest.mark.usefixtures("one_thread", "quiet")]
QUICK = dict(number_of_training_epochs=2, gradient_accumulation=1, per_device_batch_size=4, eval_steps=2, logging_steps=2, patience=[], learning_rate=1e-3)   # 16 rows: 8 updates, 4 looks
MASK = dict(band=dict([("module", "augmentations"), ("class", "FrequencyMask")], freq_mask_param=40))
NAN = float("nan")


class Killed(Exception): pass


class Mortal:
    "Items of a sequence; after some that were read the process is killed"
    def __init__(self, items, reads=10**9): self.items, self.reads, self.heard = items, reads, []
    def __len__(self): return len(self.items)
    def __getattr__(self, name): return getattr(self.items, name)
    def __getitem__(self, i):
        self.heard.append(int(i))
        if len(self.heard) > self.reads: raise Killed
        return self.items[i]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    return {family: load_encoder(tiny_encoder(folder/family, family), device="cpu") for family in ("whisper", "wav2vec2")}


@pytest.fixture(scope="module")
def demo(): return load_corpus("demo")


def own_copy(folder, speech, speakers, sentences=2):
    "Some speakers' first sentences, in a folder of their own, where they may be changed"
    speech = select(speech, speaker=speakers)
    kept = speech.table.groupby(["speaker", "emotion"]).cumcount() < sentences
    speech = replace(speech, table=speech.table[kept].reset_index(drop=True))
    for file in speech.table.file.unique():
        (folder/file).parent.mkdir(parents=True, exist_ok=True)
        (folder/file).write_bytes((speech.root/file).read_bytes())
    return replace(speech, root=folder)


@pytest.fixture(scope="module")
def study(tmp_path_factory, encoders, demo):
    "Four speakers, two of them trained on; their states; labels, class numbers and lengths"
    speech = own_copy(tmp_path_factory.mktemp("speech"), demo, ["d1f", "d2f", "d3m", "d4m"])
    fold, labels = make_partition(speech.table, "speakers")[0], sorted(set(speech.table.emotion))
    y, seconds = speech.table.emotion.map(labels.index).to_numpy(), speech.table.duration.to_numpy(float)
    states = states_of(speech, encoders["whisper"], 5)
    def signals(rows, y=y): return Labelled(Rows(speech, rows), y[rows], seconds[rows])
    return SimpleNamespace(speech=speech, fold=fold, labels=labels, y=y, seconds=seconds, states=states, signals=signals, guard=lambda: Guard(speech.table, fold))


def made_up(n=24, k=3, classes=3, seed=0):
    "Frames of three states and several lengths, whose first k columns tell the class"
    rng, y = np.random.default_rng(seed), np.arange(n) % classes
    frames = [rng.normal(0, .3, (3, int(t), 8)).astype("float32") for t in rng.integers(2, 6, n)]
    for f, c in zip(frames, y): f[:, :, c % k] += 2
    return Labelled(frames, y, [f.shape[1] for f in frames])


def weights(model): return {k: v.clone() for k, v in model.state_dict().items()}
def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a: assert torch.equal(a[name], b[name]), name


def test_speech_is_what_the_tests_below_count_on(study):
    assert [len(part) for part in (study.fold.train, study.fold.dev, study.fold.test)] == [16, 8, 8]


# ---- what cannot be trained ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("given, words", [
    (dict(learningrate=1e-3), "did you mean 'learning_rate'"), (dict(learning_rate=0), "learning_rate=0"), (dict(learning_rate=NAN), "learning_rate=nan"), (dict(learning_rate="5e-5"), "learning_rate='5e-5'"), (dict(head_learning_rate=2), "head_learning_rate=2"),
    (dict(number_of_training_epochs=0), "number_of_training_epochs=0"), (dict(number_of_training_epochs=float("inf")), "number_of_training_epochs=inf"), (dict(per_device_batch_size=2.5), "per_device_batch_size=2.5"), (dict(gradient_accumulation=0), "gradient_accumulation=0"),
    (dict(eval_steps=0), "eval_steps=0"), (dict(logging_steps=2.5), "logging_steps=2.5"), (dict(select="f1"), "select='f1'"), (dict(warmup=1.), "warmup=1.0"), (dict(bf16=1), "bf16=1"),
    (dict(patience=None), "patience=None"), (dict(patience=[[0, .1]]), "expected a list of"), (dict(patience=[[3, -1]]), "expected a list of"), (dict(patience=[4, .025]), "expected a list of")])
def test_settings_that_cannot_train(given, words):
    with pytest.raises(ValueError) as caught: training_settings(**given)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("given, words", [
    (dict(tuned="full"), "did you mean 'tune'"), (dict(tune="ful"), "did you mean 'full'"), (dict(head=dict(pooling="max")), "unknown option of the head"), (dict(training=dict(epochs=3)), "unknown training option"),
    (dict(tune="lora", every=1), "averages frames of the cache"), (dict(augment=MASK), "not in the cache"), (dict(head=dict(pooling_mode="att_stats")), "is no pooling"), (dict(refit=1), "refit=1"), (dict(search=-1), "search=-1"),
    (dict(search=2.), "search=2.0"), (dict(search_share=0), "search_share=0"), (dict(search_share=1.1), "search_share=1.1")])
def test_recipes_that_cannot_be(given, words):
    with pytest.raises(ValueError) as caught: recipe(**given)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_recipe_is_complete_and_keeps_what_was_given():
    made = recipe(tune=None, every=3, head=dict(pooling_mode="max"), training=dict(select="uar"))
    assert (made["tune"], made["every"], made["head"]["pooling_mode"], made["head"]["use_relu"], made["training"]["select"], made["training"]["learning_rate"]) == ("head", 3, "max", True, "uar", 5e-5)


def test_parts_that_are_none():
    for parts, words in ((([], [], []), "an empty part"), (([1, 2], [0], [1., 1.]), "2 items, 1 targets and 2 lengths")):
        with pytest.raises(ValueError, match=words): Labelled(*parts)


def test_a_class_that_is_missing_in_train(study, encoders, tmp_path):
    assert class_weights(np.array([0, 1, 1, 2]), ["a", "b", "c"]) == [1, .5, 1]
    some = study.fold.train[study.y[study.fold.train] != study.labels.index("happy")]
    with pytest.raises(ValueError, match="class 'happy' has no training row"): fine_tune(encoders["whisper"], study.labels, study.signals(some), study.signals(study.fold.dev), tmp_path, **QUICK)
    with pytest.raises(ValueError, match="class 'c' has no training row"): train_head(["a", "b", "c"], made_up(classes=2), None, tmp_path, **QUICK)


@pytest.mark.parametrize("with_dev", [True, False])
def test_a_loss_that_is_not_finite_ends_the_training(with_dev, tmp_path):
    "With nothing to choose by, the training loss alone can tell"
    data = made_up()
    data.items[5][:] = NAN
    with pytest.raises(FloatingPointError, match=r"loss is not finite at update \d+: lower learning_rate"): train_head(list("abc"), data, made_up(seed=1) if with_dev else None, tmp_path, **QUICK)


def test_speech_that_cannot_be_read(demo, tmp_path):
    broken = own_copy(tmp_path, demo, ["d1f"], 1)
    (tmp_path/broken.table.file[1]).write_bytes(b"RIFF")
    fine, failures = usable(broken)
    assert fine.tolist() == [True, False, True, True] and failures.file.tolist() == [broken.table.file[1]] and broken.table.file[1] in failures.reason[0]
    for file in broken.table.file: (tmp_path/file).write_bytes(b"RIFF")
    with pytest.raises(ValueError, match="none of its 4 utterances can be used"): usable(broken)


# ---- order -----------------------------------------------------------------------------------------------------------

def test_batches_are_of_one_length_and_the_short_one_is_the_last():
    lengths = np.random.default_rng(0).uniform(1, 10, 43)
    sampler = _ByLength(lengths, 8, seed=3)
    first = list(sampler)
    sampler.set_epoch(1)
    for order in (first, list(sampler)):
        assert sorted(order) == list(range(43))
        assert np.mean([np.ptp(lengths[order[i:i + 8]]) for i in range(0, 40, 8)]) < .5*np.ptp(lengths)
    assert first != list(sampler) and first != list(_ByLength(lengths, 8, seed=4)) and first == list(_ByLength(lengths, 8, seed=3))


def test_answers_come_in_the_order_of_the_rows(study, encoders, tmp_path):
    data = made_up()
    model, looks = train_head(list("abc"), data, made_up(seed=1), tmp_path, **{**QUICK, "learning_rate": .1, "number_of_training_epochs": 8, "select": "uar"})
    p = probabilities(model, data.items, data.lengths)
    assert (p.argmax(1) == data.targets).all() and looks.dev_uar.max() == looks.dev_accuracy.max() == looks.dev_f1score.max() == 1
    np.testing.assert_allclose(probabilities(model, data.items, np.zeros(24), batch_size=5), p, atol=1e-6)
    np.testing.assert_allclose(p.sum(1), 1)


# ---- what is trained -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("tune, family", [("full", "wav2vec2"), ("lora", "whisper")])
def test_what_is_trained_of_an_encoder(study, encoders, tune, family, tmp_path):
    encoder, rows = encoders[family], study.fold.train[::2]
    before = weights(encoder.network)
    model, looks = fine_tune(encoder, study.labels, study.signals(rows), study.signals(study.fold.dev[::2]), tmp_path/"training", tune, **{**QUICK, "number_of_training_epochs": 1, "learning_rate": 1e-2})
    assert_same(weights(encoder.network), before)
    assert type(model) is SSLClassifier and not model.training and len(looks) == 1 and {"loss", "dev_loss", "dev_uar", "dev_accuracy", "dev_f1score"} <= {*looks}
    moved = [name for name, value in model.encoder.state_dict().items() if not torch.equal(value, before[name])]
    assert not any(name.startswith(("conv1", "conv2", "embed_positions", "feature_extractor")) for name in moved)
    if tune == "lora": assert {name.split(".")[-2] for name in moved} == {"q_proj", "v_proj"}
    else: assert any(".0.fc" in name or ".0.feed_forward" in name for name in moved)
    model.save_pretrained(tmp_path/"model")
    again = SSLClassifier.from_pretrained(tmp_path/"model").eval()
    items, seconds = Rows(study.speech, study.fold.test[:3]), study.seconds[study.fold.test[:3]]
    np.testing.assert_array_equal(probabilities(again, items, seconds), probabilities(model, items, seconds))


def test_the_head_may_have_a_rate_of_its_own(study, encoders, tmp_path):
    encoder, rows = encoders["whisper"], study.fold.train[::2]
    options = {**QUICK, "number_of_training_epochs": 1, "learning_rate": 1e-12, "eval_steps": 1, "logging_steps": 1}
    def tuned(rate): return fine_tune(encoder, study.labels, study.signals(rows), None, tmp_path/str(rate), seed=2, head_learning_rate=rate, **options)[0]
    slow, fast = tuned(None), tuned(.05)
    for name, value in fast.encoder.state_dict().items(): torch.testing.assert_close(value, encoder.network.state_dict()[name], atol=1e-9, rtol=0)
    assert (fast.head.out.weight - slow.head.out.weight).abs().mean() > .01


# ---- regression ------------------------------------------------------------------------------------------------------

def test_a_regression_is_chosen_by_its_concordance(tmp_path):
    def numbers(seed):
        data = made_up(seed=seed)
        targets = np.stack([np.array([f[0, :, c].mean() for f in data.items]) for c in (0, 1)], 1)
        return Labelled(data.items, targets, data.lengths)
    data, dev = numbers(0), numbers(1)
    options = {**QUICK, "learning_rate": .1, "number_of_training_epochs": 30, "per_device_batch_size": 12, "eval_steps": 15}
    model, looks = train_head(["valence", "arousal"], data, dev, tmp_path, head=dict(is_regression=True, use_relu=False), **options)
    assert isinstance(model, OnFrames) and not {"dev_uar", "dev_accuracy", "dev_f1score"} & {*looks}
    p = probabilities(model, dev.items, dev.lengths)
    agreement = [audmetric.concordance_cc(dev.targets[:, i], p[:, i]) for i in (0, 1)]
    assert min(agreement) > .9 and not np.allclose(p.sum(1), 1)
    assert looks.dev_loss.min() == pytest.approx(1 - np.mean(agreement), abs=1e-5)      # 24 rows are one batch of a look


def test_a_regression_of_an_encoder(study, encoders, tmp_path):
    targets = np.random.default_rng(0).uniform(-1, 1, (len(study.y), 2))
    model, looks = fine_tune(encoders["whisper"], ["valence", "arousal"], study.signals(study.fold.train, targets), study.signals(study.fold.dev, targets), tmp_path/"training", head=dict(is_regression=True), **{**QUICK, "number_of_training_epochs": 1})
    assert model.config.id2label == {0: "valence", 1: "arousal"} and model.config.problem_type == "regression" and model.config.label_weights is None
    assert np.isfinite(looks.dev_loss).all() and "dev_uar" not in looks


def test_a_regression_cannot_be_chosen_by_uar(tmp_path):
    data = Labelled(made_up().items, np.random.default_rng(0).normal(size=(24, 2)), np.ones(24))
    with pytest.raises(ValueError, match="select"): train_head(["valence", "arousal"], data, data, tmp_path, head=dict(is_regression=True), **{**QUICK, "select": "uar"})


def test_emotions_are_no_numbers_to_predict(study, encoders):
    with pytest.raises(ValueError, match="is_regression"): train_fold(encoders["whisper"], study.speech, study.states, study.fold, study.guard(), study.labels, recipe(every=5, head=dict(is_regression=True), training=QUICK))


# ---- a kill ----------------------------------------------------------------------------------------------------------

def half_written(folder):
    "Checkpoints that a kill left: without a state, with half of one, and with half of the weights"
    for number, files in ((997, {"model.safetensors": b"half"}), (998, {"trainer_state.json": b'{"best_metric": 0.3, "glob', "model.safetensors": b""}), (999, {"trainer_state.json": b""})):
        (folder/f"checkpoint-{number}").mkdir(parents=True)
        for name, content in files.items(): (folder/f"checkpoint-{number}"/name).write_bytes(content)


def test_half_written_checkpoints_are_passed_over(tmp_path):
    assert last_checkpoint(tmp_path) is None
    half_written(tmp_path)
    assert last_checkpoint(tmp_path) is None
    for number in (8, 10):
        (tmp_path/f"checkpoint-{number}").mkdir()
        (tmp_path/f"checkpoint-{number}"/"trainer_state.json").write_text("{}")
    assert last_checkpoint(tmp_path) == str(tmp_path/"checkpoint-10")


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_a_training_that_was_killed_goes_on_to_the_same_weights(study, encoders, tune, tmp_path):
    "Masked spectra, dropped layers and units, two rules of stopping: all as without the kill"
    data, dev = study.signals(study.fold.train), study.signals(study.fold.dev)
    def tuned(folder, data): return fine_tune(encoders["wav2vec2"], study.labels, data, dev, tmp_path/folder, tune, 5, dict(use_dropout=True, use_batch_norm=True), **{**QUICK, "patience": [[3, .9], [4, 0.]]})
    model, looks = tuned("whole", data)
    with pytest.raises(Killed): tuned("killed", Labelled(Mortal(data.items, 22), data.targets, data.lengths))
    assert last_checkpoint(tmp_path/"killed").endswith("checkpoint-4")
    half_written(tmp_path/"killed")
    again, looks_again = tuned("killed", data)
    pd.testing.assert_frame_equal(looks_again, looks)
    assert_same(weights(again), weights(model))


@pytest.mark.parametrize("patience", [[[3, 0.]], [[9, 0.], [3, .9]]], ids=["one rule", "two rules"])
def test_patience_outlives_a_kill(patience, tmp_path):
    "A development part of other classes gets worse from the first look on: three looks later it is over"
    data, dev = made_up(), made_up()
    dev.targets = (dev.targets + 1) % 3
    options = {**QUICK, "learning_rate": .05, "patience": patience, "number_of_training_epochs": 4}
    def trained(folder, data): return train_head(list("abc"), data, dev, tmp_path/folder, 1, dict(use_dropout=True), **options)
    model, looks = trained("whole", data)
    assert looks.step.tolist() == [2, 4, 6, 8]
    with pytest.raises(Killed): trained("killed", Labelled(Mortal(data.items, 22), data.targets, data.lengths))
    assert last_checkpoint(tmp_path/"killed").endswith("checkpoint-4")
    again, looks_again = trained("killed", data)
    pd.testing.assert_frame_equal(looks_again, looks)
    assert_same(weights(again), weights(model))


@pytest.mark.parametrize("patience", [[], [[2, .9]]], ids=["to the end", "stopped early"])
def test_a_training_that_is_over_is_not_gone_on_with(patience, tmp_path):
    "Its last look was its best, but gained too little"
    def trained(): return train_head(list("abc"), made_up(), made_up(seed=1), tmp_path, 1, **{**QUICK, "learning_rate": .02, "patience": patience})
    (model, looks), (again, looks_again) = trained(), trained()
    assert looks.step.tolist() == ([2, 4, 6] if patience else [2, 4, 6, 8, 10, 12]) and looks.dev_loss.is_monotonic_decreasing
    pd.testing.assert_frame_equal(looks_again, looks)
    assert_same(weights(again), weights(model))


def test_a_training_without_a_look_is_refused_or_looks_at_its_end(tmp_path):
    "Published steps, 10 updates between looks, and a corpus that has fewer"
    data = made_up()
    try: _, looks = train_head(list("abc"), data, made_up(seed=1), tmp_path, **{**QUICK, "number_of_training_epochs": 1, "eval_steps": 10, "logging_steps": 10})
    except ValueError as e: assert "eval_steps" in str(e)
    else: assert len(looks) == 1 and np.isfinite(looks.dev_loss).all()


# ---- the learning rate -----------------------------------------------------------------------------------------------

def test_a_search_that_was_killed_makes_the_same_trials(tmp_path):
    rates = []
    def trial(rate, where, kill=None):
        if len(rates) == kill: raise Killed
        rates.append(rate)
        return pd.DataFrame(dict(dev_loss=[2., abs(np.log(rate/2e-4))], dev_uar=[.1, 1/(1 + abs(np.log(rate/2e-4)))]))
    best, whole = search_learning_rate(trial, tmp_path/"whole", 4, seed=1)
    made, rates = rates, []
    with pytest.raises(Killed): search_learning_rate(lambda rate, where: trial(rate, where, 2), tmp_path/"killed", 4, seed=1)
    again = search_learning_rate(trial, tmp_path/"killed", 4, seed=1)
    assert again[0] == best and rates == made and len(rates) == 4
    pd.testing.assert_frame_equal(again[1], whole)
    assert best == whole.learning_rate[whole.value.idxmin()] and whole.learning_rate.between(5e-5, 1e-3).all()
    by_uar = search_learning_rate(trial, tmp_path/"uar", 4, select="uar", seed=1)
    assert by_uar[0] == by_uar[1].learning_rate[by_uar[1].value.idxmax()]
    assert search_learning_rate(trial, tmp_path/"other", 4, seed=2)[1].learning_rate[0] != whole.learning_rate[0]


# ---- which rows do what ----------------------------------------------------------------------------------------------

@pytest.fixture
def calls(monkeypatch):
    "What `train_head` was called with: rows, whether something chose, epochs, rate"
    made, real = [], fine_tuning.train_head
    def heard(labels, data, dev, *args, **options):
        made.append(SimpleNamespace(train=data.items.rows.tolist(), dev=None if dev is None else dev.items.rows.tolist(), epochs=options["number_of_training_epochs"], rate=options["learning_rate"]))
        return real(labels, data, dev, *args, **options)
    monkeypatch.setattr(fine_tuning, "train_head", heard)
    return made


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    "Stages of each test for itself"
    monkeypatch.setenv("SER_NB_CACHE", str(tmp_path/"cache"))


def on_frames(**given): return recipe(**{**dict(every=5, training={**QUICK, "learning_rate": .02, "select": "uar"}), **given})


def fitted(study, encoders, way, states=None, fold=None, seed=0): return train_fold(encoders["whisper"], study.speech, study.states if states is None else states, fold or study.fold, study.guard(), study.labels, way, seed)


def test_test_rows_are_never_heard_and_development_rows_are_refitted(study, encoders, calls):
    states = Mortal(study.states)
    trained = fitted(study, encoders, on_frames(refit=True), states)
    assert {*states.heard} == {*study.fold.train.tolist(), *study.fold.dev.tolist()}
    first, refit = calls
    assert (first.train, first.dev) == (study.fold.train.tolist(), study.fold.dev.tolist())
    assert (refit.train, refit.dev) == (sorted([*study.fold.train, *study.fold.dev]), None)
    looks = pd.read_csv(trained/"looks.csv")
    assert refit.epochs == looks.epoch[looks.dev_uar.idxmax()] and looks.epoch.max() == 2
    assert fitted(study, encoders, on_frames(refit=True)) == trained and len(calls) == 2
    plain = fitted(study, encoders, on_frames())
    assert not torch.equal(load_model(plain).head.out.weight, load_model(trained).head.out.weight)
    assert json.loads((plain/"model"/"recipe.json").read_text())["weights"] == [.25]*4
    with pytest.raises(ValueError, match="has not heard single ones"): as_classifier(trained, encoders["whisper"])
    with pytest.raises(ValueError, match="load that encoder"): as_classifier(trained, encoders["wav2vec2"])
    with pytest.raises(FileNotFoundError, match="holds no recipe.json"): load_model(trained/"model")


def test_a_search_hears_training_and_development_speakers_only_and_once(study, encoders, calls):
    way, states = on_frames(search=2, training={**QUICK, "number_of_training_epochs": 1, "select": "uar"}), Mortal(study.states)
    with pytest.raises(Killed): fitted(study, encoders, way, Mortal(study.states, 2*16 + 20))
    killed = len(calls)
    trained = fitted(study, encoders, way, states)
    who = study.speech.table.speaker.to_numpy(object)
    assert killed == 3 and {*states.heard} <= {*study.fold.train.tolist(), *study.fold.dev.tolist()}
    trials, rest, found = calls[:2], calls[2:], pd.read_csv(trained/"search.csv")
    assert len(calls) == 4 and all(c.dev == study.fold.dev.tolist() for c in calls), "two trials, a training that was killed, and the same again"
    for t in trials: assert len(set(who[t.train])) == 1 and {*t.train} < {*study.fold.train.tolist()}
    assert np.allclose([t.rate for t in trials], found.learning_rate) and all(np.isclose(c.rate, found.learning_rate[found.value.idxmax()]) and c.train == study.fold.train.tolist() for c in rest)
    assert fitted(study, encoders, way) == trained and len(calls) == 4


def test_a_kill_anywhere_in_a_fold_changes_nothing(study, encoders, calls, tmp_path, monkeypatch):
    "In the training, in the refit, and after an early end of the training"
    way = on_frames(refit=True, training={**QUICK, "number_of_training_epochs": 4, "learning_rate": .02, "patience": [[2, .9]]})
    whole, states = fitted(study, encoders, way), Mortal(study.states)
    monkeypatch.setenv("SER_NB_CACHE", str(tmp_path/"other"))
    for reads in (25, 40):
        with pytest.raises(Killed): fitted(study, encoders, way, Mortal(study.states, reads))
    calls.clear()
    with pytest.raises(Killed): fitted(study, encoders, way, KillIn(calls, study.states))
    again = fitted(study, encoders, way, states)
    assert again != whole and again.name == whole.name
    assert (again/"looks.csv").read_text() == (whole/"looks.csv").read_text() and len(pd.read_csv(again/"looks.csv")) == 3
    assert_same(load_model(again).state_dict(), load_model(whole).state_dict())
    assert not list((tmp_path/"other"/"checkpoints").glob("*")), "checkpoints of a finished training are removed"


class KillIn(Mortal):
    "A kill in the middle of the refit"
    def __init__(self, calls, items):
        super().__init__(items)
        self.calls, self.late = calls, 0
    def __getitem__(self, i):
        self.late += bool(self.calls) and self.calls[-1].dev is None
        if self.late > 30: raise Killed
        return self.items[i]


@pytest.mark.parametrize("tune", ["full", "head"])
def test_test_rows_never_change_what_is_trained(study, encoders, tune, tmp_path):
    "Other labels and other speech of the test speakers, then other speech of a training speaker"
    training = {**QUICK, "number_of_training_epochs": 1}
    way = recipe(tune=tune, training=training) if tune == "full" else on_frames(training=training)
    def trained(speech): return train_fold(encoders["whisper"], speech, states_of(speech, encoders["whisper"], 5) if tune == "head" else None, study.fold, Guard(speech.table, study.fold), study.labels, way)
    def changed(folder, rows, emotion=None):
        shutil.copytree(study.speech.root, tmp_path/folder)
        for file in study.speech.table.file.iloc[rows]: wavfile.write(tmp_path/folder/file, 16000, np.random.default_rng(0).normal(0, .05, 16000).astype("float32"))
        table = study.speech.table.copy()
        if emotion: table.loc[table.index[rows], "emotion"] = emotion
        return replace(study.speech, root=tmp_path/folder, table=table)
    first, other_test, other_train = trained(study.speech), trained(changed("test", study.fold.test, "sad")), trained(changed("train", study.fold.train[:4]))
    if tune == "full": assert first == other_test
    assert_same(load_model(first).state_dict(), load_model(other_test).state_dict())
    assert first != other_train and not torch.equal(load_model(first).head.out.weight, load_model(other_train).head.out.weight)


def test_augmented_speech_is_of_training_rows(study, encoders, monkeypatch):
    heard = []
    def stop(encoder, labels, data, dev, *args, **options):
        heard.append((data, dev))
        raise Killed
    monkeypatch.setattr(fine_tuning, "fine_tune", stop)
    guard = study.guard()
    with pytest.raises(Killed): train_fold(encoders["whisper"], study.speech, None, study.fold, guard, study.labels, recipe(tune="full", augment=MASK, training=QUICK))
    (data, dev), = heard
    table = data.items.table
    assert table.groupby("augmentation")["row"].agg(lambda rows: sorted(rows) == study.fold.train.tolist()).to_dict() == dict(band=True, clean=True)
    assert [study.labels[t] for t in data.targets] == table.emotion.tolist() and isinstance(dev.items, Rows) and dev.items.rows.tolist() == study.fold.dev.tolist()
    one = table["row"][table.augmentation == "band"].index[0]
    clean = table.index[(table["row"] == table["row"][one]) & (table.augmentation == "clean")][0]
    assert len(data[one][0]) == len(data[clean][0]) and not np.array_equal(data[one][0], data[clean][0]) and data[one][1] == data[clean][1]
    assert {e["what"]: (e["rows"], e["test_rows"]) for e in guard.log} == {"fine-tuning": (16, 0), "choice of epoch": (8, 0), "augmented union": (16, 0)}


def test_the_published_split_is_a_leak(study, encoders, demo, tmp_path):
    "Speakers that lack a class are shuffled otherwise in it"
    speech = demo
    table = speech.table[speech.table.groupby(["speaker", "emotion"]).cumcount() < 1]
    speech = replace(speech, table=table[~((table.speaker == sorted(set(table.speaker))[0]) & (table.emotion == "sad"))].reset_index(drop=True))
    fold = next(f for f in (grouped_by_class(speech.table, seed) for seed in range(20)) if leak(speech.table, f)["rows"] > 0)
    states, way = states_of(speech, encoders["whisper"], 5), on_frames(training={**QUICK, "number_of_training_epochs": 1})
    with pytest.raises(LeakageError, match="fine-tuning was about to be fitted on .* rows of test speakers"): train_fold(encoders["whisper"], speech, states, fold, Guard(speech.table, fold), study.labels, way)
    assert not (tmp_path/"cache"/"stages").exists()
    guard = Guard(speech.table, fold, "faithful")
    tested = answers(train_fold(encoders["whisper"], speech, states, fold, guard, study.labels, way), speech, states, fold.test, study.labels, 0, 0, 0)
    assert guard.log[0]["test_rows"] > 0 and len(tested) == len(fold.test)
    with pytest.raises(LeakageError): train_fold(encoders["whisper"], speech, states, fold, Guard(speech.table, fold), study.labels, way)      # nor is the finished stage given away


def test_folds_that_cannot_be_trained(study, encoders):
    fold, way = study.fold, on_frames()
    with pytest.raises(ValueError, match="no development rows, by which epochs are chosen"): fitted(study, encoders, way, fold=Fold("x", fold.train, fold.dev[:0], fold.test))
    with pytest.raises(LeakageError, match="choice of epoch"): fitted(study, encoders, way, fold=Fold("x", fold.train, fold.test, fold.test))
    with pytest.raises(ValueError, match="have the class 'neutral', which is not among angry, happy"): train_fold(encoders["whisper"], study.speech, study.states, fold, study.guard(), study.labels[:2], way)


# ---- models and answers ----------------------------------------------------------------------------------------------

def test_answers_on_a_corpus_that_lacks_a_class(study, encoders, demo, tmp_path, monkeypatch):
    way = on_frames(every=None, training={**QUICK, "number_of_training_epochs": 1})
    means = states_of(study.speech, encoders["whisper"])
    trained = fitted(study, encoders, way, means)
    phone = select(own_copy(tmp_path/"phone", demo, ["d5f", "d5m"], 1), emotion=["angry", "sad"])
    phone = replace(phone, name="phone", table=phone.table.assign(corpus="phone"))
    states = states_of(phone, encoders["whisper"])
    def asked(corpus, states, rows): return answers(trained, corpus, states, rows, study.labels, 2, 1, 7)
    there = asked(phone, states, np.arange(4))
    assert {*there.truth} == {"angry", "sad"} and [c for c in there if c.startswith("p_")] == [f"p_{e}" for e in study.labels]
    assert (there.fold == 2).all() and (there.repeat == 1).all() and (there.seed == 7).all() and (there.corpus == "phone").all()
    here = asked(study.speech, means, study.fold.test)
    both = check_predictions(pd.concat([here, there]))
    assert len(both) == 12 and both.groupby("corpus").truth.nunique().to_dict() == dict(demo=4, phone=2)
    for table in (here, there): assert (table.prediction == np.array(study.labels, object)[table[[f"p_{e}" for e in study.labels]].to_numpy().argmax(1)]).all()
    p = probabilities(as_classifier(trained, encoders["whisper"]), Rows(study.speech, study.fold.test), study.seconds[study.fold.test])
    np.testing.assert_allclose(here[[f"p_{e}" for e in study.labels]], p, atol=1e-2)
    monkeypatch.setattr(fine_tuning, "load_model", lambda folder: pytest.fail("answers are computed once"))
    pd.testing.assert_frame_equal(asked(phone, states, np.arange(4)), there)
    with pytest.raises(pytest.fail.Exception): asked(phone, states, np.arange(3))
