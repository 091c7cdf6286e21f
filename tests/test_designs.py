"ANOVA, tests after it, power and mixed model against published tables, statsmodels and textbook designs; what cannot be answered is refused in one sentence"
import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ser_nb.designs import _cell_of, _components, _levels, _reml, anova, anova_from_cells, contrasts, effects, mann_whitney, mixed_model, plot_interaction, plot_power, power, t_tests
from ser_nb.statistics import holm

DESIGN = ["architecture", "pretraining", "test"]
PUBLISHED = pd.DataFrame([(*names, mean, sd, 110) for names, mean, sd in zip(itertools.product(["w2v", "hubert"], ["italian", "none"], ["emozionalmente", "emovo"]),
                                                                            [.7825, .5855, .7810, .5675, .7604, .5227, .7615, .5211], [.0166, .0341, .0195, .0338, .0170, .0347, .0181, .0309])], columns=[*DESIGN, "mean", "sd", "n"])
FOUND = {"architecture": 431.2770, "pretraining": 7.5911, "test": 15002.5765, "architecture:pretraining": 6.7778, "architecture:test": 86.8540, "pretraining:test": 6.9061, "architecture:pretraining:test": 3.5519}


def runs(cells=PUBLISHED, seed=0):
    "Scores with exactly these means and population SDs"
    rng, tables = np.random.default_rng(seed), []
    for cell in cells.to_dict("records"):
        z = rng.normal(size=cell["n"])
        tables.append(pd.DataFrame(dict(cell, seed=range(cell["n"]), score=cell["mean"] + cell["sd"]*(z - z.mean())/z.std())).drop(columns=["mean", "sd", "n"]))
    return pd.concat(tables, ignore_index=True)


def ragged(seed=0):
    "2 x 3 cells with 2 to 9 rows"
    rng = np.random.default_rng(seed)
    return pd.concat([pd.DataFrame(dict(a=a, b=b, score=rng.normal(.5 + .03*b + .02*(a == "y")*b, .05, rng.integers(2, 10)))) for a in "xy" for b in range(3)], ignore_index=True)


def study(speakers=5, seeds=4, sd=(.1, .05, .03, .02, .04), seed=0, tests=1, keep=1., gain=0.):
    "Averages of two systems; sd of speaker, speaker:system, seed, seed:system, residual; speakers belong to one test corpus"
    rng, drawn = np.random.default_rng(seed), {}
    def e(k, *names): return drawn.setdefault((k, *names), rng.normal(0, sd[k]))
    rows = [(system, f"t{test}", f"t{test}/{s}", k, .5 + gain*(system == "b") + e(0, test, s) + e(1, test, s, system) + e(2, k) + e(3, k, system) + rng.normal(0, sd[4]))
            for system, test, s, k in itertools.product("ab", range(tests), range(speakers), range(seeds))]
    return pd.DataFrame(rows, columns=["system", "test", "speaker", "seed", "hit"]).sample(frac=keep, random_state=1).sort_index()


def sds(model): return model.estimate[model.part == "sd"]


# ANOVA

def test_published_table_gives_back_the_published_f():
    found = anova_from_cells(PUBLISHED, ddof=0)
    assert found.F.to_dict() == pytest.approx(FOUND, rel=.02) and (found.df == 1).all() and (found.df_error == 872).all()
    assert found.F[["test", "architecture", "architecture:test", "pretraining", "architecture:pretraining", "pretraining:test", "architecture:pretraining:test"]].round(2).tolist() == [15003.30, 432.09, 86.83, 7.60, 6.86, 7.00, 3.62]
    assert found.p["architecture:pretraining:test"] == pytest.approx(.0598, abs=.003) and found.p[["pretraining", "pretraining:test", "architecture:pretraining"]].between(.001, .01).all() and found.p["architecture:test"] < .001
    np.testing.assert_allclose(anova(runs(), "score", DESIGN), found, rtol=1e-9)
    assert anova_from_cells(PUBLISHED).F["test"] == pytest.approx(found.F["test"]*110/109)


