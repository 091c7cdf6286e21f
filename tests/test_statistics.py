"Metrics against scikit-learn, resampling against plain loops, and what shuffling or a missing class must not change"
import itertools
import json
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score

from ser_nb.metrics import confusion, f1_macro, labels_of, mean_confusion, normalise_rows, per_repeat, recalls, uar, war
from ser_nb.statistics import FEW_SEEDS, almost_stochastic_order, bootstrap, class_mean, compare, hits_of, holm, interval, mcnemar, permutation_p, score, violation_ratio

LABELS = ["angry", "happy", "neutral", "sad"]
pytestmark = pytest.mark.filterwarnings("ignore:.*test speaker")


def answers(seed=0, n=200, right=.5, labels=LABELS, never=()):
    rng = np.random.default_rng(seed)
    truth = np.array(labels, object)[rng.choice(len(labels), n, p=np.arange(1, len(labels) + 1)/sum(range(len(labels) + 1)))]
    truth = np.where(np.isin(truth, list(never)), labels[0], truth)
    return truth, np.where(rng.random(n) < right, truth, np.array(labels, object)[rng.integers(0, len(labels), n)])


def predictions(seed=0, n=200, repeats=3, folds=2, speakers=10, right=.5, never=()):
    tables, truth = [], answers(0, n, never=never)[0]
    for r in range(repeats):
        rng = np.random.default_rng([seed, r])
        guess = np.where(rng.random(n) < right, truth, np.array(LABELS, object)[rng.integers(0, 4, n)])
        speaker = np.arange(n) % speakers
        tables.append(pd.DataFrame(dict(corpus="x", file=[f"{i}.wav" for i in range(n)], start=0., end=np.nan, speaker=[f"s{s}" for s in speaker], gender="", fold=speaker % folds, repeat=r, seed=r,
                                        truth=truth, prediction=guess, **{f"p_{e}": .25 for e in LABELS})))
    return pd.concat(tables, ignore_index=True)


# Metrics

@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", [list, np.array, lambda v: pd.Series(v, index=range(500, 500 + len(v))), lambda v: pd.Series(v, dtype="category")], ids=["list", "array", "series", "category"])
def test_metrics_equal_scikit_learn(seed, kind):
    truth, guess = answers(seed)
    a, b = kind(truth), kind(guess)
    assert uar(a, b, LABELS) == pytest.approx(balanced_accuracy_score(truth, guess), abs=1e-12)
    assert f1_macro(a, b, LABELS) == pytest.approx(f1_score(truth, guess, average="macro"), abs=1e-12)
    assert war(a, b) == pytest.approx(accuracy_score(truth, guess), abs=1e-12)
    np.testing.assert_array_equal(confusion(a, b, LABELS), confusion_matrix(truth, guess, labels=LABELS))


def test_a_class_that_is_not_tested_has_no_say():
    truth, guess = answers(1, never=["happy"])
    assert "happy" in guess
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")   # scikit-learn's, of a class that is only predicted
        assert uar(truth, guess, LABELS) == pytest.approx(balanced_accuracy_score(truth, guess), abs=1e-12)
    assert f1_macro(truth, guess, LABELS) == pytest.approx(f1_score(truth, guess, labels=["angry", "neutral", "sad"], average="macro"), abs=1e-12)
    assert recalls(truth, guess, LABELS)["happy"] is None and list(recalls(truth, guess, LABELS)) == LABELS


def test_constant_answers_have_chance():
    truth, _ = answers(2)
    for e in LABELS: assert uar(truth, [e]*200, LABELS) == .25
    assert uar(truth, truth, LABELS) == war(truth, truth) == f1_macro(truth, truth, LABELS) == 1


@pytest.mark.parametrize("truth, guess", [(["angry", "calm"], ["angry", "angry"]), (["angry", "angry"], ["angry", "calm"]), (["angry", None], ["angry", "angry"]), (["angry", ""], ["angry", "angry"])])
@pytest.mark.parametrize("metric", [uar, f1_macro, recalls, confusion])
def test_foreign_labels_are_refused(metric, truth, guess):
    with pytest.raises(ValueError, match="not among the classes"): metric(truth, guess, LABELS)


