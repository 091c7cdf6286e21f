"Recognisers: no test row takes part in choosing or training, what is saved is what is loaded, and new speech is refused or recognised"
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import soundfile

from ser_nb import prediction
from ser_nb.core import AudioError, LeakageError, key_of
from ser_nb.data.audio import resample
from ser_nb.data.partition import Fold, Guard, make_partition
from ser_nb.data.transform import apply_scaler
from ser_nb.features.cache import Features
from ser_nb.features.functionals import feature_names, functionals_of
from ser_nb.prediction import Recogniser, choose_lr, class_numbers, classify, fitting_rows, load, predict, predict_files, save, train_recognisers
from ser_nb.run import check_predictions
from ser_nb.training import ensemble

LABELS = ["angry", "happy", "neutral", "sad"]
OPTIONS = dict(hidden=[8], batch_size=16, keep_prob=.8, train_epochs=4)
SET, RATE, RATES = "eGeMAPSv02", 16000, (1e-3, 1e-2)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch): monkeypatch.setenv("SER_NB_CACHE", str(tmp_path/"cache"))


def features(seed=0, labels=LABELS, sessions=4, each=3):
    "Made-up functionals of sessions of a woman and a man"
    rng, names = np.random.default_rng(seed), feature_names(SET)
    rows = [dict(corpus="x", file=f"{s}{g}/{e}{i}.wav", start=0., end=np.nan, speaker=f"{s}{g}", gender=dict(f="female", m="male")[g], emotion=e, session=f"Session{s}")
            for s in range(sessions) for g in "fm" for e in labels for i in range(each)]
    table = pd.DataFrame(rows)
    X = rng.normal(size=(len(rows), 88)) + .7*rng.normal(size=(len(labels), 88))[[labels.index(e) for e in table.emotion]]
    return found_of((X*np.logspace(-2, 3, 88)).astype("float32"), names, table)


def found_of(X, names, table): return Features(X, names, table, table[["file", "start", "end"]].iloc[:0].assign(reason=""), key_of(X.tobytes().hex()), 0)
def guards_of(found, folds, protocol="corrected"): return [Guard(found.table, f, protocol) for f in folds]
def trained(found, folds, classifier="svm", labels=LABELS, lrs=1e-2, repeated=2, options=OPTIONS, seed=0, protocol="corrected", **changes):
    return train_recognisers(found, folds, guards_of(found, folds, protocol), labels, classifier, SET, seed=seed, repeated=repeated, lrs=[lrs]*len(folds) if np.isscalar(lrs) else lrs, options=options, **changes)


def scrambled(found, rows):
    "Other features and other labels in some rows"
    rng, X, emotion = np.random.default_rng(5), found.X.copy(), found.table.emotion.to_numpy(object).copy()
    X[rows] = rng.normal(size=X[rows].shape)*100
    emotion[rows] = np.roll(emotion[rows], 7)
    return found_of(X, found.names, found.table.assign(emotion=emotion))


# Choosing and training

@pytest.mark.parametrize("normalise", ["global", "speaker"])
@pytest.mark.parametrize("number", [0, 2])
def test_the_chosen_rate_never_depends_on_test_rows(normalise, number):
    found = features()
    fold = make_partition(found.table)[number]
    def chosen(f): return choose_lr(f, [fold], guards_of(f, [fold]), LABELS, OPTIONS, normalise, repeated=2, candidates=RATES)
    (lrs, table), (other_lrs, other) = chosen(found), chosen(scrambled(found, fold.test))
    pd.testing.assert_frame_equal(table, other, check_exact=True)
    assert lrs == other_lrs == [table.columns[np.argmax(table.to_numpy()[0])]]
    for rows in (fold.train, fold.dev): assert not table.equals(chosen(scrambled(found, rows))[1]), "the scrambling would not be noticed"


@pytest.mark.parametrize("classifier", ["mlp", "svm"])
@pytest.mark.parametrize("normalise", ["global", "speaker"])
def test_no_recogniser_depends_on_test_rows(classifier, normalise):
    found = features()
    fold = make_partition(found.table)[1]
    a, b = (trained(f, [fold], classifier, normalise=normalise)[0][0].arrays for f in (found, scrambled(found, fold.test)))
    assert set(a) == set(b)
    for k in a: np.testing.assert_array_equal(a[k], b[k], k)
    for rows in (fold.train[:5], fold.dev[:5]): assert any(not np.array_equal(v, a[k]) for k, v in trained(scrambled(found, rows), [fold], classifier, normalise=normalise)[0][0].arrays.items())


