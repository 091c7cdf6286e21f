"Spectrograms and pictures: librosa's numbers, matplotlib's pixels, one entry for each sound clip, and a sentence for every other"
import io
import os
import subprocess
import sys

import librosa
import librosa.display
import numpy as np
import pytest
import soundfile
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ser_nb.core import AudioError
from ser_nb.data.corpus import cut, make_corpus
from ser_nb.data.demo import demo_utterance
from ser_nb.features.spectrogram import COLOURS, DEVIATION, FLOOR, LONGEST, MEAN, MELS, faithful_paint, faithful_picture, join, log_mel, mel_of, mel_spectrograms, paint, trimmed, view

pytestmark = pytest.mark.usefixtures("one_thread")
RATE = 16000


def noise(seconds, seed=0): return (.1*np.random.default_rng(seed).normal(size=round(seconds*RATE))).astype("float32")
def ramp(frames): return np.tile(np.linspace(-60, 0, frames, dtype="float32"), (MELS, 1))


@pytest.fixture(scope="module")
def speech(): return demo_utterance("demo", "d1f", "female", "angry", 1)[0]


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.setenv("SER_NB_CACHE", str(tmp_path/"cache"))
    for i in range(4): soundfile.write(tmp_path/f"{i}.wav", noise(.3 + .1*i, i), RATE)
    return make_corpus("noise", [dict(file=f"{i}.wav", speaker=str(i)) for i in range(4)], tmp_path)


# Spectrograms