def test_published_t_values():
    t = t_tests(runs(), "score", DESIGN).set_index("factor")
    assert t.t.abs()[["test", "architecture", "pretraining"]].tolist() == pytest.approx([96.4847, 4.8724, .6380], rel=1e-3)
    assert t.p["pretraining"] == pytest.approx(.5236, abs=1e-3) and (t.difference["test"], t.mean_a["test"], t.mean_b["test"]) == pytest.approx((.2222, .5492, .7714), abs=1e-4)


@pytest.mark.parametrize("balanced", [True, False])
def test_anova_equals_statsmodels(balanced):
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm
    table = ragged()
    if balanced: table = table.groupby(["a", "b"]).head(table.groupby(["a", "b"]).size().min())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ours = anova(table, "score", ["a", "b"])
    theirs = anova_lm(ols("score ~ C(a, Sum)*C(b, Sum)", table).fit(), typ=1 if balanced else 3).drop("Intercept", errors="ignore")
    np.testing.assert_allclose(ours[["df", "F", "p"]], theirs[["df", "F", "PR(>F)"]].iloc[:3], rtol=1e-8)
    squares = theirs["sum_sq"].to_numpy()
    np.testing.assert_allclose(ours.eta2, squares[:3]/(squares[:3] + squares[3]), rtol=1e-8)
    assert [str(w.message)[:35] for w in caught] == ([] if balanced else ["cells have 2 to 9 rows: sums of squa"[:35]])


def test_one_factor_is_the_t_test_and_rows_have_no_order():
    table = runs().query("pretraining == 'none' and test == 'emovo'")
    found = anova(table, "score", "architecture").loc["architecture"]
    t = t_tests(table, "score", "architecture").loc[0]
    assert (found.F, found.df_error) == pytest.approx((t.t**2, 218)) and found.eta2 == pytest.approx(t.t**2/(t.t**2 + 218))
    full = runs()
    for other in (full.sample(frac=1, random_state=3), full.assign(architecture=full.architecture.astype("category")), full.assign(score=full.score*100 - 7)):
        np.testing.assert_allclose(anova(other, "score", DESIGN[::-1]).loc["test"], anova(full, "score", DESIGN).loc["test"], rtol=1e-8)


def test_equal_means_are_no_error():
    found = anova(pd.DataFrame(dict(system=list("aabb"), score=[.4, .6, .6, .4])), "score", "system").loc["system"]
    assert (found.F, found.p, found.eta2) == pytest.approx((0, 1, 0), abs=1e-12)


def test_contrasts_are_differences_of_cell_means():
    levels = dict(a=["x", "y"], b=[0, 1, 2])
    assert effects("ab") == [("a",), ("b",), ("a", "b")]
    means = np.array([1., 2, 4, 8, 16, 32])
    assert {name: row @ means for term in [(), *effects("ab")] for name, row in contrasts(levels, term).iterrows()} == pytest.approx(
        {"mean": 63/6, "a[y - x]": 49/3, "b[1 - 0]": 4.5, "b[2 - 0]": 13.5, "a[y - x]:b[1 - 0]": 7, "a[y - x]:b[2 - 0]": 21})
    ordered = ragged().assign(a=lambda t: pd.Categorical(t.a, ["y", "x", "unused"]))
    assert list(_levels(ordered.assign(a=ordered.a.cat.remove_unused_categories()), ["a"])["a"]) == ["y", "x"] and t_tests(ordered, "score", "a").loc[0, ["a", "b"]].tolist() == ["y", "x"]


# Tests of pairs

