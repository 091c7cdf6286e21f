"Features: one for each sound utterance whatever lies beside it, from a cache that is never wrong; functionals as openSMILE and the papers have them"
import os
import re
import shutil
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from glob import glob
from pathlib import Path

import numpy as np
import opensmile
import pandas as pd
import pytest
import soundfile

from ser_nb.core import AudioError
from ser_nb.data.audio import read_audio, resample
from ser_nb.data.corpus import cut, demo_tones, make_corpus
from ser_nb.data.demo import demo_utterance
from ser_nb.features.cache import columns, content_key, extract, join
from ser_nb.features.functionals import FEATURE_SETS, emobase2010_config, extractor, feature_names, functionals, functionals_of, made_of, patch_is10

RATE, SET = 16000, "eGeMAPSv02"


def voice(seconds=1., seed=0, rate=RATE):
    "Something with pitch, formants and noise"
    rng, t = np.random.default_rng(seed), np.arange(round(seconds*rate))/rate
    phase = 2*np.pi*np.cumsum(140 + 30*seed + 40*np.sin(5*t))/rate
    x = sum(np.sin(k*phase)/(1 + abs(k*150 - 700)/300) for k in range(1, 20))*(.2 + np.abs(np.sin(2*np.pi*2*t))) + .02*rng.normal(size=len(t))
    return (.3*x/np.abs(x).max()).astype("float32")


def statistics(signal, rate): return [signal.mean(), signal.std(), len(signal)/rate]
def slow_statistics(signal, rate):
    time.sleep(.04)
    return statistics(signal, rate)


def of(corpus, compute=statistics, root=None, workers=2, **made): return extract(corpus, compute, ["mean", "sd", "seconds"], dict(made, name="statistics"), RATE, workers, root)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SER_NB_CACHE", str(tmp_path/"cache"))
    return tmp_path/"cache"


@pytest.fixture
def tones(tmp_path): return make_corpus("tones", demo_tones(tmp_path/"tones", 8), tmp_path/"tones")


def entries(cache): return sorted(map(Path, glob(f"{cache}/**/*.npy", recursive=True)))  # without temporary folders, which may vanish under a walk


# A batch with every fault

