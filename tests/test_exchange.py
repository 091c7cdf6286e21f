"Files of other programs: what is in those we write, what comes back, and what is refused before it does harm"
import os
import pickle
import sys
from pathlib import Path

import h5netcdf
import h5py
import numpy as np
import pandas as pd
import pytest

from ser_nb.data.corpus import COLUMNS, EMOTIONS, cut, demo_tones, make_corpus
from ser_nb.data.exchange import (CATEGORIES, FILL, KEYS, from_answers, from_arff, from_hdf, from_netcdf, from_tasks, from_triple, synthetic_table, to_answers, to_hdf, to_netcdf, to_probabilities,
                                  to_triple, utterance_names)
from ser_nb.data.partition import Fold, leak

NAMES = ["pcm_loudness_sma_amean", "pcm_fftMag_mfcc_sma[4]_amean", "Größe, 'x'"]


def features(n=5, d=3, seed=0): return np.random.default_rng(seed).normal(size=(n, d)).astype("float32")
def files(n=5): return pd.DataFrame(dict(file=[f"Session1/Ses01F_impro01_F00{i}.wav" for i in range(n)]))
def labelled(n=5): return files(n).assign(emotion=["angry", "", "sad", "excited", "happy"][:n], activation=[1., 2.5, np.nan, 4, 5][:n], valence=["3", "", "2.5", "1", "5"][:n])


def refused(words, act, error=ValueError):
    with pytest.raises(error, match=words) as caught: act()
    assert "\n" not in str(caught.value)


def nc(path, **changes):
    "A netCDF file in the published layout by another hand; None leaves a variable out"
    given = dict(file_name=np.array(["Ses01_a", "Ses01_b"], object), feature_name=np.array(["f", "g"], object), feature_value=np.ones((2, 2), "float32")) | changes
    with h5netcdf.File(path, "w") as f:
        f.dimensions = {"file_name": 2, "feature_name": 2}
        for name, values in given.items():
            if values is None: continue
            dims = ("file_name", "feature_name")[:values.ndim] if name != "feature_name" else ("feature_name",)
            f.create_variable(name, dims, h5py.string_dtype() if values.dtype == object else values.dtype, data=values)
    return path


# Names

@pytest.mark.parametrize("given, names", [
    (["a.wav", "f/b.WAV", "c.flac", "d.wav.wav"], ["a", "b", "c.flac", "d.wav"]), (["f/0.wav", "m/0.wav", "m/1.wav"], ["f/0", "m/0", "m/1"]), (["a.wav", "a.flac"], ["a", "a.flac"])])
def test_names_are_those_of_the_files_and_keep_folders_where_they_must(given, names): assert utterance_names(pd.DataFrame(dict(file=given))) == names


def test_segments_of_a_file_have_names_of_their_own():
    table = pd.DataFrame(dict(file=["t/a.wav"]*3 + ["t/b.wav"], start=[0, 1.5, 3, 0], end=[1.5, 3, np.nan, np.nan]))
    assert utterance_names(table) == ["a_0.000-1.500", "a_1.500-3.000", "a_3.000-", "b"]


# netCDF

def test_the_published_layout(tmp_path):
    X, table = features(), labelled()
    with h5py.File(to_netcdf(tmp_path/"a"/"x.nc", X, NAMES, table, "made here")) as f:
        assert set(f) == {"file_name", "feature_name", "feature_value", "category", "arousal", "valence"} and f.attrs["description"] == "made here"
        for name in f:
            assert [scale.name for d in f[name].dims for scale in d.values()] == {"file_name": [], "feature_name": [], "feature_value": ["/file_name", "/feature_name"]}.get(name, ["/file_name"])
        assert all(f[v].is_scale for v in ("file_name", "feature_name"))
        assert all(h5py.check_string_dtype(f[v].dtype) == ("utf-8", None) for v in ("file_name", "feature_name", "category"))
        assert all(f[v].dtype == "<f4" for v in ("feature_value", "arousal", "valence"))
        assert f["file_name"].asstr()[0] == "Ses01F_impro01_F000" and f["feature_name"].asstr()[:].tolist() == NAMES
        assert f["category"].asstr()[:].tolist() == table.emotion.tolist()
        np.testing.assert_array_equal(f["feature_value"][:], X)
        np.testing.assert_array_equal(f["valence"][:], np.array([3, np.nan, 2.5, 1, 5], "float32"))


def test_netcdf_is_read_by_its_own_library(tmp_path):
    with h5netcdf.File(to_netcdf(tmp_path/"x.nc", features(), NAMES, labelled())) as f:
        assert {k: len(d) for k, d in f.dimensions.items()} == {"file_name": 5, "feature_name": 3}
        assert f["feature_value"].dimensions == ("file_name", "feature_name") and f["category"].dimensions == ("file_name",)


@pytest.mark.parametrize("table", [files(), files().assign(emotion="", activation=np.nan, valence=None)], ids=["no columns", "empty columns"])
def test_what_nobody_knows_is_not_written(tmp_path, table):
    with h5py.File(to_netcdf(tmp_path/"x.nc", features(), NAMES, table)) as f: assert set(f) == {"file_name", "feature_name", "feature_value"} and f.attrs["description"] == "5 utterances, 3 features"
    assert set(from_netcdf(tmp_path/"x.nc")[2].emotion) == {""}


