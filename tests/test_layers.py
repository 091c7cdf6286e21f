"Likeness of layers against its definition, linear probes against scikit-learn's, and what must not leak between them"
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from ser_nb.core import LeakageError
from ser_nb.data.partition import Fold, Guard, make_partition
from ser_nb.evaluation import layers
from ser_nb.evaluation.layers import STRENGTHS, as_layers, cca_r2, cka, cka_map, fit_probes, layer_scores, plot_cka, plot_probes, probe_layers
from ser_nb.metrics import uar
from ser_nb.run import PREDICTION_COLUMNS, check_predictions

pytestmark = pytest.mark.usefixtures("one_thread")
EMOTIONS = ["angry", "happy", "sad"]


def noise(*shape, seed=0): return np.random.default_rng(seed).normal(size=shape)


# Likeness

def centred(X):
    X = (X - X.mean(0))/np.where(X.std(0) > 0, X.std(0), 1)
    return X - X.mean(0)


def test_cka_is_the_alignment_of_centred_gram_matrices():
    X, Y = noise(50, 8), noise(50, 5, seed=1) + noise(50, 8)[:, :5]
    K, M = (centred(A) @ centred(A).T for A in (X, Y))
    assert cka(X, Y) == pytest.approx((K*M).sum()/np.sqrt((K*K).sum()*(M*M).sum()), rel=1e-12)


def test_cka_of_functionals_with_huge_and_tiny_columns():
    X = noise(60, 4)
    scaled = X*[1e9, 1e-6, 1, -3] + [1e9, 0, -5, 1e3]
    assert cka(X, np.hstack([scaled, np.full((60, 2), 7.)])) == pytest.approx(1, abs=1e-9)
    assert 0 < cka(X, noise(60, 4, seed=1)) < .2


@pytest.mark.parametrize("block", [1, 700, 10**9], ids=["rows one by one", "a few rows", "all rows"])
def test_a_map_is_cka_of_each_pair_however_it_is_cut(monkeypatch, block):
    monkeypatch.setattr(layers, "GRAM_BYTES", 8*block)
    A, B = noise(40, 3, 6).astype("float32"), noise(40, 2, 70, seed=1)
    B[:, 0, :6] += A[:, 1]
    expected = [[cka(A[:, i], B[:, j]) for j in range(2)] for i in range(3)]
    np.testing.assert_allclose(cka_map(A, B), expected, rtol=1e-9)
    np.testing.assert_allclose(cka_map(A, B[:, 1]), np.array(expected)[:, 1:], rtol=1e-9)


def test_cca_is_the_mean_of_the_squared_canonical_correlations():
    X, Y = noise(80, 6), noise(80, 4, seed=1) + noise(80, 6)[:, :4]
    Sx, Sy, Sxy = (A.T @ B for A, B in ((centred(X), centred(X)), (centred(Y), centred(Y)), (centred(X), centred(Y))))
    squared = np.linalg.eigvals(np.linalg.solve(Sy, Sxy.T) @ np.linalg.solve(Sx, Sxy)).real
    assert cca_r2(X, Y) == pytest.approx(squared.mean(), rel=1e-9) == cca_r2(Y, X)
    assert cca_r2(np.hstack([X, X[:, :3] + X[:, 3:], np.ones((80, 1))]), Y) == pytest.approx(cca_r2(X, Y), rel=1e-9)


@pytest.mark.parametrize("work", [cka, cka_map, cca_r2], ids=["cka", "cka_map", "cca_r2"])
@pytest.mark.parametrize("X, Y, words", [(noise(9, 2), noise(8, 2), "9 rows and Y has 8"), (noise(9, 2), np.ones((9, 2)), "no column varies over 9 rows"), (noise(9, 2), np.full((9, 2), np.nan), "9 of 9 rows have NaN"),
                                         (noise(1, 2), noise(1, 2), "two rows or more"), (noise(9), noise(9, 2), r"shape \(9,\)")], ids=["rows", "constant", "nan", "one row", "vector"])
