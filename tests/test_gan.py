"The feature CycleGAN against plain networks of the same weights, batches and masks; its options, kills and bad input; synthetic rows of a fold"
import hashlib
import itertools
import os
import re
import signal
import subprocess
import sys
from collections import defaultdict, deque
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from ser_nb.core import LeakageError, cache_root
from ser_nb.data.partition import Fold, Guard, make_partition
from ser_nb.data.transform import SCALINGS, apply_scaler, scaler_of
from ser_nb.features.cache import Features
from ser_nb.models.feature_cyclegan import dropout_masks, init_feature_cyclegan, stacked, swap, synthesise
from ser_nb.synthesis import AUGMENT, gan_options, synthetic_set
from ser_nb.training import adversarial
from ser_nb.training.adversarial import CURVES, PINNED, PUBLISHED, _one, _order, check_gan_options, pretrain_gan, train_gan

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:.*are pinned")]


FEW = dict(dim_g=[9, 7, 9], dim_d=[8, 5], dim_c=[6], lr=dict(d=2e-3, g=1e-3), keep_prob=dict(d=.8, g=.8, c=.5), batch_size=8, train_epochs=5, decay=.5, decay_epochs=2)   # 3 steps an epoch
CORRECTED = dict(d_moves_g=False, cls_real=.4, lambda_mom=3)


def data(sizes=(29, 40, 33), n=37, d=12, seed=0):
    "(source, targets of one model)"
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)).astype("float32"), [(rng.normal(size=(m, d))*(.5 + e) + rng.normal(size=d)).astype("float32") for e, m in enumerate(sizes)]


def digest(params): return hashlib.sha256(b"".join(params[k].numpy().tobytes() for k in sorted(params))).hexdigest()


def same(a, b, atol=0.):
    for k in a: torch.testing.assert_close(a[k], b[k], rtol=0, atol=atol)
    return set(a) == set(b)


def differ(a, b): return set(a) != set(b) or any(a[k].shape != b[k].shape or not torch.allclose(a[k], b[k], rtol=0, atol=1e-5) for k in a)


# ---- the published sizes and a plain CycleGAN ----------------------------------------------------------------------

def test_published_sizes():
    nets = init_feature_cyclegan(1582, 4, [0], *(PUBLISHED[k] for k in ("dim_g", "dim_d", "dim_c")))
    assert {name: [tuple(w.shape) for k, w in net.items() if k[0] == "w"] for name, net in nets.items()} == dict(
        g=[(8, 1582, 1000), (8, 1000, 500), (8, 500, 1000), (8, 1000, 1582)], d=[(8, 1582, 1000), (8, 1000, 1000), (8, 1000, 1)], c=[(1, 1582, 100), (1, 100, 100), (1, 100, 4)])
    assert sum(p.numel() for net in nets.values() for p in net.values()) == 54_193_468


