"WORLD: a signal's own length and place, a cache that is never wrong, processes that fail alone, transforms that do what their formulas say"
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from glob import glob

import numpy as np
import pytest
import soundfile

from ser_nb.core import AudioError
from ser_nb.data.audio import read_audio, resample
from ser_nb.data.corpus import make_corpus
from ser_nb.data.demo import demo_utterance
from ser_nb.features import world as W
from ser_nb.processes import _Worker
from ser_nb.features.world import World, analyse, analyse_corpus, check_analysis, convert_f0, convert_power, envelope, f0_stats, from_entry, mcep_stats, power_envelope, power_stats, synthesise, to_entry

PARTS, QUICK = ("f0", "mcep", "bap"), dict(f0_method="dio")
needs_sptk = pytest.mark.skipif(importlib.util.find_spec("pysptk") is None, reason="pysptk is an extra")


def same(a, b): return (a.n, a.options) == (b.n, b.options) and all(np.array_equal(getattr(a, p), getattr(b, p)) for p in PARTS)
def made(f0, mcep=None, n=None, **options):
    "A World of given frames"
    f0, options = np.asarray(f0, "float32"), check_analysis(dict({"dims": 3}, **options))
    return World(f0, np.zeros((len(f0), options["dims"]), "float32") if mcep is None else mcep, np.full((len(f0), 1), -10, "float32"), n or (len(f0) - 1)*80 + 40, options)
