"Training on pictures: settings, the course of the learning rate, what decays, and the same end after any kill"
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import ser_nb.training.images as images
import ser_nb.training.loop as loop
from ser_nb.models.cct import CCT, SmallCNN
from ser_nb.training.images import PUBLISHED, _best, adamw, probabilities, rate, train_images, training_options

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = dict(epochs=4, warmup_epochs=1, cooldown_epochs=1, lr=5e-3, min_lr=1e-4, batch_size=4, select="uar")


class Tiny(nn.Module):
    "Eight pixels, dropout and a head; remembers which mode it was in"
    def __init__(self):
        super().__init__()
        self.body, self.drop, self.norm, self.head = nn.Linear(8, 8), nn.Dropout(.3), nn.LayerNorm(8), nn.Linear(8, 2)
    def forward(self, x, speaker=None): return self.head(self.drop(self.norm(self.body(x.flatten(1)).relu())))


def tiny(seed=0):
    torch.manual_seed(seed)
    return Tiny()


def some(n, seed, noise=1.5):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    return torch.randn(n, 1, 2, 4, generator=g)*noise + y[:, None, None, None]*2 - 1, None, y


STEPS = 7
def batches(epoch): return [some(4, 100*epoch + i) for i in range(STEPS)]
def dev(): return [some(6, 7), some(5, 8)]


def trained(folder, network=None, given=batches, judged=dev, seed=0, logs=None, **options):
    network = network or tiny()
    looks = train_images(network, given, judged, folder, training_options(**{**QUICK, **options}), seed, logs)
    return network, looks


def weights(network): return torch.cat([p.detach().flatten() for p in network.parameters()])


# ---- settings ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("given, words", [
    (dict(epochs=0), "epochs=0"), (dict(epochs=True), "epochs=True"), (dict(batch_size=1), "2 or more"), (dict(lr=0), "above 0"), (dict(lr=float("nan")), "lr=nan"), (dict(lr=float("inf")), "lr=inf"), (dict(lr="1"), "lr='1'"),
    (dict(weight_decay=-.1), "weight_decay=-0.1"), (dict(warmup_epochs=50), "nothing is left"), (dict(warmup_epochs=1.5), "whole number"), (dict(warmup_lr=-1), "warmup_lr"), (dict(min_lr=None), "min_lr=None"), (dict(cooldown_epochs=-1), "cooldown_epochs=-1"),
    (dict(smoothing=1), "below 1"), (dict(weights_regularization=1), "True or False"), (dict(select="war"), "uar, accuracy, last"), (dict(precision="float16"), "float32, bfloat16"), (dict(batchsize=4), "did you mean 'batch_size'")])
def test_settings_that_cannot_train(given, words):
    with pytest.raises(ValueError, match=words): training_options(**given)


def test_settings_at_their_edges():
    assert training_options() == PUBLISHED and set(images.EXPECTED) == set(PUBLISHED)
    made = training_options(epochs=1, warmup_epochs=0, cooldown_epochs=0, warmup_lr=0, min_lr=0, weight_decay=0, smoothing=0, batch_size=2)
    assert made["epochs"] == 1 and made["lr"] == PUBLISHED["lr"]


# ---- learning rate -------------------------------------------------------------------------------------------------------

def test_learning_rate_up_down_and_level():
    o = training_options(epochs=20, warmup_epochs=4, cooldown_epochs=5, lr=1e-3, warmup_lr=1e-5, min_lr=1e-4)
    at = [1e-3*rate(e/25, o) for e in np.linspace(0, 25, 101)]
    assert at[:17] == pytest.approx(np.linspace(1e-5, 1e-3, 17)) and at[80:] == pytest.approx([1e-4]*21)
    assert (np.diff(at[16:81]) <= 1e-18).all() and at[48] == pytest.approx(5.5e-4)


def test_learning_rate_without_warm_up_or_cool_down():
    o = training_options(epochs=3, warmup_epochs=0, cooldown_epochs=0, lr=1e-4, min_lr=0)
    assert (rate(0, o), rate(1, o)) == pytest.approx((1, 0)) and rate(.5, o) == pytest.approx(.5)
    flat = training_options(epochs=3, warmup_epochs=0, lr=1e-5, min_lr=1e-4)   # a least rate above the first is the first
    assert [rate(s, flat) for s in (0, .4, 1)] == pytest.approx([1, 1, 1])