def batch(folder):
    "Sound files under every name and format, and broken ones; returns what must become of each: words of the reason, or None"
    folder.mkdir()
    x = (voice()*32768).astype("int16")
    def write(name, signal=x, rate=RATE, **how):
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder/name, signal, rate, **how)
        return None
    high = {r: resample(voice(), RATE, r) for r in (8000, 48000, 96000)}
    fate = {"16k.wav": write("16k.wav"), **{f"{r//1000}k.wav": write(f"{r//1000}k.wav", s, r) for r, s in high.items()}, "stereo.wav": write("stereo.wav", np.stack([x, x], 1)), "deep.wav": write("deep.wav", subtype="PCM_24"),
            "float.wav": write("float.wav", x/32768, subtype="FLOAT"), "a.flac": write("a.flac"), "a.ogg": write("a.ogg"), "ein Ordner/ä 语 (1).wav": write("ein Ordner/ä 语 (1).wav"), "full.wav": write("full.wav", np.where(x < 0, -32768, 32767).astype("int16"))}
    write("silent.wav", x*0), write("short.wav", x[:800]), write("none.wav", x[:0]), write("nan.wav", np.where(voice() > .2, np.nan, voice()), subtype="FLOAT"), write("ints.wav", voice()*32768, subtype="FLOAT")
    whole, flac = (folder/"16k.wav").read_bytes(), (folder/"a.flac").read_bytes()
    for name, content in {"text.wav": b"hello", "empty.wav": b"", "header.wav": whole[:30], "cut.wav": whole[:9000], "cut.flac": flac[:len(flac)//2]}.items(): (folder/name).write_bytes(content)
    soundfile.write(folder/"hour.wav", np.tile(voice(.5, rate=8000), 7200), 8000, subtype="PCM_U8")
    return {**fate, "silent.wav": "is silent", "short.wav": "lasts 0.050 s", "none.wav": "holds no samples", "nan.wav": "NaN", "ints.wav": "full scale is 1", "text.wav": "not a readable", "empty.wav": "0 bytes",
            "header.wav": "not a readable", "cut.wav": "truncated", "cut.flac": "damaged", "hour.wav": "lasts 3600 s", "gone.wav": "no such audio file"}


def test_a_batch_names_the_bad_and_does_the_rest(tmp_path, cache):
    fate = batch(tmp_path/"mixed")
    speakers = {f: f"speaker of {f}" for f in fate}
    corpus = make_corpus("mixed", [dict(file=f, speaker=speakers[f], emotion="sad") for f in fate], tmp_path/"mixed")
    found = functionals(corpus, SET)
    said = {**dict(zip(corpus.problems.file, corpus.problems.reason)), **dict(zip(found.failures.file, found.failures.reason))}
    assert set(said) == {f for f, words in fate.items() if words} and set(found.table.file) == {f for f, words in fate.items() if not words}
    for file, reason in said.items(): assert fate[file] in reason and file in reason and "\n" not in reason, reason
    assert found.table.speaker.tolist() == [speakers[f] for f in found.table.file] and list(found.table.index) == list(range(len(found))) == list(range(len(found.X)))
    for i, file in enumerate(found.table.file): np.testing.assert_array_equal(found.X[i], functionals_of(*read_audio(tmp_path/"mixed"/file, sampling_rate=RATE), SET))
    row = found.frame()
    for same in ("stereo.wav", "a.flac", "deep.wav", "float.wav", "ein Ordner/ä 语 (1).wav"): np.testing.assert_array_equal(row.loc[same], row.loc["16k.wav"], same)
    for like in ("8k.wav", "48k.wav", "96k.wav", "a.ogg"): assert row.loc[like, "F0semitoneFrom27.5Hz_sma3nz_amean"] == pytest.approx(row.loc["16k.wav", "F0semitoneFrom27.5Hz_sma3nz_amean"], abs=.1)
    again = functionals(corpus, SET)
    assert again.computed == 0 and again.key == found.key and again.failures.equals(found.failures)


def test_an_hour_is_cut_with_flat_memory(tmp_path, cache):
    soundfile.write(tmp_path/"hour.wav", np.tile(voice(.5, rate=8000), 7200), 8000, subtype="PCM_U8")
    hour = make_corpus("talk", [dict(file="hour.wav")], tmp_path)
    pieces = cut(hour, 60)
    resample(voice(rate=8000), 8000, RATE)
    tracemalloc.start()
    try:
        found = of(pieces)
        with pytest.raises(ValueError, match="no utterance has features, all 1 failed; the first: .*hour.wav: lasts 3600 s, an utterance at most 300 s; cut it"): of(hour)
        assert tracemalloc.get_traced_memory()[1] < 25e6   # an hour is 230 MB
    finally: tracemalloc.stop()
    assert len(found) == 60 and np.allclose(found.X[:, 2], 60)


# The cache

def test_keys_are_the_audio_and_what_made_the_numbers(tones, cache):
    assert of(tones).computed == 8 and of(tones).computed == 0
    base = of(tones)
    for change in (dict(option=1), dict(option=2), dict(other=1)): assert of(tones, **change).computed == 8 and of(tones, **change).key != base.key
    assert extract(tones, statistics, base.names, dict(name="statistics"), 8000).computed == 8
    table = tones.table.assign(emotion="sad", speaker="z", gender="", corpus="y")
    relabelled = of(replace(tones, table=table))
    assert relabelled.computed == 0 and relabelled.key == base.key and relabelled.table.emotion.tolist() == ["sad"]*8
    for column, value in (("start", .1), ("end", .4)): assert of(replace(tones, table=tones.table.assign(**{column: value}))).computed == 8
    assert of(replace(tones, table=tones.table.iloc[::-1].reset_index(drop=True))).key != base.key


def test_every_option_of_functionals_is_in_the_key():
    made = [made_of(f) for f in FEATURE_SETS]
    assert len({str(m) for m in made}) == 3 and all({"features", "patch", "opensmile", "libsndfile", "soxr"} <= set(m) for m in made)
    keys = {content_key("a", s, e, m) for s in (0., 1e-6, .5) for e in (1., 1.000001, float("nan")) for m in "xy"}
    assert len(keys) == 18


@pytest.mark.parametrize("place", [24, 40, 44, 1000, -1])
def test_any_byte_of_audio_matters(tones, cache, place):
    of(tones)
    content = bytearray(tones.path(3).read_bytes())
    content[place] ^= 1
    tones.path(3).write_bytes(content)
    found = of(tones)
    assert found.computed + len(found.failures) == 1


def test_a_renamed_or_copied_corpus_keeps_its_features(tones, cache, tmp_path):
    first = of(tones)
    rows = []
    for i in range(8):
        file = f"renamed ü/{7 - i}.wav"
        (tmp_path/"other"/file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tones.path(i), tmp_path/"other"/file)
        os.utime(tmp_path/"other"/file, (0, 0))
        rows.append(dict(file=file))
    moved = of(make_corpus("other", rows, tmp_path/"other"))
    assert moved.computed == 0
    np.testing.assert_array_equal(moved.X, first.X[::-1])


def ruins(sound):
    other = {"shape": np.zeros(4, "float32"), "type": np.zeros(3), "object": np.array([None]*3, object), "scalar": np.float32(1)}
    def saved(values):
        import io
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=True)
        return buffer.getvalue()
    return {**{k: saved(v) for k, v in other.items()}, "empty": b"", "text": b"not an array", "zip": b"PK\x03\x04" + sound[4:], "long": sound + b"\0", "zeros": bytes(len(sound)), "nan": saved(np.full(3, np.nan, "float32")),
            **{f"cut{n}": sound[:n] for n in (1, 6, 10, 60, len(sound) - 1)}, **{f"byte{n}": sound[:n] + bytes([sound[n] ^ 7]) + sound[n + 1:] for n in (0, 5, 6, 8, 9, 12, 40, 61, 126)}}


def test_ruined_entries_are_made_again(tones, cache):
    first = of(tones)
    entry = entries(cache)[4]
    sound = entry.read_bytes()
    for name, content in ruins(sound).items():
        if name == "nan": continue   # bytes of a sound entry; see the next test
        entry.write_bytes(content)
        again = of(tones)
        assert again.computed == 1, name
        np.testing.assert_array_equal(again.X, first.X)
        assert entry.read_bytes() == sound, name


def test_features_that_are_not_finite_are_failures_and_not_kept(tones, cache):
    def broken(signal, rate): return [np.nan if len(signal) < 9000 else 1, np.inf if len(signal) > 20000 else 1, 1]
    found = of(tones, broken, option="broken")
    lengths = [soundfile.info(str(tones.path(i))).frames for i in range(8)]
    assert found.failures.file.tolist() == [tones.table.file[i] for i in range(8) if not 9000 <= lengths[i] <= 20000]
    assert found.failures.reason.str.contains("1 of 3 features are not finite").all() and len(entries(cache)) == len(found) == found.computed
    with pytest.raises(ValueError, match="all 8 failed"): of(tones, lambda s, r: [np.nan]*3, option="nan")


def test_a_fault_of_the_program_is_no_fault_of_the_file(tones, cache):
    def wrong(signal, rate): raise ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError): of(tones, wrong, option="bug")
    with pytest.raises(ValueError, match="broadcast"): of(tones, lambda s, r: [1., 2.], option="two")
    assert entries(cache) == [] and [p for p in cache.rglob(".*") if p.is_file()] == []


