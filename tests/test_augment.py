"Effects by name from an allow-list, copies that depend on their seed alone, unions of training rows, and a corpus made equally loud"
import importlib
import json
import os
import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import soundfile
from scipy.io import wavfile

from ser_nb.core import AudioError, LeakageError
from ser_nb.data import augment
from ser_nb.data.audio import read_utterance
from ser_nb.data.augment import PUBLISHED, augmentations, augmented_union, effects, frequency_mask, loudness, normalise_corpus, normalise_loudness, random_loudness
from ser_nb.data.corpus import demo_tones, from_csv, make_corpus
from ser_nb.data.partition import Fold, Guard

RATE = 16000


def speech(seconds=1., rate=RATE, seed=0):
    "Noise in syllables over a hum, never silent for long"
    rng, t = np.random.default_rng(seed), np.arange(int(seconds*rate))/rate
    return ((.2*np.sin(2*np.pi*180*t) + .1*rng.normal(size=len(t)))*(.1 + np.sin(2*np.pi*3*t)**2)).astype("float32")


@pytest.fixture(scope="module")
def published(): return augmentations(PUBLISHED)


@pytest.fixture
def corpus(tmp_path):
    "Six files, two of each speaker, one in two segments, of several rates and formats"
    for i, rate in enumerate((8000, 16000, 44100, 48000, 16000, 16000)):
        (tmp_path/"speech"/f"s{i % 3}").mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path/"speech"/f"s{i % 3}"/(f"{i}.flac" if i == 1 else f"{i}.wav"), speech(1 + i/5, rate, i)*10**-(i/4), rate)
    rows = [dict(file=p.relative_to(tmp_path/"speech").as_posix(), speaker=p.parent.name, emotion="sad") for p in sorted((tmp_path/"speech").rglob("*.*"))]
    return make_corpus("mixed", rows[:-1] + [dict(rows[-1], start=0., end=.5), dict(rows[-1], start=.5)], tmp_path/"speech")


# Loudness

@pytest.mark.parametrize("rate", [16000, 48000])
def test_a_sine_of_full_scale_has_the_loudness_of_the_standard(rate):
    sine = np.sin(2*np.pi*997*np.arange(3*rate)/rate)
    assert loudness(sine, rate) == pytest.approx(-3.01, abs=.15) and loudness(.1*sine, rate) == pytest.approx(loudness(sine, rate) - 20, abs=1e-6)
    paused = np.concatenate([sine, np.zeros(6*rate)])
    assert loudness(paused, rate) == pytest.approx(loudness(sine, rate), abs=.5), "pauses count nothing"


def test_loudness_is_that_of_pyloudnorm_down_to_its_shortest_clip():
    import pyloudnorm
    for n in (6400, 6401, 16000, 40000): assert loudness(speech(3)[:n], RATE) == pyloudnorm.Meter(RATE).integrated_loudness(speech(3)[:n].astype("float64"))
    for n in (320, 1600, 6399): assert abs(loudness(speech(3)[8000:8000 + n], RATE) - loudness(np.tile(speech(3)[8000:8000 + n], 30), RATE)) < .5


@pytest.mark.parametrize("gain", [.005, 1, 30])
@pytest.mark.parametrize("target", [-23., -12.])
def test_clips_get_the_loudness_asked_for(gain, target):
    fading = speech(2)*np.geomspace(1, .01, 2*RATE, dtype="float32")
    for signal in (gain*speech(), gain*speech(.2), gain*fading):
        made = normalise_loudness(signal, RATE, target)
        assert loudness(made, RATE) == pytest.approx(target, abs=1e-3) and made.dtype == np.float32
        np.testing.assert_allclose(made, signal*(made @ signal)/(signal @ signal), rtol=1e-4, atol=1e-6)


def test_what_has_no_loudness():
    for empty in (speech()[:0], speech()*np.nan):
        with pytest.raises(AudioError, match="loudness needs some, all of them finite"): loudness(empty, RATE)
    for quiet in (np.zeros(RATE), 1e-6*speech()):
        assert loudness(quiet, RATE) == -np.inf
        with pytest.raises(AudioError, match="a.wav: is silent or below -70 LUFS"): normalise_loudness(quiet, RATE, name="a.wav")


