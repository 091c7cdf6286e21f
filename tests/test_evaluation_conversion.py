"Measures of converted speech against their definitions, other implementations and themselves; leaks and bad input refused; the listening page taken apart again"
import base64
import io
import re
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import soundfile

from ser_nb.core import AudioError, LeakageError
from ser_nb.data.audio import resample
from ser_nb.data.demo import demo_utterance
from ser_nb.evaluation import conversion
from ser_nb.evaluation.conversion import (
    AGAINST_TARGET, CEILING, COPY, FEW_UTTERANCES, MEASURES, SOURCE, TARGET, align, check_items, emotion_recogniser, evaluate_conversion, f0_errors, listening_table, mcd, mean_interval,
    naturalness, phone_errors, phones, plot_measures, real_recalls, real_similarity, recognise, reference_rows, similarity, summary, thumbnail, voiced)
from ser_nb.features.cache import Features
from ser_nb.features.speaker import voice
from ser_nb.features.world import ALPHA, analyse, code_envelope, envelope, synthesise
from ser_nb.run import check_predictions
from ser_nb.statistics import holm, permutation_p


@pytest.fixture(scope="module")
def said(): return {e: demo_utterance("demo", "d1f", "female", e, 1)[0].astype("float32") for e in ("neutral", "angry")}


@pytest.fixture(scope="module")
def worlds(said): return {e: analyse(x, 16000) for e, x in said.items()}


CLICK = np.eye(1, 8000, 4000)[0]*.5


def straight(world): return (np.arange(len(world)),)*2


# ---- alignment and distortion --------------------------------------------------------------------------------------

def test_the_path_is_the_cheapest(worlds):
    a, b = (replace(w, f0=w.f0[:n], mcep=np.random.default_rng(n).normal(size=(n, 24)).astype("float32")*.1, bap=w.bap[:n]) for w, n in zip(worlds.values(), (12, 9)))
    i, j = align(a, b)
    costs = np.linalg.norm(a.mcep[:, None, 1:] - b.mcep[None, :, 1:], axis=-1).astype("float64")
    best = np.full((13, 10), np.inf)
    best[0, 0] = 0
    for m in range(12):
        for n in range(9): best[m + 1, n + 1] = costs[m, n] + min(best[m, n], best[m, n + 1], best[m + 1, n])
    assert costs[i, j].sum() == pytest.approx(best[-1, -1])
    assert (i[0], j[0], i[-1], j[-1]) == (0, 0, 11, 8)
    assert set(zip(np.diff(i), np.diff(j))) <= {(0, 1), (1, 0), (1, 1)}


def test_analyses_that_differ_are_refused(said, worlds):
    with pytest.raises(ValueError, match="analyse both signals with the same options"): align(worlds["angry"], analyse(said["neutral"], 16000, dims=30, f0_method="dio"))


@pytest.mark.parametrize("coder, tolerance", [("world", .01), ("sptk", .03)])
@pytest.mark.parametrize("ripple", [1, 4, 9])
def test_distortion_is_the_difference_of_a_known_filter_in_db(worlds, coder, tolerance, ripple):
    "A cosine along the mel axis of WORLD, and for SPTK along the warped axis of its all-pass, added to the log power spectrum"
    if coder == "sptk": pytest.importorskip("pysptk")
    options, world = dict(worlds["neutral"].options, coder=coder), worlds["neutral"]
    hertz, omega = np.linspace(0, 8000, 513), np.linspace(0, np.pi, 513)
    def mel(f): return np.log(1 + f/700)
    axis = (mel(hertz) - mel(40))/(mel(8000) - mel(40))*np.pi if coder == "world" else omega + 2*np.arctan(ALPHA*np.sin(omega)/(1 - ALPHA*np.cos(omega)))
    power = envelope(world.mcep, world.options)
    plain, filtered = (replace(world, mcep=code_envelope(p, options), options=options) for p in (power, power*np.exp(.8*np.cos(ripple*axis))))
    assert mcd(plain, filtered, straight(world)) == pytest.approx(10/np.log(10)*.8/2**.5, rel=tolerance)