def test_what_cannot_be_compared(work, X, Y, words):
    with pytest.raises(ValueError, match=words): work(X, Y)


def test_as_many_columns_as_rows_are_refused_by_cca():
    with pytest.raises(ValueError, match="10 rows and 9 independent columns correlate perfectly"): cca_r2(noise(10, 30), noise(10, 2, seed=1))


# The solver

def stack_of(n=90, d=12, k=3, problems=4, seed=0, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, (problems, n))
    Z = rng.normal(size=(problems, n, d)) + .8*rng.normal(size=(problems, k, d))[np.arange(problems)[:, None], y]
    counts = np.stack([np.bincount(row, minlength=k) for row in y])
    weight = 1/(k*np.take_along_axis(counts, y, 1))
    return torch.as_tensor(Z, dtype=dtype), torch.eye(k, dtype=dtype)[torch.as_tensor(y)].mT, torch.as_tensor(weight, dtype=dtype), y


@pytest.mark.parametrize("d", [1, 12, 150], ids=["one column", "fewer columns than rows", "more columns than rows"])
@pytest.mark.parametrize("k", [2, 5])
def test_the_fit_is_scikit_learns_with_balanced_classes(d, k):
    "Of two classes scikit-learn fits one plane, whose square is twice the sum of the squares of two opposite ones"
    Z, Y, weight, y = stack_of(d=d, k=k, problems=2)
    W = fit_probes(Z*3 + 1, Y, weight, torch.tensor([[.01, 1.]]*2, dtype=torch.float64), tolerance=1e-10)
    for i in range(2):
        for s, strength in enumerate((.01, 1.)):
            model = LogisticRegression(C=(2 if k == 2 else 1)/(strength*90), class_weight="balanced", solver="newton-cholesky", tol=1e-8).fit(Z[i]*3 + 1, y[i])
            found = ((Z[i]*3 + 1) @ W[i, s, :, :-1].T + W[i, s, :, -1]).softmax(1)
            np.testing.assert_allclose(found, model.predict_proba(Z[i]*3 + 1), atol=1e-6)


def test_single_precision_is_as_near_as_its_tolerance():
    Z, Y, weight, _ = stack_of(d=100)
    strengths = torch.tensor([STRENGTHS]*4, dtype=torch.float64)
    exact, single = fit_probes(Z, Y, weight, strengths, tolerance=1e-10), fit_probes(Z.float(), Y.float(), weight.float(), strengths.float())
    p, q = (torch.einsum("bnd,bskd->bskn", Z, W[..., :-1].double()).add(W[..., -1:]).softmax(2) for W in (exact, single))
    assert (p - q).abs().max() < 5e-3