# The allow-list

@pytest.mark.parametrize("entry, words", [
    ({"module": "os", "class": "system"}, "unknown module of augmentations 'os'"), ({"module": "audiomentations_evil", "class": "PitchShift"}, "unknown module"), ({"module": "ser_nb.core", "class": "Path"}, "unknown module"),
    ({"module": "audiomentations", "class": "Lambda"}, "unknown class of audiomentations 'Lambda'"), ({"module": "audiomentations", "class": "Compose"}, "unknown class"), ({"module": "audiomentations", "class": "random"}, "unknown class"),
    ({"module": "torch_audiomentations", "class": "AddColouredNoise"}, "did you mean 'AddColoredNoise'"), ({"module": "augmentations", "class": "PitchShift"}, "known are FrequencyMask"),
    ({"module": "audiomentations", "class": "PitchShift", "tensors": True}, "tensors=True, but audiomentations takes arrays"), ({"module": "torch_audiomentations", "class": "Gain", "tensors": False}, "takes tensors"),
    ({"module": "audiomentations", "class": "TimeMask", "fade": True}, "unknown argument of TimeMask in augmentation 'x' 'fade': known are fade_duration"), ({"module": "audiomentations", "class": "PitchShift", "min_semitone": 1}, "did you mean 'min_semitones'"),
    ({"module": "augmentations", "class": "FrequencyMask", "samples": 1}, "known are freq_mask_param"), ({"module": "augmentations", "class": "FrequencyMask", "freq_mask_param": 0}, "expected 1 to 201"),
    ({"module": "audiomentations", "class": "PitchShift", "p": 2}, "'x': PitchShift cannot be used so"), ({"module": "audiomentations", "class": "PitchShift", "min_semitones": 3, "max_semitones": -3}, "must not be greater"),
    ({"module": "audiomentations", "class": "LoudnessNormalization", "min_lufs": 0, "p": 1.}, "min_lufs=0 is above max_lufs"), ({"module": "torch_audiomentations", "class": "AddBackgroundNoise", "background_paths": "/nowhere"}, "no supported audio files"),
    ({"class": "PitchShift"}, "is no entry; expected a dictionary with 'module', 'class'"), ("PitchShift", "is no entry")])
def test_settings_that_are_refused(entry, words):
    with pytest.raises(ValueError, match=words): augmentations({"x": entry})


def test_names_and_modules():
    with pytest.raises(ValueError, match="'clean': the name stands for speech as it was recorded"): augmentations({"clean": PUBLISHED["pitch"]})
    assert augmentations(None) == augmentations({}) == {}
    assert effects("audiomentations.augmentations.pitch_shift") == effects("audiomentations")
    assert set(augmentations({"a": dict(PUBLISHED["frequency_mask"], tensors=True), "b": {"module": "torch_audiomentations", "class": "Gain", "output_type": "tensor"}})) == {"a", "b"}


def test_a_missing_package_is_named_before_training(monkeypatch):
    def needs(samples, sample_rate): return importlib.import_module("no_such_package")
    monkeypatch.setattr(augment, "effects", lambda module: dict(Odd=needs))
    with pytest.raises(ImportError, match="'x': Odd needs a package that is not installed .*no_such_package"): augmentations({"x": {"module": "audiomentations", "class": "Odd"}})


# Effects

@pytest.mark.parametrize("name", PUBLISHED)
def test_a_copy_depends_on_its_seed_alone(published, name):
    import torch
    def states(): return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    signal, effect = speech(), published[name]
    kept, before = signal.copy(), states()
    a, b = effect(signal, RATE, 1), effect(signal, RATE, 2)
    assert states() == before, "the generators of whoever calls are where they were"
    np.testing.assert_array_equal(signal, kept)
    random.seed(9), np.random.seed(9), torch.manual_seed(9)
    np.testing.assert_array_equal(effect(signal, RATE, 1), a)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(effect))(signal, RATE, 1), a)
    assert a.shape == signal.shape and a.dtype == np.float32 and not np.array_equal(a, signal)
    assert np.array_equal(a, b) == (name == "loudness"), "a loudness between equal bounds has nothing to draw"