def test_leaks_are_refused_by_name():
    found = features()
    fold = make_partition(found.table)[0]
    for leaky in (replace(fold, train=np.append(fold.train, fold.test[0])), replace(fold, test=fold.test[1:], train=np.append(fold.train, fold.test[0]))):
        guards = guards_of(found, [leaky])
        for act in (lambda: choose_lr(found, [leaky], guards, LABELS, OPTIONS, repeated=1, candidates=RATES), lambda: train_recognisers(found, [leaky], guards, LABELS, "svm", SET)):
            with pytest.raises(LeakageError, match=r"rows of test speakers: 0f/angry0.wav \(row 0\)"): act()


def test_everything_fitted_is_in_the_guards_log():
    found = features()
    folds = make_partition(found.table)[:2]
    guards = guards_of(found, folds)
    choose_lr(found, folds, guards, LABELS, OPTIONS, repeated=1, candidates=RATES)
    train_recognisers(found, folds, guards, LABELS, "mlp", SET, repeated=1, lrs=[1e-3, 1e-3], options=OPTIONS)
    for guard, fold in zip(guards, folds):
        n = len(fold.train), len(fold.train) + len(fold.dev)
        assert [(e["what"], e["rows"], e["test_rows"]) for e in guard.log] == [("scaler", n[0], 0), ("mlp while choosing lr", n[0], 0), ("mlp", n[1], 0), ("scaler", n[1], 0)]


def test_folds_together_are_folds_alone(tmp_path, monkeypatch):
    found = features()
    folds = make_partition(found.table)
    together, scaled, curves = trained(found, folds, "mlp", lrs=[1e-3, 1e-2, 1e-3, 1e-3])
    for i, (fold, lr) in enumerate(zip(folds, [1e-3, 1e-2, 1e-3, 1e-3])):
        monkeypatch.setenv("SER_NB_CACHE", str(tmp_path/f"alone{i}"))
        (alone,), (Z,), (curve,) = trained(found, [fold], "mlp", lrs=lr)
        assert alone.config == together[i].config and alone.config["options"]["lr"] == lr and len(set(alone.config["seeds"])) == 2
        np.testing.assert_array_equal(Z, scaled[i])
        np.testing.assert_allclose(curve, curves[i], rtol=1e-4)
        for k in alone.arrays: np.testing.assert_allclose(alone.arrays[k], together[i].arrays[k], rtol=1e-3, atol=1e-5)


def test_training_is_done_once_and_again_when_anything_changes(monkeypatch):
    found, calls, train = features(), [], ensemble.train_ensemble
    folds = make_partition(found.table)[:1]
    monkeypatch.setattr(ensemble, "train_ensemble", lambda *a, **k: calls.append(1) or train(*a, **k))
    first = trained(found, folds, "mlp")[0][0]
    again = trained(found, folds, "mlp")[0][0]
    assert len(calls) == 1 and all(np.array_equal(first.arrays[k], again.arrays[k]) for k in first.arrays)
    changes = [dict(seed=1), dict(lrs=1e-3), dict(repeated=3), dict(protocol="faithful"), dict(normalise="speaker"), dict(labels=LABELS[::-1]), *(dict(options={**OPTIONS, k: v}) for k, v in dict(hidden=[9], batch_size=15, keep_prob=.5, train_epochs=5).items())]
    for n, change in enumerate(changes, 2):
        trained(found, folds, "mlp", **change)
        assert len(calls) == n, change
    trained(scrambled(found, folds[0].train[:1]), folds, "mlp")
    trained(found, make_partition(found.table)[1:2], "mlp")
    assert len(calls) == len(changes) + 3


def test_faithful_tests_on_a_test_set_scaled_by_itself():
    found = features()
    folds = make_partition(found.table)[:1]
    (_, (Z,), _), (_, (W,), _) = trained(found, folds), trained(found, folds, protocol="faithful")
    assert abs(Z[folds[0].test].mean(0)).max() > .1 and abs(W[folds[0].test].mean(0)).max() < 1e-4


