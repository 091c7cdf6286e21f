"Tables of utterances: what a corpus refuses, what it lists, and what survives choosing, cutting and files"
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from ser_nb.data.audio import read_audio
from ser_nb.data.corpus import COLUMNS, corpus_key, cut, demo_tones, emotions_of, from_audformat, from_csv, make_corpus, map_emotions, select, to_audformat, to_csv
from ser_nb.data.readers import load_corpus


@pytest.fixture
def rows(tmp_path): return demo_tones(tmp_path, 6)


@pytest.fixture
def tones(rows, tmp_path): return make_corpus("tones", rows, tmp_path)


def refused(words, act, error=ValueError):
    with pytest.raises(error, match=words) as caught: act()
    assert "\n" not in str(caught.value)


def csv(folder, text, encoding="utf-8"):
    path = folder/"mine.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return path


# What is refused, and what is only listed

@pytest.mark.parametrize("file", ["/etc/passwd", "../x.wav", "f/../../x.wav", "..\\x.wav", "", ".", "f/.."])
def test_files_outside_the_root(tmp_path, file): refused("is outside the root folder", lambda: make_corpus("x", [dict(file=file)], tmp_path))


@pytest.mark.parametrize("again", ["f/0.wav", "./f/0.wav", "f//0.wav", "f\\0.wav", "f/./0.wav"])
def test_no_utterance_twice_however_it_is_spelt(rows, tmp_path, again): refused("named more than once, first 'f/0.wav'", lambda: make_corpus("x", [rows[0], dict(file=again)], tmp_path))


@pytest.mark.parametrize("segment, words", [(dict(start=.2, end=.2), "is empty"), (dict(start=.3, end=.1), "is empty"), (dict(start=-.1), "is empty"), (dict(start="late"), "start is 'late', expected a number"),
                                            (dict(end="soon"), "end is 'soon'"), (dict(start=.6), "lies outside the file, which lasts 0.500 s"), (dict(end=.52), "outside the file"), (dict(end=float("inf")), "outside")])
def test_impossible_segments(rows, tmp_path, segment, words): refused(words, lambda: make_corpus("x", [dict(rows[0], **segment)], tmp_path))


@pytest.mark.parametrize("column, value, words", [("emotion", "Angry", "did you mean 'angry'"), ("emotion", "qqq", "file f/0.wav: unknown emotion 'qqq': known are"), ("gender", "woman", "write female, male or nothing")])
def test_unknown_labels(rows, tmp_path, column, value, words): refused(words, lambda: make_corpus("x", [dict(rows[0], **{column: value})], tmp_path))


def test_unreadable_files_are_listed_and_the_rest_goes_on(rows, tmp_path):
    bad = {"text.wav": b"text", "empty.wav": b"", "header.wav": (tmp_path/"f/0.wav").read_bytes()[:30], "cut.wav": (tmp_path/"f/0.wav").read_bytes()[:3000]}
    for name, content in bad.items(): (tmp_path/name).write_bytes(content)
    corpus = make_corpus("x", [*(dict(file=f) for f in bad), *rows, dict(file="gone.wav"), dict(file="m/1.wav", start=3.)], tmp_path)
    assert sorted(corpus.problems.file) == sorted([*bad, "gone.wav", "m/1.wav"])
    assert all(file in reason for file, reason in corpus.problems.itertuples(index=False))
    assert corpus.table.file.tolist() == sorted(r["file"] for r in rows) and list(corpus.table.index) == list(range(6))
    assert "6 left out" in repr(corpus)
    refused("none of its 4 files can be read; the first: .*text.wav", lambda: make_corpus("x", [dict(file=f) for f in bad], tmp_path))


def test_rows_keep_their_values_when_others_are_left_out(rows, tmp_path):
    corpus = make_corpus("x", [dict(file="gone.wav", speaker="nobody")] + rows[::-1], tmp_path)
    assert {r["file"]: (r["speaker"], r["emotion"]) for r in rows} == {r.file: (r.speaker, r.emotion) for r in corpus.table.itertuples()}
    np.testing.assert_allclose(corpus.table.duration, [soundfile.info(str(corpus.path(i))).duration for i in range(6)])


