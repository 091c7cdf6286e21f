"Folds of whole speakers, a guard that nothing passes, and standardisation that never looks at test rows"
import numpy as np
import pandas as pd
import pytest

from ser_nb.core import LeakageError
from ser_nb.data.partition import FIXED, Fold, Guard, default_scheme, gender_fold, get_fold, grouped_by_class, leak, make_partition, partition_table, save_partition, sentence_fold, speakers_of, thin
from ser_nb.data.transform import apply_scaler, fit_scaler, standardise

EMOTIONS = ["angry", "happy", "neutral", "sad"]


def table_of(pairs=5, each=8, corpus="x", seed=0):
    "Sessions of a woman and a man, with uneven numbers of utterances in random order"
    rng = np.random.default_rng(seed)
    rows = [dict(corpus=corpus, file=f"{p}{g}/{i}.wav", start=0., end=np.nan, speaker=f"{p}{g}", gender=dict(f="female", m="male")[g], emotion=EMOTIONS[i % 4], session=f"Session{p}")
            for p in range(1, pairs + 1) for g in "fm" for i in range(each + rng.integers(0, 5))]
    return pd.DataFrame(rows).sample(frac=1, random_state=seed).reset_index(drop=True)


def parts(fold): return fold.train, fold.dev, fold.test


# Folds

@pytest.mark.parametrize("scheme, options, count", [("sessions", {}, 5), ("speakers", {}, 10), ("kfold", {}, 5), ("kfold", dict(folds=3), 3), ("auto", {}, 5), ("sessions", dict(dev_share=.5), 5), ("speakers", dict(dev_share=0), 10)])
@pytest.mark.parametrize("seed", [0, 7])
def test_folds_are_partitions_of_speakers(scheme, options, count, seed):
    table = table_of()
    who, folds = speakers_of(table), make_partition(table, scheme, seed, **options)
    assert len(folds) == len({f.name for f in folds}) == count
    np.testing.assert_array_equal(np.sort(np.concatenate([f.test for f in folds])), np.arange(len(table)))
    for f in folds:
        np.testing.assert_array_equal(np.sort(np.concatenate(parts(f))), np.arange(len(table)))
        speakers = [set(who[p]) for p in parts(f)]
        assert len(set.union(*speakers)) == sum(map(len, speakers)) == 10
        share = options.get("dev_share", .2)
        assert len(speakers[1]) == round(share*(10 - len(speakers[2])))
        if len(speakers[1]) > 1: assert set(table.gender.iloc[f.dev]) == {"female", "male"}


def test_seeds_move_development_speakers_and_folds():
    table = table_of()
    for scheme in ("sessions", "kfold"):
        keys = {tuple(tuple(p.tolist()) for f in make_partition(table, scheme, s) for p in parts(f)) for s in (0, 0, 1, 2)}
        assert len(keys) == 3
    tests = {tuple(tuple(f.test.tolist()) for f in make_partition(table, "sessions", s)) for s in range(3)}
    assert len(tests) == 1


def test_the_order_of_rows_moves_nobody():
    table = table_of()
    for scheme in ("sessions", "speakers", "kfold"):
        for seed in range(3):
            a, b = (partition_table(t, make_partition(t, scheme, seed)) for t in (table, table.sort_values("file", ignore_index=True)))
            pd.testing.assert_frame_equal(a.sort_values(["fold", "part", "file"], ignore_index=True), b.sort_values(["fold", "part", "file"], ignore_index=True))


def test_corpora_are_held_out_with_their_speakers():
    table = pd.concat([table_of(corpus=c, pairs=2) for c in ("x", "y", "z")], ignore_index=True)
    folds = make_partition(table, "corpora")
    assert [f.name for f in folds] == ["x", "y", "z"]
    for f in folds: assert set(table.corpus.iloc[f.test]) == {f.name} and f.name not in set(table.corpus.iloc[np.concatenate([f.train, f.dev])])
    assert {len(f.test) for f in make_partition(table, "speakers")} == set(table.groupby(["corpus", "speaker"]).size())


