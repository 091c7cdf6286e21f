"train_conversion, convert and exp4 from end to end: what they leave behind, published options, both kinds, and what is refused"
import json
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

from ser_nb.conversion import load_converter
from ser_nb.data.audio import read_audio
from ser_nb.data.corpus import select
from ser_nb.data.readers import load_corpus
from ser_nb.run import record

ROOT = Path(__file__).resolve().parents[1]
QUICK = dict(preset="tiny", iterations=20)
pytestmark = pytest.mark.filterwarnings("ignore:fewer than 20 utterances")


def execute(notebook, **given):
    "The notebook's cells in this process, parameters injected where papermill injects them"
    names = {"__name__": "__main__", "display": lambda *shown: None}
    for cell in nbformat.read(ROOT/"nbs"/f"{notebook}.ipynb", as_version=4).cells:
        if cell.cell_type != "code" or cell.source.startswith("%"): continue
        exec(compile(cell.source, f"{notebook}.ipynb", "exec"), names)
        if "parameters" in cell.metadata.get("tags", []): names.update(given)
    return SimpleNamespace(**names)


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    "Empty outputs for each test, one thread; analyses stay in the cache of the session"
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SER_NB_OUTPUTS", str(tmp_path/"outputs"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path/"outputs"
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    "Folders A and B with three files each, and one to validate with"
    folder, speech = tmp_path_factory.mktemp("sides"), select(load_corpus("demo"), speaker="d1f")
    for side, emotion in (("A", "neutral"), ("B", "angry")):
        rows = speech.table.index[speech.table.emotion == emotion]
        for part, chosen in ((side, rows[:3]), (f"val_{side}", rows[3:4])):
            (folder/part).mkdir()
            for row in chosen: (folder/part/speech.path(row).name).write_bytes(speech.path(row).read_bytes())
    (folder/"A"/"notes.txt").write_text("no audio")
    return folder


def test_folders_with_the_published_options(sides, tmp_path):
    places = {name: str(tmp_path/name) for name in ("model_dir", "output_dir", "tensorboard_log_dir")}
    made = execute("train_conversion", train_A_dir=str(sides/"A"), train_B_dir=str(sides/"B"), validation_A_dir=str(sides/"val_A"), validation_B_dir=str(sides/"val_B"), model_name="ang_neu", f0_method="dio", validate_every=10, **QUICK, **places)
    assert (made.sides["A"].stats["utterances"], list(made.model.nets)) == (3, ["A2B", "B2A"])
    found = sorted(str(p.relative_to(tmp_path/"output_dir")) for p in (tmp_path/"output_dir").rglob("*.wav"))
    assert found == [f"step-{n:06d}/converted_{side}/d1f_{e}_04.wav" for n in (10, 20) for side, e in (("A", "neutral"), ("B", "angry"))]
    assert list((tmp_path/"tensorboard_log_dir").rglob("events*")) and {"metrics.json", "manifest.json", "losses.csv"} <= {p.name for p in made.run.folder.iterdir()}
    signal, _ = read_audio(sides/"val_A"/"d1f_neutral_04.wav")
    assert len(read_audio(tmp_path/"output_dir"/found[-2])[0]) == len(signal)
    (sides/"broken").mkdir(exist_ok=True)
    (sides/"broken"/"a.wav").write_bytes(b"RIFF")
    (sides/"broken"/"b.wav").write_bytes((sides/"val_A"/"d1f_neutral_04.wav").read_bytes())
    out = execute("convert", model_dir=places["model_dir"], model_name="ang_neu", data_dir=str(sides/"broken"), conversion_direction="A2B", output_dir=str(tmp_path/"out"))
    assert len(out.made) == 1 and "a.wav" in out.failures.reason[0] and [p.name for p in (tmp_path/"out").iterdir()] == ["b.wav"]
    assert np.allclose(read_audio(tmp_path/"out"/"b.wav")[0], read_audio(tmp_path/"output_dir"/found[-2])[0], atol=1e-5)
    for given, words in ((dict(conversion_direction="A2C"), "unknown conversion_direction 'A2C'"), (dict(data_dir=""), "name a folder with audio files"), (dict(parts=["envelope", "shift"]), "not by both"), (dict(style="random"), "has no styles"),
                         (dict(model_name="other"), "has no config.json"), (dict(output_dir=str(sides/"broken")), "is the input folder"), (dict(reference="x.wav"), "belong together")):
        with pytest.raises((ValueError, FileNotFoundError), match=words): execute("convert", **dict(dict(model_dir=places["model_dir"], model_name="ang_neu", data_dir=str(sides/"broken"), output_dir=str(tmp_path/"out2")), **given))