def test_rate_reaches_both_optimisers(tmp_path, monkeypatch):
    seen = []
    def step(network, optimizers, batch, o, accelerator, seed):
        seen.append([optimizer.param_groups[0]["lr"] for optimizer in optimizers.values()])
        return dict(loss=torch.tensor(1.))
    monkeypatch.setattr(images, "_step", step)
    trained(tmp_path)
    o = training_options(**QUICK)
    assert len(seen) == 5*STEPS and all(a == b for a, b in seen)
    assert [a for a, _ in seen] == pytest.approx([5e-3*rate(i/(5*STEPS), o) for i in range(5*STEPS)])


# ---- decay and step ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("variant", ["none", "second_attention", "speaker_token"])
def test_decay_is_for_matrices_and_kernels(variant):
    network = CCT("tiny", variant=variant)
    made = adamw(network, 1e-3, .05)
    names = {id(p): name for name, p in network.named_parameters()}
    groups = {word: {names[id(p)] for p in optimizer.param_groups[0]["params"]} for word, optimizer in made.items()}
    assert groups["decayed"] | groups["free"] == set(names.values()) and not groups["decayed"] & groups["free"]
    assert (made["decayed"].param_groups[0]["weight_decay"], made["free"].param_groups[0]["weight_decay"]) == (.05, 0)
    assert all(name.endswith("weight") and "norm" not in name and "position" not in name for name in groups["decayed"])
    assert {"tokenizer.convs.0.weight", "head.weight", "blocks.0.attention.qkv.weight"} <= groups["decayed"] and "positions.weight" in groups["free"]
    if variant == "second_attention": assert "second.positions.weight" in groups["free"]


def test_class_token_is_free_and_baselines_have_both():
    free = {id(p) for p in adamw(CCT("vit_2_4_32"), 1e-3, .1)["free"].param_groups[0]["params"]}
    vit = CCT("vit_2_4_32")
    assert id(vit.class_token) in {id(p) for p in adamw(vit, 1e-3, .1)["free"].param_groups[0]["params"]} and free
    assert set(adamw(SmallCNN(2, 4), 1e-3, .1)) == {"decayed", "free"}
    assert list(adamw(nn.Linear(2, 2, bias=False), 1e-3, .1)) == ["decayed"]


def test_a_step_is_adamw_on_smoothed_labels(tmp_path):
    "One step against torch written out"
    network, ours = tiny(3), tiny(3)
    network.drop.p = ours.drop.p = 0.
    trained(tmp_path, network, lambda epoch: [some(4, 5)], None, epochs=1, warmup_epochs=0, cooldown_epochs=0, select="last", smoothing=.2, weight_decay=.3)
    optimizer = torch.optim.AdamW([dict(params=[p], weight_decay=.3 if p.ndim > 1 else 0.) for p in ours.parameters()], lr=5e-3)
    x, _, y = some(4, 5)
    logits = ours(x)
    target = F.one_hot(y, 2)*.8 + .1
    (-(target*logits.log_softmax(1)).sum(1).mean()).backward()
    optimizer.step()
    torch.testing.assert_close(weights(network), weights(ours))


@pytest.mark.parametrize("option", [dict(smoothing=.3), dict(weights_regularization=True), dict(precision="bfloat16"), dict(weight_decay=.5), dict(lr=1e-3), dict(min_lr=4e-3), dict(warmup_lr=4e-3), dict(warmup_epochs=0), dict(cooldown_epochs=3), dict(epochs=3)], ids=lambda o: next(iter(o)))
def test_each_setting_changes_the_weights(option, tmp_path):
    plain, _ = trained(tmp_path/"plain", select="last", judged=None)
    other, _ = trained(tmp_path/"other", select="last", judged=None, **option)
    assert not torch.equal(weights(plain), weights(other)) and torch.isfinite(weights(other)).all()