@pytest.mark.parametrize("corpus", FIXED)
def test_published_folds_test_everybody_once(corpus):
    speakers = [s for fold in FIXED[corpus] for s in fold]
    assert len(speakers) == len(set(speakers)) == dict(emovo=6, ravdess=24)[corpus]
    table = pd.DataFrame([dict(corpus=corpus, file=f"{s}{e}", start=0., end=np.nan, speaker=s, gender="", emotion=e, session="") for s in speakers for e in EMOTIONS])
    assert default_scheme(table) == "fixed" and [set(table.speaker.iloc[f.test]) for f in make_partition(table)] == list(map(set, FIXED[corpus]))
    with pytest.raises(ValueError, match=f"lacks the speakers {speakers[0]} of the published folds"): make_partition(table[table.speaker != speakers[0]].reset_index(drop=True), "fixed")


@pytest.mark.parametrize("change, scheme, words", [
    (lambda t: t[:0], "auto", "no utterance to partition"), (lambda t: t[t.speaker == "1f"], "speakers", "0 test rows|0 training.*two speakers at least"), (lambda t: t[t.session == "Session1"], "sessions", "two sessions at least"),
    (lambda t: t, "corpora", "two corpora at least"), (lambda t: t.assign(speaker=""), "speakers", "name no speaker"), (lambda t: t.assign(session=""), "sessions", "without a session"),
    (lambda t: t[t.session == "Session1"], "kfold", "has 2 speakers, too few for 5"), (lambda t: t, "fixed", "unknown corpus with published folds 'x'"), (lambda t: t, "session", "did you mean 'sessions'")])
def test_impossible_partitions(change, scheme, words):
    with pytest.raises(ValueError, match=words): make_partition(change(table_of()).reset_index(drop=True), scheme)


def test_a_speaker_of_two_sessions_is_a_leak():
    table = table_of()
    table.loc[table.speaker == "2f", "session"] = np.where(np.arange((table.speaker == "2f").sum()) % 2, "Session1", "Session2")
    with pytest.raises(LeakageError, match=r"2f/\d+.wav \(row \d+\)"): make_partition(table, "sessions")


@pytest.mark.parametrize("session", [-1, 5, True, 1., "0", None])
def test_sessions_out_of_range(session):
    with pytest.raises(ValueError, match=r"5 folds, 0 to 4 \(Session1, "): get_fold(make_partition(table_of()), session)
    assert get_fold(make_partition(table_of()), np.int64(4)).name == "Session5"


def test_partition_on_disk(tmp_path):
    table = table_of()
    folds = make_partition(table)
    key = save_partition(table, folds, tmp_path/"a.csv")
    assert key == save_partition(table, make_partition(table), tmp_path/"b.csv") and (tmp_path/"a.csv").read_bytes() == (tmp_path/"b.csv").read_bytes()
    moved = [Fold(f.name, f.train[1:], np.append(f.dev, f.train[0]), f.test) for f in folds]
    assert save_partition(table, moved, tmp_path/"b.csv") != key
    found = pd.read_csv(tmp_path/"a.csv")
    for f in folds: assert set(found.file[(found.fold == f.name) & (found.part == "test")]) == set(table.file.iloc[f.test])
    (tmp_path/"taken").touch()
    with pytest.raises(OSError, match="cannot write to"): save_partition(table, folds, tmp_path/"taken"/"p.csv")


# Less speech

SHARES = [.001, .05, .07, .1, .25, .28, .3, .5, .56, .7, .9, .999]


