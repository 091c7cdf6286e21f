"Training on many tasks: published settings, windows and batches, optimisers, a task that changes no other, early stopping by hand, and the same end after any kill"
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import ser_nb.training.multitask as multitask
from ser_nb.models.adapter_resnet import AdapterResNet, begin, fold, load_network
from ser_nb.training.multitask import (EXPECTED, FLAGS, L2, OPTIMIZERS, PUBLISHED, batch_of, best_look, best_of, decay_of, optimizers_of, probabilities, rate, rows_of, stalled, train_tasks,
                                       training_options, window_of)

pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = dict(filters=2, n_mels=32, blocks=1, units=8, window=.2, classifier="FCNAttention", dropout=(0., .3))
SIZE = 3200


def clips(n, classes, seed=0, least=1500, most=6000):
    "Tones as high as their class, of different lengths"
    rng = np.random.default_rng(seed)
    return [((.3*np.sin(np.arange(rng.integers(least, most))*(.1 + .5*(i % classes))) + .02*rng.standard_normal(1)).astype(np.float32), i % classes) for i in range(n)]


def task(name, classes=3, n=10, seed=0, **more): return dict(name=name, n_classes=classes, train=clips(n, classes, seed), dev=clips(7, classes, seed + 100)) | more


def network(tasks=(("one", 3), ("two", 2)), seed=0, adapters=True, **options):
    torch.manual_seed(seed)
    model = AdapterResNet(**SIZES | options)
    for name, n in tasks: model.add_task(name, n, adapters)
    return model


TASKS = [task("one"), task("two", 2, 7, 5)]
QUICK = dict(epochs=2, steps_per_epoch=3, batch_size=4, optimizer="adam", lr=5e-3)
def quick(**more): return training_options("multi-task", **QUICK | more)
def same(a, b): return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


# Settings

def test_published_settings():
    single, many = PUBLISHED["single-task"], PUBLISHED["multi-task"]
    assert set(single) == set(many) == set(EXPECTED) and set(FLAGS.values()) <= set(single)
    assert [single[k] for k in ("batch_size", "epochs", "patience", "lr", "optimizer", "loss", "balanced", "random_noise", "individual_weight_decay", "min_delta")] == [64, 1000, 20, .1, "sgd", "crossentropy", False, None, False, .005]
    assert {k for k in single if single[k] != many[k]} == {"epochs", "steps_per_epoch", "patience"} and (many["epochs"], many["steps_per_epoch"]) == (50, 20)


@pytest.mark.parametrize("given, words", [
    (dict(epochs=0), "epochs=0"), (dict(batch_size=True), "batch_size=True"), (dict(steps_per_epoch=0), "or None for a pass"), (dict(patience=0), "or None for no early stopping"), (dict(lr=float("nan")), "lr=nan"), (dict(lr=0), "above 0"), (dict(min_delta=1), "below 1"),
    (dict(random_noise=0), "above 0, at most 1"), (dict(random_noise="a"), "random_noise='a'"), (dict(last=-1), "last=-1"), (dict(balanced=1), "True or False"), (dict(individual_weight_decay=None), "True or False"), (dict(optimizer="adamw"), "sgd, rmsprop, adam, adadelta"),
    (dict(loss="mse"), "crossentropy, focal, ordinal"), (dict(protocol="x"), "corrected, faithful"), (dict(precision="float16"), "float32, bfloat16"), (dict(batchsize=4), "did you mean 'batch_size'")])
def test_settings_that_cannot_train(given, words):
    with pytest.raises(ValueError, match=words): training_options(**given)


# Windows and batches

