"""The audit on made-up audio with one fault each, its probes on corpora that are confounded or not, and what is known of real corpora.
Faulty files stand among sound ones, and every test says which files a rule must name, so a rule that names too many fails too."""
import json
import os
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import soundfile

from ser_nb.core import LeakageError
from ser_nb.data import audit as module
from ser_nb.data.audit import (ABRUPT, EXCESS, PROBES, audit, audit_figure, card_text, clipping, common_lengths, duplicates, find,
                               frame_levels, markdown_table, measure, measure_corpus, probe, probe_predictions, probe_scheme, save_audit)
from ser_nb.data.corpus import make_corpus
from ser_nb.data.partition import Fold, make_partition

RATE = 16000


def speech(seed=0, seconds=1., gain=.2, edge=.1):
    "Noise with a slow envelope, faded in and out"
    rng, n = np.random.default_rng(seed), round(seconds*RATE)
    t = np.linspace(0, 1, n)
    x = rng.normal(size=n)*(.3 + abs(np.sin(np.pi*(3*t + rng.random()))))
    fade = np.clip(np.minimum(t, 1 - t)/edge, 0, 1)**4 if edge else 1
    return gain*x*fade/abs(x).max()


def corpus_of(folder, sounds, name="x", **columns):
    "Files from {name: signal}, with labels and speakers in turn unless given"
    rows = []
    for i, (file, sound) in enumerate(sounds.items()):
        (folder/file).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder/file, sound, RATE)
        rows.append(dict(file=file, speaker=f"s{i % 4}", gender=("female", "male")[i % 2], emotion=("angry", "sad")[i//4 % 2]))
    table = pd.DataFrame(rows).set_index("file")
    for column, values in columns.items(): table[column] = pd.Series(values).reindex(table.index).fillna(table[column] if column in table else "")
    return make_corpus(name, table.reset_index(), folder)


def findings(corpus):
    u, problems = measure_corpus(corpus)
    return u, find(u, problems, duplicates(corpus, u))


def files_of(u, mask): return sorted(u.file[mask])


@pytest.fixture
def sound_files(): return {f"ok{i}.wav": speech(i, 1 + .07*i) for i in range(8)}


# Measuring

def test_sound_files_have_no_findings(tmp_path, sound_files):
    _, found = findings(corpus_of(tmp_path, sound_files))
    assert found.utterances[[f for f in found.index if f != "speaker with one class only"]].sum() == 0


def test_clipped_is_found_and_full_scale_alone_is_not(tmp_path, sound_files):
    peak = speech(20)
    corpus = corpus_of(tmp_path, {**sound_files, "clipped.wav": np.clip(speech(21, gain=5), -1, 32767/32768), "normalised.wav": peak/abs(peak).max()*32767/32768})
    u, found = findings(corpus)
    assert found.loc["clipped", ["utterances", "first"]].tolist() == [1, "clipped.wav"]
    u = u.set_index("file")
    assert u.full_scale["clipped.wav"] > .1 and 0 < u.full_scale["normalised.wav"] < .001 and u.peak["normalised.wav"] > .999


@pytest.mark.parametrize("signal, share, runs", [
    ([0, 1, 1, 1, 0], .6, 1), ([1, 1, 0, 1, 1], .8, 0), ([1, -1, 1, -1, 1], 1., 0), ([-1, -1, -1, 1, 1, 1], 1., 2), ([1]*7, 1., 1), ([.5]*7, 0., 0), ([1.2, 1.1, 1.3, 0], .75, 1)])
def test_runs_at_full_scale(signal, share, runs): assert clipping(np.array(signal, float)) == (pytest.approx(share), runs)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT", "ULAW", "ALAW"])
def test_clipping_in_every_coding(tmp_path, subtype):
    soundfile.write(tmp_path/"loud.wav", np.clip(speech(1, gain=5), -1, 1), RATE, subtype=subtype)
    soundfile.write(tmp_path/"soft.wav", speech(1, gain=.5), RATE, subtype=subtype)
    loud, soft = measure(tmp_path/"loud.wav"), measure(tmp_path/"soft.wav")
    assert loud["clipped_runs"] > 10 and soft["clipped_runs"] == 0 and loud["subtype"] == subtype


def test_a_clipped_channel_is_not_hidden_by_the_mixdown(tmp_path):
    both = np.stack([speech(1), np.clip(speech(2, gain=5), -1, 1)], 1)
    soundfile.write(tmp_path/"stereo.wav", np.r_[both*0, both], RATE)
    assert measure(tmp_path/"stereo.wav", start=1.)["clipped_runs"] > 10
    assert measure(tmp_path/"stereo.wav", end=1.)["clipped_runs"] == 0
    assert measure(tmp_path/"stereo.wav")["channels"] == 2


def test_silence_is_measured(tmp_path, sound_files):
    u, found = findings(corpus_of(tmp_path, {**sound_files, "zero.wav": np.zeros(RATE), "zeros.wav": np.zeros(RATE),
                                             "pauses.wav": np.r_[np.zeros(8000), speech(9, edge=.02), np.zeros(4000)]}))
    assert found.loc["digital silence", ["utterances", "first"]].tolist() == [2, "zero.wav, zeros.wav"]
    assert found.utterances["duplicate"] == found.utterances["near duplicate"] == 0
    u = u.set_index("file")
    assert u.leading["pauses.wav"] == pytest.approx(.5, abs=.03) and u.trailing["pauses.wav"] == pytest.approx(.25, abs=.03)
    assert u.silence["pauses.wav"] == pytest.approx(.75/1.75, abs=.03) and u.silence["zero.wav"] == 1
    assert np.isnan(u.level["zero.wav"]) and np.isfinite(u.level.drop(["zero.wav", "zeros.wav"])).all()


def test_silence_does_not_depend_on_the_level(tmp_path):
    x = np.r_[np.zeros(8000), speech(9), np.zeros(4000)]
    soundfile.write(tmp_path/"loud.wav", x, RATE, subtype="FLOAT")
    soundfile.write(tmp_path/"soft.wav", x/1000, RATE, subtype="FLOAT")
    loud, soft = measure(tmp_path/"loud.wav"), measure(tmp_path/"soft.wav")
    for name in ("leading", "trailing", "silence"): assert loud[name] == soft[name]
    assert loud["onset"] == pytest.approx(soft["onset"], abs=.01) and loud["level"] - soft["level"] == pytest.approx(60, abs=.01)


def test_cut_files_are_found(tmp_path, sound_files):
    whole = speech(30, 2.)
    u, found = findings(corpus_of(tmp_path, {**sound_files, "start.wav": whole[16000:], "end.wav": whole[:17000], "both.wav": speech(31, edge=0)}))
    assert files_of(u, u.onset > -ABRUPT) == ["both.wav", "start.wav"] and files_of(u, u.offset > -ABRUPT) == ["both.wav", "end.wav"]
    assert found["first"][["starts abruptly", "ends abruptly"]].tolist() == ["both.wav, start.wav", "both.wav, end.wav"]


@pytest.mark.parametrize("n", [1, 3, 100, 319, 320, 321])
def test_tiny_files_are_measured(tmp_path, n):
    soundfile.write(tmp_path/"tiny.wav", np.full(n, .25), RATE)
    found = measure(tmp_path/"tiny.wav")
    assert found["level"] == pytest.approx(-12.04, abs=.01) and found["silence"] == 0 and len(frame_levels(np.full(n, .25), RATE)) == max(1, n//320)


def test_lengths_and_formats(tmp_path, sound_files):
    sounds = {**sound_files, **{f"two{i}.wav": speech(40 + i, 2.) for i in range(6)}, "short.wav": speech(50, .05)}
    corpus = corpus_of(tmp_path, sounds)
    soundfile.write(tmp_path/"ok1.wav", speech(1, 1.07), 8000)
    u, found = findings(replace(corpus, table=corpus.table))
    assert common_lengths(u).to_dict() == {2.: 6}
    assert found.loc["same length", "utterances"] == 6
    assert found.loc["unusual length", ["utterances", "first"]].tolist() == [1, "short.wav"]
    assert found.loc["other format", ["utterances", "first"]].tolist() == [1, "ok1.wav"]


def test_few_equal_lengths_are_chance(tmp_path, sound_files):
    u, found = findings(corpus_of(tmp_path, {**sound_files, **{f"two{i}.wav": speech(40 + i, 2.) for i in range(4)}}))
    assert found.loc["same length", "utterances"] == 0


def test_speakers_that_give_labels_away(tmp_path, sound_files):
    corpus = corpus_of(tmp_path, sound_files, speaker={f: "a" if i < 4 else "b" for i, f in enumerate(sound_files)}, session={f: f"S{i % 2}" for i, f in enumerate(sound_files)})
    _, found = findings(corpus)
    assert found.utterances[["speaker with one class only", "speaker of two genders", "speaker in several sessions"]].tolist() == [8, 8, 8]


# The same recording

def test_duplicates_across_formats_names_labels_and_speakers(tmp_path, sound_files):
    corpus_of(tmp_path, sound_files)
    for source, copy in (("ok0.wav", "a.flac"), ("ok1.wav", "b.flac"), ("ok2.wav", "c.flac")):
        soundfile.write(tmp_path/copy, *soundfile.read(tmp_path/source, dtype="int16"))
    rows = [dict(file=f, speaker="s1", emotion="angry") for f in sound_files]
    rows += [dict(file="a.flac", speaker="s1", emotion="angry"), dict(file="b.flac", speaker="s1", emotion="sad"), dict(file="c.flac", speaker="s2", emotion="angry")]
    corpus = make_corpus("x", rows, tmp_path)
    u, found = findings(corpus)
    twice = duplicates(corpus, u).set_index("file")
    assert twice.exact.all() and {frozenset(g.index) for _, g in twice.groupby("group")} == {frozenset(p) for p in (("a.flac", "ok0.wav"), ("b.flac", "ok1.wav"), ("c.flac", "ok2.wav"))}
    assert sorted(twice.index[twice.other_label]) == ["b.flac", "ok1.wav"] and sorted(twice.index[twice.other_speaker]) == ["c.flac", "ok2.wav"]
    assert found.utterances[["duplicate", "near duplicate", "duplicate under another label", "duplicate of another speaker"]].tolist() == [6, 0, 2, 2]


def test_converted_copies_are_near_duplicates_and_other_takes_are_not(tmp_path, sound_files):
    x = speech(0, 1.)
    rng = np.random.default_rng(1)
    takes = {f"take{i}.wav": speech(100 + i, 1.) for i in range(6)}
    copies = {"dithered.wav": x + rng.integers(-2, 3, len(x))/32768, "softer.wav": x/3, "inverted.wav": -x}
    corpus = corpus_of(tmp_path, {**sound_files, **takes, **copies})
    u, found = findings(corpus)
    twice = duplicates(corpus, u)
    assert sorted(twice.file) == ["dithered.wav", "inverted.wav", "ok0.wav", "softer.wav"] and twice.group.tolist() == [1]*4 and not twice.exact.any()
    assert found.utterances[["duplicate", "near duplicate"]].tolist() == [0, 4]


def test_equal_envelopes_are_not_enough(tmp_path):
    fade = np.hanning(RATE)
    sounds = {f"{i}.wav": .1*fade*np.sin(2*np.pi*(300 + 100*i)*np.arange(RATE)/RATE) for i in range(4)}
    corpus = corpus_of(tmp_path, sounds)
    u, _ = measure_corpus(corpus)
    assert max(np.linalg.norm(a - u.envelope[0]) for a in u.envelope) < module.NEAR
    assert len(duplicates(corpus, u)) == 0


def test_segments_of_one_file_are_utterances(tmp_path):
    x = speech(0, 1.)
    soundfile.write(tmp_path/"long.wav", np.r_[x, speech(1, 1.), x], RATE)
    corpus = make_corpus("x", [dict(file="long.wav", start=float(i), end=i + 1., speaker=f"s{i}", emotion="sad") for i in range(3)], tmp_path)
    u, found = findings(corpus)
    assert duplicates(corpus, u).start.tolist() == [0., 2.] and found.utterances["duplicate"] == 2
    assert (u.length == RATE).all()


# What cannot be read

def test_unreadable_files_are_listed_with_reasons(tmp_path, sound_files):
    corpus_of(tmp_path, sound_files)
    soundfile.write(tmp_path/"nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    soundfile.write(tmp_path/"cut.flac", speech(60, 3.), RATE)
    (tmp_path/"cut.flac").write_bytes((tmp_path/"cut.flac").read_bytes()[:-20000])
    (tmp_path/"text.wav").write_text("not audio")
    corpus = make_corpus("x", [dict(file=f, speaker="s", emotion="sad") for f in (*sound_files, "nan.wav", "cut.flac", "text.wav")], tmp_path)
    assert corpus.problems.file.tolist() == ["text.wav"]
    card = audit(corpus)
    assert sorted(card["problems"].file) == ["cut.flac", "nan.wav", "text.wav"] and card["facts"]["unreadable"] == 3 and card["facts"]["utterances"] == 8
    assert card["findings"].utterances["unreadable"] == 3 and card["findings"].share["unreadable"] == pytest.approx(3/11)
    reasons = card["problems"].set_index("file").reason
    assert "NaN" in reasons["nan.wav"] and "not a readable audio file" in reasons["text.wav"] and ("truncated" in reasons["cut.flac"] or "damaged" in reasons["cut.flac"])
    assert "nan.wav" in card_text(card)


def test_nothing_readable_is_an_error(tmp_path):
    soundfile.write(tmp_path/"nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    with pytest.raises(ValueError, match="corpus 'x': none of its 1 utterances can be decoded; the first: .*NaN"): audit(make_corpus("x", [dict(file="nan.wav")], tmp_path))


def test_threads_do_not_change_the_result(tmp_path, sound_files):
    corpus = corpus_of(tmp_path, sound_files)
    one, many = (measure_corpus(corpus, w)[0] for w in (1, 4))
    pd.testing.assert_frame_equal(one.drop(columns="envelope"), many.drop(columns="envelope"))
    assert one.file.tolist() == corpus.table.file.tolist()


# Probes

def made_up(n=160, speakers=8, seed=0, classes=("angry", "happy", "neutral", "sad")):
    rng = np.random.default_rng(seed)
    emotion = np.tile(np.repeat(classes, speakers), n//(len(classes)*speakers) + 1)[:n]
    return pd.DataFrame(dict(corpus="x", file=[f"{i}.wav" for i in range(n)], start=0., end=np.nan, speaker=[f"s{i % speakers}" for i in range(n)], gender=[("female", "male")[i % 2] for i in range(n)],
                             session="", emotion=emotion, duration=rng.normal(2, .4, n), level=rng.normal(-20, 4, n)))


RELATIONS = {
    "louder": lambda t, r: -20 + 6*(t.emotion == "angry") - 6*(t.emotion == "sad") + r.normal(0, 2, len(t)),
    "wider": lambda t, r: -20 + np.where(t.emotion.isin(["angry", "sad"]), 12, 1)*r.normal(0, 1, len(t)),
    "two bands": lambda t, r: np.where(t.emotion.isin(["angry", "sad"]), -30, -20) + r.choice([0, 20], len(t)) + r.normal(0, 1, len(t)),
    "one value": lambda t, r: np.where(t.emotion == "angry", -20, np.where(t.emotion == "sad", -19, r.normal(-20, 3, len(t)))),
}


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_probe_finds_relations_of_any_shape(relation):
    t = made_up()
    found = probe(t.assign(level=RELATIONS[relation](t, np.random.default_rng(1))), "level")
    assert found["confounded"] and found["uar_low"] > .25
    assert found["excess"] == pytest.approx((found["uar"] - .25)/.75) and found["excess"] > EXCESS


@pytest.mark.parametrize("seed", range(4))
def test_a_probe_of_noise_stays_at_chance(seed):
    t = made_up(seed=seed)
    for column in PROBES:
        found = probe(t, column)
        assert not found["confounded"] and abs(found["excess"]) < .15


def test_a_rare_class_counts_as_much_as_a_frequent_one():
    t, rng = made_up(400, classes=("angry", "sad")), np.random.default_rng(3)
    t = t.assign(emotion=np.where(np.arange(400)//8 % 10 == 0, "angry", "sad"))
    found = probe(t.assign(level=rng.normal(-20, 4, 400) + 6*(t.emotion == "angry")), "level")
    assert found["confounded"] and found["uar"] > .65


def test_a_level_that_is_the_speakers_gives_nothing_away():
    t = made_up()
    assert not probe(t.assign(level=t.speaker.str[1:].astype(int)*5. - 40), "level")["confounded"]


def test_probe_is_the_same_every_time_and_in_any_order():
    t = made_up()
    first = probe_predictions(t, "level")
    pd.testing.assert_frame_equal(first, probe_predictions(t, "level"))
    assert probe(t, "level") == probe(t, "level")
    assert (first.groupby("fold").speaker.nunique() == 1).all() and len(first) == len(t)


@pytest.mark.parametrize("speakers", [6, 20])
def test_a_probe_never_learns_from_test_rows(speakers):
    t = made_up(240, speakers)
    t = t.assign(level=RELATIONS["louder"](t, np.random.default_rng(2)))
    folds, before = make_partition(t, dev_share=0), probe_predictions(t, "level").set_index("file")
    probabilities = [c for c in before if c.startswith("p_")]
    shift = dict(zip(sorted(set(t.emotion)), [*sorted(set(t.emotion))[1:], sorted(set(t.emotion))[0]]))
    for fold in (folds[0], folds[-1]):
        other = t.copy()
        other.loc[fold.test, "emotion"] = other.emotion.iloc[fold.test].map(shift)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "make_partition", lambda *args, **options: folds)
            after = probe_predictions(other, "level").set_index("file")
        tested, rest = t.file.iloc[fold.test], t.file.drop(index=fold.test)
        pd.testing.assert_frame_equal(before.loc[tested, probabilities], after.loc[tested, probabilities])
        assert (before.prediction[tested] == after.prediction[tested]).all() and (before.truth[tested] != after.truth[tested]).all()
        assert (before.loc[rest, probabilities] != after.loc[rest, probabilities]).any(axis=None)


def test_a_leaking_partition_is_refused(monkeypatch):
    t = made_up()
    everything = np.arange(len(t))
    monkeypatch.setattr(module, "make_partition", lambda *args, **options: [Fold("leak", everything, everything[:0], np.flatnonzero(t.speaker == "s0"))])
    with pytest.raises(LeakageError, match="level probe was about to be fitted on"): probe(t, "level")


def test_sessions_that_share_speakers_are_not_held_out():
    t = made_up()
    assert probe_scheme(t.assign(session=[f"S{i % 8//2}" for i in range(len(t))])) == "sessions"
    assert probe_scheme(t.assign(session=[f"S{i//80}" for i in range(len(t))])) == "speakers"
    assert probe(t.assign(session=[f"S{i//80}" for i in range(len(t))]), "level")["n_folds"] == 8


@pytest.mark.parametrize("change, reason", [
    (dict(emotion=""), "no utterance has a label"), (dict(emotion="sad"), "all labels are 'sad'"), (dict(speaker=""), "name no speaker"), (dict(speaker="s0"), "needs two speakers"),
    (dict(level=np.nan), "no utterance has a label"), (dict(corpus="emovo"), "lacks the speakers f1, f2")])
def test_an_impossible_probe_says_why(change, reason):
    found = probe(made_up().assign(**change), "level")
    assert found["note"].startswith("no probe: ") and reason in found["note"] and not found["confounded"] and set(found) == {"note", "confounded"}


def test_an_unknown_probe_is_refused():
    with pytest.raises(ValueError, match="unknown probe 'levl': did you mean 'level'"): probe(made_up(), "levl")


def test_a_class_that_training_lacks_keeps_its_column():
    t = made_up()
    t.loc[t.emotion == "happy", "speaker"] = "s0"
    predictions = probe_predictions(t, "level")
    lone = predictions[predictions.speaker == "s0"]
    assert (lone.p_happy == 0).all() and (predictions.filter(like="p_").sum(axis=1) - 1).abs().max() < 1e-9


# The card

def recordings(folder, name, gain=None, seconds=None):
    "8 speakers x 2 emotions x 5 utterances of the same lengths and gains, unless they are made to depend on the emotion"
    sounds, rows, rng = {}, {}, np.random.default_rng(0)
    for s in range(8):
        for i in range(5):
            length, loud = rng.uniform(.4, .8), rng.uniform(.1, .3)
            for e in ("angry", "sad"):
                file = f"{s}/{e}{i}.wav"
                sounds[file] = speech(len(sounds), (seconds or {}).get(e, length), loud*(gain or {}).get(e, 1))
                rows[file] = (f"s{s}", e, ("female", "male")[s % 2])
    return corpus_of(folder/name, sounds, name, speaker={f: r[0] for f, r in rows.items()}, emotion={f: r[1] for f, r in rows.items()}, gender={f: r[2] for f, r in rows.items()})


@pytest.fixture(scope="module")
def cards(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("cards"), {}
    for name, options in dict(balanced={}, louder=dict(gain=dict(angry=3)), cut=dict(seconds=dict(angry=.6))).items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            made[name] = (audit(recordings(folder, name, **options)), [str(w.message) for w in caught])
    return made


def test_balanced_corpus_does_not_warn(cards):
    card, caught = cards["balanced"]
    assert caught == card["warnings"] == [] and not card["probes"].confounded.any()


@pytest.mark.parametrize("name, column", [("louder", "level"), ("cut", "duration")])
def test_confounded_corpus_warns_with_the_interval(cards, name, column):
    card, caught = cards[name]
    p = card["probes"].loc[column]
    assert card["probes"].confounded.to_dict() == {c: c == column for c in PROBES}
    assert caught == card["warnings"] and len(caught) == 1
    for words in (f"corpus '{name}': {column} alone", f"UAR of {p.uar:.3f}", f"{p.uar_low:.3f} to {p.uar_high:.3f}", f"{p.uar_low_speaker:.3f} to {p.uar_high_speaker:.3f}", "chance 0.500"): assert words in caught[0]


def test_card_counts(cards):
    card, _ = cards["balanced"]
    f = card["facts"]
    assert (f["utterances"], f["files"], f["speakers"], f["sessions"], f["unlabelled"]) == (80, 80, 8, 0, 0)
    assert card["classes"].utterances.to_dict() == {"angry": 40, "sad": 40} and card["classes"].speakers.tolist() == [8, 8]
    assert card["speakers"].to_numpy().tolist() == [[5, 5]]*8 and card["formats"].to_numpy().tolist() == [[RATE, 1, "PCM_16", 80]]
    assert card["classes"].total.sum() == pytest.approx(card["utterances"].duration.sum()) and f["minutes"]*60 == pytest.approx(card["utterances"].duration.sum())
    assert f["shortest"] == card["classes"].shortest.min() and f["longest"] == card["classes"].longest.max()


def test_card_is_saved_and_read_back(cards, tmp_path):
    card, _ = cards["louder"]
    save_audit(card, tmp_path/"a")
    save_audit(card, tmp_path/"b")
    for name in ("audit.json", "card.md", "utterances.csv"): assert (tmp_path/"a"/name).read_bytes() == (tmp_path/"b"/name).read_bytes()
    saved = json.loads((tmp_path/"a"/"audit.json").read_text())
    assert saved["warnings"] == card["warnings"] and saved["facts"] == card["facts"] and "utterances" not in saved
    assert [p["uar"] for p in saved["probes"]] == card["probes"].uar.tolist() and [p["probe"] for p in saved["probes"]] == list(PROBES)
    assert pd.read_csv(tmp_path/"a"/"utterances.csv").level.to_numpy() == pytest.approx(card["utterances"].level.to_numpy())
    assert (tmp_path/"a"/"audit.png").read_bytes().startswith(b"\x89PNG")


def test_text_names_every_finding(cards):
    text = card_text(cards["louder"][0])
    assert text.count("- WARNING: ") == 1
    for finding in cards["louder"][0]["findings"].index: assert finding in text
    for line in text.splitlines():
        if line.startswith("|"): assert line.endswith("|")


def test_markdown_tables_are_padded_and_cut():
    lines = markdown_table(pd.DataFrame(dict(name=["a|b", "c\nd"], x=[1.234, np.nan], ok=[True, False]))).splitlines()
    assert lines[2:] == ["| a\\|b | 1.23 | yes |", "| c d  |      | no  |"] and len(set(map(len, lines))) == 1
    assert markdown_table(pd.DataFrame(dict(x=range(45)))).endswith("… and 5 more")


@pytest.mark.parametrize("change", [dict(emotion=""), dict(speaker="", gender=""), dict(emotion="sad"), dict(speaker="s")])
def test_card_without_labels_or_speakers(tmp_path, sound_files, change):
    corpus = corpus_of(tmp_path, {**sound_files, "zero.wav": np.zeros(RATE)})
    card = audit(replace(corpus, table=corpus.table.assign(**change)))
    assert card["probes"].uar.isna().all() and card["probes"].note.str.startswith("no probe: ").all() and card["warnings"] == []
    assert len(audit_figure(card).axes) == 3 and "no probe: " in card_text(card)
    save_audit(card, tmp_path/"saved")
    assert json.loads((tmp_path/"saved"/"audit.json").read_text())["probes"][0]["uar"] is None


def test_card_of_silence_only(tmp_path):
    card = audit(corpus_of(tmp_path, {f"{i}.wav": np.zeros(RATE) for i in range(8)}))
    assert card["facts"]["level"] is None and card["findings"].utterances["digital silence"] == 8 and len(card["duplicates"]) == 0
    save_audit(card, tmp_path/"saved")
    assert "median silent, highest peak silent" in card_text(card)


def test_figure_of_many_speakers(tmp_path):
    corpus = corpus_of(tmp_path, {f"{i}.wav": speech(i, .2) for i in range(70)}, speaker={f"{i}.wav": f"p{i}" for i in range(70)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure = audit_figure(audit(corpus))
    assert "70 speakers (35 female, 35 male)" in figure.axes[0].get_title() and len(figure.axes[0].get_xticks()) == 0


# Real corpora

@pytest.fixture(scope="module")
def real():
    "Cards of real corpora, audited once each"
    made = {}
    def get(name):
        from ser_nb.data.readers import load_corpus
        if not os.environ.get("SER_NB_DATA"): pytest.skip("SER_NB_DATA is not set")
        try: corpus = load_corpus(name)
        except FileNotFoundError as e: pytest.skip(str(e))
        if name not in made:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                made[name] = (audit(corpus), [str(w.message) for w in caught])
        return made[name]
    return get


def test_urdu_warns_on_level(real):
    card, caught = real("urdu")
    assert len(card["utterances"]) == 400 and len(caught) == 1 and "level alone" in caught[0]
    assert card["probes"].confounded.to_dict() == dict(duration=False, level=True)
    assert card["probes"].uar["level"] > .55 and card["probes"].uar_low["level"] > .5
    assert card["findings"].share["same length"] > .99 and card["findings"].share["ends abruptly"] > .5
    assert card["classes"].speakers["angry"] == 4


def test_emovo_does_not_warn(real):
    card, caught = real("emovo")
    assert caught == card["warnings"] == [] and (card["probes"].excess < .15).all() and card["findings"].share["ends abruptly"] < .05


def test_ravdess_has_a_recording_twice(real):
    card, caught = real("ravdess")
    twice = card["duplicates"]
    assert [f.rsplit(".", 1)[0] for f in twice.file] == ["Actor_07/03-01-03-01-02-01-07", "Actor_07/03-01-03-01-02-02-07"] and not twice.other_label.any()
    assert caught == [] and card["facts"]["level"] < -35


def test_librispeech_has_a_card_without_probes(real):
    card, caught = real("librispeech")
    assert caught == [] and card["facts"]["unlabelled"] == 150 and card["lengths"].utterances[0] > 100
    assert (card["probes"].note == "no probe: no utterance has a label").all()