def test_penalty_shrinks_the_head_and_is_no_part_of_the_curve(tmp_path):
    plain, a = trained(tmp_path/"plain", select="last", judged=None)
    other, b = trained(tmp_path/"other", select="last", judged=None, weights_regularization=True)
    assert other.head.weight.abs().sum() < plain.head.weight.abs().sum() and b.loss.iloc[-1] < a.loss.iloc[-1] + 2


def test_seed_is_of_dropout(tmp_path):
    (a, _), (b, _), (c, _) = (trained(tmp_path/str(i), select="last", judged=None, seed=s) for i, s in enumerate((0, 0, 1)))
    assert torch.equal(weights(a), weights(b)) and not torch.equal(weights(a), weights(c))


def test_state_of_torch_is_left_alone(tmp_path):
    network = tiny()
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    trained(tmp_path, network)
    assert torch.equal(torch.rand(3), expected)


# ---- which weights -------------------------------------------------------------------------------------------------------

def test_best_look_by_measure_then_loss_then_time():
    looks = [dict(dev_uar=.5, dev_loss=.1), dict(dev_uar=.7, dev_loss=.9), dict(dev_uar=.7, dev_loss=.8), dict(dev_uar=.7 + 1e-12, dev_loss=.8)]
    assert _best(looks, "uar") == 2 and _best(looks[:2], "uar") == 1 and _best(looks[:1], "uar") == 0


@pytest.mark.parametrize("select", ["uar", "accuracy"])
def test_the_chosen_weights_are_those_of_the_best_look(select, tmp_path, monkeypatch):
    said = iter([.5, .9, .9, .6, .9])
    kept = []
    def measured(network, dev, precision):
        kept.append(weights(network).clone())
        value = next(said)
        return dict(dev_loss=1/len(kept) if len(kept) < 4 else 2., dev_uar=value if select == "uar" else .1, dev_accuracy=value if select == "accuracy" else .1)
    monkeypatch.setattr(images, "_measured", measured)
    network, looks = trained(tmp_path, select=select)
    assert torch.equal(weights(network), kept[2]) and not torch.equal(kept[2], kept[4]) and len(looks) == 5 and not network.training


def test_last_weights(tmp_path):
    network, looks = trained(tmp_path/"last", select="last")
    alone, none = trained(tmp_path/"none", select="last", judged=None)
    assert torch.equal(weights(network), weights(alone)) and not network.training   # looking changes nothing
    assert list(looks) == ["epoch", "loss", "dev_loss", "dev_uar", "dev_accuracy"] and list(none) == ["epoch", "loss"] and list(none.epoch) == [1, 2, 3, 4, 5]
    assert not (tmp_path/"last"/"best.safetensors").exists()


def test_looks_measure_all_batches_of_dev(tmp_path):
    network, looks = trained(tmp_path, select="last")
    p, y = probabilities(network, dev()), np.concatenate([b[2] for b in dev()])
    last = looks.iloc[-1]
    assert last.dev_accuracy == pytest.approx((p.argmax(1) == y).mean()) and last.dev_loss == pytest.approx(-np.log(p[np.arange(11), y]).mean())


def test_dev_is_painted_once_a_look(tmp_path):
    calls = []
    def counted():
        calls.append(1)
        return dev()
    trained(tmp_path, judged=counted)
    assert len(calls) == 5


@pytest.mark.parametrize("select", ["uar", "accuracy"])
def test_nobody_to_choose_by(select, tmp_path):
    with pytest.raises(ValueError, match="select='last'"): trained(tmp_path, judged=None, select=select)


def test_nothing_to_train_on(tmp_path):
    with pytest.raises(ValueError, match="no whole batch of 4"): trained(tmp_path, given=lambda epoch: [])


def test_learns(tmp_path):
    _, looks = trained(tmp_path, given=lambda epoch: [some(8, 100*epoch + i, .5) for i in range(2*STEPS)], judged=lambda: [some(20, 7, .5)])
    assert looks.dev_uar.iloc[-1] > .9 and looks.loss.iloc[-1] < looks.loss.iloc[0]


# ---- probabilities -------------------------------------------------------------------------------------------------------