@pytest.mark.parametrize("n", [1, 99, 100, 101, 199, 200, 201, 202, 1000])
def test_windows_in_evaluation(n):
    x = np.arange(n)
    middle, published = window_of(x, 100), window_of(x, 100, "faithful")
    assert len(middle) == len(published) == min(n, 100)
    if n >= 100: assert abs((middle[0] + middle[-1])/2 - (n - 1)/2) <= .5
    assert published[0] == (n//2 if n//2 > 100 else 0) and (window_of(x) == x).all()


def test_windows_in_training_are_anywhere():
    rng = np.random.default_rng(0)
    starts = {int(window_of(np.arange(104), 100, rng=rng)[0]) for _ in range(200)}
    assert starts == {0, 1, 2, 3, 4} and len(window_of(np.arange(50), 100, rng=rng)) == 50


def test_batches_are_padded_and_say_so():
    items = [(np.full(n, .5, np.float32), n % 2) for n in (100, 40, 300)]
    x, lengths, y = batch_of(items, [0, 1, 2], 100)
    assert x.shape == (3, 100) and lengths.tolist() == [100, 40, 100] and y.tolist() == [0, 0, 0] and x.sum(1).tolist() == [50, 20, 50]
    assert batch_of(items, [0, 2], 100)[1] is None
    x, lengths, _ = batch_of(items, [0, 2])
    assert x.shape == (2, 300) and lengths.tolist() == [100, 300]


def test_noise_is_on_speech_in_training_alone():
    items = [(np.zeros(n, np.float32), 0) for n in (3000, 2000)]
    x, *_ = batch_of(items, [0, 1], 3000, rng=np.random.default_rng(0), noise=.1)
    assert x[0].std().item() == pytest.approx(.1, rel=.1) and not x[1, 2000:].any() and x[1, :2000].any()
    assert not batch_of(items, [0, 1], 3000, noise=.1)[0].any()


def test_a_memory_map_is_read_and_never_written(tmp_path):
    np.save(tmp_path/"x.npy", np.arange(9000, dtype=np.float32)/9000)
    there = np.load(tmp_path/"x.npy", mmap_mode="r")
    x, *_ = batch_of([(there, 0)], [0], 3000, rng=np.random.default_rng(0), noise=.1)
    assert x.shape == (1, 3000) and (np.load(tmp_path/"x.npy") == there).all()


@pytest.mark.parametrize("x, words", [(np.zeros(0), r"of the shape \(0,\)"), (np.zeros((2, 9)), r"\(2, 9\)"), (np.zeros(9, np.int16), "int16"), (np.full(9, np.nan), "finite")])
def test_signals_that_are_none(x, words):
    with pytest.raises(ValueError, match=f"of a, clip 1: .*{words}"): batch_of([(np.zeros(9, np.float32), 0), (x, 0)], [0, 1], what="train of a")


@pytest.mark.parametrize("n, size", [(1, 4), (4, 4), (5, 4), (10, 4), (9, 64)])
def test_an_epoch_has_each_row_once(n, size):
    batches = -(-n//size)
    for epoch in range(2):
        found = [rows_of(n, size, epoch*batches + i, 3, "a") for i in range(batches)]
        assert sorted(np.concatenate(found)) == list(range(n)) and max(map(len, found)) <= size and max(map(len, found)) - min(map(len, found)) <= 1
    if n > 5: assert not np.array_equal(rows_of(n, size, 0, 3, "a"), rows_of(n, size, 0, 3, "b")) and not np.array_equal(rows_of(n, size, 0, 3, "a"), rows_of(n, size, batches, 3, "a"))


# Optimisers

def test_decay_and_rates():
    assert [decay_of(n) for n in (1, 499, 500, 999, 1000, 9999, 10000)] == [.005, .005, .002, .002, .0005, .0005, 1e-6]
    sgd = training_options()
    assert [rate(phase, 0, 100, sgd) for phase in range(3)] == pytest.approx([.1, .01, .001])
    assert rate(0, 1000, 700, sgd) == pytest.approx(.1/3) and rate(0, 1000, 700, training_options(individual_weight_decay=True)) == pytest.approx(.1/1.001)
    assert all(rate(1, 1000, 700, training_options(optimizer=name)) == pytest.approx(.01) for name in OPTIMIZERS[1:])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimisers_hold_what_is_trained_once(optimizer):
    model, o = network(), training_options(optimizer=optimizer, individual_weight_decay=True)
    found = optimizers_of(model, "one", 100, o)
    params = [p for one in found.values() for p in one.param_groups[0]["params"]]
    expected = [p for name, p in model.named_parameters() if not name.startswith("parts.of_two.")]
    assert len(params) == len(expected) and {id(p) for p in params} == {id(p) for p in expected}
    decays = {name: one.param_groups[0]["weight_decay"] for name, one in found.items()}
    assert decays == {"one.shared": 2*L2, "one.adapters": .01, "one.rest": 0.}
    assert optimizers_of(model, "one", 100, training_options())["one.adapters"].param_groups[0]["weight_decay"] == 2*L2


def test_steps_of_sgd_are_those_of_the_formula():
    "Two turns of one task by hand: L2 of 1e-6 on the convolutions, momentum .9, a rate that the decay slows down"
    o, data = training_options("multi-task", epochs=1, steps_per_epoch=2, batch_size=20, lr=.05), [task("one", n=4)]
    model, by_hand = network([("one", 3)], dropout=(0., 0.)), network([("one", 3)], dropout=(0., 0.))
    for m in (model, by_hand): m.part("one").head.hidden.requires_grad_(True)
    turn = multitask._turn
    by_hand.train()
    moments, loss, params = {}, multitask.make_loss("crossentropy", [0, 1, 2]), dict(by_hand.named_parameters())
    class Plain:
        device = torch.device("cpu")
        @staticmethod
        def backward(value): value.backward()
    optimizers = optimizers_of(model, "one", 4, o)
    model.train()
    for step in range(2):
        lr = rate(0, step, 4, o)
        turn(model, data[0], step, optimizers, lr, loss, Plain, o, 0)
        turn(by_hand, data[0], step, {}, lr, loss, Plain, o, 0)
        with torch.no_grad():
            for name, p in params.items():
                kernel = name.startswith("body.") or ".adapters." in name
                moments[name] = .9*moments.get(name, 0.) + p.grad + (2e-6*p if kernel else 0.)
                p -= .05/(1 + .005*step)*moments[name]
    for name, p in model.named_parameters(): torch.testing.assert_close(p, params[name], atol=1e-6, rtol=1e-5)


# Best look and early stopping

def looks_of(*uars): return pd.DataFrame(dict(iteration=range(1, len(uars) + 1), task="a", dev_uar=uars, dev_loss=1.))


@pytest.mark.parametrize("uars, start, patience, over", [
    ((.5,), 0, 1, False), ((.5, .505), 0, 1, True), ((.5, .506), 0, 1, False), ((.5, .4, .3), 0, 2, True), ((.5, .4, .6), 0, 2, False), ((.5, .4, .6, .6), 0, 2, False), ((.5, .4, .6, .6, .6), 0, 2, True),
    ((.5, .4), 2, 1, False), ((.9, .5, .6), 1, 2, True), ((.9, .5), 1, 2, False), ((.9, .95), 1, 1, False), ((.5,)*50, 0, None, False), ((), 0, 1, False)])
def test_early_stopping(uars, start, patience, over):
    assert stalled(looks_of(*uars) if uars else pd.DataFrame(), start, dict(patience=patience, min_delta=.005)) is over


def test_best_look_of_all_and_of_each():
    looks = pd.DataFrame(dict(iteration=[4, 4, 8, 8, 12, 12], task=["a", "b"]*3, dev_uar=[.5, .8, .9, .4, .6, .7], dev_loss=[1, 1, 1, 1, .9, 1.]))
    assert best_look(looks) == 12 and best_look(looks, "a") == 8 and best_look(looks, "b") == 4
    assert best_look(looks_of(.5, .5, .5)) == 1


# Training

def test_round_robin_looks_and_best(tmp_path, monkeypatch):
    turns, turn = [], multitask._turn
    def noted(model, task, step, optimizers, lr, *rest):
        turns.append((task["name"], step, round(lr, 9), tuple(optimizers)))
        return turn(model, task, step, optimizers, lr, *rest)
    monkeypatch.setattr(multitask, "_turn", noted)
    model = network()
    looks = train_tasks(model, TASKS, tmp_path, quick())
    assert [name for name, *_ in turns] == ["one", "two"]*18 and [step for _, step, *_ in turns] == [i//2 for i in range(36)]
    assert [lr for _, _, lr, _ in turns] == [5e-3]*12 + [5e-4]*12 + [5e-5]*12 and all(own[0].startswith(f"{name}.") for name, _, _, own in turns)
    assert list(looks) == ["iteration", "phase", "epoch", "task", "loss", "dev_loss", "dev_uar", "dev_accuracy"]
    assert looks.iteration.tolist() == [i for i in (6, 12, 18, 24, 30, 36) for _ in range(2)] and looks.phase.tolist() == [0]*4 + [1]*4 + [2]*4 and looks.epoch.tolist() == [1, 1, 2, 2]*3
    assert not model.training and all(p.requires_grad for p in model.parameters())
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path/"looks.csv"), looks, check_dtype=False)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in load_file(tmp_path/"best.safetensors").items())
    chosen = looks[looks.iteration == best_look(looks)]
    for t in TASKS:
        p, y = probabilities(model, t["name"], t["dev"], quick()), np.array([y for _, y in t["dev"]])
        assert -np.log(p[range(len(y)), y]).mean() == pytest.approx(chosen[chosen.task == t["name"]].dev_loss.item(), rel=1e-6)
        single, own = best_of(model, t["name"], tmp_path), looks[looks.task == t["name"]]
        p = probabilities(single, t["name"], t["dev"], quick())
        assert list(single.tasks) == [t["name"]] and -np.log(p[range(len(y)), y]).mean() == pytest.approx(own[own.iteration == best_look(looks, t["name"])].dev_loss.item(), rel=1e-6)
    with pytest.raises(FileNotFoundError, match="training of the task 'one'"): best_of(model, "one", tmp_path/"nowhere")