def test_threads_take_turns(published):
    jobs = [(name, seed) for seed in range(4) for name in published]
    def one(job): return published[job[0]](speech(), RATE, job[1])
    with ThreadPoolExecutor(8) as pool: together = list(pool.map(one, jobs))
    for made, job in zip(together, jobs): np.testing.assert_array_equal(made, one(job))


def test_noise_has_the_ratio_asked_for(published):
    for name in ("white_noise", "brown_noise"):
        ratios = [10*np.log10((speech()**2).mean()/((published[name](speech(), RATE, seed) - speech())**2).mean()) for seed in range(20)]
        assert 4.7 < min(ratios) < 8 and 16 < max(ratios) < 20


def test_a_frequency_mask_keeps_the_phase_of_the_rest():
    random.seed(4)
    signal = speech(2)
    width = int(random.uniform(0, 80))
    first = int(random.uniform(0, 201 - width))
    random.seed(4)
    made = frequency_mask(signal, RATE, freq_mask_param=80)
    a, b = np.fft.rfft(signal), np.fft.rfft(made)
    bins = np.arange(len(a))/len(a)*200   # of the mask, 40 Hz each
    inside, outside = (bins > first + 2) & (bins < first + width - 3), (bins < first - 3) | (bins > first + width + 2)
    assert width > 10 and np.abs(b[inside]).max() < .04*np.abs(a[inside]).max()
    np.testing.assert_allclose(b[outside], a[outside], atol=.02*np.abs(a[outside]).max())
    random.seed(0)
    for n in (1, 100, 399, 401): assert len(frequency_mask(signal[:n], RATE)) == n
    assert random_loudness(signal, RATE, p=0.) is signal


@pytest.mark.filterwarnings("ignore:.*had to be resampled")
@pytest.mark.parametrize("module, kind, argument", [("torch_audiomentations", "AddBackgroundNoise", "background_paths"), ("torch_audiomentations", "ApplyImpulseResponse", "ir_paths"), ("audiomentations", "AddBackgroundNoise", "sounds_path"), ("audiomentations", "ApplyImpulseResponse", "ir_path")])
def test_noises_and_rooms_from_files(tmp_path, module, kind, argument):
    for i, (seconds, rate) in enumerate(((3, 16000), (.3, 16000), (1, 44100))): soundfile.write(tmp_path/f"{i}.wav", np.stack([speech(seconds, rate, i)]*2, 1), rate)
    effect = augmentations({"x": {"module": module, "class": kind, argument: str(tmp_path), "p": 1.}})["x"]
    made = [effect(speech(), RATE, seed) for seed in range(8)]
    for seed, signal in enumerate(made): np.testing.assert_array_equal(signal, effect(speech(), RATE, seed))
    assert {len(m) for m in made} == {RATE} and len({m.tobytes() for m in made}) > 1 and not any(np.array_equal(m, speech()) for m in made)


def test_an_effect_that_makes_no_signal(monkeypatch):
    monkeypatch.setattr(augment, "effects", lambda module: dict(Odd=lambda samples, sample_rate: samples if len(samples) == 8000 else samples[:0] if len(samples) == 10 else samples*np.nan))
    odd = augmentations({"odd": {"module": "audiomentations", "class": "Odd"}})["odd"]
    for signal in (speech(), speech()[:10]):
        with pytest.raises(AudioError, match="augmentation 'odd' made no finite signal"): odd(signal, RATE, 0)


# The union