def test_a_cache_that_cannot_be_written_is_named(tones, tmp_path, monkeypatch):
    (tmp_path/"taken").write_text("a file")
    monkeypatch.setenv("SER_NB_CACHE", str(tmp_path/"taken"))
    with pytest.raises(OSError, match="cannot write to .*taken.*SER_NB_CACHE"): of(tones)


def test_workers_change_nothing(tones, cache, tmp_path):
    for name in (SET, "emobase2010"):
        alone, crowd = [], []
        for n, found in ((1, alone), (8, crowd)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("SER_NB_CACHE", str(tmp_path/f"{name}{n}"))
                found.append(functionals(tones, name, workers=n))
        assert alone[0].computed == crowd[0].computed == 8
        np.testing.assert_array_equal(alone[0].X, crowd[0].X)


def start(cache, program, *words):
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from test_features import *\n{program}"
    return subprocess.Popen([sys.executable, "-c", program, *map(str, words)], stderr=subprocess.PIPE, text=True, env={**os.environ, "SER_NB_CACHE": str(cache), "OMP_NUM_THREADS": "1"})


def test_two_processes_at_once_write_what_one_writes(tmp_path, cache):
    rows = demo_tones(tmp_path/"tones", 24)
    corpus = make_corpus("tones", rows, tmp_path/"tones")
    program = "rows = [dict(file=f) for f in sys.argv[2:]]\nfunctionals(make_corpus('tones', rows, sys.argv[1]), 'emobase2010')"
    both = [start(tmp_path/"both", program, tmp_path/"tones", *(r["file"] for r in some)) for some in (rows, rows[::-1])]
    one = functionals(corpus, "emobase2010")
    for process in both:
        _, said = process.communicate(timeout=100)
        assert process.returncode == 0, said
    content = [{p.relative_to(folder).as_posix(): p.read_bytes() for p in entries(folder)} for folder in (cache/"features", tmp_path/"both"/"features")]
    assert content[0] == content[1] and len(content[0]) == one.computed == 24
    assert not [p for p in (tmp_path/"both").rglob(".*")], "something half-written was left"


def test_a_kill_loses_only_what_was_in_hand(tmp_path, cache):
    corpus = make_corpus("tones", demo_tones(tmp_path/"tones", 40), tmp_path/"tones")
    process = start(cache, "of(make_corpus('tones', [dict(file=f) for f in sys.argv[2:]], sys.argv[1]), slow_statistics)", tmp_path/"tones", *corpus.table.file)
    until = time.time() + 60
    while len(entries(cache)) < 10 and time.time() < until: time.sleep(.005)
    process.kill()
    process.communicate()
    kept = len(entries(cache))
    assert 10 <= kept < 36
    found = of(corpus)
    assert found.computed == 40 - kept and of(corpus).computed == 0
    np.testing.assert_array_equal(found.X, of(corpus, root=tmp_path/"fresh").X)


def test_two_corpora_joined(tones, cache, tmp_path):
    rows = demo_tones(tmp_path/"others", 3)
    soundfile.write(tmp_path/"others"/"silence.wav", np.zeros(RATE), RATE)
    others = make_corpus("others", [*rows, dict(file="silence.wav")], tmp_path/"others")
    a, b = of(tones), of(others)
    both = join(a, b)
    np.testing.assert_array_equal(both.X, np.concatenate([a.X, b.X]))
    pd.testing.assert_frame_equal(both.table.iloc[8:].reset_index(drop=True), b.table)
    assert both.table.corpus.tolist() == ["tones"]*8 + ["others"]*3 and both.table.index.tolist() == list(range(11)) and both.names == a.names
    assert both.failures.file.tolist() == ["silence.wav"] and both.computed == a.computed + b.computed
    assert len({a.key, b.key, both.key, join(b, a).key}) == 4 and join(of(tones), of(others)).key == both.key
    for names in (a.names[:2], a.names[::-1], ["x", *a.names[1:]]):
        with pytest.raises(ValueError, match="different feature sets: . features beside 3"): join(replace(a, X=a.X[:, :len(names)], names=names), b)


def test_some_columns_by_name(tones, cache):
    found = of(tones)
    some = columns(found, ["seconds", "mean"])
    np.testing.assert_array_equal(some.X, found.X[:, [2, 0]])
    assert some.names == ["seconds", "mean"] and some.table is found.table and found.names == ["mean", "sd", "seconds"]
    assert len({key for key in (found.key, some.key, columns(found, ["mean", "seconds"]).key, columns(found, found.names).key)}) == 4
    for names, words in ((["second"], "did you mean 'seconds'"), (["mean", "mean"], "2 feature names, 1 of them different"), ([], "0 feature names")):
        with pytest.raises(ValueError, match=words): columns(found, names)


# Functionals

@pytest.mark.parametrize("name, feature_set", [(SET, opensmile.FeatureSet.eGeMAPSv02), ("ComParE_2016", opensmile.FeatureSet.ComParE_2016)])
def test_values_are_those_of_opensmile(name, feature_set):
    smile, x = opensmile.Smile(feature_set, opensmile.FeatureLevel.Functionals), voice()
    table = smile.process_signal(x, RATE)
    np.testing.assert_array_equal(functionals_of(x, RATE, name), table.to_numpy("float32")[0])
    assert feature_names(name) == list(table.columns) and len(table.columns) == FEATURE_SETS[name]
    np.testing.assert_array_equal(functionals_of(resample(x, RATE, 48000), 48000, name), smile.process_signal(resample(resample(x, RATE, 48000), 48000, RATE), RATE).to_numpy("float32")[0])


def test_a_wav_gives_what_opensmile_reads_from_it(tmp_path):
    soundfile.write(tmp_path/"a.wav", voice(), RATE)
    table = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals).process_file(str(tmp_path/"a.wav"))
    np.testing.assert_allclose(functionals_of(*read_audio(tmp_path/"a.wav"), SET), table.to_numpy("float32")[0], rtol=1e-5, atol=1e-5)