@pytest.mark.parametrize("classifier, repeats", [("mlp", 3), ("svm", 1)])
def test_predictions_are_of_the_test_rows(classifier, repeats):
    found = features()
    folds = make_partition(found.table)
    models, scaled, _ = trained(found, folds, classifier, repeated=3)
    table = check_predictions(pd.concat([prediction.test_predictions(m, Z, found.table, f, i) for i, (m, Z, f) in enumerate(zip(models, scaled, folds))]))
    assert len(table) == repeats*len(found) and (table.truth.to_numpy() == found.table.set_index("file").emotion[table.file].to_numpy()).all()
    assert (table[[f"p_{e}" for e in LABELS]].sum(axis=1) - 1).abs().max() < 1e-9
    assert (table[[f"p_{e}" for e in LABELS]].to_numpy().argmax(1) == [LABELS.index(e) for e in table.prediction]).all()
    assert (table.fold.to_numpy() == table.file.str[0].astype(int).to_numpy()).all() and (table.truth == table.prediction).mean() > .5


def test_what_cannot_be_trained():
    found = features()
    fold = make_partition(found.table)[0]
    with pytest.raises(ValueError, match=r"1 class \(angry\) cannot be told apart"): class_numbers(found.table, ["angry"])
    with pytest.raises(ValueError, match="0f/sad0.wav is labelled 'sad', which is not among"): class_numbers(found.table, LABELS[:3])
    with pytest.raises(ValueError, match="did you mean 'svm'"): trained(found, [fold], "svn")
    only_test = np.where(np.isin(np.arange(len(found)), fold.test) & (found.table.emotion == "sad"), "fear", found.table.emotion)
    y = class_numbers(found.table.assign(emotion=only_test), [*LABELS, "fear"])
    with pytest.raises(ValueError, match="no training utterance of fear"): fitting_rows(fold, y, [*LABELS, "fear"])
    with pytest.raises(ValueError, match="too few training speakers .* give lr"): choose_lr(found, [Fold("f", fold.train, fold.dev[:0], fold.test)], guards_of(found, [fold]), LABELS, OPTIONS)


# Saved recognisers

@pytest.fixture
def models():
    "One of each kind, trained on the same made-up features"
    found, two = features(), features(labels=LABELS[:2])
    fold, fold_of_two = make_partition(found.table)[0], make_partition(two.table)[0]
    made = dict(mlp=trained(found, [fold], "mlp")[0][0], svm=trained(found, [fold])[0][0], two=trained(two, [fold_of_two], labels=LABELS[:2])[0][0], speaker=trained(found, [fold], "mlp", normalise="speaker")[0][0])
    return made, found.X


def test_round_trips_are_bit_equal_and_without_pickles(models, tmp_path):
    made, X = models
    for name, model in made.items():
        folder = save(model, tmp_path/"new ö"/name)
        save(model, folder)
        again = load(folder)
        assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"] and again.config == model.config and set(again.arrays) == set(model.arrays)
        for k, v in model.arrays.items(): assert again.arrays[k].dtype == v.dtype and np.array_equal(again.arrays[k], v)
        Z = apply_scaler(X, model.arrays)
        np.testing.assert_array_equal(classify(again, Z), classify(model, Z))
        header = (folder/"model.safetensors").read_bytes()
        assert set(json.loads(header[8:8 + int.from_bytes(header[:8], "little")])) - {"__metadata__"} == set(model.arrays)
        assert name == "two" or classify(again, Z).shape[-1] == 4


def edited(**changes): return lambda c: {**c, **changes}


@pytest.mark.parametrize("change, words", [
    (edited(labels=LABELS[::-1]), "one was changed"), (edited(labels=LABELS[:3]), "one was changed"), (edited(features="emobase2010"), "one was changed"), (edited(n_features=1582), "one was changed"), (edited(classifier="svm"), "one was changed"),
    (edited(normalise="speaker"), "one was changed"), (edited(more=1), "one was changed"), (edited(key="0"*64), "one was changed"), (lambda c: {k: v for k, v in c.items() if k != "key"}, "one was changed"),
    (lambda c: {k: v for k, v in c.items() if k != "seeds"}, "one was changed"), (edited(format="ser_nb recogniser 0"), "not that of a ser_nb recogniser"), (lambda c: {}, "not that of"), (lambda c: [c], "not that of"), (lambda c: None, "not that of")])