def test_t_tests_are_welch_with_holm():
    table = ragged()
    found = t_tests(table, "score", ["b", "a"])
    assert list(zip(found.factor, found.a, found.b)) == [("b", 0, 1), ("b", 0, 2), ("b", 1, 2), ("a", "x", "y")]
    a, b = (table.score[table.b == k].to_numpy() for k in (0, 2))
    expected, row = stats.ttest_ind(b, a, equal_var=False), found.loc[1]
    interval = expected.confidence_interval()
    assert [row.t, row.df, row.p, row.low, row.high, row.difference] == pytest.approx([expected.statistic, expected.df, expected.pvalue, interval.low, interval.high, b.mean() - a.mean()])
    assert row.d == pytest.approx(stats.ttest_ind(b, a).statistic*np.sqrt(1/len(a) + 1/len(b)))
    np.testing.assert_allclose(found.p_holm, holm(found.p))


def test_t_tests_within_levels():
    table = ragged()
    found = t_tests(table, "score", "a", within="b")
    assert found.within.tolist() == [0, 1, 2]
    alone = t_tests(table[table.b == 1], "score", "a").loc[0]
    assert (found.t[1], found.p[1]) == (alone.t, alone.p) and found.p_holm.tolist() == holm(found.p).tolist()


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_mann_whitney_counts_pairs(alternative):
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 6, 12)/6, rng.integers(1, 7, 9)/6
    found, expected = mann_whitney(a, pd.Series(b), alternative), stats.mannwhitneyu(a, b, alternative=alternative)
    assert (found["U"], found["p"]) == (expected.statistic, expected.pvalue) and (found["n_a"], found["n_b"]) == (12, 9)
    assert found["above"] == pytest.approx(np.mean((a[:, None] > b) + .5*(a[:, None] == b)))


def test_mann_whitney_of_little():
    assert mann_whitney([.5], [.4]) == dict(U=1, p=1, above=1, n_a=1, n_b=1) and mann_whitney([.5]*3, [.5]*4)["p"] == 1
    for a, b in (([], [1]), ([1], [np.nan]), ([np.inf], [1])):
        with pytest.raises(ValueError, match="at least one score and only numbers"): mann_whitney(a, b)
    with pytest.raises(ValueError, match="did you mean 'greater'"): mann_whitney([1], [2], "grater")


# Power

@pytest.mark.parametrize("effect, groups, wanted, n", [(.25, 2, .8, 64), (.4, 2, .8, 26), (.1, 2, .8, 394), (.25, 4, .8, 45), (.25, 2, .95, 105), (5, 2, .8, 2)])
def test_seeds_as_in_textbooks(effect, groups, wanted, n):
    "Cohen's tables, d = 2 f for two groups; G*Power gives the same"
    found = power(effect=effect, power=wanted, groups=groups)
    assert found["n"] == n and found["power"] >= wanted and (n == 2 or power(effect=effect, n=n - 1, groups=groups)["power"] < wanted)


def test_power_equals_statsmodels_and_goes_back():
    from statsmodels.stats.power import FTestAnovaPower, TTestIndPower
    assert power(effect=.2, n=31, groups=5, alpha=.01)["power"] == pytest.approx(FTestAnovaPower().power(.2, 155, .01, 5), abs=1e-9)
    assert power(effect=.2, n=31)["power"] == pytest.approx(TTestIndPower().power(.4, 31, .05), abs=1e-6)
    for n, wanted in ((2, .8), (5, .99), (110, .8), (1000, .06)):
        effect = power(n=n, power=wanted, groups=8, df=1)["effect"]
        assert power(effect=effect, n=n, groups=8, df=1)["power"] == pytest.approx(wanted, abs=1e-6) and power(effect=effect, power=wanted, groups=8, df=1)["n"] == n


def test_power_is_what_the_anova_finds():
    "An interaction in a 2 x 2 design of 8 seeds, f = .3"
    rng, found = np.random.default_rng(0), []
    table = pd.DataFrame(list(itertools.product("xy", "uv", range(8))), columns=["a", "b", "seed"])
    shift = .3*np.where((table.a == "x") == (table.b == "u"), 1, -1)
    for _ in range(120): found.append(anova(table.assign(score=shift + rng.normal(size=32)), "score", ["a", "b"]).p["a:b"] < .05)
    wanted = power(effect=.3, n=8, groups=4, df=1)["power"]
    assert np.mean(found) == pytest.approx(wanted, abs=4*np.sqrt(wanted*(1 - wanted)/120))


