"Synthetic rows: what each kind promises of its distribution, and the autoencoder against a plain one"
import sys

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from torch import nn

from ser_nb.core import named_seed
from ser_nb.models.aae import ACROSS, ALONG, RADIUS, decode, encode, init_aae, judge, prior_codes, sample_aae
from ser_nb.training.oversampling import ENCODER_STEPS, OVERSAMPLING, _masks, check_oversampling, gaussian_rows, mixup_rows, oversample, train_aae


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    "Tiny products gain nothing from threads, and a busy machine makes them wait for each other"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


KEEP = dict(encoder=.7, decoder=.8, discriminator=.9)
AAE = dict(hidden=[12, 7], lr=2e-3, batch_size=16, keep_prob=KEEP, train_epochs=3)
OPTIONS = dict(gaussian={}, mixup={}, smote={}, aae=AAE)


def data(counts=(30, 20, 12), d=5, seed=0, shift=2.):
    "Rows of unequal classes, shuffled"
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    return (rng.normal(size=(len(y), d)) + shift*rng.normal(size=(len(counts), d))[y]).astype("float32"), y


# All kinds

@pytest.mark.parametrize("kind", OVERSAMPLING)
def test_shapes_types_and_blocks(kind):
    X, y = data()
    before = X.copy()
    rows, labels = oversample(kind, X, y, 3, 7, 0, OPTIONS[kind])
    assert rows.shape == (21, 5) and rows.dtype == np.float32 and rows.flags.c_contiguous and np.isfinite(rows).all()
    if kind == "mixup":
        assert labels.shape == (21, 3) and labels.dtype == np.float32 and (labels >= 0).all()
        np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
    else: assert labels.dtype == np.int64 and labels.tolist() == [0]*7 + [1]*7 + [2]*7
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("kind", OVERSAMPLING)
def test_same_seed_same_bytes_other_seed_other_rows(kind):
    X, y = data()
    runs = [oversample(kind, X, y, 3, 7, seed, OPTIONS[kind]) for seed in (4, 4, 5, 2**62)]
    assert [a.tobytes() for a in runs[0]] == [a.tobytes() for a in runs[1]]
    for other in runs[2:]: assert not (runs[0][0] == other[0]).all(1).any()
    assert not (runs[0][0][:, None] == X).all(2).any(), "none is a training row"


@pytest.mark.parametrize("kind", OVERSAMPLING)
def test_rows_in_any_number_type_and_layout(kind):
    X, y = data()
    expected = oversample(kind, X, y, 3, 4, 0, OPTIONS[kind])
    for same, labels in ((X.astype("float64"), y.astype("int32")), (np.asfortranarray(X), y.astype("uint8")), (X.tolist(), y.tolist())):
        for a, b in zip(expected, oversample(kind, same, labels, 3, 4, 0, OPTIONS[kind])): np.testing.assert_array_equal(a, b)


CHANGES = [("mixup", "alpha", 2.), ("smote", "k_neighbors", 1), *[("aae", name, value) for name, value in dict(hidden=[12, 8], lr=4e-3, batch_size=20, train_epochs=4).items()],
           *[("aae", "keep_prob", {**KEEP, net: 1}) for net in KEEP]]

@pytest.mark.parametrize("kind, name, value", CHANGES, ids=str)
def test_every_option_changes_something(kind, name, value):
    X, y = data()
    rows = [oversample(kind, X, y, 3, 7, 0, options)[0] for options in (OPTIONS[kind], {**OPTIONS[kind], name: value})]
    assert not np.allclose(*rows)


def test_every_option_is_tested():
    assert {(kind, name) for kind, options in OVERSAMPLING.items() for name in options} == {(kind, name) for kind, name, _ in CHANGES}


def test_defaults_are_filled_in_and_stay_as_they_are():
    assert check_oversampling("mixup") == dict(alpha=.2) and check_oversampling("gaussian") == {}
    filled = check_oversampling("aae", dict(hidden=[4]))
    assert filled == {**OVERSAMPLING["aae"], "hidden": [4]} and OVERSAMPLING["aae"]["hidden"] == [1000, 1000]