def test_both_coders_mean_the_same_decibels(worlds):
    "WORLD's codec against the usual formula on SPTK's mel-cepstra of the same spectra"
    sptk = pytest.importorskip("pysptk")
    a, b = worlds["angry"], worlds["neutral"]
    steps = align(a, b)
    cepstra = [sptk.sp2mc(envelope(w.mcep, w.options), 23, ALPHA) for w in (a, b)]
    usual = 10/np.log(10)*np.sqrt(2*((cepstra[0][steps[0], 1:] - cepstra[1][steps[1], 1:])**2).sum(1)).mean()
    ours = mcd(a, b, steps)
    assert ours == pytest.approx(usual, rel=.04)
    coded = [replace(w, mcep=code_envelope(envelope(w.mcep, w.options), dict(w.options, coder="sptk")), options=dict(w.options, coder="sptk")) for w in (a, b)]
    assert mcd(*coded, steps) == pytest.approx(usual, rel=1e-5)


def test_level_and_pauses_do_not_count(said, worlds):
    x = said["neutral"]
    quiet = analyse(.2*x, 16000)
    assert mcd(worlds["neutral"], quiet, align(worlds["neutral"], quiet)) < .3
    padded = analyse(np.concatenate([np.zeros(8000, "float32"), x, np.zeros(4000, "float32")]) + 1e-5*np.random.default_rng(0).normal(size=len(x) + 12000), 16000)
    i, j = align(worlds["neutral"], padded)
    assert mcd(worlds["neutral"], padded, (i, j)) < 1 and abs(np.median(j - i) - 100) <= 1
    assert (padded.mcep[np.setdiff1d(np.arange(len(padded)), j), 0] < padded.mcep[j, 0].max() - 2).all()


# ---- F0 ------------------------------------------------------------------------------------------------------------

def test_f0_errors_are_cents_over_frames_voiced_in_both(worlds):
    world = worlds["neutral"]
    rows = np.flatnonzero(voiced(world))
    up = replace(world, f0=np.where(np.arange(len(world)) % 2, world.f0*2**(1/12), world.f0*2**(-1/12)).astype("float32"))
    found = f0_errors(world, up, straight(world))
    assert found["f0_rmse"] == pytest.approx(100, rel=1e-3) and found["voiced"] == pytest.approx(len(rows)/len(world)) and found["reason"] == ""
    upside = replace(world, f0=np.where(world.f0 > 0, 40000/np.maximum(world.f0, 1), 0).astype("float32"))
    assert f0_errors(world, upside, straight(world))["f0_correlation"] == pytest.approx(-1)


def test_frames_that_d4c_calls_unvoiced_do_not_count(worlds):
    world, half = worlds["neutral"], np.arange(len(worlds["neutral"])) < 100
    noisy = replace(world, bap=np.where(half[:, None], 0, world.bap).astype("float32"), f0=np.where(half & (world.f0 > 0), 700, world.f0).astype("float32"))
    assert not voiced(noisy)[:100].any() and f0_errors(world, noisy, straight(world))["f0_rmse"] < 1e-3


def test_no_voice_and_no_melody_are_reasons_not_errors(worlds):
    world = worlds["neutral"]
    silent = f0_errors(world, replace(world, f0=world.f0*0), straight(world))
    assert np.isnan([silent["f0_rmse"], silent["f0_correlation"]]).all() and silent["voiced"] == 0 and "voiced in both" in silent["reason"]
    flat = f0_errors(world, replace(world, f0=np.where(world.f0 > 0, 200, 0).astype("float32")), straight(world))
    assert flat["f0_rmse"] > 0 and np.isnan(flat["f0_correlation"]) and "does not vary" in flat["reason"]


# ---- speaker, naturalness, phones ----------------------------------------------------------------------------------

def test_real_similarity_is_the_mean_over_pairs():
    v = np.random.default_rng(0).normal(size=(12, 256)) + 1
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    found = real_similarity(v)
    pairs = [v[i] @ v[j] for i in range(12) for j in range(i)]
    assert found["value"] == pytest.approx(np.mean(pairs)) and found["low"] < found["value"] < found["high"] and found["n"] == 12
    assert real_similarity(np.repeat(v[:1], 5, 0))["low"] == pytest.approx(1)
    assert similarity(v[0], v[1:]) == pytest.approx(np.mean([v[0] @ x for x in v[1:]]))
    with pytest.raises(ValueError, match="two at least"): real_similarity(v[:1])