def frame_power(signal):
    power = np.log10(1e-6 + np.square(signal[:len(signal)//80*80].reshape(-1, 80)).mean(1))
    return power - power.mean()
def shift(a, b): return np.correlate(frame_power(a), frame_power(b), "full").argmax() - (len(frame_power(a)) - 1)


@pytest.fixture(scope="module")
def voice(): return demo_utterance("demo", "d1f", "female", "happy", 1)[0].astype("float32")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SER_NB_CACHE", str(tmp_path/"cache"))
    return tmp_path/"cache"


def folder_of(path, signals, rate=16000):
    path.mkdir()
    for i, signal in enumerate(signals): soundfile.write(path/f"{i}.wav", signal, rate, subtype="FLOAT")
    return make_corpus("voices", [dict(file=f"{i}.wav") for i in range(len(signals))], path)


@pytest.fixture
def corpus(tmp_path, voice): return folder_of(tmp_path/"voices", [np.roll(voice, 160*i)[:8000 + 37*i] for i in range(17)])


def entries(cache): return sorted(glob(f"{cache}/world/**/*.npy", recursive=True))


# One signal

@pytest.mark.parametrize("n", [1600, 1601, 1679, 1680, 7999, 16001])
def test_length_and_place(voice, n):
    signal = np.resize(voice[2000:], n)
    world = analyse(signal, 16000, **QUICK)
    copy = synthesise(world)
    assert len(world) == n//80 + 1 == len(world.mcep) == len(world.bap) and copy.shape == (n,) and copy.dtype == np.float32 and np.isfinite(copy).all()


@pytest.mark.parametrize("method", ["harvest", "dio"])
def test_copy_synthesis_is_where_the_input_is(voice, method):
    signal = np.concatenate([np.zeros(3000, "float32"), voice, np.zeros(1237, "float32")])
    copy = synthesise(analyse(signal, 16000, f0_method=method))
    assert len(copy) == len(signal) and shift(signal, copy) == 0 and np.corrcoef(frame_power(signal), frame_power(copy))[0, 1] > .97


def test_a_click_stays_in_its_frame():
    signal = np.random.default_rng(0).normal(size=16000).astype("float32")*1e-3
    signal[8000] = .8
    copy = synthesise(analyse(signal, 16000))
    assert abs(np.square(copy).argmax() - 8000) < 80


def test_alone_and_after_others_the_same(voice):
    alone = analyse(voice, 16000)
    analyse(voice[::-1], 16000)
    assert same(alone, analyse(voice, 16000)) and np.array_equal(synthesise(alone), synthesise(alone))


def test_other_rates_and_channels(voice):
    two = np.stack([voice, voice])
    assert same(analyse(two, 16000, **QUICK), analyse(voice, 16000, **QUICK))
    high = resample(voice, 16000, 44100)
    world = analyse(high, 44100, **QUICK)
    assert world.n == len(resample(high, 44100, 16000)) and abs(world.n - len(voice)) <= 1 and len(synthesise(world)) == world.n
    whole = (np.clip(voice, -1, 1)*32767).astype("int16")
    assert np.abs(analyse(whole, 16000, **QUICK).f0 - analyse(voice, 16000, **QUICK).f0).max() < 50 and np.median(np.abs(analyse(whole, 16000, **QUICK).f0 - analyse(voice, 16000, **QUICK).f0)) < .1


@pytest.mark.parametrize("signal, words", [(np.zeros(8000), "is silent"), (np.full(8000, np.nan), "NaN"), (np.ones(800)*.1, "lasts 0.050 s"), (np.zeros(0), "lasts 0.000 s"), (np.ones((8000, 2)), "transpose"), (np.array(["a"]), "expected floats")])
def test_no_utterance(signal, words):
    with pytest.raises(AudioError, match=words): analyse(signal, 16000)


def test_whisper():
    "Nothing voiced: analysis and synthesis work, F0 statistics say why not"
    hiss = (.05*np.random.default_rng(1).normal(size=8000)).astype("float32")
    world = replace(analyse(hiss, 16000, **QUICK), f0=np.zeros(101, "float32"))
    copy = synthesise(world)
    assert len(copy) == 8000 and 20*abs(np.log10(copy.std()/hiss.std())) < 3
    with pytest.raises(ValueError, match="none of 1 utterances has a voiced frame"): f0_stats([world, None])
    voiced = f0_stats([made([100, 200])])
    assert not convert_f0(world.f0, voiced, dict(mean=5.5, std=.3)).any()


def test_digital_silence_within(voice):
    signal = voice.copy()
    signal[4000:9000] = 0
    world = analyse(signal, 16000, **QUICK)
    copy = synthesise(world)
    assert all(np.isfinite(getattr(world, p)).all() for p in PARTS) and np.abs(copy[6000:8000]).max() < 1e-4


@pytest.mark.parametrize("change, words", [(dict(f0=np.ones(3)), "expected"), (dict(mcep=np.ones((2, 2))), "expected"), (dict(f0="nan"), "NaN"), (dict(mcep="nan"), "NaN"), (dict(f0="negative"), "expected positive"), (dict(mcep="huge"), "finite spectrum")])
def test_synthesis_refuses(voice, change, words):
    world = analyse(voice[:4000], 16000, **QUICK)
    wrong = dict(nan=np.nan, negative=-1., huge=1e4)
    change = {k: np.full(getattr(world, k).shape, wrong[v]) if isinstance(v, str) else v for k, v in change.items()}
    with pytest.raises(ValueError, match=words): synthesise(world, **change)


# Coders

def test_aperiodicity_as_d4c_has_it(voice):
    import pyworld
    signal = voice + .02*np.random.default_rng(0).normal(size=len(voice))
    f0, times = pyworld.harvest(signal, 16000, frame_period=5.)
    measured = pyworld.d4c(signal, f0, times, 16000, fft_size=1024)
    coded = pyworld.code_aperiodicity(measured, 16000).astype("float32")
    assert coded.shape[1] == 1 and np.abs(W.aperiodicity(coded) - measured).max() < 1e-6
    assert W.noise(coded).any() and not W.noise(coded).all()


@needs_sptk
@pytest.mark.parametrize("dims, limit", [(24, 3.5), (60, 2.5)])
def test_coders_agree_with_the_envelope(voice, dims, limit):
    import pyworld
    import pysptk
    signal = voice.astype("float64")
    power = pyworld.cheaptrick(signal, *W.track_f0(signal, W.ANALYSIS), 16000, fft_size=1024)
    for coder in ("world", "sptk"):
        options = check_analysis(dict(coder=coder, dims=dims))
        coded = W.code_envelope(power, options)
        assert coded.shape == (len(power), dims) and coded.dtype == np.float32
        assert np.sqrt(np.square(10*np.log10(envelope(coded, options)/power)).mean(1)).mean() < limit, coder
    assert np.allclose(coded, pysptk.sp2mc(power, dims - 1, .41), atol=1e-4)
    assert np.allclose(np.log(envelope(coded, options)), np.log(pysptk.mc2sp(pysptk.sp2mc(power, dims - 1, .41), .41, 1024)), atol=1e-3)


def test_sptk_missing(voice, monkeypatch):
    monkeypatch.setitem(sys.modules, "pysptk", None)
    with pytest.raises(ImportError, match=r"ser_nb\[sptk\]"): analyse(voice[:4000], 16000, coder="sptk", **QUICK)


@pytest.mark.parametrize("options, words", [(dict(dims=1), "from 2 to 256"), (dict(dims=24.5), "from 2"), (dict(f0_floor=30.), "48 <="), (dict(f0_floor=900.), "71 to 800"), (dict(f0_ceil=float("nan")), "48 <="), (dict(f0_method="dios"), "did you mean 'dio'"), (dict(coder="x"), "known are"), (dict(fft=512), "unknown option")])
def test_options_refused(options, words):
    with pytest.raises(ValueError, match=words): check_analysis(options)


# A corpus

def test_corpus_in_processes(cache, corpus):
    worlds, failures = analyse_corpus(corpus, workers=2, **QUICK)
    assert len(failures) == 0 and len(entries(cache)) == 17 and [w.n for w in worlds] == [8000 + 37*int(file[:-4]) for file in corpus.table.file]
    before = [os.stat(e).st_mtime_ns for e in entries(cache)]
    again, _ = analyse_corpus(corpus, workers=1, **QUICK)
    assert before == [os.stat(e).st_mtime_ns for e in entries(cache)]
    for i, (a, b) in enumerate(zip(worlds, again)): assert same(a, b) and a.f0.flags.writeable == b.f0.flags.writeable
    for i in (0, 5, 16): assert same(worlds[i], analyse(*read_audio(corpus.path(i)), **QUICK))
    assert np.array_equal(synthesise(again[3]), synthesise(analyse(*read_audio(corpus.path(3)), **QUICK)))


def test_faults_are_listed(cache, corpus, voice):
    bad = {1: b"RIFF", 2: b"", 4: None}
    for i, content in bad.items(): corpus.path(i).unlink() if content is None else corpus.path(i).write_bytes(content)
    soundfile.write(corpus.path(7), np.zeros(8000), 16000)
    soundfile.write(corpus.path(8), np.full(8000, np.nan), 16000, subtype="FLOAT")
    soundfile.write(corpus.path(9), voice[:800], 16000)
    soundfile.write(corpus.path(10), np.stack([voice, voice], 1), 16000)
    for workers in (2, 2):
        worlds, failures = analyse_corpus(corpus, workers, **QUICK)
        assert [i for i, w in enumerate(worlds) if w is None] == [1, 2, 4, 7, 8, 9] and worlds[10].n == len(voice)
        assert failures.columns.tolist() == ["file", "start", "end", "reason"] and failures.file.tolist() == [corpus.table.file[i] for i in (1, 2, 4, 7, 8, 9)]
        for reason, words, i in zip(failures.reason, ("not a readable", "empty", "cannot be read", "is silent", "NaN", "lasts 0.050 s"), (1, 2, 4, 7, 8, 9)): assert words in reason and str(corpus.path(i)) in reason


def test_a_process_that_dies_costs_one_file(cache, corpus, monkeypatch):
    dying = _Worker.CODE.replace("from ser_nb", "import os; import ser_nb.features.world as W; old = W._make; W._make = lambda job, options: os._exit(9) if job['file'].endswith('/5.wav') else old(job, options); from ser_nb")
    monkeypatch.setattr(_Worker, "CODE", dying)
    worlds, failures = analyse_corpus(corpus, 2, **QUICK)
    dead = corpus.table.file.tolist().index("5.wav")
    assert [i for i, w in enumerate(worlds) if w is None] == [dead] and "ended with code 9" in failures.reason[0]


def test_disk_that_cannot_be_written(cache, corpus):
    cache.mkdir()
    (cache/"world").write_text("a file where a folder should be")
    with pytest.raises(RuntimeError, match=r"\.wav: (FileExists|NotADirectory)"): analyse_corpus(corpus, 2, **QUICK)


def test_output_of_a_library_does_not_disturb(cache, corpus, monkeypatch):
    loud = _Worker.CODE.replace("from ser_nb", "import os; import ser_nb.features.world as W; old = W._make; W._make = lambda job, options: (print('noise'), os.system('echo more'), old(job, options))[2]; from ser_nb")
    monkeypatch.setattr(_Worker, "CODE", loud)
    worlds, failures = analyse_corpus(corpus, 2, **QUICK)
    assert not len(failures) and all(worlds)


@pytest.mark.parametrize("how", ["short", "empty", "flip", "first row", "other width", "text", "nan"])
def test_damaged_entries_are_made_again(cache, voice, tmp_path, how):
    corpus = folder_of(tmp_path/"v", [voice])
    (sound,), _ = analyse_corpus(corpus, **QUICK)
    (entry,) = entries(cache)
    content = open(entry, "rb").read()
    if how == "nan":
        values = np.load(entry)
        values[0, 1] = np.nan
        np.save(entry, values)
    else:
        flip = len(content)//2
        damaged = dict(short=content[:-5], empty=b"", flip=content[:flip] + bytes([content[flip] ^ 1]) + content[flip + 1:], text=b"\n".join([b"text"]*50))
        damaged["first row"] = content[:128] + b"\0\0\x20\x41" + content[132:]
        if how == "other width": np.save(entry, to_entry(made([100]*5)))
        else: open(entry, "wb").write(damaged[how])
    assert from_entry(entry, sound.options) is None
    (again,), _ = analyse_corpus(corpus, **QUICK)
    assert same(again, sound) and open(entry, "rb").read() == content


def test_an_entry_of_every_length(tmp_path):
    for n in (1600, 1679, 1680, 16777300):
        world = made(np.linspace(0, 300, n//80 + 1), n=n)
        np.save(tmp_path/"entry.npy", to_entry(world))
        assert same(from_entry(tmp_path/"entry.npy", world.options), world)


def test_what_the_key_holds(cache, corpus, monkeypatch):
    corpus = replace(corpus, table=corpus.table.head(1))
    count = lambda: len(entries(cache))
    analyse_corpus(corpus, **QUICK)
    for n, options in enumerate((dict(f0_method="harvest"), dict(QUICK, f0_floor=80), dict(QUICK, f0_ceil=600), dict(QUICK, dims=20)), 2):
        (world,), _ = analyse_corpus(corpus, **options)
        assert count() == n and same(world, analyse(*read_audio(corpus.path(0)), **options))
    analyse_corpus(corpus, **QUICK, dims=24.0, f0_floor=71)
    assert count() == 5
    base = W.made_of(check_analysis({}))
    assert {"pyworld", "options", "frames", "libsndfile", "soxr"} <= set(base)
    if importlib.util.find_spec("pysptk"): assert "pysptk" in W.made_of(check_analysis(dict(coder="sptk")))
    import pyworld
    monkeypatch.setattr(pyworld, "__version__", "9")
    analyse_corpus(corpus, **QUICK)
    assert count() == 6
    os.rename(corpus.root, corpus.root.parent/"moved")
    moved = replace(corpus, root=corpus.root.parent/"moved")
    analyse_corpus(moved, **QUICK)
    assert count() == 6


def test_segments(cache, voice, tmp_path):
    folder_of(tmp_path/"v", [np.concatenate([voice, voice])])
    corpus = make_corpus("parts", [dict(file="0.wav", start=.1, end=.7), dict(file="0.wav", start=.3), dict(file="0.wav")], tmp_path/"v")
    worlds, _ = analyse_corpus(corpus, **QUICK)
    assert [w.n for w in worlds] == [round(d*16000) for d in corpus.table.duration] and worlds[0].n != worlds[1].n
    for i, row in enumerate(corpus.table.itertuples()): assert same(worlds[i], analyse(*read_audio(corpus.path(i), row.start, row.end), **QUICK))


def test_from_a_command_with_threads_running(corpus, tmp_path, root):
    "`python -c` without a main guard, torch's threads running"
    code = """if 1:
        import torch, numpy as np, json, sys
        torch.set_num_threads(2); (torch.rand(300, 300)@torch.rand(300, 300)).sum()
        from ser_nb.data.corpus import make_corpus
        from ser_nb.features.world import analyse_corpus
        worlds, failures = analyse_corpus(make_corpus("v", [dict(file=f"{i}.wav") for i in range(17)], sys.argv[1]), 2, f0_method="dio")
        print(json.dumps([len(failures), sum(w.n for w in worlds)]))"""
    done = subprocess.run([sys.executable, "-c", code, str(corpus.root)], capture_output=True, text=True, timeout=120, cwd=root, env={**os.environ, "SER_NB_CACHE": str(tmp_path/"c")})
    assert json.loads(done.stdout) == [0, sum(8000 + 37*i for i in range(17))], done.stderr


# F0

def test_f0_as_the_formula_says():
    rng = np.random.default_rng(0)
    worlds = [made(np.where(rng.random(500) < .6, np.exp(rng.normal(5.2, .2, 500)), 0)) for _ in range(3)]
    log = np.log(np.concatenate([w.f0[w.f0 > 0] for w in worlds]).astype("float64"))
    source, target = f0_stats([worlds[0], None, *worlds[1:]]), dict(mean=4.7, std=.1)
    assert np.isclose(source["mean"], log.mean()) and np.isclose(source["std"], log.std()) and 5.1 < source["mean"] < 5.3
    for w in worlds:
        moved = convert_f0(w.f0, source, target)
        assert ((moved == 0) == (w.f0 == 0)).all() and moved.dtype == np.float32
        voiced = w.f0 > 0
        assert np.allclose(moved[voiced], np.exp((np.log(w.f0[voiced]) - source["mean"])/source["std"]*.1 + 4.7), rtol=1e-5)
        assert np.allclose(convert_f0(moved, target, source), w.f0, rtol=1e-5) and np.allclose(convert_f0(w.f0, source, source), w.f0, rtol=1e-6)


def test_one_f0_only():
    flat = f0_stats([made([0, 100, 100, 0])])
    assert flat["std"] == 0
    assert np.allclose(convert_f0([0, 100, 50], flat, dict(mean=np.log(200), std=.3)), [0, 200, 100])


# Envelope statistics

def test_mcep_statistics(voice):
    world = analyse(np.concatenate([voice, 1e-4*np.random.default_rng(0).normal(size=12000)]), 16000, **QUICK)
    values = np.concatenate([world.mcep, world.mcep[:50]]).astype("float64")
    part = World(world.f0[:50], world.mcep[:50], world.bap[:50], 49*80, world.options)
    found = mcep_stats([world, None, part])
    assert np.allclose(found["mean"], values.mean(0)) and np.allclose(found["std"], values.std(0)) and found["mean"].shape == (24,)
    levels = W.frame_levels(world)
    kept = world.mcep[levels > levels.max() - 40].astype("float64")
    spoken = mcep_stats([world], silence=False)
    assert len(kept) < .8*len(world) and np.allclose(spoken["mean"], kept.mean(0)) and spoken["mean"][0] > found["mean"][0] + 1
    louder = analyse(2*voice, 16000, **QUICK)
    assert np.allclose(W.frame_levels(louder) - W.frame_levels(analyse(voice, 16000, **QUICK)), 6.02, atol=.5)


def test_mcep_statistics_refused():
    with pytest.raises(ValueError, match="no utterance"): mcep_stats([None])
    with pytest.raises(ValueError, match="different analyses"): mcep_stats([made([1, 2]), made([1, 2], f0_method="dio")])


# Power

def test_power_envelope_of_known_signals():
    t = np.arange(32000)/16000
    level = np.where((t > .5) & (t < 1.5), .4, .004)
    found = power_envelope(level*np.sin(2*np.pi*440*t), 16000)
    assert np.allclose(found[[4000, 16000, 28000]], 20*np.log10([.004, .4, .004]) - 3.01, atol=.1)
    moving = .3*(1 + .5*np.sin(2*np.pi*4*t))
    found = power_envelope(moving*np.sin(2*np.pi*300*t), 16000)
    inside = slice(4000, -4000)
    assert np.abs(found - 20*np.log10(moving) + 3.01)[inside].max() < .3, "delayed or too smooth"
    assert (power_envelope(np.zeros(800), 16000) == -100).all()
    assert np.allclose(power_envelope(np.sin(2*np.pi*440*np.arange(88200)/44100), 44100)[9000:-9000], -3.01, atol=.05)


@pytest.mark.parametrize("n", [1, 2, 50, 801])
def test_power_of_few_samples(n): assert np.isfinite(power_envelope(np.ones(n)*.1, 16000)).all()


def test_power_refused(voice):
    for bad in (np.zeros(0), np.array([0, np.nan])):
        with pytest.raises(AudioError, match="empty or has NaN"): power_envelope(bad, 16000)
    with pytest.raises(ValueError, match="half the sampling rate"): power_envelope(voice, 16000, cutoff=8000)
    with pytest.raises(ValueError, match="none of 2 signals has a sound"): power_stats([np.zeros(8000), np.zeros(100)])


def test_power_moves_as_the_formula_says(voice):
    source = power_stats([voice])
    level = power_envelope(voice, 16000)
    spoken = level[::80][level[::80] > level.max() - 40]
    assert np.isclose(source["mean"], spoken.mean()) and np.isclose(source["std"], spoken.std())
    louder = convert_power(voice, 16000, source, dict(source, mean=source["mean"] + 6))
    loud = level > level.max() - 40
    assert louder.dtype == np.float32 and len(louder) == len(voice) and np.allclose(louder[loud], voice[loud]*10**.3, rtol=1e-4)
    flat = convert_power(voice, 16000, source, dict(source, std=source["std"]/2))
    gain = (source["mean"] - level)/2
    inside = loud & (np.abs(gain) < 12)
    assert inside.mean() > .4 and np.allclose(flat[inside], (voice*10**(gain/20))[inside], rtol=1e-4)
    assert np.allclose(convert_power(voice, 16000, source, source), voice, atol=1e-7)


def test_silence_stays_silent(voice):
    rng = np.random.default_rng(0)
    signal = np.concatenate([np.zeros(8000), voice, 1e-5*rng.normal(size=16000)]).astype("float32")
    level = power_envelope(signal, 16000)
    for mean, std in ((30, 1), (0, .2), (-30, 3)):
        source = dict(mean=-30., std=8.)
        changed = convert_power(signal, 16000, source, dict(mean=-30. + mean, std=8.*std))
        gain = np.abs(changed[signal != 0]/signal[signal != 0])
        assert not changed[:8000].any() and 10**(-12.01/20) < gain.min() and gain.max() < 10**(12.01/20)
        assert np.abs(changed[-8000:]).max() <= np.abs(signal[-8000:]).max()*1.0001
    assert level[-4000:].max() < level.max() - 60 + 1e-6


def test_figure(voice):
    world = analyse(voice, 16000, **QUICK)
    figure = W.plot_world(voice, world, "a voice")
    assert [ax.get_ylabel() for ax in figure.axes[:4]] == ["waveform", "F0 / Hz", "envelope / kHz", "aperiodicity / kHz"]
