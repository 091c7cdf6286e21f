"Any file that calls itself audio: either the right samples, or one sentence that names it"
import os
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile

from ser_nb.core import AudioError
from ser_nb.data.audio import MAX_DURATION, audio_info, check_duration, check_signal, is_audio, level, mono, read_audio, resample

RATE = 16000
SECONDS = np.arange(RATE)/RATE
TONE = (.4*np.sin(2*np.pi*440*SECONDS)).astype("float32")


def refused(words, act):
    "The sentence of an AudioError: one line that names what is wrong"
    with pytest.raises(AudioError, match=words) as caught: act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def peak_hz(signal, rate): return np.argmax(np.abs(np.fft.rfft(signal*np.hanning(len(signal)))))*rate/len(signal)


@pytest.mark.parametrize("suffix, subtype, error", [
    ("wav", "PCM_16", 4e-5), ("wav", "PCM_24", 1e-6), ("wav", "PCM_32", 1e-6), ("wav", "FLOAT", 0), ("wav", "DOUBLE", 0), ("wav", "PCM_U8", 8e-3), ("wav", "ULAW", 2e-2),
    ("flac", "PCM_16", 4e-5), ("flac", "PCM_24", 1e-6), ("aiff", "PCM_16", 4e-5), ("au", "PCM_16", 4e-5), ("w64", "PCM_24", 1e-6), ("caf", "FLOAT", 0)])
def test_lossless_formats_and_depths(tmp_path, suffix, subtype, error):
    file = tmp_path/f"a.{suffix}"
    soundfile.write(file, TONE, RATE, subtype=subtype)
    signal, rate = read_audio(file)
    assert (rate, signal.dtype, signal.shape) == (RATE, np.float32, TONE.shape)
    assert np.abs(signal - TONE).max() <= error
    assert audio_info(file) == dict(duration=1., sampling_rate=RATE, channels=1, frames=RATE, subtype=subtype)


@pytest.mark.parametrize("suffix, kind, subtype", [("ogg", "OGG", "VORBIS"), ("opus", "OGG", "OPUS"), ("mp3", "MP3", "MPEG_LAYER_III")])
def test_lossy_formats(tmp_path, suffix, kind, subtype):
    file = tmp_path/f"a.{suffix}"
    soundfile.write(file, TONE, RATE, format=kind, subtype=subtype)
    signal, rate = read_audio(file, sampling_rate=RATE)
    assert abs(len(signal) - RATE) < 1500 and abs(peak_hz(signal, rate) - 440) < 2