def test_a_voice_is_known_by_its_speaker(said):
    mine, other = voice(said["neutral"], 16000), voice(demo_utterance("demo", "d1m", "male", "neutral", 1)[0], 16000)
    assert mine.shape == (256,) and np.linalg.norm(mine) == pytest.approx(1, abs=1e-5)
    assert mine @ voice(resample(said["neutral"], 16000, 48000), 48000) > .97 > mine @ other
    assert np.array_equal(mine, voice(np.stack([said["neutral"]]*2), 16000))
    with pytest.raises(AudioError, match="finds no speech"): voice(CLICK, 16000)


def test_noise_is_less_natural_and_full_scale_is_no_limit(said):
    clean, noisy = (naturalness(x, 16000) for x in (said["angry"]*4, said["angry"] + .1*np.random.default_rng(0).normal(size=len(said["angry"]))))
    assert set(clean) == {"overall", "signal", "background", "p808"}
    assert all(0 < v < 5 for v in clean.values()) and clean["background"] > noisy["background"] and clean["overall"] > noisy["overall"]


def test_phones_are_heard_alike_whatever_was_heard_before(said):
    first = phones(said["neutral"], 16000)
    assert 4 < len(first) < 40 and all(re.fullmatch("[A-Z]{1,2}", p) for p in first)
    phones(said["angry"], 16000)
    assert phones(said["neutral"], 16000) == first


@pytest.mark.parametrize("heard, reference, edits", [("abc", "abc", 0), ("", "abc", 3), ("abxc", "abc", 1), ("ac", "abc", 1), ("axc", "abc", 1), ("intention", "execution", 5), ("ca", "abc", 3), ("aaaaaa", "b", 6)])
def test_phone_errors_are_edits(heard, reference, edits): assert phone_errors(list(heard), list(reference)) == pytest.approx(edits/len(reference))


def test_a_source_without_phones_is_no_reference():
    with pytest.raises(AudioError, match="hears no phone"): phone_errors(["AH"], [])


# ---- the recogniser ------------------------------------------------------------------------------------------------

def rows(speakers, corpus="x", n=8, seed=0, shift=0., scale=1.):
    "Made-up features: two emotions apart by a known direction, every speaker elsewhere"
    rng = np.random.default_rng(seed)
    table = pd.DataFrame([dict(corpus=corpus, file=f"{s}/{e}{i}.wav", start=0., end=np.nan, speaker=s, gender="", session="", sentence=str(i), emotion=e) for s in speakers for e in ("angry", "sad") for i in range(n)])
    place = dict(zip(speakers, rng.normal(size=(len(speakers), 6))*5))
    X = np.stack([place[s] for s in table.speaker]) + np.where(table.emotion == "angry", 1.5, -1.5)[:, None]*[1, 1, 0, 0, 0, 0] + rng.normal(size=(len(table), 6))*.5
    return Features((X*scale + shift).astype("float32"), list("abcdef"), table, pd.DataFrame(columns=["file", "start", "end", "reason"]), f"{corpus}{seed}", 0)


def part(found, keep): return replace(found, X=found.X[keep], table=found.table[keep].reset_index(drop=True))


def of_one(found, sentences): return part(found, found.table.sentence.isin([str(s) for s in sentences]).to_numpy())


def test_a_recogniser_hears_a_speaker_it_has_never_seen():
    others, mine = rows(["f1", "f2", "m1"]), rows(["me"], "y", seed=1, shift=40, scale=3)
    made = emotion_recogniser(others, of_one(mine, range(5)))
    predictions = check_predictions(recognise(made, of_one(mine, (5, 6, 7))))
    assert (predictions.truth == predictions.prediction).all() and set(predictions.filter(like="p_")) == {"p_angry", "p_sad"}
    log = pd.DataFrame(made["fitted"]).set_index("what")
    assert log.index.tolist() == ["emotion recogniser", "scaler of speaker x/f1", "scaler of speaker x/f2", "scaler of speaker x/m1", "scaler of speaker y/me"]
    assert log.test_rows.tolist() == [0, 0, 0, 0, 10] and log.transductive.tolist() == [False]*4 + [True] and log.rows.tolist() == [48, 16, 16, 16, 10]
    recalls = real_recalls(predictions)
    assert recalls.recall.tolist() == [1, 1] and recalls.counted.all() and recalls.n.tolist() == [3, 3]


def test_recalls_under_a_half_are_not_counted():
    predictions = pd.DataFrame(dict(truth=["angry"]*10 + ["sad"]*10, prediction=["angry"]*4 + ["sad"]*6 + ["sad"]*5 + ["angry"]*5))
    recalls = real_recalls(predictions)
    assert recalls.recall.tolist() == [.4, .5] and recalls.counted.tolist() == [False, True] and (recalls.low < recalls.recall).all() and (recalls.recall < recalls.high).all()


