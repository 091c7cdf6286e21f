"Classes that corpora share, one corpus out with whole speakers to choose with, and balanced rows"
import numpy as np
import pandas as pd
import pytest

from ser_nb.data.corpus import EMOTIONS
from ser_nb.data.cross_corpus import BALANCE, CLASS_SETS, balance, class_set, leave_corpus_out
from ser_nb.data.partition import speakers_of

FOUR = ("angry", "happy", "neutral", "sad")


def made_up(corpus, speakers=4, emotions=FOUR, each=3):
    return pd.DataFrame([dict(corpus=corpus, file=f"{s}_{e}_{i}.wav", start=0., end=np.nan, speaker=str(s), gender=("female", "male")[s % 2], emotion=e) for s in range(speakers) for e in emotions for i in range(each)])


def merged(**corpora): return pd.concat([made_up(c, **options) for c, options in corpora.items()], ignore_index=True)


# Classes

@pytest.mark.parametrize("classes, order", [("3", ["neutral", "positive", "negative"]), ("4", ["angry", "happy", "neutral", "sad"]), ("all", ["happy", "sad", "angry", "disgust", "fear", "neutral", "surprise"])])
@pytest.mark.parametrize("protocol", ["corrected", "faithful"])
def test_published_order_where_every_corpus_has_every_class(classes, order, protocol):
    table = merged(x=dict(emotions=EMOTIONS), y=dict(emotions=EMOTIONS))
    labels, numbers, dropped = class_set(table, "y", classes, protocol)
    assert labels == order
    assert [CLASS_SETS[classes].get(e) for e in table.emotion] == [labels[n] if n >= 0 else None for n in numbers]
    assert set(dropped.emotion) == set(EMOTIONS) - set(CLASS_SETS[classes]) and dropped.rows.sum() == (numbers < 0).sum()


SEVEN = list(CLASS_SETS["all"])

@pytest.mark.parametrize("lacking", ["surprise", "neutral"])
def test_published_maps_of_test_corpora_with_six_classes(lacking):
    """EMO-DB has no surprise, DEMoS no neutral (then surprise is number 5): published maps, whose missing class was a KeyError in training."""
    table = merged(test=dict(emotions=[e for e in SEVEN if e != lacking]), train=dict(emotions=SEVEN))
    for protocol in ("corrected", "faithful"):
        labels, numbers, dropped = class_set(table, "test", "all", protocol)
        assert labels == [e for e in SEVEN if e != lacking] and (numbers[table.emotion == lacking] == -1).all()
        assert dropped.to_dict("records") == [dict(corpus="train", emotion=lacking, rows=12, why="the test corpus 'test' lacks the class")]


def test_classes_that_training_lacks_are_not_tested_unless_faithful():
    table = merged(test=dict(emotions=FOUR), a=dict(emotions=("angry", "sad")), b=dict(emotions=("sad", "neutral")))
    labels, numbers, dropped = class_set(table, "test")
    assert labels == ["angry", "neutral", "sad"] and dropped.to_dict("records") == [dict(corpus="test", emotion="happy", rows=12, why="no training corpus has the class")]
    labels, numbers, dropped = class_set(table, "test", protocol="faithful")
    assert labels == list(FOUR) and (numbers >= 0).all() and not len(dropped)
    labels, numbers, dropped = class_set(table, "test", train=["a"])
    assert labels == ["angry", "sad"] and (numbers[table.corpus == "b"] == -1).all()
    assert set(dropped.why[dropped.corpus == "b"]) == {"its corpus is neither tested nor trained on"}


def test_three_classes_keep_emotions_that_the_other_corpus_has_not():
    table = merged(test=dict(emotions=("happy", "angry", "calm")), train=dict(emotions=("surprise", "excited", "fear", "frustrated", "neutral", "")))
    labels, numbers, dropped = class_set(table, "test", "3")
    assert labels == ["positive", "negative"]
    assert [labels[n] for n in numbers[(numbers >= 0) & (table.corpus == "train")]] == [CLASS_SETS["3"][e] for e in table.emotion[table.emotion.isin(["surprise", "excited", "fear", "frustrated"])]]
    assert dict(zip(dropped.emotion, dropped.why)) == {"": "it has no label", "calm": "the class set '3' has no such emotion", "neutral": "the test corpus 'test' lacks the class"}


@pytest.mark.parametrize("options, words", [
    (dict(test="z"), "unknown test corpus 'z'"), (dict(train=["y", "q"]), "unknown training corpus 'q'"), (dict(train=["x", "y"]), "'x' is the test corpus and cannot be trained on"), (dict(train=[]), "no corpus is left to train on"),
    (dict(classes="5"), "unknown class set '5'"), (dict(protocol="published"), "unknown protocol")])
def test_class_set_errors(options, words):
    with pytest.raises(ValueError, match=words) as e: class_set(merged(x={}, y={}), **dict(dict(test="x"), **options))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("test, train, classes, words", [
    (("happy",), FOUR, "4", "share 1 of"), (("fear", "disgust"), ("angry", "sad"), "all", "share 0 of"), (("fear", "disgust"), FOUR, "3", r"classes negative\) and training.*share 1"), (FOUR, ("calm",), "4", r"classes none\) share 0"), (("",), FOUR, "4", r"\(classes none\)")])
@pytest.mark.parametrize("protocol", ["corrected", "faithful"])
def test_no_common_class_is_one_sentence(test, train, classes, words, protocol):
    with pytest.raises(ValueError, match=words) as e: class_set(merged(x=dict(emotions=test), y=dict(emotions=train)), "x", classes, protocol)
    assert "choose other corpora or other classes" in str(e.value) and "\n" not in str(e.value)