def test_the_uar_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no test rows"): uar([], [], LABELS)


# Scores

def test_shuffling_rows_changes_nothing():
    table = predictions()
    for seed in range(3):
        shuffled = table.sample(frac=1, random_state=seed)
        pd.testing.assert_frame_equal(per_repeat(shuffled), per_repeat(table))
        pd.testing.assert_frame_equal(mean_confusion(shuffled), mean_confusion(table))
        assert json.dumps(score(shuffled), sort_keys=True) == json.dumps(score(table), sort_keys=True)
        pd.testing.assert_frame_equal(compare({"a": shuffled, "b": predictions(1)}), compare({"a": table, "b": predictions(1).sample(frac=1)}))


def test_a_missing_class_keeps_names_and_order():
    whole, part = score(predictions()), score(predictions(never=["happy"]))
    assert list(whole) == list(part) and [k for k in part if k.startswith("recall_")] == [f"recall_{e}" for e in LABELS]
    assert part["recall_happy"] is None and None not in [v for k, v in part.items() if k != "recall_happy"]
    table = predictions(never=["happy"])
    assert labels_of(table) == LABELS and list(mean_confusion(table).index) == list(mean_confusion(table).columns) == LABELS
    assert normalise_rows(mean_confusion(table)).loc["happy"].isna().all()
    json.dumps(part, allow_nan=False)


def test_a_score_is_made_of_its_repeats_and_folds():
    table = predictions(repeats=3, folds=5)
    uars = [balanced_accuracy_score(t.truth, t.prediction) for _, t in table.groupby("repeat")]
    folds = [np.mean([balanced_accuracy_score(f.truth, f.prediction) for _, f in t.groupby("fold")]) for _, t in table.groupby("repeat")]
    found = score(table)
    assert (found["uar"], found["uar_seed_sd"], found["uar_fold_mean"]) == pytest.approx((np.mean(uars), np.std(uars), np.mean(folds)), abs=1e-12)
    assert (found["n"], found["n_speakers"], found["n_folds"], found["n_repeats"]) == (200, 10, 5, 3)
    assert class_mean(hits_of(table).truth, hits_of(table).hit) == pytest.approx(found["uar"], abs=1e-12)
    np.testing.assert_allclose(mean_confusion(table).to_numpy(), np.mean([confusion_matrix(t.truth, t.prediction, labels=LABELS) for _, t in table.groupby("repeat")], axis=0))


def test_segments_of_one_file_are_utterances():
    table = predictions(repeats=2).assign(file="talk.wav")
    for start, end in ((np.tile(np.arange(200.), 2), np.nan), (0., np.tile(np.arange(200.) + 1, 2)), (np.tile(np.arange(200.), 2), np.tile(np.arange(200.) + 1, 2))):
        assert score(table.assign(start=start, end=end))["n"] == 200


def test_speakers_of_two_corpora_are_two():
    assert score(predictions().assign(corpus=np.where(np.arange(600) % 2, "x", "y")))["n_speakers"] == 10
    table = pd.concat([predictions(), predictions().assign(corpus="y")])
    assert (score(table)["n"], score(table)["n_speakers"]) == (400, 20)


@pytest.mark.parametrize("speakers, words", [(1, "1 test speaker: the interval over speakers is unknown"), (7, "7 test speakers: .* uncertain"), (8, None)])
def test_few_speakers_are_said(speakers, words):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = score(predictions(speakers=speakers))
    assert bool(caught) == bool(found["warnings"]) == bool(words) and (found["uar_low_speaker"] is None) == (speakers == 1)
    if words:
        with pytest.warns(UserWarning, match=words): score(predictions(speakers=speakers))