@pytest.mark.parametrize("options, words", [(dict(), "exactly two"), (dict(effect=.1, n=5, power=.8), "exactly two"), (dict(effect=.1, n=1), "at least two seeds"), (dict(effect=0., n=5), "no Cohen's f"), (dict(n=5, power=1.), "between 0 and 1"),
                                            (dict(n=5, power=.04), "above alpha"), (dict(n=5, effect=.1, alpha=0), "between 0 and 1"), (dict(n=5, effect=.1, groups=1), "at least two cells"), (dict(n=5, effect=.1, groups=4, df=4), "fewer degrees"),
                                            (dict(effect=np.nan, n=5), "no Cohen's f")])
def test_power_refuses(options, words):
    with pytest.raises(ValueError, match=words): power(**options)


# Mixed model

def test_speakers_alone_are_the_paired_t_test():
    "Speaker random, one average for each system: no seeds, the simplest case"
    table = study(seeds=1, speakers=9, gain=.05)
    row = mixed_model(table, "hit", "system", random="speaker").loc["system[b - a]"]
    a, b = (table.hit[table.system == s].to_numpy() for s in "ab")
    test = stats.ttest_rel(b, a)
    interval = test.confidence_interval()
    assert [row.estimate, row.df, row.p, row.low, row.high] == pytest.approx([np.mean(b - a), 8, test.pvalue, interval.low, interval.high], rel=1e-6)


def test_balanced_variances_are_those_of_mean_squares():
    "Expected mean squares of speaker x seed x system, solved by hand"
    S, K, J = 7, 6, 2
    table = study(S, K, sd=(.1, .07, .08, .06, .04), seed=2)
    x = table.sort_values(["speaker", "seed", "system"]).hit.to_numpy().reshape(S, K, J)
    model = mixed_model(table, "hit", "system")
    def m(*axes): return x.mean(axis=axes, keepdims=True)
    ms_sj = K*((m(1) - m(1, 2) - m(0, 1) + m(0, 1, 2))**2).sum()/((S - 1)*(J - 1))
    ms_kj = S*((m(0) - m(0, 2) - m(0, 1) + m(0, 1, 2))**2).sum()/((K - 1)*(J - 1))
    v = (sds(model)**2).to_dict()
    assert min(v.values()) > 0 and K*v["speaker:system"] + v["residual"] == pytest.approx(ms_sj) and S*v["seed:system"] + v["residual"] == pytest.approx(ms_kj)
    row = model.loc["system[b - a]"]
    assert row.se**2 == pytest.approx(2*(ms_sj + ms_kj - v["residual"])/(S*K)) and row.estimate == pytest.approx((x[..., 1] - x[..., 0]).mean())
    free = (S - 1)*(K - 1) + (S - 1)*(K - 1)*(J - 1)   # seed x speaker is not modelled: residual
    assert row.df == pytest.approx((ms_sj + ms_kj - v["residual"])**2/(ms_sj**2/(S - 1) + ms_kj**2/(K - 1) + v["residual"]**2/free))