def test_a_union_is_clean_and_every_copy(corpus, published):
    fold = Fold("x", np.array([3, 0, 6]), np.arange(0), np.array([2]))
    corpus = replace(corpus, table=corpus.table.assign(speaker=list("abcdefg")))
    union = augmented_union(corpus, fold.train, published, Guard(corpus.table, fold), seed=1)
    assert len(union) == 3*7 and union.table.row.tolist() == [3, 0, 6]*7 and union.table.augmentation.tolist() == [n for n in ("clean", *published) for _ in range(3)]
    for i, row in enumerate(fold.train): np.testing.assert_array_equal(union[i], read_utterance(corpus.path(row), corpus.table.start[row], corpus.table.end[row], RATE)[0])
    assert len({union[i].tobytes() for i in range(21)}) == 21 and len(list(union)) == 21
    np.testing.assert_array_equal(union[-1], union[20])
    with pytest.raises(IndexError): union[21]
    part = augmented_union(corpus, fold.train[::-1], {n: published[n] for n in ("time_mask", "pitch")}, Guard(corpus.table, fold), seed=1)
    same = {(r, n): i for i, (r, n) in enumerate(zip(union.table.row, union.table.augmentation))}
    for i, (r, n) in enumerate(zip(part.table.row, part.table.augmentation)): np.testing.assert_array_equal(part[i], union[same[r, n]], "other rows and effects change nothing")
    other = augmented_union(corpus, fold.train, published, Guard(corpus.table, fold), seed=2)
    assert not np.array_equal(union[3], other[3]) and np.array_equal(union[0], other[0])


def test_segments_of_one_file_are_copied_with_seeds_of_their_own(tmp_path):
    soundfile.write(tmp_path/"a.wav", np.tile(speech(.5), 2), RATE, subtype="FLOAT")
    corpus = make_corpus("x", [dict(file="a.wav", speaker="a", start=s, end=s + .5) for s in (0., .5)], tmp_path)
    corpus = replace(corpus, table=pd.concat([corpus.table, corpus.table[:1].assign(speaker="b")], ignore_index=True))
    fold = Fold("x", np.array([0, 1]), np.arange(0), np.array([2]))
    union = augmented_union(corpus, fold.train, augmentations({"n": PUBLISHED["white_noise"]}), Guard(corpus.table, fold))
    np.testing.assert_array_equal(union[0], union[1])
    assert not np.array_equal(union[2], union[3])


def test_copies_never_cross_a_partition(corpus):
    fold = Fold("x", np.array([0, 1]), np.arange(0), np.array([2, 3]))
    guard = Guard(corpus.table, fold)
    for rows in ([0, 2], [4]):   # a test row; another row of a test speaker
        with pytest.raises(LeakageError, match="augmented union was about to be fitted"): augmented_union(corpus, np.array(rows), {}, Guard(corpus.table, Fold("x", fold.train, fold.dev, np.array([2, 5]))))
    assert len(augmented_union(corpus, fold.train, {}, guard)) == 2 and guard.log[0]["what"] == "augmented union"
    with pytest.raises(ValueError, match="no rows at all"): augmented_union(corpus, fold.train[:0], {}, guard)


# A corpus equally loud