def test_intervals_use_their_options():
    table = predictions()
    low, again, other, more = (score(table, **k)["uar_low"] for k in ({}, dict(seed=0), dict(seed=1), dict(n_samples=50)))
    assert low == again and len({low, other, more}) == 3
    samples = np.arange(1001.)
    assert interval(samples) == pytest.approx((25, 975)) and interval(samples, .5) == pytest.approx((250, 750))


# Resampling against loops

def naive_bootstrap(truth, values, groups, n_samples, seed):
    "One sample after the other, row by row"
    rng, out = np.random.default_rng(seed), []
    blocks = [[i] for i in range(len(truth))] if groups is None else [np.flatnonzero(groups == g) for g in sorted(set(groups))]
    for _ in range(n_samples):
        rows = np.concatenate([blocks[b] for b in rng.integers(0, len(blocks), len(blocks))])
        out.append(np.mean([values[rows][truth[rows] == e].mean() for e in set(truth[rows])]))
    return np.array(out)


@pytest.mark.parametrize("case", ["hits", "shares", "differences", "rare class"])
@pytest.mark.parametrize("clustered", [False, True])
def test_bootstrap_agrees_with_a_loop(case, clustered):
    rng = np.random.default_rng(5)
    truth = answers(3, 120)[0]
    if case == "rare class": truth[truth == "angry"], truth[:2] = "sad", "angry"
    values = {"shares": rng.integers(0, 4, 120)/3, "differences": rng.integers(-2, 3, 120)/2}.get(case, (rng.random(120) < .6).astype(float))
    groups = np.sort(rng.integers(0, 9, 120)) if clustered else None
    if clustered: values = np.clip(values + .25*(groups % 3 == 0), -1, 1)   # speakers differ
    fast, slow = bootstrap(truth, values, groups, 4000, 1), naive_bootstrap(truth, values, groups, 2000, 2)
    assert fast.mean() == pytest.approx(slow.mean(), abs=5*slow.std()/2000**.5)
    assert fast.std() == pytest.approx(slow.std(), rel=.1)
    np.testing.assert_allclose(np.percentile(fast, [2.5, 50, 97.5]), np.percentile(slow, [2.5, 50, 97.5]), atol=.25*slow.std())


def test_alike_speakers_widen_the_interval():
    "Utterances of a speaker that are all right or all wrong are no independent evidence"
    truth, groups = np.tile(LABELS, 60), np.repeat(np.arange(12), 20)
    hit = (groups % 2).astype(float)
    assert bootstrap(truth, hit, groups, 2000).std() > 3*bootstrap(truth, hit, None, 2000).std()


def test_intervals_cover():
    covered = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        truth = np.repeat(LABELS, 40)
        low, high = interval(bootstrap(truth, (rng.random(160) < np.repeat([.3, .5, .7, .9], 40)).astype(float), None, 400, seed))
        covered.append(low <= .6 <= high)
    assert .89 <= np.mean(covered) <= .985


# Two systems

def slow_p(truth, d, groups):
    "Every way to swap whole speakers, two-sided as twice the smaller tail"
    names, observed, found = sorted(set(groups)), class_mean(truth, d), []
    for signs in itertools.product((1, -1), repeat=len(names)):
        found.append(class_mean(truth, d*np.array([dict(zip(names, signs))[g] for g in groups])))
    found = np.array(found)
    return min(1, 2*min(np.mean(found >= observed - 1e-12), np.mean(found <= observed + 1e-12)))


@pytest.mark.parametrize("speakers", [1, 2, 3, 6])
@pytest.mark.parametrize("shift", [-.5, 0, .8])
def test_few_speakers_are_permuted_exactly(speakers, shift):
    rng = np.random.default_rng(speakers)
    truth, groups = answers(4, 60)[0], np.array([f"s{i % speakers}" for i in range(60)])
    d = np.clip(np.round(3*(rng.normal(size=60)*.5 + shift)), -3, 3)/3
    assert permutation_p(truth, d, groups) == pytest.approx(slow_p(truth, d, groups), abs=1e-12)
    assert permutation_p(truth, d, groups) == permutation_p(truth, -d, groups) >= min(1, 2/2**speakers)