def test_phases_begin_with_the_best_weights(tmp_path, monkeypatch):
    "The look in the middle is the best of the first phase; the second begins with its weights, and with a new optimiser"
    model, begins, turn, told = network([("one", 3)]), [], multitask._turn, iter([.5, .9, .4] + [.1]*20)
    def noted(m, task, step, optimizers, lr, *rest):
        begins.append(({k: v.clone() for k, v in m.state_dict().items()}, {n: sum(map(bool, o.state.values())) for n, o in optimizers.items()}))
        return turn(m, task, step, optimizers, lr, *rest)
    monkeypatch.setattr(multitask, "_turn", noted)
    monkeypatch.setattr(multitask, "uar", lambda *_: next(told))
    looks = train_tasks(model, TASKS[:1], tmp_path, quick(epochs=3, steps_per_epoch=2, patience=1))
    assert looks.phase.tolist() == [0, 0, 0, 1, 2] and len(begins) == 10
    for first in (6, 8): assert all(torch.equal(v, begins[4][0][k]) for k, v in begins[first][0].items()) and not any(begins[first][1].values())
    assert all(torch.equal(v, begins[4][0][k]) for k, v in model.state_dict().items())


class Kill(Exception): pass


@pytest.mark.parametrize("optimizer", ["sgd", "adadelta"])
def test_killed_in_the_middle_of_a_round(optimizer, tmp_path, monkeypatch):
    "After any turn, and while something is written: the same weights, looks and bests to the bit"
    data = TASKS + [task("th/ree 3", 3, 5, 9)]
    def made(): return network([("one", 3), ("two", 2), ("th/ree 3", 3)], input_norm=True)
    o = quick(optimizer=optimizer, epochs=2, steps_per_epoch=1, patience=1, batch_size=3, random_noise=.01, balanced=True)
    whole, turn, keep, n, clock = made(), multitask._turn, multitask._keep, [0], itertools.count()
    looks = train_tasks(whole, data, tmp_path/"whole", o)
    def dying(*given):
        n[0] += 1
        if n[0] % 7 == 5: raise Kill
        return turn(*given)
    def torn(*given):
        n[0] += 1
        if n[0] % 11 == 6: raise Kill
        return keep(*given)
    monkeypatch.setattr(multitask, "_turn", dying)
    monkeypatch.setattr(multitask, "_keep", torn)
    monkeypatch.setattr(multitask, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    for attempt in range(30):
        model = made()
        try: again = train_tasks(model, data, tmp_path/"killed", o, every=[1, 3, 5][attempt % 3])
        except Kill: continue
        break
    assert attempt > 2 and same(whole, model)
    pd.testing.assert_frame_equal(again, looks, check_exact=True, check_dtype=False)
    for t in data: assert same(best_of(whole, t["name"], tmp_path/"whole"), best_of(model, t["name"], tmp_path/"killed"))
    finished = made()
    pd.testing.assert_frame_equal(train_tasks(finished, data, tmp_path/"killed", o), looks, check_exact=True, check_dtype=False)
    assert same(finished, whole) and not finished.training


def test_a_folder_of_another_training(tmp_path):
    train_tasks(network([("one", 3)]), TASKS[:1], tmp_path, quick(epochs=1))
    for options, seed in ((quick(epochs=1, lr=1e-3), 0), (quick(epochs=1), 1)):
        with pytest.raises(ValueError, match="holds a training of other tasks"): train_tasks(network([("one", 3)]), TASKS[:1], tmp_path, options, seed)
    (tmp_path/"checkpoint.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="damaged"): train_tasks(network([("one", 3)]), TASKS[:1], tmp_path, quick(epochs=1))


@pytest.mark.parametrize("options", [dict(), dict(share_features=True), dict(classifier="rnn", cell="gru", window=None), dict(classifier="avgpool")], ids=["attention", "shared", "gru", "avgpool"])
def test_a_task_that_is_added_changes_no_other(options, tmp_path):
    first = network(**options)
    with torch.no_grad():
        for p in first.parameters(): p.add_(.05*torch.randn_like(p))
    first.save_pretrained(tmp_path/"first")
    before = {t["name"]: probabilities(first, t["name"], t["dev"], quick()) for t in TASKS}
    more = begin("adapters", "three", 3, load_network(tmp_path/"first"))
    own = more.part("three").head.out.weight.clone()
    train_tasks(more, [task("three", seed=9)], tmp_path/"later", quick(), mode="adapters")
    assert all(np.array_equal(probabilities(more, name, t["dev"], quick()), before[name]) for name, t in zip(before, TASKS))
    assert all(torch.equal(v, more.state_dict()[k]) for k, v in first.state_dict().items()) and not torch.equal(own, more.part("three").head.out.weight)


@pytest.mark.parametrize("mode", ["scratch", "finetune", "last-layer"])
def test_modes_of_one_task(mode, tmp_path):
    source = None if mode == "scratch" else network()
    model = begin(mode, "new", 3, source, like=None if source is None else "one", **SIZES)
    was = {k: v.clone() for k, v in model.state_dict().items()}
    train_tasks(model, [task("new")], tmp_path, quick(epochs=1), mode=mode)
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, was[k])}
    heads = {k for k in was if ".head." in k and "tracked" not in k}
    assert heads <= moved and (moved == heads) == (mode == "last-layer")
    assert ("body.convs.0.weight" in moved) == (mode != "last-layer")