def test_netcdf_there_and_back(tmp_path):
    X, table = features().astype("float64"), labelled()
    again, names, read = from_netcdf(to_netcdf(tmp_path/"x.nc", X, NAMES, table))
    np.testing.assert_array_equal(again, X.astype("float32"))
    assert again.dtype == np.float32 and names == NAMES and list(read)[:len(COLUMNS)] == list(COLUMNS) and set(read.corpus) == {"x"}
    assert read.file.tolist() == utterance_names(table) and read.emotion.tolist() == table.emotion.tolist()
    np.testing.assert_array_equal(read.activation, table.activation.astype("float32"))
    second = from_netcdf(to_netcdf(tmp_path/"y.nc", again, names, read))
    pd.testing.assert_frame_equal(second[2].assign(corpus="x"), read)
    assert (tmp_path/"x.nc").read_bytes() == to_netcdf(tmp_path/"z.nc", X, NAMES, table).read_bytes()


def test_published_spellings_become_the_houses(tmp_path):
    to_netcdf(tmp_path/"none.nc", features(), NAMES, files().assign(emotion=["sad", None, np.nan, "", "angry"]))
    assert from_netcdf(tmp_path/"none.nc")[2].emotion.tolist() == ["sad", "", "", "", "angry"]
    def emotions(first, second, **options): return from_netcdf(nc(tmp_path/"x.nc", category=np.array([first, second], object)), **options)[2].emotion.tolist()
    assert [emotions(*pair) for pair in (("ang", "hap"), ("exc", "neu"), ("anger", "happiness"), ("sadness", "neutral"), ("xxx", ""), ("fru", "sad"))] == \
        [["angry", "happy"], ["excited", "neutral"], ["angry", "happy"], ["sad", "neutral"], ["", ""], ["frustrated", "sad"]]
    assert emotions("exc", "joy", labels={"exc": "happy", "joy": "happy"}) == ["happy", "happy"]
    refused("x.nc', file Ses01_b: unknown emotion 'angr': did you mean 'angry'.*map it with labels", lambda: emotions("sad", "angr"))
    assert set(CATEGORIES.values()) <= {*EMOTIONS, ""} and set(KEYS) < set(EMOTIONS)


def test_values_that_were_never_written(tmp_path):
    hole = np.array([[1, 2], [9.969209968386869e36, 9.969209968386869e36]], "float32")
    refused("1 of 2 utterances have NaN, infinite or missing features, first 'Ses01_b'", lambda: from_netcdf(nc(tmp_path/"x.nc", feature_value=hole)))
    table = from_netcdf(nc(tmp_path/"x.nc", arousal=hole[:, 0]))[2]
    np.testing.assert_array_equal(table.activation, [1, np.nan])
    assert hole[1, 0] > FILL


@pytest.mark.parametrize("changes, words", [
    (dict(file_name=None), "'file_name' is no list of strings"), (dict(feature_value=None), "has no variable 'feature_value'; it has (file_name, feature_name|feature_name, file_name)"),
    (dict(file_name=np.arange(2.)), "'file_name' is no list of strings"), (dict(file_name=np.array([["a", "b"]]*2, object)), "'file_name' is no list of strings"), (dict(file_name=np.array(["a", "a"], object)), "utterance 'a' is named more than once"),
    (dict(file_name=np.array(["a", ""], object)), "utterance '' is named more than once or not at all"), (dict(feature_name=np.array(["g", "g"], object)), "feature 'g' is named more than once"),
    (dict(feature_value=np.array([[1, np.nan], [1, 1]], "float32")), "1 of 2 utterances have NaN.*'Ses01_a'"), (dict(feature_value=np.full((2, 2), 1e39)), "infinite"),
    (dict(feature_value=np.array([["1", "2"]]*2, object)), "'feature_value' is no array of numbers"), (dict(feature_value=np.ones(2, "float32")), r"shape \(2,\) for 2 utterances"), (dict(arousal=np.ones((2, 2), "float32")), r"activation has the shape \(2, 2\)")])
def test_bad_netcdf(tmp_path, changes, words): refused(f"x.nc.*{words}", lambda: from_netcdf(nc(tmp_path/"x.nc", **changes)))


def test_sizes_that_no_memory_holds(tmp_path):
    with h5py.File(nc(tmp_path/"x.nc", feature_value=None), "a") as f: f.create_dataset("feature_value", (2**42, 2**10), "f4", chunks=(1, 1024))
    refused("x.nc: cannot be read .*Unable to allocate", lambda: from_netcdf(tmp_path/"x.nc"))


READERS = [(from_netcdf, "nc"), (from_hdf, "h5")]


@pytest.mark.parametrize("read, suffix", READERS)
def test_files_that_are_something_else(tmp_path, read, suffix):
    for path in (tmp_path, tmp_path/"none", tmp_path/"no"/"folder"): refused("no such file; expected", lambda: read(path), FileNotFoundError)
    for content in (b"", b"text", b"CDF\x01" + bytes(100), b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + bytes(3000)):
        (tmp_path/"x").write_bytes(content)
        refused("x: cannot be read .*whole and not cut off", lambda: read(tmp_path/"x"))
    with h5py.File(tmp_path/"x", "w"): pass
    refused("x: has no variable 'file_name'; it has nothing at all|x: holds no table", lambda: read(tmp_path/"x"))
    with h5py.File(tmp_path/"x", "w") as f: f["gone"] = h5py.ExternalLink("gone.h5", "/a")
    refused("has no variable 'file_name'; it has gone|'gone' is no table", lambda: read(tmp_path/"x"))