def test_few_differing_utterances_are_permuted_exactly():
    truth, d = answers(4, 60)[0], np.zeros(60)
    d[[3, 17, 21, 40, 58]] = 1, 1, 1, 1, -1
    assert permutation_p(truth, d) == pytest.approx(slow_p(truth, d, np.where(d != 0, np.arange(60), 99)), abs=1e-12)
    d[[17, 21, 40, 58]] = 0
    assert permutation_p(truth, d) == 1


@pytest.mark.parametrize("grouped", [False, True])
def test_p_is_fair_under_the_null(grouped):
    p = []
    for seed in range(250):
        rng = np.random.default_rng(seed)
        truth, speaker = np.repeat(LABELS, 20), np.tile(np.arange(10), 8)
        d = rng.integers(-1, 2, 80) + 0.
        if grouped: d = np.clip(d + rng.integers(-1, 2, 10)[speaker], -1, 1)   # speakers for whom one of two equal systems is better
        p.append(permutation_p(truth, d, speaker if grouped else None, n_resamples=299))
    assert .44 < np.mean(p) < .62 and np.mean(np.array(p) <= .05) < .09 and np.mean(np.array(p) <= .5) > .38


def test_p_is_that_of_the_rows_in_any_order():
    rng = np.random.default_rng(2)
    truth, d, speaker, order = answers(4)[0], rng.integers(-1, 2, 200) + .1, rng.integers(0, 20, 200), rng.permutation(200)
    for groups in (None, speaker):
        p = [permutation_p(truth[o], d[o], None if groups is None else groups[o], n_resamples=99) for o in (np.arange(200), order)]
        assert p[0] == p[1] < 1


def test_ignoring_speakers_would_be_unfair():
    "The reason for the grouped test: with effects of speakers the ungrouped one rejects far too often"
    p = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        p.append(permutation_p(np.repeat(LABELS, 30), rng.choice([-1., 1.], 6)[np.tile(np.arange(6), 20)], None, n_resamples=199))
    assert np.mean(np.array(p) <= .05) > .3


def test_comparisons_are_antisymmetric():
    a, b = predictions(0, right=.6), predictions(1, right=.4)
    ab, ba = compare({"a": a, "b": b}).loc["b"], compare({"a": a, "b": b}, reference="b").loc["a"]
    assert ab.difference == -ba.difference == pytest.approx(score(b)["uar"] - score(a)["uar"], abs=1e-12)
    assert ab.p == pytest.approx(ba.p, abs=.01) and ab.p_speaker == ba.p_speaker < .05 and ab.low < ab.difference < ab.high < 0
    same = compare({"a": a, "again": a}).loc["again"]
    assert (same.difference, same.low, same.high, same.p, same.p_speaker) == (0, 0, 0, 1, 1)


def test_systems_with_other_repeats_are_comparable_and_other_rows_are_not():
    assert compare({"one": predictions(repeats=1), "three": predictions(1, repeats=3)}).p_speaker.between(0, 1).all()
    for other in (predictions(n=199), predictions().assign(truth="sad"), predictions(speakers=9), predictions().assign(corpus="y"), predictions().assign(end=3.)):
        with pytest.raises(ValueError, match="not tested on the same rows"): compare({"a": predictions(), "b": other})
    with pytest.raises(ValueError, match="at least two systems"): compare({"a": predictions()})


def test_one_speaker_has_no_speaker_interval():
    row = compare({"a": predictions(speakers=1), "b": predictions(1, speakers=1)}).loc["b"]
    assert row.low_speaker is None and row.p_speaker == 1


@pytest.mark.parametrize("seed", range(5))
def test_holm_against_its_definition(seed):
    p = np.random.default_rng(seed).random(7)**2
    p[3] = p[1]
    order = np.argsort(p)
    expected = [min(1, max((7 - j)*p[order[j]] for j in range(7) if p[order[j]] <= p[i])) for i in range(7)]
    np.testing.assert_allclose(holm(p), expected)
    assert (holm(p) >= p).all() and holm([.2]).tolist() == [.2] and holm([.6, .9]).tolist() == [1, 1]