def test_a_changed_configuration_is_refused(models, tmp_path, change, words):
    folder = save(models[0]["mlp"], tmp_path/"model")
    config = json.loads((folder/"config.json").read_text())
    (folder/"config.json").write_text(json.dumps(change(config)))
    with pytest.raises(ValueError, match=words) as caught: load(folder)
    assert str(folder) in str(caught.value)


def test_other_or_damaged_weights_are_refused(models, tmp_path):
    made, _ = models
    folder, other = save(made["mlp"], tmp_path/"a"), save(made["svm"], tmp_path/"b")
    content = (folder/"model.safetensors").read_bytes()
    for broken, words in ((content[:-1], "damaged"), (content[:50], "damaged"), (b"", "damaged"), (b"\x80\x04}", "damaged"), (content[:-1] + bytes([content[-1] ^ 1]), "one was changed"), ((other/"model.safetensors").read_bytes(), "do not belong together")):
        (folder/"model.safetensors").write_bytes(broken)
        with pytest.raises(ValueError, match=words): load(folder)
    (folder/"config.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(ValueError, match="damaged"): load(folder)
    for name in ("config.json", "model.safetensors"):
        (other/name).unlink()
        with pytest.raises(FileNotFoundError, match=f"holds no recogniser: {'model.safetensors' if name != 'config.json' else name} is missing"): load(other)
        shutil.copy(folder/name, other/name)
        if name == "config.json": save(made["svm"], other)
    with pytest.raises(FileNotFoundError, match="holds no recogniser"): load(tmp_path/"none")


def test_other_extractors_are_said(models, tmp_path):
    model = models[0]["svm"]
    old = Recogniser({**model.config, "made_of": {**model.config["made_of"], "opensmile": "1.0"}}, model.arrays)
    with pytest.warns(UserWarning, match="made of .*'opensmile': '1.0'.* may differ"): load(save(old, tmp_path/"old"))


def test_saving_where_nothing_can_be_written(models, tmp_path):
    (tmp_path/"taken").touch()
    with pytest.raises(OSError, match="cannot write to .*taken"): save(models[0]["svm"], tmp_path/"taken"/"model")


# New speech

def voice(seed=0, seconds=.6):
    rng, t = np.random.default_rng(seed), np.arange(round(seconds*RATE))/RATE
    phase = 2*np.pi*np.cumsum(130 + 25*seed + 30*np.sin(6*t))/RATE
    x = sum(np.sin(k*phase)/k for k in range(1, 15))*(.3 + np.abs(np.sin(9*t))) + .02*rng.normal(size=len(t))
    return (.3*x/np.abs(x).max()).astype("float32")


@pytest.mark.parametrize("name", ["mlp", "svm"])
def test_all_forms_of_a_signal(models, name):
    model, x = models[0][name], (voice()*32768).astype("int16")
    base = predict(x, RATE, model)
    expected = classify(model, apply_scaler(functionals_of(x, RATE, SET)[None], model.arrays)).mean(0)
    np.testing.assert_array_equal(base[[f"p_{e}" for e in LABELS]], expected)
    assert list(base) == ["prediction", *(f"p_{e}" for e in LABELS)] and base.prediction[0] == LABELS[expected[0].argmax()] and abs(expected.sum() - 1) < 1e-9
    for same in (x/np.float32(32768), x/32768, np.stack([x, x]), x[None], [x], (x,), (x/32768).tolist()): pd.testing.assert_frame_equal(predict(same, RATE, model), base)
    high = resample(x/np.float32(32768), RATE, 48000)
    pd.testing.assert_frame_equal(predict(np.stack([high, high]), 48000, model), predict(resample(high, 48000, RATE), RATE, model))
    many = predict([voice(0), voice(1), voice(2, 1.)], RATE, model)
    for i, s in enumerate((voice(0), voice(1), voice(2, 1.))): np.testing.assert_allclose(many.filter(like="p_").iloc[i], predict(s, RATE, model).filter(like="p_").iloc[0], atol=1e-6)


@pytest.mark.parametrize("signal, rate, words", [([], RATE, "lasts 0.000 s"), (voice()*0, RATE, "is silent"), (voice()[:800], RATE, "lasts 0.050 s"), (voice()*np.nan, RATE, "NaN"), (voice()*32768, RATE, "full scale is 1"), ("a.wav", RATE, "signal of shape"),
                                                 (np.stack([voice()]*2, 1), RATE, "transpose"), ([voice(), voice()*0], RATE, "is silent"), (voice(), 16000., "16000.0; expected whole Hz"), (voice(), "16000", "whole Hz"), (voice(), None, "whole Hz")])
def test_signals_that_are_refused(models, signal, rate, words):
    with pytest.raises(AudioError, match=words): predict(signal, rate, models[0]["svm"])


def test_the_recogniser_is_named_loaded_or_missing(models, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction, "_loaded", None)
    with pytest.raises(ValueError, match="no recogniser is loaded"): predict(voice(), RATE)
    svm, mlp = save(models[0]["svm"], tmp_path/"svm"), save(models[0]["mlp"], tmp_path/"mlp")
    load(svm)
    pd.testing.assert_frame_equal(predict(voice(), RATE), predict(voice(), RATE, models[0]["svm"]))
    pd.testing.assert_frame_equal(predict(voice(), RATE, str(mlp)), predict(voice(), RATE, models[0]["mlp"]))


def test_a_recogniser_of_other_features_is_refused(models):
    model = models[0]["svm"]
    for other, words in (("emobase2010", "1582 features, the scaler was fitted on 88"), ("eGeMAPS", "did you mean 'eGeMAPSv02'")):
        with pytest.raises(ValueError, match=words): predict(voice(), RATE, Recogniser({**model.config, "features": other}, model.arrays))


def test_files_that_fail_are_listed_and_the_rest_goes_on(models, tmp_path):
    x = voice()
    soundfile.write(tmp_path/"ein Satz ä.wav", x, RATE)
    soundfile.write(tmp_path/"48k.flac", np.stack([resample(x, RATE, 48000)]*2, 1), 48000, subtype="PCM_24")
    soundfile.write(tmp_path/"silent.wav", x*0, RATE)
    soundfile.write(tmp_path/"long.wav", np.tile(x, 600)[:8000*310], 8000)
    (tmp_path/"text.wav").write_text("text")
    files = [tmp_path/n for n in ("text.wav", "ein Satz ä.wav", "silent.wav", "none.wav", "long.wav", "48k.flac")]
    table, failures = predict_files(files, models[0]["mlp"])
    assert table.index.tolist() == [str(files[1]), str(files[5])] and failures.file.tolist() == [str(files[i]) for i in (0, 2, 3, 4)]
    for reason, words in zip(failures.reason, ("not a readable", "is silent", "no such audio file", "lasts 310 s")): assert words in reason
    pd.testing.assert_frame_equal(table.iloc[:1].reset_index(drop=True), predict(soundfile.read(files[1])[0], RATE, models[0]["mlp"]), check_exact=False, atol=1e-6)
    nothing, failures = predict_files(files[:1], models[0]["mlp"])
    assert len(nothing) == 0 and list(nothing) == list(table) and len(failures) == 1


def test_speakers_bring_their_own_mean_and_spread(models, tmp_path):
    model, signals = models[0]["speaker"], [voice(s) for s in range(4)]
    with pytest.raises(ValueError, match="at least 2 utterances of one speaker"): predict(signals[0], RATE, model)
    X = np.stack([functionals_of(s, RATE, SET) for s in signals])
    exact = (X.astype("float64") - X.mean(0, dtype="float64"))/np.where(np.ptp(X, 0) > 0, X.std(0, dtype="float64"), 1)
    found = predict(signals, RATE, model)
    np.testing.assert_allclose(found.filter(like="p_"), classify(model, exact.astype("float32")).mean(0), atol=1e-4)
    moved = Recogniser(model.config, {**model.arrays, "mean": model.arrays["mean"] + 1e3})
    pd.testing.assert_frame_equal(predict(signals, RATE, moved), found)
    for i, s in enumerate(signals): soundfile.write(tmp_path/f"{i}.wav", s, RATE, subtype="FLOAT")
    table, failures = predict_files([tmp_path/f"{i}.wav" for i in range(4)], model)
    pd.testing.assert_frame_equal(table.reset_index(drop=True), found)
    assert not len(failures)
    with pytest.raises(ValueError, match="at least 2 utterances"): predict_files([tmp_path/"0.wav", tmp_path/"none.wav"], model)
