"Augmented pictures against augmented waveforms, and what an augmentation may and may not change"
import librosa
import numpy as np
import pytest
import torch

from ser_nb.data.demo import demo_utterance
from ser_nb.features.mel_augment import AUGMENTATIONS, FACTORS, GROUPS, augment, drawn
from ser_nb.features.spectrogram import log_mel, trimmed, view

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = 56


@pytest.fixture(scope="module")
def signals(): return [trimmed(demo_utterance("demo", s, g, e, n)[0].astype("float32")) for s, g, e, n in (("d1f", "female", "angry", 1), ("d1m", "male", "sad", 2), ("d2f", "female", "happy", 3), ("d2m", "male", "neutral", 4))]


def pictures(count=4, size=SIZE, seed=0):
    "Smooth made-up spectrograms from -70 dB up to 0"
    V = torch.nn.functional.interpolate(torch.randn(count, 1, 9, 9, generator=torch.Generator().manual_seed(seed)), (size, size), mode="bicubic")[:, 0]
    low, high = V.amin((1, 2), keepdim=True), V.amax((1, 2), keepdim=True)
    return (V - high)/(high - low)*70, torch.ones(count)


def one(name, seed=0, V=None, width=1., **options):
    V = pictures(1)[0][0] if V is None else V
    made, widths = augment(V[None], torch.tensor([width]), [name], [seed], **options)
    return made[0], float(widths)


# What training draws

@pytest.mark.parametrize("group", GROUPS)
def test_clean_and_each_kind_are_equally_likely(group):
    names = drawn(range(3000), group, seed=1, epoch=4)
    kinds = ("clean", *GROUPS[group])
    assert set(names) == set(kinds)
    counts = np.array([names.count(k) for k in kinds])
    assert ((counts - 3000/len(kinds))**2/(3000/len(kinds))).sum() < 30