@pytest.mark.parametrize("read, suffix", READERS)
def test_files_that_are_cut_off(tmp_path, read, suffix):
    write = {"nc": to_netcdf, "h5": to_hdf}[suffix]
    whole = write(tmp_path/"x", features(), NAMES, files().assign(emotion="sad")).read_bytes()
    for size in range(0, len(whole), len(whole)//25):
        (tmp_path/"cut").write_bytes(whole[:size])
        refused("cut: cannot be read", lambda: read(tmp_path/"cut"))


# What is never written

@pytest.mark.parametrize("write", [to_netcdf, to_hdf])
@pytest.mark.parametrize("change, words", [
    (dict(X=features()*np.nan), "5 of 5 utterances have NaN"), (dict(X=np.where(np.eye(5, 3) > 0, np.inf, 0)), "3 of 5 .*'Ses01F_impro01_F000'"), (dict(X=features(4)), r"shape \(4, 3\) for 5 utterances and 3"), (dict(X=features()[:, 0]), r"shape \(5,\)"),
    (dict(X=features()[:, :2]), r"shape \(5, 2\)"), (dict(names=["a", "a", "b"]), "feature 'a' is named more than once"), (dict(names=["a", "", "b"]), "feature ''"), (dict(table=files().assign(emotion="sad", file="a.wav")), "utterance 'a' is named more than once"),
    (dict(table=files().assign(emotion="joy")), "unknown emotion for .*'joy'"), (dict(X=features(0), table=files(0).assign(emotion="")), "shape")])
def test_what_could_not_be_read_again_is_not_written(tmp_path, write, change, words):
    write(tmp_path/"x", features(), NAMES, files().assign(emotion="sad"))
    before = (tmp_path/"x").read_bytes()
    refused(words, lambda: write(tmp_path/"x", **(dict(X=features(), names=NAMES, table=files().assign(emotion="sad")) | change)))
    assert (tmp_path/"x").read_bytes() == before and os.listdir(tmp_path) == ["x"]


def test_labels_that_are_no_numbers(tmp_path):
    refused("column 'valence' of the table is no number everywhere .*high", lambda: to_netcdf(tmp_path/"x", features(), NAMES, files().assign(valence=["1", "high", "", "2", "3"])))


@pytest.mark.parametrize("write, broken", [(to_netcdf, "h5netcdf.File.create_variable"), (to_hdf, "pandas.HDFStore.put")])
def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path, monkeypatch, write, broken):
    write(tmp_path/"x", features(), NAMES, files().assign(emotion="sad"))
    before = (tmp_path/"x").read_bytes()
    def stop(*args, **kwargs): raise OSError("disk full")
    monkeypatch.setattr(broken, stop)
    with pytest.raises(OSError, match="disk full"): write(tmp_path/"x", features(seed=1), NAMES, files().assign(emotion="sad"))
    assert (tmp_path/"x").read_bytes() == before and os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("package, act", [("h5netcdf", lambda p: to_netcdf(p, features(), NAMES, files())), ("h5py", from_netcdf), ("h5py", from_hdf), ("tables", lambda p: to_hdf(p, features(), NAMES, files()))])
def test_missing_packages_are_named(tmp_path, monkeypatch, package, act):
    monkeypatch.setitem(sys.modules, package, None)
    refused(rf"needs the package '{package}'.*ser_nb\[exchange\]", lambda: act(tmp_path/"x"), ImportError)


# ARFF

HEAD = "@relation SMILEfeatures\n\n@attribute name string\n@attribute f[0]_a numeric\n@attribute g numeric\n@attribute class {0,1,2,3}\n\n@data\n\n"
LABELLED = HEAD.replace("class {0,1,2,3}", "emotion {anger,joy}")


def arff(folder, text):
    (folder/"x.arff").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder/"x.arff"


@pytest.mark.parametrize("text", [
    HEAD + "a.wav,1.500000e+00,-2e-3,0\n'b\\'s, c',.25,4,0\n", HEAD + "'a.wav',1.5,-.002,?\n\n% a comment\n'b's, c' , 0.25 , 4 , ?", "\ufeff" + HEAD.replace("\n", "\r\n") + "a,1.5,-0.002,0\r\n\"b's, c\",.25,4,0\r\n",
    "% made by hand\n" + HEAD.replace("@relation", "@RELATION").replace("@attribute", "@ATTRIBUTE").replace("@data", "@DATA").replace("numeric", "REAL").replace("f[0]_a", "'f[0]_a'") + "a,1.5,-2e-3,0\n'b\\'s, c.wav',.25,4,0\n",
    LABELLED + "a,1.5,-2e-3,anger\n'b\\'s, c',.25,4,joy\n", HEAD.replace("class {0,1,2,3}", "class numeric") + "a,1.5,-2e-3,?\n'b\\'s, c',.25,4,?\n"])
def test_arff_dialects(tmp_path, text):
    X, names, table = from_arff(arff(tmp_path, text))
    assert X.dtype == np.float32 and names == ["f[0]_a", "g"] and table.file.tolist() == ["a", "b's, c"] and set(table.emotion) == {""} and set(table.corpus) == {"x"} and list(table) == list(COLUMNS)
    np.testing.assert_array_equal(X, np.array([[1.5, -.002], [.25, 4]], "float32"))


def test_arff_names_may_hold_anything(tmp_path):
    names = ["it's", "a, b", "it', 'x", "C:\\new folder\\a", "语 ä", "1.5"]
    text = "".join("'" + n.replace("'", "\\'") + "',1,2,0\n" for n in names)
    assert from_arff(arff(tmp_path, HEAD + text))[2].file.tolist() == [n.replace("\\", "/") for n in names]