@pytest.mark.parametrize("tests", [1, 2])
def test_mixed_model_equals_statsmodels(tests):
    "Unbalanced, a third of the rows missing; variances large enough for MixedLM to find them"
    from statsmodels.regression.mixed_linear_model import MixedLM, VCSpec
    factors = ["system", "test"][:tests]
    table = study(10, 5, sd=(.1, .08, .08, .06, .05), seed=1, tests=tests, keep=.67)
    ours = mixed_model(table, "hit", factors)
    t = table.assign(**{f: pd.Categorical(table[f]) for f in [*factors, "speaker", "seed"]}).reset_index(drop=True)
    found = {k: v for k, v in _components(t, factors, ["speaker", "seed"]).items() if ours.estimate[k] > 0}
    mats, levels = [np.eye(c.max() + 1)[c] for c in found.values()], _levels(t, factors)
    X = np.eye(2**tests)[_cell_of(t, levels)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = MixedLM(t.hit.to_numpy()*10, X, np.zeros(len(t)), exog_vc=VCSpec(list(found), [[[str(i) for i in range(m.shape[1])]] for m in mats], [[m] for m in mats])).fit(reml=True)
    assert len(found) >= 4 and theirs.converged
    assert [ours.estimate[k] for k in (*found, "residual")] == pytest.approx([*np.sqrt(theirs.vcomp)/10, np.sqrt(theirs.scale)/10], rel=.02)
    C = contrasts(levels, ("system",)).to_numpy()[0]
    assert ours.loc["system[b - a]", ["estimate", "se"]].tolist() == pytest.approx([C @ theirs.fe_params/10, np.sqrt(C @ theirs.cov_params()[:2**tests, :2**tests] @ C)/10], rel=.01)


@pytest.mark.parametrize("seed", range(4))
def test_variances_are_a_maximum_of_the_restricted_likelihood(seed):
    "Against the definition, with dense matrices: no small step in any variance makes the data more likely"
    t = study(4, 3, sd=((.1, .05, .03, .02, .04), (0, .05, 0, .02, .04))[seed % 2], seed=seed, tests=2, keep=.8)
    t = t.assign(**{f: pd.Categorical(t[f]) for f in ("system", "test", "speaker", "seed")}).reset_index(drop=True)
    parts, X = _components(t, ["system", "test"], ["speaker", "seed"]), np.eye(4)[_cell_of(t, _levels(t, ["system", "test"]))]
    G = [np.equal.outer(c, c).astype(float) for c in parts.values()] + [np.eye(len(t))]
    def likelihood(theta):
        V = sum(v*g for v, g in zip(theta, G))
        inverse = np.linalg.inv(V)
        A = X.T @ inverse @ X
        r = t.hit - X @ np.linalg.solve(A, X.T @ inverse @ t.hit)
        return -(np.linalg.slogdet(V)[1] + np.linalg.slogdet(A)[1] + r @ inverse @ r)/2
    theta = _reml(t.hit.to_numpy(), X.argmax(1), parts)[0]
    for i, step in itertools.product(range(len(theta)), (1e-5, -1e-5)):
        other = theta + step*(np.arange(len(theta)) == i)
        if other.min() >= 0: assert likelihood(other) < likelihood(theta) + 1e-9


def test_components_that_cannot_be_told_apart_are_left_out():
    def names(table, factors): return list(sds(mixed_model(table, "hit", factors)).index)
    assert names(study(), "system") == ["speaker", "speaker:system", "seed", "seed:system", "residual"]
    assert names(study(tests=2), ["system", "test"]) == ["speaker", "speaker:system", "seed", "seed:system", "seed:test", "seed:system:test", "residual"]
    own = study().assign(seed=lambda t: t.system + t.seed.astype(str))   # no two systems share a seed
    assert names(own, "system") == ["speaker", "speaker:system", "seed", "residual"]


def test_hits_and_averages_are_one_and_rows_have_no_order():
    rng = np.random.default_rng(0)
    hits = study(6, 5).loc[lambda t: t.index.repeat(rng.integers(3, 9, len(t)))].reset_index(drop=True)
    hits["hit"] = rng.random(len(hits)) < hits.hit
    averages = hits.groupby(["speaker", "system", "seed"], as_index=False).hit.mean()
    found = [mixed_model(t, "hit", "system").drop(columns="part").astype(float) for t in (hits, averages, hits.sample(frac=1, random_state=1))]
    for other in found[1:]: np.testing.assert_allclose(other, found[0], rtol=1e-5, atol=1e-7)


def test_many_hits_are_no_matter():
    "Five seeds of two systems, 500 utterances of 25 speakers: rows are averaged first"
    t = study(25, 5, seed=3)
    hits = t.loc[t.index.repeat(20)].reset_index(drop=True)
    hits["hit"] = np.random.default_rng(0).random(len(hits)) < hits.hit
    found = mixed_model(hits, "hit", "system")
    assert len(hits) == 5000 and found.low["system[b - a]"] < 0 < found.high["system[b - a]"] and sds(found)["speaker"] == pytest.approx(.1, abs=.05)


def test_seeds_are_not_speakers():
    "Two systems, equally good but not for everyone: the ANOVA over seeds is fooled, the mixed model is not; and it finds what is there"
    def p(seed, gain):
        t = study(8, 6, seed=seed, sd=(.1, .05, .01, .01, .03), gain=gain)
        return anova(t.groupby(["system", "seed"], as_index=False).hit.mean(), "hit", "system").p["system"], mixed_model(t, "hit", "system").p["system[b - a]"]
    null, real = (np.mean([np.array(p(seed, gain)) < .05 for seed in range(40)], axis=0) for gain in (0, .12))
    assert null[0] > .4 and null[1] < .13 and real[1] > .8


def test_intervals_cover_the_truth():
    covered = []
    for seed in range(100):
        row = mixed_model(study(6, 4, seed=seed, sd=(.1, .04, .03, .03, .03), gain=.1), "hit", "system").loc["system[b - a]"]
        covered.append(row.low <= .1 <= row.high)
    assert .89 <= np.mean(covered)


def test_one_speaker_of_a_second_corpus_is_enough():
    t = study(12, 4, tests=2, gain=.1)
    t = t[~t.speaker.isin([f"t0/{s}" for s in range(1, 12)])]
    found = mixed_model(t, "hit", ["system", "test"])
    assert np.isfinite(found[found.part == "fixed"][["low", "high", "df"]].to_numpy(float)).all()


# Bad input

@pytest.mark.parametrize("change, words", [(lambda t: t.drop(columns="score"), "unknown column 'score'"), (lambda t: t.assign(score=t.score.where(t.index > 1)), "2 of 24 rows of 'score' hold no finite number"), (lambda t: t.assign(score=np.inf), "24 of 24"),
                                           (lambda t: t.assign(score="high"), "24 of 24"), (lambda t: t.assign(a=t.a.where(t.index > 2)), "3 rows have no 'a'"), (lambda t: t.assign(b=7), "'b' has only the level 7"), (lambda t: t[:0], "'a' has no rows"),
                                           (lambda t: t.drop(columns="b"), "unknown column 'b'"), (lambda t: t.groupby(["a", "b"], as_index=False).head(1), "one (seed|row)|1 rows"), (lambda t: t.assign(score=.5), "copies of each other")],
                         ids=["no value", "nan", "infinite", "text", "no level", "one level", "empty", "no factor", "one seed", "no variance"])
@pytest.mark.parametrize("analysis", ["anova", "t_tests"])
def test_degenerate_tables_get_one_sentence(analysis, change, words):
    t = change(pd.DataFrame(list(itertools.product("xy", "uv", range(6))), columns=["a", "b", "seed"]).assign(score=np.random.default_rng(0).random(24)))
    with pytest.raises(ValueError, match=words) as caught: anova(t, "score", ["a", "b"]) if analysis == "anova" else t_tests(t, "score", "a", within="b")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change, words", [(lambda c: c[1:], "1 of 4 cells have no row, first x, u"), (lambda c: pd.concat([c, c[:1]]), "one row per cell"), (lambda c: c.assign(note="z"), "'note' has only the level z"), (lambda c: c.assign(n=1), "one seed says nothing"),
                                           (lambda c: c.assign(sd=0.), "F is undefined"), (lambda c: c.assign(sd=np.nan), "F is undefined"), (lambda c: c.drop(columns="sd"), "unknown column 'sd'"), (lambda c: c.assign(n=[0, 5, 5, 5]), "first x, u"),
                                           (lambda c: c[["mean", "sd", "n"]], "different columns")], ids=["missing", "twice", "other column", "one row", "no sd", "sd nan", "no sd column", "empty cell", "no factor"])
