"Distances between sets of features against plain references, on equal sets, on shifted ones and on columns that break sums"
import re
import warnings
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score, roc_auc_score

from ser_nb.evaluation.similarity import COMPARED, _draw, _folds, between_emotions, between_sets, check_sets, classifier_two_sample, fisher_ratio, map_2d, mmd, plot_distributions, plot_fisher, plot_map

EMOTIONS = ["angry", "happy", "neutral", "sad"]


@pytest.fixture
def rng(): return np.random.default_rng(0)


def labelled(rng, n=20, d=6, shift=0.): return {e: rng.normal(size=(n, d)) + shift for e in EMOTIONS}


# ---- Fisher's ratio ------------------------------------------------------------------------------------------------

def test_fisher_is_its_formula(rng):
    A, B = rng.normal(size=(50, 30))*rng.uniform(.1, 9, 30), rng.gamma(2, size=(33, 30))
    expected = [(A[:, j].mean() - B[:, j].mean())**2/(A[:, j].var() + B[:, j].var()) for j in range(30)]
    np.testing.assert_allclose(fisher_ratio(A, B), expected, rtol=1e-12)
    np.testing.assert_array_equal(fisher_ratio(A, B), fisher_ratio(B, A))
    assert fisher_ratio(A.astype("float32"), B.astype("float32")).dtype == np.float64


@pytest.mark.parametrize("scale, offset, rtol", [(1e-6, 0, 1e-9), (-3., 100., 1e-9), (1e9, -1e12, 1e-9), (1e-3, 1e6, 1e-5), (1e-120, 0, 1e-9), (1e120, 0, 1e-9)])
def test_fisher_does_not_depend_on_scale_and_origin(rng, scale, offset, rtol):
    A, B = rng.normal(size=(60, 8)), rng.normal(size=(40, 8)) + .5
    np.testing.assert_allclose(fisher_ratio(scale*A + offset, scale*B + offset), fisher_ratio(A, B), rtol=rtol)


def test_single_precision_with_a_large_mean(rng):
    A, B = ((1e8 + 64*rng.normal(size=(n, 3))).astype("float32") for n in (500, 400))
    expected = (A.mean(0, dtype="float64") - B.mean(0, dtype="float64"))**2/(A.var(0, dtype="float64") + B.var(0, dtype="float64"))
    np.testing.assert_allclose(fisher_ratio(A, B), expected, rtol=1e-6)