def test_labels_of_the_speaker_are_not_used():
    others, mine = rows(["f1", "f2", "m1"]), rows(["me"], "y", seed=1)
    own, clips = of_one(mine, range(5)), of_one(mine, (5, 6, 7))
    swapped = replace(own, table=own.table.assign(emotion=own.table.emotion.to_numpy(object)[::-1]))
    a, b = (recognise(emotion_recogniser(others, o), clips) for o in (own, swapped))
    pd.testing.assert_frame_equal(a, b)


def test_leaks_are_refused():
    others, mine = rows(["f1", "f2", "me"], "y"), rows(["me"], "y", seed=1)
    with pytest.raises(LeakageError, match="rows of test speakers"): emotion_recogniser(others, of_one(mine, range(5)))
    others = rows(["f1", "f2", "me"], "x")   # another speaker of that name, in another corpus
    made = emotion_recogniser(others, of_one(mine, range(5)))
    with pytest.raises(LeakageError, match="share sentences"): recognise(made, of_one(mine, (4, 5)))
    untold = replace(mine, table=mine.table.assign(sentence=""))
    with pytest.raises(LeakageError, match="share files"): recognise(made, part(untold, np.arange(len(mine)) < 3))


@pytest.mark.parametrize("others, own, said", [
    (lambda: rows(["f1", "f2"]), lambda: rows(["me", "you"], "y"), "2 speakers are to be evaluated"),
    (lambda: part(rows(["f1", "f2"]), np.arange(32) % 16 < 8), lambda: rows(["me"], "y"), "two emotions are needed"),
    (lambda: rows(["f1", "f2"]), lambda: replace(rows(["me"], "y"), names=list("ghijkl")), "different feature sets")])
def test_what_makes_no_recogniser(others, own, said):
    with pytest.raises(ValueError, match=said): emotion_recogniser(others(), own())


def test_nothing_to_recognise():
    made = emotion_recogniser(rows(["f1", "f2"]), rows(["me"], "y"))
    with pytest.raises(ValueError, match="no utterance to recognise"): recognise(made, [])


# ---- items ---------------------------------------------------------------------------------------------------------

def item(said, **other): return dict(utterance="s1", system="x", source=(said["neutral"], 16000), target=(said["angry"], 16000), converted=(said["neutral"], 16000)) | other


@pytest.mark.parametrize("change, error, match", [
    (dict(converted=(np.full(16000, np.nan), 16000)), AudioError, "utterance 's1', system 'x', converted: has NaN"),
    (dict(converted=(np.zeros(16000), 16000)), AudioError, "converted: is silent"),
    (dict(target=(np.ones(800), 16000)), AudioError, "target: lasts 0.050 s"),
    (dict(source=(np.zeros((16000, 2)), 16000)), AudioError, "source: signal of shape"),
    (dict(source=(np.ones(16000), 16000.5)), AudioError, "source: sampling rate"),
    (dict(converted=np.ones(16000)), ValueError, r"converted: expected a pair \(signal, Hz\)"),
    (dict(converted=None), ValueError, "expected a pair")])
def test_signals_that_are_none(said, change, error, match):
    with pytest.raises(error, match=match): check_items([item(said, **change)])


def test_items_that_are_none(said):
    with pytest.raises(ValueError, match="nothing to evaluate"): evaluate_conversion([])
    with pytest.raises(ValueError, match="lacks system"): check_items([{k: v for k, v in item(said).items() if k != "system"}])
    with pytest.raises(ValueError, match="is there twice"): check_items([item(said)]*2)
    given = item(said)
    checked, = check_items([given])
    assert checked["converted"].dtype == "float32" and isinstance(given["converted"], tuple)


def test_reference_rows_are_floor_and_ceilings(said):
    made = {i["system"]: i for i in reference_rows([dict(utterance="s1", pair="n>a", source=(said["neutral"], 16000), target=(said["angry"], 16000)), dict(utterance="s2", source=(said["neutral"], 16000))], f0_method="dio") if i["utterance"] == "s1"}
    assert list(made) == [SOURCE, COPY, CEILING, TARGET] and made[COPY]["pair"] == "n>a"
    np.testing.assert_array_equal(made[CEILING]["converted"][0], synthesise(analyse(said["angry"], 16000, f0_method="dio")))
    assert len(made[COPY]["converted"][0]) == len(said["neutral"])