def test_last_thaws_the_end_of_the_body(tmp_path):
    model = begin("last-layer", "new", 3, network(), like="one")
    was = {k: v.clone() for k, v in model.state_dict().items()}
    train_tasks(model, [task("new")], tmp_path, quick(epochs=1, last=2), mode="last-layer")
    assert {k for k, v in model.state_dict().items() if k.startswith("body.") and not torch.equal(v, was[k])} == {"body.convs.5.weight", "body.convs.6.weight"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "Function (kind, settings) -> a network after one epoch of that training"
    rare, made = task("one", labels=["low", "medium", "high"], order=["low", "medium", "high"]), {}
    rare["train"] = rare["train"][:7] + rare["train"][:1]*3
    def train(kind, **more):
        if (kind, str(more)) not in made:
            data = [rare] if kind == "single-task" else [rare, TASKS[1]]
            made[kind, str(more)] = model = network([("one", 3), ("two", 2)][:len(data)])
            train_tasks(model, data, tmp_path_factory.mktemp("trained"), training_options(kind, **QUICK | dict(epochs=1, steps_per_epoch=1, lr=1e-2) | more))
        return made[kind, str(more)]
    return train


@pytest.mark.parametrize("kind", PUBLISHED)
@pytest.mark.parametrize("given", [dict(balanced=True), dict(random_noise=.05), dict(loss="focal"), dict(loss="ordinal"), dict(individual_weight_decay=True), dict(optimizer="sgd"), dict(precision="bfloat16"), dict(batch_size=3)], ids=str)
def test_each_setting_counts(given, kind, trained): assert not same(trained(kind), trained(kind, **given))


def test_balanced_weights_are_those_of_the_task(tmp_path):
    model, rare = network([("one", 3)]), task("one")
    rare["train"] = rare["train"][:3] + rare["train"][:1]*3
    loss = multitask._prepare(model, [rare], None, training_options(balanced=True))["one"]
    logits, y = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 0, 0])
    assert loss(logits, y).item() == pytest.approx((F.cross_entropy(logits, y, reduction="none")*torch.tensor([.5, 2, 2])[y]).mean().item(), rel=1e-5)