def test_draws_belong_to_row_seed_and_epoch():
    names = dict(zip(range(200), drawn(range(200), "time_freq_aug", 0, 0)))
    some = list(np.random.default_rng(0).permutation(200)[:60])
    assert drawn(some, "time_freq_aug", 0, 0) == [names[r] for r in some]
    assert len({tuple(drawn(range(200), "time_freq_aug", seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_forced_rows_are_never_clean_and_repeats_draw_again():
    for group in GROUPS:
        names = drawn([7]*300, group, 0, 0, [False] + [True]*299)
        assert set(names[1:]) == set(GROUPS[group] or AUGMENTATIONS)
    assert drawn(np.arange(3), "no_aug", 0, 0, np.array([False, True, False]))[::2] == ["clean", "clean"]
    with pytest.raises(ValueError): drawn([1, 2], "no_aug", 0, 0, [True])
    with pytest.raises(ValueError, match="did you mean 'time_aug'"): drawn([1], "time", 0, 0)


# Each picture by itself

@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("protocol", ["corrected", "faithful"])
@pytest.mark.parametrize("squeezed", [True, False])
def test_a_picture_does_not_depend_on_its_batch(name, protocol, squeezed):
    V, widths = pictures(6)
    widths = widths if squeezed else torch.linspace(.3, 1, 6)
    before, names, seeds = V.clone(), [name, "clean", name, "mask", "speed", name], [3, 1, 4, 1, 5, 9]
    made, n = augment(V, widths, names, seeds, squeezed, protocol)
    assert torch.equal(V, before) and torch.equal(made[1], V[1]) and n[1] == widths[1] and made.shape == V.shape and torch.isfinite(made).all()
    order = [5, 2, 0]
    again, m = augment(V[order], widths[order], [names[i] for i in order], [seeds[i] for i in order], squeezed, protocol)
    torch.testing.assert_close(again, made[order], rtol=0, atol=1e-3)
    torch.testing.assert_close(m, n[order], rtol=0, atol=1e-6)
    assert not torch.equal(made[0], V[0]) and ((n >= 0) & (n <= 1)).all()


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_seeds_decide(name):
    V = pictures(1)[0].expand(12, -1, -1)
    made, _ = augment(V, torch.ones(12), [name]*12, [0, 0, *range(1, 11)])
    assert torch.equal(made[0], made[1]) and len({m.numpy().tobytes() for m in made[1:]}) >= 9


@pytest.mark.parametrize("name", ["loud", "noise", "norm", "pitch"])
@pytest.mark.parametrize("width", [1., .5])
def test_what_acts_in_a_part_leaves_the_rest(name, width):
    V = pictures(1, 100)[0][0]
    for seed in range(8):
        made, n = one(name, seed, V, width, squeezed=width == 1)
        begin, end = (15, 85) if name == "norm" else (20, 80)
        changed = (made != V).any(0).nonzero()[:, 0]
        assert n == width and changed.min() >= begin*width - 1 and changed.max() <= end*width
        if name != "norm": assert changed.tolist() == list(range(round(20*width), round(80*width)))
        else: assert len(changed) == pytest.approx(21*width, abs=1.01) and torch.allclose((made - V)[:, changed], (made - V)[0, changed[0]], atol=1e-4)


# Each kind

def test_loud_is_a_gain():
    gains = [float((one("loud", seed)[0] - pictures(1)[0][0])[5, SIZE//2]) for seed in range(40)]
    assert 20*np.log10(.5) <= min(gains) < -3 and 3 < max(gains) <= 20*np.log10(2)
    assert gains[3] == pytest.approx(20*np.log10(np.random.default_rng(3).uniform(.5, 2)), abs=1e-4)


def test_masks_are_bounded_and_reach_the_floor():
    V = pictures(1, 112)[0][0]
    covered = {p: [float((one("mask", seed, V, protocol=p)[0] <= V.max() - 80).all(0).float().mean()) for seed in range(200)] for p in ("corrected", "faithful")}
    assert max(covered["corrected"]) <= .11 and np.mean(covered["corrected"]) == pytest.approx(.05, abs=.01)
    assert .45 < max(covered["faithful"]) <= .55 and np.mean(covered["faithful"]) == pytest.approx(.26, abs=.03)
    for seed in range(30):
        rows = (one("maskfreq", seed, V)[0] <= V.max() - 80).all(1)
        assert rows.sum() <= np.ceil(30/128*112) and (rows.diff() != 0).sum() <= 2


def test_shift_moves_and_erases():
    V = pictures(1, 112)[0][0]
    for seed in range(20):
        made, _ = one("shift", seed, V, protocol="faithful")
        left = torch.allclose(made[:, :56], V[:, 56:], atol=1e-3)
        assert left or torch.allclose(made[:, 56:], V[:, :56], atol=1e-3)
        assert (made[:, 56:] if left else made[:, :56]).max() <= V.max() - 80
        assert float((one("shift", seed, V)[0] <= V.max() - 80).all(0).float().mean()) <= .26
    made, n = one("shift", 0, V, .5, squeezed=False, protocol="faithful")
    assert n == .5 and torch.equal(made[:, 56:], V[:, 56:])


@pytest.mark.parametrize("width", [1., .5])
def test_speed_keeps_order_and_length(width):
    V = torch.arange(100.).expand(100, 100)/100 - 1
    for seed in range(10):
        factor = np.random.default_rng(seed).choice(FACTORS)
        made, n = one("speed", seed, V, width, squeezed=False, protocol="faithful")
        long = .4 + .6/factor
        assert n == pytest.approx(min(1, width*long), abs=1e-6)
        columns = int(100*n)
        assert (made[0, :columns].diff() >= -1e-6).all() and (made[:, columns + 1:] < -50).all()
        if width*long <= 1: assert made[0, columns - 1] == pytest.approx(width - 1, abs=.03)
        inside = int(width*100*(.2 + .3/factor))
        if inside < 100: assert made[0, inside] == pytest.approx(width*.5 - 1, abs=.02)
        squeezed, whole = one("speed", seed, V, protocol="faithful")
        assert whole == 1 and squeezed[0, 0] < -.98 and squeezed[0, -1] > -.03 and squeezed[0, int(100*(.2 + .3/factor)/long)] == pytest.approx(-.5, abs=.03)


@pytest.mark.parametrize("hz", [400, 1500, 4000])
def test_pitch_raises_a_tone_by_two_to_three_semitones(hz):
    V = view([log_mel(np.sin(2*np.pi*hz*np.arange(16000)/16000).astype("float32"))], 128)[0][0]
    def row(f): return int(view([log_mel(np.sin(2*np.pi*f*np.arange(16000)/16000).astype("float32"))], 128)[0][0][:, 64].argmax())
    for seed in range(4):
        raised = hz*2**(np.random.default_rng(seed).uniform(2, 3)/12)
        made, _ = one("pitch", seed, V, protocol="faithful")
        assert abs(int(made[:, 64].argmax()) - row(raised)) <= 2 and int(made[:, 5].argmax()) == row(hz) != row(raised)
    directions = {int(one("pitch", seed, V)[0][:, 64].argmax()) > row(hz) for seed in range(8)}
    assert directions == {True, False}


def test_noise_has_the_published_level_and_the_corrected_one_follows_the_clip():
    silent = torch.full((112, 112), -100.)
    heard = one("noise", 1, silent, protocol="faithful")[0][:, 23:89]
    wanted = view([log_mel(torch.randn(48000, generator=torch.Generator().manual_seed(0))*(.6*48000)**-.5)], 112)[0][0]
    assert (heard.mean(1) - wanted.mean(1)).abs().mean() < 1
    V = pictures(1, 112)[0][0]
    near = one("noise", 4, V)[0]
    torch.testing.assert_close(one("noise", 4, V - 30)[0], near - 30, rtol=0, atol=1e-3)
    below = [float(V.max() - one("noise", seed, torch.where(V == V.max(), V, -200.))[0][:40, 30:80].median()) for seed in range(20)]
    assert 40 < min(below) < 45 and 57 < max(below) < 63


def test_norm_is_bounded_unless_faithful():
    V = pictures(1)[0][0] - 60
    gains = {p: float((one("norm", 2, V, protocol=p)[0] - V).max()) for p in ("corrected", "faithful")}
    assert gains["corrected"] == pytest.approx(12, abs=1e-3) and gains["faithful"] > 30
    assert torch.equal(one("norm", 2, V + 120)[0], V + 120)


# Against the waveform, with the same numbers drawn

def on_waveform(x, name, seed):
    rng, n, y = np.random.default_rng(seed), len(x), x.copy()
    a, b = int(.2*n), int(.8*n)
    if name == "loud": y[a:b] *= rng.uniform(.5, 2)
    if name == "noise": y[a:b] += np.fft.irfft(rng.standard_normal((b - a)//2 + 1), b - a)
    if name == "speed": y = np.concatenate([x[:a], librosa.effects.time_stretch(x[a:b], rate=rng.choice(FACTORS)), x[b:]])
    if name == "pitch": y[a:b] = librosa.effects.pitch_shift(x[a:b], sr=16000, n_steps=rng.uniform(2, 3))
    if name == "shift": y = np.r_[np.zeros(n - n//2), x[:n//2]] if rng.choice([-1, 1]) > 0 else np.r_[x[n//2:], np.zeros(n//2)]
    if name == "norm":
        a = int(rng.uniform(.15, .64)*n)
        b = a + int(.21*n)
        y[a:b] /= np.abs(y[a:b]).max()
    return y.astype("float32")


def correlation(P, Q): return np.mean([np.corrcoef(*(np.maximum(p, p.max() - 80).flatten() for p in (p.numpy(), q.numpy())))[0, 1] for p, q in zip(P, Q)])


@pytest.mark.parametrize("name, least", [("loud", .998), ("noise", .96), ("speed", .84), ("pitch", .84), ("shift", .98), ("norm", .98)])
def test_pictures_agree_with_waveforms(signals, name, least):
    V, widths = view([log_mel(x) for x in signals], 112)
    wanted = view([log_mel(on_waveform(x, name, i)) for i, x in enumerate(signals)], 112)[0]
    got = correlation(augment(V, widths, [name]*4, [0, 1, 2, 3], protocol="faithful")[0], wanted)
    other = correlation(augment(V, widths, [name]*4, [40, 41, 42, 43], protocol="faithful")[0], wanted)
    assert got > least and got > correlation(V, wanted) and (name == "noise" or got > other)


@pytest.mark.parametrize("change, words", [(dict(names=["noize"]), "unknown augmentation 'noize': did you mean 'noise'"), (dict(names=["mask", "mask"]), "1 pictures, 1 widths, 2 names and 1 seeds"), (dict(seeds=[]), "0 seeds"), (dict(protocol="published"), "unknown protocol")])
def test_errors(change, words):
    V, widths = pictures(1)
    with pytest.raises(ValueError, match=words) as e: augment(**dict(dict(V=V, widths=widths, names=["mask"], seeds=[0]), **change))
    assert "\n" not in str(e.value)