def tree(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_tree_equally_loud(corpus, tmp_path):
    before = tree(corpus.root)
    made, failures = normalise_corpus(corpus, tmp_path/"equal")
    assert not len(failures) and list(failures) == ["file", "reason"] and tree(corpus.root) == before
    assert set(tree(tmp_path/"equal")) == {str(f).replace(".flac", ".wav") for f in before} | {"loudness.json", "mixed.csv"}
    pd.testing.assert_frame_equal(made.table.drop(columns="file"), corpus.table.drop(columns="file"))
    for file in made.table.file.unique():
        signal, rate = soundfile.read(made.root/file)
        assert loudness(signal, rate) == pytest.approx(-23, abs=1e-3) and soundfile.info(made.root/file).subtype == "FLOAT"
        source = next(corpus.root.glob(file.rsplit(".", 1)[0] + ".*"))
        assert (len(signal), rate) == (soundfile.info(source).frames, soundfile.info(source).samplerate)
    pd.testing.assert_frame_equal(from_csv(tmp_path/"equal"/"mixed.csv").table, made.table)
    again, _ = normalise_corpus(corpus, tmp_path/"again", workers=1)
    assert tree(tmp_path/"again") == tree(tmp_path/"equal")


def test_peaks_over_full_scale_are_kept(tmp_path):
    clicks = np.zeros(RATE, "float32")
    clicks[::1600] = .9
    soundfile.write(tmp_path/"a.wav", clicks, RATE)
    made, _ = normalise_corpus(make_corpus("x", [dict(file="a.wav")], tmp_path), tmp_path/"equal", -15)
    signal, rate = read_utterance(made.path(0))
    assert np.abs(signal).max() > 1.5 and loudness(signal, rate) == pytest.approx(-15, abs=1e-3)


def test_what_cannot_be_measured_is_listed(corpus, tmp_path):
    soundfile.write(corpus.root/"s0"/"0.wav", np.zeros(8000), 8000)
    (corpus.root/"s2"/"2.wav").write_bytes(b"RIFF")
    made, failures = normalise_corpus(corpus, tmp_path/"equal")
    assert failures.file.tolist() == ["s0/0.wav", "s2/2.wav"] and "is silent or below" in failures.reason[0] and "not a readable audio file" in failures.reason[1]
    assert len(made) == len(corpus) - 2 and made.table.index.tolist() == list(range(len(made))) and not (tmp_path/"equal"/"s0"/"0.wav").exists()
    for file in corpus.table.file: (corpus.root/file).unlink(missing_ok=True)
    with pytest.raises(ValueError, match="none of its 6 files could be normalised; the first: .*no such audio file"): normalise_corpus(corpus, tmp_path/"none")


def test_it_goes_on_where_it_was_killed(corpus, tmp_path, monkeypatch):
    whole, folder = normalise_corpus(corpus, tmp_path/"whole")[0], tmp_path/"equal"
    write, calls = wavfile.write, []
    def dying(part, rate, signal):
        calls.append(part)
        if len(calls) == 3: raise KeyboardInterrupt
        write(part, rate, signal)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(wavfile, "write", dying)
        normalise_corpus(corpus, folder)
    left = folder/"s1"/".1.wav.99999999.abc"   # what a kill leaves where the third file was being written
    left.mkdir(parents=True)
    (left/"1.wav").write_bytes(b"RIFF half")
    done = {p: p.stat().st_mtime_ns for p in folder.rglob("*.wav") if left not in p.parents}
    assert len(done) == 2
    made, _ = normalise_corpus(corpus, folder)
    assert tree(folder) == tree(tmp_path/"whole") and all(p.stat().st_mtime_ns == t for p, t in done.items())
    pd.testing.assert_frame_equal(made.table, whole.table)
    soundfile.write(corpus.root/"s1"/"4.wav", speech(1, RATE, 77), RATE)
    os.utime(corpus.root/"s1"/"4.wav")
    before = tree(folder)
    normalise_corpus(corpus, folder)
    assert {f for f, content in tree(folder).items() if content != before[f]} == {"s1/4.wav"}, "a source that changed is done again, alone"


def test_folders_that_are_refused(corpus, tmp_path):
    normalise_corpus(corpus, tmp_path/"equal")
    with pytest.raises(ValueError, match="holds speech at -23 LUFS, not -20; choose another folder"): normalise_corpus(corpus, tmp_path/"equal", -20)
    for folder in (corpus.root, tmp_path):
        before = tree(folder)
        with pytest.raises(ValueError, match="is not empty and was not made by normalise_corpus"): normalise_corpus(corpus, folder)
        assert tree(folder) == before
    assert json.loads((tmp_path/"equal"/"loudness.json").read_text()) == dict(target=-23.)
    soundfile.write(corpus.root/"s1"/"1.wav", speech(), RATE)
    with pytest.raises(ValueError, match="two files would both be written to s1/1.wav"): normalise_corpus(make_corpus("x", [dict(file="s1/1.wav"), dict(file="s1/1.flac")], corpus.root), tmp_path/"twice")


def test_many_files_in_processes(tmp_path):
    corpus = make_corpus("tones", demo_tones(tmp_path/"tones", 9), tmp_path/"tones")
    normalise_corpus(corpus, tmp_path/"one", workers=1)
    normalise_corpus(corpus, tmp_path/"two", workers=2)
    assert tree(tmp_path/"one") == tree(tmp_path/"two") and len(tree(tmp_path/"one")) == 11