# McNemar

def answered(both, only_a, only_b, neither):
    "Two systems with these counts, in a random order of rows"
    right = np.repeat([[1, 1], [1, 0], [0, 1], [0, 0]], [both, only_a, only_b, neither], axis=0)
    table = predictions(n=len(right), repeats=1)
    wrong = np.where(table.truth == "sad", "happy", "sad")
    return [table.assign(prediction=np.where(column, table.truth, wrong)).sample(frac=1, random_state=i) for i, column in enumerate(right.T)]


def test_mcnemar_by_hand():
    "3 of 12 discordant answers, twice the lower tail of a fair coin: 2 (1 + 12 + 66 + 220)/4096"
    a, b = answered(20, 9, 3, 8)
    assert mcnemar(a, b) == dict(both=20, only_a=9, only_b=3, neither=8, p=pytest.approx(2*299/4096, abs=1e-12))
    assert mcnemar(b, a) == dict(both=20, only_a=3, only_b=9, neither=8, p=pytest.approx(2*299/4096, abs=1e-12))
    assert mcnemar(*answered(5, 0, 0, 5))["p"] == mcnemar(*answered(5, 4, 4, 5))["p"] == 1 and mcnemar(*answered(0, 6, 0, 0))["p"] == 2/64


@pytest.mark.parametrize("counts", [(40, 11, 25, 24), (100, 60, 20, 20), (0, 1, 0, 3), (30, 7, 7, 3)])
def test_mcnemar_agrees_with_statsmodels(counts):
    from statsmodels.stats.contingency_tables import mcnemar as reference
    both, only_a, only_b, neither = counts
    assert mcnemar(*answered(*counts))["p"] == pytest.approx(reference([[both, only_a], [only_b, neither]], exact=True).pvalue, rel=1e-9)


def test_mcnemar_wants_one_training_and_the_same_rows():
    a, b = answered(20, 9, 3, 8)
    for pair in ((a, predictions(n=40, repeats=2)), (predictions(n=40, repeats=2), b)):
        with pytest.raises(ValueError, match="a table has 2 repeats; give one of them"): mcnemar(*pair)
    with pytest.raises(ValueError, match="not tested on the same rows"): mcnemar(a, b[1:])


# Almost stochastic order

@pytest.mark.parametrize("a, b, expected", [([3, 4], [1, 2], 0), ([1, 2], [3, 4], 1), ([1, 3], [2, 2], 1/2), ([0, 4], [1, 2, 2], 6/18), ([0, 2, 4], [1], 1/11), ([5, 5], [5, 5, 5], 1/2), ([1, 2, 6], [2, 3, 4], 2/6)])
def test_violation_by_hand(a, b, expected):
    assert violation_ratio(a, b) == pytest.approx(expected, abs=1e-12)
    assert violation_ratio(b, a) == pytest.approx(1 - expected, abs=1e-12)


@pytest.mark.parametrize("n, m", [(2, 2), (7, 7), (5, 8), (10, 4)])
def test_violation_is_the_integral_over_quantiles(n, m):
    rng = np.random.default_rng([n, m])
    a, b, t = rng.normal(.3, 1.5, n), rng.normal(size=m), (np.arange(n*m*50) + .5)/(n*m*50)
    d = np.quantile(a, t, method="inverted_cdf") - np.quantile(b, t, method="inverted_cdf")
    assert violation_ratio(a, b) == pytest.approx((np.minimum(d, 0)**2).sum()/(d**2).sum(), abs=1e-9)
    assert violation_ratio(10*a + 3, 10*b + 3) == pytest.approx(violation_ratio(rng.permutation(a), b), abs=1e-12)
    many = rng.normal(size=(4, 6, n)), rng.normal(size=(4, 6, m))
    assert violation_ratio(*many)[2, 5] == violation_ratio(many[0][2, 5], many[1][2, 5]) and violation_ratio(*many).shape == (4, 6)