@pytest.mark.parametrize("stored", [8000, 11025, 22050, 44100, 48000, 96000])
def test_rates_are_resampled(tmp_path, stored):
    t = np.arange(stored)/stored
    soundfile.write(tmp_path/"a.wav", .4*np.sin(2*np.pi*440*t), stored, subtype="FLOAT")
    signal, rate = read_audio(tmp_path/"a.wav", sampling_rate=RATE)
    assert (len(signal), rate, signal.dtype) == (RATE, RATE, np.float32)
    assert np.abs(signal - TONE)[400:-400].max() < 1e-3
    part, _ = read_audio(tmp_path/"a.wav", .25, .75, RATE)
    assert abs(len(part) - RATE//2) < 2 and abs(peak_hz(part, RATE) - 440) < 3


def test_resampling_does_not_fold_back():
    "A tone above the new Nyquist frequency must vanish, not come back below it"
    high = np.sin(2*np.pi*20000*np.arange(48000)/48000).astype("float32")
    assert level(resample(high, 48000, RATE)) < -60
    assert resample(TONE, RATE, RATE) is TONE


def test_stereo_is_the_mean_of_its_channels(tmp_path):
    other = np.roll(TONE, 300)*.5
    soundfile.write(tmp_path/"a.wav", np.stack([TONE, other], 1), RATE, subtype="FLOAT")
    signal, _ = read_audio(tmp_path/"a.wav")
    np.testing.assert_allclose(signal, (TONE + other)/2, atol=1e-7)
    np.testing.assert_array_equal(signal, mono(np.stack([TONE, other])))


def test_unicode_and_spaces_in_the_path(tmp_path):
    file = tmp_path/"mein Körpus 语音"/"ein Satz – ä(1).wav"
    file.parent.mkdir()
    soundfile.write(file, TONE, RATE)
    assert len(read_audio(file)[0]) == len(read_audio(str(file))[0]) == RATE


@pytest.mark.parametrize("name, audio", [("a.WAV", True), ("x/._a.wav", False), (".hidden.wav", True), ("wav", False), ("a.wav.txt", False), ("a.sph", True), ("a.Opus", True)])
def test_names(name, audio): assert is_audio(name) is audio


def wav(subtype="PCM_16", kind="WAV"):
    "Bytes of a sound file of one second"
    import io
    buffer = io.BytesIO()
    soundfile.write(buffer, TONE, RATE, format=kind, subtype=subtype)
    return buffer.getvalue()


def with_rate(rate): return wav()[:24] + struct.pack("<I", rate) + wav()[28:]
def nan(position):
    signal = TONE.copy()
    signal[position] = np.nan if position else np.inf
    import io
    buffer = io.BytesIO()
    soundfile.write(buffer, signal, RATE, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


FLAC = wav(kind="FLAC")
DAMAGED = {
    "text.wav": (b"emotion,label\nnot,audio\n"*50, "not a readable audio file"), "empty.wav": (b"", "0 bytes"), "zip.wav": (b"PK\x03\x04" + bytes(500), "not a readable"),
    **{f"header{n}.wav": (wav()[:n], "not a readable audio file") for n in (1, 4, 11, 12, 20, 35, 36, 40)},
    "no samples.wav": (wav()[:40] + bytes(4), "holds no samples"), "cut before data.wav": (wav()[:44], "holds no samples"), "one sample.wav": (wav()[:46], "truncated, 3199[78] bytes"),
    "half.wav": (wav()[:16000], "truncated, 160[0-9][0-9] bytes"), "half24.wav": (wav("PCM_24")[:24000], "truncated"), "half float.wav": (wav("FLOAT")[:30000], "truncated"),
    "half.aiff": (wav(kind="AIFF")[:16000], "truncated"), "half.sph": (wav(kind="NIST")[:16000], "truncated"), "half.mp3": (wav("MPEG_LAYER_III", "MP3")[:2000], "truncated"),
    **{f"cut{n}.flac": (FLAC[:n], "damaged|truncated|not a readable") for n in (20, 100, len(FLAC)//2, len(FLAC) - 10)},
    "hole.flac": (FLAC[:len(FLAC)//2] + b"\xff"*2000 + FLAC[len(FLAC)//2 + 2000:], "damaged, decoding stopped"), "half.ogg": (wav("VORBIS", "OGG")[:3000], "not a readable"),
    "nan.wav": (nan(5000), "NaN or infinite"), "inf.wav": (nan(0), "NaN or infinite"), "rate 0.wav": (with_rate(0), "not a readable"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_named(tmp_path, name):
    content, words = DAMAGED[name]
    (tmp_path/name).write_bytes(content)
    assert refused(words, lambda: read_audio(tmp_path/name)).startswith(f"{tmp_path/name}: ")


def test_what_is_not_damaged_is_read(tmp_path):
    "The checks above do not refuse sound files: odd sizes, chunks after the samples, headers of unknown length"
    odd = TONE[:15999]
    for kind, subtype in (("WAV", "PCM_U8"), ("WAV", "PCM_24"), ("AIFF", "PCM_24"), ("NIST", "PCM_16"), ("NIST", "ULAW")):
        soundfile.write(tmp_path/"odd", odd, RATE, format=kind, subtype=subtype)
        assert len(read_audio(tmp_path/"odd")[0]) == 15999, (kind, subtype)
    soundfile.write(tmp_path/"two.sph", np.stack([TONE, TONE], 1), RATE, format="NIST", subtype="PCM_16")
    assert len(read_audio(tmp_path/"two.sph")[0]) == RATE
    (tmp_path/"whole.wav").write_bytes(wav())
    (tmp_path/"tail.wav").write_bytes(wav() + b"LIST\x04\x00\x00\x00INFO" + b"x"*777)
    stream = bytearray(wav())
    stream[4:8] = stream[40:44] = b"\xff\xff\xff\xff"
    (tmp_path/"stream.wav").write_bytes(stream)
    for name in ("tail.wav", "stream.wav"): np.testing.assert_array_equal(read_audio(tmp_path/name)[0][:RATE], read_audio(tmp_path/"whole.wav")[0])


def test_what_is_no_file(tmp_path):
    (tmp_path/"folder.wav").mkdir()
    (tmp_path/"link.wav").symlink_to(tmp_path/"gone.wav")
    os.mkfifo(tmp_path/"pipe.wav")
    for name in ("folder.wav", "link.wav", "pipe.wav", "none.wav"): refused("no such audio file", lambda: read_audio(tmp_path/name))


@pytest.mark.parametrize("start, end", [(-.1, .5), (.5, .5), (.6, .5), (1., None), (0, 1.02), (2., 3.)])
def test_segments_outside_the_file(tmp_path, start, end):
    soundfile.write(tmp_path/"a.wav", TONE, RATE)
    refused("lies outside the file", lambda: read_audio(tmp_path/"a.wav", start, end))


def test_segments_meet_without_gap_or_overlap(tmp_path):
    soundfile.write(tmp_path/"a.flac", TONE, RATE)
    whole, _ = read_audio(tmp_path/"a.flac")
    edges = [0, .1, 1/3, .5, .77777, 1.004]   # the last is rounding of an annotation
    np.testing.assert_array_equal(np.concatenate([read_audio(tmp_path/"a.flac", a, b)[0] for a, b in zip(edges, edges[1:])]), whole)
    np.testing.assert_array_equal(read_audio(tmp_path/"a.flac", .2, float("nan"))[0], whole[3200:])


def test_a_segment_of_a_long_file_needs_little_memory(tmp_path):
    soundfile.write(tmp_path/"hour.wav", np.tile(TONE, 3600), 8000, subtype="PCM_U8")
    tracemalloc.start()
    try:
        read_audio(tmp_path/"hour.wav", 3000, 3010, RATE)
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally: tracemalloc.stop()
    refused("lasts 7200 s.*cut it with max_duration", lambda: check_duration(audio_info(tmp_path/"hour.wav")["duration"], "hour.wav"))


@pytest.mark.parametrize("dtype, low, high", [("int16", -32768, 32767), ("int32", -2**31, 2**31 - 1), ("int8", -128, 127), ("uint8", 0, 255)])
def test_integer_extremes_do_not_wrap_round(dtype, low, high):
    signal = mono(np.array([low, high, (low + high + 1)//2], dtype))
    assert signal[0] == -1 and .99 < signal[1] <= 1 and signal[2] == 0


@pytest.mark.parametrize("signal", [None, "a.wav", 3., np.zeros((2, 3, 4)), np.zeros((16000, 2)), TONE.astype(complex), TONE > 0, (TONE*32768).astype("int64"), [411, -432, 3],
                                    np.array(["a", "b"]), np.array([None, 1.])], ids=str)
def test_what_is_no_signal(signal): refused("signal of (shape|type)", lambda: mono(signal))


@pytest.mark.parametrize("rate", [16000., "16000", None, True, 16000.5, -1, 0, 10**9, np.nan])
def test_wrong_sampling_rates(rate): assert repr(rate) in refused("sampling rate", lambda: check_signal(TONE, rate, "a.wav"))


@pytest.mark.parametrize("signal, words", [(TONE[:0], "lasts 0.000 s"), (TONE[:800], "lasts 0.050 s"), (TONE*0, "is silent"), (np.where(SECONDS > .5, np.nan, TONE), "NaN"), (TONE*32768, "full scale is 1"),
                                           (np.broadcast_to(np.float32(.1), int(MAX_DURATION*RATE) + 1000), "lasts 300 s, .* max_duration")])
def test_what_is_no_utterance(signal, words): assert refused(words, lambda: check_signal(signal, RATE, "a.wav")).startswith("a.wav: ")


def test_limits_belong_to_utterances():
    assert check_signal(TONE[:1600], np.int64(RATE)) is not None
    assert check_duration(.3 - .2) < .1   # a segment of .1 s as floats see it
    check_signal(np.where(SECONDS == .5, 1e-4, 0), RATE)
    check_duration(MAX_DURATION)