def test_probabilities_leave_the_mode_and_make_no_graph():
    network = tiny().train()
    p = probabilities(network, dev())
    assert network.training and p.dtype == np.float64 and p.shape == (11, 2) and p.sum(1) == pytest.approx(1) and np.array_equal(p, probabilities(network.eval(), dev()))
    assert np.abs(p - probabilities(network, dev(), "bfloat16")).max() < .05


# ---- kills ---------------------------------------------------------------------------------------------------------------

class Killed(BaseException): pass


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "LOG_EVERY", 14)
        network, looks = trained(folder)
    return weights(network), looks, load_file(folder/"best.safetensors")


def killed_at(monkeypatch, folder, place, count):
    "Train until something is done for the count-th time"
    calls, real = [0], getattr(images if hasattr(images, place) else loop, place)
    module = images if hasattr(images, place) else loop
    def once(*args, **given):
        calls[0] += 1
        if calls[0] == count: raise Killed
        return real(*args, **given)
    with monkeypatch.context() as patch:
        patch.setattr(module, place, once)
        with pytest.raises(Killed): trained(folder)


@pytest.mark.parametrize("place, count", [("_step", 3), ("_step", 17), ("_step", 30), ("_measured", 1), ("_measured", 2), ("_measured", 3), ("_measured", 4), ("_measured", 5), ("save_tensors", 1), ("atomic_path", 2), ("atomic_path", 5), ("load_file", 1)])
def test_the_same_end_after_a_kill(place, count, undisturbed, tmp_path, monkeypatch):
    "In a step, in a look that a checkpoint precedes, while the best weights or the looks are written, and at the very end"
    monkeypatch.setattr(loop, "LOG_EVERY", 14)
    monkeypatch.setattr(loop.time, "monotonic", iter(range(0, 10**6, 100)).__next__)   # a checkpoint whenever one may be written
    killed_at(monkeypatch, tmp_path, place, count)
    begun = (tmp_path/"checkpoint.safetensors").exists()
    network, looks = trained(tmp_path, tiny(5 if begun else 0))   # what is there before does not matter, all comes from the checkpoint
    assert torch.equal(weights(network), undisturbed[0])
    pd.testing.assert_frame_equal(looks, undisturbed[1], check_exact=True)


def test_two_kills(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 14)
    monkeypatch.setattr(loop.time, "monotonic", iter(range(0, 10**6, 100)).__next__)
    killed_at(monkeypatch, tmp_path, "_measured", 4)
    killed_at(monkeypatch, tmp_path, "_step", 5)
    network, looks = trained(tmp_path)
    assert torch.equal(weights(network), undisturbed[0])
    pd.testing.assert_frame_equal(looks, undisturbed[1], check_exact=True)


def test_a_finished_training_is_read(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 14)
    trained(tmp_path)
    def never(*args): raise AssertionError("a step")
    monkeypatch.setattr(images, "_step", never), monkeypatch.setattr(images, "_measured", never)
    network, looks = trained(tmp_path, tiny(9))
    assert torch.equal(weights(network), undisturbed[0])
    pd.testing.assert_frame_equal(looks, undisturbed[1], check_exact=True)


def test_loss_that_is_not_finite(tmp_path):
    def broken(epoch): return [(x*float("nan") if epoch == 2 else x, s, y) for x, s, y in batches(epoch)]
    with pytest.raises(FloatingPointError, match="the loss loss is not finite at iteration 35"): trained(tmp_path, given=broken)
    assert not (tmp_path/"checkpoint.safetensors").exists()


def test_damaged_checkpoint(tmp_path):
    trained(tmp_path)
    (tmp_path/"checkpoint.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="delete it"): trained(tmp_path)


def test_tensorboard(tmp_path):
    trained(tmp_path/"training", logs=tmp_path/"runs")
    written = [p for p in (tmp_path/"runs").rglob("*tfevents*")]
    assert written and sum(p.stat().st_size for p in written) > 500
    assert {p.name for p in Path(tmp_path/"training").iterdir()} == {"checkpoint.safetensors", "best.safetensors", "looks.csv"}