def test_one_corpus_cannot_be_tested_across_corpora():
    for f in (class_set, leave_corpus_out):
        with pytest.raises(ValueError, match="no corpus is left to train on beside the test corpus 'x'"): f(made_up("x"), "x")


# One corpus out

POOL = dict(x=dict(speakers=3), y=dict(speakers=8), z=dict(speakers=1), w=dict(speakers=2))

@pytest.mark.parametrize("test", POOL)
@pytest.mark.parametrize("protocol", ["corrected", "faithful"])
@pytest.mark.parametrize("seed", [0, 3])
def test_whole_speakers_choose_and_the_test_corpus_is_apart(test, protocol, seed):
    table = merged(**POOL)
    who, fold = speakers_of(table), leave_corpus_out(table, test, seed=seed, protocol=protocol)
    np.testing.assert_array_equal(np.sort(np.concatenate([fold.train, fold.dev, fold.test])), np.arange(len(table)))
    assert fold.name == test and set(table.corpus.iloc[fold.test]) == {test} and (table.corpus == test).sum() == len(fold.test)
    train, dev = set(who[fold.train]), set(who[fold.dev])
    assert not train & dev
    if protocol == "faithful": assert len(dev) == int(.25*len(train | dev))
    else: assert {c: sum(s.startswith(c) for s in dev) for c in POOL if c != test} == (dict(x=1, z=0, w=1) if test == "y" else {c: 2*(c == "y") for c in POOL if c != test})   # a quarter of x, z and w is less than a speaker


def test_the_draw_depends_on_the_seed_and_not_on_the_order_of_rows():
    table = merged(**POOL)
    def dev(t, **options): return tuple(sorted(set(speakers_of(t)[leave_corpus_out(t, "x", **options).dev])))
    for protocol in ("corrected", "faithful"):
        assert len({dev(table, seed=s, protocol=protocol) for s in range(6)}) > 2
        assert dev(table, protocol=protocol) == dev(table.sample(frac=1, random_state=0).reset_index(drop=True), protocol=protocol)
    women = table.gender.iloc[leave_corpus_out(table, "x", dev_share=.5).dev]
    assert set(women) == {"female", "male"}


def test_named_training_corpora_and_no_development():
    table = merged(**POOL)
    fold = leave_corpus_out(table, "x", ["y"], dev_share=0)
    assert not len(fold.dev) and set(table.corpus.iloc[fold.train]) == {"y"}
    assert leave_corpus_out(table, "x", ["z"], dev_share=0).train.tolist() == np.flatnonzero(table.corpus == "z").tolist()


@pytest.mark.parametrize("options, words", [
    (dict(train=["z"]), "none of the 1 speakers of z can be held back"), (dict(train=["x2", "y"]), "unknown training corpus 'x2': did you mean 'x'"), (dict(train=["x", "y"]), "cannot be trained on"), (dict(train=["w"], protocol="faithful"), "none of the 2 speakers of w"),
    (dict(dev_share=.6), "dev_share=0.6"), (dict(dev_share=-.1), "dev_share=-0.1"), (dict(protocol="other"), "unknown protocol")])
def test_impossible_folds(options, words):
    with pytest.raises(ValueError, match=words) as e: leave_corpus_out(merged(**POOL), "x", **options)
    assert "\n" not in str(e.value)


def test_a_corpus_without_speakers_is_named():
    table = merged(**POOL)
    with pytest.raises(ValueError, match="corpus 'y': 96 of 96 utterances name no speaker"): leave_corpus_out(table.assign(speaker=table.speaker.where(table.corpus != "y", "")), "x")


# Balance

Y = np.repeat([0, 1, 2, -1], [50, 20, 7, 5])

@pytest.mark.parametrize("how, size", [("undersampling", (7, 7, 7)), ("no_balanced", (50, 20, 7)), ("balanced_aug", (50, 50, 50))])
def test_sizes_of_classes(how, size):
    given = np.random.default_rng(0).permutation(np.flatnonzero(Y >= 0))
    rows, forced = balance(given, Y, how)
    assert tuple(np.bincount(Y[rows], minlength=3)) == size and set(rows) <= set(given) and len(forced) == len(rows) and forced.dtype == bool
    assert (np.diff(rows) >= 0).all()
    first = ~pd.Series(rows).duplicated().to_numpy()
    np.testing.assert_array_equal(forced, ~first)
    if how == "balanced_aug": assert set(rows) == set(given) and {c: set(np.unique(rows[Y[rows] == c], return_counts=True)[1]) for c in range(3)} == {0: {1}, 1: {2, 3}, 2: {7, 8}}


@pytest.mark.parametrize("how", BALANCE)
def test_balance_is_seeded_and_even_rows_stay(how):
    rows = np.arange(77)
    drawn = {tuple(balance(rows, Y, how, seed)[0]) for seed in (0, 0, 1, 2)}
    assert len(drawn) == (1 if how == "no_balanced" else 3)
    even = np.r_[0:7, 50:57, 70:77]
    assert balance(even, Y, how)[0].tolist() == even.tolist() and not balance(even, Y, how)[1].any()


def test_balance_errors():
    with pytest.raises(ValueError, match="5 of 10 rows to balance belong to no class"): balance(np.arange(72, 82), Y, "no_balanced")
    with pytest.raises(ValueError, match="no rows to balance"): balance(np.arange(0), Y)
    with pytest.raises(ValueError, match="did you mean 'undersampling'"): balance(np.arange(9), Y, "undersample")