def test_arff_values_are_the_nearest_single_precision(tmp_path):
    values = np.random.default_rng(0).normal(size=(30, 2))*10.**np.random.default_rng(1).integers(-30, 30, (30, 2))
    X, _, _ = from_arff(arff(tmp_path, HEAD + "".join(f"n{i},{a:e},{b!r},0\n" for i, (a, b) in enumerate(values.tolist()))))
    np.testing.assert_array_equal(X[:, 1], values[:, 1].astype("float32"))
    np.testing.assert_allclose(X[:, 0], values[:, 0], rtol=1e-6)


def test_classes_count_only_when_somebody_says_what_they_mean(tmp_path):
    path = arff(tmp_path, LABELLED + "a,1,2,anger\nb,1,2,?\nc,1,2,joy\n")
    refused("x.arff', file c: unknown emotion 'joy'.*labels=", lambda: from_arff(path, labels={}))
    assert from_arff(path, labels={"joy": "happy"})[2].emotion.tolist() == ["angry", "", "happy"]
    assert from_arff(arff(tmp_path, HEAD + "a,1,2,0\nb,1,2,3\n"), labels={"0": "", "3": "sad"})[2].emotion.tolist() == ["", "sad"]


@pytest.mark.parametrize("text, words", [
    ("", "has no line @data"), ("file,label\na.wav,sad\n", "line 1: 'file,label' is no ARFF"), (HEAD.replace("@data\n", ""), "has no line @data"), (HEAD, "has no line after @data"), ("@relation x\n@data\na,1,2\n", "has 0 attributes"),
    (HEAD[:40], "line 3: '@attribute name' is no ARFF"), (HEAD.replace("name string", "h numeric") + "1,2,3,0", "line 3: the attribute 'h' is numeric; expected what SMILExtract writes"),
    (HEAD.replace("g numeric", "g string"), "line 5: the attribute 'g' is string"), (HEAD.replace("class {0,1,2,3}", "h numeric"), "line 6: the attribute 'h' is numeric"), (HEAD.replace("f[0]_a", "g") + "a,1,2,0\n", "feature 'g' is named more than once"),
    (HEAD + "a,1,2,0\nb,1,2\n", "line 11: has 3 values instead of 4; was SMILExtract stopped here"), (HEAD + "a,1,2,3,0\n", "line 10: has 5 values"), (HEAD + "a\n", "line 10: has 0 values"), (HEAD + "{0 a, 1 2}\n", "line 10: has 2 values"), (HEAD + "a,1,2,0b,1,2,0\n", "line 10: has 7 values"),
    (HEAD + "a,1,?,0\n", r"line 10: could not convert string to float: '\?'; expected 2 numbers"), (HEAD + "a,1,,0\n", "line 10: could not convert"), (HEAD + "a,1,nan,0\n", "line 10: 1 of 2 features are NaN or infinite"), (HEAD + "a,inf,-inf,0\n", "line 10: 2 of 2"),
    (HEAD + "a,1e39,1,0\n", "line 10: 1 of 2"), (HEAD + "a.wav,1,2,0\nb,1,2,0\na,1,2,0\n", "line 12: the name 'a' was given in line 10 already"), (HEAD + "a,1,2,0\n" + HEAD, "line 11: has 0 values"), (HEAD + "'',1,2,0\n", "utterance '' is named more than once or not at all"),
    (b"\x89HDF\r\n\x1a\n", "is no text in UTF-8"), (HEAD.encode() + "ä,1,2,0".encode("latin-1"), "is no text in UTF-8"), (bytes(500), "line 1: .* is no ARFF"), ((HEAD + "a,1,2,0").encode("utf-16"), "is no text in UTF-8")])
def test_bad_arff(tmp_path, text, words): refused(f"x.arff.*({words})", lambda: from_arff(arff(tmp_path, text)))


def test_arff_that_is_not_there(tmp_path):
    for path in (tmp_path, tmp_path/"none.arff"): refused("no such file; expected an ARFF", lambda: from_arff(path), FileNotFoundError)


def test_arff_goes_to_netcdf(tmp_path):
    given = from_arff(arff(tmp_path, LABELLED + "a,1,2,anger\nb,3,4,?\n"), labels={})
    X, names, table = from_netcdf(to_netcdf(tmp_path/"x.nc", *given))
    np.testing.assert_array_equal(X, given[0])
    assert names == given[1] and table[["file", "emotion"]].to_dict("list") == given[2][["file", "emotion"]].to_dict("list")


# Synthetic sets

SETS = {e: features(seed=i) for i, e in enumerate(("sad", "fear", "neutral", "angry", "happy"))}
SOURCES = [f"talk{i}-ä" for i in range(5)]


def published(path, sets=None, **options):
    "A synthetic set as pandas writes frames whose axes have no names"
    sets = sets or {KEYS.get(e, e): pd.DataFrame(X, index=[f"{s}_syn_{KEYS.get(e, e)}" for s in SOURCES], columns=NAMES) for e, X in SETS.items()}
    for key, frame in sets.items(): frame.to_hdf(path, key=key, **options)
    return path


def test_a_synthetic_set_is_one_matrix_in_the_houses_order():
    X, table = synthetic_table(SETS, SOURCES)
    assert table.emotion.tolist() == [e for e in ("angry", "happy", "neutral", "sad", "fear") for _ in SOURCES] and X.dtype == np.float32
    for i in range(len(X)): np.testing.assert_array_equal(X[i], SETS[table.emotion[i]][i % 5])
    assert table.file[[0, 6, 24]].tolist() == ["talk0-ä_syn_ang", "talk1-ä_syn_hap", "talk4-ä_syn_fear"]


@pytest.mark.parametrize("sets, words", [({}, "without emotions"), ({"anger": features()}, "unknown emotion 'anger'.*'angry'"), ({"sad": features(4)}, "4 synthetic rows of sad for 5 source rows")])
def test_sets_that_do_not_fit(sets, words): refused(words, lambda: synthetic_table(sets, SOURCES))