@pytest.mark.parametrize("seed", [0, 3])
def test_a_share_of_every_emotion_stays(seed):
    table = table_of(each=40, seed=seed)
    fold = make_partition(table)[1]
    emotion = table.emotion.to_numpy(object)
    for share in SHARES:
        less = thin(fold, table, share, seed)
        assert less.name == fold.name and less.test is fold.test
        for part in ("train", "dev"):
            rows, kept = getattr(fold, part), getattr(less, part)
            assert set(kept) <= set(rows) and list(kept) == sorted(set(kept)) and kept.dtype == rows.dtype
            for e in EMOTIONS:
                n = (emotion[rows] == e).sum()
                assert (emotion[kept] == e).sum() == -(-n*round(share*1000)//1000), (share, part, e)
        Guard(table, fold)("thin", np.concatenate([less.train, less.dev]))


@pytest.mark.parametrize("n, share, left", [(100, .07, 7), (25, .28, 7), (75, .68, 51), (100, .55, 55), (100, .071, 8), (3, 1/3, 1), (3, 2/3, 2), (1, 1e-9, 1)])
def test_a_share_is_exact_where_it_can_be(n, share, left):
    table = pd.DataFrame(dict(emotion=["sad"]*n))
    assert len(thin(Fold("x", np.arange(n), np.arange(0), np.arange(0)), table, share).train) == left


def test_a_smaller_share_is_part_of_a_larger_one():
    table = table_of(each=40)
    for fold in make_partition(table):
        kept = [thin(fold, table, share) for share in (*SHARES, 1)]
        for a, b in zip(kept, kept[1:]): assert set(a.train) <= set(b.train) and set(a.dev) <= set(b.dev)
        assert kept[-1] is fold


def test_seeds_and_folds_choose_other_rows():
    table = table_of(each=40)
    a, b = make_partition(table, "speakers")[:2]
    chosen = [tuple(thin(f, table, .2, seed).train) for f, seed in ((a, 0), (a, 0), (a, 1), (Fold("other", a.train, a.dev, a.test), 0))]
    assert chosen[0] == chosen[1] and len(set(chosen)) == 3
    assert not set(thin(b, table, .2).train) & set(b.test)


def test_thin_without_development_rows_and_with_rare_emotions():
    table = table_of()
    fold = make_partition(table, dev_share=0)[0]
    table.loc[fold.train[0], "emotion"] = "fear"
    less = thin(fold, table, .01)
    assert len(less.dev) == 0 and sorted(table.emotion.iloc[less.train]) == sorted([*EMOTIONS, "fear"]) and fold.train[0] in less.train


@pytest.mark.parametrize("share", [0, -.1, 1.01, float("nan"), float("inf")])
def test_shares_that_are_none(share):
    with pytest.raises(ValueError, match="expected above 0, at most 1"): thin(make_partition(table_of())[0], table_of(), share)


# The guard

def test_test_rows_and_test_speakers_are_refused_by_name():
    table = table_of()
    fold = make_partition(table)[0]
    half = Fold("half", fold.train, fold.dev, fold.test[::2])   # other rows of the same speakers are in no part
    for f, rows in ((fold, fold.test[:1]), (half, fold.test[1:2])):
        with pytest.raises(LeakageError) as caught: Guard(table, f)("scaler", np.append(f.train, rows))
        assert f"scaler was about to be fitted on 1 rows of test speakers: {table.file[rows[0]]} (row {rows[0]})" in str(caught.value)
    with pytest.raises(LeakageError, match="…; fit it on training rows"): Guard(table, fold)("GAN", np.arange(len(table)))


def test_the_same_name_in_another_corpus_is_another_speaker():
    table = pd.concat([table_of(corpus="x", pairs=2), table_of(corpus="y", pairs=2)], ignore_index=True)
    fold = make_partition(table, "corpora", dev_share=0)[0]
    assert len(Guard(table, fold)("scaler", fold.train)) == (table.corpus == "y").sum()


def test_the_guard_remembers_and_counts():
    table = table_of()
    fold = make_partition(table)[0]
    strict, loose = Guard(table, fold), Guard(table, fold, "faithful")
    strict("a", fold.train), strict("b", fold.train[::-1]), strict("c", fold.test, transductive=True), loose("d", fold.test)
    a, b, c = strict.log
    assert a["key"] == b["key"] != c["key"] and (a["test_rows"], c["test_rows"], c["transductive"], loose.log[0]["test_rows"]) == (0, len(fold.test), True, len(fold.test))
    for empty in ([], np.array([], int)):
        with pytest.raises(ValueError, match="no rows at all"): strict("e", empty)
    with pytest.raises(ValueError, match="did you mean 'faithful'"): Guard(table, fold, "faithfull")


# Sentences

def said_by(speaker="1f", sentences=20, takes=3, seed=0):
    "Each sentence in three emotions, in random order"
    rows = [dict(corpus="x", file=f"{speaker}/{s}-{k}.wav", start=0., end=np.nan, speaker=speaker, gender="female", emotion=EMOTIONS[k], session="", sentence=f"sentence {s}") for s in range(sentences) for k in range(takes)]
    return pd.DataFrame(rows).sample(frac=1, random_state=seed).reset_index(drop=True)


def test_a_fold_of_sentences_shares_none():
    table = said_by()
    fold = sentence_fold(table)
    said = [set(table.sentence.iloc[rows]) for rows in parts(fold)]
    assert [len(s) for s in said] == [14, 2, 4] and len(set.union(*said)) == 20 and sorted(np.concatenate(parts(fold))) == list(range(60)), "every take of a sentence goes with it"
    again = said_by(seed=1)
    assert set(again.sentence.iloc[sentence_fold(again).test]) == said[2] != set(table.sentence.iloc[sentence_fold(table, 1).test])
    assert [len(set(said_by(sentences=n).sentence.iloc[rows])) for n in (2, 8) for rows in parts(sentence_fold(said_by(sentences=n)))] == [1, 0, 1, 6, 0, 2]
    for wrong, words in ((said_by(sentences=1), "says 1 sentence: one to train on and another"), (pd.concat([said_by(), said_by("2m")], ignore_index=True), "has 2 speakers"), (table.assign(sentence=""), "60 of 60 utterances name no sentence")):
        with pytest.raises(ValueError, match=words): sentence_fold(wrong)
    with pytest.raises(ValueError, match="leave none of 20 sentences to train on"): sentence_fold(table, test_share=.95)


def test_the_guard_of_sentences_looks_at_sentences_alone():
    table = said_by()
    fold = sentence_fold(table)
    guard, part = Guard(table, fold, by="sentence"), Fold("part", fold.train, fold.dev, fold.test[:1])
    assert len(guard("statistics", np.concatenate([fold.train, fold.dev]))) == 60 - len(fold.test), "one speaker in both parts is no leak"
    other = np.flatnonzero((table.sentence == table.sentence[fold.test[0]]) & (table.index != fold.test[0]))[:1]   # in no part, the same sentence
    with pytest.raises(LeakageError, match="statistics was about to be fitted on 1 rows of test sentences: 1f/"): Guard(table, part, by="sentence")("statistics", np.append(fold.train, other))
    Guard(table, part, "faithful", by="sentence")("statistics", other)
    with pytest.raises(LeakageError, match="test speakers"): Guard(table, fold)("statistics", fold.train)
    with pytest.raises(ValueError, match="unknown group 'sentences': did you mean 'sentence'"): Guard(table, fold, by="sentences")


# By gender, and the published split

def crowd(n, seed=0):
    "People of three genders, each with some of the emotions only, in random order"
    rng = np.random.default_rng(seed)
    rows = [dict(corpus="x", file=f"{g or 'x'}{i}/{k}.wav", start=0., end=np.nan, speaker=f"{g or 'x'}{i}", gender=g, emotion=EMOTIONS[rng.integers(4)]) for g, count in n.items() for i in range(count) for k in range(rng.integers(1, 9))]
    return pd.DataFrame(rows).sample(frac=1, random_state=seed).reset_index(drop=True)


def everybody(women=3, men=3): return pd.DataFrame([dict(corpus="x", file=f"{g}{i}/{e}.wav", speaker=f"{g}{i}", gender=g, emotion=e) for g, n in dict(female=women, male=men).items() for i in range(n) for e in EMOTIONS])


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("share", [.8, .5])
def test_each_gender_is_split_once_by_speakers(seed, share):
    table = crowd({"female": 30, "male": 11, "": 7})
    fold, who = gender_fold(table, seed, share), speakers_of(table)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts(fold))), np.arange(len(table)), "nobody is dropped, whatever the gender")
    for g, n in (("female", 30), ("male", 11), ("", 7)):
        rest = int(share*n)
        assert [len(set(who[rows]) & set(who[table.gender == g])) for rows in parts(fold)] == [int(share*rest), rest - int(share*rest), n - rest]
    assert leak(table, fold) == dict(rows=0, speakers=0) and (leak(table, gender_fold(table, seed + 1, share)), fold.name) == (dict(rows=0, speakers=0), "gender")
    moved = table.sort_values("file", ignore_index=True)
    assert [set(table.file[a]) for a in parts(fold)] == [set(moved.file[b]) for b in parts(gender_fold(moved, seed, share))] != [set(table.file[a]) for a in parts(gender_fold(table, seed + 1, share))]