@pytest.mark.parametrize("kind, options, words", [
    ("smot", {}, "unknown kind of synthetic rows 'smot': did you mean 'smote'"), ("gan", {}, "unknown kind of synthetic rows 'gan'"), ("aae", dict(hiden=[3]), "unknown option of aae 'hiden': did you mean 'hidden'"),
    ("smote", dict(alpha=1), "unknown option of smote 'alpha'"), ("gaussian", dict(alpha=1), "gaussian has no options; leave out alpha"), ("mixup", dict(alpha=0), "alpha=0: expected above 0"),
    ("mixup", dict(alpha=float("nan")), "alpha=nan"), ("mixup", dict(alpha=float("inf")), "alpha=inf"), ("smote", dict(k_neighbors=0), "k_neighbors=0: expected 1 or more"), ("aae", dict(keep_prob=.5), "keep_prob=0.5: expected a value for each"),
    ("aae", dict(keep_prob=dict(encoder=.5)), "expected a value for each of encoder, decoder, discriminator"), ("aae", dict(keep_prob={**KEEP, "decoder": 0}), "keep_prob=0: expected above 0"), ("aae", dict(lr=0), "lr=0: expected above 0"),
    ("aae", dict(train_epochs=0), "train_epochs=0: expected 1 or more"), ("aae", dict(batch_size=0), "batch_size=0: expected 1 or more"), ("aae", dict(batch_size=63), "62 training rows are fewer than a batch of 63; lower batch_size"),
    ("aae", dict(hidden=[0]), r"hidden=\[0\]: expected the units of a hidden layer or more"), ("aae", dict(hidden=[]), r"hidden=\[\]")])
def test_what_cannot_be_asked(kind, options, words):
    X, y = data()
    with pytest.raises(ValueError, match=words): oversample(kind, X, y, 3, 7, 0, options)


@pytest.mark.parametrize("kind", OVERSAMPLING)
@pytest.mark.parametrize("change, words", [
    (dict(n=0), "n=0: expected 1 row or more"), (dict(n=-3), "n=-3"), (dict(n_classes=4), r"classes \[0, 1, 2\]: expected each of 0 to 3"), (dict(n_classes=2), "expected each of 0 to 1"),
    (dict(y="alone"), r"classes \[0\]: .* two at least"), (dict(y="float"), "expected each of 0 to 2"), (dict(y="short"), r"class numbers of the shape \(61,\)"), (dict(X="nan"), "1 of 62 rows have NaN or infinite features"), (dict(X="flat"), r"rows of the shape \(310,\)")], ids=str)
def test_rows_that_cannot_be_used(kind, change, words):
    X, y = data()
    nan = X.copy()
    nan[3, 1] = np.inf
    odd = dict(alone=y*0, float=y.astype(float), short=y[1:], nan=nan, flat=X.ravel())
    given = dict(dict(X=X, y=y, n_classes=3, n=7), **{k: odd.get(v, v) for k, v in change.items()})
    if change == dict(y="alone"): given["n_classes"] = 1
    with pytest.raises(ValueError, match=words): oversample(kind, seed=0, options=OPTIONS[kind], **given)


@pytest.mark.parametrize("kind, words", [("gaussian", "class 2 has one training row, and gaussian has no covariance"), ("smote", "class 2 has one training row, and smote finds no neighbour")])
def test_a_class_of_one_row(kind, words):
    X, y = data((30, 20, 1))
    with pytest.raises(ValueError, match=words): oversample(kind, X, y, 3, 7, 0)


def test_mixup_and_the_autoencoder_can_do_with_one_row_of_a_class():
    X, y = data((30, 20, 1))
    for kind in ("mixup", "aae"): assert np.isfinite(oversample(kind, X, y, 3, 7, 0, OPTIONS[kind])[0]).all()


# Gaussians