# ---- evaluation ----------------------------------------------------------------------------------------------------

def test_the_table_says_what_the_functions_say(said, worlds):
    items = [item(said, system="a", pair="n>a"), item(said, system="b", pair="n>a", converted=(said["angry"], 16000))]
    found = evaluate_conversion(items, f0_method="harvest")
    assert found.columns.tolist() == ["utterance", "system", "pair", "measure", "value", "reason"] and found.measure.tolist() == [*AGAINST_TARGET]*2
    steps = align(worlds["angry"], worlds["neutral"])
    values = found[found.system == "a"].set_index("measure").value
    assert values.mcd == mcd(worlds["angry"], worlds["neutral"], steps)
    assert values.f0_rmse == f0_errors(worlds["angry"], worlds["neutral"], steps)["f0_rmse"]
    assert values.duration == pytest.approx((len(said["neutral"]) - len(said["angry"]))/16000)
    assert found[found.system == "b"].value.tolist() == [0, 0, pytest.approx(1), pytest.approx(voiced(worlds["angry"])[align(worlds["angry"], worlds["angry"])[0]].mean()), 0]


def test_rows_come_in_the_order_of_the_items(said):
    clips = {"s1": said["neutral"][:8000], "s2": said["angry"][:9000], "s3": said["neutral"][2000:9000]}
    items = [dict(utterance=u, system=s, source=(x, 16000), target=(x, 16000), converted=(x[:k], 16000)) for s, k in (("a", 6000), ("b", 5000)) for u, x in clips.items()]
    found = evaluate_conversion(items, ["duration"], f0_method="dio")
    assert list(zip(found.utterance, found.system)) == [(i["utterance"], i["system"]) for i in items]
    np.testing.assert_allclose(found.value, [(len(i["converted"][0]) - len(i["source"][0]))/16000 for i in items])


def test_no_target_and_no_voice_are_reasons(said):
    noise = np.random.default_rng(0).normal(size=16000)*.05
    found = evaluate_conversion([item(said, target=None), item(said, utterance="s2", converted=(noise, 16000))], f0_method="dio").set_index(["utterance", "measure"])
    assert found.loc["s1"].value.isna().all() and set(found.loc["s1"].reason) == {"no target"}
    assert np.isnan(found.value["s2", "f0_rmse"]) and "voiced in both" in found.reason["s2", "f0_rmse"] and found.value["s2", "mcd"] > 5 and found.reason["s2", "mcd"] == ""


def test_sampling_rates_may_differ(said):
    at_48k = (resample(said["neutral"], 16000, 48000), 48000)
    mixed, both = (evaluate_conversion([item(said, target=at_48k, converted=c)], f0_method="dio").set_index("measure").value for c in ((said["neutral"], 16000), at_48k))
    assert mixed.f0_rmse < 1 and mixed.duration == 0 and mixed.mcd < 4, "the band edge of the resampler is a difference"
    assert both.mcd == both.f0_rmse == 0


def test_measures_need_what_they_need(said):
    for measures, match in ((["mdc"], "did you mean 'mcd'"), (["similarity"], "needs references"), (["recognised"], "needs a recogniser")):
        with pytest.raises(ValueError, match=match): evaluate_conversion([item(said)], measures)
    made = emotion_recogniser(rows(["f1", "f2"]), rows(["me"], "y"))
    with pytest.raises(ValueError, match="target emotion of utterance 's1'"): evaluate_conversion([item(said, emotion="angri")], ["recognised"], recogniser=made)


@pytest.mark.parametrize("measure, package, extra", [("similarity", "resemblyzer", "speaker"), ("naturalness", "speechmos.dnsmos", "quality"), ("phone_errors", "pocketsphinx", "phones")])
def test_a_missing_package_names_its_extra(said, monkeypatch, measure, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"ser_nb\[{extra}\]"): evaluate_conversion([item(said)], ["mcd", measure], np.ones((2, 256)))


def test_the_default_needs_no_extra_package(said, monkeypatch):
    for package in ("resemblyzer", "speechmos", "speechmos.dnsmos", "pocketsphinx", "pysptk"): monkeypatch.setitem(sys.modules, package, None)
    assert evaluate_conversion([item(said)], f0_method="dio").value.notna().all()


