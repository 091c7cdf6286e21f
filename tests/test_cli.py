"The command ser-nb: what it prints, what it writes, and how it ends"
import io
import json
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import soundfile
from test_exp2 import small_corpus
from test_train import unlabelled

from ser_nb.cli import main
from ser_nb.core import outputs_root
from ser_nb.run import Run, finish

ROOT = Path(__file__).resolve().parents[1]
SER_NB = Path(sys.executable).with_name("ser-nb")
FAST = ("-p", "features", "eGeMAPSv02", "-p", "classifier", "svm")
pytestmark = pytest.mark.filterwarnings("ignore:.*test speaker")


def ser_nb(*words, cwd=ROOT, **env):
    "The installed command, its output captured"
    return subprocess.run([SER_NB, *map(str, words)], cwd=cwd, env={**os.environ, **env}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200)


def on_a_terminal(*words, cwd=ROOT, **env):
    "The installed command with a terminal for all three streams: (status, what the terminal showed)"
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    process = subprocess.Popen([SER_NB, *map(str, words)], cwd=cwd, env={**os.environ, **env}, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try: more = os.read(ours, 65536)
        except OSError: break   # Linux says so when the last writer is gone
        if not more: break
        shown += more
    os.close(ours)
    return process.wait(timeout=200), shown.decode()


@pytest.fixture
def said(capsys, monkeypatch):
    "The command in this process: (status, standard output, standard error)"
    monkeypatch.chdir(ROOT)
    def run(*words):
        status = main([str(w) for w in words])
        out, err = capsys.readouterr()
        return status, out, err
    return run


def refused(result, *words):
    "Status 2 and one sentence"
    status, out, err = result if isinstance(result, tuple) else (result.returncode, result.stdout, result.stderr)
    assert (status, out) == (2, "") and err.startswith("ser-nb: ") and err.count("\n") == 1, (status, out, err)
    for w in words: assert w in err, err


@pytest.fixture(scope="module")
def small(tmp_path_factory): return small_corpus(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def broken(small):
    "Four sound utterances, a text file that calls itself WAV, and silence"
    table = pd.read_csv(small).head(4)
    (small.parent/"text.wav").write_text("no audio")
    soundfile.write(small.parent/"silence.wav", np.zeros(16000), 16000)
    path = small.with_name("broken.csv")
    pd.concat([table, *(table.head(1).assign(file=f"{n}.wav") for n in ("text", "silence"))]).to_csv(path, index=False)
    return path


# ---- experiments ---------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def piped(small, tmp_path_factory):
    "All sessions in a pipe, recorded; started in another folder of the checkout, with a path relative to it, into outputs that are not there"
    outputs = tmp_path_factory.mktemp("outputs")/"not"/"there"
    done = ser_nb("exp2", "-f", "params/exp2/svm.yaml", "-p", "features", "eGeMAPSv02", "-p", "corpus", os.path.relpath(small, ROOT/"nbs"), "-p", "session", "all", "--record", cwd=ROOT/"nbs", SER_NB_OUTPUTS=str(outputs))
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(out=done.stdout, err=done.stderr, outputs=outputs)


@pytest.fixture(scope="module")
def on_terminal(small, piped):
    "One session on a terminal"
    status, shown = on_a_terminal("exp2", *FAST, "-p", "corpus", small, "-p", "session", 0, SER_NB_OUTPUTS=str(piped.outputs))
    assert status == 0, shown
    return SimpleNamespace(shown=shown, folder=Path(re.search(r"run in (\S+),", shown)[1]))


def test_experiment_in_a_pipe(piped):
    last = piped.out.splitlines()[-1]
    found = re.fullmatch(r"UAR (0\.\d{3}) \[0\.\d{3}, 0\.\d{3}\], 96 utterances of 6 speakers; run in (\S+), notebook in (\S+)", last)
    assert found, last
    assert f"{json.loads((Path(found[2])/'metrics.json').read_text())['uar']:.3f}" == found[1]
    assert Path(found[2]).parent == piped.outputs/"exp2" and Path(found[3]).parent == piped.outputs/"exp2"/"executed"
    assert all(c.execution_count for c in nbformat.read(found[3], as_version=4).cells if c.cell_type == "code")
    assert "WARNING" not in piped.err


def test_record(piped):
    found = re.search(r"recorded in (\S+)", piped.out)
    assert sorted(p.name for p in Path(found[1]).iterdir()) == ["manifest.json", "metrics.json", "predictions.csv.gz"]
    assert Path(found[1]).parent == piped.outputs/"recorded"/"exp2"


def test_experiment_on_a_terminal(on_terminal):
    assert "UAR 0." in on_terminal.shown and "Executing" in on_terminal.shown
    assert json.loads((on_terminal.folder/"manifest.json").read_text())["parameters"]["session"] == 0


def test_results(piped, on_terminal, said, monkeypatch):
    monkeypatch.setenv("SER_NB_OUTPUTS", str(piped.outputs))
    status, out, err = said("results", "exp2", *FAST)
    table = pd.read_csv(io.StringIO(out), sep=r"\s+", nrows=1)
    assert (status, err) == (0, "") and table.n[0] == 96 and table.session[0] == "all" and table.uar_low[0] <= table.uar[0] <= table.uar_high[0]
    assert "confusion.png, confusion_folds.png, uar.png" in out and len(out.splitlines()) == 3, "one run of all sessions; the single session is none"
    refused(said("results", "exp2", "-p", "classifier", "mlp"), "no finished exp2 over all sessions with {'classifier': 'mlp'}")


def test_results_when_there_are_none(said, tmp_path, monkeypatch):
    monkeypatch.setenv("SER_NB_OUTPUTS", str(tmp_path/"outputs"))
    refused(said("results", "exp2"), "ser-nb exp2 -p session N")
    refused(said("results", "exp22"), "did you mean 'exp2'")
    assert not (tmp_path/"outputs").exists()


@pytest.mark.parametrize("words, expected", [
    (("-p", "sesion", "0"), "unknown parameter of exp2 'sesion': did you mean 'session'?"),
    (("-p", "LR", "1e-4"), "did you mean 'lr'?"),
    (("-p", "lr", "high"), "lr='high': exp2 expects float or nothing"),
    (("-p", "seed", "1.5"), "seed=1.5: exp2 expects int, such as 0"),
    (("-p", "emotions", "sad"), "emotions='sad': exp2 expects list"),
    (("-f", "params/exp2/emovoo.yaml"), "params/exp2/emovo.yaml"),
    (("-f", "misspelt.yaml"), "did you mean 'classifier'"),
    (("-f", "list.yaml"), "expected lines 'name: value'"),
], ids=" ".join)
def test_refused_parameters(said, words, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("SER_NB_OUTPUTS", str(tmp_path/"outputs"))
    (tmp_path/"misspelt.yaml").write_text("clasifier: svm\n")
    (tmp_path/"list.yaml").write_text("- svm\n")
    refused(said("exp2", *(tmp_path/w if (tmp_path/w).is_file() else w for w in words)), expected)
    assert not (tmp_path/"outputs").exists()


def test_the_command_line_wins_over_files(said, tmp_path):
    from ser_nb.cli import given_parameters
    (tmp_path/"one.yaml").write_text("lr: 1.0e-3\nseed: 1\nemotions: [sad, happy]\n")
    (tmp_path/"two.yaml").write_text("seed: 2\n")
    given = given_parameters("exp2", [tmp_path/"one.yaml", tmp_path/"two.yaml"], [("lr", "1e-5"), ("labels", "{excited: happy}"), ("corpus", "None.csv")])
    assert given == dict(lr=1e-5, seed=2, emotions=["sad", "happy"], labels={"excited": "happy"}, corpus="None.csv")
    assert given_parameters("exp2", [tmp_path/"one.yaml"], [("lr", "None"), ("emotions", "null")]) == dict(lr=None, seed=1, emotions=None)


def test_numbers_as_everybody_writes_them(tmp_path):
    "YAML has 1e-4 as text, also in a map"
    from ser_nb.cli import given_parameters
    (tmp_path/"rates.yaml").write_text("lr: {d: 1e-4, g: 2E-3}\ndecay: 9e-1\n")
    assert given_parameters("train", [tmp_path/"rates.yaml"], [("keep_prob", "{d: .8, g: 1, c: 5e-1}"), ("dim_g", "[16, 8, 16]"), ("d_moves_g", "True")]) == dict(
        lr=dict(d=1e-4, g=2e-3), decay=.9, keep_prob=dict(d=.8, g=1, c=.5), dim_g=[16, 8, 16], d_moves_g=True)
    assert given_parameters("train", [], [("corpus", "1e-4.csv"), ("source", "e5"), ("lr", "-1e-4")]) == dict(corpus="1e-4.csv", source="e5", lr=-1e-4)
    with pytest.raises(ValueError, match="d_moves_g=1: train expects bool or nothing"): given_parameters("train", [], [("d_moves_g", "1")])


def test_train_and_its_results(small, said, tmp_path, monkeypatch):
    words = ("train", "-p", "corpus", small, "-p", "session", "all", "-p", "lambda_cls", 2, "-p", "source", unlabelled(tmp_path), "-p", "features", "eGeMAPSv02", "-p", "preset", "tiny", "-p", "train_epochs", 4, "-p", "pretrain_epochs", 2)
    done = ser_nb(*words, "--record", SER_NB_OUTPUTS=str(tmp_path/"outputs"))
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(r"recorded in (\S+)\nrun in (\S+), notebook in (\S+)\n", done.stdout)
    assert found, done.stdout
    assert sorted(p.name for p in Path(found[1]).iterdir()) == ["losses.csv", "manifest.json", "metrics.json"] and (Path(found[2])/"syn_sess2.safetensors").exists() and "-all-" in Path(found[3]).name
    monkeypatch.setenv("SER_NB_OUTPUTS", str(tmp_path/"outputs"))
    status, out, err = said("results", "train", "-p", "lambda_cls", "2")
    table = pd.read_csv(io.StringIO(out), sep=r"\s+", nrows=1)
    assert (status, err) == (0, "") and (table["mode"][0], table.session[0], table.models[0], table.rows[0]) == ("inner", "all", 3, 192) and {"d", "g", "cyc", "variance", "dev_last", "pinned"} <= set(table) and "losses_sess0.png" in out
    refused(said("results", "train", "-p", "lambda_cls", "1"), "no finished train over all sessions with {'lambda_cls': 1}")


def test_results_of_runs_without_a_session(said, tmp_path, monkeypatch):
    monkeypatch.setenv("SER_NB_OUTPUTS", str(tmp_path/"outputs"))
    for params, metrics in ((dict(corpus="x", mode="cross", session=None), dict(d=1.25, cls=None, by_model={})), (dict(corpus="x", mode="inner", session=0), dict(d=9.))):
        finish(Run("train", **params, lambda_cls=2.), metrics)
    status, out, err = said("results", "train")
    assert (status, err) == (0, "") and out.splitlines()[0].split() == ["corpus", "mode", "lambda_cls", "d"] and out.splitlines()[1].split() == ["x", "cross", "2.0", "1.25"] and len(out.splitlines()) == 3


def test_results_of_an_experiment_without_sessions(capsys, tmp_path, monkeypatch):
    (tmp_path/"nbs").mkdir()
    (tmp_path/"settings.ini").write_text("[DEFAULT]\nlib_name = ser_nb\n")
    (tmp_path/"nbs"/"exp9.ipynb").write_text(json.dumps(dict(cells=[dict(cell_type="code", metadata=dict(tags=["parameters"]), source=["test_corpus: str = 'demo'  # tested"])])))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SER_NB_OUTPUTS", str(tmp_path/"outputs"))
    assert main(["results", "exp9"]) == 2 and "no finished exp9 with {}: run ser-nb exp9 first" in capsys.readouterr().err
    finish(Run("exp9", test_corpus="emovo"), dict(uar=.5, uar_low=.4, uar_high=.6, n=7))
    assert main(["results", "exp9"]) == 0 and capsys.readouterr().out.splitlines()[:2] == ["test_corpus  uar  uar_low  uar_high  n", "      emovo  0.5      0.4       0.6  7"]


def test_a_failing_experiment_ends_with_the_sentence_of_the_notebook(small, tmp_path):
    done = ser_nb("exp2", *FAST, "-p", "corpus", small, "-p", "session", -1, SER_NB_OUTPUTS=str(tmp_path))
    refused(done, "session -1 is out of range: this corpus has 3 folds, 0 to 2", f"of {tmp_path}")


def test_unknown_commands(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in (["exp22"], [], ["predict"], ["features"], ["exp2", "-p", "session"]):
        with pytest.raises(SystemExit) as ended: main(words)
        assert ended.value.code == 2 and "usage: ser-nb" in capsys.readouterr().err


# ---- nowhere to write, nowhere at all ------------------------------------------------------------------------------

@pytest.mark.parametrize("words", [("exp2", *FAST), ("features", "{small}", "--features", "eGeMAPSv02", "-o", "{blocked}/x.csv"), ("audit", "{small}", "-o", "{blocked}/card")], ids=lambda words: words[0])
def test_outputs_that_cannot_be_written(said, small, tmp_path, monkeypatch, words):
    (tmp_path/"file").write_text("in the way")
    monkeypatch.setenv("SER_NB_OUTPUTS", str(tmp_path/"file"/"outputs"))
    status, _, err = said(*(str(w).format(small=small, blocked=tmp_path/"file"/"outputs") for w in words))
    assert status == 2 and err.startswith("ser-nb: cannot write to") and err.count("\n") == 1 and "SER_NB_OUTPUTS" in err, err
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and (tmp_path/"file").read_text() == "in the way"


def test_outside_a_checkout(small, on_terminal, tmp_path):
    file = small.parent/pd.read_csv(small).file[0]
    done = ser_nb("predict", file, "--model", on_terminal.folder/"model", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and "p_angry" in done.stdout
    done = ser_nb("list", cwd=tmp_path)
    assert done.returncode == 0 and "emovo" in done.stdout and "exp2" not in done.stdout
    done = ser_nb("exp2", cwd=tmp_path)
    assert done.returncode == 2 and "inside a checkout only" in done.stderr
    refused(ser_nb("results", "exp2", cwd=tmp_path), "no ser_nb checkout around")
    assert not list(tmp_path.iterdir())


def test_a_reader_that_goes_away():
    done = subprocess.run(f"{SER_NB} list | head -c 20", shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "corpora (SER_NB_DATA" and done.stderr == ""


# ---- features, audit, prediction, list -----------------------------------------------------------------------------

def test_features_to_csv(said, small, tmp_path):
    status, out, err = said("features", small, "--features", "eGeMAPSv02", "-o", tmp_path/"new"/"x.csv")
    assert (status, err) == (0, "") and "Features(96 x 88" in out
    table = pd.read_csv(tmp_path/"new"/"x.csv")
    assert table.shape == (96, 11 + 88) and list(table.file) == sorted(pd.read_csv(small).file) and table.iloc[:, 11:].notna().all(axis=None)


def test_features_of_long_recordings_are_cut(said, small, tmp_path):
    status, _, _ = said("features", small, "--features", "eGeMAPSv02", "--max-duration", .7, "-o", tmp_path/"x.csv")
    table = pd.read_csv(tmp_path/"x.csv")
    assert status == 0 and len(table) > 96 and (table.duration <= .7).all() and table.file.nunique() == 96
    refused(said("features", small, "--max-duration", 0), "max_duration 0.0")


def test_features_that_fail_are_listed(said, broken, tmp_path):
    status, out, err = said("features", broken, "--features", "eGeMAPSv02", "-o", tmp_path/"x.csv")
    assert status == 1 and "Features(4 x 88, 1 failed" in out and len(pd.read_csv(tmp_path/"x.csv")) == 4
    assert len(err.splitlines()) == 2 and "text.wav" in err and "silence.wav" in err
    refused(said("features", "emovoo"), "did you mean 'emovo'")
    refused(said("features", broken, "--features", "egemaps"), "did you mean 'eGeMAPSv02'")


def test_missing_corpus(said, monkeypatch):
    monkeypatch.delenv("SER_NB_DATA", raising=False)
    refused(said("features", "emovo"), "SER_NB_DATA is not set", "f1/dis-f1-b1.wav")


def test_audit_prints_the_card_and_writes_it(said, small, tmp_path):
    status, out, err = said("audit", small, "-o", tmp_path/"card")
    assert (status, err) == (0, "") and "small" in out and "96" in out and f"written to {tmp_path/'card'}" in out
    written = {p.suffix for p in (tmp_path/"card").rglob("*") if p.is_file()}
    assert {".csv", ".png"} <= written and written & {".md", ".txt", ".json"}


def test_loudness_makes_a_corpus_and_lists_what_fails(said, broken, tmp_path):
    from ser_nb.data.augment import loudness
    from ser_nb.data.readers import load_corpus
    status, out, err = said("loudness", broken, tmp_path/"equal", "--target", "-20")
    made = load_corpus(str(tmp_path/"equal"/f"{broken.stem}.csv"))
    assert status == 1 and f"{len(made)} utterances" in out and "-20 LUFS" in out and len(err.splitlines()) == 2
    signal, rate = soundfile.read(made.path(0))
    assert loudness(signal, rate) == pytest.approx(-20, abs=.01)
    refused(said("loudness", broken, tmp_path/"equal"), "holds speech at -20 LUFS, not -23")


def test_predict(said, small, on_terminal):
    files = [small.parent/f for f in pd.read_csv(small).file[:3]]
    status, out, err = said("predict", *files, "--model", on_terminal.folder/"model", "--csv")
    table = pd.read_csv(io.StringIO(out))
    assert (status, err) == (0, "") and list(table) == ["file", "prediction", "p_angry", "p_happy", "p_neutral", "p_sad"] and list(table.file) == list(map(str, files))
    np.testing.assert_allclose(table.filter(like="p_").sum(axis=1), 1, atol=1e-5)
    tested = pd.read_csv(on_terminal.folder/"predictions.csv").set_index("file").prediction
    assert [tested[str(Path(f).relative_to(small.parent))] for f in files] == list(table.prediction), "the saved model says what the tested one said"
    status, shown, _ = said("predict", *files, "--model", on_terminal.folder/"model")
    assert status == 0 and len(shown.splitlines()) in (4, 5) and "," not in shown


def test_predict_goes_on_after_a_bad_file(said, small, broken, on_terminal):
    good, model = small.parent/pd.read_csv(small).file[0], on_terminal.folder/"model"
    status, out, err = said("predict", small.parent/"text.wav", good, "nowhere.wav", small.parent/"silence.wav", "--model", model, "--csv")
    assert status == 1 and list(pd.read_csv(io.StringIO(out)).file) == [str(good)]
    assert [line.split(":")[0] for line in err.splitlines()] == [str(small.parent/"text.wav"), "nowhere.wav", str(small.parent/"silence.wav")]


def test_predict_without_a_model(said, small, tmp_path):
    good = small.parent/pd.read_csv(small).file[0]
    refused(said("predict", good, "--model", tmp_path/"none"), f"{tmp_path/'none'} holds no recogniser")


def test_list(said, monkeypatch, tmp_path):
    (tmp_path/"emovo").mkdir()
    monkeypatch.setenv("SER_NB_DATA", str(tmp_path))
    status, out, err = said("list")
    assert (status, err) == (0, "") and f"SER_NB_DATA is {tmp_path}" in out
    line = {words[0]: " ".join(words[1:]) for words in map(str.split, out.splitlines()) if words}
    assert line["emovo"] == "here" and line["iemocap"].startswith("not here: expects Session1") and line["demo"].startswith("here")
    assert "eGeMAPSv02 (88)" in out and re.search(r"exp2 +\d+ finished runs; parameters: session, corpus", out)
    monkeypatch.delenv("SER_NB_DATA")
    assert "SER_NB_DATA is not set" in said("list")[1] and outputs_root().name == "outputs"