def test_a_speaker_of_two_genders_stays_on_one_side():
    table = crowd({"female": 10, "male": 10})
    table.loc[table.index[table.speaker == "female3"][0], "gender"] = ""
    for seed in range(5): assert leak(table, gender_fold(table, seed)) == dict(rows=0, speakers=0)


@pytest.mark.parametrize("n, sizes", [({"female": 1, "male": 2}, (2, 0, 1)), ({"female": 3}, (1, 1, 1)), ({"female": 3, "male": 3, "": 1}, (3, 2, 2)), ({"female": 10}, (6, 2, 2))])
def test_few_speakers_train_first(n, sizes):
    table = crowd(n)
    assert tuple(table.speaker[rows].nunique() for rows in parts(gender_fold(table))) == sizes


def test_the_published_split_is_that_of_scikit_learn():
    from sklearn.model_selection import GroupShuffleSplit
    table, seed = crowd({"female": 40, "male": 30, "": 5}), 3
    fold, found = grouped_by_class(table, seed), dict(train=[], dev=[], test=[])
    for g in ("female", "male"):
        for e in EMOTIONS:
            cell = table[(table.gender == g) & (table.emotion == e)]
            rest, test = next(GroupShuffleSplit(n_splits=1, train_size=.8, random_state=seed).split(cell, groups=cell.speaker.to_numpy(object)))
            train, dev = next(GroupShuffleSplit(n_splits=1, train_size=.8, random_state=seed).split(cell.iloc[rest], groups=cell.iloc[rest].speaker.to_numpy(object)))
            for part, rows in dict(train=cell.iloc[rest].iloc[train], dev=cell.iloc[rest].iloc[dev], test=cell.iloc[test]).items(): found[part] += list(rows.file)
    assert [sorted(table.file[rows]) for rows in parts(fold)] == [sorted(found[part]) for part in ("train", "dev", "test")]
    assert set(table.gender[np.concatenate(parts(fold))]) == {"female", "male"} and all(list(rows) == sorted(set(rows)) for rows in parts(fold))
    share = leak(table, fold)
    assert share["rows"] > .4 and share["speakers"] > .4
    with pytest.raises(LeakageError): Guard(table, fold)("classifier", fold.train)
    assert len(Guard(table, fold, "faithful")("classifier", fold.train)) == len(fold.train)