IS10 = Path(opensmile.__file__).parent/"core"/"config"/"is09-13"/"IS10_paraling_compat.conf"


VOICED = "F0|voicing|jitter|shimmer"


def speech(): return demo_utterance("demo", "d2f", "female", "angry", 2)[0].astype("float32")


def variant(folder, text):
    "A configuration beside its includes, as an extractor"
    shutil.copytree(IS10.parents[1], folder/"config")
    (folder/"config"/"is09-13"/"variant.conf").write_text(text)
    return opensmile.Smile(str(folder/"config"/"is09-13"/"variant.conf"), "func")


def test_emobase2010_is_not_is10(tmp_path):
    names, x = feature_names("emobase2010"), speech()
    assert len(names) == len(set(names)) == 1582 and names[0] == "pcm_loudness_sma_maxPos"
    ours, theirs = functionals_of(x, RATE), variant(tmp_path, IS10.read_text())
    other = theirs(np.clip(x, -1, 1), RATE).ravel()
    differing = ~np.isclose(ours, other, rtol=1e-4, atol=1e-6)
    assert 200 < differing.sum() < 400
    places = np.array([n.endswith(("maxPos", "minPos")) for n in names])
    assert differing[places].mean() > .9 and ((ours[places] >= 0) & (ours[places] <= 1)).all() and other[places].max() > 1
    assert not differing[~places & ~np.array([bool(re.search(VOICED, n)) for n in names])].any()