@pytest.mark.parametrize("given, words", [
    (dict(train_A_dir="x"), "belong together"), (dict(train_A_dir="x", train_B_dir="y"), "x: no such folder"), (dict(target="neutral"), "two different emotions"), (dict(target="furious"), "unknown emotion"), (dict(speaker="nobody"), "unknown speaker"),
    (dict(kind="gan"), "unknown kind"), (dict(w_s=1.), "w_s is no option of the kind cyclegan"), (dict(kind="style", lambda_id=1.), "lambda_id is no option of the kind style"), (dict(f0_method="rapt"), "unknown f0_method"), (dict(iterations=0), "iterations=0"),
    (dict(validate_every=-1), "validate_every=-1"), (dict(protocol="right"), "unknown protocol"), (dict(lambda_cls=1., train_A_dir="A", train_B_dir="B"), "needs to know which emotions")])
def test_what_cannot_be_trained(given, words, sides):
    folders = {k: str(sides/v) for k, v in given.items() if k.startswith("train_") and v in "AB"}
    with pytest.raises((ValueError, FileNotFoundError), match=words): execute("train_conversion", **{**QUICK, **given, **folders, "f0_method": given.get("f0_method", "dio")})


def test_one_model_of_all_emotions_and_the_experiment_on_it(tmp_path):
    trained = execute("train_conversion", kind="style", emotions=["neutral", "angry", "sad"], f0_method="dio", **QUICK)
    folder = str(trained.places["model"])
    config = load_converter(folder).config
    assert config["domains"] == ["neutral", "angry", "sad"] and config["trained_on"]["speaker"] == "d1f"
    kept = execute("exp4", model=folder, source="sad", target="angry", preset="tiny", measures=["mcd", "f0_rmse"], systems=["F0 + envelope", "F0 + envelope, random style", "F0 + envelope, style of an utterance"])
    assert kept.values.groupby("system").value.mean().nunique() >= 5     # styles differ, references too
    with pytest.raises(ValueError, match="may have heard the test sentences"): execute("exp4", model=folder, seed=1, preset="tiny")
    with pytest.raises(ValueError, match="unknown emotion of the model 'happy'"): execute("exp4", model=folder, target="happy", preset="tiny", measures=["mcd"])
    with pytest.raises(ValueError, match="a trained model is given"): execute("exp4", model=folder, lambda_id=1., preset="tiny")
    target = record(kept.run.folder, tmp_path/"recorded")
    assert {p.name for p in target.iterdir()} == {"metrics.json", "manifest.json", "measures.csv.gz"}
    assert pd.read_csv(target/"measures.csv.gz").value.notna().any()


def test_the_experiment_twice():
    given = dict(preset="tiny", iterations=20, measures=["mcd", "f0_rmse"], systems=["F0", "F0 + envelope", "shift"])
    made = execute("exp4", **given)
    assert {"metrics.json", "manifest.json", "measures.csv", "losses.csv", "partition.csv", "listening.html"} <= {p.name for p in made.run.folder.iterdir()} and {p.name for p in made.run.figures.iterdir()} == {"measures.png", "spectrograms.png"}
    before = {name: (made.run.folder/name).read_bytes() for name in ("metrics.json", "measures.csv")}
    again = execute("exp4", **given)
    assert again.run.folder == made.run.folder and {name: (made.run.folder/name).read_bytes() for name in before} == before
    metrics = json.loads(before["metrics.json"])
    assert metrics["small"] and set(metrics["systems"]) == {"source", "copy-synthesis", "target copy-synthesis", "target", "F0", "F0 + envelope", "shift"} and metrics["systems"]["target"]["mcd"]["mean"] == 0
    assert metrics["systems"]["F0"]["f0_rmse"]["mean"] < metrics["systems"]["source"]["f0_rmse"]["mean"]
    manifest = json.loads((made.run.folder/"manifest.json").read_text())
    assert all(f["test_rows"] == 0 or f["transductive"] for f in manifest["fitted"]) and manifest["options"]["iterations"] == 20


@pytest.mark.parametrize("given, words", [(dict(source="angry"), "two different emotions"), (dict(systems=["pitch"]), "unknown system"), (dict(measures=["mos"]), "unknown measure"), (dict(speaker="nobody"), "unknown speaker"), (dict(target="bored"), "unknown emotion"),
                                          (dict(kind="style", lambda_id=1.), "weight of the CycleGAN"), (dict(model="nowhere"), "has no config.json")])
def test_what_cannot_be_compared(given, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words): execute("exp4", **{**dict(preset="tiny"), **(QUICK if "model" not in given else {}), **given})