@pytest.mark.parametrize("seed", range(3))
def test_the_published_split_is_sound_where_everybody_records_everything(seed):
    table = everybody()
    fold = grouped_by_class(table, seed)
    assert leak(table, fold) == dict(rows=0, speakers=0) and [len(rows) for rows in parts(fold)] == [8, 8, 8] and len(Guard(table, fold)("classifier", fold.train)) == 8


def test_the_leak_counts_rows_and_speakers():
    table = pd.DataFrame(dict(corpus=["x"]*5 + ["y"], speaker=["a", "a", "a", "b", "c", "c"], gender="", emotion="sad"))
    def found(train, test): return leak(table, Fold("x", np.array(train), np.array([4]), np.array(test)))
    assert found([0], [1, 2, 3]) == dict(rows=2/3, speakers=1/2) and found([0], [3]) == dict(rows=0, speakers=0)
    assert found([5], [4]) == dict(rows=0, speakers=0), "the same name in another corpus is another speaker"
    with pytest.raises(ValueError, match="fold 'x' has no test rows"): leak(table, Fold("x", np.arange(3), np.arange(0), np.arange(0)))


@pytest.mark.parametrize("split, table, words", [
    (gender_fold, everybody(1, 1), "needs two of one gender to test anybody"), (gender_fold, everybody().assign(speaker=""), "name no speaker"),
    (grouped_by_class, everybody(2, 3), "2 female speakers of class 'angry' are too few to split in three"), (grouped_by_class, everybody().assign(gender=""), "says no gender: the published split drops everybody")],
    ids=["one of each", "nobody", "two women", "no gender"])
def test_splits_that_cannot_be(split, table, words):
    with pytest.raises(ValueError, match=words): split(table)
    for share in (0, 1, -.2, float("nan")):
        with pytest.raises(ValueError, match="expected a number between 0 and 1"): split(everybody(), 0, share)


# Standardising