class Plain(nn.Sequential):
    "One network of a stack in double precision as anybody would write it, with given masks in the place of dropout"
    def __init__(self, stack, member):
        layers = [nn.Linear(*stack[f"w{i}"].shape[1:], dtype=torch.float64) for i in range(len(stack)//2)]
        for i, layer in enumerate(layers): layer.weight.data, layer.bias.data = stack[f"w{i}"][member].T.double(), stack[f"b{i}"][member, 0].double()
        super().__init__(*(part for layer in layers for part in (layer, nn.LeakyReLU(.2))))
        del self[-1]

    def forward(self, x, masks=None):
        for i, layer in enumerate(self):
            x = layer(x)
            if masks is not None and i % 2: x = x*masks[i//2]
        return x


class PlainGAN:
    "Bao, Neumann and Vu's model (spec A4), one network at a time; `nets` are the stacks of one model"
    def __init__(self, nets, k):
        self.k, (self.G, self.F) = k, ([Plain(nets["g"], e + first) for e in range(k)] for first in (0, k))
        if "d" in nets: self.DT, self.DS = ([Plain(nets["d"], e + first) for e in range(k)] for first in (0, k))
        self.C = Plain(nets["c"], 0) if "c" in nets else None

    def cycle(self, s, t, m, back):
        made = [(self.G[e](s[e], m(e)), self.F[e](t[e], m(self.k + e))) for e in range(self.k)]
        return made, [nn.functional.mse_loss(self.F[e](made[e][0], back(self.k + e)), s[e]) + nn.functional.mse_loss(self.G[e](made[e][1], back(e)), t[e]) for e in range(self.k)]

    def judged(self, s, t, m, d):
        "What the discriminators lose, for each emotion"
        def half(net, real, fake, masks): return (bce(net(real, first(masks, len(real))), .9) + bce(net(fake, rest(masks, len(real))), 0.))/2
        return [half(self.DT[e], t[e], self.G[e](s[e], m(e)), d(e)) + half(self.DS[e], s[e], self.F[e](t[e], m(self.k + e)), d(self.k + e)) for e in range(self.k)]

    def fooling(self, made, d): return [bce(self.DT[e](made[e][0], d(e)), .9) + bce(self.DS[e](made[e][1], d(self.k + e)), .9) for e in range(self.k)]

    def classified(self, made, t, c, share):
        rows, masks = torch.cat([f for f, _ in made]), c(0)
        labels = torch.arange(self.k).repeat_interleave(len(t[0]))
        entropy = nn.functional.cross_entropy(self.C(rows, first(masks, len(rows))), labels)
        return entropy if not share else (1 - share)*entropy + share*nn.functional.cross_entropy(self.C(torch.cat(list(t)), rest(masks, len(rows))), labels)


def bce(logits, label): return nn.functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))
def first(masks, n): return None if masks is None else [m[:n] for m in masks]
def rest(masks, n): return None if masks is None else [m[n:] for m in masks]
def moments(made, real): return nn.functional.mse_loss(made.mean(0), real.mean(0)) + nn.functional.mse_loss(made.var(0, correction=0), real.var(0, correction=0))
def none(_): return None


@pytest.fixture
def drawn(monkeypatch):
    "All dropout masks that are drawn, by (halves, rows, hidden units), in their order"
    masks = defaultdict(deque)
    def record(*args):
        made = dropout_masks(*args)
        masks[args[2], args[3], tuple(args[4])].append(made)
        return made
    monkeypatch.setattr(adversarial, "dropout_masks", record)
    return masks


def plain_training(gan, source, targets, seed, o, drawn, cycles_only=False):
    "The published loop on one model's batches: a D step, which moves G too but not F, then two G steps; each optimiser with moments of its own"
    k, batch, d_in_c = gan.k, o["batch_size"], 2 if o["cls_real"] else 1
    def masks(halves, n, hidden):
        made = drawn[halves, n, tuple(hidden)].popleft()
        return none if made is None else lambda i: [m[i].double() for m in made]
    def weights(*nets): return [p for group in nets for net in group for p in net.parameters()]
    S, T = torch.as_tensor(source).double(), torch.as_tensor(np.concatenate(targets)).double()
    adams = dict(g=torch.optim.Adam(weights(gan.G, gan.F, [gan.C] if gan.C and not cycles_only else []), lr=1.))
    if not cycles_only: adams["d"] = torch.optim.Adam(weights(gan.DT, gan.DS, gan.G if o["d_moves_g"] else []), lr=1.)
    def move(name, loss, epoch):
        for adam in adams.values(): adam.zero_grad()
        loss.backward()
        adams[name].param_groups[0]["lr"] = o["lr"][name]*(1 if cycles_only else o["decay"]**(epoch//o["decay_epochs"]))
        adams[name].step()
    for epoch in range(o["train_epochs"]):
        for rows in _order(len(S), [[len(t) for t in targets]], [seed], epoch, min(len(source), *map(len, targets))//batch, batch):
            s, t = S[rows[:k]], T[rows[k:]]
            if cycles_only:
                move("g", sum(gan.cycle(s, t, masks(2, batch, o["dim_g"]), masks(2, batch, o["dim_g"]))[1]), epoch)
                continue
            move("d", sum(gan.judged(s, t, masks(2, batch, o["dim_g"]), masks(2, 2*batch, o["dim_d"]))), epoch)
            for _ in range(2):
                made, cyc = gan.cycle(s, t, masks(2, batch, o["dim_g"]), masks(2, batch, o["dim_g"]))
                loss = sum(gan.fooling(made, masks(2, batch, o["dim_d"]))) + o["lambda_cyc"]*sum(cyc)
                if gan.C: loss = loss + o["lambda_cls"]*gan.classified(made, t, masks(1, d_in_c*k*batch, o["dim_c"]), o["cls_real"])
                move("g", loss + o["lambda_mom"]*sum(moments(f, r) for (f, _), r in zip(made, t)), epoch)


def agree(stack, nets, start, atol=2e-6):
    "Stacked weights are those of plain networks, and have moved far more than they may differ"
    for member, net in enumerate(nets):
        for i, layer in enumerate(list(net)[::2]):
            np.testing.assert_allclose(stack[f"w{i}"][member].T, layer.weight.detach(), rtol=0, atol=atol)
            np.testing.assert_allclose(stack[f"b{i}"][member, 0], layer.bias.detach(), rtol=0, atol=atol)
        assert all((stack[k][member] - start[k][member]).abs().max() > 500*atol for k in start)


REFERENCE = {"faithful": {}, "corrected": CORRECTED, "discriminators alone": dict(d_moves_g=False), "moments": dict(lambda_mom=10), "real rows for C": dict(cls_real=.5), "no C": dict(lambda_cls=0), "corrected without C": dict(CORRECTED, lambda_cls=0),
             "no cycle": dict(lambda_cyc=0, lambda_cls=.5), "no dropout": dict(keep_prob=dict(d=1, g=1, c=1)), "dropout here and there": dict(keep_prob=dict(d=.6, g=1, c=.9)), "constant rates": dict(decay=1), "other sizes": dict(dim_g=[10], dim_d=[9, 8, 6], dim_c=[7, 5], batch_size=13),
             "linear": dict(dim_g=[], dim_d=[], dim_c=[])}


@pytest.mark.parametrize("change", REFERENCE.values(), ids=REFERENCE)
def test_training_is_that_of_plain_networks(tmp_path, drawn, change):
    (source, targets), o = data(), {**PUBLISHED, **FEW, **change}
    nets = init_feature_cyclegan(12, 3, [5], o["dim_g"], o["dim_d"], o["dim_c"])
    if not o["lambda_cls"]: del nets["c"]
    made, _ = train_gan(source, [targets], [5], {**FEW, **change}, checkpoint=tmp_path/"end.safetensors")
    gan, end = PlainGAN(nets, 3), load_file(tmp_path/"end.safetensors")
    plain_training(gan, source, targets, 5, o, drawn)
    agree(made, gan.G + gan.F, nets["g"])
    agree({k[2:]: v for k, v in end.items() if k.startswith("d.")}, gan.DT + gan.DS, nets["d"])
    if gan.C: agree({k[2:]: v for k, v in end.items() if k.startswith("c.")}, [gan.C], nets["c"])
    assert all(torch.equal(made[k], end[f"g.{k}"]) for k in made) and ("c.w0" in end) == (o["lambda_cls"] > 0)
    assert not any(drawn.values()), "masks were drawn that the plain networks have not seen"


def test_pretraining_is_that_of_plain_networks_and_training_begins_with_it(drawn):
    (source, targets), o = data(), {**PUBLISHED, **FEW, **CORRECTED}
    nets = init_feature_cyclegan(12, 3, [5], o["dim_g"], o["dim_d"], o["dim_c"])
    known = pretrain_gan(source, [targets], [5], dict(FEW, train_epochs=9))
    gan = PlainGAN(nets, 3)
    plain_training(gan, source, targets, 5, dict(o, train_epochs=9), drawn, cycles_only=True)
    agree(known, gan.G + gan.F, nets["g"])
    before = digest(known)
    made, _ = train_gan(source, [targets], [5], {**FEW, **CORRECTED}, known)
    plain_training(gan, source, targets, 5, o, drawn)
    agree(made, gan.G + gan.F, known)
    assert digest(known) == before, "the generators that somebody gave have been changed"


def test_every_use_of_a_network_has_masks_of_its_own(drawn):
    source, targets = data()
    train_gan(source, [targets]*2, [5, 6], dict(FEW, keep_prob=dict(d=.5, g=.5, c=.5)))
    assert {(len(masks), key) for key, masks in drawn.items()} == {(15*5, (2, 8, (9, 7, 9))), (15, (2, 16, (8, 5))), (15*2, (2, 8, (8, 5))), (15*2, (1, 24, (6,)))}
    for masks in drawn.values():
        members = [m.flatten(1) for made in masks for m in made[:1]]
        assert len({tuple(row.tolist()) for member in members for row in member}) == sum(map(len, members)), "two members, or two uses of one, have the same masks"


def test_curves_are_losses_of_whole_sets_without_dropout(tmp_path):
    source, targets = data((24, 24, 24), 24)
    o = {**PUBLISHED, **FEW, **CORRECTED, "train_epochs": 23}
    made, curves = train_gan(source, [targets], [5], o, checkpoint=tmp_path/"end.safetensors")
    end = load_file(tmp_path/"end.safetensors")
    gan = PlainGAN({net: {k[2:]: v for k, v in end.items() if k.startswith(f"{net}.")} for net in "gdc"}, 3)
    assert tuple(curves) == CURVES and curves.epoch.tolist() == [10]*3 + [20]*3 + [23]*3 and curves.emotion.tolist() == [0, 1, 2]*3 and set(curves.model) == {0}
    with torch.no_grad():
        s, t = torch.as_tensor(source).double().expand(3, -1, -1), torch.as_tensor(np.stack(targets)).double()
        fake, cyc = gan.cycle(s, t, none, none)
        fooling, judged, cls = gan.fooling(fake, none), gan.judged(s, t, none, none), gan.classified(fake, t, none, o["cls_real"])
        expected = [dict(d=judged[e], g=fooling[e] + o["lambda_cyc"]*cyc[e], cyc=cyc[e], cls=cls, variance=fake[e][0].var(0).sum()/t[e].var(0).sum()) for e in range(3)]
    for name in expected[0]: np.testing.assert_allclose(curves[curves.epoch == 23][name], [float(e[name]) for e in expected], rtol=1e-4, err_msg=name)
    assert curves.dev.isna().all() and np.allclose(synthesise(made, torch.as_tensor(source))[2], fake[2][0], atol=1e-5)


def test_batches_are_shuffled_pair_by_pair_and_epochs_end_with_the_smallest_set():
    sizes, seeds = [[29, 40], [33, 30]], [1, 2]
    epochs = [_order(50, sizes, seeds, epoch, 3, 8) for epoch in range(40)]
    assert epochs[0].shape == (3, 8, 8) and not torch.equal(epochs[0], epochs[1]) and torch.equal(epochs[7], _order(50, sizes, seeds, 7, 3, 8))
    for place, (start, n) in enumerate([(0, 50)]*4 + [(0, 29), (29, 40), (69, 33), (102, 30)]):
        orders = [e[:, place].flatten().tolist() for e in epochs]
        assert all(len(set(o)) == 24 for o in orders), "a row comes twice in an epoch"
        assert set().union(*orders) == set(range(start, start + n)), "the dropped rows change from epoch to epoch"
    assert len({tuple(epochs[0][:, place].flatten().tolist()) for place in range(4)}) == 4, "each pair has a shuffled source of its own"
    assert torch.equal(_order(50, sizes[1:], seeds[1:], 3, 3, 8)[:, 2:], epochs[3][:, 6:] - 69) and torch.equal(_order(50, sizes[1:], seeds[1:], 3, 3, 8)[:, :2], epochs[3][:, 2:4])


# ---- options, stacks, seeds ----------------------------------------------------------------------------------------

CHANGED = dict(dim_g=[[9, 9], []], dim_d=[[8], [8, 6]], dim_c=[[6, 6], [7]], lr=[dict(d=2e-3, g=2e-3), dict(d=1e-3, g=1e-3)], batch_size=[7], keep_prob=[dict(d=.8, g=.7, c=.5), dict(d=.7, g=.8, c=.5), dict(d=.8, g=.8, c=.6)], train_epochs=[6], lambda_cyc=[4, 0],
               lambda_cls=[3, 0], lambda_mom=[.1], cls_real=[.1], d_moves_g=[False], decay=[1], decay_epochs=[1], precision=["bfloat16"])


@pytest.fixture(scope="module")
def usual():
    source, targets = data()
    return train_gan(source, [targets], [5], FEW)[0]


def test_no_option_without_a_test(): assert {*CHANGED, "min_variance"} == set(PUBLISHED)


@pytest.mark.parametrize("name, value", [(name, value) for name, values in CHANGED.items() for value in values])
def test_option_changes_the_generators(usual, name, value):
    source, targets = data()
    assert differ(train_gan(source, [targets], [5], {**FEW, name: value})[0], usual)


@pytest.mark.parametrize("value", [dict(lr=dict(d=2e-3, g=2e-3)), dict(batch_size=7), dict(dim_g=[9, 9]), dict(keep_prob=dict(d=.8, g=.7, c=.5)), dict(train_epochs=6), dict(precision="bfloat16")], ids=str)
def test_option_changes_pretraining(value):
    source, targets = data()
    one, other = (pretrain_gan(source, [targets], [5], {**FEW, **given}) for given in ({}, value))
    assert differ(one, other)


def test_pretraining_does_not_depend_on_what_it_may_be_shared_by():
    source, targets = data()
    one, other = (pretrain_gan(source, [targets], [5], {**FEW, **given}) for given in ({}, dict(CORRECTED, lambda_cls=0, lambda_cyc=1, dim_d=[3], decay=1, lr=dict(d=1, g=1e-3), keep_prob=dict(d=.1, g=.8, c=.1))))
    assert digest(one) == digest(other)


def test_same_seed_same_bytes_other_seed_other_weights():
    source, targets = data()
    runs = [pretrain_gan(source, [targets], [seed], FEW) for seed in (5, 5, 6)]
    runs += [train_gan(source, [targets], [seed], FEW)[0] for seed in (5, 5, 6)]
    hashes = list(map(digest, runs))
    assert hashes[0] == hashes[1] and hashes[3] == hashes[4] and len(set(hashes)) == 4 and differ(runs[0], runs[2]) and differ(runs[3], runs[5])


@pytest.mark.parametrize("change", [{}, CORRECTED, dict(precision="bfloat16")], ids=["faithful", "corrected", "bfloat16"])
def test_a_model_is_the_same_alone_and_in_a_stack(change):
    source, lambdas, seeds = data()[0], [0, .5, 3], [1, 2, 2]
    targets = [data(sizes, seed=m)[1] for m, sizes in enumerate([(29, 40, 33), (30, 29, 31), (31, 31, 29)])]   # curves look at as many rows as the smallest set has
    o, atol = {**FEW, **change}, 2e-3 if "precision" in change else 1e-6
    known = pretrain_gan(source, targets, seeds, o)
    stack, curves = train_gan(source, targets, seeds, dict(o, lambda_cls=lambdas), known)
    for m in range(3):
        before = pretrain_gan(source, targets[m:m + 1], seeds[m:m + 1], o)
        assert same(before, _one(known, m, 3), atol)
        alone, curve = train_gan(source, targets[m:m + 1], seeds[m:m + 1], dict(o, lambda_cls=lambdas[m]), before)
        assert same(alone, _one(stack, m, 3), atol), m
        pd.testing.assert_frame_equal(curves[curves.model == m].drop(columns=["model", "cls"]).reset_index(drop=True), curve.drop(columns=["model", "cls"]), check_dtype=False, rtol=1e-4 if atol < 1e-4 else .05)
    assert differ(_one(stack, 1, 3), _one(stack, 2, 3))


def test_lambda_and_rows_reach_their_own_model_only():
    source, targets = data()
    def models(lambdas, two=targets): return train_gan(source, [targets, two], [5, 5], dict(FEW, lambda_cls=lambdas))[0]
    one, other, moved = models([1, 1]), models([1, 2]), models([1, 1], [t + 1 for t in targets])
    assert same(_one(one, 0, 2), _one(one, 1, 2), 1e-6) and same(_one(one, 0, 2), _one(other, 0, 2), 1e-6) and same(_one(one, 0, 2), _one(moved, 0, 2), 1e-6)
    assert differ(_one(other, 0, 2), _one(other, 1, 2)) and differ(_one(one, 1, 2), _one(moved, 1, 2))


def test_bfloat16_is_close_to_float32_for_an_epoch():
    source, targets = data()
    for change in ({}, CORRECTED):
        o = {**FEW, **change, "train_epochs": 1}
        start = init_feature_cyclegan(12, 3, [5], *(FEW[k] for k in ("dim_g", "dim_d", "dim_c")))["g"]
        exact, rough = (train_gan(source, [targets], [5], dict(o, precision=p))[0] for p in ("float32", "bfloat16"))
        assert differ(exact, rough) and all(v.dtype == torch.float32 for v in rough.values())
        a, b = (torch.cat([(made[k] - start[k]).flatten() for k in start]) for made in (exact, rough))
        assert torch.nn.functional.cosine_similarity(a, b, dim=0) > .9 and (a - b).abs().mean() < .2*a.abs().mean()


@pytest.mark.parametrize("keep", [.5, .8, .999, 1 - 1e-5, 1 - 1e-6, 1e-4])
def test_masks_keep_their_share(keep):
    masks = torch.cat([m.flatten() for m in dropout_masks([torch.Generator().manual_seed(s) for s in (1, 2)], 3, 2, 500, [60, 40], keep)])
    assert set(masks.unique().tolist()) <= {0., float(torch.tensor(1.)/keep)}
    assert (masks > 0).double().mean().item() == pytest.approx(keep, abs=4*(keep*(1 - keep)/len(masks))**.5 + 1e-5)


def test_masks_differ_by_layer_network_half_and_call():
    generators = [torch.Generator().manual_seed(s) for s in (1, 2)]
    one, two = (dropout_masks(generators, 3, 2, 16, [30, 30], .5) for _ in range(2))
    rows = {tuple(network.flatten().tolist()) for masks in (one, two) for layer in masks for network in layer}
    assert len(rows) == 2*2*12


# ---- kill -9 -------------------------------------------------------------------------------------------------------

LONG = dict(FEW, **CORRECTED, train_epochs=11)   # checkpoints after epochs 3, 6 and 9, on a clock of 20 seconds an epoch
KILLS = [(what, point) for what in ("pretrain", "train") for point in ("between", "after", "writing the first", "writing the second")]


def trained(what, checkpoint=None):
    source, targets = data()
    if what == "pretrain": return pretrain_gan(source, [targets], [5], LONG, checkpoint)
    return train_gan(source, [targets], [5], LONG, checkpoint=checkpoint)[0]


def die(): os.kill(os.getpid(), signal.SIGKILL)


def die_in_call(module, name, number, first=None):
    "Kill this process in that call of a function; `first` is done before"
    count, function = itertools.count(1), getattr(module, name)
    def wrapped(*args, **given):
        if next(count) < number: return function(*args, **given)
        if first: first(function, *args, **given)
        die()
    setattr(module, name, wrapped)


def half_written(save, tensors, path, **given):
    save(tensors, path, **given)
    os.truncate(path, os.path.getsize(path)//2)


def set_traps(point):
    "Let the point kill the process that reaches it"
    import safetensors.numpy
    import safetensors.torch
    torch.set_num_threads(1)
    seconds = itertools.count(0, 20)
    adversarial.time = SimpleNamespace(monotonic=lambda: next(seconds))
    if point == "between": die_in_call(adversarial, "_gather", 1 + 3*4 + 2)          # in the second step of the fifth epoch
    if point == "after": die_in_call(adversarial, "_save_checkpoint", 1, lambda save, *args: save(*args))
    if point == "writing the first": die_in_call(safetensors.torch, "save_file", 1, half_written)
    if point == "writing the second": die_in_call(safetensors.torch, "save_file", 2, half_written)
    if point == "rows": die_in_call(safetensors.numpy, "save_file", 1, half_written)


def kill_each(folder):
    "For a process of its own: it forks a child for each kill, and prints how the child ended and what it left behind"
    import accelerate, sklearn.preprocessing, torch._dynamo, torch.utils.tensorboard   # noqa: E401, F401 (what each child would import)
    def ending(work, point):
        child = os.fork()
        if not child:
            set_traps(point)
            work()
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for what, point in KILLS: print(ending(lambda: trained(what, Path(folder)/f"{what} {point}"/"x.safetensors"), point), flush=True)
    for point in SET_KILLS: print(ending(synthetic_long, point), *left_behind(), flush=True)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    "(folder of checkpoints, folder of the cache, a line for each kill of a synthetic set)"
    folder, cache = tmp_path_factory.mktemp("killed"), tmp_path_factory.mktemp("cache")
    process = subprocess.run([sys.executable, "-c", f"import test_gan; test_gan.kill_each({str(folder)!r})"], cwd=Path(__file__).parent, env={**os.environ, "SER_NB_CACHE": str(cache)}, capture_output=True, text=True, timeout=300)
    lines = process.stdout.splitlines()
    assert process.returncode == 0 and lines[:len(KILLS)] == ["-9"]*len(KILLS), process.stdout + process.stderr[-2000:]
    return folder, cache, lines[len(KILLS):]


@pytest.fixture(scope="module")
def undisturbed(): return {what: digest(trained(what)) for what in ("pretrain", "train")}


def steps_of(monkeypatch):
    "Calls of `_gather`: one before the epochs, one for each step"
    calls, gather = [], adversarial._gather
    def counted(*args):
        calls.append(1)
        return gather(*args)
    monkeypatch.setattr(adversarial, "_gather", counted)
    return calls


@pytest.mark.parametrize("what, point", KILLS)
def test_killed_and_the_same_in_the_end(killed, undisturbed, monkeypatch, what, point):
    path, done = killed[0]/f"{what} {point}"/"x.safetensors", 0 if point == "writing the first" else 3
    torn = list(path.parent.glob(".x.safetensors.*/x.safetensors"))
    assert len(torn) == point.startswith("writing") and path.exists() == (done > 0)
    if done:
        with safe_open(path, "pt") as file: assert file.metadata()["epoch"] == str(done)
    calls = steps_of(monkeypatch)
    assert digest(trained(what, path)) == undisturbed[what]
    assert len(calls) == 1 + 3*(11 - done), "it did not go on from the checkpoint"
    assert digest(trained(what, path)) == undisturbed[what] and len(calls) == 1 + 3*(11 - done) + 1, "what is finished was trained again"


def test_curves_survive_a_kill(tmp_path, monkeypatch):
    source, targets = data()
    o, whole = dict(LONG, train_epochs=25), train_gan(source, [targets], [5], dict(LONG, train_epochs=25))
    with monkeypatch.context() as patch:
        calls = itertools.count()
        patch.setattr(adversarial, "_gather", lambda *args, gather=adversarial._gather: gather(*args) if next(calls) < 68 else (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt): train_gan(source, [targets], [5], o, checkpoint=tmp_path/"x.safetensors", every=0)
    again = train_gan(source, [targets], [5], o, checkpoint=tmp_path/"x.safetensors", every=0)
    assert digest(again[0]) == digest(whole[0])
    pd.testing.assert_frame_equal(again[1], whole[1])


def test_bfloat16_goes_on_to_the_same_bytes(tmp_path):
    source, targets = data()
    o, path = dict(FEW, precision="bfloat16"), tmp_path/"x.safetensors"
    whole = digest(train_gan(source, [targets], [5], dict(o, train_epochs=4))[0])
    train_gan(source, [targets], [5], dict(o, train_epochs=2), checkpoint=path)
    assert digest(train_gan(source, [targets], [5], dict(o, train_epochs=4), checkpoint=path)[0]) == whole


# ---- bad input -----------------------------------------------------------------------------------------------------

def train(change=None, source=None, targets=None, **given):
    rows, sets = data()
    targets = [sets] if targets is None else targets
    return train_gan(rows if source is None else source, targets, list(range(len(targets))), {**FEW, **(change or {})}, **given)


REFUSED = [
    (dict(lambda_cls=-1), "lambda_cls=-1"), (dict(lambda_cls=[1]*2), "lambda_cls"), (dict(lambda_cls=float("nan")), "lambda_cls=nan"), (dict(lambda_cls=float("inf")), "lambda_cls=inf"), (dict(lambda_cyc=-1), "lambda_cyc=-1"), (dict(lambda_mom=-.1), "lambda_mom=-0.1"),
    (dict(lambda_cyc=None), "lambda_cyc=None"), (dict(lambda_cls="high"), "lambda_cls='high'"),
    *[(dict(keep_prob=dict(dict(d=.8, g=.8, c=.5), **{net: v})), "keep_prob=") for net in "dgc" for v in (0, -1, 1.1)], (dict(keep_prob=.8), "keep_prob=0.8: expected a number above 0, at most 1, for each of d, g, c"), (dict(keep_prob=dict(d=.8)), "for each of d, g, c"),
    (dict(lr=1e-3), "lr=0.001: expected a number above 0 for each of d, g"), (dict(lr=dict(d=0, g=1e-3)), "lr="), (dict(lr=dict(d=1e-3, g=float("nan"))), "lr="), (dict(lr=dict(d=1e-3, g=float("inf"))), "lr="), (dict(lr=dict(d=1, g=1, c=1)), "for each of d, g"), (dict(lr=dict(d="high", g=1e-3)), "lr="),
    (dict(lamda_cls=1), "unknown option of the GAN 'lamda_cls': did you mean 'lambda_cls'"), (dict(pretrain_epochs=1), "unknown option"), (dict(precision="float16"), "did you mean 'bfloat16'"),
    (dict(dim_g=[9, 7]), "dim_g=[9, 7]"), (dict(dim_g=[0]), "dim_g=[0]"), (dict(dim_d=[0]), "dim_d=[0]"), (dict(dim_g=9), "dim_g=9"), (dict(dim_d=[8.5]), "dim_d=[8.5]"),
    (dict(batch_size=1), "batch_size=1"), (dict(batch_size=30), "emotion 0 of model 0 has 29 rows, fewer than a batch of 30"), (dict(batch_size=8.5), "batch_size=8.5"), (dict(train_epochs=0), "train_epochs=0"), (dict(train_epochs=2.5), "train_epochs=2.5"), (dict(train_epochs="5"), "train_epochs='5'"),
    (dict(decay=0), "decay=0"), (dict(decay=1.1), "decay=1.1"), (dict(decay_epochs=0), "decay_epochs=0"), (dict(cls_real=1), "cls_real=1"), (dict(cls_real=-.1), "cls_real=-0.1"), (dict(min_variance=1), "min_variance=1"), (dict(min_variance=-1), "min_variance=-1"),
]


@pytest.mark.parametrize("change, words", REFUSED, ids=[str(c) for c, _ in REFUSED])
def test_options_that_cannot_train(change, words):
    with pytest.raises(ValueError, match=re.escape(words)) as caught: train(change)
    assert "\n" not in str(caught.value)


def test_no_hidden_layers_train():
    made, _ = train(dict(dim_g=[], dim_d=[], dim_c=[]))
    assert set(made) == {"w0", "b0"} and made["w0"].shape == (6, 12, 12)


def changed(where, value):
    "data() with a value in one row"
    source, targets = data()
    (source if where == "source" else targets[1])[3, 2] = value
    return dict(source=source, targets=[targets])


@pytest.mark.parametrize("given, words", [
    (changed("source", np.nan), "the source has 1 rows with NaN or infinite"), (changed("target", np.inf), "emotion 1 of model 0 has 1 rows with NaN or infinite"), (dict(source=data()[0][:, :11]), "both need the same features"), (dict(source=data()[0][0]), "both need the same features"),
    (dict(source=data()[0][:7]), "the source has 7 rows, fewer than a batch of 8"), (dict(targets=[data((29,))[1]]), "1 emotion"), (dict(targets=[data()[1], data((29, 40))[1]]), "different numbers of emotions: an emotion is absent from a fold"),
    (dict(targets=[data()[1], data((16, 40, 33))[1]]), "epochs of 2 to 3 batches: train them apart"), (dict(targets=[data((29, 7, 30))[1]]), "emotion 1 of model 0 has 7 rows, fewer than a batch of 8")])
def test_rows_that_cannot_be_trained_on(given, words):
    with pytest.raises(ValueError, match=re.escape(words)): train(**given)
    source, targets = given.get("source", data()[0]), given.get("targets", [data()[1]])
    with pytest.raises(ValueError, match=re.escape(words)): pretrain_gan(source, targets, list(range(len(targets))), FEW)


def test_constant_features_stay_finite():
    source, targets = data()
    for rows in (source, *targets): rows[:, :4] = 0
    made, curves = train(CORRECTED, source, [targets])
    assert torch.isfinite(synthesise(made, torch.as_tensor(source))).all() and np.isfinite(curves[["d", "g", "cyc", "cls", "variance"]]).all(None)


def test_losses_that_are_not_finite_stop_and_stay_stopped(tmp_path):
    source, targets = data()
    huge = dict(FEW, lr=dict(d=1e-3, g=1e30))
    for checkpoint in (None, tmp_path/"g.safetensors", tmp_path/"g.safetensors"):
        with pytest.raises(FloatingPointError, match="lower lr"): train_gan(source, [targets], [0], huge, checkpoint=checkpoint, every=0)
    for checkpoint in (None, tmp_path/"p.safetensors", tmp_path/"p.safetensors"):
        with pytest.raises(FloatingPointError, match="lower lr"): pretrain_gan(source, [targets], [0], huge, checkpoint, 0)
    with pytest.raises(FloatingPointError, match="lower lr"): train_gan(source, [targets], [0], dict(FEW, lr=dict(d=1e38, g=1e-3)))


def test_collapse_stops_training():
    source, targets = data()
    wide = [targets[0], targets[1]*1000, targets[2]]
    slow = dict(CORRECTED, lr=dict(d=1e-3, g=1e-6))
    with pytest.raises(RuntimeError, match=r"the generator of emotion 1 collapsed at epoch 5: its variance is 0\.0000 of the real one, expected 0.001"): train(dict(slow, min_variance=.001), source, [wide])
    _, curves = train(slow, source, [wide])
    assert (curves.variance < .001).tolist() == [False, True, False]


def test_a_discriminator_that_knows_all_is_pinned_and_said_to_be():
    source, targets = data()
    far, o = [t*.1 + 3 for t in targets], dict(lr=dict(d=2e-2, g=1e-7), keep_prob=dict(d=1, g=1, c=1), train_epochs=40, dim_d=[20], decay=1)
    with pytest.warns(UserWarning, match="the discriminators of 3 of 3 pairs are pinned"): _, curves = train(o, source*.1, [far])
    assert (curves[curves.epoch == 40].d < PINNED).all() and (curves.d > PINNED/1.05).all() and PINNED == pytest.approx(1.05*.325083, rel=1e-5)


@pytest.mark.parametrize("written, asked, words", [
    ({}, dict(dim_g=[9, 8, 9]), "weights g.w1"), ({}, dict(dim_d=[8, 6]), "weights d.w1"), ({}, dict(dim_c=[7]), "weights c.w0"), (dict(lambda_cls=0), {}, "no weights c.w0"), ({}, dict(dim_g=[9]), "weights g.w1"),
    (dict(d_moves_g=False), {}, "checkpoint has"), ({}, dict(train_epochs=3), "5 epochs")])
def test_checkpoints_of_something_else(tmp_path, written, asked, words):
    train(written, checkpoint=tmp_path/"x.safetensors")
    with pytest.raises(ValueError, match=f"x.safetensors: .*{words}"): train(asked, checkpoint=tmp_path/"x.safetensors")


def test_checkpoints_that_are_none(tmp_path):
    from safetensors.torch import save_file
    path = tmp_path/"x.safetensors"
    train(checkpoint=path)
    content = path.read_bytes()
    for n in (0, 4, 100, len(content)//2, len(content) - 1):
        path.write_bytes(content[:n])
        with pytest.raises(ValueError, match="x.safetensors: the checkpoint is damaged .*delete it"): train(checkpoint=path)
    save_file({"x": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="x.safetensors"): train(checkpoint=path)
    source, targets = data()
    pretrain_gan(source, [targets], [0], FEW, tmp_path/"p.safetensors")
    with pytest.raises(ValueError, match="p.safetensors: the checkpoint has no weights d.w0"): train(checkpoint=tmp_path/"p.safetensors")


def test_generators_of_other_sizes():
    source, targets = data()
    known = pretrain_gan(source, [targets], [0], FEW)
    for change, sets in ((dict(dim_g=[9, 8, 9]), [targets]), (dict(dim_g=[9]), [targets]), ({}, [targets[:2]]), ({}, [targets]*2)):
        with pytest.raises(ValueError, match="the generators to begin with have .* these sizes need"): train(change, source, sets, generators=known)
    with pytest.raises(ValueError, match="have no weights w3"): train(generators={k: v for k, v in known.items() if k != "w3"})


# ---- the network and what it makes ---------------------------------------------------------------------------------

def test_rows_are_made_by_each_generator_into_its_target():
    stack, x = init_feature_cyclegan(12, 3, [1], [9, 9], [4], [4])["g"], torch.as_tensor(data()[0])
    made = synthesise(stack, x)
    assert made.shape == (3, 37, 12) and made.dtype == torch.float32
    for e in range(3): torch.testing.assert_close(made[e].double(), Plain(stack, e)(x.double()).detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(synthesise(stack, x, chunk=5), made)


def test_two_halves_change_places():
    x = torch.arange(6.)[:, None]
    assert swap(x).flatten().tolist() == [3, 4, 5, 0, 1, 2] and torch.equal(swap(swap(x)), x)


def test_initial_weights_are_of_their_seed_emotion_and_direction():
    both, alone = (init_feature_cyclegan(12, 3, seeds, [9, 9], [4], [4]) for seeds in ([1, 2], [2]))
    for net in "gd": assert same(_one(both[net], 1, 2), alone[net])
    assert torch.equal(both["c"]["w0"][1], alone["c"]["w0"][0])
    assert len({tuple(w.flatten().tolist()) for w in both["g"]["w0"]}) == len({tuple(w.flatten().tolist()) for w in both["d"]["w0"]}) == 12


def test_a_frozen_network_gets_no_gradient_and_passes_it_on():
    params = init_feature_cyclegan(12, 3, [1], [9, 9], [4], [4])["g"]
    x = torch.as_tensor(data()[0]).expand(6, -1, -1).clone().requires_grad_()
    stacked(params, x).sum().backward()
    assert x.grad.abs().min() > 0 and all(v.grad is None for v in params.values())


# ---- synthetic rows of a fold --------------------------------------------------------------------------------------

EMOTIONS = ["angry", "happy", "neutral", "sad"]
NAMES = [f"f{i}" for i in range(10)]
TINY = dict(dim_g=[8], dim_d=[6], dim_c=[5], train_epochs=3, pretrain_epochs=2)


def labelled(pairs=4, each=12, seed=0):
    "Features of sessions of a woman and a man, in units of their own, rows in random order"
    rng = np.random.default_rng(seed)
    table = pd.DataFrame([dict(corpus="x", file=f"{p}{g}/{i}.wav", start=0., end=np.nan, speaker=f"{p}{g}", gender=dict(f="female", m="male")[g], emotion=EMOTIONS[i % 4], session=f"Session{p}") for p in range(1, pairs + 1) for g in "fm" for i in range(each)])
    table = table.sample(frac=1, random_state=seed).reset_index(drop=True)
    return features(rng.normal(size=(len(table), 10))*np.logspace(-3, 6, 10) + rng.normal(size=10)*np.logspace(-2, 7, 10) + table.emotion.map(EMOTIONS.index).to_numpy()[:, None]*np.logspace(-3, 6, 10), table)


def features(X, table, key=None, names=NAMES):
    X = np.asarray(X, "float32")
    return Features(X, list(names), table, table[:0], key or hashlib.sha256(X.tobytes()).hexdigest(), 0)


def unlabelled(n=50, seed=1, d=10):
    rng = np.random.default_rng(seed)
    return features(rng.normal(size=(n, d))*7 - 300, pd.DataFrame(dict(corpus="u", file=[f"{i}.wav" for i in range(n)], start=0., end=np.nan, speaker="", gender="", emotion="", session="")), names=[f"f{i}" for i in range(d)])


class Watched(Guard):
    "A guard that remembers the rows themselves"
    def __call__(self, what, rows, transductive=False):
        rows = super().__call__(what, rows, transductive)
        self.seen = {**getattr(self, "seen", {}), what: np.asarray(rows)}
        return rows


@pytest.fixture
def cache(tmp_path, monkeypatch):
    "An empty cache"
    monkeypatch.setenv("SER_NB_CACHE", str(tmp_path/"cache"))
    return tmp_path/"cache"


def synthetic(found, kind="gan", fold=0, source=None, protocol="corrected", labels=EMOTIONS, seed=0, options=None, guard=None, **given):
    fold = make_partition(found.table)[fold] if isinstance(fold, int) else fold
    options = options if kind != "gan" or options else gan_options("tiny", protocol, **{**TINY, **given})
    return synthetic_set(kind, found, fold, guard or Guard(found.table, fold, protocol), labels, source, options, seed)


def stages(cache, name): return sorted(p.name for p in (cache/"stages"/name).glob("[0-9a-f]*"))


def test_corrected_rows_are_made_of_training_rows_alone(cache):
    found, source = labelled(), unlabelled()
    fold = make_partition(found.table)[1]
    for other in (source, None):
        guard = Watched(found.table, fold)
        made = synthetic(found, fold=fold, source=other, guard=guard)
        assert {"GAN scaler", "GAN targets"} <= set(guard.seen) and ("GAN source" in guard.seen) == (other is None) and not any(e["test_rows"] or e["transductive"] for e in guard.log)
        for what, rows in guard.seen.items(): assert set(rows) <= set(fold.train) and not set(rows) & {*fold.dev, *fold.test}, what
        assert sorted(guard.seen["GAN targets"]) == sorted(fold.train)
        X = found.X.copy()
        X[np.concatenate([fold.dev, fold.test])] = 1e9*np.random.default_rng(3).normal(size=(len(fold.dev) + len(fold.test), 10))
        again = synthetic(features(X, found.table), fold=fold, source=other)
        np.testing.assert_array_equal(again.X, made.X)
        assert again.key != made.key and not again.curves.dev.equals(made.curves.dev) and made.curves.dev.notna().all()
        X = found.X.copy()
        X[fold.test] = 1e9
        pd.testing.assert_frame_equal(synthetic(features(X, found.table), fold=fold, source=other).curves, made.curves)
        X = found.X.copy()
        X[fold.train[0]] *= 1.1
        assert not np.array_equal(synthetic(features(X, found.table), fold=fold, source=other).X, made.X)


def test_faithful_rows_are_made_of_everything_once_for_all_folds(cache):
    found, source = labelled(), unlabelled()
    made = []
    for f in (0, 1):
        fold = make_partition(found.table)[f]
        guard = Watched(found.table, fold, "faithful")
        made.append(synthetic(found, fold=fold, source=source, guard=guard, protocol="faithful"))
        assert {e["what"]: e["test_rows"] for e in guard.log} == {"GAN scaler": len(fold.test), "GAN targets": len(fold.test)}
        for rows in guard.seen.values(): assert sorted(rows) == list(range(len(found)))
    assert made[0].key == made[1].key and made[0].X.tobytes() == made[1].X.tobytes()
    assert len(stages(cache, "synthetic")) == len(stages(cache, "pretrain")) == 1
    assert synthetic(found, fold=0, source=source).key != synthetic(found, fold=1, source=source).key
    own = Watched(found.table, fold, "faithful")
    synthetic(found, fold=fold, guard=own, protocol="faithful")
    assert sorted(own.seen["GAN source"]) == np.flatnonzero(found.table.emotion == "neutral").tolist()


def test_rows_come_in_order_and_in_the_features_own_units(cache):
    found, source = labelled(each=24), unlabelled(70)
    fold = make_partition(found.table)[0]
    made = synthetic(found, fold=fold, source=source, train_epochs=40, pretrain_epochs=40, dim_g=[32], lr=5e-3)
    assert made.X.shape == (280, 10) and made.X.dtype == np.float32 and made.y.tolist() == np.repeat(range(4), 70).tolist() and made.y.dtype == np.int64
    assert made.source_names == source.table.file.tolist()*4 and made.made["kind"] == "gan" and tuple(made.curves) == CURVES
    for e, emotion in enumerate(EMOTIONS):
        real = found.X[fold.train[found.table.emotion.to_numpy(object)[fold.train] == emotion]].astype("float64")
        apart, spread = np.abs(made.X[made.y == e].mean(0) - real.mean(0))/real.std(0), made.X[made.y == e].std(0)/real.std(0)
        assert (apart < 1.5).all() and (spread < 3).all() and (spread > .02).all(), (emotion, apart, spread)


def test_neutral_training_rows_can_be_the_source(cache):
    found = labelled()
    fold = make_partition(found.table)[0]
    neutral = fold.train[found.table.emotion.to_numpy(object)[fold.train] == "neutral"]
    made = synthetic(found, fold=fold)
    assert made.source_names == found.table.file.iloc[neutral].tolist()*4 and len(made.X) == 4*len(neutral)
    assert made.key != synthetic(found, fold=fold, source=features(found.X[neutral], found.table.iloc[neutral].reset_index(drop=True))).key
    with pytest.raises(ValueError, match="source='neutral' needs neutral utterances"): synthetic(found, fold=fold, labels=["angry", "happy", "sad"])


def test_everything_that_matters_changes_the_key(cache):
    found, source = labelled(), unlabelled()
    fold, other = make_partition(found.table)[0], found.table.copy()
    other.loc[fold.train[:2], "emotion"] = ["angry", "happy"] if list(other.emotion[fold.train[:2]]) != ["angry", "happy"] else ["sad", "sad"]
    sets = dict(usual=synthetic(found, source=source), seed=synthetic(found, source=source, seed=1), lambda_cls=synthetic(found, source=source, lambda_cls=1), nolambda=synthetic(found, source=source, lambda_cls=0), source=synthetic(found, source=unlabelled(seed=2)),
                fold=synthetic(found, source=source, fold=1), fewer=synthetic(found, source=source, fold=Fold(fold.name, fold.train[1:], fold.dev, fold.test)), truth=synthetic(features(found.X, other, found.key), source=source, fold=fold),
                faithful=synthetic(found, source=source, protocol="faithful"), pretrain=synthetic(found, source=source, pretrain_epochs=0), epochs=synthetic(found, source=source, train_epochs=4), moments=synthetic(found, source=source, lambda_mom=1))
    for a, b in itertools.combinations(sets, 2): assert sets[a].key != sets[b].key and not np.array_equal(sets[a].X, sets[b].X), (a, b)
    again = synthetic(found, source=source)
    assert again.key == sets["usual"].key and again.X.tobytes() == sets["usual"].X.tobytes() and len(stages(cache, "synthetic")) == len(sets)
    pd.testing.assert_frame_equal(again.curves, sets["usual"].curves)


def test_all_lambdas_share_one_pretraining(cache):
    found, source = labelled(), unlabelled()
    for change in (dict(lambda_cls=0), dict(lambda_cls=1), dict(lambda_cls=2), dict(lambda_mom=1, cls_real=0, dim_d=[4], train_epochs=2)): synthetic(found, source=source, **change)
    assert len(stages(cache, "pretrain")) == 1 and len(stages(cache, "synthetic")) == 4
    for change in (dict(pretrain_epochs=3), dict(dim_g=[7]), dict(lr=dict(d=1e-3, g=1e-3)), dict(keep_prob=dict(d=.8, g=.9, c=.5)), dict(batch_size=10)): synthetic(found, source=source, **change)
    assert len(stages(cache, "pretrain")) == 6
    synthetic(found, source=source, pretrain_epochs=0)
    assert len(stages(cache, "pretrain")) == 6 and not list((cache/"checkpoints").glob("*.safetensors"))


def test_batches_are_as_large_as_the_smallest_set_and_never_above_64(cache):
    found = labelled()
    fold = make_partition(found.table)[0]
    least = found.table.emotion.iloc[fold.train].value_counts().min()
    assert synthetic(found, source=unlabelled(200)).made["batch_size"] == least and synthetic(found, source=unlabelled(7)).made["batch_size"] == 7
    assert synthetic(labelled(each=60), source=unlabelled(200), train_epochs=1, pretrain_epochs=0).made["batch_size"] == 64


@pytest.mark.parametrize("protocol", ["corrected", "faithful"])
def test_domains_are_scaled_by_themselves(cache, monkeypatch, protocol):
    found, source, seen = labelled(), unlabelled(), {}
    fold = make_partition(found.table)[0]
    def train(S, targets, seeds, *args, **given):
        seen.update(source=S, targets=targets[0])
        seen["generators"], curves = adversarial_train(S, targets, seeds, *args, **given)
        return seen["generators"], curves
    adversarial_train = adversarial.train_gan
    monkeypatch.setattr(adversarial, "train_gan", train)
    made = synthetic(found, fold=fold, source=source, protocol=protocol)
    rows, how = (fold.train, SCALINGS[0]) if protocol == "corrected" else (np.arange(len(found)), SCALINGS[1])
    scaler, emotion = scaler_of(found.X[rows], how=how), found.table.emotion.to_numpy(object)[rows]
    np.testing.assert_array_equal(seen["source"], apply_scaler(source.X, scaler_of(source.X, how=how)))
    for e, target in enumerate(seen["targets"]): np.testing.assert_array_equal(target, apply_scaler(found.X[rows[emotion == EMOTIONS[e]]], scaler))
    rows = synthesise(seen["generators"], torch.as_tensor(seen["source"])).flatten(0, 1).numpy()
    np.testing.assert_allclose(made.X, rows.astype("float64")*scaler["scale"] + scaler["mean"], rtol=1e-6)


def synthetic_long(): return synthetic(labelled(), source=unlabelled(), train_epochs=11, pretrain_epochs=9)   # a step an epoch


SET_KILLS = {"writing the second": "-9 pretrain 0 0", "after": "-9 pretrain 0 0", "between": "-9 gan 1 0", "rows": "-9 gan 1 0"}   # what each leaves behind


def left_behind():
    "Checkpoints, finished pre-trainings, finished sets"
    return *(p.name.split("-")[0] for p in sorted((cache_root()/"checkpoints").glob("[a-z]*.safetensors"))), *(len(stages(cache_root(), name)) for name in ("pretrain", "synthetic"))


def test_a_set_that_was_killed_four_times_is_the_same_in_the_end(killed, tmp_path, monkeypatch):
    assert killed[2] == list(SET_KILLS.values())
    monkeypatch.setenv("SER_NB_CACHE", str(killed[1]))
    made, left = synthetic_long(), left_behind()
    monkeypatch.setenv("SER_NB_CACHE", str(tmp_path))
    whole = synthetic_long()
    assert left == left_behind() == (1, 1)
    assert whole.key == made.key and whole.X.tobytes() == made.X.tobytes()
    pd.testing.assert_frame_equal(made.curves, whole.curves)


# comparators

COMPARED = dict(gaussian={}, mixup=dict(alpha=.3), smote=dict(k_neighbors=3), aae=dict(hidden=[8], train_epochs=2, batch_size=8))


@pytest.mark.parametrize("kind", COMPARED)
def test_comparators_are_made_of_training_rows_alone(cache, kind):
    if kind == "smote": pytest.importorskip("imblearn")
    found, source = labelled(), unlabelled()
    fold = make_partition(found.table)[1]
    guard = Watched(found.table, fold)
    made = synthetic(found, kind, fold, source, options=COMPARED[kind], guard=guard)
    assert made.X.shape == (200, 10) and made.X.dtype == np.float32 and np.isfinite(made.X).all() and made.curves is None and made.source_names == [] and made.made["kind"] == kind
    if kind == "mixup": assert made.y.shape == (200, 4) and made.y.dtype == np.float32 and np.allclose(made.y.sum(1), 1)
    else: assert made.y.tolist() == np.repeat(range(4), 50).tolist() and made.y.dtype == np.int64
    assert set(guard.seen) == {kind, f"scaler of {kind}"} and not any(e["test_rows"] for e in guard.log)
    for rows in guard.seen.values(): assert sorted(rows) == sorted(fold.train)
    X = found.X.copy()
    X[np.concatenate([fold.dev, fold.test])] = 1e9
    again = synthetic(features(X, found.table), kind, fold, source, options=COMPARED[kind])
    assert again.X.tobytes() == made.X.tobytes() and again.y.tobytes() == made.y.tobytes() and again.key != made.key
    apart = np.abs(made.X.mean(0) - found.X[fold.train].mean(0, dtype="float64"))/found.X[fold.train].std(0, dtype="float64")
    assert (apart < 4).all(), "other units than the features' own"
    assert synthetic(found, kind, fold, source, options=COMPARED[kind]).key == made.key and len(stages(cache, "synthetic")) == 2
    others = [synthetic(found, kind, fold, source, options=COMPARED[kind], seed=1), synthetic(found, kind, 0, source, options=COMPARED[kind]), synthetic(found, kind, fold, None, options=COMPARED[kind])]
    assert len({made.key, *(o.key for o in others)}) == 4 and not np.array_equal(others[0].X, made.X) and len(others[2].X) == 4*(found.table.emotion.iloc[fold.train] == "neutral").sum()
    with pytest.raises(LeakageError): synthetic(found, kind, Fold("leaky", fold.test, fold.dev, fold.test), source, options=COMPARED[kind], guard=Guard(found.table, fold))


def test_no_kind_without_a_test(): assert set(AUGMENT) == {"gan", *COMPARED}


# refused

def relabelled(found, rows, emotion): return features(found.X, found.table.assign(emotion=np.where(np.isin(np.arange(len(found)), rows), emotion, found.table.emotion)), "other")


@pytest.mark.parametrize("kind", ["gan", "gaussian"])
def test_an_emotion_that_a_fold_lacks_is_named(cache, kind):
    found, options = labelled(), COMPARED.get(kind)
    fold = make_partition(found.table)[0]
    sad = fold.train[found.table.emotion.to_numpy(object)[fold.train] == "sad"]
    lacking = relabelled(found, np.concatenate([sad, fold.dev]), "angry")
    with pytest.raises(ValueError, match="fold 'Session1' has 0 utterances of sad .*leave the emotion out or use another scheme"): synthetic(lacking, kind, source=unlabelled(), fold=fold, options=options)
    if kind == "gan":
        with pytest.raises(ValueError, match="fold 'Session1' has 1 utterances? of sad"): synthetic(relabelled(found, sad[1:], "angry"), source=unlabelled(), fold=fold)
        assert synthetic(lacking, source=unlabelled(), fold=fold, protocol="faithful").made["labels"] == EMOTIONS, "test rows are rows too, there"
    assert synthetic(lacking, kind, source=unlabelled(), fold=fold, labels=EMOTIONS[:3], options=options).y.max() == 2


@pytest.mark.parametrize("change, words", [
    (dict(source=unlabelled(d=9)), "the source has 9 features and the target 10"), (dict(source=features(unlabelled().X, unlabelled().table, names=NAMES[::-1])), "or their names differ"), (dict(source=unlabelled(1)), "source has 1 utterance"),
    (dict(source=features(unlabelled().X*np.nan, unlabelled().table)), "the source: 50 of 50 rows have NaN"), (dict(labels=["sad"]), "1 emotion"), (dict(kind="smot"), "did you mean 'smote'"), (dict(kind="real"), "unknown augment 'real'"),
    (dict(batch_size=40), "fewer than a batch of 40"), (dict(lamda_cls=1), "did you mean 'lambda_cls'"), (dict(lambda_cls=-1), "lambda_cls=-1"), (dict(lambda_cls=[1, 2]), "lambda_cls=[1, 2]"), (dict(pretrain_epochs=-1), "pretrain_epochs=-1"), (dict(pretrain_epochs=1.5), "pretrain_epochs=1.5"),
    (dict(train_epochs=1.5), "train_epochs=1.5"), (dict(keep_prob=0), "keep_prob="), (dict(lr=-1), "lr="), (dict(batch_size=1), "batch_size=1")], ids=str)
def test_sets_that_cannot_be_made(cache, change, words):
    with pytest.raises(ValueError, match=re.escape(words)) as caught: synthetic(labelled(), **{"source": unlabelled(), **change})
    assert "\n" not in str(caught.value) and not list(cache.glob("stages/synthetic/[0-9a-f]*"))


def test_speech_of_test_speakers_is_no_source(cache):
    found = labelled()
    fold = make_partition(found.table)[0]
    for rows in (np.arange(len(found)), np.append(fold.train, fold.test[0])):
        with pytest.raises(LeakageError, match="test speaker"): synthetic(found, fold=fold, source=features(found.X[rows], found.table.iloc[rows].reset_index(drop=True)))
    synthetic(found, fold=fold, source=features(found.X, found.table.assign(corpus="y")))


def test_a_rate_for_all_networks():
    assert gan_options(lr=1e-3, keep_prob=.9)["lr"] == dict(d=1e-3, g=1e-3) and gan_options(keep_prob=.9)["keep_prob"] == dict(d=.9, g=.9, c=.9)
    for preset, protocol in itertools.product(("tiny", "small", "paper"), ("corrected", "faithful")):
        o = gan_options(preset, protocol)
        assert (o["d_moves_g"], o["cls_real"] == 0, o["lambda_mom"] == 0) == ((protocol == "faithful",)*3) and check_gan_options({k: v for k, v in o.items() if k not in ("pretrain_epochs", "batch_size")})
    paper = gan_options("paper", "faithful")
    assert {k: paper[k] for k in PUBLISHED if k not in ("batch_size", "precision")} == {k: v for k, v in PUBLISHED.items() if k not in ("batch_size", "precision")} and paper["pretrain_epochs"] == 10000


@pytest.mark.parametrize("pretrain_epochs", [0, 2])
def test_a_set_that_diverges_says_so_each_time_and_leaves_no_stage(cache, pretrain_epochs):
    for _ in range(2):
        with pytest.raises(FloatingPointError, match="lower lr"): synthetic(labelled(), source=unlabelled(), lr=1e30, pretrain_epochs=pretrain_epochs)
    assert not stages(cache, "pretrain") and not stages(cache, "synthetic")


def test_a_generator_that_makes_one_row_collapses(cache):
    with pytest.raises(RuntimeError, match="collapsed at epoch 3"): synthetic(labelled(), source=unlabelled(), min_variance=.9, lr=1e-7)
    assert not stages(cache, "synthetic")