@pytest.mark.parametrize("value", [0., .1, 1/3, -7.3e-6, 1e9 + .1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_constant_features(rng, value, dtype):
    A, B = rng.normal(size=(37, 5)).astype(dtype), rng.normal(size=(1001, 5)).astype(dtype)
    A[:, 1] = B[:, 1] = A[:, 2] = A[:, 3] = value
    B[:, 2] = np.nextafter(np.asarray(value, dtype), np.asarray(2e9, dtype))
    ratios = fisher_ratio(A, B)
    assert ratios[1] == 0 and ratios[2] == np.inf and np.isfinite(ratios[[0, 3, 4]]).all()
    moved = B[:, 3].astype("float64") - value
    assert ratios[3] == pytest.approx(moved.mean()**2/moved.var(), rel=1e-4)


def test_tables_leave_out_what_is_infinite_and_count_it(rng):
    target = labelled(rng, d=4)
    for X in target.values(): X[:, 3] = 5
    syn = {e: X*1. for e, X in target.items()}
    syn["sad"][:, 3] = 6
    table = between_sets(target, {"syn": syn}).set_index("emotion")
    assert table.infinite.to_dict() == {"angry": 0, "happy": 0, "neutral": 0, "sad": 1} and np.isfinite(table[["mean", "max"]]).all(None)
    assert (table["mean"] == 0).all() and "up to 1 infinite" in plot_fisher(table.reset_index())._supxlabel.get_text()
    for X in syn.values(): X[:] = 7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nothing = between_sets({e: X*0 for e, X in target.items()}, {"syn": syn})
        texts = [t.get_text() for t in plot_fisher(nothing).axes[0].texts]
    assert nothing["mean"].isna().all() and (nothing.infinite == 4).all() and set(texts) == {"–"}


# ---- tables --------------------------------------------------------------------------------------------------------

def test_between_sets_is_the_mean_and_maximum_of_each_emotion(rng):
    target, syn, source = labelled(rng), labelled(rng, 15, shift=1), rng.normal(size=(40, 6)) + 3
    table = between_sets(target, {"source": source, "syn": dict(reversed(syn.items()))})
    assert list(table.columns) == ["set", "emotion", "mean", "max", "infinite"] and list(table.set) == ["source"]*4 + ["syn"]*4 and list(table.emotion) == EMOTIONS*2
    whole = fisher_ratio(source, np.concatenate(list(target.values())))
    expected = [whole]*4 + [fisher_ratio(target[e], syn[e]) for e in EMOTIONS]
    np.testing.assert_allclose(table[["mean", "max"]], [(r.mean(), r.max()) for r in expected])


def test_between_emotions_is_every_pair_of_each_set(rng):
    sets = {"target": labelled(rng), "syn": labelled(rng)}
    table = between_emotions(sets)
    assert list(table.pair) == ["angry-happy", "angry-neutral", "angry-sad", "happy-neutral", "happy-sad", "neutral-sad"]*2
    expected = [fisher_ratio(s[a], s[b]) for s in sets.values() for a, b in combinations(EMOTIONS, 2)]
    np.testing.assert_allclose(table[["mean", "max"]], [(r.mean(), r.max()) for r in expected])


def test_the_order_of_rows_is_irrelevant(rng):
    target, syn = labelled(rng), labelled(rng, shift=.3)
    shuffled = {e: X[rng.permutation(len(X))] for e, X in syn.items()}
    pd.testing.assert_frame_equal(between_sets(target, {"syn": syn}), between_sets(target, {"syn": shuffled}))


def test_tables_refuse_other_emotions_and_name_the_set(rng):
    target, syn = labelled(rng), labelled(rng)
    less = {e: X for e, X in syn.items() if e != "sad"}
    with pytest.raises(ValueError, match="set 'syn' has the emotions angry, happy, neutral and set 'target' has angry, happy, neutral, sad"): between_sets(target, {"syn": less})
    with pytest.raises(ValueError, match="set 'syn' has the emotions"): between_emotions({"target": target, "syn": less})
    with pytest.raises(ValueError, match="set 'target' has a single emotion"): between_emotions({"target": {"sad": target["sad"]}})
    with pytest.raises(ValueError, match="set 'syn, sad': 1 of 20 rows have NaN"): between_sets(target, {"syn": {**syn, "sad": np.vstack([syn["sad"][1:], [[np.nan]*6]])}})
    with pytest.raises(ValueError, match="set 'source' has 5 features and set 'target' has 6"): between_sets(target, {"source": np.ones((4, 5))})


# ---- bad input -----------------------------------------------------------------------------------------------------

BAD = [(np.ones((1, 3)), "has the shape (1, 3)"), (np.ones((0, 3)), "has the shape (0, 3)"), (np.ones(3), "has the shape (3,)"), (np.ones((5, 0)), "has the shape (5, 0)"), (np.ones((5, 4)), "has 4 features and set 'A' has 3"),
       (np.array([[1, 2, np.inf], [1, 2, 3]]), "1 of 2 rows have NaN or infinite features"), (np.array([["a", "b", "c"]]*2), "holds <U1: expected numbers")]


@pytest.mark.parametrize("measure", [fisher_ratio, mmd, classifier_two_sample], ids=lambda f: f.__name__)
@pytest.mark.parametrize("X, words", BAD, ids=[w for _, w in BAD])
def test_bad_sets_are_named(measure, X, words):
    with pytest.raises(ValueError, match=re.escape(f"set 'B'{':' if words[0].isdigit() else ''} {words}")): measure(np.arange(30.).reshape(10, 3), X)


def test_whole_numbers_are_numbers():
    assert fisher_ratio(np.array([[200], [100]], "uint8"), np.array([[0], [20]], "uint8")) == pytest.approx([140**2/(50**2 + 10**2)])
    assert [X.dtype for X in check_sets({"a": np.eye(2, dtype=bool), "b": np.eye(2, dtype="float32")})] == ["float64", "float32"]


# ---- maximum mean discrepancy --------------------------------------------------------------------------------------

def mmd_by_loops(A, B):
    "(squared MMD, bandwidth) as the formulas are written"
    both = np.concatenate([A, B])
    spread = both.std(0)
    A, B, both = ((X - both.mean(0))/np.where(spread > 0, spread, 1) for X in (A, B, both))
    s = np.median([np.linalg.norm(x - y) for x, y in combinations(both, 2)])
    def k(x, y): return np.exp(-np.sum((x - y)**2)/(2*s*s))
    m, n = len(A), len(B)
    return (sum(k(A[i], A[j]) for i in range(m) for j in range(m) if i != j)/(m*(m - 1)) + sum(k(B[i], B[j]) for i in range(n) for j in range(n) if i != j)/(n*(n - 1))
            - 2*sum(k(a, b) for a in A for b in B)/(m*n)), s


@pytest.mark.parametrize("m, n, d", [(2, 2, 1), (2, 3, 2), (12, 17, 5), (20, 9, 40)])
@pytest.mark.parametrize("constant", [None, .25])
def test_mmd_is_its_double_loop(rng, m, n, d, constant):
    A, B = rng.normal(size=(m, d))*np.logspace(-3, 3, d), rng.normal(size=(n, d))*np.logspace(-3, 3, d) + .3
    if constant and d > 1: A[:, 0] = B[:, 0] = constant
    found, (expected, s) = mmd(A, B, n_permutations=1), mmd_by_loops(A, B)
    assert found["mmd2"] == pytest.approx(expected, rel=1e-9) and found["bandwidth"] == pytest.approx(s, rel=1e-9) and (found["n_A"], found["n_B"]) == (m, n)


def test_mmd_p_is_that_of_all_permutations(rng):
    A, B = rng.normal(size=(4, 3)), rng.normal(size=(5, 3)) + .8
    both, found = np.concatenate([A, B]), mmd_by_loops(A, B)[0]
    null = [mmd_by_loops(both[list(c)], np.delete(both, c, 0))[0] for c in combinations(range(9), 4)]
    exact = np.mean(np.array(null) >= found - 1e-12)
    assert mmd(A, B, n_permutations=20000)["p"] == pytest.approx(exact, abs=.012) and .01 < exact < .6


def test_mmd_of_equal_sets_is_about_zero_and_its_p_uniform(rng):
    found = pd.DataFrame([mmd(*(rng.normal(size=(n, 8)) for n in (25, 35)), seed=i, n_permutations=99) for i in range(200)])
    assert abs(found.mmd2.mean()) < 3*found.mmd2.std()/200**.5 and (found.mmd2 < 0).any()
    assert np.abs(np.quantile(found.p, [.1, .25, .5, .75, .9]) - [.1, .25, .5, .75, .9]).max() < .12


def test_mmd_finds_what_fisher_cannot_see(rng):
    A, wide = rng.normal(size=(150, 10)), 1.6*rng.normal(size=(150, 10))
    turned = rng.normal(size=(150, 10))
    turned[:, 5:] = turned[:, :5]
    for other in (wide, turned): assert mmd(A, other)["p"] == .001 and fisher_ratio(A, other).max() < .1


def test_mmd_does_not_depend_on_scale_and_origin(rng):
    A, B = rng.normal(size=(30, 4)), rng.normal(size=(40, 4)) + .3
    scale, offset = np.array([1e-6, 1e9, -5, 1]), np.array([0, 1e12, 1e4, 0])
    assert mmd(A*scale + offset, B*scale + offset) == pytest.approx(mmd(A, B), rel=1e-6)


def test_mmd_of_collapsed_sets(rng):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alike = mmd(np.ones((20, 3)), np.ones((30, 3)))
        collapsed = mmd(rng.normal(size=(20, 3)), np.zeros((60, 3)))
    assert (alike["mmd2"], alike["p"]) == (0, 1) and collapsed["p"] < .01 and collapsed["bandwidth"] > 0


# ---- a classifier --------------------------------------------------------------------------------------------------

def test_equal_sets_cannot_be_told_apart_and_p_is_right(rng):
    found = pd.DataFrame([classifier_two_sample(*(rng.normal(size=(n, 10)) for n in (40, 50)), seed=i) for i in range(40)])
    assert abs(found.auc.mean() - .5) < .04 and abs(found.balanced_accuracy.mean() - .5) < .04
    assert (found.p < .1).mean() <= .25 and (found.p < .5).mean() == pytest.approx(.5, abs=.25) and ((found.auc_low < .5) & (.5 < found.auc_high)).mean() > .85


def test_the_classifier_is_a_logistic_regression_on_z_scores_of_the_training_rows(rng):
    A, B = rng.gamma(2, size=(90, 20))*np.logspace(-6, 9, 20), (rng.gamma(2, size=(25, 20)) + .4)*np.logspace(-6, 9, 20)
    X, y, aucs, recalls = np.concatenate([A, B]), np.repeat([0, 1], [90, 25]), [], []
    for train, test in _folds(y, np.arange(115), 3):
        mean, spread = X[train].mean(0), X[train].std(0)
        model = LogisticRegression(C=.1, class_weight="balanced", max_iter=1000).fit((X[train] - mean)/spread, y[train])
        aucs.append(roc_auc_score(y[test], model.predict_proba((X[test] - mean)/spread)[:, 1]))
        recalls.append(recall_score(y[test], model.predict((X[test] - mean)/spread), average="macro"))
    found, half = classifier_two_sample(A, B, seed=3), 2.262157*np.sqrt((1/10 + 1/9)*np.var(aucs, ddof=1))
    assert found["auc"] == pytest.approx(np.mean(aucs)) and found["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert (found["auc_low"], found["auc_high"]) == pytest.approx((np.mean(aucs) - half, min(np.mean(aucs) + half, 1)))


def test_intervals_stay_within_0_and_1(rng):
    found = [classifier_two_sample(rng.normal(size=(4, 2)), rng.normal(size=(4, 2)), seed=i) for i in range(5)]
    assert min(f["auc_low"] for f in found) == 0 and max(f["auc_high"] for f in found) == 1


def test_shifted_sets_are_told_apart(rng):
    A, B = rng.normal(size=(150, 30)), rng.normal(size=(80, 30))
    small, perfect = classifier_two_sample(A, B + .3), classifier_two_sample(A, B + 9)
    assert .7 < small["auc_low"] < small["auc"] < small["auc_high"] < 1 and small["p"] < 1e-4 and small["balanced_accuracy"] > .7
    assert perfect["auc"] == perfect["auc_high"] == perfect["balanced_accuracy"] == 1 and .95 < perfect["auc_low"] < .99 and 0 < perfect["p"] < 1e-6


def test_groups_stay_together(rng):
    speakers = np.repeat(np.arange(12), 20)
    X = rng.normal(size=(240, 60)) + .6*rng.normal(size=(12, 60))[speakers]
    loose, grouped = classifier_two_sample(X[:120], X[120:]), classifier_two_sample(X[:120], X[120:], speakers[:120], speakers[120:])
    assert loose["p"] < .001 < .05 < grouped["p"] and (loose["folds"], grouped["folds"]) == (10, 6)
    half = classifier_two_sample(X[:120], X[120:], groups_B=[f"u{i//2}" for i in range(120)])
    assert half["folds"] == 10


def test_a_group_in_both_sets_is_one_group(rng):
    "Each real row and its near copy: apart in the folds the copy gives the row away as synthetic, together it can't"
    A = rng.normal(size=(100, 80))
    B = A + .1*rng.normal(size=A.shape)
    names = [f"u{i}" for i in range(100)]
    assert classifier_two_sample(A, B)["auc_high"] < .3
    assert abs(classifier_two_sample(A, B, names, names)["auc"] - .5) < .12


@pytest.mark.parametrize("groups, words", [((["s"]*10, None), "all belong to one group"), ((["s"]*9, None), "set 'A' has 10 rows and 9 groups"), ((None, ["s"]*11), "set 'B' has 10 rows and 11 groups"),
                                           ((["a"]*5 + ["both"]*5, ["both"]*5 + ["b"]*5), "no two folds in which both sets occur")])
def test_groups_that_cannot_be_split(rng, groups, words):
    with pytest.raises(ValueError, match=words): classifier_two_sample(rng.normal(size=(10, 3)), rng.normal(size=(10, 3)), *groups)


def test_identical_and_constant_sets_are_indistinguishable():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = classifier_two_sample(np.ones((20, 3)), np.ones((20, 3)))
    assert found["auc"] == found["balanced_accuracy"] == found["p"] == .5


def test_columns_of_any_scale_reach_the_classifier(rng):
    A, B = rng.normal(size=(60, 5)), rng.normal(size=(60, 5))
    B[:, 0] += 3
    scale, offset = np.array([1e-6, 1e9, 1, 1, 0]), np.array([1e3, 1e12, 0, 1, 3.3])
    raw, plain = classifier_two_sample(A*scale + offset, B*scale + offset), classifier_two_sample(A*np.sign(scale), B*np.sign(scale))
    assert raw == pytest.approx(plain, rel=1e-3) and raw["auc"] > .95


# ---- rows drawn by a seed ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("measure", [mmd, classifier_two_sample], ids=lambda f: f.__name__)
def test_same_seed_same_numbers_and_large_sets_are_drawn_from(rng, measure):
    A, B = rng.normal(size=(90, 6)), rng.normal(size=(70, 6)) + .2
    assert measure(A, B, seed=1) == measure(A, B, seed=1) and measure(A, B, seed=1) != measure(A, B, seed=2)
    drawn = measure(A, B, seed=1, max_rows=40)
    assert drawn == measure(A, B, seed=1, max_rows=40) and (drawn["n_A"], drawn["n_B"]) == (40, 40) and drawn != measure(A, B, seed=2, max_rows=40)
    mixed = measure(A, B, seed=1, max_rows=80)
    assert (mixed["n_A"], mixed["n_B"]) == (80, 70) and measure(A, B, seed=1, max_rows=90) == measure(A, B, seed=1)
    with pytest.raises(ValueError, match="max_rows=1: expected 2 or more"): measure(A, B, max_rows=1)


def test_groups_are_drawn_with_their_rows(rng):
    "Rows whose group is readable from their features: a mixed-up group would let the classifier see a held-out one"
    speakers = np.repeat(np.arange(10), 60)
    X = 8*rng.normal(size=(10, 30))[speakers] + rng.normal(size=(600, 30))
    found = [classifier_two_sample(X[:300], X[300:], speakers[:300], speakers[300:], seed, max_rows=100) for seed in range(4)]
    assert all(f["folds"] == 5 and f["p"] > .01 for f in found) and classifier_two_sample(X[:300], X[300:], max_rows=100)["auc"] > .99


def test_two_sets_of_the_same_size_are_drawn_apart():
    X = np.zeros((90, 1))
    assert len(set(_draw(X, 40, 0, "A")) & set(_draw(X, 40, 0, "B"))) < 35 and len(set(_draw(X, 40, 0, "A"))) == 40


def test_at_least_one_permutation(rng):
    with pytest.raises(ValueError, match="n_permutations=0"): mmd(rng.normal(size=(9, 3)), rng.normal(size=(9, 3)), n_permutations=0)


# ---- maps ----------------------------------------------------------------------------------------------------------

def test_the_map_is_the_principal_components_of_the_real_rows(rng):
    target, syn = labelled(rng, 30, 5), labelled(rng, 10, 5, shift=2)
    points = map_2d({"target": target, "syn": syn, "source": rng.normal(size=(7, 5))})
    assert list(points.columns) == ["set", "emotion", "x", "y"] and list(points.emotion) == [e for e in EMOTIONS for _ in range(30)] + [e for e in EMOTIONS for _ in range(10)] + [""]*7
    real = np.concatenate(list(target.values()))
    Z = (real - real.mean(0))/real.std(0)
    axes = np.linalg.svd(Z)[2][:2]
    everything = (np.concatenate([real, *syn.values()]) - real.mean(0))/real.std(0)
    np.testing.assert_allclose(np.abs(points[["x", "y"]].to_numpy()[:160]), np.abs(everything @ axes.T), atol=1e-6)


def test_the_synthetic_rows_do_not_turn_the_map(rng):
    target, syn = labelled(rng, 30, 5), labelled(rng, 10, 5, shift=50)
    alone, beside = map_2d({"target": target}), map_2d({"target": target, "syn": syn})
    np.testing.assert_allclose(beside[beside.set == "target"][["x", "y"]], alone[["x", "y"]], atol=1e-6)
    turned = map_2d({"target": target, "syn": syn}, reference=["target", "syn"])
    assert not np.allclose(turned[turned.set == "target"][["x", "y"]], alone[["x", "y"]], atol=.1)


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_maps_repeat_with_their_seed_and_bear_constant_columns(rng, method):
    target, syn = labelled(rng, 12), labelled(rng, 12, shift=1)
    for X in target.values(): X[:, 0], X[:, 1] = .1, X[:, 1]*1e-6 + 1e3
    points = map_2d({"target": target, "syn": syn}, 3, method=method, max_rows=8)
    pd.testing.assert_frame_equal(points, map_2d({"target": target, "syn": syn}, 3, method=method, max_rows=8))
    assert len(points) == 64 and np.isfinite(points[["x", "y"]]).all(None) and points.x.std() > 0


def test_maps_refuse_what_they_cannot_draw(rng):
    target = labelled(rng)
    with pytest.raises(ValueError, match="unknown method 'umap'"): map_2d({"target": target}, method="umap")
    with pytest.raises(ValueError, match="unknown set 'targe': did you mean 'target'"): map_2d({"target": target}, reference=["targe"])
    with pytest.raises(ValueError, match="target: 0 features vary"): map_2d({"target": np.ones((5, 4))})
    with pytest.raises(ValueError, match="set 'syn, sad' has the shape"): map_2d({"target": target, "syn": {"sad": np.ones(6)}})


# ---- figures -------------------------------------------------------------------------------------------------------

def test_heat_maps_show_mean_and_maximum(rng):
    table = between_sets(labelled(rng), {"source": rng.normal(size=(30, 6)), "syn_0": labelled(rng)})
    ax = plot_fisher(table, "title").axes[0]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["source–target", "syn_0–target"] and [t.get_text() for t in ax.get_yticklabels()] == EMOTIONS
    last = table.iloc[-1]
    assert ax.texts[-1].get_text() == f"{last['mean']:.2f} ({last['max']:.2f})" and {t.get_fontsize() for t in ax.texts} == {12} and ax.images[0].cmap.name == "coolwarm"
    pairs = plot_fisher(between_emotions({"target": labelled(rng), "syn_0": labelled(rng)})).axes[0]
    assert [t.get_text() for t in pairs.get_yticklabels()] == ["target", "syn_0"] and len(pairs.texts) == 12 and pairs.images[0].get_array().shape == (2, 6)


def test_the_published_features_are_there_under_these_names():
    from ser_nb.features.functionals import feature_names
    assert len(COMPARED) == len(set(COMPARED)) == 12 and set(COMPARED) <= set(feature_names("emobase2010"))


def test_distributions_are_means_and_sample_deviations(rng):
    X = rng.normal(size=(9, 3))
    ax = plot_distributions({"a": X, "b": X*2}, ["p", "q", "r"], ["r", "p"]).axes[0]
    for i, (container, factor) in enumerate(zip(ax.containers, (1, 2))):
        line, _, (bars,) = container
        np.testing.assert_allclose(line.get_xdata(), np.arange(2) - .3 + .12*i)
        np.testing.assert_allclose(line.get_ydata(), factor*X[:, [2, 0]].mean(0))
        np.testing.assert_allclose([np.ptp(s[:, 1])/2 for s in bars.get_segments()], factor*X[:, [2, 0]].std(0, ddof=1))


def test_distributions_refuse_what_they_cannot_draw(rng):
    X = rng.normal(size=(9, 3))
    with pytest.raises(ValueError, match=re.escape("unknown feature 'loudness': nearest of the 3 that the sets have are loudness_sma3,")): plot_distributions({"a": X}, ["F0", "loudness_sma3", "x"], ["loudness"])
    with pytest.raises(ValueError, match="2 feature names for 3 features"): plot_distributions({"a": X}, ["p", "q"], ["p"])
    with pytest.raises(ValueError, match="7 sets: expected 1 to 6"): plot_distributions({str(i): X for i in range(7)}, list("pqr"), ["p"])
    with pytest.raises(ValueError, match="0 sets: expected 1 to 6"): plot_distributions({}, list("pqr"), ["p"])


def test_maps_tell_sets_by_marker_and_emotions_by_colour(rng):
    points = map_2d({"target": labelled(rng), "syn": labelled(rng), "source": rng.normal(size=(9, 6))})
    figure = plot_map(points)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["target", "syn", "source", *EMOTIONS] and len(figure.axes[0].collections) == 9
    real, synthetic = figure.axes[0].collections[0], figure.axes[0].collections[4]
    assert len(real.get_paths()[0].vertices) != len(synthetic.get_paths()[0].vertices), "another marker"
    np.testing.assert_allclose(real.get_facecolor()[0][:3], synthetic.get_edgecolor()[0][:3])