def test_degenerate_cells_get_one_sentence(change, words):
    cells = pd.DataFrame(dict(a=list("xxyy"), b=list("uvuv"), mean=[.1, .2, .3, .5], sd=.1, n=5))
    with pytest.raises(ValueError, match=words): anova_from_cells(change(cells))


@pytest.mark.parametrize("change, random, words", [(lambda t: t[t.seed == 0], ("speaker", "seed"), "'seed' has only the level 0"), (lambda t: t[t.speaker == "t0/1"], ("speaker", "seed"), "'speaker' has only the level t0/1"),
                                                   (lambda t: t[t.system == "a"], ("speaker", "seed"), "'system' has only the level a"), (lambda t: t.assign(hit=1), ("speaker", "seed"), "every average of 'hit' is 1"),
                                                   (lambda t: t.assign(hit=t.hit.where(t.seed > 0)), ("speaker", "seed"), "10 of 40 rows"), (lambda t: t.assign(hit=t.groupby(["speaker", "system"]).hit.transform("mean")), ("speaker", "seed"), "copies of each other"),
                                                   (lambda t: t.assign(seed=t.system), ("speaker", "seed"), "cannot be told apart"), (lambda t: t.assign(twin=t.speaker), ("speaker", "twin"), "'twin' has a level for every row, or the same ones"),
                                                   (lambda t: t, ("speaker", "hit"), "should be different columns"), (lambda t: t, ("speaker", "sead"), "did you mean 'seed'")],
                         ids=["one seed", "one speaker", "one system", "all right", "nan", "copies", "seed is system", "twin", "value", "misspelt"])
