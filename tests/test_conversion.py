"Conversion from end to end: networks and losses against plain ones, windows, kills, bad speech, the parts of a conversion, files, the command and the notebooks"
import copy
import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_gan import die_in_call, half_written
from torch import nn

from ser_nb import conversion, processes
from ser_nb.cli import main
from ser_nb.conversion import Side, check_parts, check_sides, convert, convert_file, convert_files, convert_world, direction, emotion_classifier, folder_corpus, joined, load_converter, make_nets, make_side, pieces_of, save_converter, targets_of, train_converter
from ser_nb.core import AudioError, cache_root
from ser_nb.data.audio import read_audio
from ser_nb.data.corpus import make_corpus
from ser_nb.data.demo import demo_utterance
from ser_nb.features.world import World, analyse, check_analysis, convert_power, f0_stats, mcep_stats, synthesise
from ser_nb.models.voice_cyclegan import Discriminator, EmotionCNN, Generator, Residual
from ser_nb.processes import _Worker, in_processes
from ser_nb.training import loop, voice
from ser_nb.training.voice import LIMIT, PUBLISHED, SEGMENT, decay, emotion_loss, epoch_windows, gather, seeded, stored, train_cyclegan, windows

ROOT = Path(__file__).resolve().parents[1]
QUICK = dict(f0_method="dio")
TINY = dict(iterations=4, width=.0625, blocks=1, sigmoid=False, lr=dict(g=2e-3, d=1e-3))


pytestmark = pytest.mark.usefixtures("one_thread")


def count(module): return sum(p.numel() for p in module.parameters())
def digest(nets): return hashlib.sha256(b"".join(v.numpy().tobytes() for name in sorted(nets) for _, v in sorted(nets[name].state_dict().items()))).hexdigest()
def weights(nets): return torch.cat([v.flatten() for net in nets.values() for v in net.state_dict().values()])
def everything(folder): return sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*"))
def one_sentence(text, *words):
    assert "\n" not in text and "Traceback" not in text, text
    for w in words: assert str(w) in text, text


# ---- networks ------------------------------------------------------------------------------------------------------

def test_published_sizes():
    with torch.device("meta"): assert (count(Generator()), count(Discriminator())) == (38_055_704, 21_837_825)