def test_measures_without_a_target(said, monkeypatch):
    "The whole way for every optional measure; what a target emotion is and what the voice detector refuses"
    monkeypatch.setattr(conversion, "naturalness", lambda signal, sampling_rate: dict(overall=3.))
    monkeypatch.setattr(conversion, "functionals_of", lambda signal, sampling_rate, features: np.full(6, 100*signal.max(), "float32"))
    made = emotion_recogniser(rows(["f1", "f2"]), rows(["me"], "y"))
    loud = recognise(made, [(said["neutral"], 16000)]).prediction.iat[0]
    items = [item(said, target=None, emotion=loud), item(said, utterance="s2", target=None, emotion={"angry": "sad", "sad": "angry"}[loud]), item(said, utterance="s3", emotion="sad", converted=(CLICK, 16000))]
    found = evaluate_conversion(items, ["similarity", "naturalness", "phone_errors", "recognised"], voice(said["neutral"], 16000)[None], made).set_index(["utterance", "measure"])
    assert found.value["s1"].tolist() == [pytest.approx(1), 3, 0, 1] and found.value["s2", "recognised"] == 0
    assert np.isnan(found.value["s3", "similarity"]) and "finds no speech" in found.reason["s3", "similarity"]


# ---- summary -------------------------------------------------------------------------------------------------------

def results(n=24, seed=0):
    rng = np.random.default_rng(seed)
    floor = rng.normal(7, 1, n)
    systems = {SOURCE: floor, COPY: floor + .1, "good": floor - .8 + .3*rng.normal(size=n), "lucky": floor + rng.normal(size=n), TARGET: np.zeros(n)}
    return pd.DataFrame([dict(utterance=f"s{i}", system=s, measure=m, value=v[i] if m == "mcd" else v[i]/20, reason="") for m in ("mcd", "f0_rmse") for s, v in systems.items() for i in range(n)])


def test_a_summary_is_means_and_paired_differences():
    found = summary(results())
    good = found[(found.measure == "mcd") & (found.system == "good")].iloc[0]
    wide = results().query("measure == 'mcd'").pivot(index="utterance", columns="system", values="value")
    d = (wide["good"] - wide[SOURCE]).to_numpy()
    assert good["mean"] == pytest.approx(wide["good"].mean()) and good.difference == pytest.approx(d.mean()) and good.difference_low < good.difference < good.difference_high < 0
    assert good.difference_high - good.difference_low == pytest.approx(2*1.96*d.std()/len(d)**.5, rel=.15)
    assert good.difference_high - good.difference_low < (good.high - good.low)/2, "pairs are compared, not means"
    assert good.p == permutation_p(np.zeros(len(d)), d) and good.p < .001
    tests = found[found.measure == "mcd"].dropna(subset="p")
    assert tests.system.tolist() == ["good", "lucky"] and tests.p_holm.tolist() == holm(tests.p).tolist()
    assert found[found.system == SOURCE][["difference", "difference_low", "p", "p_holm"]].isna().all(None) and not found.small.any()


def test_a_summary_does_not_depend_on_the_order_of_rows():
    a, b = summary(results()), summary(results().sample(frac=1, random_state=1))
    pd.testing.assert_frame_equal(a.sort_values(["measure", "system"], ignore_index=True), b.sort_values(["measure", "system"], ignore_index=True))


def test_another_system_can_be_compared_with():
    table = results()
    found = summary(table, against=COPY).set_index(["measure", "system"])
    assert found.difference["mcd", SOURCE] == pytest.approx(-.1) and np.isnan(found.difference["mcd", COPY])
    with pytest.raises(ValueError, match="unknown system 'god': did you mean 'good'"): summary(table, against="god")
    with pytest.raises(ValueError, match="needs its floor"): summary(table[table.system != SOURCE])


def test_gaps_are_left_out_in_pairs():
    table = results()
    gap = (table.utterance == "s0") & (table.system == "good")
    found = summary(table.assign(value=table.value.where(~gap)))
    rest = summary(table[~gap])
    pd.testing.assert_frame_equal(found, rest)
    assert found.set_index(["measure", "system"]).n["mcd"].to_dict() == {SOURCE: 24, COPY: 24, "good": 23, "lucky": 24, TARGET: 24}
    with pytest.warns(UserWarning, match="small"): empty = summary(table.assign(value=table.value.where(table.system != "good")))
    assert empty[empty.system == "good"][["mean", "low", "difference", "p"]].isna().all(None) and (empty[empty.system == "good"].n == 0).all()