def test_gaussians_have_the_mean_and_the_covariance_of_ledoit_and_wolf():
    X, y = data((9, 14, 40), d=6)
    rows, labels = gaussian_rows(X*[1, 2, 1, 3, 1, 1], y, 3, 200_000, 0)
    for c in range(3):
        fitted = LedoitWolf().fit((X*[1, 2, 1, 3, 1, 1])[y == c])
        assert .01 < fitted.shrinkage_ < .99
        np.testing.assert_allclose(rows[labels == c].mean(0), fitted.location_, atol=.04)
        np.testing.assert_allclose(np.cov(rows[labels == c].T), fitted.covariance_, atol=.02*fitted.covariance_.max())


def test_gaussians_of_more_features_than_rows():
    X, y = data((20, 30), d=400)
    rows, labels = oversample("gaussian", X, y, 2, 3000, 0)
    for c in range(2):
        real, made = X[y == c].astype("float64"), rows[labels == c].astype("float64")
        fitted = LedoitWolf().fit(real)
        np.testing.assert_allclose(made.var(0).sum(), np.trace(fitted.covariance_), rtol=.02)
        axis = np.linalg.svd(real - real.mean(0))[2][[0, -1]]   # the strongest direction of the rows, and one in which they do not vary
        np.testing.assert_allclose(np.var(made @ axis.T, 0), np.diag(axis @ fitted.covariance_ @ axis.T), rtol=.1)


def test_gaussians_of_equal_rows_and_constant_columns():
    X, y = data()
    X[:, 2], X[y == 1] = 0, 3
    rows, labels = oversample("gaussian", X, y, 3, 50, 0)
    assert np.isfinite(rows).all()
    np.testing.assert_array_equal(rows[labels == 1], np.full((50, 5), 3))


# Mixup

def test_labels_are_mixed_like_rows():
    X, y = data()
    X[:, :3] = np.eye(3)[y]
    rows, labels = oversample("mixup", X, y, 3, 400, 0, dict(alpha=1.))
    np.testing.assert_allclose(rows[:, :3], labels, atol=1e-6)
    assert ((labels > .01).sum(1) == 2).mean() > .5


def test_first_partners_are_balanced_and_second_ones_as_in_training():
    X, y = data((500, 60, 40))
    _, labels = mixup_rows(X, y, 3, 20_000, 0, 1.)
    np.testing.assert_allclose(labels.mean(0), (np.full(3, 1/3) + np.bincount(y)/600)/2, atol=.01)
    for c in range(3): assert (labels[c*20_000:(c + 1)*20_000, c] > 0).all(), "a block has the class of its first partners"


@pytest.mark.parametrize("alpha", [.2, 1., 8.])
def test_shares_follow_the_beta_distribution(alpha):
    X, y = data((20, 20))
    _, labels = mixup_rows(X, y, 2, 40_000, 0, alpha)
    share = labels[:40_000, 0][labels[:40_000, 0] < 1 - 1e-12]   # of pairs of two classes
    np.testing.assert_allclose([share.mean(), share.var()], [.5, 1/(4*(2*alpha + 1))], atol=.01)


# SMOTE

@pytest.mark.parametrize("k, smallest", [(1, 12), (5, 12), (5, 4), (50, 2)])
def test_smote_lies_between_near_neighbours_of_a_class(k, smallest):
    X, y = data((30, 20, smallest), d=4)
    rows, labels = oversample("smote", X, y, 3, 60, 0, dict(k_neighbors=k))
    k = min(k, smallest - 1)
    for c in range(3):
        own = X[y == c].astype("float64")
        near = np.linalg.norm(own[:, None] - own, axis=2).argsort(1)[:, 1:k + 1]
        a, b = np.repeat(own, k, 0), own[near.ravel()]
        for z in rows[labels == c].astype("float64"):
            t = ((z - a)*(b - a)).sum(1)/np.square(b - a).sum(1)
            gap = np.linalg.norm(a + t.clip(0, 1)[:, None]*(b - a) - z, axis=1)
            assert gap.min() < 1e-5
    assert len(np.unique(rows, axis=0)) == 180


def test_without_imbalanced_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "imblearn", None)
    with pytest.raises(ImportError, match=r"pip install 'ser_nb\[stats\]'"): oversample("smote", *data(), 3, 7, 0)