def test_hdf_is_what_pandas_reads(tmp_path):
    path = to_hdf(tmp_path/"x.h5", *_named(*synthetic_table(SETS, SOURCES)))
    with pd.HDFStore(path, "r") as store: assert sorted(store.keys()) == ["/ang", "/fear", "/hap", "/neu", "/sad"]
    for emotion, X in SETS.items():
        frame = pd.read_hdf(path, KEYS.get(emotion, emotion))
        assert list(frame) == NAMES and frame.index.tolist() == [f"{s}_syn_{KEYS.get(emotion, emotion)}" for s in SOURCES] and (frame.dtypes == "float32").all()
        np.testing.assert_array_equal(frame.to_numpy(), X)


def _named(X, table): return X, NAMES, table


def test_hdf_and_netcdf_there_and_back(tmp_path):
    X, table = synthetic_table(SETS, SOURCES)
    for name, write, read in (("x.h5", to_hdf, from_hdf), ("x.nc", to_netcdf, from_netcdf)):
        again, names, found = read(write(tmp_path/name, X, NAMES, table))
        np.testing.assert_array_equal(again, X)
        assert names == NAMES
        pd.testing.assert_frame_equal(found.assign(corpus="synthetic"), table)
    order = np.random.default_rng(0).permutation(len(X))
    again, _, found = from_hdf(to_hdf(tmp_path/"y.h5", X[order], NAMES, table.iloc[order]))
    for row, file in zip(again, found.file): np.testing.assert_array_equal(row, X[table.file.tolist().index(file)])


def test_rows_without_an_emotion_have_no_key(tmp_path):
    refused("1 of 5 rows have no emotion", lambda: to_hdf(tmp_path/"x", features(), NAMES, labelled()))


@pytest.mark.parametrize("change", [lambda d: d, lambda d: d.astype("float64"), lambda d: d.astype({NAMES[1]: "float64"}), lambda d: d.astype({NAMES[0]: "int64"}), lambda d: d.set_axis(d.index.astype(object)), lambda d: d.set_axis(d.columns.astype(object), axis=1), lambda d: d[d.columns[::-1]]])
def test_published_hdf(tmp_path, change):
    frames = {"sad": pd.DataFrame(np.round(features()*9), index=SOURCES, columns=NAMES), "exc": pd.DataFrame(np.round(features(2)*7), index=["v", "w"], columns=NAMES)}
    X, names, table = from_hdf(published(tmp_path/"x.h5", {k: change(f) for k, f in frames.items()}), labels={"exc": "happy"})
    assert sorted(names) == sorted(NAMES) and table.emotion.tolist() == ["happy"]*2 + ["sad"]*5 and table.file.tolist() == ["v", "w", *SOURCES]
    np.testing.assert_array_equal(pd.DataFrame(X, columns=names)[NAMES], pd.concat([frames["exc"], frames["sad"]]))


@pytest.mark.parametrize("sets, words", [
    ({"quad_cycle": pd.DataFrame(features(), columns=NAMES, index=SOURCES)}, "unknown emotion 'quad_cycle'"), ({"ang": pd.DataFrame(features(), columns=NAMES)}, "'axis1' is no list of strings"), ({"ang": pd.DataFrame(features(), index=SOURCES)}, "'block0_items' is no list of strings"),
    ({"ang": pd.DataFrame(features(), index=SOURCES, columns=NAMES), "sad": pd.DataFrame(features(), index=["v", "w", "x", "y", "z"], columns=NAMES[::-1])}, "'sad' has other features than 'ang'"),
    ({"ang": pd.DataFrame(features(), index=SOURCES, columns=NAMES), "sad": pd.DataFrame(features(), index=SOURCES, columns=NAMES)}, "utterance 'talk0-ä' is named more than once"),
    ({"ang": pd.DataFrame(features()*np.nan, index=SOURCES, columns=NAMES)}, "x.h5, ang: 5 of 5 utterances have NaN"), ({"ang": pd.DataFrame(features(), index=SOURCES, columns=NAMES)[:0]}, "x.h5"),
    ({"ang": pd.Series(features()[:, 0], SOURCES)}, "'ang' is no table of pandas' fixed layout"), ({"deep/ang": pd.DataFrame(features(), index=SOURCES, columns=NAMES)}, "'deep' is no table")])
def test_bad_hdf(tmp_path, sets, words): refused(words, lambda: from_hdf(published(tmp_path/"x.h5", sets)))


@pytest.mark.filterwarnings("ignore:The default value of 'track_times'")
def test_the_other_layout_of_pandas_is_refused(tmp_path): refused("'ang' is no table of pandas' fixed layout", lambda: from_hdf(published(tmp_path/"x.h5", format="table")))


# Pickles

class Trap:
    "Leaves a file behind when it is unpickled"
    def __init__(self, path): self.path = Path(path)
    def __reduce__(self): return self.path.write_text, ("sprung",)


@pytest.mark.filterwarnings("ignore::pandas.errors.PerformanceWarning")
@pytest.mark.parametrize("where", ["values", "index", "attribute"])
def test_nothing_is_unpickled(tmp_path, where):
    trap, path = Trap(tmp_path/"sprung"), tmp_path/"x.h5"
    if where == "values": published(path, {"sad": pd.DataFrame({"f": [trap, trap]}, index=["a", "b"])})
    elif where == "index": published(path, {"sad": pd.DataFrame({"f": [1., 2.]}, index=pd.Index([trap, 3], dtype=object))})
    else:
        published(path)
        with h5py.File(path, "a") as f: f["sad/axis1"].attrs["name"] = np.bytes_(pickle.dumps(trap, 0))
    if where == "attribute": assert len(from_hdf(path)[0]) == 25
    else: refused("pickled Python objects are not loaded", lambda: from_hdf(path))
    assert not (tmp_path/"sprung").exists()
    pd.read_hdf(path, "sad")
    assert (tmp_path/"sprung").exists(), "the trap is none"