def test_degenerate_hits_get_one_sentence(change, random, words):
    with pytest.raises(ValueError, match=words) as caught: mixed_model(change(study()), "hit", "system", random)
    assert "\n" not in str(caught.value)


# Figures

def test_interaction_shows_every_cell():
    figure = plot_interaction(runs(), "score", "test", "architecture", "pretraining")
    assert [ax.get_title() for ax in figure.axes] == ["pretraining: italian", "pretraining: none"]
    for ax, pretraining in zip(figure.axes, ["italian", "none"]):
        drawn = [container.lines[0].get_ydata() for container in ax.containers]
        expected = PUBLISHED[PUBLISHED.pretraining == pretraining].pivot(index="architecture", columns="test", values="mean").to_numpy()
        np.testing.assert_allclose(np.array(drawn, float), expected)
        bars = ax.containers[0].lines[2][0].get_segments()
        sd = PUBLISHED.query("architecture == 'hubert' and test == 'emovo' and pretraining == @pretraining").sd.iloc[0]*np.sqrt(110/109)
        assert np.ptp(bars[0][:, 1]) == pytest.approx(2*stats.t.ppf(.975, 109)*sd/np.sqrt(110))
    one = plot_interaction(runs(PUBLISHED.assign(n=2)).query("seed == 0"), "score", "test", "architecture")
    assert len(one.axes) == 1 and one.axes[0].get_ylabel() == "score"
    with pytest.raises(ValueError, match="has only the level"): plot_interaction(runs().query("test == 'emovo'"), "score", "test", "architecture")


def test_power_curves_mark_the_seeds():
    ax = plot_power(8, 1, (.1, .4)).axes[0]
    assert [t.get_text() for t in ax.texts] == ["99", "7"] and [t.get_text() for t in ax.get_legend().get_texts()] == ["f = 0.1", "f = 0.4"]
    n, curve = ax.lines[0].get_data()
    assert curve[n == 99] == pytest.approx(power(effect=.1, n=99, groups=8, df=1)["power"]) if 99 in n else (np.diff(curve) > 0).all()
