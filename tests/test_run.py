"Paths, seeds, whole files and run folders: what is written is complete, what is misspelt is refused, what is killed goes on"
import gzip
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ser_nb.core import atomic_path, cache_root, check_name, data_root, git_commit, key_of, named_seed, outputs_root, project_root, resolve_preset, versions, write_json, write_text
from ser_nb.run import (PREDICTION_COLUMNS, Run, check_parameters, check_predictions, code_key, declared_parameters, finish, finished_runs, parameters, pool_predictions, published, read_predictions, record, run_id,
                        save_figure, save_predictions, stage, systems)


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("SER_NB_OUTPUTS", str(tmp_path/"outputs"))
    return tmp_path/"outputs"


def everything(folder): return sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*"))


# Names, keys, seeds

@pytest.mark.parametrize("name, near", [("sesion", "session"), ("SESSION", "session"), ("seed ", "seed"), ("xyz", None), ("", None), (None, None), (3, None)])
def test_misspelt_names_get_a_suggestion(name, near):
    with pytest.raises(ValueError, match=f"unknown parameter {name!r}: " + (f"did you mean {near!r}" if near else "known are corpus, seed, session")): check_name(name, ["session", "corpus", "seed"], "parameter")


def test_keys_and_seeds_are_the_same_on_every_machine():
    "Pinned: a change here would make every cached feature and every random number another"
    assert key_of("a", {"ä": [1, .1, None], "b": True}) == key_of("a", {"b": True, "ä": [1, .1, None]}) == "413451d0eb5931d4eb551de5bbf5c3db040ffb6bf321b7a7df8cc86e0481f396"
    assert named_seed(3, "fold", 1) == 5102382451547217386


def test_different_things_have_different_keys():
    parts = [(1,), ("1",), (1.5,), (True,), (None,), ([],), ({},), ("a", "b"), ("ab",), (["a", "b"],), ({"a": "b"},), ({"b": "a"},), ((), ())]
    assert len({key_of(*p) for p in parts}) == len(parts)
    for bad in (np.float32(1), {1, 2}, Path("x"), np.arange(3)):
        with pytest.raises(TypeError): key_of(bad)


def test_seeds_have_names():
    names = [(0,), (1,), (0, "fold"), (0, "fold", 1), (0, "fold", 2), (0, "fold", 1, "repeat"), (0, "fold1"), (0, "1", "fold")]
    seeds = [named_seed(*n) for n in names]
    assert len(set(seeds)) == len(names) and all(0 <= s < 2**63 for s in seeds) and named_seed(np.int64(0), "fold", 1) == named_seed(0, "fold", "1")


# Paths

def test_roots_follow_their_variables(tmp_path, monkeypatch):
    for variable in ("SER_NB_OUTPUTS", "SER_NB_CACHE"): monkeypatch.delenv(variable)
    (tmp_path/"checkout"/"nbs"/"deep").mkdir(parents=True)
    (tmp_path/"checkout"/"settings.ini").write_text("[DEFAULT]\nlib_name = ser_nb\n")
    monkeypatch.chdir(tmp_path/"checkout"/"nbs"/"deep")
    assert project_root() == tmp_path/"checkout" and outputs_root() == tmp_path/"checkout"/"outputs" and cache_root() == tmp_path/"checkout"/".cache"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SER_NB_CACHE", "~/else where")
    assert cache_root() == tmp_path/"else where"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SER_NB_CACHE")
    assert outputs_root() == tmp_path/"outputs" and cache_root() == tmp_path/".cache"/"ser_nb" and git_commit() == ""
    with pytest.raises(FileNotFoundError, match="no ser_nb checkout around"): project_root()
    (tmp_path/"settings.ini").write_text("[DEFAULT]\nlib_name = other\n")
    with pytest.raises(FileNotFoundError): project_root()


