"The losses of EmoNet: written out in numpy, for two and for more classes, with weights; orders of labels; errors in one sentence"
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ser_nb.models.losses import LOSSES, balanced_weights, cross_entropy, focal, make_loss, order_of, ordinal, soft_targets

pytestmark = pytest.mark.usefixtures("one_thread")


def given(classes, n=7):
    rng = torch.Generator().manual_seed(classes)
    return torch.randn(n, 1 if classes == 2 else classes, generator=rng)*2, torch.arange(n) % classes


def by_hand(name, logits, y, weights, faithful=False):
    "Row by row, in double precision"
    logits, y = logits.double().numpy(), y.numpy()
    total = 0
    for z, k in zip(logits, y):
        binary = len(z) == 1
        p = np.array([1/(1 + np.exp(z[0])), 1/(1 + np.exp(-z[0]))]) if binary else np.exp(z)/np.exp(z).sum()
        target = np.eye(len(p))[k]
        if name == "ordinal" and not binary:
            target = np.exp(-np.abs(np.arange(len(p)) - k))
            target /= target.sum()
        scale, power = (([.75, .25][k] if binary else .25), 2) if name == "focal" else (1, 0)
        total += weights[k]*sum(-scale*(1 - q)**power*t*np.log(q) for q, t in zip(p, target))
    return total/(1 if faithful and name == "focal" and logits.shape[1] == 1 else len(y))


@pytest.mark.parametrize("protocol", ["corrected", "faithful"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_those_of_the_formula(name, classes, weighted, protocol):
    logits, y = given(classes)
    weights = balanced_weights(y, classes) if weighted else None
    loss = make_loss(name, [str(i) for i in range(classes)], weights, protocol=protocol)(logits, y)
    np.testing.assert_allclose(loss.item(), by_hand(name, logits, y, np.ones(classes) if weights is None else weights.numpy(), protocol == "faithful"), rtol=1e-5)


def test_weights_count_once_and_by_rows():
    logits, y = given(3)
    weights = torch.tensor([1., 2., 5.])
    assert torch.isclose(cross_entropy(logits, y, weights), F.cross_entropy(logits, y, weights, reduction="sum")/len(y))
    assert torch.isclose(cross_entropy(logits[:1], y[:1], 4*torch.ones(3)), 4*cross_entropy(logits[:1], y[:1]))


@pytest.mark.parametrize("loss", [cross_entropy, focal, ordinal])
@pytest.mark.parametrize("classes", [2, 4])
def test_the_surest_mistake_still_has_a_slope(loss, classes):
    "Where probabilities clipped at 1e-7 have none"
    logits = torch.full((1, 1 if classes == 2 else classes), 40.) if classes == 2 else torch.tensor([[40., 0., 0., 0.]])
    logits.requires_grad_()
    value = loss(logits, torch.tensor([0 if classes == 2 else 3]))
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(logits.grad).all() and logits.grad.abs().max() > .1


def test_losses_of_half_precision_are_in_single():
    logits, y = given(3)
    assert all(make_loss(name, "123")(logits.bfloat16(), y).dtype == torch.float32 for name in LOSSES)


def test_ordinal_targets():
    targets = soft_targets([0, 1, 2])
    e = np.exp([0, -1, -2])
    np.testing.assert_allclose(targets[0], e/e.sum(), rtol=1e-6)
    torch.testing.assert_close(soft_targets([2, 0, 1]), targets[[2, 0, 1]][:, [2, 0, 1]])
    logits, y = given(3)
    assert torch.isclose(ordinal(logits, y, ranks=[0, 1, 2]), ordinal(logits, y)) and not torch.isclose(ordinal(logits, y, ranks=[1, 0, 2]), ordinal(logits, y))


@pytest.mark.parametrize("labels, order, ranks", [(["1", "10", "2"], None, [0, 2, 1]), ([3, -1, 0], None, [2, 0, 1]), (["Neutral", "positive", "negative"], None, [1, 2, 0]), (["medium", "low"], None, [1, 0]),
                                                  (["b", "a", "c"], ["c", "b", "a"], [1, 2, 0]), (["yes", "no"], None, [1, 0])], ids=range(6))
def test_orders_that_mean_something(labels, order, ranks, recwarn):
    assert order_of(labels, order) == ranks and not recwarn


def test_an_order_that_means_nothing_is_printed():
    with pytest.warns(UserWarning, match="angry < happy < sad, by the alphabet"): assert order_of(["sad", "angry", "happy"]) == [2, 0, 1]
    with pytest.warns(UserWarning, match="calm < low < medium"): make_loss("ordinal", ["low", "medium", "calm"])


@pytest.mark.parametrize("y, n", [([0, 0, 2], 3), ([0, 1], 3), ([0, 1, 2], 2), ([], 2)], ids=range(4))
def test_weights_need_rows_of_each_class(y, n):
    with pytest.raises(ValueError, match="leave out the classes that training lacks"): balanced_weights(torch.tensor(y, dtype=torch.long), n)


@pytest.mark.parametrize("options, words", [(dict(name="crossentropie"), "did you mean 'crossentropy'"), (dict(weights=[1.]), "1 weights for the 3 classes a, b, c"), (dict(order=list("abc")), "counts for the ordinal loss alone"),
                                            (dict(name="ordinal", order=list("abd")), "expected each of the labels once: a, b, c"), (dict(protocol="corect"), "did you mean 'corrected'")], ids=range(5))
def test_losses_that_cannot_be(options, words):
    with pytest.raises(ValueError, match=words): make_loss(**{"name": "focal", "labels": list("abc"), **options})