@pytest.mark.parametrize("frames", [128, 132])
@pytest.mark.parametrize("given", [dict(width=.0625, blocks=1), dict(width=.125, blocks=2, dims=36)], ids=str)
def test_shapes(frames, given):
    x = torch.randn(2, given.get("dims", 24), frames)
    assert Generator(**given)(x).shape == x.shape
    given = {k: v for k, v in given.items() if k != "blocks"}
    assert Discriminator(**given)(x).shape == (2, x.shape[1]//4, -(-frames//16))
    torch.testing.assert_close(Discriminator(**given, sigmoid=True)(x).logit().shape, Discriminator(**given)(x).shape)
    assert EmotionCNN(3, x.shape[1])(x).shape == (2, 3)


@pytest.mark.parametrize("frames", [126, 127, 130])
def test_frames_are_a_multiple_of_4(frames):
    with pytest.raises(ValueError, match=f"{frames} frames: expected a multiple of 4"): Generator(width=.0625, blocks=1)(torch.zeros(1, 24, frames))


def rough(net):
    "Scales and shifts that are not those of a beginning"
    torch.manual_seed(1)
    for p in net.parameters():
        if p.ndim == 1: p.data.normal_()
    return net


def apart(layer, x):
    "Convolution and gate one after the other, each with a normalisation of torch's own; [frames, channels] is reshaped to twice the frames as in the released code"
    n, shuffle = layer.conv.out_channels//2, getattr(layer, "shuffle", False)
    rows, size = torch.arange(n), n//2 if shuffle else n
    if shuffle: rows = 2*(rows % size) + rows//size
    x, padding = (F.pad(x, (1, 1, 2, 3)), 0) if layer.conv.kernel_size == (6, 3) else (x, layer.conv.kernel_size[0]//2)
    halves = []
    for i in range(2):
        y = (F.conv1d if x.ndim == 3 else F.conv2d)(x, layer.conv.weight[i*n + rows], layer.conv.bias[i*n + rows], layer.conv.stride, padding)
        if shuffle: y = torch.stack([one.T.reshape(2*one.shape[1], size).T for one in y])
        norm = nn.Identity()
        if not isinstance(layer.norm, nn.Identity):
            norm = (nn.InstanceNorm1d if x.ndim == 3 else nn.InstanceNorm2d)(size, eps=1e-6, affine=True)
            norm.weight.data, norm.bias.data = layer.norm.weight.data[i*size:(i + 1)*size], layer.norm.bias.data[i*size:(i + 1)*size]
        halves.append(norm(y))
    return halves[0]*torch.sigmoid(halves[1])


def test_generator_is_that_of_separate_convolutions():
    net, x = rough(Generator(width=.0625, blocks=2)), torch.randn(3, 24, 132)
    y = x
    for layer in net.net[:-1]:
        if not isinstance(layer, Residual): y = apart(layer, y)
        else: y = y + F.instance_norm(layer.conv(apart(layer.gated, y)), weight=layer.norm.weight, bias=layer.norm.bias, eps=1e-6)
    torch.testing.assert_close(net(x), F.conv1d(y, net.net[-1].weight, net.net[-1].bias, padding=7), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_discriminator_is_that_of_separate_convolutions(sigmoid):
    net, x = rough(Discriminator(width=.0625, sigmoid=sigmoid)), torch.randn(3, 24, 128)
    y = x[:, None]
    for layer in net.net[:-1]: y = apart(layer, y)
    y = torch.einsum("bchw,c->bhw", y, net.net[-1].weight[0, :, 0, 0]) + net.net[-1].bias
    torch.testing.assert_close(net(x), y.sigmoid() if sigmoid else y, rtol=1e-4, atol=1e-4)


def test_an_example_is_alone_in_its_batch():
    x = torch.randn(3, 24, 128)
    for net in (rough(Generator(width=.0625, blocks=1)), rough(Discriminator(width=.0625))):
        torch.testing.assert_close(net(x)[1:2], net(x[1:2]), rtol=1e-4, atol=1e-4)


# ---- windows -------------------------------------------------------------------------------------------------------

def marks(*lengths, voiced=1., seed=0):
    rng = np.random.default_rng(seed)
    return [rng.random(n) < voiced for n in lengths]


@pytest.mark.parametrize("seed", range(5))
def test_windows_share_no_frame_and_use_every_utterance(seed):
    voiced = marks(128, 127, 900, 300, 60, 5000)
    found, taken = windows(voiced, seed), [np.zeros(len(v), int) for v in voiced]
    for u, first in found: taken[u][first:first + SEGMENT] += 1
    assert all(t.max(initial=0) <= 1 for t in taken) and {u for u, _ in found} == {0, 2, 3, 5} and sum(t.sum() for t in taken) == SEGMENT*len(found)
    for t in taken:   # what is left is too short for another
        runs = "".join(map(str, t)).split("1")
        assert max(map(len, runs)) < SEGMENT
    assert np.array_equal(found, windows(voiced, seed)) and not np.array_equal(found, windows(voiced, seed + 5))


def test_windows_have_voice():
    voiced = marks(*[2000]*20, voiced=.002)
    found = windows(voiced, 0)
    assert len(found) and all(voiced[u][first:first + SEGMENT].any() for u, first in found)
    assert len(windows(marks(*[2000]*20, voiced=0), 0)) == 0 == len(windows([], 0)) and windows([], 0).shape == (0, 2)


def test_windows_end_with_the_limit(): assert len(windows(marks(*[2000]*120), 0)) == LIMIT == 1000


def test_windows_of_an_epoch_are_as_many_for_each_domain():
    domains = {name: [(np.zeros((len(v), 2)), v) for v in marks(*lengths)] for name, lengths in dict(a=[600]*9, b=[300]*4, c=[300]*5).items()}
    for batch in (1, 3):
        cut = epoch_windows(domains, 0, 0, batch)
        steps = min(len(windows([v for _, v in pairs], 1)) for pairs in domains.values())
        assert len({x.shape for x in cut.values()}) == 1 and cut["a"].shape[1:] == (batch, 2) and 0 < len(cut["a"]) <= 8//batch and steps
    assert all(np.array_equal(v, epoch_windows(domains, 0, 0, 3)[k]) for k, v in cut.items())
    for seed, epoch in ((1, 0), (0, 1)): assert not np.array_equal(cut["a"][:1], epoch_windows(domains, seed, epoch, 3)["a"][:1])


def made_up(names=("neutral", "angry"), n=3, frames=300, dims=8, seed=0):
    "Domains that cost nothing"
    rng = np.random.default_rng(seed)
    return {name: [(rng.normal(i, 1, (frames + 20*k, dims)).astype("float32"), np.ones(frames + 20*k, bool)) for k in range(n)] for i, name in enumerate(names)}


def test_a_batch_is_what_its_windows_say():
    domains = made_up()
    frames, firsts = stored(domains)
    cut = epoch_windows(domains, 0, 0, 2)["angry"][0]
    assert np.array_equal(gather(frames["angry"], firsts["angry"], cut), np.stack([domains["angry"][u][0][first:first + SEGMENT].T for u, first in cut]))


# ---- losses and schedule -------------------------------------------------------------------------------------------

def plain_training(domains, o, classify=None, seed=0):
    "A step as the paper has it, without anything fused: (losses of each step, generators)"
    (a, b), dims = domains, next(iter(domains.values()))[0][0].shape[1]
    nets = {name: seeded(lambda name=name: Generator(dims, o["width"], o["blocks"]) if "2" in name else Discriminator(dims, o["width"], o["sigmoid"]), seed, name) for name in ("A2B", "B2A", "A", "B")}
    moved = {k: torch.optim.Adam([p for name in names for p in nets[name].parameters()], o["lr"][k], (.5, .999)) for k, names in dict(g=("A2B", "B2A"), d="AB").items()}
    rows, epoch, todo = [], 0, []
    for i in range(o["iterations"]):
        if not todo:
            cut, epoch = epoch_windows(domains, seed, epoch, o["batch_size"]), epoch + 1
            todo = list(zip(cut[a], cut[b]))
        x, y = (torch.tensor(np.stack([domains[name][u][0][first:first + SEGMENT].T for u, first in part])) for name, part in zip((a, b), todo.pop(0)))
        done = i/o["iterations"]
        for k, optimizer in moved.items(): optimizer.param_groups[0]["lr"] = o["lr"][k]*(1 if done <= o["decay_from"] else (1 - done)/(1 - o["decay_from"]))
        fake_b, fake_a = nets["A2B"](x), nets["B2A"](y)
        row = dict(cycle=(nets["B2A"](fake_b) - x).abs().mean() + (nets["A2B"](fake_a) - y).abs().mean(), A2B=((nets["B"](fake_b) - 1)**2).mean(), B2A=((nets["A"](fake_a) - 1)**2).mean())
        if done < o["identity_until"]: row["identity"] = (nets["B2A"](x) - x).abs().mean() + (nets["A2B"](y) - y).abs().mean()
        if classify: row["emotion"] = classify(fake_a, fake_b)
        total = sum(v*o[dict(cycle="lambda_cyc", identity="lambda_id", emotion="lambda_cls").get(k, "lambda_adv")] for k, v in row.items())
        moved["g"].zero_grad()
        total.backward()
        moved["g"].step()
        fake_a, fake_b = fake_a.detach(), fake_b.detach()
        for name, real, fake in (("A", x, fake_a), ("B", y, fake_b)): row[name] = .5*(((nets[name](real) - 1)**2).mean() + (nets[name](fake)**2).mean())
        moved["d"].zero_grad()
        (row["A"] + row["B"]).backward()
        moved["d"].step()
        rows.append({k: v.item() for k, v in row.items()})
    return pd.DataFrame(rows), nets


CLASSIFY = lambda fake_a, fake_b: fake_a.square().mean() + 3*(fake_b - 1).abs().mean()   # noqa: E731


@pytest.mark.parametrize("change, classify", [(dict(sigmoid=True, decay_from=.5, identity_until=.5), None), (dict(batch_size=2, identity_until=0, lambda_cyc=3, lambda_adv=2.5, decay_from=0), None),
                                              (dict(lambda_cls=1.5, identity_until=1, lambda_id=.5, decay_from=1), CLASSIFY)], ids=["sigmoid", "two rows", "classified"])
def test_training_is_that_of_plain_losses(change, classify, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    domains, o = made_up(), dict(PUBLISHED, **TINY) | dict(iterations=6, **change)
    (nets, curves), (rows, plain) = train_cyclegan(domains, o, classify=classify), plain_training(domains, o, classify)
    assert set(rows) == set(curves) - {"iteration", "A_real", "A_made", "B_real", "B_made"}
    for name in rows: np.testing.assert_allclose(curves[name], rows[name], rtol=2e-3, err_msg=name)
    x = torch.tensor(domains["angry"][0][0][:SEGMENT].T[None].copy())
    for name, net in nets.items():
        new = seeded(lambda: Generator(8, o["width"], o["blocks"]), 0, name)
        with torch.no_grad(): off, way = (net(x) - plain[name](x)).abs().max(), (net(x) - new(x)).abs().max()
        assert off < .02*way and way > .01


def test_losses_are_means_over_the_steps_before(monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    each = train_cyclegan(made_up(), dict(TINY, iterations=5))[1]
    monkeypatch.setattr(loop, "LOG_EVERY", 3)
    means = train_cyclegan(made_up(), dict(TINY, iterations=5))[1]
    assert list(means.iteration) == [3, 5]
    for row, part in zip(means.itertuples(), (each[:3], each[3:])): assert row.cycle == pytest.approx(part.cycle.mean(), rel=1e-6)


@pytest.mark.parametrize("iterations, share, until", [(8, .5, 4), (20, .05, 1), (10, .3, 3), (4, 0, 0), (4, 1, 4)])
def test_identity_ends_at_its_share(iterations, share, until, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    _, curves = train_cyclegan(made_up(), dict(TINY, iterations=iterations, identity_until=share))
    assert (curves.identity.notna().sum() if "identity" in curves else 0) == until and ("identity" not in curves or curves.identity[:until].notna().all())


def test_without_weights_nothing_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    _, curves = train_cyclegan(made_up(), dict(TINY, lambda_adv=0), checkpoint=tmp_path/"c.safetensors")
    assert {*curves} == {"iteration", "cycle", "identity"} and {k.split(".")[0].split("/")[0] for k in load_file(tmp_path/"c.safetensors")} == {"A2B", "B2A", "g", "curves"}
    assert "cycle" not in train_cyclegan(made_up(), dict(TINY, lambda_cyc=0))[1] and "identity" not in train_cyclegan(made_up(), dict(TINY, lambda_id=0))[1]


def test_decay():
    assert [decay(s, .5) for s in (0, .25, .5)] == [1, 1, 1] and decay(.75, .5) == pytest.approx(.5) and decay(399_999/400_000, .5) == pytest.approx(2/400_000)
    assert decay(.5, 0) == .5 and decay(.999, 1) == 1 and decay(.9, .8) == pytest.approx(.5)


def test_rates_follow_the_schedule(monkeypatch):
    seen, move = [], voice.move
    monkeypatch.setattr(voice, "move", lambda optimizer, *rest: (seen.append(optimizer.param_groups[0]["lr"]), move(optimizer, *rest)))
    train_cyclegan(made_up(), dict(TINY, iterations=8))
    factors = [1]*5 + [.75, .5, .25]
    np.testing.assert_allclose(seen[::2], [2e-3*f for f in factors])
    np.testing.assert_allclose(seen[1::2], [1e-3*f for f in factors])


CHANGED = dict(iterations=[5], batch_size=[2], width=[.125], blocks=[2], lr=[dict(g=1e-3, d=1e-3), dict(g=2e-3, d=1e-2)], lambda_adv=[0, 2.], lambda_cyc=[0, 5.], lambda_id=[0, 2.], lambda_cls=[1.], identity_until=[0, .9],
               decay_from=[0, 1], sigmoid=[True], precision=["bfloat16"])


def test_no_option_without_a_test(): assert set(CHANGED) == set(PUBLISHED)


@pytest.fixture(scope="module")
def usual(): return weights(train_cyclegan(made_up(), TINY)[0])


@pytest.mark.parametrize("name, value", [(name, value) for name, values in CHANGED.items() for value in values])
def test_every_option_counts(usual, name, value):
    changed = weights(train_cyclegan(made_up(), dict(TINY, **{name: value}) if name not in TINY else TINY | {name: value}, classify=CLASSIFY if name == "lambda_cls" else None)[0])
    assert len(usual) != len(changed) or not torch.allclose(usual, changed, rtol=0, atol=1e-6)


def test_the_seed_counts_and_the_state_of_torch_does_not(usual):
    state = torch.manual_seed(99).get_state()
    assert torch.equal(weights(train_cyclegan(made_up(), TINY)[0]), usual) and torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(weights(train_cyclegan(made_up(), TINY, seed=1)[0]), usual)


REFUSED = [(dict(lambda_cycle=1), "unknown option of the CycleGAN 'lambda_cycle': did you mean 'lambda_cyc'"), (dict(iterations=0), "iterations=0: expected a whole number"), (dict(iterations=2.5), "iterations=2.5"), (dict(iterations=True), "iterations=True"),
           (dict(batch_size=0), "batch_size=0"), (dict(width=0), "width=0: expected a number above 0"), (dict(width=5), "width=5"), (dict(blocks=0), "blocks=0"), (dict(lr=1e-3), "lr=0.001: expected a number above 0 for each of g and d"), (dict(lr=dict(g=1e-3)), "lr="),
           (dict(lr=dict(g=0, d=1e-3)), "lr="), (dict(lr=dict(g=float("nan"), d=1e-3)), "lr="), (dict(lr=dict(g=float("inf"), d=1e-3)), "lr="), (dict(lambda_adv=-1), "lambda_adv=-1: expected a number, 0 or more"), (dict(lambda_cyc=float("nan")), "lambda_cyc=nan"), (dict(lambda_id=float("inf")), "lambda_id=inf"),
           (dict(lambda_cls=None), "lambda_cls=None"), (dict(lambda_cls=1.), "lambda_cls=1.0: expected a classifier"), (dict(identity_until=10_000), "identity_until=10000: expected a share"), (dict(identity_until=-.1), "identity_until=-0.1"), (dict(decay_from=1.5), "decay_from=1.5: expected a share"), (dict(decay_from=float("nan")), "decay_from=nan"),
           (dict(sigmoid=1), "sigmoid=1: expected True or False"), (dict(precision="float16"), "precision='float16': expected one of float32, bfloat16"), (dict(precision=None), "precision=None")]


@pytest.mark.parametrize("change, words", REFUSED, ids=[str(c) for c, _ in REFUSED])
def test_options_that_cannot_train(change, words):
    with pytest.raises(ValueError, match=re.escape(words)) as caught: train_cyclegan(made_up(), TINY | change)
    one_sentence(str(caught.value))


def test_every_weight_0():
    with pytest.raises(ValueError) as caught: train_cyclegan(made_up(), dict(TINY, lambda_adv=0, lambda_cyc=0, lambda_id=0))
    one_sentence(str(caught.value), "lambda")


def test_domains_that_cannot_train():
    data, half = made_up(), made_up(n=2, frames=100)
    for domains, words in ((dict(a=data["angry"]), "two domains, found a"), (made_up("abc"), "two domains, found a, b, c"), ({}, "two domains, found none"), (dict(data, angry=data["angry"][:1]), "'angry': 1 of 1 utterances"), (dict(data, angry=half["angry"]), "0 of 2 utterances have 128 frames (640 ms)"),
                           (dict(data, angry=[(x, v & False) for x, v in data["angry"]]), "0 of 3 utterances"), (dict(data, angry=[(x[:, :5], v) for x, v in data["angry"]]), "[5, 8] coefficients"), (dict(data, angry=[(x*np.nan, v) for x, v in data["angry"]]), "utterance 0 has NaN"),
                           (dict(data, angry=[*data["angry"], (data["angry"][0][0], np.ones(5, bool))]), "utterance 3 has NaN or infinite values, or another number")):
        with pytest.raises(ValueError, match=re.escape(words)) as caught: train_cyclegan(domains, TINY)
        one_sentence(str(caught.value))
    with pytest.raises(ValueError, match="fewer than batch_size=40; lower it or give more files"): train_cyclegan(data, dict(TINY, batch_size=40))
    with pytest.raises(ValueError, match="expected a classifier when it is not 0, and none when it is"): train_cyclegan(data, TINY, classify=CLASSIFY)


def test_domains_that_may_be_trained_on_are_trained_on_in_every_epoch():
    "Voice in a small part of two long utterances: a window may miss it"
    def scarce(x):
        v = np.zeros(len(x), bool)
        v[len(v)//2:len(v)//2 + 10] = True
        return x, v
    domains = {name: [scarce(x) for x, _ in pairs] for name, pairs in made_up(n=2, frames=700).items()}
    assert voice.check_domains(domains, 1) == 8
    train_cyclegan(domains, dict(TINY, iterations=60))


def test_a_loss_that_is_not_finite(monkeypatch):
    with pytest.raises(FloatingPointError, match="is not finite at iteration 6: lower the learning rate") as caught: train_cyclegan(made_up(), dict(TINY, iterations=6, lr=dict(g=1e30, d=1e30)))
    one_sentence(str(caught.value))


# ---- the loop, kill -9 ---------------------------------------------------------------------------------------------

def toy(iterations=7, batches=3, **given):
    "A training of one number: (steps as (batch, iteration), its module, curves)"
    seen, net = [], nn.Linear(1, 1)
    nn.init.zeros_(net.weight)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    def step(batch, i):
        seen.append((batch, i))
        loss = (net(torch.ones(1, 1)) - batch).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return dict(loss=loss)
    curves = loop.fit(step, lambda epoch: [10*epoch + k for k in range(batches)], dict(net=net), dict(adam=optimizer), iterations, **given)
    return seen, net, curves


def test_a_loop_counts_its_steps(monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 2)
    looks, logged = [], []
    seen, _, curves = toy(watch=looks.append, watch_every=3, log=lambda losses, i: logged.append((i, *losses)))
    assert seen == [(0, 0), (1, 1), (2, 2), (10, 3), (11, 4), (12, 5), (20, 6)] and looks == [3, 6, 7] and list(curves.iteration) == [2, 4, 6, 7] and logged == [(i, "loss") for i in (2, 4, 6, 7)]
    with pytest.raises(ValueError, match="epochs in a row have no whole batch: there is too little to train on"): toy(batches=0)


def test_checkpoints_are_as_far_apart_as_asked(monkeypatch, tmp_path):
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    seconds, saved, save = iter(range(0, 1000, 10)), [], loop.save_checkpoint
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    monkeypatch.setattr(loop, "save_checkpoint", lambda *args: (saved.append(args[-1]["iteration"]), save(*args)))
    toy(9, checkpoint=tmp_path/"c.safetensors", every=25)
    assert saved[-1] == 9 and 2 <= len(saved) < 6 and everything(tmp_path) == ["c.safetensors"]


LONG = dict(TINY, iterations=11, identity_until=.5, decay_from=.4)   # checkpoints after 2, 4, 6, 8, 10 and 11 steps; about 5 steps an epoch
KILLS = {"between": 4, "after": 2, "before its name": 2, "writing the first": 0, "writing the second": 2, "writing the last": 10}   # iterations that are left of each


def trained(checkpoint=None): return train_cyclegan(made_up(), LONG, checkpoint=checkpoint, every=0)


def made_side(seed, n=3, dims=8, rate=16000, **options):
    "Worlds that nobody spoke, and their statistics"
    rng, options = np.random.default_rng(seed), check_analysis(dict(QUICK, dims=dims, **options))
    worlds = [World(rng.uniform(150, 250, 300).astype("float32"), rng.normal(seed, 1, (300, dims)).astype("float32"), np.full((300, 1), -10, "float32"), 299*80, options) for _ in range(n)]
    return Side(worlds, dict(f0=f0_stats(worlds), mcep={k: v.tolist() for k, v in mcep_stats(worlds).items()}, power=dict(mean=-30., std=5.), sampling_rate=rate, utterances=n), pd.DataFrame(columns=["file", "start", "end", "reason"]))


def trained_stage(): return train_converter(dict(neutral=made_side(0), angry=made_side(1)), dict(PUBLISHED, **LONG))


def set_traps(point):
    "Let the point kill the process that reaches it"
    import safetensors.torch
    torch.set_num_threads(1)
    loop.LOG_EVERY = 2
    fit = loop.fit
    voice.fit = lambda *args: fit(*args[:8], 0., *args[9:])   # a checkpoint whenever there may be one
    if point == "between": die_in_call(voice, "gather", 2*5 + 2)          # in the sixth step
    if point == "after": die_in_call(loop, "save_checkpoint", 1, lambda save, *args: save(*args))
    if point == "before its name":
        count = iter(range(99))
        replaced = os.replace
        os.replace = lambda *names: replaced(*names) if next(count) < 1 else os.kill(os.getpid(), 9)
    for name, number in dict(first=1, second=2, last=6).items():
        if point == f"writing the {name}": die_in_call(safetensors.torch, "save_file", number, half_written)
    if point == "stage": die_in_call(conversion, "save_converter", 1, lambda save, model, folder: (save(model, folder), os.truncate(folder/"weights.safetensors", 999)))
    if point == "stage's name": die_in_call(conversion, "stage", 1, lambda stage, *args: stage(*args))
    if point == "converting":
        conversion.CHUNK, conversion.convert = 2., lambda signal, *args: signal
        die_in_call(conversion, "convert", 3)


def kill_each(folder):
    "For a process of its own: it forks a child for each kill, and prints how the child ended and what it left behind"
    import accelerate, torch._dynamo   # noqa: E401, F401 (what each child would import)
    def ending(work, point):
        child = os.fork()
        if not child:
            set_traps(point)
            work()
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for point in KILLS: print(ending(lambda: trained(Path(folder)/point/"x.safetensors"), point), flush=True)
    for point in STAGE_KILLS: print(ending(trained_stage, point), *left_behind(), flush=True)
    soundfile.write(Path(folder)/"long.wav", noise(16000*9), 16000)
    print(ending(lambda: convert_file(Path(folder)/"long.wav", Path(folder)/"out"/"long.wav", None), "converting"), flush=True)


STAGE_KILLS = {"writing the second": "-9 1 0", "between": "-9 1 0", "stage": "-9 1 0", "stage's name": "-9 1 1"}   # on one cache: checkpoints and finished stages after each


def left_behind():
    "Checkpoints and finished stages"
    return len(list((cache_root()/"checkpoints").glob("[a-z]*.safetensors"))), len(list((cache_root()/"stages"/"conversion").glob("[0-9a-f]*")))


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    "(folder of checkpoints, folder of the cache, a line for each kill of a stage and one for that of a conversion)"
    folder, cache = tmp_path_factory.mktemp("killed"), tmp_path_factory.mktemp("cache")
    process = subprocess.run([sys.executable, "-c", f"import test_conversion; test_conversion.kill_each({str(folder)!r})"], cwd=Path(__file__).parent, env={**os.environ, "SER_NB_CACHE": str(cache)}, capture_output=True, text=True, timeout=300)
    lines = process.stdout.splitlines()
    assert process.returncode == 0 and lines[:len(KILLS)] == ["-9"]*len(KILLS), process.stdout + process.stderr[-2000:]
    return folder, cache, lines[len(KILLS):]


@pytest.fixture(scope="module")
def undisturbed():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "LOG_EVERY", 2)
        nets, curves = trained()
        return digest(nets), curves


@pytest.mark.parametrize("point", KILLS)
def test_killed_and_the_same_in_the_end(killed, undisturbed, monkeypatch, point):
    monkeypatch.setattr(loop, "LOG_EVERY", 2)
    path, done = killed[0]/point/"x.safetensors", KILLS[point]
    assert len(list(path.parent.glob(".x.safetensors.*/x.safetensors"))) == (point.startswith("writing") or point == "before its name") and path.exists() == (done > 0)
    if done:
        with safe_open(path, "pt") as file: assert json.loads(file.metadata()["about"])["at"]["iteration"] == done
    calls, gather = [], voice.gather
    monkeypatch.setattr(voice, "gather", lambda *args: (calls.append(1), gather(*args))[1])
    nets, curves = trained(path)
    assert digest(nets) == undisturbed[0] and len(calls) == 2*(11 - done), "it did not go on from the checkpoint"
    pd.testing.assert_frame_equal(curves, undisturbed[1], check_exact=True)
    assert everything(path.parent) == ["x.safetensors"], "what the kill left is still there"
    assert digest(trained(path)[0]) == undisturbed[0] and len(calls) == 2*(11 - done), "what is finished was trained again"


def test_a_stage_that_was_killed_four_times_is_the_same_in_the_end(killed, tmp_path, monkeypatch):
    assert killed[2][:-1] == list(STAGE_KILLS.values())
    monkeypatch.setenv("SER_NB_CACHE", str(killed[1]))
    made, curves, key = trained_stage()
    assert left_behind() == (0, 1)
    monkeypatch.setenv("SER_NB_CACHE", str(tmp_path))
    monkeypatch.setattr(loop, "LOG_EVERY", 2)
    whole, straight, other = trained_stage()
    assert digest(made.nets) == digest(whole.nets) and key == other and made.config == whole.config
    pd.testing.assert_frame_equal(curves, straight)


def test_a_training_is_done_once_and_everything_counts(tmp_path, monkeypatch):
    monkeypatch.setenv("SER_NB_CACHE", str(tmp_path))
    a, b, o, steps, gather = made_side(0), made_side(1), dict(PUBLISHED, **TINY), [], voice.gather
    monkeypatch.setattr(voice, "gather", lambda *args: (steps.append(1), gather(*args))[1])
    model, _, key = train_converter(dict(neutral=a, angry=b), o)
    assert train_converter(dict(neutral=a, angry=b), o)[2] == key and len(steps) == 8 and not everything(tmp_path/"checkpoints")
    others = [(dict(neutral=b, angry=a), o, 0), (dict(neutral=a, sad=b), o, 0), (dict(neutral=a, angry=made_side(2)), o, 0), (dict(neutral=a, angry=b), dict(o, lambda_id=4.), 0), (dict(neutral=a, angry=b), o, 1)]
    keys = {train_converter(sides, o, seed=seed)[2] for sides, o, seed in others}
    assert len(keys | {key}) == 6 and len(steps) == 6*8


def test_sides_that_look_alike_in_the_mean_are_told_apart(tmp_path, monkeypatch):
    "The key of a training sees more than the means of an utterance"
    monkeypatch.setenv("SER_NB_CACHE", str(tmp_path))
    a, b = made_side(0), made_side(1)
    turned = replace(b, worlds=[replace(w, mcep=w.mcep[::-1].copy(), f0=w.f0[::-1].copy()) for w in b.worlds])
    keys = [train_converter(dict(neutral=a, angry=side), dict(PUBLISHED, **TINY) | dict(iterations=1))[2] for side in (b, turned)]
    assert keys[0] != keys[1]


@pytest.mark.parametrize("how, words", [("cut", "the checkpoint is damaged"), ("text", "the checkpoint is damaged"), ("empty", "the checkpoint is damaged"), ("sizes", "the checkpoint has (16, 8, 15) weights A2B.net.0.conv.weight, this model (32, 8, 15)"), ("fewer", "the checkpoint has no weights"), ("more iterations", "at most 3 iterations, found 4"), ("another", "found another file")])
def test_checkpoints_of_something_else(tmp_path, how, words):
    path, data = tmp_path/"c.safetensors", made_up()
    train_cyclegan(data, TINY, checkpoint=path)
    content = path.read_bytes()
    if how in ("cut", "text", "empty"): path.write_bytes(dict(cut=content[:len(content)//2], text=b"no weights at all", empty=b"")[how])
    if how == "another": save_file(dict(a=torch.zeros(3)), path)
    change = {"sizes": dict(width=.125), "fewer": dict(blocks=2), "more iterations": dict(iterations=3)}.get(how, {})
    with pytest.raises(ValueError, match=re.escape(words)) as caught: train_cyclegan(data, TINY | change, checkpoint=path)
    one_sentence(str(caught.value), path)
    assert len(re.findall(r"delete it|name another file|give the sizes", str(caught.value))) > 0


@contextmanager
def full_disk():
    "No file may grow beyond 20 kB, which a write finds out as it does on a full disk; not longer than the call, since pytest writes files too"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_on_a_full_disk(tmp_path):
    with full_disk(), pytest.raises(OSError) as caught: train_cyclegan(made_up(), TINY, checkpoint=tmp_path/"c.safetensors")
    one_sentence(str(caught.value), tmp_path)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    train_cyclegan(made_up(), dict(TINY, iterations=2), checkpoint=tmp_path/"c.safetensors")
    before = (tmp_path/"c.safetensors").read_bytes()
    with full_disk(), pytest.raises(Exception): train_cyclegan(made_up(), TINY, checkpoint=tmp_path/"c.safetensors")
    assert everything(tmp_path) == ["c.safetensors"] and (tmp_path/"c.safetensors").read_bytes() == before


# ---- speech --------------------------------------------------------------------------------------------------------

def spoken(emotion="neutral", number=1, speaker="d1f"): return demo_utterance("demo", speaker, dict(f="female", m="male")[speaker[-1]], emotion, number)[0].astype("float32")
def noise(n, seed=0): return (np.random.default_rng(seed).normal(size=n)*.05).astype("float32")


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    "Folders neutral, angry and sad with three sentences each; in the first also what is no audio"
    folder = tmp_path_factory.mktemp("speech")
    for emotion in ("neutral", "angry", "sad"):
        (folder/emotion/"more").mkdir(parents=True)
        for i in (1, 2, 3): soundfile.write(folder/emotion/("more/3.wav" if i == 3 else f"{i}.wav"), spoken(emotion, i), 16000)
    (folder/"neutral"/"notes.txt").write_text("take 3 was best")
    (folder/"neutral"/"._1.wav").write_bytes(b"finder")
    return folder


@pytest.fixture(scope="module")
def sides(speech): return {e: make_side(folder_corpus(speech/e, e), QUICK, workers=1) for e in ("neutral", "angry")}


@pytest.fixture(scope="module")
def model(sides): return train_converter(sides, dict(PUBLISHED, **TINY))[0]


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory): return save_converter(model, tmp_path_factory.mktemp("models")/"model")


class Same(nn.Module):
    "A network that has learnt nothing"
    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.zeros(()), requires_grad=False)
    def forward(self, x): return x


@pytest.fixture
def still(model): return replace(model, nets=dict(A2B=Same(), B2A=Same()))


def test_a_side_is_its_utterances(sides):
    side = sides["angry"]
    voiced, frames = (np.concatenate(parts).astype("float64") for parts in ([w.f0[w.f0 > 0] for w in side.worlds], [w.mcep for w in side.worlds]))
    assert len(side.worlds) == side.stats["utterances"] == 3 and side.stats["sampling_rate"] == 16000 and not len(side.failures)
    assert side.stats["f0"]["mean"] == pytest.approx(np.log(voiced).mean()) and side.stats["f0"]["std"] == pytest.approx(np.log(voiced).std())
    np.testing.assert_allclose(side.stats["mcep"]["mean"], frames.mean(0), atol=1e-6)
    np.testing.assert_allclose(side.stats["mcep"]["std"], frames.std(0), atol=1e-6)
    json.dumps(side.stats, allow_nan=False)


def bad_files(folder, good=None):
    "Each way of being no utterance: name -> what is said of it"
    good = spoken() if good is None else good
    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder/"silence.wav", np.zeros(16000), 16000)
    soundfile.write(folder/"nan.wav", np.where(np.arange(16000) == 9000, np.nan, .1), 16000, subtype="FLOAT")
    soundfile.write(folder/"short.wav", good[:800], 16000)
    soundfile.write(folder/"none.wav", good[:0], 16000)
    soundfile.write(folder/"loud.wav", good*32768, 16000, subtype="FLOAT")
    soundfile.write(folder/"cut.wav", good, 16000)
    os.truncate(folder/"cut.wav", 9000)
    (folder/"empty.wav").write_bytes(b"")
    (folder/"text.wav").write_text("no audio")
    return {"silence.wav": "is silent", "nan.wav": "NaN", "short.wav": "lasts 0.050 s", "none.wav": "no samples", "loud.wav": "full scale is 1", "cut.wav": "truncated", "empty.wav": "empty", "text.wav": "not a readable audio file"}


def test_broken_files_are_listed_and_the_side_goes_on(tmp_path):
    reasons = bad_files(tmp_path/"a")
    for i in (1, 2): soundfile.write(tmp_path/"a"/f"{i}.wav", spoken(number=i), 16000)
    side = make_side(folder_corpus(tmp_path/"a", "A"), QUICK, workers=1)
    named = dict(zip(side.failures.file, side.failures.reason))
    assert len(side.worlds) == 2 and set(named) == set(reasons)
    for file, words in reasons.items(): one_sentence(named[file], tmp_path/"a"/file, words)


def test_sides_that_cannot_be(tmp_path, speech, sides):
    bad_files(tmp_path/"bad")
    for name in ("text", "empty", "cut", "none"): (tmp_path/"bad"/f"{name}.wav").unlink()
    mixed, rates, quiet = tmp_path/"mixed", tmp_path/"rates", tmp_path/"quiet"
    for f in (mixed, rates, quiet): f.mkdir()
    for i, rate in enumerate((16000, 16000, 8000)): soundfile.write(mixed/f"{i}.wav", spoken()[::16000//rate], rate)
    for i in (1, 2): soundfile.write(rates/f"{i}.wav", spoken(number=i)[::2], 8000)
    for i in (1, 2): soundfile.write(quiet/f"{i}.wav", noise(16000, i), 16000)
    for where, words in ((tmp_path/"bad", "none of 4 utterances can be analysed; the first: "), (mixed, "sampling rates of 8000 and 16000 Hz"), (quiet, "none of 2 utterances has a voiced frame")):
        with pytest.raises(ValueError, match=re.escape(words)) as caught: make_side(folder_corpus(where, "A"), QUICK, workers=1)
        one_sentence(str(caught.value))
    phone = make_side(folder_corpus(rates, "B"), QUICK, workers=1)
    for act in (lambda: check_sides(dict(A=sides["neutral"], B=phone)), lambda: train_converter(dict(A=sides["neutral"], B=phone), dict(PUBLISHED, **TINY))):
        with pytest.raises(ValueError, match=re.escape("different sampling rates (A 16000 Hz, B 8000 Hz)")) as caught: act()
        one_sentence(str(caught.value))
    for where, words in ((tmp_path/"nowhere", "nowhere: no such folder"), (speech/"neutral"/"notes.txt", "notes.txt: no such folder")):
        with pytest.raises(FileNotFoundError, match=words): folder_corpus(where, "A")
    (tmp_path/"bare").mkdir()
    (tmp_path/"bare"/"x.txt").write_text("x")
    with pytest.raises(ValueError, match="no audio file found under .*bare"): folder_corpus(tmp_path/"bare", "A")


def test_one_training_file(tmp_path, sides):
    soundfile.write(tmp_path/"1.wav", spoken(), 16000)
    with pytest.raises(ValueError, match="'angry': 1 of 1 utterances.*give more or longer files") as caught: train_converter(dict(neutral=sides["neutral"], angry=make_side(folder_corpus(tmp_path, "x"), QUICK, workers=1)), dict(PUBLISHED, **TINY))
    one_sentence(str(caught.value))


def test_sides_of_two_analyses(tmp_path):
    with pytest.raises(ValueError, match="analys"): train_converter(dict(neutral=made_side(0), angry=made_side(1, f0_floor=90.)), dict(PUBLISHED, **TINY))


# ---- the classifier of the emotion loss ----------------------------------------------------------------------------

@pytest.fixture(scope="module")
def people(tmp_path_factory):
    "Four speakers with two emotions, of whom the last is never angry"
    folder, rows = tmp_path_factory.mktemp("people"), []
    for speaker in ("d1f", "d1m", "d2f", "d2m"):
        for emotion in ("neutral", "angry") if speaker != "d2m" else ("neutral",):
            for i in (1, 2):
                rows.append(dict(file=f"{speaker}_{emotion}_{i}.wav", speaker=speaker, gender="female" if speaker[-1] == "f" else "male", emotion=emotion))
                soundfile.write(folder/rows[-1]["file"], spoken(emotion, i, speaker), 16000)
    return make_corpus("people", rows, folder)


@pytest.fixture(scope="module")
def classifier(people): return emotion_classifier([people], ["neutral", "angry"], "d1f", QUICK)


def seen_by(monkeypatch, *args):
    "What reaches the training of the classifier"
    seen = SimpleNamespace()
    class Enough(Exception): pass
    def train(utterances, labels, n_classes, seed):
        seen.utterances, seen.labels, seen.n_classes = utterances, labels, n_classes
        raise Enough
    with monkeypatch.context() as patch:
        patch.setattr(voice, "train_emotion_cnn", train)
        with pytest.raises(Enough): emotion_classifier(*args)
    return seen


def test_the_classifier_is_of_other_speakers(people, monkeypatch):
    seen = seen_by(monkeypatch, [people], ["angry", "neutral"], "d1f", QUICK)
    table = people.table[people.table.speaker.isin(["d1m", "d2f"])]
    assert seen.labels == [["angry", "neutral"].index(e) for who in ("d1m", "d2f") for e in table.emotion[table.speaker == who]] and seen.n_classes == 2
    for who in (0, 1):   # each speaker in the scale of its own utterances
        frames = np.concatenate([x for x, _ in seen.utterances[4*who:4*who + 4]]).astype("float64")
        np.testing.assert_allclose([frames.mean(0), frames.std(0)], [np.zeros(24), np.ones(24)], atol=1e-3)
    twice = seen_by(monkeypatch, [people, replace(people, name="again")], ["angry", "neutral"], "d1f", QUICK)
    assert len(twice.labels) == 16, "the converted speaker is left out of every corpus"


def test_the_classifier_without_other_speakers(people):
    alone = replace(people, table=people.table[people.table.speaker.isin(["d1f", "d2m"])].reset_index(drop=True))
    for corpora, classes, words in (([alone], ["neutral", "angry"], "no speaker but 'd1f' in people has all of neutral, angry"), ([], ["neutral", "angry"], "no corpus"), ([people], ["neutral", "sad"], "has all of neutral, sad")):
        with pytest.raises(ValueError, match=words) as caught: emotion_classifier(corpora, classes, "d1f", QUICK)
        one_sentence(str(caught.value), "lambda_cls 0")


def test_the_classifier_is_frozen_and_made_once(people, classifier, sides, monkeypatch):
    assert not classifier.training and not any(p.requires_grad for p in classifier.parameters())
    before = {k: v.clone() for k, v in classifier.state_dict().items()}
    model, curves, key = train_converter(sides, dict(PUBLISHED, **TINY, lambda_cls=1.), classifier=classifier)
    assert "emotion" in curves and all(torch.equal(v, before[k]) for k, v in classifier.state_dict().items()) and all(p.grad is None for p in classifier.parameters())
    monkeypatch.setattr(voice, "train_emotion_cnn", None)
    again = emotion_classifier([people], ["neutral", "angry"], "d1f", QUICK)
    assert digest(dict(c=again)) == digest(dict(c=classifier))
    other = copy.deepcopy(classifier)
    next(iter(other.parameters())).data += .1
    assert train_converter(sides, dict(PUBLISHED, **TINY, lambda_cls=1.), classifier=other)[2] != key


def test_the_classifier_learns():
    data = made_up("abc", n=4)
    utterances, labels = [pair for pairs in data.values() for pair in pairs], [i for i in range(3) for _ in range(4)]
    net, again, other = (voice.train_emotion_cnn(utterances, labels, 3, seed, epochs=3, batch_size=8) for seed in (0, 0, 1))
    said = [voice.classify_utterance(net, x) for x, _ in made_up("abc", n=2, seed=1)["b"] + made_up("abc", n=2, seed=1)["c"]]
    assert [p.argmax() for p in said] == [1, 1, 2, 2] and all(p.shape == (3,) and p.sum() == pytest.approx(1, abs=1e-5) for p in said)
    assert not net.training and not any(p.requires_grad for p in net.parameters()) and digest(dict(c=net)) == digest(dict(c=again)) != digest(dict(c=other))
    with pytest.raises(ValueError, match="class 3 has no window of 128 voiced frames"): voice.train_emotion_cnn(utterances, labels, 4)


def test_emotion_loss_looks_at_fakes_in_the_speakers_scale():
    rng = np.random.default_rng(0)
    (mean_a, std_a), (mean_b, std_b), (mean, std) = scales = [(rng.normal(size=5), rng.uniform(.5, 2, 5)) for _ in range(3)]
    seen = []
    class Net(nn.Module):
        def forward(self, x):
            seen.append(x)
            return x.mean(2)[:, :3]
    fakes = [torch.randn(2, 5, 16, requires_grad=True) for _ in "AB"]
    found = emotion_loss(Net(), (2, 0), scales)(*fakes)
    for x, fake, m, s in zip(seen, fakes, (mean_a, mean_b), (std_a, std_b)): np.testing.assert_allclose(x.detach(), (fake.detach().numpy()*s[:, None] + m[:, None] - mean[:, None])/std[:, None], rtol=1e-4, atol=1e-5)
    logits = [x.detach().mean(2)[:, :3] for x in seen]
    expected = sum(-torch.log_softmax(v, 1)[:, c].mean() for v, c in zip(logits, (2, 0)))
    torch.testing.assert_close(found.detach(), expected)
    found.backward()
    assert all(fake.grad.abs().sum() > 0 for fake in fakes)


# ---- one signal ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("rate, n", [(8000, 8001), (16000, 1600), (16000, 12345), (22050, 2205), (44100, 44101), (48000, 4801)])
def test_length_and_rate_are_the_inputs(model, rate, n):
    import librosa
    signal = np.resize(librosa.resample(spoken()[4000:], orig_sr=16000, target_sr=rate), n)
    for parts in (("f0", "envelope"), ("f0", "shift", "power")):
        made = convert(signal, rate, model, parts=parts)
        assert made.shape == signal.shape == (n,) and made.dtype == np.float32 and np.isfinite(made).all() and 0 < np.abs(made).max() <= 1


def test_output_is_where_the_input_is(still):
    def levels(x): return np.log10(1e-6 + np.square(x[:len(x)//80*80].reshape(-1, 80)).mean(1))
    signal = spoken()
    a, b = (v - v.mean() for v in map(levels, (signal, convert(signal, 16000, still))))
    assert np.correlate(a, b, "full").argmax() == len(a) - 1 and np.corrcoef(a, b)[0, 1] > .9


def test_channels_and_integers(model):
    signal = spoken()[:8000]
    wanted = convert(signal, 16000, model)
    np.testing.assert_allclose(convert(np.stack([signal*.5, signal*1.5]), 16000, model), wanted, atol=1e-4)
    np.testing.assert_allclose(convert(np.round(signal*2**31/2).astype("int32")*2, 16000, model), wanted, atol=1e-2)
    assert convert(list(map(float, signal[:2000])), 16000, model).shape == (2000,)


@pytest.mark.parametrize("signal, words", [(np.zeros(16000), "is silent"), (np.where(np.arange(16000) == 5, np.nan, .1), "NaN"), (np.where(np.arange(16000) == 5, np.inf, .1), "NaN or infinite"), (np.ones(800)*.1, "lasts 0.050 s"), (np.zeros(0), "lasts 0.000 s"), (np.ones((8000, 2)), "transpose"), (np.ones(16000)*9e3, "full scale is 1"),
                                           (np.array(["a"]*9000), "expected floats"), (np.float32(1), "expected (samples,)"), (None, "expected")], ids=lambda v: v if isinstance(v, str) else "")
def test_no_utterance(model, signal, words):
    with pytest.raises(AudioError, match=re.escape(words)) as caught: convert(signal, 16000, model)
    one_sentence(str(caught.value))


def test_whisper(model):
    "No frame has voice: F0 stays 0 and the envelope is converted all the same"
    signal = noise(16000, 1)
    world = analyse(signal, 16000, **QUICK)
    assert not world.f0.any()
    f0, mcep = convert_world(world, model, "neutral", "angry")
    assert not f0.any() and len(f0) == len(world) and not np.allclose(mcep, world.mcep)
    np.testing.assert_array_equal(convert(signal, 16000, model, parts=("f0",)), np.clip(synthesise(world), -1, 1))
    for parts in (("f0", "envelope"), ("power",)): assert np.isfinite(convert(signal, 16000, model, parts=parts)).all()


def test_a_clip_that_is_shorter_than_a_segment(model):
    signal = spoken()[4000:5600]
    world = analyse(signal, 16000, **QUICK)
    assert len(world) < SEGMENT and convert_world(world, model, "neutral", "angry")[1].shape == world.mcep.shape and convert(signal, 16000, model).shape == (1600,)


@pytest.fixture(scope="module")
def world(): return analyse(spoken(), 16000, **QUICK)


def test_each_part_changes_what_it_says_and_nothing_else(model, still, world):
    here, there = (model.config["stats"][d] for d in ("neutral", "angry"))
    def made(*parts, m=model): return convert_world(world, m, "neutral", "angry", parts)
    f0, mcep = made("f0")
    on = world.f0 > 0
    np.testing.assert_allclose(f0[on], np.exp((np.log(world.f0[on].astype("float64")) - here["f0"]["mean"])/here["f0"]["std"]*there["f0"]["std"] + there["f0"]["mean"]), rtol=1e-5)
    assert not f0[~on].any() and mcep is world.mcep
    f0, mcep = made("shift")
    by_hand = (world.mcep - np.array(here["mcep"]["mean"]))/np.array(here["mcep"]["std"])*np.array(there["mcep"]["std"]) + np.array(there["mcep"]["mean"])
    assert f0 is world.f0
    np.testing.assert_allclose(mcep, by_hand, rtol=1e-4, atol=1e-4)
    f0, converted = made("envelope")
    assert f0 is world.f0 and converted.shape == mcep.shape and not np.allclose(converted, mcep, atol=.1)
    np.testing.assert_allclose(made("envelope", m=still)[1], by_hand, rtol=1e-4, atol=1e-4)
    f0, mcep = made("power")
    assert f0 is world.f0 and mcep is world.mcep
    for part, whole in (("envelope", converted), ("shift", by_hand)):
        _, mcep = made("power", part)
        np.testing.assert_array_equal(mcep[:, 0], world.mcep[:, 0])
        np.testing.assert_allclose(mcep[:, 1:], whole[:, 1:], rtol=1e-4, atol=1e-4)


def test_the_network_sees_standardised_frames_and_gives_those_of_the_target(model, world):
    here, there = (model.config["stats"][d]["mcep"] for d in ("angry", "neutral"))
    x = (world.mcep - np.array(here["mean"]))/np.array(here["std"])
    n = -(-len(x)//4)*4 - len(x)
    with torch.no_grad(): y = model.nets["B2A"](torch.tensor(np.concatenate([x, x[::-1][:n]]).T[None].astype("float32")))[0].numpy().T[:len(x)]
    np.testing.assert_allclose(convert_world(world, model, "angry", "neutral")[1], y*np.array(there["std"]) + np.array(there["mean"]), rtol=1e-3, atol=1e-3)


def test_power_is_a_gain_on_the_output(model, world):
    stats = [model.config["stats"][d]["power"] for d in ("neutral", "angry")]
    np.testing.assert_array_equal(convert(spoken(), 16000, model, parts=("power",)), np.clip(convert_power(synthesise(world), 16000, *stats), -1, 1))
    np.testing.assert_array_equal(convert(spoken(), 16000, model, parts=("f0",)), np.clip(synthesise(world, convert_world(world, model, "neutral", "angry", ("f0",))[0]), -1, 1))


@pytest.mark.parametrize("parts, words", [((), "one at least of f0, envelope, shift, power"), (("f0", "f0"), "name each part once"), (("envelope", "shift"), "not by both"), (("f0", "evelope"), "unknown part 'evelope': did you mean 'envelope'"), (("aperiodicity",), "unknown part")])
def test_parts_that_contradict(model, parts, words):
    for act in (lambda: check_parts(parts), lambda: convert(spoken(), 16000, model, parts=parts)):
        with pytest.raises(ValueError, match=re.escape(words)) as caught: act()
        one_sentence(str(caught.value))
    assert check_parts(["power", "f0"]) == ("power", "f0")


def test_directions(model):
    many = replace(model, config=dict(model.config, domains=["neutral", "angry", "sad"]))
    for given, expected in (((), ("neutral", "angry")), (("angry",), ("neutral", "angry")), (("neutral",), ("angry", "neutral")), (("neutral", "angry"), ("angry", "neutral")), ((None, "neutral"), ("neutral", "angry"))): assert direction(model, *given) == expected
    assert direction(many, "sad", "angry") == ("angry", "sad")
    for m, given, words in ((model, ("angri",), "unknown target of the conversion 'angri': did you mean 'angry'"), (model, ("angry", "sadd"), "unknown source of the conversion"), (model, ("angry", "angry"), "both 'angry'"), (model, (None, "angry"), "the input is angry: name the emotion to convert to, neutral"),
                            (many, (), "name the emotion to convert to, one of neutral, angry, sad"), (many, ("sad",), "name the emotion of the input, one of neutral, angry")):
        with pytest.raises(ValueError, match=re.escape(words)) as caught: direction(m, *given)
        one_sentence(str(caught.value))


def test_directions_use_their_own_network(model):
    signal = spoken()[:8000]
    swapped = replace(model, nets=dict(A2B=model.nets["B2A"], B2A=model.nets["A2B"]))
    for to in ("angry", "neutral"): assert not np.allclose(convert(signal, 16000, model, to), convert(signal, 16000, swapped, to))


def test_a_model_with_styles(tmp_path, sides, world):
    from ser_nb.conversion import conversion_options
    model, _, _ = train_converter(sides, conversion_options("tiny", kind="style", iterations=2), "style")
    model = load_converter(save_converter(model, tmp_path/"m"))
    signal = spoken()[:8000]
    made = {str(style): convert(signal, 16000, model, **style) for style in ({}, dict(style="random"), dict(style="random", seed=1), dict(style="reference", reference=world))}
    assert len({x.tobytes() for x in made.values()}) == 4 and all(x.shape == signal.shape for x in made.values())
    for style, words in ((dict(style="reference"), "needs a reference"), (dict(style="rnadom"), "did you mean 'random'"), (dict(reference=world), "uses no reference")):
        with pytest.raises(ValueError, match=words): convert(signal, 16000, model, **style)


def test_a_cyclegan_has_no_styles(model, world):
    for style in (dict(style="random"), dict(reference=world)):
        with pytest.raises(ValueError, match="a CycleGAN has no styles to choose from"): convert(spoken(), 16000, model, **style)


# ---- the folder of a model -----------------------------------------------------------------------------------------

def test_a_converter_survives_the_disk(model, folder):
    again = load_converter(folder)
    assert everything(folder) == ["config.json", "weights.safetensors"] and again.config == json.loads(json.dumps(model.config)) and repr(again) == "Converter(cyclegan: neutral, angry)"
    signal = spoken()[:8000]
    np.testing.assert_array_equal(convert(signal, 16000, folder), convert(signal, 16000, model))
    np.testing.assert_array_equal(convert(signal, 16000, str(folder)), convert(signal, 16000, again))


def config_of(folder, **change):
    "Another configuration in the same folder; None takes an entry away"
    config = {k: v for k, v in {**json.loads((folder/"config.json").read_text()), **change}.items() if v is not None}
    (folder/"config.json").write_text(json.dumps(config))


def damage(folder, how):
    "Do it to a copy"
    w = folder/"weights.safetensors"
    if how == "cut": os.truncate(w, w.stat().st_size//2)
    if how == "pickle": torch.save({k: v.clone() for k, v in load_file(w).items()}, folder/"p") or os.replace(folder/"p", w)
    if how == "no weights": w.unlink()
    if how == "no config": (folder/"config.json").unlink()
    if how == "text": (folder/"config.json").write_text("{")
    if how == "bytes": (folder/"config.json").write_bytes(b"\xff\xfe\x00")
    if how == "list": (folder/"config.json").write_text("[]")
    if how == "recogniser": config_of(folder, format="ser_nb recogniser 1")
    if how == "no format": config_of(folder, format=None)
    if how == "dims": config_of(folder, analysis=dict(json.loads((folder/"config.json").read_text())["analysis"], dims=36))
    if how == "width": config_of(folder, options=dict(json.loads((folder/"config.json").read_text())["options"], width=.125))
    if how == "kind": config_of(folder, kind="style")
    if how == "nothing": shutil.rmtree(folder)
    if how.startswith("without "): config_of(folder, **{how[8:]: None})


@pytest.mark.parametrize("how, words", [("cut", "the converter is damaged"), ("pickle", "the converter is damaged"), ("no weights", "has no weights.safetensors: expected the folder of a trained converter"), ("no config", "has no config.json"), ("nothing", "has no config.json"), ("text", "the converter is damaged"), ("bytes", "the converter is damaged"),
                                        ("list", "not a converter"), ("recogniser", "not a converter (ser_nb recogniser 1)"), ("no format", "not a converter (another model)"), ("dims", "the weights are of another model"), ("width", "the weights are of another model"), ("kind", "the weights are of another model")])
def test_models_that_are_none(folder, tmp_path, how, words):
    shutil.copytree(folder, tmp_path/"m")
    damage(tmp_path/"m", how)
    for act in (lambda: load_converter(tmp_path/"m"), lambda: convert(spoken(), 16000, tmp_path/"m")):
        with pytest.raises((ValueError, FileNotFoundError), match=re.escape(words)) as caught: act()
        one_sentence(str(caught.value), tmp_path/"m")


@pytest.mark.parametrize("entry", ["kind", "domains", "analysis", "options", "stats"])
def test_a_configuration_that_lacks_something(folder, tmp_path, entry):
    shutil.copytree(folder, tmp_path/"m")
    damage(tmp_path/"m", f"without {entry}")
    with pytest.raises(ValueError) as caught: load_converter(tmp_path/"m")
    one_sentence(str(caught.value), tmp_path/"m", entry)


def test_a_world_of_another_analysis(model):
    for options in (dict(), dict(QUICK, dims=20), dict(QUICK, f0_floor=80)):
        with pytest.raises(ValueError, match="use the model's own analysis") as caught: convert_world(analyse(spoken()[:4000], 16000, **options), model, "neutral", "angry")
        one_sentence(str(caught.value))


# ---- files ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("rate", [16000, 44100, 1000])
def test_pieces_cover_a_recording(rate):
    step, overlap = 20*rate, rate//2
    for n in (1, rate, step, step + overlap - 1, step + overlap, step + overlap + 1, 2*step, 3*step + overlap, 3*step + overlap + 1, 65*rate, 3600*rate):
        spans = pieces_of(n, rate)
        assert spans[0][0] == 0 and spans[-1][1] == n and all(b[0] == a[1] - overlap for a, b in zip(spans, spans[1:]))
        assert all(first < last and last - first <= step + overlap for first, last in spans) and all(last - first > overlap for first, last in spans[1:])


def test_pieces_are_joined_where_it_is_quiet():
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=n).astype("float32") for n in (800, 2000))
    a[500:600], b[500:600] = 1e-3, -1e-3
    made = joined(a, b, 50)
    assert made.shape == b.shape
    np.testing.assert_array_equal(made[:500], a[:500])
    np.testing.assert_array_equal(made[600:], b[600:])
    assert np.abs(made[500:600]).max() <= 1e-3
    np.testing.assert_allclose(joined(b[:800], b, 50), b, atol=1e-6)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    "65 s of sentences with pauses"
    file, said = tmp_path_factory.mktemp("long")/"long.wav", np.concatenate([np.concatenate([spoken("neutral", i), noise(3200, i)*1e-3]) for i in range(1, 9)])
    soundfile.write(file, np.resize(said, 65*16000 + 7), 16000)
    return file


def test_a_long_recording_has_its_length_and_no_clicks(recording, still, tmp_path):
    seconds = convert_file(recording, tmp_path/"new"/"out.wav", still)
    made, rate = soundfile.read(tmp_path/"new"/"out.wav")
    info = soundfile.info(tmp_path/"new"/"out.wav")
    assert (len(made), rate, info.channels, info.subtype) == (65*16000 + 7, 16000, 1, "FLOAT") and seconds == pytest.approx(65, abs=.01) and np.isfinite(made).all()
    jumps, spans = np.abs(np.diff(made)), pieces_of(len(made), rate)
    inside = np.zeros(len(jumps), bool)
    for first, _ in spans[1:]: inside[first:first + 8000] = True
    assert len(spans) == 4 and jumps[inside].max() <= jumps[~inside].max() and everything(tmp_path) == ["new", "new/out.wav"]
    levels = [10*np.log10(np.square(x[:len(x)//1600*1600].reshape(-1, 1600)).mean(1) + 1e-9) for x in (made, read_audio(recording)[0])]
    assert np.corrcoef(levels)[0, 1] > .9


def test_pieces_sound_like_the_whole(recording, still, tmp_path, monkeypatch):
    signal, _ = read_audio(recording, 0, 6.3)
    soundfile.write(tmp_path/"in.wav", signal, 16000)
    made = []
    for chunk in (20., 2.):
        monkeypatch.setattr(conversion, "CHUNK", chunk)
        convert_file(tmp_path/"in.wav", tmp_path/"out.wav", still)
        made.append(soundfile.read(tmp_path/"out.wav")[0])
    assert len(made[0]) == len(made[1]) == len(signal)
    levels = [10*np.log10(np.square(x[:len(x)//320*320].reshape(-1, 320)).mean(1) + 1e-9) for x in made]
    assert np.corrcoef(levels)[0, 1] > .97 and np.abs(np.diff(made[1])).max() <= 1.5*np.abs(np.diff(made[0])).max()


def test_silence_between_words_stays_silence(still, tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "CHUNK", 2.)
    said = spoken()
    soundfile.write(tmp_path/"in.wav", np.concatenate([said, np.zeros(16000*6), said]), 16000)
    convert_file(tmp_path/"in.wav", tmp_path/"out.wav", still)
    made, _ = soundfile.read(tmp_path/"out.wav")
    assert len(made) == 2*len(said) + 96000 and not made[4*16000:6*16000].any() and made[:len(said)].any() and made[-len(said):].any()
    soundfile.write(tmp_path/"none.wav", np.zeros(16000*6), 16000)
    with pytest.raises(AudioError, match="none.wav: is silent"): convert_file(tmp_path/"none.wav", tmp_path/"none-out.wav", still)
    assert everything(tmp_path) == ["in.wav", "none.wav", "out.wav"]


@pytest.mark.parametrize("suffix, rate, channels", [(".flac", 44100, 2), (".ogg", 16000, 1), (".mp3", 32000, 2)])
def test_files_of_other_kinds(still, tmp_path, suffix, rate, channels):
    import librosa
    signal = librosa.resample(spoken(), orig_sr=16000, target_sr=rate)[:rate//2 + 1]
    soundfile.write(tmp_path/f"in{suffix}", np.stack([signal]*channels, 1), rate)
    frames = soundfile.info(tmp_path/f"in{suffix}").frames
    convert_file(tmp_path/f"in{suffix}", tmp_path/"out.wav", still)
    info = soundfile.info(tmp_path/"out.wav")
    assert (info.frames, info.samplerate, info.channels) == (frames, rate, 1)


def test_an_error_midway_leaves_the_old_file_and_nothing_else(recording, still, tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "CHUNK", 2.)
    (tmp_path/"out.wav").write_bytes(b"before")
    calls, right = [], conversion.convert
    for error in (KeyboardInterrupt, AudioError, MemoryError):
        def stop(*args, **given):
            calls.append(1)
            if len(calls) % 3 == 0: raise error("enough")
            return right(*args, **given)
        monkeypatch.setattr(conversion, "convert", stop)
        with pytest.raises(error): convert_file(recording, tmp_path/"out.wav", still)
    assert len(calls) == 9 and everything(tmp_path) == ["out.wav"] and (tmp_path/"out.wav").read_bytes() == b"before"


def test_a_kill_leaves_no_half_written_wav(killed, still):
    out = killed[0]/"out"
    assert killed[2][-1] == "-9" and not (out/"long.wav").exists()
    for act in (lambda: targets_of(out, out.with_name("other")), lambda: folder_corpus(out, "A")):
        with pytest.raises(ValueError, match="no audio file"): act()
    soundfile.write(killed[0]/"long.wav", spoken(), 16000)
    convert_file(killed[0]/"long.wav", out/"long.wav", still)
    assert everything(out) == ["long.wav"]


def test_a_folder_is_converted_and_what_else_is_there_left_alone(speech, folder, tmp_path):
    shutil.copytree(speech/"neutral", tmp_path/"in")
    before = everything(tmp_path/"in")
    made, failures = convert_files(tmp_path/"in", tmp_path/"out", folder, workers=1)
    assert everything(tmp_path/"in") == before and everything(tmp_path/"out") == ["1.wav", "2.wav", "more", "more/3.wav"] and not len(failures)
    assert list(made) == ["file", "output", "seconds"] and list(made.output) == [str(tmp_path/"out"/f) for f in ("1.wav", "2.wav", "more/3.wav")]
    for row in made.itertuples(): assert soundfile.info(row.output).frames == soundfile.info(row.file).frames == round(row.seconds*16000)
    np.testing.assert_array_equal(soundfile.read(made.output[0], dtype="float32")[0], convert(*read_audio(tmp_path/"in"/"1.wav"), folder))
    (tmp_path/"out"/"notes.txt").write_text("mine")
    made, _ = convert_files(tmp_path/"in", tmp_path/"out", folder, to="neutral", parts=("f0",), workers=1)
    assert (tmp_path/"out"/"notes.txt").read_text() == "mine"
    np.testing.assert_array_equal(soundfile.read(made.output[0], dtype="float32")[0], convert(*read_audio(tmp_path/"in"/"1.wav"), folder, "neutral", parts=("f0",)))


def test_bad_files_are_listed_by_name_and_the_batch_goes_on(speech, folder, tmp_path):
    reasons = bad_files(tmp_path/"in")
    shutil.copy(speech/"neutral"/"1.wav", tmp_path/"in")
    (tmp_path/"in"/"folder.wav").mkdir()
    reasons["folder.wav"] = ""
    made, failures = convert_files(tmp_path/"in", tmp_path/"out", folder, workers=1)
    assert list(made.file) == [str(tmp_path/"in"/"1.wav")] and [Path(f).name for f in failures.file] == sorted(reasons) and everything(tmp_path/"out") == ["1.wav"]
    for row in failures.itertuples():
        one_sentence(row.reason, reasons[Path(row.file).name])
        assert row.reason.startswith(row.file + ":")


def test_processes_make_the_same_files(speech, folder, tmp_path, monkeypatch):
    for name in ("in", "one", "two"): (tmp_path/name).mkdir()
    for i in range(9): soundfile.write(tmp_path/"in"/f"{i}.wav", spoken()[500*i:500*i + 4000], 16000)
    (tmp_path/"in"/"5.wav").write_text("no audio")
    (one, failed), (two, other) = (convert_files(tmp_path/"in", tmp_path/name, folder, workers=n) for n, name in ((1, "one"), (2, "two")))
    assert list(failed.reason) == list(other.reason) and list(one.file) == list(two.file) == [str(tmp_path/"in"/f"{i}.wav") for i in (0, 1, 2, 3, 4, 6, 7, 8)]
    for a, b in zip(one.output, two.output): np.testing.assert_allclose(soundfile.read(a)[0], soundfile.read(b)[0], atol=1e-4)


def test_where_files_go(speech, tmp_path):
    a, b = speech/"neutral"/"1.wav", speech/"angry"/"2.wav"
    for given, out, expected in ((a, tmp_path, [(a, tmp_path/"1.wav")]), (str(a), tmp_path/"x"/"y.wav", [(a, tmp_path/"x"/"y.wav")]), (a, tmp_path/"X.WAV", [(a, tmp_path/"X.WAV")]), ([a, b], tmp_path/"x", [(a, tmp_path/"x"/"1.wav"), (b, tmp_path/"x"/"2.wav")]), ([a], tmp_path/"y.wav", [(a, tmp_path/"y.wav")]),
                                 (speech/"neutral", tmp_path/"x", [(speech/"neutral"/f, tmp_path/"x"/f) for f in ("1.wav", "2.wav", "more/3.wav")])): assert targets_of(given, out) == expected
    (tmp_path/"z.wav").mkdir()
    assert targets_of(a, tmp_path/"z.wav") == [(a, tmp_path/"z.wav"/"1.wav")]
    (tmp_path/"link").symlink_to(speech/"neutral")
    neutral, twins = speech/"neutral", tmp_path/"twins"
    twins.mkdir()
    for name in ("1.wav", "1.flac"): soundfile.write(twins/name, spoken()[:4000], 16000)
    (tmp_path/"bare").mkdir()
    for given, out, words in ((neutral, neutral, "is the input folder: converted files would be taken for inputs; name a folder elsewhere"), (neutral, tmp_path/"link", "is the input folder"), (tmp_path/"link", neutral, "is the input folder"), (neutral, neutral/"out", "is inside the input folder"), (neutral, neutral/"more"/"out", "is inside the input folder"),
                              (neutral, speech/"angry"/".."/"neutral", "is the input folder"), (twins, tmp_path/"x", "2 inputs would be written to"), ([a, speech/"angry"/"1.wav"], tmp_path/"x", "2 inputs would be written to"), ([a, a], tmp_path/"x", "2 inputs would be written to"), (a, neutral, "would be overwritten by its own conversion"),
                              (a, a, "would be overwritten by its own conversion"), ([a, b], neutral, "1.wav would be overwritten"), (tmp_path/"bare", tmp_path/"x", "bare: no audio file in it"), (tmp_path/"nowhere", tmp_path/"x", "nowhere: no such file or folder"), ([a, "nowhere.wav"], tmp_path/"x", "nowhere.wav: no such file or folder"), ([], tmp_path/"x", "no input: no such file")):
        with pytest.raises((ValueError, FileNotFoundError), match=re.escape(words)) as caught: targets_of(given, out)
        one_sentence(str(caught.value))
    assert not (tmp_path/"x").exists()


def test_outputs_that_cannot_be_written(speech, folder, tmp_path):
    (tmp_path/"file").write_text("in the way")
    for out in (tmp_path/"file", tmp_path/"file"/"out"):
        with pytest.raises(OSError, match="cannot write to") as caught: convert_files(speech/"neutral", out, folder, workers=1)
        one_sentence(str(caught.value), tmp_path/"file")
    (tmp_path/"out").mkdir()
    (tmp_path/"out"/"more").write_text("in the way")
    with pytest.raises((OSError, RuntimeError), match="more") as caught: convert_files(speech/"neutral", tmp_path/"out", folder, workers=1)
    one_sentence(str(caught.value))
    assert (tmp_path/"file").read_text() == (tmp_path/"out"/"more").read_text() == "in the way"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_outputs(speech, folder, tmp_path):
    (tmp_path/"out").mkdir(mode=0o555)
    with pytest.raises(OSError, match="cannot write to .*out is read-only"): convert_files(speech/"neutral", tmp_path/"out", folder, workers=1)


def test_a_full_disk_leaves_no_half_written_wav(recording, folder, tmp_path):
    with full_disk(), pytest.raises((OSError, RuntimeError)): convert_files(recording, tmp_path/"out", folder, workers=1)
    assert everything(tmp_path) == ["out"]


def test_a_full_disk_is_said(speech, folder, tmp_path):
    with full_disk(), pytest.raises((OSError, RuntimeError)) as caught: convert_files(speech/"neutral", tmp_path/"out", folder, workers=1)
    one_sentence(str(caught.value), tmp_path/"out"/"1.wav")


def test_a_model_that_was_replaced_after_an_error(speech, model, tmp_path, monkeypatch):
    save_converter(model, tmp_path/"m")
    with monkeypatch.context() as patch:
        patch.setattr(conversion, "convert_file", lambda *args, **given: 1/0)
        conversion._loaded(str(tmp_path/"m"), None)
        with pytest.raises(RuntimeError, match="ZeroDivisionError"): convert_files(speech/"neutral"/"1.wav", tmp_path/"out", tmp_path/"m", workers=1)
    save_converter(replace(model, nets=make_nets(model.config)), tmp_path/"m")
    convert_files(speech/"neutral"/"1.wav", tmp_path/"out", tmp_path/"m", workers=1)
    np.testing.assert_array_equal(soundfile.read(tmp_path/"out"/"1.wav", dtype="float32")[0], convert(*read_audio(speech/"neutral"/"1.wav"), tmp_path/"m"))


# ---- processes -----------------------------------------------------------------------------------------------------

def working(monkeypatch, code):
    "Workers whose `ser_nb.processes.work` is this"
    code = "def work(job, options):\n    import os, time\n    from ser_nb.core import AudioError\n" + "".join(f"    {line}\n" for line in code)
    monkeypatch.setattr(_Worker, "CODE", _Worker.CODE.replace("; from", f"; import ser_nb.processes as P; exec({code!r}, P.__dict__); from", 1))
    exec(code, space := {})
    monkeypatch.setattr(processes, "work", space["work"], raising=False)


JOBS = [dict(file=f"{i}.wav", i=i) for i in range(9)]


def done_by(workers, jobs=JOBS, options=None):
    with in_processes("ser_nb.processes:work", jobs, options, workers, least=1) as answers: return list(answers)


@pytest.mark.parametrize("workers", [1, 3])
def test_answers_come_in_order(monkeypatch, workers):
    working(monkeypatch, ["time.sleep(.05*(job['i'] % 3 == 0))", "if job['i'] == 4: raise AudioError('4.wav: no speech')", "return [job['i'], options, os.getpid()]"])
    answers = done_by(workers, options=dict(a=[1]))
    assert [job for job, _ in answers] == JOBS and [what for _, (what, _) in answers] == ["done"]*4 + ["failed"] + ["done"]*4 and answers[4][1][1] == "4.wav: no speech"
    results = [r for _, (what, r) in answers if what == "done"]
    assert [r[0] for r in results] == [0, 1, 2, 3, 5, 6, 7, 8] and all(r[1] == dict(a=[1]) for r in results) and (workers == 1) == ({r[2] for r in results} == {os.getpid()})


def test_a_worker_that_dies_costs_one_file(monkeypatch):
    working(monkeypatch, ["if job['i'] in (2, 3): os.kill(os.getpid(), 9)", "return os.getpid()"])
    answers = done_by(2)
    assert [what for _, (what, _) in answers] == ["done"]*2 + ["failed"]*2 + ["done"]*5
    for i in (2, 3): one_sentence(answers[i][1][1], f"{i}.wav: the process that worked on it ended with code -9")


@pytest.mark.parametrize("workers", [1, 2])
def test_another_error_stops(monkeypatch, workers):
    working(monkeypatch, ["if job['i'] == 2: raise OSError(28, 'No space left on device')", "return 0"])
    with pytest.raises(RuntimeError, match=re.escape("2.wav: OSError: [Errno 28] No space left on device")): done_by(workers)


def test_workers_end_with_their_work(monkeypatch):
    started, start = [], _Worker.start
    monkeypatch.setattr(_Worker, "start", lambda self: (start(self), started.append(self.process)))
    working(monkeypatch, ["time.sleep(30*job['i'])", "return 0"])
    with in_processes("ser_nb.processes:work", JOBS, None, 2, least=1) as answers: next(iter(answers))
    assert len(started) >= 1 and all(p.poll() is not None for p in started)
    with pytest.raises(ValueError, match="expected a function of ser_nb"): processes.function_named("os:system")


# ---- the command and the package -----------------------------------------------------------------------------------

@pytest.fixture
def said(capsys, monkeypatch):
    "The command in this process: (status, standard output, standard error)"
    monkeypatch.chdir(ROOT)
    def run(*words):
        status = main([str(w) for w in words])
        return status, *capsys.readouterr()
    return run


def test_command_on_a_folder_and_a_file(said, speech, folder, tmp_path):
    status, out, err = said("convert", speech/"neutral", tmp_path/"out", "--model", folder, "--to", "angry", "--workers", 1)
    assert (status, err) == (0, "") and [line.split(":")[0] for line in out.splitlines()] == [str(tmp_path/"out"/f) for f in ("1.wav", "2.wav", "more/3.wav")]
    file, rate = speech/"neutral"/"2.wav", 16000
    status, out, err = said("convert", file, tmp_path/"one.wav", "--model", folder, "--from", "angry", "--to", "neutral", "--parts", "shift,power")
    signal = read_audio(file)[0]
    assert (status, err, out) == (0, "", f"{tmp_path/'one.wav'}: {len(signal)/rate:.2f} s\n")
    np.testing.assert_array_equal(soundfile.read(tmp_path/"one.wav", dtype="float32")[0], convert(signal, rate, folder, "neutral", "angry", ("shift", "power")))
    np.testing.assert_array_equal(soundfile.read(tmp_path/"out"/"2.wav", dtype="float32")[0], convert(signal, rate, folder))


def test_command_lists_what_fails(said, speech, folder, tmp_path):
    reasons = bad_files(tmp_path/"in")
    shutil.copy(speech/"neutral"/"1.wav", tmp_path/"in")
    status, out, err = said("convert", tmp_path/"in", tmp_path/"out", "--model", folder, "--workers", 1)
    assert status == 1 and out.startswith(f"{tmp_path/'out'/'1.wav'}: ") and [line.split(":")[0] for line in err.splitlines()] == [str(tmp_path/"in"/f) for f in sorted(reasons)]


@pytest.mark.parametrize("words, expected", [(("--to", "angri"), "unknown target of the conversion 'angri': did you mean 'angry'"), (("--to", "angry", "--from", "angry"), "both 'angry'"), (("--parts", "f0,enevlope"), "did you mean 'envelope'"), (("--parts", "envelope,shift"), "not by both"), (("--style", "random"), "a CycleGAN has no styles"),
                                             (("--model", "nowhere"), "nowhere has no config.json"), (("--reference", "nowhere.wav"), "nowhere.wav: no such audio file")])
def test_command_refuses(said, speech, folder, tmp_path, words, expected):
    status, out, err = said("convert", speech/"neutral", tmp_path/"out", "--model", folder, *words)
    assert (status, out) == (2, "") and err.startswith("ser-nb: ") and err.count("\n") == 1 and expected in err and not everything(tmp_path)


def test_command_outputs_in_the_way(said, speech, folder, tmp_path):
    for words, expected in (((speech/"neutral", speech/"neutral"), "is the input folder"), ((tmp_path/"none", tmp_path/"out"), "none: no such file or folder"), ((speech/"neutral"/"1.wav", speech/"neutral"), "would be overwritten")):
        status, out, err = said("convert", *words, "--model", folder)
        assert (status, out) == (2, "") and err.count("\n") == 1 and expected in err
    assert not everything(tmp_path)


def test_the_package_hands_out(folder):
    import ser_nb
    assert ser_nb.convert is conversion.convert and ser_nb.load_converter is conversion.load_converter and {"convert", "load_converter"} <= set(dir(ser_nb))
    made = ser_nb.convert(spoken()[:4000], 16000, ser_nb.load_converter(folder), to="angry")
    assert made.shape == (4000,)
    code = "import sys, ser_nb; assert 'convert' in dir(ser_nb); print([m for m in ('torch', 'numpy', 'pandas', 'librosa', 'ser_nb.conversion') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


# ---- the notebooks -------------------------------------------------------------------------------------------------

def execute(name, **given):
    "A notebook's cells in this process, parameters injected where papermill injects them; what it would show is in `shown`"
    shown = []
    names = {"__name__": "__main__", "display": lambda *things: shown.extend(things)}
    for cell in nbformat.read(ROOT/"nbs"/f"{name}.ipynb", as_version=4).cells:
        if cell.cell_type != "code" or cell.source.startswith("%"): continue
        exec(compile(cell.source, f"{name}.ipynb", "exec"), names)
        if "parameters" in cell.metadata.get("tags", []): names.update(given)
    return SimpleNamespace(**names, shown=shown)


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SER_NB_OUTPUTS", str(tmp_path/"outputs"))
    return tmp_path/"outputs"


def folders(speech, **given): return dict(train_A_dir=str(speech/"neutral"), train_B_dir=str(speech/"angry"), f0_method="dio", preset="tiny", iterations=4, **given)


def test_training_and_converting_by_notebook(speech, outputs, tmp_path):
    ran = execute("train_conversion", **folders(speech, validation_A_dir=str(speech/"sad"), validation_B_dir="None", validate_every=2, model_dir=str(tmp_path/"models"), model_name="m", output_dir=str(tmp_path/"heard"), tensorboard_log_dir=str(tmp_path/"log")))
    assert everything(tmp_path/"models") == ["m", "m/config.json", "m/weights.safetensors"] and (ran.run.folder/"manifest.json").exists() and len(pd.read_csv(ran.run.folder/"losses.csv"))
    heard = [p for p in everything(tmp_path/"heard") if p.endswith(".wav")]
    assert heard == [f"step-{step:06d}/converted_A/{i}.wav" for step in (2, 4) for i in (1, 2, 3)]
    assert soundfile.info(tmp_path/"heard"/heard[0]).frames == soundfile.info(speech/"sad"/"1.wav").frames
    events = b"".join(p.read_bytes() for p in (tmp_path/"log").rglob("events.out*"))
    assert b"cycle" in events and b"A to B" in events and not list(outputs.rglob("events.out*"))
    model = load_converter(tmp_path/"models"/"m")
    assert model.config["domains"] == ["A", "B"] and model.config["analysis"]["f0_method"] == "dio" and model.config["options"]["iterations"] == 4
    given = dict(model_dir=str(tmp_path/"models"), model_name="m", data_dir=str(speech/"angry"), conversion_direction="B2A", output_dir=str(tmp_path/"made"))
    done = execute("convert", **given)
    assert everything(tmp_path/"made") == ["1.wav", "2.wav", "more", "more/3.wav"] and (done.run.folder/"manifest.json").exists()
    np.testing.assert_array_equal(soundfile.read(tmp_path/"made"/"1.wav", dtype="float32")[0], convert(*read_audio(speech/"angry"/"1.wav"), model, "A", "B"))
    for wrong in ("b2a", "A2A", "A2C", "AtoB", ""):
        with pytest.raises(ValueError, match="unknown conversion_direction") as caught: execute("convert", **dict(given, conversion_direction=wrong))
        one_sentence(str(caught.value), "A2B", "B2A")
    for change, words in ((dict(parts=["f0", "f0"]), "once"), (dict(style="reference"), "belong together"), (dict(output_dir=str(speech/"angry")), "is the input folder"), (dict(model_name="n"), "no config.json"), (dict(data_dir=str(tmp_path/"nowhere")), "no such file or folder"), (dict(conversion_drection="A2B"), "did you mean 'conversion_direction'")):
        with pytest.raises((ValueError, FileNotFoundError), match=words): execute("convert", **dict(given, **change))


def test_converting_by_notebook_without_a_folder(outputs, folder):
    with pytest.raises(ValueError, match="data_dir is empty, and the model does not come from the demo corpus") as caught: execute("convert", model_dir=str(folder.parent))
    one_sentence(str(caught.value))


def test_converting_by_notebook_where_everything_fails(speech, outputs, folder, tmp_path):
    bad_files(tmp_path/"in")
    with pytest.raises(ValueError, match="none of 8 files could be converted; the first: ") as caught: execute("convert", model_dir=str(folder.parent), data_dir=str(tmp_path/"in"), conversion_direction="A2B")
    one_sentence(str(caught.value))


def test_what_the_training_notebook_lists(speech, outputs, tmp_path):
    reasons = bad_files(tmp_path/"a")
    for i in (1, 2): shutil.copy(speech/"neutral"/f"{i}.wav", tmp_path/"a")
    ran = execute("train_conversion", **folders(speech) | dict(train_A_dir=str(tmp_path/"a")))
    assert set(ran.failures.file) == set(reasons) and json.loads((ran.run.folder/"manifest.json").read_text())["failures"] == len(reasons)


@pytest.mark.parametrize("change, words", [(dict(train_B_dir=""), "train_A_dir and train_B_dir belong together"), (dict(train_A_dir="", train_B_dir="", source="angry"), "both 'angry'"), (dict(kind="gan"), "unknown kind"), (dict(protocol="correct"), "did you mean 'corrected'"), (dict(validate_every=-1), "validate_every=-1"), (dict(preset="huge"), "unknown preset"),
                                           (dict(w_gan=1.), "w_gan is no option of the kind cyclegan"), (dict(kind="style", lambda_id=1.), "lambda_id is no option of the kind style"), (dict(lambda_cyc=-1.), "lambda_cyc=-1.0"), (dict(dims=1), "dims 1"), (dict(coder="mel"), "unknown coder"), (dict(train_A_dir="nowhere"), "nowhere: no such folder"),
                                           (dict(lambda_cls=1.), "the emotion loss needs to know which emotions A and B are"), (dict(iterations="many"), "iterations='many': train_conversion expects int")], ids=str)
def test_training_by_notebook_refuses(speech, outputs, change, words):
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(words)) as caught: execute("train_conversion", **folders(speech) | change)
    one_sentence(str(caught.value))