@pytest.mark.parametrize("k", [-1.5, -.4, 0, .4, 1.5])
def test_violation_between_normal_distributions(k):
    "The quantiles of N(k, 2²) and N(0, 1) differ by k + Z, so ε = ((1 + k²)Φ(-k) - kφ(k))/(1 + k²)"
    from scipy.stats import norm
    z = norm.ppf((np.arange(20000) + .5)/20000)
    assert violation_ratio(k + 2*z, z) == pytest.approx(norm.cdf(-k) - k*norm.pdf(k)/(1 + k*k), abs=1e-3)


def test_the_bound_is_that_of_the_paper():
    "√(nm/(n + m)) (ε* - ε) bootstrapped in a loop, and divided by its factor again"
    rng = np.random.default_rng(0)
    a, b = rng.normal(.5, 1, 12), rng.normal(0, 1, 9)
    factor, epsilon = np.sqrt(12*9/21), violation_ratio(a, b)
    spread = np.std([factor*(violation_ratio(rng.choice(a, 12), rng.choice(b, 9)) - epsilon) for _ in range(4000)])
    with pytest.warns(UserWarning, match="9 trainings"): found = almost_stochastic_order(a, b, n_samples=4000)
    assert found == dict(violation=float(epsilon), bound=pytest.approx(epsilon + 1.6449*spread/factor, abs=.02))
    with pytest.warns(UserWarning): wider = almost_stochastic_order(a, b, .99, n_samples=4000)
    assert (wider["bound"] - epsilon)/(found["bound"] - epsilon) == pytest.approx(2.3263/1.6449, rel=1e-3)


def test_known_orders():
    rng = np.random.default_rng(4)
    a = rng.normal(.6, .02, 10)
    assert almost_stochastic_order(a + .1, a) == dict(violation=0, bound=0)
    assert almost_stochastic_order(a, a + .1) == dict(violation=1, bound=1)
    assert almost_stochastic_order(a, a)["violation"] == .5 < almost_stochastic_order(a, a)["bound"] <= 1
    assert almost_stochastic_order([.7]*10, [.6]*10)["bound"] == 0 and almost_stochastic_order([.6]*10, [.6]*10) == dict(violation=.5, bound=.5)
    assert almost_stochastic_order(a, a[::-1] + .01) == almost_stochastic_order(a[::-1], a + .01) == almost_stochastic_order(list(a), a + .01)
    b = rng.normal(.59, .02, 10)
    bounds = [almost_stochastic_order(a + .005, b, **k)["bound"] for k in ({}, dict(seed=1), dict(n_samples=50), dict(level=.9))]
    assert len(set(bounds)) == 4 and bounds[3] < bounds[0]


def test_equal_systems_are_seldom_convincingly_ordered():
    rng, found = np.random.default_rng(1), []
    for _ in range(200): found.append([almost_stochastic_order(rng.normal(shift, 1, 10), rng.normal(0, 1, 10), n_samples=200)["bound"] for shift in (0, 2)])
    null, apart = np.transpose(found)
    assert np.mean(null < .2) < .1 and .08 < np.mean(null < .5) < .3 and np.mean(apart < .2) > .9


@pytest.mark.parametrize("scores", [[.5], [], [.5, np.nan], [.5, np.inf], [[.5, .6]]])
def test_scores_that_cannot_be_ordered(scores):
    for pair in ((scores, [.5, .6]), ([.5, .6], scores)):
        with pytest.raises(ValueError, match="two finite scores at least"): almost_stochastic_order(*pair)
    with pytest.raises(ValueError, match="level=95: expected a number between 0 and 1"): almost_stochastic_order([.5, .6], [.5, .6], 95)


@pytest.mark.parametrize("n", [2, FEW_SEEDS - 1, FEW_SEEDS])
def test_few_trainings_are_said(n):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        almost_stochastic_order(np.arange(n), np.arange(20))
    assert [str(w.message)[:len(f"{n} trainings")] for w in caught] == [f"{n} trainings"]*(n < FEW_SEEDS)