def columns(n, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([np.full(n, .1), np.full(n, 0.), np.full(n, -3e7), rng.normal(size=n), 1e6 + rng.normal(size=n), -1e7 + 4*rng.normal(size=n), 1e-20*rng.normal(size=n), 1e20*rng.normal(size=n),
                     (rng.random(n) < .02).astype(float), 12345.678 + 1e-2*rng.normal(size=n)], 1).astype("float32")


@pytest.mark.parametrize("seed", range(3))
def test_scaled_columns_equal_float64(seed):
    table = table_of(seed=seed)
    X, fold = columns(len(table), seed), make_partition(table)[0]
    scaler = fit_scaler(X, fold.train, Guard(table, fold))
    Z, exact = apply_scaler(X, scaler), X.astype("float64")
    sd = exact[fold.train].std(0)
    moving = np.ptp(X[fold.train], 0) > 0
    np.testing.assert_allclose(Z[:, moving], ((exact - exact[fold.train].mean(0))/np.where(moving, sd, 1))[:, moving], rtol=2e-6, atol=2e-6)
    assert np.isfinite(Z).all() and Z.dtype == np.float32 and np.abs(Z[fold.train][:, ~moving]).max() < 1e-5
    assert np.abs(Z[fold.train][:, moving].mean(0, dtype="float64")).max() < 1e-5 and np.allclose(Z[fold.train][:, moving].std(0, dtype="float64"), 1, atol=1e-5)


def test_a_column_that_moves_only_in_the_test_rows_stays_finite():
    table = table_of()
    fold = make_partition(table)[0]
    X = np.ones((len(table), 1), "float32")
    X[fold.test] = 5
    Z = apply_scaler(X, fit_scaler(X, fold.train, Guard(table, fold)))
    assert set(Z[fold.train, 0]) == {0} and set(Z[fold.test, 0]) == {4}


@pytest.mark.parametrize("protocol, normalise", [("corrected", "global"), ("corrected", "speaker"), ("faithful", "global"), ("faithful", "speaker")])
def test_test_rows_move_no_other_row(protocol, normalise):
    table = table_of()
    X, fold = columns(len(table)), make_partition(table)[0]
    other = X.copy()
    other[fold.test] = np.random.default_rng(9).normal(size=(len(fold.test), X.shape[1]))*50
    (Z, a), (W, b) = (standardise(x, table, fold, Guard(table, fold, protocol), normalise) for x in (X, other))
    rest = np.concatenate([fold.train, fold.dev])
    np.testing.assert_array_equal(Z[rest], W[rest])
    for k in a: np.testing.assert_array_equal(a[k], b[k])
    if (protocol, normalise) == ("corrected", "global"):
        np.testing.assert_array_equal(Z[fold.test], apply_scaler(X[fold.test], a))
        changed = X.copy()
        changed[fold.dev] = 0
        np.testing.assert_array_equal(standardise(changed, table, fold, Guard(table, fold))[1]["mean"], a["mean"])
        assert not np.array_equal(standardise(X, table, fold, Guard(table, fold), fit_on=rest)[1]["mean"], a["mean"])


def test_speakers_are_standardised_one_by_one():
    table = table_of()
    X, fold, who = columns(len(table)), make_partition(table)[0], speakers_of(table)
    guard = Guard(table, fold)
    Z, _ = standardise(X, table, fold, guard, "speaker")
    for s in set(who):
        exact = X[who == s].astype("float64")
        np.testing.assert_allclose(Z[who == s][:, 3:6], (exact - exact.mean(0))[:, 3:6]/exact.std(0)[3:6], rtol=1e-5, atol=1e-5)
    assert [e["what"] for e in guard.log if e["test_rows"]] == [f"scaler of speaker {s}" for s in sorted(set(who[fold.test]))] and all(e["transductive"] for e in guard.log[1:])


def test_faithful_scales_each_set_by_itself():
    table = table_of()
    X, fold = columns(len(table)), make_partition(table)[0]
    guard = Guard(table, fold, "faithful")
    Z, _ = standardise(X, table, fold, guard)
    for rows in (fold.test, np.concatenate([fold.train, fold.dev])): np.testing.assert_allclose(Z[rows][:, 3:5].mean(0), 0, atol=1e-4)
    assert [e["test_rows"] for e in guard.log] == [0, 0, len(fold.test)]


def test_scalers_refuse_what_they_cannot_hold():
    table = table_of()
    X, fold = columns(len(table)), make_partition(table)[0]
    guard = Guard(table, fold)
    with pytest.raises(ValueError, match="9 features, the scaler was fitted on 10"): apply_scaler(X[:, :9], fit_scaler(X, fold.train, guard))
    X[fold.train[3], 2] = np.inf
    with pytest.raises(ValueError, match="1 of .* rows have NaN or infinite"): fit_scaler(X, fold.train, guard)
    with pytest.raises(LeakageError, match="scaler was about to be fitted"): fit_scaler(X, fold.test, guard)
    with pytest.raises(LeakageError): standardise(X, table, fold, guard, fit_on=np.arange(len(table)))