@pytest.mark.parametrize("window", ["hamm", "hann"])
@pytest.mark.parametrize("samples", [400, 559, 560, 15040])
def test_numbers_are_those_of_librosa(speech, window, samples):
    theirs = librosa.power_to_db(librosa.feature.melspectrogram(y=speech[:samples], sr=RATE, n_fft=400, hop_length=160, window=window), amin=1e-10, top_db=None)
    ours = log_mel(speech[:samples], window)
    assert ours.shape == (MELS, 1 + samples//160) == theirs.shape and ours.dtype == torch.float32
    assert np.abs(ours.numpy() - theirs).max() < .01


def test_level_is_absolute_and_never_below_the_least(speech):
    assert torch.allclose(log_mel(noise(1)) - log_mel(.1*noise(1)), torch.tensor(20.), atol=.02)
    assert float(log_mel(np.zeros(800)).max()) == -100 == float(log_mel(1e-9*speech).min())


def test_read_only_arrays_raise_no_warning(recwarn):
    signal = np.frombuffer(noise(.1).tobytes(), "float32")
    mel = log_mel(signal).numpy().astype("float16")
    mel.flags.writeable = False
    assert torch.isfinite(view([mel], 32)[0]).all() and not recwarn.list


def test_a_batch_has_the_rows_of_its_clips(speech):
    clips = torch.tensor(np.stack([speech[:8000], speech[4000:12000]]))
    assert torch.allclose(log_mel(clips[None])[0, 1], log_mel(clips[1]), atol=1e-4)


@pytest.mark.parametrize("signal, words", [(np.zeros(399), "at least 400"), (np.zeros((2, 0)), "at least 400"), (np.float32(1.), "at least 400")], ids=["short", "empty", "scalar"])
def test_less_than_a_frame_is_refused(signal, words):
    with pytest.raises(AudioError, match=words): log_mel(signal)


def test_silence_at_the_ends_is_cut_off_and_none_within(speech):
    quiet = np.zeros(RATE, "float32")
    whole = np.concatenate([quiet, speech, quiet, speech, quiet])
    assert 0 <= len(trimmed(whole)) - len(trimmed(np.concatenate([speech, quiet, speech]))) <= 4*2048
    assert abs(len(trimmed(whole)) - 2*len(speech) - RATE) < 4*2048
    assert np.array_equal(trimmed(noise(1)), noise(1))


def test_a_clip_at_another_rate_and_of_two_channels_has_the_same_spectrogram(speech):
    fast = librosa.resample(speech, orig_sr=RATE, target_sr=48000, res_type="soxr_hq")
    a, b = mel_of(speech, RATE), mel_of(np.stack([fast, fast]), 48000)
    loud = a[:100] > a.max() - 50
    assert a.shape == b.shape and np.abs(a[:100] - b[:100])[loud].max() < 1


@pytest.mark.parametrize("signal, words", [
    (noise(.05), "clip: lasts 0.050 s, an utterance needs at least"), (np.zeros(RATE, "float32"), "clip: is silent"), (noise(61), r"clip: lasts 61 s, a spectrogram is made of at most 60 s; cut the corpus with cut\(\) or --max-duration"),
    (np.full(RATE, np.nan), "clip: has NaN"), (np.zeros(0), "lasts 0.000 s"), (noise(1).reshape(1, 1, -1), "expected \\(samples,\\)")], ids=["short", "silent", "long", "nan", "empty", "shape"])
def test_what_is_no_clip_is_refused(signal, words):
    with pytest.raises(AudioError, match=words): mel_of(signal, RATE, name="clip")


# A corpus

def test_a_clip_is_computed_once_and_again_only_when_its_content_changes(corpus):
    mels = mel_spectrograms(corpus)
    assert (len(mels), mels.computed, len(mels.failures)) == (4, 4, 0)
    for i in range(4):
        assert mels[i].dtype == np.float16 and isinstance(mels[i], np.memmap)
        assert np.abs(mels[i] - mel_of(noise(.3 + .1*i, i), RATE)).max() < .2
    again = mel_spectrograms(corpus, workers=1)
    assert again.computed == 0 and again.key == mels.key and again.paths == mels.paths
    assert mel_spectrograms(corpus, "hann").key != mels.key
    soundfile.write(corpus.path(2), noise(.5, 9), RATE)
    changed = mel_spectrograms(corpus)
    assert changed.computed == 1 and changed.key != mels.key


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other"])
def test_a_damaged_entry_is_made_again(corpus, damage):
    mels = mel_spectrograms(corpus)
    sound = mels[1].tolist()
    with open(mels.paths[1], "rb") as f: content = f.read()
    with open(mels.paths[1], "wb") as f:
        if damage == "other": np.save(f, np.zeros((MELS, 5), "float32"))
        else: f.write(dict(cut=content[:-7], empty=b"", text=b"not an array")[damage])
    again = mel_spectrograms(corpus)
    assert again.computed == 1 and again[1].tolist() == sound


def test_what_fails_is_listed_and_the_rest_stays_aligned(tmp_path, corpus):
    soundfile.write(tmp_path/"silent.wav", np.zeros(RATE), RATE)
    for name in ("broken.wav", "gone.wav"): soundfile.write(tmp_path/name, noise(1), RATE)
    table = corpus.table.to_dict("records")
    rows = [dict(file=f, speaker="x") for f in ("silent.wav", "broken.wav", "gone.wav")]
    mixed = make_corpus("mixed", [table[0], *rows, *table[1:]], tmp_path)
    (tmp_path/"broken.wav").write_bytes(b"RIFF")
    (tmp_path/"gone.wav").unlink()
    mels = mel_spectrograms(mixed)
    assert mels.table.file.tolist() == [f"{i}.wav" for i in range(4)] and mels.table.index.tolist() == list(range(4))
    assert [mels[i].shape[1] for i in range(4)] == [31 + 10*i for i in range(4)]
    reasons = dict(zip(mels.failures.file, mels.failures.reason))
    assert len(reasons) == 3 and all(word in reasons[file] for file, word in {"silent.wav": "is silent", "broken.wav": "broken.wav: ", "gone.wav": "cannot be read"}.items())
    with pytest.raises(ValueError, match="no utterance has a spectrogram, all 1 failed; the first: .*silent"): mel_spectrograms(make_corpus("silent", rows[:1], tmp_path))


def test_an_hour_is_refused_before_it_is_read_and_its_pieces_are_not(tmp_path, corpus):
    with soundfile.SoundFile(tmp_path/"hour.flac", "w", RATE, 1) as f:
        for i in range(60): f.write(np.tile(noise(1, i), 60))
    hour = make_corpus("hour", [dict(file="hour.flac", speaker="x")], tmp_path)
    with pytest.raises(ValueError, match=r"hour.flac: lasts 3600 s, a spectrogram is made of at most 60 s; cut the corpus with cut\(\) or --max-duration"): mel_spectrograms(hour)
    pieces = cut(hour, LONGEST)
    mels = mel_spectrograms(type(pieces)(**{**vars(pieces), "table": pieces.table.iloc[[0, 31]].reset_index(drop=True)}))
    assert [mels[i].shape for i in range(2)] == [(MELS, 6001)]*2 and not np.array_equal(mels[0], mels[1])


def test_segments_of_one_file_are_entries_of_their_own(tmp_path, corpus):
    rows = [dict(file="3.wav", speaker="x", start=0., end=.3), dict(file="3.wav", speaker="x", start=.3, end=.6)]
    mels = mel_spectrograms(make_corpus("parts", rows, tmp_path))
    assert np.abs(mels[1] - mel_of(noise(.6, 3)[4800:], RATE)).max() < .2


def test_joined_corpora_keep_their_rows(corpus):
    a, b = mel_spectrograms(corpus), mel_spectrograms(corpus, "hann")
    both = join([a, b])
    assert both.table.index.tolist() == list(range(8)) and both.table.file.tolist() == a.table.file.tolist()*2
    assert np.array_equal(both[6], b[2]) and both.key != join([b, a]).key and both.computed == a.computed + b.computed
    with pytest.raises(ValueError, match="no spectrograms to join"): join([])


def test_the_module_is_imported_without_torch():
    code = "import sys, ser_nb.features.spectrogram; print('torch' in sys.modules, 'librosa' in sys.modules, 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ}).stdout.split() == ["False"]*3


# Views

@pytest.mark.parametrize("frames", [1, 2, 50, 300, 3000])
@pytest.mark.parametrize("size", [64, 224])
def test_a_whole_clip_fills_the_square_with_the_highest_mel_on_top(frames, size):
    mel = np.linspace(0, 50, MELS, dtype="float32")[:, None].repeat(frames, 1)
    V, widths = view([mel], size)
    assert V.shape == (1, size, size) and V.dtype == torch.float32 and widths.tolist() == [1]
    assert torch.allclose(V[0, :, 0], V[0, :, -1], atol=1e-3) and (V[0, :-1, 0] > V[0, 1:, 0]).all()
    assert abs(float(V[0, 0, 0]) - 50) < 1 and abs(float(V[0, -1, 0])) < 1


def test_time_runs_to_the_right_and_pillow_agrees():
    mel = mel_of(noise(2), RATE)
    V, _ = view([mel, ramp(150)], 112)
    theirs = np.asarray(Image.fromarray(mel[::-1].copy()).resize((112, 112), Image.BICUBIC))
    assert np.abs(V[0].numpy() - theirs).max() < .01
    assert (V[1, 5, 1:] > V[1, 5, :-1]).all()


def test_views_are_the_same_alone_together_and_from_any_kind_of_array(corpus):
    mels = mel_spectrograms(corpus)
    V, _ = view([mels[i] for i in range(4)], 64)
    for i in range(4):
        alone = view([mels[i]], 64)[0][0]
        assert torch.equal(V[i], alone) and torch.equal(alone, view([np.array(mels[i], "float32")], 64)[0][0]) and torch.equal(alone, view([torch.from_numpy(np.array(mels[i]))], 64)[0][0])


@pytest.mark.parametrize("frames, width", [(50, 14/112), (100, 28/112), (400, 1), (401, 1), (1000, 1), (1, 1/112)])
def test_kept_time_has_as_many_columns_as_its_share_of_the_seconds(frames, width):
    V, widths = view([ramp(frames)], 112, kept=4.)
    columns = round(width*112)
    assert widths.tolist() == [pytest.approx(width)]
    assert (V[0, :, columns:] == V.max() + FLOOR).all() and (V[0, :, :columns] > -75).all()
    assert (paint(V)[0, :, :, columns:] == paint(torch.tensor([[[-999., 0]]]))[0, :, :1, :1]).all()


def test_kept_time_has_one_scale_for_all_clips():
    tick = np.full((MELS, 300), -50, "float32")
    tick[:, 95:105] = 0
    V, _ = view([tick, tick[:, :200]], 120, kept=3.)
    assert V[:, 60].argmax(-1).tolist() == [pytest.approx(40, abs=1)]*2


def test_of_a_longer_clip_the_middle_is_seen_or_with_a_seed_any_part():
    mel = ramp(1000)
    whole = torch.from_numpy(mel.copy())
    def centre(**options): return float(view([mel], 64, kept=2., **options)[0][0].mean())
    assert centre() == pytest.approx(float(whole[:, 400:600].mean()), abs=.2)
    found = [centre(seed=s) for s in range(20)]
    assert found == [centre(seed=s) for s in range(20)] and len({round(f, 3) for f in found}) > 15
    assert min(found) < -45 and max(found) > -15
    assert torch.equal(view([mel, mel], 64, kept=2., seed=[3, 4])[0][1], view([mel], 64, kept=2., seed=[4])[0][0])
    parts = view([mel, mel], 64, kept=2., seed=3)[0]
    assert not torch.equal(parts[0], parts[1])


@pytest.mark.parametrize("call, words", [
    (lambda: view([]), "0 spectrograms"), (lambda: view([ramp(9)], 1), "at least 2 pixels"), (lambda: view([ramp(9)], 64, kept=0), "kept 0"), (lambda: view([ramp(9)], 64, kept=float("nan")), "kept nan"),
    (lambda: view([ramp(9).T]), "expected \\(128, frames\\)"), (lambda: view([ramp(9)[:, :0]]), "at least one frame"), (lambda: view([ramp(9)[0]]), "expected \\(128"), (lambda: view([ramp(9)]*2, 64, 1., [3]), "1 seeds for 2")],
    ids=["none", "size", "no time", "nan", "turned", "no frame", "row", "seeds"])
def test_what_is_no_spectrogram_has_no_view(call, words):
    with pytest.raises(ValueError, match=words): call()


# Paint

@pytest.mark.parametrize("colours, theirs", [("magma", "magma"), ("jet", "jet"), ("grey", "gray")])
def test_colours_are_those_of_matplotlib(colours, theirs):
    import matplotlib
    V = torch.linspace(-95, 20, 64*64).reshape(1, 64, 64)
    x = matplotlib.colormaps[theirs](((V[0].numpy().astype("float64") - 20 + 80)/80).clip(0, 1))[..., :3]
    ours = paint(V, colours)
    assert ours.shape == (1, 3, 64, 64) and ours.dtype == torch.float32
    assert np.mean(np.abs((x - MEAN)/DEVIATION - ours[0].permute(1, 2, 0).numpy()) > 1e-5) < .01


def test_each_view_is_painted_by_its_own_maximum(speech):
    V, _ = view([mel_of(speech, RATE), mel_of(noise(1), RATE)], 64)
    assert torch.equal(paint(V)[1], paint(V[1:])[0])
    assert float((paint(V + 7.5) != paint(V)).float().mean()) < 1e-3
    assert torch.equal(paint(torch.full((1, 4, 4), -100.)), paint(torch.zeros(1, 4, 4)))


def test_unknown_colours_are_refused():
    with pytest.raises(ValueError, match="did you mean 'magma'"): paint(torch.zeros(1, 4, 4), "magna")
    with pytest.raises(ValueError, match="unknown colours 'gray': did you mean 'grey'"): faithful_picture(ramp(30), "gray")


# The published picture

def rendered(mel, colours, kind):
    "What librosa and matplotlib draw, as RGB"
    figure = Figure(figsize=(2.88, 2.88), dpi=100)
    FigureCanvasAgg(figure)
    ax = figure.add_axes([0, 0, 1, 1])
    librosa.display.specshow(librosa.power_to_db(librosa.db_to_power(mel.astype("float64")), ref=np.max), sr=RATE, hop_length=160, x_axis="time", y_axis="mel", fmax=8000, ax=ax, **({} if colours == "magma" else dict(cmap=COLOURS[colours])))
    ax.axis("off")
    file = io.BytesIO()
    figure.savefig(file, format=kind)
    return Image.open(file).convert("RGB")


@pytest.mark.parametrize("colours", ["magma", "jet", "grey"])
@pytest.mark.parametrize("seconds", [.6, 1.5, 8])
def test_the_picture_is_that_of_matplotlib(speech, colours, seconds):
    mel = mel_of(np.resize(speech, int(seconds*RATE)), RATE)
    ours, theirs = faithful_picture(mel, colours).astype(int), np.asarray(rendered(mel, colours, "jpeg")).astype(int)
    assert ours.shape == theirs.shape == (288, 288, 3)
    assert np.abs(ours - theirs).mean() < .02 and np.abs(ours - theirs).max() < 16


def test_jpeg_changes_the_picture_and_the_half_precision_of_the_cache_hardly(speech):
    mel = mel_of(speech, RATE)
    ours, bare = faithful_picture(mel).astype(int), np.asarray(rendered(mel, "magma", "png")).astype(int)
    assert 1 < np.abs(ours - bare).mean() < 8
    assert np.abs(ours - faithful_picture(mel.astype("float16"))).mean() < .5


def test_a_quiet_background_is_stretched_over_all_colours_as_matplotlib_does():
    picture = faithful_picture(ramp(288)/6)
    assert picture[:, 0].mean() < 10 and picture[:, -1].mean() > 200
    assert faithful_picture(np.full((MELS, 20), -100., "float32")).max() < 10


@pytest.mark.parametrize("crop", [None, .9])
def test_published_pictures_are_resized_as_pillow_does(speech, crop):
    picture = faithful_picture(mel_of(speech, RATE))
    side = 224 if crop is None else 248
    resized = np.asarray(Image.fromarray(picture).resize((side, side), Image.BICUBIC)).astype(int)
    if crop: resized = resized[12:236, 12:236]
    ours = faithful_paint(picture[None], crop=crop)[0]
    back = ours.permute(1, 2, 0).numpy()*255*DEVIATION + 255*np.array(MEAN)
    assert ours.shape == (3, 224, 224) and np.abs(back - resized).max() < 5 and np.abs(back - resized).mean() < .25
    assert torch.equal(faithful_paint(torch.from_numpy(picture.copy())[None], crop=crop)[0], ours)


@pytest.mark.parametrize("pictures, crop, words", [
    (np.zeros((288, 288, 3), "uint8"), None, "stack those"), (np.zeros((1, 8, 8, 3), "float32"), None, "expected uint8"), (np.zeros((1, 3, 8, 8), "uint8"), None, "expected uint8"),
    (np.zeros((1, 8, 8, 3), "uint8"), 0, "crop 0"), (np.zeros((1, 8, 8, 3), "uint8"), 1.1, "crop 1.1")], ids=["one", "floats", "channels", "nothing", "more"])
def test_what_is_no_picture_is_refused(pictures, crop, words):
    with pytest.raises(ValueError, match=words): faithful_paint(pictures, crop=crop)