def pickled(path):
    "Attributes and datasets of an HDF5 file that hold pickles"
    found = []
    def look(name, node):
        found.extend(f"{name}.{k}" for k, v in node.attrs.items() if isinstance(v, bytes) and v.endswith(b".") and not v[:1].isdigit())
        if isinstance(node, h5py.Dataset) and h5py.check_vlen_dtype(node.dtype): found.append(name)
    with h5py.File(path) as f: f.visititems(look)
    return found


def test_we_write_no_pickles(tmp_path):
    assert pickled(to_hdf(tmp_path/"x.h5", *_named(*synthetic_table(SETS, SOURCES)))) == []
    assert "ang/axis0.name" in pickled(published(tmp_path/"y.h5")), "what pandas pickles is not found"


# EmoNet's triples

TRIPLE = dict(train=["f/0.wav,anger", "m/1.wav,happiness", "f/2.wav,anger"], val=["m/3.wav,happiness"], test=["f/4.wav,anger", "m/5.wav,happiness"])


def triple(folder, audio=True, header="file,label", **changes):
    "A published triple with audio/ beside it; None leaves a part out"
    if audio: demo_tones(folder, 6)
    for name, rows in (TRIPLE | changes).items():
        if rows is not None: (folder/f"{name}.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


def read(folder, **options): return from_triple(*(folder/f"{part}.csv" for part in ("train", "val", "test")), **options)


def test_a_triple_is_a_corpus_and_its_fold(tmp_path):
    corpus, fold = read(triple(tmp_path), name="emo")
    t = corpus.table
    assert (corpus.name, set(t.corpus), corpus.root, len(corpus.problems), fold.name) == ("emo", {"emo"}, tmp_path, 0, "triple")
    assert [[(t.file[i], t.emotion[i], t.part[i]) for i in rows] for rows in (fold.train, fold.dev, fold.test)] == [
        [("f/0.wav", "angry", "train"), ("f/2.wav", "angry", "train"), ("m/1.wav", "happy", "train")], [("m/3.wav", "happy", "dev")], [("f/4.wav", "angry", "test"), ("m/5.wav", "happy", "test")]]
    assert (t.speaker == "").all() and (t.duration > 0).all() and read(tmp_path)[0].name == tmp_path.name


def test_files_are_found_beside_above_and_by_their_root(tmp_path):
    demo_tones(tmp_path/"data", 6)
    lists = tmp_path/"data"/"lists"/"tones"
    lists.mkdir(parents=True)
    assert read(triple(lists, audio=False))[0].root == tmp_path/"data"
    elsewhere = tmp_path/"elsewhere"
    elsewhere.mkdir()
    assert read(triple(elsewhere, audio=False), root=tmp_path/"data")[0].table.file.iat[0] == "f/0.wav"
    absolute = {part: [f"{tmp_path}/data/{row}" for row in rows] for part, rows in TRIPLE.items()}
    corpus, _ = read(triple(elsewhere, audio=False, **absolute))
    assert (corpus.root, corpus.table.file.tolist()) == (tmp_path/"data", ["f/0.wav", "f/2.wav", "f/4.wav", "m/1.wav", "m/3.wav", "m/5.wav"])
    windows = {part: [".\\" + row.replace("/", "\\") for row in rows] for part, rows in TRIPLE.items()}
    assert read(triple(elsewhere, audio=False, **windows), root=tmp_path/"data")[0].table.file.tolist() == corpus.table.file.tolist()


def test_speakers_count_where_a_triple_names_them(tmp_path):
    rows = {part: [f"{row.split(',')[0]},s{i % 2},{row.split(',')[1]}" for i, row in enumerate(rows)] for part, rows in TRIPLE.items()}
    corpus, fold = read(triple(tmp_path, header="file,speaker,label", **rows))
    assert set(corpus.table.speaker) == {"s0", "s1"} and leak(corpus.table, fold) == dict(rows=1., speakers=1.)


def test_labels_of_ones_own_are_mapped(tmp_path):
    own = {part: [row.replace("anger", "nervous").replace("happiness", "cheerful") for row in rows] for part, rows in TRIPLE.items()}
    refused("unknown emotion 'nervous'.*map it with labels", lambda: read(triple(tmp_path, **own)))
    assert set(read(tmp_path, labels=dict(nervous="fear", cheerful="happy"))[0].table.emotion) == {"fear", "happy"}


@pytest.mark.parametrize("changes, words", [
    (dict(test=["f/4.wav,anger", "m/5.wav,sadness"]), "test.csv: has the label 'sad', which no readable row of .*train.csv has"), (dict(val=["m/3.wav,fear"]), "val.csv: has the label 'fear'"),
    (dict(train=["f/0.wav,anger", "f/2.wav,anger"], val=["m/3.wav,anger"], test=["f/4.wav,anger"]), "train.csv: has one class, 'angry'; a classifier needs two"),
    (dict(test=["f/2.wav,anger"]), r"test.csv: 'f/2.wav' was named before, in train.csv"), (dict(test=["./f//2.wav,anger"]), "test.csv: 'f/2.wav' was named before, in train.csv"),
    (dict(val=["m/3.wav,happiness", "m/3.wav,happiness"]), "val.csv: 'm/3.wav' was named before, in val.csv"), (dict(val=[]), "val.csv: has no rows"),
    (dict(train=["f/0.wav,anger", "m/1.wav,"]), "train.csv: row 3 has no label"), (dict(test=[",anger"]), "test.csv: row 2 has no file"), (dict(test=["f/4.wav"]), "test.csv: row 2 has no label"),
    (dict(header="path,label"), "train.csv: has no column 'file'; it has path, label"), (dict(header="file,class"), "has no column 'label'")])
def test_wrong_triples(tmp_path, changes, words): refused(words, lambda: read(triple(tmp_path, **changes)))


def test_missing_and_damaged_audio(tmp_path):
    gone = triple(tmp_path, train=["f/9.wav,anger", *TRIPLE["train"]])
    refused(r"train.csv: names 'f/9.wav', which is not under .* \(1 of 7 files are missing\)", lambda: read(gone), FileNotFoundError)
    refused(r"\(6 of 6 files are missing\); give the folder", lambda: read(triple(tmp_path), root=tmp_path/"f"), FileNotFoundError)
    refused("val.csv: no such table", lambda: from_triple(tmp_path/"train.csv", tmp_path/"none"/"val.csv", tmp_path/"test.csv"), FileNotFoundError)
    (tmp_path/"f"/"2.wav").write_bytes(b"RIFF")
    corpus, fold = read(tmp_path)
    assert corpus.problems.file.tolist() == ["f/2.wav"] and (len(fold.train), len(fold.dev), len(fold.test)) == (2, 1, 2) and corpus.table.part[fold.test].tolist() == ["test"]*2
    (tmp_path/"m"/"3.wav").write_bytes(b"")
    refused("val.csv: none of its files can be read", lambda: read(tmp_path))


def test_segments_of_a_file_are_utterances(tmp_path):
    rows = dict(train=["f/2.wav,0,0.5,anger", "f/2.wav,0.5,1,happiness"], val=["m/1.wav,,,anger"], test=["f/2.wav,1,,anger"])
    corpus, fold = read(triple(tmp_path, header="file,start,end,label", **rows))
    assert corpus.table.start[fold.train].tolist() == [0, .5] and corpus.table.start[fold.test].tolist() == [1.] and len(fold.dev) == 1
    refused("segments, and a triple names whole files", lambda: to_triple(corpus, fold, tmp_path/"out"))


def test_triples_there_and_back(tmp_path):
    rows = demo_tones(tmp_path/"a, b", 12)
    for i, row in enumerate(rows): row |= dict(sentence=f"0{i}, so")
    corpus, fold = make_corpus("x", rows, tmp_path/"a, b"), Fold("x", np.arange(2, 10), np.array([0, 1]), np.array([10, 11]))
    out = to_triple(corpus, fold, tmp_path/"t"/"x")
    assert sorted(os.listdir(out)) == ["test.csv", "train.csv", "val.csv"]
    lines = (out/"test.csv").read_text().splitlines()
    assert lines[0] == "file,speaker,gender,sentence,label" and len(lines) == 3
    again, found = read(out, root=corpus.root)
    pd.testing.assert_frame_equal(again.table.drop(columns="part"), corpus.table)
    for part in ("train", "dev", "test"): np.testing.assert_array_equal(getattr(found, part), getattr(fold, part))
    plain = make_corpus("x", [dict(file=r["file"], emotion=r["emotion"]) for r in rows], corpus.root)
    assert (to_triple(plain, fold, tmp_path/"plain")/"train.csv").read_text().startswith("file,label\n")


def test_folds_that_no_triple_can_say(tmp_path):
    corpus = make_corpus("x", demo_tones(tmp_path, 6), tmp_path)
    refused("fold 'x' of corpus 'x' has no dev rows", lambda: to_triple(corpus, Fold("x", np.arange(4), np.arange(0), np.arange(4, 6)), tmp_path/"out"))
    unlabelled = make_corpus("x", [dict(file=f"{'fm'[i % 2]}/{i}.wav", emotion="sad" if i else "") for i in range(6)], tmp_path)
    refused("f/0.wav has no label", lambda: to_triple(unlabelled, Fold("x", np.arange(3), np.arange(3, 4), np.arange(4, 6)), tmp_path/"out"))
    refused("has segments", lambda: to_triple(cut(corpus, .4), Fold("x", np.arange(3), np.arange(3, 4), np.arange(4, 6)), tmp_path/"out"))
    assert not (tmp_path/"out").exists()


def test_a_folder_of_tasks(tmp_path):
    demo_tones(tmp_path, 6)
    for task in ("emovo", "demos", "notes"): (tmp_path/task).mkdir()
    triple(tmp_path/"emovo", audio=False), triple(tmp_path/"demos", audio=False, val=None, devel=TRIPLE["val"])
    tasks = from_tasks(tmp_path)
    assert list(tasks) == ["demos", "emovo"] and tasks["demos"][0].name == "demos" and tasks["demos"][0].table.drop(columns="corpus").equals(tasks["emovo"][0].table.drop(columns="corpus"))
    assert list(from_tasks(tmp_path, ["emovo"])) == ["emovo"] == list(from_tasks(tmp_path/"emovo")) and list(from_tasks(tmp_path, ["emovo", "demos"])) == ["emovo", "demos"]
    refused("task 'emovo' is named 2 times", lambda: from_tasks(tmp_path, ["emovo", "demos", "emovo"]))
    refused("unknown task in .* 'emodb': did you mean 'emovo'", lambda: from_tasks(tmp_path, ["emodb"]))
    triple(tmp_path/"demos", audio=False)
    refused("demos: has val.csv and devel.csv; keep one", lambda: from_tasks(tmp_path))
    triple(tmp_path/"notes", audio=False, train=None)
    refused("notes: has no train.csv", lambda: from_tasks(tmp_path, ["notes"]), FileNotFoundError)
    refused("no such folder", lambda: from_tasks(tmp_path/"none"), FileNotFoundError)
    refused("no sub-folder has a train.csv", lambda: from_tasks(tmp_path/"f"), FileNotFoundError)


# EmoNet's answers

def answers(classes=("sad", "angry", "happy"), n=6, seed=0):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(len(classes)), n)
    return pd.DataFrame(dict(corpus="x", file=[f"a/b/c/d/{i}.wav" for i in range(n)], repeat=0, truth=rng.choice(classes, n), prediction=np.array(classes)[p.argmax(1)]) | {f"p_{c}": p[:, i] for i, c in enumerate(classes)})


