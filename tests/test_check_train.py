"check_train: on a fresh clone, on a run of the other kind from two folders, and what it says of runs that it cannot use"
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
from torch import nn

from ser_nb.cli import run_experiment
from ser_nb.conversion import FORMAT, Converter, conversion_options, folder_corpus, make_nets, make_side, save_converter
from ser_nb.core import write_json
from ser_nb.data.corpus import select
from ser_nb.data.demo import demo
from ser_nb.run import declared_parameters
from ser_nb.training.voice import seeded, whole_utterance

ROOT = Path(__file__).resolve().parents[1]


def execute(until=None, **given):
    "The notebook's cells in this process, parameters injected where papermill injects them; all, or until there is something of a name"
    names = {"__name__": "__main__"}
    for cell in nbformat.read(ROOT/"nbs"/"check_train.ipynb", as_version=4).cells:
        if cell.cell_type != "code" or cell.source.startswith("%"): continue
        exec(compile(cell.source, "check_train.ipynb", "exec"), names)
        if "parameters" in cell.metadata.get("tags", []): names.update(given)
        if until in names: break
    return SimpleNamespace(**names)


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SER_NB_OUTPUTS", str(tmp_path/"outputs"))
    return tmp_path/"outputs"/"check_train"


@pytest.fixture(scope="module")
def styles(tmp_path_factory):
    "A finished run of the kind style from two folders, with networks that nobody trained and curves that nobody measured"
    folder, speech, sides = tmp_path_factory.mktemp("styles"), demo(), {}
    for side, emotion in dict(A="neutral", B="angry").items():
        (folder/side).mkdir()
        own = select(speech, speaker="d2m", emotion=emotion)
        for i in range(4): shutil.copy(own.path(i), folder/side)
        (folder/side/"notes.txt").write_text("no audio")
        sides[side] = make_side(folder_corpus(folder/side, side), dict(f0_method="dio"), workers=1)
    config = dict(format=FORMAT, kind="style", domains=["A", "B"], analysis=sides["A"].worlds[0].options, options=conversion_options("tiny", kind="style"), stats={n: s.stats for n, s in sides.items()})
    save_converter(Converter(config, seeded(lambda: nn.ModuleDict(make_nets(config)), 0)), folder/"run"/"model")
    iteration = np.arange(50, 1050, 50)
    pd.DataFrame(dict(iteration=iteration, d=.5, d_real=.97, d_made=.03, gan=1., x=1/iteration, s=1.6, c=.8, cyc=1.)).to_csv(folder/"run"/"losses.csv", index=False)
    parameters = dict(declared_parameters("train_conversion"), kind="style", preset="tiny", f0_method="dio", train_A_dir=str(folder/"A"), train_B_dir=str(folder/"B"), validation_B_dir=str(folder/"B"))
    write_json(folder/"run"/"manifest.json", dict(experiment="train_conversion", parameters=parameters))
    return folder/"run"


def test_on_a_fresh_clone(outputs):
    folder, _ = run_experiment("check_train", dict(preset="tiny"))
    metrics = json.loads((folder/"metrics.json").read_text())
    assert metrics["checks"] == len(metrics["verdicts"]) and metrics["hold"] == sum(v["holds"] for v in metrics["verdicts"])
    assert set(metrics["discriminators"]) == {"A", "B"} and set(metrics["consistency"]) == {"neutral to angry", "angry to neutral"} and metrics["looked_at"]["neutral"] == dict(utterances=6, which="training")
    assert all(v["holds"] for v in metrics["verdicts"] if v["about"] == "speech")
    figures = {p.stem for p in (folder/"figures").iterdir()}
    assert figures == {"data", "losses", "f0", *(f"{what}_{way}" for what, way in (("spectrograms", "neutral_to_angry"), ("spectrograms", "angry_to_neutral"), ("cycle", "neutral_angry"), ("cycle", "angry_neutral")))}
    assert json.loads((folder/"manifest.json").read_text())["fitted"]


def test_styles_and_folders(styles):
    found = execute(run=str(styles), utterances=2)
    assert found.directions == [("A", "B"), ("B", "A")] and found.what == dict(A="training", B="development") and len(found.worlds["A"]) == 2
    assert found.judges.verdict.to_dict() == dict(d="has won") and dict(found.losses.falls) == dict(gan=False, x=True, s=False, c=False, cyc=False)
    assert all(found.same_speech.values()) and found.levels.clipped.between(0, 1).all()
    net, x = found.model.nets["style"], found.inputs("B")
    alone = [whole_utterance(lambda v: net.decode(net.content(v, "B"), net.style(v, "B"), "B"), e) for e in x]
    np.testing.assert_allclose(found.consistent.identity["A to B"], np.abs(np.concatenate(alone) - np.concatenate(x)).mean(), rtol=1e-5)


def changed(styles, folder, name, content):
    "A copy of a run with another content of a file"
    shutil.copytree(styles, folder/"copy")
    (folder/"copy"/name).write_bytes(content((folder/"copy"/name).read_bytes()))
    return folder/"copy"


def test_other_speech_is_noticed(styles, tmp_path):
    def other(text):
        config = json.loads(text)
        config["stats"]["A"]["f0"]["mean"] += .01
        return json.dumps(config).encode()
    assert execute("same_speech", run=str(changed(styles, tmp_path, "model/config.json", other))).same_speech == dict(A=False, B=True)


@pytest.mark.parametrize("name, content, words", [
    ("model/weights.safetensors", lambda b: b[:1000], "the converter is damaged"), ("model/config.json", lambda b: b[:100], "the converter is damaged"),
    ("manifest.json", lambda b: b.replace(b'"train_conversion"', b'"exp2"'), "is a run of exp2")])
def test_runs_that_cannot_be_used(styles, outputs, tmp_path, name, content, words):
    with pytest.raises(ValueError) as caught: execute(run=str(changed(styles, tmp_path, name, content)))
    assert words in str(caught.value) and "\n" not in str(caught.value) and not outputs.exists()


def test_no_such_run(outputs, tmp_path):
    with pytest.raises(FileNotFoundError) as caught: execute(run=str(tmp_path/"nowhere"))
    assert "nowhere has no manifest.json: expected the folder of a finished run" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="utterances=0: expected 1 or more"): execute(utterances=0)
    assert not outputs.exists()