def test_missing_and_empty_folders(tmp_path, monkeypatch):
    monkeypatch.delenv("SER_NB_DATA", raising=False)
    refused("SER_NB_DATA is not set.*f1/dis-f1-b1.wav.*-p corpus demo", lambda: load_corpus("emovo"), FileNotFoundError)
    monkeypatch.setenv("SER_NB_DATA", str(tmp_path))
    refused("emovo is not there; expected the folder", lambda: load_corpus("emovo"), FileNotFoundError)
    (tmp_path/"emovo").mkdir()
    refused("nothing to read under .*emovo; expected f1/dis", lambda: load_corpus("emovo"))
    refused("did you mean 'emovo'", lambda: load_corpus("emov"))
    refused("no such file or folder", lambda: load_corpus(str(tmp_path/"none"/"here")), FileNotFoundError)
    refused("nothing to read", lambda: load_corpus(str(tmp_path)))


def test_apple_doubles_are_no_audio(rows, tmp_path):
    for file in ("angry/a.wav", "angry/._a.wav", "sad/mein Satz ä.wav"): (tmp_path/"labelled"/file).parent.mkdir(parents=True, exist_ok=True)
    for file in ("angry/a.wav", "sad/mein Satz ä.wav"): (tmp_path/"labelled"/file).write_bytes((tmp_path/"f/0.wav").read_bytes())
    (tmp_path/"labelled/angry/._a.wav").write_bytes(b"\0\5\x16\7")
    corpus = load_corpus(str(tmp_path/"labelled"))
    assert corpus.table.file.tolist() == ["angry/a.wav", "sad/mein Satz ä.wav"] and not len(corpus.problems)


# CSV

@pytest.mark.parametrize("text", ["file,label\nf/0.wav,sad\n", "file;label\r\nf/0.wav;sad\r\n", "file\tlabel\nf/0.wav\tsad", "\ufefffile,emotion\nf/0.wav,sad\n", '"file","label"\n"f/0.wav","sad"\n',
                                  "label,file\nsad,f\\0.wav\n", "file, label\nf/0.wav, sad\n", "file,label,start,end,duration\nf/0.wav,sad,,,\n", "corpus,file,label\nother,f/0.wav,sad\n"])
def test_csv_dialects(rows, tmp_path, text):
    table = from_csv(csv(tmp_path, text)).table
    assert table[["file", "emotion", "corpus", "start", "duration"]].values.tolist() == [["f/0.wav", "sad", "mine", 0, .5]] and np.isnan(table.end[0])


@pytest.mark.parametrize("text, words", [
    ("file\nf/0.wav\n", "has no column 'emotion' .or 'label'.; it has file"), ("path,label\nf/0.wav,sad\n", "has no column 'file'; it has path, label"), ("f/0.wav,sad\n", "has no column 'file'"),
    ("", "not a readable CSV"), ("\n\n", "not a readable CSV|has no column"), (b"PK\x03\x04" + bytes(range(256)), "not a readable CSV"), ("file,label\nf/0.wav,sad".encode("utf-16"), "not a readable CSV"),
    ("file,label\nf/0.wav,sad\nm/1.wav,sad,3\n", "not a readable CSV.*line 3"), ("file,label\n", "is empty"), ("file,label\nf/0.wav,ärger\n", "unknown emotion 'ärger'"),
    ("file,label,start\nf/0.wav,sad,abc\n", "start is 'abc'"), ("file,label\n../x.wav,sad\n", "outside the root"), ("file,label\nf/0.wav,sad\nf/0.wav,angry\n", "named more than once")])
def test_bad_csv(rows, tmp_path, text, words): refused(words, lambda: from_csv(csv(tmp_path, text)))


def test_csv_that_is_not_there(tmp_path):
    for path in (tmp_path, tmp_path/"none.csv"): refused("no such CSV", lambda: from_csv(path), FileNotFoundError)


def test_csv_keeps_awkward_text(rows, tmp_path):
    speakers, sentences = ["01", "NA", "nan", "None", 'a "b", c', "Jürgen\t语"], ["1e5", "", "null", "x,y;z", "two\nlines", "-"]
    made = make_corpus("tones", [dict(r, speaker=s, sentence=t, mine=i) for i, (r, s, t) in enumerate(zip(rows, speakers, sentences))], tmp_path)
    again = from_csv(to_csv(made, tmp_path/"tones.csv"))
    pd.testing.assert_frame_equal(again.table[list(COLUMNS)], made.table[list(COLUMNS)])
    assert again.table["mine"].tolist() == made.table["mine"].astype(str).tolist() and set(again.table.speaker) == set(speakers)
    assert from_csv(tmp_path/"tones.csv", root=tmp_path, name="tones", labels={"angry": "sad"}).table.emotion.tolist() == made.table.emotion.replace("angry", "sad").tolist()