@pytest.mark.parametrize("classes", [("sad", "angry"), ("sad", "angry", "happy")])
def test_answers_have_a_column_for_every_class(tmp_path, classes):
    table = answers(classes)
    written = pd.read_csv(to_answers(tmp_path/"a"/"x.csv", table))
    assert list(written) == ["filename", *(f"probability_{c}" for c in sorted(classes)), "pred_label", "true_label"]
    assert written.filename.iat[0] == "b/c/d/0.wav" and written.probability_angry.tolist() == table.p_angry.tolist() and written.true_label.tolist() == table.truth.tolist()
    found = from_answers(tmp_path/"a"/"x.csv")
    assert list(found) == ["file", "truth", "prediction", *(f"p_{c}" for c in sorted(classes))]
    pd.testing.assert_frame_equal(found.drop(columns="file"), table[list(found)].drop(columns="file"), check_dtype=False)


def test_names_that_four_parts_do_not_tell_apart_stay_whole(tmp_path):
    table = answers().assign(file=[f"{i}/b/c/d/e.wav" for i in range(6)])
    assert pd.read_csv(to_answers(tmp_path/"x.csv", table)).filename.tolist() == table.file.tolist()
    for twice in (pd.concat([table, table.assign(repeat=1)]), table.assign(file="talk.wav", start=np.arange(6))):
        refused("has several rows", lambda: to_answers(tmp_path/"y.csv", twice))
    assert not (tmp_path/"y.csv").exists()