def test_ordinal_loss_on_labels_without_order():
    data = task("one", labels=["angry", "happy", "sad"])
    with pytest.warns(UserWarning, match="angry < happy < sad"): multitask._prepare(network([("one", 3)]), [data], None, training_options(loss="ordinal"))


def test_it_learns(tmp_path):
    looks = train_tasks(network(dropout=(0., 0.)), TASKS, tmp_path, quick(epochs=2, steps_per_epoch=5, batch_size=8, lr=1e-2))
    assert looks[looks.iteration == best_look(looks)].dev_uar.min() > .8


def test_a_loss_that_is_not_finite(tmp_path):
    with pytest.raises(FloatingPointError, match="the task 'two' is not finite in turn 2: lower the learning rate"):
        model = network()
        with torch.no_grad(): model.part("two").head.out.bias.fill_(torch.nan)
        train_tasks(model, TASKS, tmp_path, quick())
    assert not (tmp_path/"best.safetensors").exists()


def test_answers_that_are_not_finite():
    model = network()
    with torch.no_grad(): model.part("two").head.out.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="answers for the task 'two' are not finite"): multitask._look(model, TASKS, quick())


# Answers

def test_probabilities_of_whole_clips_do_not_depend_on_the_batch():
    model, items = network(window=None).eval(), clips(7, 2)
    p = probabilities(model, "two", items, training_options(batch_size=7))
    assert p.shape == (7, 2) and p.sum(1) == pytest.approx(1) and probabilities(model, "two", items, training_options(batch_size=2)) == pytest.approx(p, abs=1e-5)
    assert probabilities(model, "one", [], training_options()).shape == (0, 3)
    single = fold(model, "two")
    assert probabilities(single, "two", [(x, None) for x, _ in items], training_options()) == pytest.approx(p, abs=1e-5)
    model.train()
    probabilities(model, "two", items, training_options())
    assert model.training