def test_nothing_is_written_where_it_cannot_be(tones, tmp_path):
    (tmp_path/"taken").write_text("a file")
    with pytest.raises(OSError, match="cannot write to .*taken.*choose a writable folder"): to_csv(tones, tmp_path/"taken"/"x.csv")
    assert (tmp_path/"taken").read_text() == "a file"


# Choosing, merging, cutting

def test_maps_act_at_once(tones):
    swapped = map_emotions(tones, {"angry": "happy", "happy": "angry"})
    assert swapped.table.emotion.map({"angry": "happy", "happy": "angry", "neutral": "neutral"}).tolist() == tones.table.emotion.tolist()
    assert emotions_of(map_emotions(tones, {"neutral": ""})) == ["angry", "happy"]
    for mapping in ({"anger": "angry"}, {"angry": "anger"}): refused("did you mean 'angry'", lambda: map_emotions(tones, mapping))


def test_select_keeps_rows_together(tones):
    part = select(tones, emotion=["neutral", "angry"], speaker="m")
    assert list(part.table.index) == list(range(len(part))) and len(part) == 2
    whole = tones.table.set_index("file")
    for row in part.table.itertuples(): assert whole.loc[row.file, ["emotion", "speaker", "duration"]].tolist() == [row.emotion, row.speaker, row.duration]
    refused("did you mean 'speaker'", lambda: select(tones, speakr="m"))
    refused("unknown speaker in corpus 'tones' 'x'", lambda: select(tones, speaker="x"))
    refused("no utterance has", lambda: select(select(tones, file=["f/0.wav", "m/1.wav"]), file="f/0.wav", speaker="m"))


@pytest.mark.parametrize("limit", [.11, .25, .3, .5, 1/3, 2.])
def test_cutting_loses_no_sample(tones, limit):
    pieces = cut(tones, limit)
    assert pieces.table.duration.max() <= limit + 1e-9 and len(pieces) >= len(tones) and not pieces.table.duplicated(["file", "start", "end"]).any()
    for file, t in pieces.table.groupby("file"):
        parts = [read_audio(pieces.root/file, r.start, r.end)[0] for r in t.sort_values("start").itertuples()]
        np.testing.assert_array_equal(np.concatenate(parts), read_audio(pieces.root/file)[0])
        assert np.ptp(t.duration) < 1e-9 and t.emotion.nunique() == t.speaker.nunique() == 1
    pd.testing.assert_frame_equal(cut(pieces, limit).table, pieces.table)


def test_segments_are_cut_inside_themselves(rows, tmp_path):
    corpus = cut(make_corpus("x", [dict(file="m/5.wav", start=.2, end=1.2)], tmp_path), .3)
    np.testing.assert_allclose(corpus.table[["start", "end"]], [[.2, .45], [.45, .7], [.7, .95], [.95, 1.2]])
    for limit in (.1, 0, -1, float("nan")): refused("expected more than 0.1 seconds", lambda: cut(corpus, limit))


# Keys and exchange

def test_the_key_is_that_of_the_table(tones, rows, tmp_path):
    key = corpus_key(tones)
    assert corpus_key(replace(tones, root=Path("/elsewhere"))) == key == corpus_key(make_corpus("tones", rows[::-1], tmp_path))
    for column, value in dict(file="z.wav", start=.1, end=.4, corpus="y", speaker="x", gender="", emotion="fear", session="9", sentence="s", language="de", duration=.2).items():
        table = tones.table.copy()
        table.loc[3, column] = value
        assert corpus_key(replace(tones, table=table)) != key, column
    assert corpus_key(replace(tones, table=tones.table.iloc[:5])) != key


def test_audformat_keeps_segments_and_gaps(rows, tmp_path):
    given = [dict(r, session=str(i), sentence="ä, b", language="de") for i, r in enumerate(rows)]
    given[1].update(emotion="", gender="", speaker="")
    given[5].update(start=.25, end=.75)
    made = make_corpus("x", given, tmp_path)
    again = from_audformat(to_audformat(made, tmp_path/"db"), root=tmp_path)
    pd.testing.assert_frame_equal(again.table, made.table)
    assert sorted(p.name for p in (tmp_path/"db").iterdir() if p.suffix == ".wav") == []
    refused("no db.yaml", lambda: from_audformat(tmp_path), FileNotFoundError)
    refused("unknown table 'utterance': did you mean 'utterances'", lambda: from_audformat(tmp_path/"db", table="utterance"))