def test_the_swapped_column_of_the_original_is_put_right(tmp_path):
    table = answers(("sad", "angry"))
    table.assign(filename=table.file, probability_angry=table.p_sad, pred_label=table.prediction, true_label=table.truth)[["filename", "probability_angry", "pred_label", "true_label"]].to_csv(tmp_path/"x.csv", index=False)
    found = from_answers(tmp_path/"x.csv")
    np.testing.assert_allclose(found[["p_angry", "p_sad"]], table[["p_angry", "p_sad"]], atol=1e-12)
    table.assign(filename=table.file, probability_angry=table.p_angry, pred_label=table.prediction, true_label=table.truth)[["filename", "probability_angry", "pred_label", "true_label"]].to_csv(tmp_path/"x.csv", index=False)
    refused("x.csv: row 2 answers another class than the most probable one", lambda: from_answers(tmp_path/"x.csv"))


@pytest.mark.parametrize("text, words", [
    ("filename,probability_a,probability_b,pred_label,true_label\nx,.5,.4,a,a", "row 2 has probabilities that do not sum to 1"), ("filename,probability_a,probability_b,pred_label,true_label\nx,.5,.5,a,c", "names the class 'c', which has no column"),
    ("filename,probability_a,probability_b,pred_label,true_label\nx,.9,.1,a,a\ny,.9,.1,b,a", "row 3 answers another class"), ("filename,probability_a,pred_label,true_label\nx,.9,a,a", "one column of probabilities, 'probability_a', and 0 further"),
    ("filename,probability_a,probability_b,pred_label,true_label\nx,.9,none,a,a", "b is 'none' in row 2, expected a number"), ("filename,pred_label,true_label\nx,a,a", "names the class 'a', which has no column"),
    ("filename,probability_a,probability_b,pred_label\nx,.9,.1,a", "has no column 'true_label'"), ("filename,probability_a,probability_b,pred_label,true_label\n", "has no rows"),
    ("filename,probability_a,probability_b,pred_label,true_label\nx,.9,.1,a", "names the class ''")])
def test_wrong_answers(tmp_path, text, words):
    (tmp_path/"x.csv").write_text(text)
    refused(f"x.csv.*({words})", lambda: from_answers(tmp_path/"x.csv"))


def test_probabilities_of_files_without_labels(tmp_path):
    tasks = dict(emovo=pd.DataFrame(dict(sad=[.25, .5], angry=[.75, .5]), index=[7, 8]), tones=pd.DataFrame(dict(happy=[1., 0], fear=[0, 1.])))
    found = pd.read_csv(to_probabilities(tmp_path/"x.csv", [Path("a/b/c/d/1.wav"), "2.wav"], tasks))
    assert list(found) == ["filename", "emovo_probability_angry", "emovo_probability_sad", "tones_probability_fear", "tones_probability_happy"]
    assert found.filename.tolist() == ["b/c/d/1.wav", "2.wav"] and found.emovo_probability_sad.tolist() == [.25, .5] and found.tones_probability_fear.tolist() == [0, 1]
    refused("task 'tones' has 1 answers for 2 files", lambda: to_probabilities(tmp_path/"y.csv", ["1.wav", "2.wav"], tasks | dict(tones=tasks["tones"][:1])))