@pytest.mark.parametrize("n, small", [(FEW_UTTERANCES, False), (FEW_UTTERANCES - 1, True)])
def test_small_test_sets_are_called_small(n, small, recwarn):
    found = summary(results(n))
    assert found.small.all() == small == any("the test set is small" in str(w.message) for w in recwarn)


@pytest.mark.parametrize("on_target, recall, counted", [(.6, None, True), (.4, None, False), (.4, .8, True), (.9, .49, False), (None, None, False), (None, .5, True)])
def test_recognition_counts_where_the_recogniser_does(on_target, recall, counted):
    systems = {SOURCE: .1, "x": .5} | ({TARGET: on_target} if on_target is not None else {})
    table = pd.DataFrame([dict(utterance=i, system=s, measure=m, value=float(i < 20*v), reason="") for m in ("recognised", "mcd") for s, v in systems.items() for i in range(20)])
    found = summary(table, recall=recall)
    assert (found[found.measure == "recognised"].counted == counted).all() and found[found.measure == "mcd"].counted.all()


def test_one_utterance_has_no_interval():
    assert mean_interval([3.])[0] == 3 and np.isnan(mean_interval([3.])[1:]).all() and np.isnan(mean_interval([])).all()
    with pytest.warns(UserWarning, match="small"): one = summary(results(1))
    assert one["mean"].notna().all() and one[["low", "high", "difference_low", "p"]].isna().all(None)


# ---- figure and page -----------------------------------------------------------------------------------------------

def test_the_figure_has_a_panel_for_each_measure():
    figure = plot_measures(summary(results()), "made up")
    drawn = [ax for ax in figure.axes if ax.axison]
    assert [ax.get_title().splitlines()[0] for ax in drawn] == [MEASURES[m][0] for m in ("mcd", "f0_rmse")]
    dots = [line.get_xdata()[0] for line in drawn[0].lines if line.get_marker() == "o"]
    assert len(dots) == 4 and 0 not in dots, "the target against itself is not drawn"
    figure.savefig(io.BytesIO(), format="png")


def test_the_page_holds_the_signals_themselves(said):
    from PIL import Image
    items = [item(said, system=s, converted=(said[e]*g, 16000)) for s, e, g in (("a", "neutral", 1), ("b", "angry", 9))] + [item(said, utterance="s2")]
    page = listening_table(items)
    sounds = [soundfile.read(io.BytesIO(base64.b64decode(s))) for s in re.findall(r"data:audio/flac;base64,([^\"]+)", page)]
    assert [rate for _, rate in sounds] == [16000]*3
    np.testing.assert_allclose(sounds[0][0], said["neutral"], atol=1/32768)
    np.testing.assert_allclose(sounds[1][0], np.clip(said["angry"]*9, -1, 1), atol=2/32768)
    pictures = [Image.open(io.BytesIO(base64.b64decode(s))) for s in re.findall(r"data:image/png;base64,([^\"]+)", page)]
    assert [p.size for p in pictures] == [(1 + len(x)//160, 64) for x, _ in sounds] and len(set(np.asarray(pictures[0]).ravel())) > 16
    assert page.count("<td>–</td>") == 3 and page.count("<tr>") == 3 and page.startswith("<!doctype html>") and not re.search(r"(src|href)=\"(?!data:)", page)
    assert len(page) < 60e3*sum(len(x) for x, _ in sounds)/16000


def test_names_cannot_break_the_page(said):
    page = listening_table([item(said, system='<script>alert("x")</script>', utterance="a & b")], "1 < 2")
    assert "<script" not in page and "&lt;script&gt;" in page and "<th>a &amp; b</th>" in page and "<h3>1 &lt; 2</h3>" in page


def test_a_page_needs_converted_signals_only(said):
    assert "<audio" in listening_table([dict(utterance=1, system="x", converted=(said["angry"], 16000))])
    with pytest.raises(ValueError, match="nothing to evaluate"): listening_table([])
    with pytest.raises(AudioError, match="converted: is silent"): listening_table([item(said, converted=(np.zeros(16000), 16000))])


def test_thumbnails_of_long_signals_stay_small():
    from PIL import Image
    wide = Image.open(io.BytesIO(thumbnail(np.random.default_rng(0).normal(size=16000*40))))
    assert wide.size[0] <= 301 and wide.size[1] == 64