@pytest.mark.parametrize("new, old, changed", [("Extremes.norm = segment", "Extremes.norm = frame", "maxPos|minPos"), ("voicingCutoff = 0.70", "voicingCutoff = 0.75", VOICED), ("copyInputName = 1", "copyInputName = 0", "")])
def test_each_patched_setting_matters(tmp_path, new, old, changed):
    patched = patch_is10(IS10.read_text())
    text = re.sub(r"(\[mfcc:cMfcc\][^[]*?)copyInputName = 1", r"\1copyInputName = 0", patched) if "copy" in new else patched.replace(new, old)
    assert text != patched
    smile, names = variant(tmp_path, text), feature_names("emobase2010")
    if "copy" in new: assert sum(a != b for a, b in zip(smile.feature_names, names)) > 200 and len(smile.feature_names) == 1582; return
    assert smile.feature_names == names
    x = speech()
    moved = [n for n, a, b in zip(names, smile(x, RATE).ravel(), functionals_of(x, RATE)) if not np.isclose(a, b, rtol=1e-4, atol=1e-6)]
    assert len(moved) > 5 and all(re.search(changed, n) for n in moved)


@pytest.mark.parametrize("change", [lambda t: "", lambda t: t.replace("Extremes.norm", "Extremes.nrm", 1), lambda t: t.replace("voicingCutoff = 0.75", "voicingCutoff = 0.7"), lambda t: patch_is10(t), lambda t: t + "\n[more:cPitchShs]\nvoicingCutoff = 0.75\n"])
def test_a_foreign_configuration_is_refused(change):
    assert patch_is10(IS10.read_text()).count("\n") == IS10.read_text().count("\n")
    with pytest.raises(ValueError, match="openSMILE's IS10 configuration has . places .* install opensmile 2.6"): patch_is10(change(IS10.read_text()))


