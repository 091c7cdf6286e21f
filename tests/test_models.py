"The stacked classifiers against one plain network trained alone, the linear machine against scikit-learn's own"
import itertools

import numpy as np
import pytest
import torch
from sklearn.svm import SVC
from torch import nn

from ser_nb.core import named_seed
from ser_nb.models.mlp import init_mlp, mlp_logits, mlp_proba
from ser_nb.models.svm import fit_svm, svm_proba
from ser_nb.training.ensemble import _batches, train_ensemble

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = dict(hidden=[12, 7], lr=2e-3, batch_size=16, keep_prob=.7, train_epochs=5, n_classes=4)


def data(n=160, d=9, k=4, seed=0, shift=.7):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n)
    return rng.normal(size=(n, d)) + shift*rng.normal(size=(k, d))[y], y


# A plain network, one at a time

class Network(nn.Sequential):
    "The published classifier as anybody would write it, with given masks in the place of dropout"
    def __init__(self, sizes, weights):
        super().__init__(*(layer for a, b in zip(sizes, sizes[1:]) for layer in (nn.Linear(a, b, dtype=torch.float64), nn.LeakyReLU(.2))))
        del self[-1]
        for i in range(len(sizes) - 1):
            self[2*i].weight.data = weights[f"w{i}"][0].T.clone()
            self[2*i].bias.data = weights[f"b{i}"][0, 0].clone()

    def forward(self, x, masks=None):
        for i, layer in enumerate(self):
            x = layer(x)
            if masks is not None and i % 2: x = x*masks[i//2]
        return x


def reference(X, y, rows, seed, hidden, lr, batch_size, keep_prob, train_epochs, n_classes):
    "(network, loss of each epoch) after Adam on one member's batches and masks"
    sizes = [X.shape[1], *hidden, n_classes]
    model = Network(sizes, init_mlp(sizes, [named_seed(seed, "weights")], torch.float64))
    optimizer, batches, losses = torch.optim.Adam(model.parameters(), lr=lr), _batches(seed, rows, batch_size, sum(hidden), keep_prob, torch.float64, "cpu"), []
    X, y = torch.as_tensor(X), torch.as_tensor(y)
    for _ in range(train_epochs):
        epoch = []
        for _ in range(len(rows)//batch_size):
            chosen, mask = next(batches)
            loss = nn.functional.cross_entropy(model(X[chosen], None if mask is None else mask.split(hidden, -1)), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            epoch.append(loss.item())
        losses.append(np.mean(epoch))
    return model, losses


@pytest.mark.parametrize("change", [{}, dict(keep_prob=1), dict(hidden=[20]), dict(hidden=[8, 6, 5]), dict(hidden=[]), dict(batch_size=50), dict(lr=.05), dict(n_classes=6)], ids=str)
def test_a_member_is_a_plain_network(change):
    options = {**OPTIONS, **change}
    X, y = data()
    Xs = np.stack([X, X*2 + 1])
    rows, seeds, which = [np.arange(160), np.arange(0, 160, 2), np.arange(30, 150), np.arange(110)], [3, 4, 4, 5], [0, 1, 0, 1]
    params, losses = train_ensemble(Xs, y, rows, seeds, which=which, device="cpu", **options)
    proba = mlp_proba(params, X)
    for m in range(4):
        model, curve = reference(Xs[which[m]], y, rows[m], seeds[m], **options)
        np.testing.assert_allclose(losses[m], curve, rtol=1e-9)
        for i, layer in enumerate(list(model)[::2]):
            np.testing.assert_allclose(params[f"w{i}"][m], layer.weight.detach().T, rtol=1e-8, atol=1e-10)
            np.testing.assert_allclose(params[f"b{i}"][m, 0], layer.bias.detach(), rtol=1e-8, atol=1e-10)
        with torch.no_grad(): np.testing.assert_allclose(proba[m], torch.softmax(model(torch.as_tensor(X)), -1), rtol=1e-8)


def soft_labels(n=160, k=4, seed=3): return np.random.default_rng(seed).dirichlet(np.full(k, .5), n)


@pytest.mark.parametrize("kind", ["numbers of each", "probabilities of each", "probabilities of one"])
def test_each_standardisation_can_have_labels_of_its_own(kind):
    X, y = data()
    if kind == "numbers of each": X, y = np.stack([X, X*2 + 1]), np.stack([y, (y + 1) % 4])
    elif kind == "probabilities of each": X, y = np.stack([X, X*2 + 1]), np.stack([soft_labels(), soft_labels(seed=4)])
    else: y = soft_labels()[None]
    which = [0, 1, 1, 0] if len(y) == 2 else [0]*4
    rows, seeds = [np.arange(160), np.arange(0, 160, 2), np.arange(30, 150), np.arange(110)], [3, 4, 4, 5]
    params, losses = train_ensemble(X, y, rows, seeds, which=which, device="cpu", **OPTIONS)
    for m in range(4):
        model, curve = reference(X[which[m]] if X.ndim == 3 else X, y[which[m]], rows[m], seeds[m], **OPTIONS)
        np.testing.assert_allclose(losses[m], curve, rtol=1e-9)
        for i, layer in enumerate(list(model)[::2]): np.testing.assert_allclose(params[f"w{i}"][m], layer.weight.detach().T, rtol=1e-8, atol=1e-10)


def test_certain_probabilities_are_class_numbers_and_fix_the_number_of_classes():
    X, y = data()
    options = {k: v for k, v in OPTIONS.items() if k != "n_classes"}
    numbers, curve = train_ensemble(X, y, [np.arange(160)], [0], device="cpu", n_classes=6, **options)
    certain, other = train_ensemble(X, np.eye(6)[y][None], [np.arange(160)], [0], device="cpu", **options)
    assert certain["w2"].shape == (1, 7, 6)
    for k in numbers: torch.testing.assert_close(numbers[k], certain[k])
    np.testing.assert_allclose(curve, other)
    single, _ = train_ensemble(X.astype("float32"), np.eye(6)[y][None], [np.arange(160)], [0], device="cpu", **options)
    assert single["w0"].dtype == torch.float32


@pytest.mark.parametrize("change", [dict(probabilities=True), dict(probabilities=False)], ids=["probabilities", "numbers"])
def test_labels_of_rows_outside_a_member_have_no_influence(change):
    X, y = data()
    X, y = np.stack([X, X + 1]), np.stack([soft_labels(), soft_labels(seed=4)]) if change["probabilities"] else np.stack([y, (y + 1) % 4])
    moved = y.copy()
    moved[0, 100:], moved[1] = moved[0, 100:][::-1], moved[1][::-1]
    assert not np.array_equal(y, moved)
    a, b = (train_ensemble(X, labels, [np.arange(100)], [0], which=[0], device="cpu", **OPTIONS)[0] for labels in (y, moved))
    for k in a: assert torch.equal(a[k], b[k])


def test_same_seed_same_bits_other_seed_other_weights():
    X, y = data()
    X = X.astype("float32")
    runs = [train_ensemble(X, y, [np.arange(160)]*2, seeds, device="cpu", **OPTIONS)[0] for seeds in ([1, 2], [1, 2], [3, 1])]
    for k in runs[0]: assert torch.equal(runs[0][k], runs[1][k]) and runs[0][k].dtype == torch.float32
    torch.testing.assert_close(runs[0]["w0"][0], runs[2]["w0"][1])
    assert not torch.allclose(runs[0]["w0"][0], runs[0]["w0"][1])


def test_rows_outside_a_member_have_no_influence():
    X, y = data()
    other, labels = X.copy(), y.copy()
    other[100:], labels[100:] = 1e6, 0
    a, b = (train_ensemble(x, t, [np.arange(100)], [0], device="cpu", **OPTIONS)[0] for x, t in ((X, y), (other, labels)))
    for k in a: assert torch.equal(a[k], b[k])


def test_batches_are_whole_epochs_and_masks_keep_their_share():
    rows, steps = np.arange(500, 600), 100//16
    batches = _batches(7, rows, 16, 40, .7, torch.float64, "cpu")
    epochs = [[next(batches) for _ in range(steps)] for _ in range(30)]
    orders = [torch.cat([chosen for chosen, _ in e]).tolist() for e in epochs]
    assert all(len(set(o)) == 96 and set(o) <= set(rows) for o in orders) and orders[0] != orders[1]
    assert set().union(*map(set, orders)) == set(rows.tolist()), "the dropped rows change from epoch to epoch"
    masks = torch.stack([mask for e in epochs for _, mask in e])
    assert set(masks.unique().tolist()) == {0., 1/.7}
    assert (masks > 0).double().mean().item() == pytest.approx(.7, abs=.01) and (masks > 0).double().mean((0, 1)).std() < .03
    assert not torch.equal(masks[0], masks[1])
    assert next(_batches(7, rows, 16, 40, 1, torch.float64, "cpu"))[1] is None


def test_dropout_acts_on_every_hidden_layer_and_never_on_the_output():
    params = init_mlp([3, 5, 4, 2], [0], torch.float64)
    x = torch.ones(1, 1, 3, dtype=torch.float64)
    ones = [torch.ones(1, 1, 5), torch.ones(1, 1, 4)]
    assert torch.equal(mlp_logits(params, x, ones), mlp_logits(params, x))
    for layer in (0, 1): assert not torch.equal(mlp_logits(params, x, [m*(i != layer) for i, m in enumerate(ones)]), mlp_logits(params, x))
    assert torch.equal(mlp_logits(params, x, [m*0 for m in ones]), params["b2"])


def test_weights_are_xavier_and_of_their_seed():
    params = init_mlp([300, 200, 100], [5, 6])
    for layer, (a, b) in enumerate(((300, 200), (200, 100))):
        w, bound = params[f"w{layer}"], (6/(a + b))**.5
        assert w.abs().max() <= bound and w.std().item() == pytest.approx(bound/3**.5, rel=.02) and abs(w.mean()) < .01*bound**.5 and not params[f"b{layer}"].any()
    assert torch.equal(init_mlp([300, 200, 100], [9, 6])["w1"][1], params["w1"][1]) and not torch.equal(params["w0"][0], params["w0"][1])


def test_an_ensemble_learns_and_its_losses_say_so():
    X, y = data(400, shift=1.5)
    params, losses = train_ensemble(X, y, [np.arange(300)]*3, [0, 1, 2], device="cpu", **{**OPTIONS, "train_epochs": 25})
    assert (losses[:, -1] < .5*losses[:, 0]).all() and ((mlp_proba(params, X[300:]).argmax(-1) == y[300:]).mean(1) > .6).all()


@pytest.mark.parametrize("change, words", [(dict(batch_size=0), "batch_size=0: expected 1 or more"), (dict(keep_prob=0), "keep_prob=0"), (dict(keep_prob=1.1), "keep_prob=1.1"), (dict(train_epochs=0), "train_epochs=0"), (dict(lr=0), "lr=0"), (dict(lr=-1.), "lr=-1"),
                                           (dict(lr=float("nan")), "lr=nan"), (dict(lr=float("inf")), "lr=inf"), (dict(batch_size=161), "160 training rows are fewer than a batch of 161"), (dict(hidden=[0]), r"layer sizes \[9, 0, 4\]")])
def test_options_that_cannot_train(change, words):
    X, y = data()
    with pytest.raises(ValueError, match=words): train_ensemble(X, y, [np.arange(160)], [0], device="cpu", **{**OPTIONS, **change})


def test_a_loss_that_is_not_finite_stops_and_names_the_rate():
    X, y = data()
    X[7] = np.inf
    with pytest.raises(FloatingPointError, match="loss of 1 of 2 classifiers is not finite after .* lower lr=0.002"):
        train_ensemble(X, y, [np.arange(160), np.arange(8, 160)], [0, 1], device="cpu", **OPTIONS)


def test_probabilities_stay_probabilities():
    params = init_mlp([9, 6, 4], [0, 1, 2])
    X = np.concatenate([data()[0], np.full((1, 9), 1e6), np.full((1, 9), -1e30)]).astype("float32")
    p = mlp_proba(params, X)
    assert p.shape == (3, 162, 4) and p.dtype == np.float64 and np.isfinite(p).all()
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-12)
    np.testing.assert_allclose(mlp_proba(params, X[5:6]), p[:, 5:6], rtol=1e-5)
    np.testing.assert_array_equal(mlp_proba({k: v.numpy() for k, v in params.items()}, X), p)


# The linear machine

@pytest.mark.parametrize("k", [2, 3, 4, 7])
@pytest.mark.parametrize("C", [1e-3, .1])
def test_planes_and_decisions_are_scikit_learns_with_weights_once(k, C):
    rng = np.random.default_rng(k)
    y = np.repeat(np.arange(k), 12 + 25*np.arange(k))   # imbalanced
    X = rng.normal(size=(len(y), 15)) + .6*rng.normal(size=(k, 15))[y]
    new = rng.normal(size=(500, 15))*1.5
    params, model = fit_svm(X, y, C), SVC(kernel="linear", C=C, class_weight="balanced").fit(X, y)
    sign = -1 if k == 2 else 1
    np.testing.assert_array_equal(params["coef"], sign*model.coef_)
    np.testing.assert_array_equal(params["intercept"], sign*model.intercept_)
    p = svm_proba(params, new)[0]
    np.testing.assert_array_equal(p.argmax(1), model.predict(new))
    model.decision_function_shape = "ovo"
    planes = sign*model.decision_function(new).reshape(500, -1)
    for c in range(k):
        votes = sum((planes[:, i] > 0) == (a == c) for i, (a, b) in enumerate(itertools.combinations(range(k), 2)) if c in (a, b))
        np.testing.assert_allclose(p[:, c]*len(planes[0]), votes if k > 2 else 1/(1 + np.exp(planes[:, 0]*(2*c - 1))))
    np.testing.assert_allclose(p.sum(1), 1)
    for weight in (None, {c: (len(y)/k/n)**2 for c, n in enumerate(np.bincount(y))}):
        assert not np.allclose(SVC(kernel="linear", C=C, class_weight=weight).fit(X, y).coef_*sign, params["coef"])


def test_two_classes_are_the_right_way_round():
    X, y = np.array([[-2.], [-1.], [1.], [2.], [3.]]), np.array([0, 0, 1, 1, 1])
    left, right = svm_proba(fit_svm(X, y, 1.), np.array([[-5.], [5.]]))[0]
    assert left[0] > .9 and right[1] > .9


def test_ties_go_to_the_first_class_as_in_libsvm():
    X, y = data(150, 8, 6, shift=.5)
    params, model = fit_svm(X, y, 1.), SVC(kernel="linear", C=1., class_weight="balanced").fit(X, y)
    inside = np.random.default_rng(1).normal(size=(3000, 8))
    p = svm_proba(params, inside)[0]
    assert ((p == p.max(1, keepdims=True)).sum(1) > 1).mean() > .05, "hardly a tie was drawn"
    np.testing.assert_array_equal(p.argmax(1), model.predict(inside))


@pytest.mark.parametrize("C", [0, -1., float("nan")])
def test_a_weight_of_errors_is_positive(C):
    with pytest.raises(ValueError, match="expected a number above 0"): fit_svm(*data(), C)