def test_probabilities_by_the_window_of_the_protocol():
    model, (x, _) = network().eval(), clips(1, 2, least=9000, most=9001)[0]
    x = x*np.linspace(0, 1, len(x), dtype=np.float32)
    for protocol, start in (("corrected", (9000 - SIZE)//2), ("faithful", 4500)):
        p = probabilities(model, "two", [(x, 0)], training_options(protocol=protocol))
        with torch.no_grad(): assert p[0, 1] == pytest.approx(model(torch.from_numpy(x[None, start:start + SIZE]), "two").sigmoid().item(), abs=1e-6)


# What cannot be trained

BAD = dict(
    none=([], None, "no task to train"), twice=([TASKS[0], TASKS[0]], None, "the task 'one' is there twice"), unknown=([task("three")], None, "'three' is not in the network, which has one, two"),
    classes=([task("one", 2), TASKS[1]], None, "2 classes and 2 labels, the network 3"), labels=([TASKS[0] | dict(labels=["a"]), TASKS[1]], None, "3 classes and 1 labels"),
    train=([TASKS[0] | dict(train=[]), TASKS[1]], None, "no clip in train"), dev=([TASKS[0] | dict(dev=[]), TASKS[1]], None, "no clip in dev"),
    outside=([TASKS[0] | dict(dev=[(TASKS[0]["dev"][0][0], 3)]), TASKS[1]], None, "the class 3 in dev, expected 0 to 2"), negative=([TASKS[0] | dict(train=[(TASKS[0]["dev"][0][0], -1)]), TASKS[1]], None, "the class -1 in train"),
    lacking=([TASKS[0] | dict(train=TASKS[0]["train"][:2], labels=["angry", "happy", "sad"]), TASKS[1]], None, "train has no clip of sad"),
    many=(TASKS, "adapters", "trains one task, found 2"), mode=(TASKS[:1], "all", "did you mean|mode of training"), others=(TASKS[:1], None, "what two says: train all"), tuned=(TASKS[:1], "finetune", "what two says"))


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_trained(kind, tmp_path):
    data, mode, words = BAD[kind]
    with pytest.raises(ValueError, match=words): train_tasks(network(), data, tmp_path/"x", quick(), mode=mode)
    assert not (tmp_path/"x").exists()


def test_adapters_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match="no adapters to train"): train_tasks(network([("one", 3)], adapters=False), TASKS[:1], tmp_path, quick(), mode="adapters")


def test_steps_of_an_epoch(tmp_path):
    "Without a number, a pass over the largest task"
    looks = train_tasks(network(), TASKS, tmp_path, quick(epochs=1, steps_per_epoch=None))
    assert looks.iteration.iloc[0] == 2*math.ceil(10/4)
