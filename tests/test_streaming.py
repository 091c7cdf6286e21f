"Speech as it comes: pieces of any size, any rate, hours of it, and the command that prints while it listens"
import csv
import io
import json
import os
import select
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from ser_nb.cli import main
from ser_nb.core import AudioError, save_tensors
from ser_nb.data.audio import read_audio, resample
from ser_nb.data.corpus import make_corpus
from ser_nb.data.demo import demo_utterance
from ser_nb.features.speaker import fit_projection, ge2e, voice
from ser_nb.models.vggvox import VGGVox
from ser_nb.pictures import Trained, build, hear, load_model, probabilities, recipe, save
from ser_nb.streaming import checked, file_chunks, listener, raw_chunks, resampler, stream

LABELS = ["angry", "happy", "neutral", "sad"]
RATE = 16000
pytestmark = pytest.mark.usefixtures("one_thread")


def answers(rows):
    "Rows without the time that they took"
    return pd.DataFrame(rows).drop(columns="latency")


def p_of(row): return [row[f"p_{e}"] for e in LABELS]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    "Random weights, by what they are told of the speaker"
    weights = tmp_path_factory.mktemp("vggvox")/"vggvox.safetensors"
    ways = dict(none={}, ge2e=dict(variant="second_attention"), vggvox=dict(variant="first_token", speaker="vggvox", speaker_weights=str(weights)), trained=dict(variant="trained", speaker_width=.0625),
                faithful=dict(protocol="faithful", window="hann", colours="jet"))
    seeded = np.random.default_rng(0)
    projections = dict(ge2e=fit_projection(seeded.random((99, 256)), 32), vggvox=fit_projection(seeded.random((99, 64)), 32))
    with torch.random.fork_rng(): save_tensors(weights, VGGVox(.0625).state_dict())
    return {name: Trained(build(recipe(model="tiny", **way), 4), LABELS, recipe(model="tiny", **way), projections.get(name)) for name, way in ways.items()}


@pytest.fixture(scope="module")
def speech():
    "16 s of one speaker"
    return np.concatenate([demo_utterance("demo", "d1f", "female", e, s)[0] for s in range(6) for e in ("angry", "sad")])[:RATE*9]


@pytest.fixture(scope="module", params=[RATE, 44100], ids=lambda rate: f"{rate} Hz")
def clip(request, tmp_path_factory, speech):
    "An utterance with silence at its ends, as a corpus"
    folder, quiet = tmp_path_factory.mktemp("clip"), np.zeros(3000, "float32")
    signal = resample(np.concatenate([quiet, speech[:RATE*2 + 123], quiet]), RATE, request.param)
    soundfile.write(folder/"a.wav", signal, request.param)
    return make_corpus("clip", [dict(file="a.wav", speaker="x", emotion="sad")], folder)


# ---- pieces --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("rate", [8000, 16001, 22050, 44100, 48000])
@pytest.mark.parametrize("length", [333, 6000], ids=["short pieces", "long pieces"])
def test_pieces_are_resampled_as_the_whole(rate, length):
    signal = np.random.default_rng(rate).uniform(-.1, .1, 2*rate + 17).astype("float32")
    step = resampler(rate)
    made = [step(signal[i:i + length]) for i in range(0, len(signal), length)] + [step(signal[:0], last=True)]
    np.testing.assert_array_equal(np.concatenate(made), resample(signal, rate, RATE))


def test_rates_without_a_piece(): assert len(resampler(44100)(np.empty(0, "float32"), last=True)) == 0