# The autoencoder

@pytest.mark.parametrize("k", [2, 3, 4, 7])
def test_the_prior_is_a_flower(k):
    codes = prior_codes(torch.arange(k).repeat_interleave(20_000), k, torch.Generator().manual_seed(0)).double().view(k, -1, 2).numpy()
    for c in range(k):
        angle = -2*np.pi*c/k
        ray = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        turned = codes[c] @ ray.T
        np.testing.assert_allclose(turned.mean(0), [RADIUS, 0], atol=.1)
        np.testing.assert_allclose(np.cov(turned.T), np.diag([ALONG, ACROSS]), atol=.3)
    if k == 4: np.testing.assert_allclose(codes.mean(1), [[10, 0], [0, -10], [-10, 0], [0, 10]], atol=.1)


class Network(nn.Sequential):
    "A network of the autoencoder as anybody would write it, with given masks in the place of dropout"
    def __init__(self, weights):
        n = len(weights)//2
        super().__init__(*(nn.Linear(*weights[f"w{i}"].shape[1:]) for i in range(n)))
        for i in range(n):
            self[i].weight.data = weights[f"w{i}"][0].T.clone()
            self[i].bias.data = weights[f"b{i}"][0, 0].clone()

    def forward(self, x, masks=None):
        for i, layer in enumerate(self):
            x = layer(x)
            if i < len(self) - 1: x = nn.functional.leaky_relu(x, .2)*(1 if masks is None else masks[i][0])
        return x