def test_a_probe_does_not_depend_on_its_company_nor_on_padding():
    Z, Y, weight, _ = stack_of()
    strengths = torch.tensor([[.03, .3, 3.]]*4, dtype=torch.float64)
    together = fit_probes(Z, Y, weight, strengths)
    padded = [torch.nn.functional.pad(part, pad) for part, pad in ((Z, (0, 0, 0, 25)), (Y, (0, 25)), (weight, (0, 25)))]
    for i in range(4):
        alone = torch.cat([fit_probes(Z[i:i + 1], Y[i:i + 1], weight[i:i + 1], strengths[i:i + 1, s:s + 1]) for s in range(3)], 1)
        torch.testing.assert_close(together[i], alone[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(fit_probes(*padded, strengths, tolerance=1e-9), fit_probes(Z, Y, weight, strengths, tolerance=1e-9), rtol=0, atol=1e-6)


def test_strengths_leave_in_any_order():
    Z, Y, weight, _ = stack_of()
    order = [3., .03, 1., .1]
    W, back = (fit_probes(Z, Y, weight, torch.tensor([o]*4, dtype=torch.float64), tolerance=1e-9) for o in (order, order[::-1]))
    torch.testing.assert_close(W, back.flip(1), rtol=0, atol=1e-7)
    assert (W[..., :-1].norm(dim=(2, 3)).diff(dim=1).sign() == torch.tensor([1, -1, 1.])).all(), "weaker penalties leave longer weights"


@pytest.mark.parametrize("change", [lambda Z: Z*0, lambda Z: Z[..., :1].expand_as(Z), lambda Z: Z**5, lambda Z: Z*torch.logspace(-6, 1, Z.shape[-1])], ids=["constant", "all columns alike", "heavy tails", "many sizes"])
def test_awkward_columns_still_settle_at_the_smallest_loss(change):
    Z, Y, weight, _ = stack_of(dtype=torch.float32)
    Z = change(Z)
    Z = (Z - Z.mean(1, keepdim=True))/Z.std(1, keepdim=True).clamp(min=1e-3)
    W = fit_probes(Z, Y, weight, torch.full((4, 1), .01)).double().requires_grad_()
    logits = torch.einsum("bnd,bskd->bskn", Z.double(), W[..., :-1]) + W[..., -1:]
    loss = -(weight*(Y*logits[:, 0].log_softmax(1)).sum(1)).sum() + .005*W[..., :-1].square().sum()
    assert torch.autograd.grad(loss, W)[0].abs().max() < 1e-3


def test_a_class_without_rows_is_never_guessed():
    Z, Y, weight, _ = stack_of(problems=1)
    Y = torch.cat([Y, torch.zeros_like(Y[:, :1])], 1)
    W = fit_probes(Z, Y, weight, torch.tensor([[.1]], dtype=torch.float64))
    assert (Z[0] @ W[0, 0, :, :-1].T + W[0, 0, :, -1]).softmax(1)[:, 3].max() < 1e-4


def test_too_few_steps_are_said(monkeypatch):
    monkeypatch.setattr(layers, "STEPS", 3)
    with pytest.raises(FloatingPointError, match="had not settled after 3 steps"): fit_probes(*stack_of()[:3], torch.full((4, 2), .01, dtype=torch.float64))


# Probes of layers

def corpus(speakers=6, each=6, seed=0):
    "(states of three layers, table): nothing, something and much of the emotion"
    table = pd.DataFrame([dict(corpus="x", file=f"{s}-{e}-{i}.wav", start=0., end=np.nan, speaker=f"s{s}", gender=("female", "male")[s % 2], session="", emotion=e) for s in range(speakers) for e in EMOTIONS for i in range(each)])
    number = pd.Index(EMOTIONS).get_indexer(table.emotion)
    X = noise(len(table), 3, 10, seed=seed) + np.array([0, .7, 3])[:, None]*noise(3, 3, 10, seed=seed + 1)[number]
    return X.astype("float32"), table


def probed(X, table, folds=None, strengths=STRENGTHS, y=None):
    folds = make_partition(table) if folds is None else folds
    return probe_layers(X, table.emotion if y is None else y, folds, 3, [Guard(table, f) for f in folds], strengths)


@pytest.fixture(scope="module")
def made(one_thread):
    X, table = corpus()
    return X, table, probed(X, table)


def test_each_layer_is_a_table_of_predictions(made):
    X, table, predictions = made
    assert list(predictions) == [*PREDICTION_COLUMNS, "p_angry", "p_happy", "p_sad", "strength", "layer"] and list(predictions.layer.unique()) == [0, 1, 2]
    for _, part in predictions.groupby("layer"):
        assert sorted(part.file) == sorted(table.file) and (part.seed == 3).all() and set(part.strength) <= set(STRENGTHS)
        pd.testing.assert_frame_equal(check_predictions(part), part[list(check_predictions(part))].reset_index(drop=True))
        assert (part.set_index("file").truth == table.set_index("file").emotion.loc[part.file]).all()
        assert (part.filter(like="p_").to_numpy().argmax(1) == part.prediction.map(EMOTIONS.index)).all()


def test_the_curve_rises_where_there_is_more_to_find(made):
    scores = layer_scores(made[2])
    assert scores.uar[0] < .5 < scores.uar[1] < .95 < scores.uar[2] and (scores.uar_low <= scores.uar).all() and (scores.uar <= scores.uar_high).all()
    assert scores.uar[1] == pytest.approx(uar(*(made[2][made[2].layer == 1][c] for c in ("truth", "prediction")), EMOTIONS)) and list(scores.n) == [len(made[1])]*3


def test_a_probe_is_a_pipeline_of_scikit_learn(made):
    "Choice, standardisation and second fit, written out for one layer and fold"
    X, table, predictions = made
    fold, y = make_partition(table)[2], table.emotion.to_numpy(object)
    def fit(rows, strength):
        mean, sd = X[rows, 1].mean(0), X[rows, 1].std(0)
        model = LogisticRegression(C=1/(strength*len(rows)), class_weight="balanced", tol=1e-6, max_iter=2000).fit((X[rows, 1] - mean)/sd, y[rows])
        return lambda new: model.predict_proba((X[new, 1] - mean)/sd)
    dev = {s: uar(y[fold.dev], np.array(EMOTIONS, object)[fit(fold.train, s)(fold.dev).argmax(1)], EMOTIONS) for s in STRENGTHS}
    best = max(s for s in dev if dev[s] == max(dev.values()))
    found = predictions[(predictions.layer == 1) & (predictions.fold == 2)].set_index("file").loc[table.file.iloc[fold.test]]
    assert (found.strength == best).all()
    np.testing.assert_allclose(found.filter(like="p_"), fit(np.concatenate([fold.train, fold.dev]), best)(fold.test), atol=3e-3)


def test_alone_or_among_others_features_or_states_one_stack_or_many(made, monkeypatch):
    X, table, predictions = made
    expected = predictions[predictions.layer == 1].reset_index(drop=True)
    columns = [c for c in expected if c.startswith("p_")]
    for found in (probed(X[:, 1], table), probed(X[:, [1]].astype("float64"), table)):
        assert (found.layer == 0).all() and (found.strength == expected.strength).all()
        np.testing.assert_allclose(found[columns], expected[columns], atol=1e-3)
    monkeypatch.setitem(layers.STACK_BYTES, "cpu", 1)
    np.testing.assert_allclose(probed(X, table)[columns], predictions[columns], atol=1e-3)


def test_again_is_the_same_bytes(made):
    pd.testing.assert_frame_equal(probed(*made[:2]), made[2], check_exact=True)


def test_test_rows_change_nothing_but_their_own_predictions(made):
    X, table, predictions = made
    fold = make_partition(table)[0]
    other = X.copy()
    other[fold.test] = 1e3*noise(len(fold.test), 3, 10, seed=9)
    y = table.emotion.to_numpy(object).copy()
    y[fold.test] = "angry"
    a, b = (probed(states, table, [fold], y=labels) for states, labels in ((X, table.emotion), (other, y)))
    assert (a.strength == b.strength).all() and not (a.prediction == b.prediction).all()
    half = Fold(fold.name, fold.train, fold.dev, fold.test[::2])
    other[fold.test[::2]] = X[fold.test[::2]]
    c, d = (probed(states, table, [half], y=table.emotion) for states in (X, other))
    pd.testing.assert_frame_equal(c, d, check_exact=True)


def test_dev_speakers_choose_and_then_train():
    X, table = corpus()
    fold = make_partition(table)[0]
    without = Fold(fold.name, fold.train, fold.dev[:0], fold.test)
    joined = Fold(fold.name, np.concatenate([fold.train, fold.dev]), fold.dev[:0], fold.test)
    a, b, c = (probed(X, table, [f], (.3,)).filter(like="p_").to_numpy() for f in (fold, without, joined))
    np.testing.assert_allclose(a, c, atol=1e-6)
    assert abs(a - b).max() > .01


def test_the_guard_knows_both_fits_and_refuses_test_rows():
    X, table = corpus()
    folds = make_partition(table)
    guards = [Guard(table, f) for f in folds]
    probe_layers(X, table.emotion, folds, 0, guards)
    assert [[e["what"] for e in g.log] for g in guards] == [["probes while choosing", "probes"]]*6 and not any(e["test_rows"] for g in guards for e in g.log)
    leaky = Fold("leaky", np.concatenate([folds[0].train, folds[0].test[:1]]), folds[0].dev, folds[0].test)
    with pytest.raises(LeakageError, match="probes while choosing was about to be fitted on 1 rows"): probe_layers(X, table.emotion, [leaky], 0, [Guard(table, leaky)])


def test_folds_of_unequal_size_and_classes_that_only_some_speakers_have():
    X, table = corpus()
    few = ~((table.speaker == "s1") & (table.file.str[-5].astype(int) > 0)) & ~((table.speaker == "s2") & (table.emotion == "sad"))
    X, table = X[few], table[few].reset_index(drop=True)
    scores = layer_scores(probed(X, table))
    assert scores.uar[2] > .9 and scores.n[0] == few.sum()


@pytest.mark.parametrize("change, words", [
    (dict(y=["angry"]*7), "108 rows of states, 7 classes and 108 rows"), (dict(strengths=()), r"strengths=\(\): expected numbers above 0"), (dict(strengths=(.1, 0)), "expected numbers above 0"), (dict(strengths=(float("nan"),)), "expected numbers above 0"),
    (dict(X=np.full((108, 2, 3), np.inf)), "108 of 108 rows have NaN or infinite"), (dict(X=np.zeros((108, 2, 3, 4))), "expected \\(rows, layers, width\\)"), (dict(dev_share=0), "too few training speakers to hold one back for choosing among 5 strengths"),
    (dict(only="s3"), "fold 's3' has no training utterance of happy")], ids=["classes", "no strength", "zero", "nan", "infinite states", "four axes", "no dev", "absent class"])
def test_what_cannot_be_probed(change, words):
    X, table = corpus()
    y = table.emotion.where((table.emotion != "happy") | (table.speaker == change["only"]), "sad") if "only" in change else change.get("y", table.emotion)
    with pytest.raises(ValueError, match=words): probed(change.get("X", X), table, make_partition(table, dev_share=change.get("dev_share", .2)), change.get("strengths", STRENGTHS), y)


def test_a_single_strength_needs_no_dev_speakers():
    X, table = corpus()
    predictions = probed(X, table, make_partition(table, dev_share=0), (1.,))
    assert (predictions.strength == 1).all() and layer_scores(predictions).uar[2] > .95


def test_layers_of_a_matrix(): assert as_layers(np.ones((3, 4))).shape == (3, 1, 4) and as_layers(np.ones((3, 2, 4))).shape == (3, 2, 4)


# Figures

def test_figures_show_what_they_are_given(made):
    values = cka_map(made[0], made[0])
    figure = plot_cka(pd.DataFrame(values, index=["a", "b", "c"]), "title", ("checkpoint", "layer"))
    ax = figure.axes[0]
    np.testing.assert_allclose(ax.images[0].get_array(), values)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b", "c"] and (ax.get_ylabel(), ax.get_xlabel()) == ("checkpoint", "layer") and ax.images[0].origin == "lower"
    scores = layer_scores(made[2])
    ax = plot_probes({"encoder": scores}, {"functionals": scores[:1]}).axes[0]
    np.testing.assert_allclose(ax.lines[0].get_ydata().astype(float), scores.uar)
    assert ax.get_legend_handles_labels()[1] == ["functionals", "chance of 3 classes", "encoder"] and ax.lines[-2].get_ydata()[0] == scores.uar[0]