def test_the_configuration_is_made_in_the_cache(cache):
    config = emobase2010_config()
    assert config.is_relative_to(cache) and config.read_text() == patch_is10(IS10.read_text()) and emobase2010_config() == config
    assert not [p for p in cache.rglob(".*")]


@pytest.mark.parametrize("name", [SET, "emobase2010"])
def test_full_scale_does_not_wrap_round(name):
    square = np.sign(np.sin(2*np.pi*150*np.arange(RATE)/RATE) + 1e-9).astype("float32")
    full, below = functionals_of(square, RATE, name), functionals_of(square*.999, RATE, name)
    close = np.isclose(full, below, rtol=.05, atol=.05)
    assert close.mean() > .9
    np.testing.assert_array_equal(functionals_of((square*32767).astype("int16"), RATE, name), functionals_of(square*(32767/32768), RATE, name))
    assert np.isclose(extractor(name)(square, RATE).ravel(), below, rtol=.05, atol=.05).mean() < close.mean() - .1, "openSMILE itself no longer wraps: the limit can go"


def test_shapes_and_types_of_one_signal():
    x = voice()
    base = functionals_of(x, RATE, SET)
    for same in (x.astype("float64"), x.tolist(), np.stack([x, x]), x[None]): np.testing.assert_array_equal(functionals_of(same, RATE, SET), base)
    assert base.dtype == np.float32
    for bad in (x[:800], x*0, x*np.nan, np.stack([x, x], 1), [], "a.wav", (x*32768).astype("int64")):
        with pytest.raises(AudioError): functionals_of(bad, RATE, SET)
    for rate in (16000., "16000", None, 0):
        with pytest.raises(AudioError, match="expected whole Hz"): functionals_of(x, rate, SET)
    for name in ("egemaps", "emobase2010 ", ""):
        with pytest.raises(ValueError, match="unknown feature set"): functionals_of(x, RATE, name)


def test_the_cache_may_be_deleted_while_a_process_lives(tmp_path, monkeypatch):
    monkeypatch.setenv("SER_NB_CACHE", str(tmp_path/"cache"))
    signal = np.sin(np.arange(16000)/20).astype("float32")
    before = functionals_of(signal, 16000, "emobase2010")
    shutil.rmtree(tmp_path/"cache")
    assert np.array_equal(functionals_of(signal, 16000, "emobase2010"), before)