def reference(X, y, k, seed, hidden, lr, batch_size, keep_prob, train_epochs):
    "(networks, losses of each epoch) of the published order of steps, every network's gradients cleared before each"
    nets = {net: Network(w) for net, w in init_aae(X.shape[1], k, hidden, named_seed(seed, "weights")).items()}
    E, G, D = nets["encoder"], nets["decoder"], nets["discriminator"]
    adam = [torch.optim.Adam(parameters, lr=lr) for parameters in ([*E.parameters(), *G.parameters()], D.parameters(), E.parameters())]
    order, dropout, codes = (torch.Generator().manual_seed(named_seed(seed, name)) for name in ("order", "dropout", "prior"))
    X, y, one, zero, bce, curve = torch.as_tensor(X), torch.as_tensor(y), torch.ones(batch_size, 1), torch.zeros(batch_size, 1), nn.functional.binary_cross_entropy_with_logits, []
    def step(optimizer, loss):
        for net in nets.values(): net.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()
    for _ in range(train_epochs):
        losses = []
        for rows in torch.randperm(len(X), generator=order)[:len(X)//batch_size*batch_size].split(batch_size):
            x, told, masks = X[rows], torch.eye(k)[y[rows]], None
            real = prior_codes(y[rows], k, codes)
            masks = _masks(dropout, batch_size, hidden, keep_prob)
            def doubt(code): return D(torch.cat([code, told], 1), next(masks["discriminator"]))
            mse = step(adam[0], (G(E(x, next(masks["encoder"])), next(masks["decoder"])) - x).square().mean())
            made = E(x, next(masks["encoder"])).detach()
            told_apart = step(adam[1], .5*bce(doubt(real), one) + .5*bce(doubt(made), zero))
            for _ in range(10): deceived = step(adam[2], bce(doubt(E(x, next(masks["encoder"]))), one))
            losses.append([mse, told_apart, deceived])
        curve.append(np.mean(losses, 0))
    return nets, np.array(curve)


@pytest.mark.parametrize("change", [{}, dict(keep_prob=dict.fromkeys(KEEP, 1)), dict(hidden=[9]), dict(batch_size=62, train_epochs=5), dict(lr=1e-4)], ids=str)
def test_the_autoencoder_is_a_plain_one(change):
    X, y = data()
    options = {**AAE, **change}
    aae, curve = train_aae(X, y, 3, 1, **options, device="cpu")
    nets, expected = reference(X, y, 3, 1, **options)
    np.testing.assert_allclose(curve, expected, rtol=2e-3, atol=1e-5)
    for net in nets:
        for i, layer in enumerate(nets[net]):
            np.testing.assert_allclose(aae[net][f"w{i}"][0], layer.weight.detach().T, rtol=1e-2, atol=2e-4)
            np.testing.assert_allclose(aae[net][f"b{i}"][0, 0], layer.bias.detach(), rtol=1e-2, atol=2e-4)
    with torch.no_grad():
        x, told = torch.as_tensor(X), torch.eye(3)[y]
        np.testing.assert_allclose(encode(aae, x), nets["encoder"](x), atol=5e-3)
        np.testing.assert_allclose(decode(aae, encode(aae, x)), nets["decoder"](nets["encoder"](x)), atol=5e-3)
        np.testing.assert_allclose(judge(aae, encode(aae, x), told), nets["discriminator"](torch.cat([nets["encoder"](x), told], 1)), atol=5e-3)
    assert not any(v.requires_grad for params in aae.values() for v in params.values())


def test_the_seed_reaches_the_networks_and_the_codes():
    X, y = data()
    expected = sample_aae(train_aae(X, y, 3, 4, **AAE)[0], 7, named_seed(4, "samples"))
    for a, b in zip(expected, oversample("aae", X, y, 3, 7, 4, AAE)): np.testing.assert_array_equal(a, b)
    for net, params in init_aae(5, 3, [12, 7], 0).items():
        for k, other in init_aae(5, 3, [12, 7], 1)[net].items(): assert k[0] == "b" or not torch.allclose(params[k], other)
    aae = train_aae(X, y, 3, 5, **AAE)[0]
    assert not np.allclose(sample_aae(aae, 7, 0)[0], expected[0]) and not np.allclose(sample_aae(aae, 7, 0)[0], sample_aae(aae, 7, 1)[0])


def test_masks_are_enough_and_of_each_network():
    masks = {net: list(m) for net, m in _masks(torch.Generator().manual_seed(0), 16, [12, 7], KEEP).items()}
    assert {net: len(m) for net, m in masks.items()} == dict(encoder=ENCODER_STEPS + 2, decoder=1, discriminator=ENCODER_STEPS + 2) and ENCODER_STEPS == 10
    assert [m.shape for m in masks["encoder"][3]] == [(1, 16, 12), (1, 16, 7)] and [m.shape for m in masks["decoder"][0]] == [(1, 16, 7), (1, 16, 12)]
    assert not torch.equal(masks["encoder"][0][0], masks["encoder"][1][0])
    for net, m in masks.items():
        assert set(torch.cat([part.flatten() for passed in m for part in passed]).unique().tolist()) == {0., float(np.float32(1)/np.float32(KEEP[net]))}
    assert all(part is None for m in _masks(torch.Generator(), 16, [12, 7], dict.fromkeys(KEEP, 1)).values() for part in m)


def test_codes_find_their_petals_and_samples_their_clouds():
    X, y = data((60, 50, 40), d=6, shift=1.5)
    aae, curve = train_aae(X, y, 3, 0, hidden=[64, 64], lr=4e-3, batch_size=75, keep_prob=dict.fromkeys(KEEP, 1), train_epochs=120, device="cpu")
    petals = np.array([[RADIUS*np.cos(a), RADIUS*np.sin(a)] for a in -2*np.pi*np.arange(3)/3])
    codes = encode(aae, torch.as_tensor(X)).numpy()
    assert (np.linalg.norm(codes[:, None] - petals, axis=2).argmin(1) == y).mean() > .9
    means = np.stack([X[y == c].mean(0) for c in range(3)])
    rows, labels = sample_aae(aae, 200, 0)
    assert (np.linalg.norm(rows[:, None] - means, axis=2).argmin(1) == labels).mean() > .9
    assert curve.shape == (120, 3) and curve[-1, 0] < .8*curve[0, 0]


def test_losses_that_are_not_finite_stop_the_training():
    X, y = data()
    with pytest.raises(FloatingPointError, match=r"not finite in epoch \d: lower lr=1e\+18"): train_aae(X, y, 3, 0, **{**AAE, "lr": 1e18}, device="cpu")