def test_a_missing_corpus_names_variable_layout_and_way_out(tmp_path, monkeypatch):
    monkeypatch.delenv("SER_NB_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="SER_NB_DATA is not set; expected the folder .SER_NB_DATA/emovo holding f1/, or take the corpus demo"): data_root("emovo", "f1/")
    monkeypatch.setenv("SER_NB_DATA", str(tmp_path))
    (tmp_path/"emovo").touch()
    with pytest.raises(FileNotFoundError, match="emovo is not there"): data_root("emovo")
    (tmp_path/"savee").mkdir()
    assert data_root("savee") == tmp_path/"savee"


def test_presets(monkeypatch):
    assert resolve_preset() == "small"
    monkeypatch.setenv("IN_TEST", "1")
    assert (resolve_preset(), resolve_preset("paper")) == ("tiny", "paper")


def test_versions_name_what_results_depend_on(): assert {"python", "numpy", "torch", "opensmile", "scikit-learn", "soundfile", "audmetric"} <= set(versions())


# Whole files

def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    write_json(tmp_path/"a.json", dict(a=1))
    for act in (lambda: write_json(tmp_path/"a.json", dict(a=float("nan"))), lambda: write_json(tmp_path/"a.json", dict(a={1, 2})), lambda: write_text(tmp_path/"a.json", "\ud800")):
        with pytest.raises((ValueError, TypeError)): act()
    for error in (KeyboardInterrupt, SystemExit, OSError):
        with pytest.raises(error):
            with atomic_path(tmp_path/"a.json") as part:
                part.write_text("half")
                raise error
    assert everything(tmp_path) == ["a.json"] and json.loads((tmp_path/"a.json").read_text()) == dict(a=1)


def test_a_kill_leaves_nothing_that_looks_finished(tmp_path):
    program = "import sys, time\nfrom ser_nb.core import atomic_path\nwith atomic_path(sys.argv[1]) as part:\n    part.write_text('half'); print('now', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", program, tmp_path/"x.json"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "now\n"
    process.kill()
    process.wait()
    assert not (tmp_path/"x.json").exists()
    write_text(tmp_path/"x.json", "whole")
    assert (tmp_path/"x.json").read_text() == "whole"


def test_the_same_content_is_the_same_bytes(tmp_path):
    a, b = write_json(tmp_path/"a.json", {"b": [1, .1], "a": "ä"}), write_json(tmp_path/"b.json", {"a": "ä", "b": [1, .1]})
    assert a.read_bytes() == b.read_bytes() == '{\n "a": "ä",\n "b": [\n  1,\n  0.1\n ]\n}\n'.encode()
    assert stat.S_IMODE(a.stat().st_mode) & 0o444 == 0o444, "others can read it"


def test_where_nothing_can_be_written(tmp_path, monkeypatch):
    (tmp_path/"outputs").write_text("a file in the place of the folder")
    monkeypatch.setenv("SER_NB_OUTPUTS", str(tmp_path/"outputs"))
    for act in (lambda: Run("exp0", session=0), lambda: write_text(tmp_path/"outputs"/"x", "")):
        with pytest.raises(OSError, match="cannot write to .*outputs.*choose a writable folder with SER_NB_OUTPUTS or SER_NB_CACHE"): act()
    assert everything(tmp_path) == ["outputs"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("SER_NB_OUTPUTS", str(tmp_path))
    tmp_path.chmod(0o555)
    with pytest.raises(OSError, match="choose a writable folder"): Run("exp0", session=0)


# Runs

def test_ids_are_folders_and_one_for_each_set_of_parameters():
    base = dict(corpus="emovo", session=0, classifier="svm", seed=0, emotions=None, labels=None)
    changes = [dict(corpus="emodb"), dict(session=1), dict(session="0"), dict(session="all"), dict(seed=1), dict(seed=None), dict(emotions=["sad"]), dict(emotions=["sad", "angry"]), dict(labels={"excited": "happy"}), dict(more=1)]
    ids = [run_id(base), *(run_id({**base, **c}) for c in changes)]
    assert len(set(ids)) == len(ids) and ids[0].startswith("emovo-s0-svm-") and run_id(dict(reversed(base.items()))) == ids[0]
    for corpus in ("../../etc/passwd", "a/b c.csv", "..", "C:\\x y", "ä\n*?.csv", "/tmp/x/"):
        name = run_id({**base, "corpus": corpus})
        assert Path(name).name == name and not set(name) & set('/\\ \n*?:"<>|') and name not in (".", "..")


def test_ids_of_exp2_are_what_they_were():
    "Pinned: recorded runs are found by these names"
    params = dict(corpus="emovo", session=0, train_on="real", classifier="mlp", features="emobase2010", normalise="global", protocol="corrected", preset="paper", lr=None, emotions=None, seed=0)
    assert run_id(params) == "emovo-s0-real-mlp-emobase2010-global-corrected-paper-" + key_of(params)[:8]
    for same in (dict(share=1.), dict(share=1), dict(augment=None, lambda_cls=None, mode=None)): assert run_id({**params, **same})[:-8] == run_id(params)[:-8]


@pytest.mark.parametrize("params, name", [
    (dict(corpus="emovo", mode="inner", session="all", lambda_cls=2., protocol="faithful", preset="paper"), "emovo-inner-sall-cls2-faithful-paper-"),
    (dict(corpus="a/emo.csv", mode="cross", session=None, lambda_cls=.5, share=.25), "emo-cross-cls0.5-share0.25-"),
    (dict(corpus="x", session=3, train_on="real+syn", augment="gan", lambda_cls=0, share=.1, classifier="svm"), "x-s3-real+syn-gan-cls0-share0.1-svm-"),
    (dict(corpus="x", lr=dict(d=1e-3, g=2e-3)), "x-")])
def test_ids_say_what_was_augmented(params, name): assert run_id(params)[:-8] == name


def guesses(session=0, n=6, repeats=1, labels=("happy", "sad")):
    rng = np.random.default_rng(session)
    tables = [pd.DataFrame(dict(file=[f"{session}/{i}.wav" for i in range(n)], start=0., end=np.nan, corpus="x", speaker=[f"{session}{'fm'[i % 2]}" for i in range(n)], gender="", fold=session, repeat=r, seed=2**62 + r,
                                truth=[labels[i % 2] for i in range(n)], prediction=labels[0])).assign(p_happy=p, p_sad=1 - p) for r in range(repeats) for p in [rng.random(n)]]
    return pd.concat(tables, ignore_index=True)


@pytest.mark.parametrize("change, words", [
    (lambda t: t.drop(columns="speaker"), "lack the columns speaker"), (lambda t: t[:0], "test partition is empty"), (lambda t: t.assign(truth="fear"), r"name \['fear'\], which have no"), (lambda t: t.assign(prediction=""), "have no probability"),
    (lambda t: t.assign(p_sad=.9), "expected 1"), (lambda t: t.assign(p_sad=[np.nan] + [0.]*5), "expected 1"), (lambda t: pd.concat([t, t]), "tested twice"), (lambda t: pd.concat([t, t.assign(fold=9)]), "tested twice")])
def test_predictions_that_break_the_contract(outputs, change, words):
    run = Run("exp0", session=0)
    with pytest.raises(ValueError, match=words): save_predictions(run, change(guesses()))
    assert everything(run.folder) == [], "nothing is written of what is refused"


def test_predictions_survive_the_disk(outputs):
    awkward = dict(file=["a,b.wav", 'a "b".wav', "ä 语.wav", "NA", "nan.wav", "1e5"], speaker=["01", "NA", "None", "", "1e3", "ü,\"x\""], start=[0, .5, 1/3, 0, 0, 12345.678901], end=[1, np.nan, 2/3, np.nan, 5, np.nan])
    table = check_predictions(guesses(repeats=2).assign(**{k: v*2 for k, v in awkward.items()}))
    run = Run("exp0", session=0)
    again = save_predictions(run, table.sample(frac=1, random_state=0))
    pd.testing.assert_frame_equal(again, table, atol=1e-8, rtol=0)
    first = (run.folder/"predictions.csv").read_bytes()
    save_predictions(run, again)
    assert (run.folder/"predictions.csv").read_bytes() == first and b"\r" not in first and first.decode().splitlines()[0] == ",".join([*PREDICTION_COLUMNS, "p_happy", "p_sad"])


def done(session=0, table=None, **params):
    run = Run("exp0", session=session, **params)
    save_predictions(run, guesses(session) if table is None else table)
    finish(run, dict(uar=.5))
    return run


def test_same_parameters_same_folder_same_bytes(outputs):
    a = done(corpus="x")
    first = {n: (a.folder/n).read_bytes() for n in ("predictions.csv", "metrics.json")}
    b = done(corpus="x")
    assert a.folder == b.folder and {n: (b.folder/n).read_bytes() for n in first} == first
    manifest = json.loads((b.folder/"manifest.json").read_text())
    assert manifest["parameters"] == dict(session=0, corpus="x") and {"commit", "versions", "finished", "seconds", "experiment", "id"} <= set(manifest)


def test_an_unfinished_run_is_no_run(outputs):
    run = Run("exp0", session=0)
    save_predictions(run, guesses())
    for metrics in (dict(uar=float("nan")), dict(uar=np.arange(2))):
        with pytest.raises((ValueError, TypeError)): finish(run, metrics)
    assert finished_runs("exp0") == [] and everything(run.folder) == ["predictions.csv"]
    with pytest.raises(FileNotFoundError, match="not finished; run it again"): record(run.folder)
    with pytest.raises(ValueError, match="no finished run to pool"): pool_predictions([])


def test_runs_are_pooled_into_systems_by_what_they_differ_in(outputs):
    for session in (0, 1, 2):
        for classifier in ("mlp", "svm"): done(session, corpus="x", classifier=classifier, seed=0)
    done(0, corpus="x", classifier="mlp", seed=1), done("pooled", guesses(0), corpus="x", classifier="mlp", seed=0), done(0, corpus="y", classifier="mlp", seed=0)
    found = systems("exp0", corpus="x")
    assert sorted(found) == ["mlp, seed 0", "mlp, seed 1", "svm"] and sorted(len(p) for _, p in found.values()) == [6, 18, 18]
    assert all("session" not in p for p, _ in found.values()) and len(finished_runs("exp0", corpus="x", classifier="mlp", seed=0)) == 4
    with pytest.raises(ValueError, match="tested twice"): pool_predictions([f for _, f in finished_runs("exp0", corpus="x", seed=0)])


def test_systems_are_told_apart_by_their_synthetic_rows(outputs):
    for more in (dict(train_on="real"), dict(train_on="syn", augment="gan", lambda_cls=2.), dict(train_on="syn", augment="gan", lambda_cls=0.), dict(train_on="syn", augment="smote"), dict(train_on="real", share=.25)):
        done(0, corpus="x", classifier="svm", **{"share": 1., "augment": None, "lambda_cls": None, **more})
    assert sorted(systems("exp0", corpus="x")) == ["real, share 0.25", "real, share 1", "syn, gan, lambda_cls 0, share 1", "syn, gan, lambda_cls 2, share 1", "syn, smote, share 1"]


def test_a_run_that_recognises_nothing_is_recorded(outputs):
    run = Run("train", corpus="x", mode="cross")
    run.folder.mkdir(parents=True)
    (run.folder/"losses.csv").write_text("epoch,d\n10,1.2\n")
    finish(run, dict(d=1.2))
    where = record(run.folder)
    assert everything(where) == ["losses.csv", "manifest.json", "metrics.json"] and (where/"losses.csv").read_bytes() == (run.folder/"losses.csv").read_bytes()
    (run.folder/"losses.csv").unlink()
    assert everything(record(run.folder, outputs/"other")) == ["manifest.json", "metrics.json"]


def test_records_are_the_same_bytes_and_readable(outputs, tmp_path):
    run = done(corpus="x")
    a = record(run.folder)
    first = {p.name: p.read_bytes() for p in a.iterdir()}
    time.sleep(1.1)   # gzip keeps the time in seconds
    assert record(run.folder) == a == outputs/"recorded"/"exp0"/run.folder.name and {p.name: p.read_bytes() for p in a.iterdir()} == first
    assert gzip.decompress(first["predictions.csv.gz"]) == (run.folder/"predictions.csv").read_bytes() and set(first) == {"metrics.json", "manifest.json", "predictions.csv.gz"}
    pd.testing.assert_frame_equal(pool_predictions([a]), pool_predictions([run.folder]))
    assert [p for p, _ in finished_runs("exp0", outputs/"recorded")] == [dict(session=0, corpus="x")]
    pd.testing.assert_frame_equal(read_predictions(record(run.folder, tmp_path/"other")/"predictions.csv.gz"), read_predictions(run.folder/"predictions.csv"))


def test_figures_are_the_same_bytes(outputs):
    from matplotlib.figure import Figure
    run, content = Run("exp0", session=0), set()
    for _ in range(2):
        figure = Figure()
        figure.subplots().plot([1, 2, 3])
        content.add(save_figure(run, "a", figure).read_bytes())
    assert len(content) == 1 and content.pop().startswith(b"\x89PNG") and everything(run.figures) == ["a.png"]


# Parameters

CELL = "session: int = 0  # held out\nlr: float = None  # rate\nemotions: list = None\n"


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    def write(*cells):
        (tmp_path/"nbs").mkdir(exist_ok=True)
        (tmp_path/"settings.ini").write_text("[DEFAULT]\nlib_name = ser_nb\n")
        (tmp_path/"nbs"/"exp1.ipynb").write_text(json.dumps(dict(cells=[dict(cell_type="code", metadata=m, source=s.splitlines(True)) for m, s in cells])))
        monkeypatch.chdir(tmp_path)
    return write


def test_misspelt_parameters_are_refused(checkout):
    checkout((dict(tags=["parameters"]), CELL), ({}, "x: int = 3"))
    declared = dict(session=0, lr=None, emotions=None)
    assert declared_parameters("exp1") == declared and parameters("exp1", {**declared, "session": 3}) == dict(declared, session=3)
    around = {**declared, "In": ["a"], "_": 3, "_i1": "x", "PRESETS": dict(a=1), "np": np, "Run": Run, "parameters": parameters}
    assert parameters("exp1", around) == declared
    for name, value in (("sesion", 3), ("emotion", ["sad"]), ("lrs", None), ("train", False), ("x", "y")):
        with pytest.raises(ValueError, match=f"unknown parameter of exp1 '{name}'"): parameters("exp1", {**around, name: value})
    with pytest.raises(ValueError, match="unknown experiment 'exp2': did you mean 'exp1'"): declared_parameters("exp2")


TYPED = 'lr: float or dict = None  # rate\nd_moves_g: bool = None  # moved\nshare: float = 1.0  # of the rows\ndim_g: list = None  # units\n'


@pytest.mark.parametrize("given", [dict(lr=1), dict(lr=1e-3), dict(lr={"d": 1e-3}), dict(lr=None), dict(d_moves_g=True), dict(d_moves_g=False), dict(d_moves_g=None), dict(share=1), dict(share=.5)], ids=str)
def test_values_of_the_declared_types(checkout, given):
    checkout((dict(tags=["parameters"]), TYPED))
    assert check_parameters("exp1", given) == given


@pytest.mark.parametrize("given, words", [(dict(lr=True), "lr=True: exp1 expects float or dict or nothing"), (dict(lr=[1]), "expects float or dict or nothing; lists and maps are given in a YAML file"), (dict(lr="1"), "expects float or dict"),
                                          (dict(d_moves_g=1), "d_moves_g=1: exp1 expects bool or nothing"), (dict(d_moves_g="yes"), "expects bool"), (dict(share=None), "share=None: exp1 expects float, such as 1.0"), (dict(share=True), "expects float")], ids=str)
def test_values_of_other_types_are_refused(checkout, given, words):
    checkout((dict(tags=["parameters"]), TYPED))
    with pytest.raises(ValueError) as caught: check_parameters("exp1", given)
    assert words in str(caught.value)


@pytest.mark.parametrize("cells", [[({}, CELL)], [(dict(tags=["parameters"]), CELL)]*2])
def test_a_lost_tag_is_noticed(checkout, cells):
    checkout(*cells)
    with pytest.raises(ValueError, match="cells tagged 'parameters', expected one"): declared_parameters("exp1")


def test_published_figures_are_filtered(root, monkeypatch):
    monkeypatch.chdir(root)
    whole = published("exp2")
    assert len(whole) and whole.uar.between(0, 1).all() and (published("exp2", corpus=whole.corpus[0]).corpus == whole.corpus[0]).all() and not len(published("exp2", corpus="none"))


# Stages

def test_a_stage_is_made_once_whole_or_not_at_all(tmp_path):
    def fail(folder):
        (folder/"half").touch()
        raise RuntimeError("killed here")
    with pytest.raises(RuntimeError): stage(tmp_path, "s", dict(a=1), fail)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    made = []
    def make(folder):
        made.append(1)
        (folder/"x").write_text("work")
    folders = [stage(tmp_path, "s", m, make) for m in (dict(a=1, b=2), dict(b=2, a=1), dict(a=1, b=3), dict(a=1))]
    assert len(made) == 3 and folders[0] == folders[1] and everything(folders[0]) == ["made_of.json", "x"]
    stage(tmp_path, "t", dict(a=1), make)
    assert len(made) == 4
    (tmp_path/"taken").touch()
    with pytest.raises(OSError, match="cannot write to"): stage(tmp_path/"taken", "s", {}, make)


def test_other_code_makes_a_stage_again(tmp_path, monkeypatch):
    import ser_nb.run as module
    first = stage(tmp_path, "s", {}, lambda folder: None)
    assert len(code_key()) == 64 and code_key() == code_key()
    monkeypatch.setattr(module, "code_key", lambda: "other")
    assert stage(tmp_path, "s", {}, lambda folder: None) != first


def test_two_processes_make_one_stage(tmp_path):
    program = ("import sys, time, os\nfrom ser_nb.run import stage\n"
               "def make(folder):\n    print('making', flush=True); sys.stdin.readline(); (folder/'x').write_text('the same'); (folder/'y').write_text(str(os.getpid()))\n"
               "print(stage(sys.argv[1], 's', {}, make))")
    both = [subprocess.Popen([sys.executable, "-c", program, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for p in both: assert p.stdout.readline() == "making\n"   # both at work
    said = [p.communicate("go\n", timeout=60) for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    folders = {out.strip() for out, _ in said}
    assert len(folders) == 1 and everything(folders.pop()) == ["made_of.json", "x", "y"] and not [p for p in tmp_path.rglob(".*")]