@pytest.mark.parametrize("pieces", [1, 5, 40, 9000], ids="in {}".format)
@pytest.mark.parametrize("rate", [RATE, 22050])
def test_the_size_of_pieces_changes_nothing(models, speech, pieces, rate):
    signal = speech[:20000]
    expected = answers(stream(np.array_split(signal, 3), rate, models["none"], window=.5, every=.25))
    assert len(expected) == -(-len(resample(signal, rate, RATE))//4000)
    pd.testing.assert_frame_equal(answers(stream(np.array_split(signal, pieces), rate, models["none"], window=.5, every=.25)), expected)


def test_long_pieces_are_cut(speech):
    parts = list(checked([speech[:20001], speech[:0], speech[:5]], RATE))
    assert [len(p) for p in parts] == [8000, 8000, 4001, 5]


def test_integers_and_channels_are_what_they_are_in_a_file(models, speech):
    signal = (speech[:RATE]*32767).astype("int16")
    expected = answers(stream([signal/np.float32(32768)], RATE, models["none"]))
    pd.testing.assert_frame_equal(answers(stream([np.stack([signal, signal])], RATE, models["none"])), expected)


@pytest.mark.parametrize("bad, words", [
    (dict(chunks=[]), "ends after 0.000 s"), (dict(chunks=[np.zeros(1599)]), "ends after 0.100 s"), (dict(chunks=[np.full(9, np.nan)]), "NaN or infinite"),
    (dict(chunks=[np.full(9, 11.)]), "up to 11"), (dict(chunks=[np.zeros((3, 3, 3))]), "shape"), (dict(sampling_rate=16000.), "16000.0"), (dict(sampling_rate=10), "whole Hz"),
    (dict(window=.05), "window 0.05"), (dict(window=61), "window 61"), (dict(window=float("nan")), "window nan"), (dict(every=0), "every 0"), (dict(every=float("inf")), "every inf"),
], ids=lambda v: v if isinstance(v, str) else "")
def test_refused_streams(models, bad, words):
    with pytest.raises(ValueError, match=words): list(stream(**dict(dict(chunks=[np.zeros(RATE)], sampling_rate=RATE, model=models["none"]), **bad)))


# ---- rows ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("speaker", ["none", "ge2e", "vggvox", "trained", "faithful"])
def test_a_window_over_a_clip_has_the_answer_of_the_clip(models, clip, speaker):
    heard = hear([clip], models[speaker].recipe)
    expected = probabilities(models[speaker], [heard.mels[0]], None if heard.speakers is None else np.stack([heard.speakers[0]]))[0]
    *_, last = stream(file_chunks(clip.path(0)), soundfile.info(clip.path(0)).samplerate, models[speaker])
    np.testing.assert_allclose(p_of(last), expected, atol=1e-6)
    assert last["prediction"] == LABELS[expected.argmax()] and last["start"] == 0 and last["end"] == pytest.approx(clip.table.duration[0], abs=1e-4)


@pytest.mark.parametrize("speaker", ["none", "ge2e"])
def test_rows_are_of_their_window(models, speech, speaker):
    rows = list(stream([speech[:RATE*5 + 999]], RATE, models[speaker], window=2, every=.75))
    assert [r["end"] for r in rows] == [.75, 1.5, 2.25, 3., 3.75, 4.5, 5 + 999/RATE]
    assert [r["start"] for r in rows] == pytest.approx([max(0, r["end"] - 2) for r in rows])
    np.testing.assert_allclose([sum(p_of(r)) for r in rows], 1)
    assert {r["prediction"] == LABELS[int(np.argmax(p_of(r)))] for r in rows} == {True} and all(0 < r["latency"] < 60 for r in rows)
    if speaker == "none":
        row, = stream([speech[RATE:3*RATE]], RATE, models[speaker], window=2, every=2)
        assert p_of(row) == pytest.approx(p_of(rows[3]), abs=1e-6)


def test_rows_far_apart(models, speech):
    rows = list(stream([speech], RATE, models["ge2e"], window=1, every=4))
    assert [(r["start"], r["end"]) for r in rows] == [(3, 4), (7, 8), (8, 9)]


@pytest.mark.parametrize("speaker", ["none", "ge2e"])
def test_silence_has_no_prediction(models, speech, speaker):
    quiet = np.full(2*RATE, 9e-4, "float32")   # -61 dB
    rows = list(stream([quiet, speech[:2*RATE], quiet], RATE, models[speaker], window=1, every=1))
    assert [r["prediction"] == "" for r in rows] == [True, True, False, False, True, True]
    assert all(np.isnan(p_of(r)).all() for r in (rows[0], rows[5])) and np.isfinite(p_of(rows[2])).all()


def test_who_never_spoke_is_no_speaker(models):
    noise = np.sin(np.arange(2*RATE)*2.).astype("float32")*.003
    heard, unknown = ([r["prediction"] for r in stream([noise], RATE, models[s], every=1)] for s in ("none", "ge2e"))
    assert all(heard) and unknown == ["", ""]


def test_the_speaker_is_the_mean_of_windows_heard_once(speech):
    asked = []
    def counted(signal): return asked.append(len(signal)/RATE) or voice(signal, RATE)
    hear = listener(2*RATE, counted)
    found = [hear(speech[max(0, n - 2*RATE):n], n) for n in range(RATE, 8*RATE, RATE)]
    assert asked == [1, 2, 2, 2] and [np.array_equal(a, b) for a, b in zip(found[1:], found[2:])] == [True, False, True, False, True]
    np.testing.assert_array_equal(found[0], voice(speech[:RATE], RATE))
    np.testing.assert_allclose(found[1], voice(speech[:2*RATE], RATE), atol=1e-6)
    mean = sum(voice(speech[n:n + 2*RATE], RATE) for n in (0, 2*RATE, 4*RATE))
    np.testing.assert_allclose(found[-1], mean/np.linalg.norm(mean), atol=1e-6)


def test_rows_come_before_the_stream_ends(models, speech):
    taken = []
    def source():
        for i in range(0, 4*RATE, 4000): yield taken.append(i) or speech[i:i + 4000]
    rows = stream(source(), RATE, models["none"])
    assert [next(rows)["end"] for _ in range(3)] == [.5, 1., 1.5] and len(taken) == 6


def test_an_hour_takes_no_memory(models, speech, tmp_path):
    rate = 8000
    block = (resample(speech[:8*RATE], RATE, rate)*32767).astype("int16")
    with soundfile.SoundFile(tmp_path/"hour.wav", "w", rate, 1, "PCM_U8") as file:
        for _ in range(450): file.write(block)
    assert soundfile.info(tmp_path/"hour.wav").duration >= 3600
    rows = stream(file_chunks(tmp_path/"hour.wav"), rate, models["none"], every=30.)
    next(rows)
    tracemalloc.start()
    try:
        last = None
        for last in rows: pass
        peak = tracemalloc.get_traced_memory()[1]
    finally: tracemalloc.stop()
    assert last["end"] == 3600 and last["prediction"] and peak < 4e6, f"{peak/1e6:.1f} MB; the hour has 230 MB at 16 kHz"


# ---- where speech comes from ---------------------------------------------------------------------------------------

def test_a_file_in_pieces_is_the_file(tmp_path, speech):
    soundfile.write(tmp_path/"two.flac", np.stack([speech, speech*.5], 1), RATE)
    made = list(file_chunks(tmp_path/"two.flac", .3))
    assert {len(p) for p in made[:-1]} == {4800} and all(p.dtype == np.float32 for p in made)
    np.testing.assert_array_equal(np.concatenate(made), read_audio(tmp_path/"two.flac")[0])


def damaged(folder, how):
    "A file that cannot be read to its end"
    file = folder/f"{how}.wav"
    if how == "missing": return file
    soundfile.write(file, np.random.default_rng(0).uniform(-.5, .5, RATE), RATE)
    if how == "flac": file = folder/"cut.flac"; soundfile.write(file, np.random.default_rng(0).uniform(-.5, .5, RATE*4), RATE)
    content = file.read_bytes()
    file.write_bytes(dict(empty=b"", text=b"no audio", truncated=content[:9000], flac=content[:len(content)//2])[how])
    return file


@pytest.mark.parametrize("how, words", [("missing", "no such audio file"), ("empty", "is empty"), ("text", "not a readable audio file"), ("truncated", "truncated"), ("flac", "cut.flac: (damaged|truncated)")])
def test_files_that_cannot_be_read(tmp_path, how, words):
    with pytest.raises(AudioError, match=words): list(file_chunks(damaged(tmp_path, how)))


class Trickle(io.RawIOBase):
    "Bytes that come a few at a time"
    def __init__(self, content, n): self.content, self.n = content, n
    def readable(self): return True
    def readinto(self, into):
        part, self.content = self.content[:min(self.n, len(into))], self.content[min(self.n, len(into)):]
        into[:len(part)] = part
        return len(part)


@pytest.mark.parametrize("n", [1, 3, 1000, 10**6])
@pytest.mark.parametrize("buffered", [True, False], ids=["buffered", "raw"])
def test_raw_samples_as_they_arrive(n, buffered):
    samples = np.arange(-9000, 9000, dtype="<i2")
    source = Trickle(samples.tobytes(), n)
    made = list(raw_chunks(io.BufferedReader(source) if buffered else source, RATE))
    np.testing.assert_array_equal(np.concatenate(made)*32768, samples)
    assert 0 < min(map(len, made)) and max(map(len, made)) <= min(8000, n//2 + 2)


@pytest.mark.parametrize("content, words", [(b"RIFF" + bytes(50), "begins with b'RIFF'"), (b"\1\2\3", "within a sample"), (b"", None), (b"RI", None)], ids=["header", "odd", "nothing", "two bytes"])
def test_raw_streams_that_are_none(content, words):
    for n in (1, 100):
        if words is None: list(raw_chunks(io.BytesIO(content), RATE))
        else:
            with pytest.raises(AudioError, match=words): list(raw_chunks(io.BufferedReader(Trickle(content, n)), RATE))


def test_handed_out():
    import ser_nb
    assert (ser_nb.stream, ser_nb.load_model) == (stream, load_model) and {"stream", "load_model"} <= {*dir(ser_nb)}


# ---- the command ---------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def folder(models, tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save(models["none"], path)
    return path


@pytest.fixture
def said(capsys):
    "The command in this process: (status, standard output, standard error)"
    def run(*words):
        status = main([str(w) for w in words])
        return status, *capsys.readouterr()
    return run


def test_predict_prints_a_line_per_row(said, folder, models, clip):
    status, out, err = said("predict", clip.path(0), clip.path(0), "--model", folder, "--window", 1, "--every", .7)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert (status, err) == (0, "") and list(rows[0]) == ["file", "start", "end", "prediction", *[f"p_{e}" for e in LABELS], "latency"] and {r["file"] for r in rows} == {str(clip.path(0))}
    expected = answers(stream(file_chunks(clip.path(0)), soundfile.info(clip.path(0)).samplerate, models["none"], 1, .7))
    pd.testing.assert_frame_equal(answers(pd.read_csv(io.StringIO(out)).drop(columns="file")), pd.concat([expected]*2, ignore_index=True), atol=1e-6, check_dtype=False)


def test_predict_goes_on_after_a_bad_file(said, folder, clip, tmp_path):
    silence = tmp_path/"silence.wav"
    soundfile.write(silence, np.zeros(RATE), RATE)
    status, out, err = said("predict", tmp_path/"none.wav", silence, damaged(tmp_path, "text"), clip.path(0), "--model", folder)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 1 and [line.split(":")[0] for line in err.splitlines()] == [str(tmp_path/"none.wav"), str(tmp_path/"text.wav")]
    assert [r["prediction"] for r in rows if r["file"] == str(silence)] == ["", ""] and rows[0]["p_sad"] == "" and rows[-1]["file"] == str(clip.path(0))


def test_what_is_too_short_is_named(said, folder, clip, tmp_path):
    soundfile.write(tmp_path/"short.wav", np.full(100, .1), RATE)
    status, out, err = said("predict", tmp_path/"short.wav", clip.path(0), "--model", folder)
    assert status == 1 and err == f"{tmp_path/'short.wav'}: the stream ends after 0.006 s; a prediction needs at least 0.1 s of speech\n" and {r["file"] for r in csv.DictReader(io.StringIO(out))} == {str(clip.path(0))}


def without(part, key):
    "A description that lacks something"
    def change(folder):
        about = json.loads((folder/"recipe.json").read_text())
        (about if part is None else about[part]).pop(key)
        (folder/"recipe.json").write_text(json.dumps(about))
    return change


DAMAGE = dict(text=(lambda f: (f/"recipe.json").write_text("{oops"), "recipe.json cannot be read"), bytes=(lambda f: (f/"recipe.json").write_bytes(b"\xff\0"), "recipe.json cannot be read"), list=(lambda f: (f/"recipe.json").write_text("[1]"), "not of a picture network"),
              kind=(without(None, "kind"), "not of a picture network"), labels=(without(None, "labels"), "has no 'labels'"), recipe=(without(None, "recipe"), "has no 'recipe'"), window=(without("recipe", "window"), "has no 'window'"),
              weights=(lambda f: (f/"model.safetensors").unlink(), "model.safetensors is missing"), cut=(lambda f: (f/"model.safetensors").write_bytes((f/"model.safetensors").read_bytes()[:999]), "weights cannot be read"),
              other=(lambda f: save_tensors(f/"model.safetensors", dict(a=torch.zeros(2))), "weights are of another network"), projection=(lambda f: (f/"projection.safetensors").unlink(), "projection.safetensors is missing"), components=(lambda f: (f/"projection.safetensors").write_bytes(b"12"), "weights cannot be read"))


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_models(said, models, clip, tmp_path, what):
    change, words = DAMAGE[what]
    save(models["ge2e"], tmp_path)
    change(tmp_path)
    status, out, err = said("predict", clip.path(0), "--model", tmp_path)
    assert (status, out) == (2, "") and err.startswith(f"ser-nb: {tmp_path}") and words in err and err.count("\n") == 1, err


def test_a_model_brings_its_speaker_network(models, speech, tmp_path):
    save(models["vggvox"], tmp_path)
    again = load_model(tmp_path)
    assert Path(again.recipe["speaker_weights"]).parent == tmp_path
    pd.testing.assert_frame_equal(*(answers(stream([speech[:RATE]], RATE, model)) for model in (again, models["vggvox"])))
    save(again, tmp_path)


def test_a_speaker_encoder_that_is_not_installed(said, models, clip, tmp_path, monkeypatch):
    save(models["ge2e"], tmp_path)
    monkeypatch.setitem(sys.modules, "resemblyzer", None)
    ge2e.cache_clear()
    status, out, err = said("predict", clip.path(0), "--model", tmp_path)
    assert (status, out) == (2, "") and "ser_nb[speaker]" in err and err.count("\n") == 1, err


@pytest.mark.parametrize("words, expected", [(("-",), "- needs --sampling-rate"), (("a.wav", "--sampling-rate", 8000), "files say their own"), (("a.wav", "--window", 0), "window 0.0")], ids=["no rate", "rate of a file", "window"])
def test_refused_predictions(said, folder, clip, words, expected):
    status, out, err = said("predict", *(clip.path(0) if w == "a.wav" else w for w in words), "--model", folder)
    assert (status, out) == (2, "") and err.count("\n") == 1 and expected in err, err


@pytest.mark.parametrize("words, option", [(("a.wav", "--window", 2), "--window"), (("a.wav", "--every", 1), "--every"), (("a.wav", "--sampling-rate", 8000), "--sampling-rate"), (("a.wav", "-", "--every", 1), "-:")], ids=["window", "every", "rate", "stdin"])
def test_a_recogniser_of_functionals_hears_no_stream(said, tmp_path, words, option):
    (tmp_path/"config.json").write_text('{"format": "ser_nb recogniser 1"}')
    status, out, err = said("predict", *words, "--model", tmp_path)
    assert (status, out) == (2, "") and err.startswith(f"ser-nb: {option}") and "only a model of pictures" in err and err.count("\n") == 1, err


def test_whoever_has_heard_enough_ends_it(said, folder, clip, monkeypatch):
    def interrupted(file):
        yield np.ones(soundfile.info(file).samplerate, "float32")
        raise KeyboardInterrupt
    monkeypatch.setattr("ser_nb.streaming.file_chunks", interrupted)
    status, out, err = said("predict", clip.path(0), "--model", folder)
    assert (status, err) == (130, "") and len(out.splitlines()) in (2, 3)


def test_output_comes_before_the_input_ends(folder, speech):
    samples = (speech*32767).astype("<i2").tobytes()
    words = [Path(sys.executable).with_name("ser-nb"), "predict", "-", "--sampling-rate", RATE, "--model", folder]
    with subprocess.Popen([str(w) for w in words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        process.stdin.write(samples[:2*RATE + 2000])
        process.stdin.flush()
        shown = b""
        while shown.count(b"\n") < 3 and select.select([process.stdout], [], [], 100)[0]: shown += os.read(process.stdout.fileno(), 4096)
        assert [line.split(b",")[:3] for line in shown.splitlines()] == [[b"file", b"start", b"end"], [b"-", b"0.0", b"0.5"], [b"-", b"0.0", b"1.0"]]
        process.stdin.write(samples[2*RATE + 2000:4*RATE])
        process.stdin.close()
        rest = process.stdout.read().splitlines()
        assert process.wait(100) == 0 and [line.split(b",")[2] for line in rest] == [b"1.5", b"2.0"]
