"train and pretrain from end to end: what a run leaves behind, whose speech a model sees, that every parameter counts, and what is refused"
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from test_exp2 import papermill, small_corpus

from ser_nb.core import LeakageError, cache_root, key_of
from ser_nb.data.demo import demo
from ser_nb.data.exchange import from_hdf, from_netcdf
from ser_nb.data.partition import Guard
from ser_nb.run import declared_parameters, finished_runs, record
from ser_nb.synthesis import default_source, synthetic_set, synthetic_settings
from ser_nb.training.adversarial import PINNED

ROOT = Path(__file__).resolve().parents[1]
EMOTIONS = ["angry", "happy", "neutral", "sad"]
FEW = dict(features="eGeMAPSv02", preset="tiny", train_epochs=4, pretrain_epochs=2)
PRE = dict(features="eGeMAPSv02", preset="tiny", train_epochs=2)
pytestmark = pytest.mark.filterwarnings("ignore")


def execute(experiment, **given):
    "The notebook's cells in this process, parameters injected where papermill injects them"
    names = {"__name__": "__main__", "display": lambda shown: None}
    for cell in nbformat.read(ROOT/"nbs"/f"{experiment}.ipynb", as_version=4).cells:
        if cell.cell_type != "code" or cell.source.startswith("%"): continue
        exec(compile(cell.source, f"{experiment}.ipynb", "exec"), names)
        if "parameters" in cell.metadata.get("tags", []): names.update(given)
    return SimpleNamespace(**names)


def unlabelled(folder, sentences=(1, 2)):
    "Speakers of the demo corpus who are not in `small_corpus`, as speech without labels: 16 utterances; their CSV"
    speech, folder = demo(), Path(folder)
    table = speech.table[speech.table.session.isin(["Session4", "Session5"]) & speech.table.file.str.extract(r"_(\d+)\.wav")[0].astype(int).isin(sentences).to_numpy()]
    for file in table.file:
        (folder/file).parent.mkdir(parents=True, exist_ok=True)
        if not (folder/file).exists(): os.link(speech.root/file, folder/file)
    table.iloc[::2].assign(emotion="", corpus="talks").to_csv(folder/"talks.csv", index=False)
    return str(folder/"talks.csv")


@pytest.fixture(scope="module")
def small(tmp_path_factory): return str(small_corpus(tmp_path_factory.mktemp("small")))


@pytest.fixture(scope="module")
def talks(tmp_path_factory): return unlabelled(tmp_path_factory.mktemp("talks"))


@pytest.fixture(scope="module")
def made(small, talks, tmp_path_factory):
    "Runs by notebook and settings, each made once; figures, which take longer than such small models, by those of all sessions only"
    others, outputs, done = str(small_corpus(tmp_path_factory.mktemp("others"), (5, 6, 7, 8))), tmp_path_factory.mktemp("outputs"), {}
    def make(experiment, settings):
        key = json.dumps([experiment, settings], sort_keys=True)
        if key not in done:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(ROOT)
                patch.setenv("SER_NB_OUTPUTS", str(outputs))
                if settings.get("session") != "all": patch.setattr("ser_nb.run.save_figure", lambda *given: None)
                done[key] = execute(experiment, **{"source": talks, **settings, "corpus": others if settings.get("corpus") == "others" else small})
        return done[key]
    return make


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    "Empty outputs for each test; features and stages stay in the cache of the session"
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SER_NB_OUTPUTS", str(tmp_path/"outputs"))
    return tmp_path/"outputs"


def rows(run, name="sess0"):
    "Synthetic rows of a run by emotion, as they lie on disk"
    kept, said = load_file(run.run.folder/f"syn_{name}.safetensors"), json.loads((run.run.folder/f"syn_{name}.json").read_text())
    return {e: kept["X"][kept["y"] == i] for i, e in enumerate(said["emotions"])}


def provenance(run, name="sess0"): return json.loads((run.run.folder/f"syn_{name}.json").read_text())


def parts(run): return pd.read_csv(run.run.folder/"partition.csv").groupby("part").speaker.unique().map(set).to_dict()


# ---- what a run leaves behind --------------------------------------------------------------------------------------

def test_a_run_of_all_sessions_leaves_its_files(made):
    run = made("train", dict(FEW, session="all"))
    models = ("sess0", "sess1", "sess2")
    expected = {"metrics.json", "manifest.json", "partition.csv", "losses.csv", *(f"syn_{m}.{kind}" for m in models for kind in ("safetensors", "json")), *(f"figures/losses_{m}.png" for m in models)}
    assert {str(p.relative_to(run.run.folder)) for p in run.run.folder.rglob("*") if p.is_file()} == expected
    assert run.run.folder.name.startswith("small-inner-sall-cls2-eGeMAPSv02-corrected-tiny-")
    for figure in run.run.folder.glob("figures/*.png"): assert figure.read_bytes()[:4] == b"\x89PNG" and figure.stat().st_size > 20000
    losses = pd.read_csv(run.run.folder/"losses.csv")
    assert list(losses) == ["epoch", "model", "emotion", "d", "g", "cyc", "cls", "variance", "dev"] and len(losses) == 3*4 and losses.notna().all(axis=None)
    assert list(losses.emotion[:4]) == EMOTIONS and list(losses.model.unique()) == list(models) and set(losses.epoch) == {4}


def test_synthetic_rows_and_what_made_them(made, talks):
    run = made("train", dict(FEW, session="all"))
    for name in ("sess0", "sess1", "sess2"):
        said = provenance(run, name)
        assert {e: X.shape for e, X in rows(run, name).items()} == dict.fromkeys(EMOTIONS, (16, 88)) and all(np.isfinite(X).all() for X in rows(run, name).values())
        assert said["features"] == run.found.names and len(said["sources"]) == 16 == len(set(said["sources"])) and said["sources"][0] == Path(pd.read_csv(talks).file[0]).stem
        assert said["key"] == key_of(said["made"]) == run.manifest["synthetic"][name] and said["made"]["kind"] == "gan" and said["made"]["source"] == run.unlabelled.key
    assert not np.allclose(rows(run, "sess0")["sad"], rows(run, "sess1")["sad"])


def test_contract_of_metrics(made):
    run = made("train", dict(FEW, session="all"))
    metrics, first = json.loads((run.run.folder/"metrics.json").read_text()), pd.read_csv(run.run.folder/"losses.csv").query("model == 'sess0'")
    assert (metrics["models"], metrics["rows"], metrics["steps"]) == (3, 3*64, 3*4) and set(metrics["by_model"]) == {"sess0", "sess1", "sess2"}
    one = metrics["by_model"]["sess0"]
    assert {"epochs", "steps", "batch_size", "d", "g", "cyc", "variance", "dev_first", "dev_last", "dev_falls", "pinned"} <= set(one)
    assert (one["epochs"], one["steps"], one["batch_size"], one["rows"], one["pinned"]) == (4, 4, 12, 64, int((first.d < PINNED).sum()))
    for name in ("d", "g", "cyc", "variance"): assert one[name] == pytest.approx(first[name].mean(), abs=1e-4)
    assert one["dev_last"] == pytest.approx(first.dev.mean(), abs=1e-4) and one["dev_falls"] is None, "one measurement cannot fall"
    assert set(run.manifest["parameters"]) == set(declared_parameters("train")) and run.manifest["parameters"]["lr"] == dict(d=1e-3, g=2e-3)


def test_development_curve_that_falls():
    cell = next(c.source for c in nbformat.read(ROOT/"nbs"/"train.ipynb", as_version=4).cells if "def still_falls" in c.source)
    names = dict(np=np)
    exec(cell[cell.index("def still_falls"):cell.index("curves, metrics")], names)
    cases = [([3, 2, 1, .5], True), ([3, 2, 1, 1], False), ([3, 2, 1, 1.2], False), ([2, 1], True), ([1], None), ([1, np.nan], None), ([.9, .8, .7, .6, .5, .5, .4, .5], True)]
    for dev, falls in cases: assert names["still_falls"](np.array(dev)) is falls, dev


def test_pretrained_run(made):
    run = made("pretrain", dict(PRE, session="all"))
    assert {p.name for p in run.run.folder.iterdir()} == {"metrics.json", "manifest.json", "partition.csv", "losses.csv", "params_sess0.safetensors", "params_sess1.safetensors", "params_sess2.safetensors"}
    stack = load_file(run.run.folder/"params_sess0.safetensors")
    assert {k: v.shape for k, v in stack.items() if k[0] == "w"} == dict(w0=(8, 88, 64), w1=(8, 64, 32), w2=(8, 32, 64), w3=(8, 64, 88))
    metrics, table = json.loads((run.run.folder/"metrics.json").read_text()), pd.read_csv(run.run.folder/"losses.csv")
    assert len(table) == 12 and list(table) == ["model", "emotion", "source", "target", "dev"] and set(metrics["by_model"]["sess1"]) == {"source", "target", "dev", "batch_size", "epochs", "steps"}
    assert metrics["source"] == pytest.approx(table.source.mean(), abs=1e-4) and set(run.manifest["parameters"]) == set(declared_parameters("pretrain"))


def test_the_way_back_is_learnt(made):
    few, many = (json.loads((made("pretrain", dict(PRE, train_epochs=n, lr=5e-3)).run.folder/"metrics.json").read_text()) for n in (1, 150))
    for way in ("source", "target"): assert many[way] < .6 < .8 < few[way], (few, many)


def test_records_without_predictions(made, tmp_path):
    run = made("train", dict(FEW, session="all"))
    target = record(run.run.folder, tmp_path)
    assert {p.name for p in target.iterdir()} == {"metrics.json", "manifest.json", "losses.csv"} and (target/"losses.csv").read_bytes() == (run.run.folder/"losses.csv").read_bytes()


def test_papermill_end_to_end_and_the_same_bytes(small, talks, made, tmp_path):
    shutil.copytree(cache_root()/"features", tmp_path/"cache"/"features")
    process = papermill("nbs/train.ipynb", tmp_path/"executed.ipynb", "-y", "{lr: {d: 1.0e-3, g: 2.0e-3}}", folder=tmp_path, params=dict(FEW, corpus=small, source=talks))
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said[-2000:]
    folder, = (tmp_path/"outputs"/"train").glob("small-*")
    here = made("train", FEW).run.folder
    assert folder.name == here.name
    for name in ("metrics.json", "losses.csv", "syn_sess0.safetensors", "syn_sess0.json", "partition.csv"): assert (folder/name).read_bytes() == (here/name).read_bytes(), name
    shown = ["".join(o.get("data", {})) for c in nbformat.read(tmp_path/"executed.ipynb", as_version=4).cells for o in c.get("outputs", [])]
    assert sum("image/png" in s for s in shown) == 1 and sum("text/html" in s for s in shown) >= 7
    assert list((tmp_path/"cache"/"tensorboard").glob("*/losses/events*"))


# ---- shared with other runs and experiments ------------------------------------------------------------------------

def stages(name): return {p.name for p in (cache_root()/"stages"/name).glob("*") if not p.name.startswith(".")}


def test_lambdas_and_pretrain_share_their_generators(small, talks):
    before = stages("pretrain")
    pre = execute("pretrain", **dict(PRE, seed=77), corpus=small, source=talks)
    first = stages("pretrain") - before
    for lambda_cls in (0, 1): execute("train", **dict(FEW, seed=77, lambda_cls=lambda_cls), corpus=small, source=talks)
    assert len(first) == 1 and stages("pretrain") - before == first
    assert (pre.run.folder/"params_sess0.safetensors").exists()


def test_the_same_run_trains_nothing_again(made, small, talks):
    run, before = made("train", FEW), {name: stages(name) for name in ("pretrain", "synthetic")}
    again = execute("train", **FEW, corpus=small, source=talks)
    assert {name: stages(name) for name in before} == before and again.metrics == run.metrics and again.run.folder.name == run.run.folder.name


def test_a_session_is_the_same_alone_and_among_all(made):
    whole, one = made("train", dict(FEW, session="all")), made("train", dict(FEW, session=1))
    assert provenance(whole, "sess1") == provenance(one, "sess1")
    np.testing.assert_array_equal(rows(whole, "sess1")["sad"], rows(one, "sess1")["sad"])
    assert made("train", FEW).run.folder == made("train", dict(FEW, session=0)).run.folder, "no session is the first one"


def test_exp2_finds_these_rows(made, small, talks):
    run, before = made("train", FEW), stages("synthetic")
    _, options = synthetic_settings(small, "syn", "tiny", "corrected", source=talks, gan=dict(train_epochs=4, pretrain_epochs=2))
    fold = run.make_partition(run.found.table, "auto", 0)[0]
    theirs = synthetic_set("gan", run.found, fold, Guard(run.found.table, fold), EMOTIONS, run.unlabelled, options, 0)
    assert theirs.key == run.manifest["synthetic"]["sess0"] and stages("synthetic") == before


# ---- whose speech a model sees -------------------------------------------------------------------------------------

def trained_rows(run, speakers):
    "Keys of the rows of each emotion of these speakers"
    table = run.found.table
    return [key_of(np.flatnonzero((table.emotion == e) & table.speaker.isin(speakers)).tolist()) for e in EMOTIONS]


@pytest.mark.parametrize("protocol, seen", [("corrected", ("train",)), ("faithful", ("train", "dev"))])
def test_inner_excludes_test_speakers(made, protocol, seen):
    run = made("train", dict(FEW, protocol=protocol))
    speakers = parts(run)
    assert speakers["test"] == {"d1f", "d1m"} and not speakers["test"] & (speakers["train"] | speakers["dev"]) and len(speakers["train"]) == 3
    assert provenance(run)["made"]["targets"] == trained_rows(run, set.union(*(speakers[part] for part in seen)))
    assert run.manifest["fitted"] and not any(entry["test_rows"] for entry in run.manifest["fitted"])
    assert {entry["what"] for entry in run.manifest["fitted"]} == {"GAN scaler", "GAN targets"}
    assert run.curves.dev.notna().all() == (protocol == "corrected")


@pytest.mark.parametrize("experiment, few", [("train", FEW), ("pretrain", PRE)])
def test_cross_uses_all_speakers(made, experiment, few):
    run = made(experiment, dict(few, mode="cross"))
    speakers = parts(run)
    assert set(speakers) == {"train", "dev"} and len(speakers["train"]) == 5 and len(speakers["dev"]) == 1 and speakers["train"] | speakers["dev"] == set(run.found.table.speaker)
    if experiment == "train":
        assert provenance(run, "total")["made"]["targets"] == trained_rows(run, speakers["train"]) and run.curves.dev.notna().all()
        faithful = made("train", dict(FEW, mode="cross", protocol="faithful"))
        assert provenance(faithful, "total")["made"]["targets"] == trained_rows(run, set(run.found.table.speaker))
    assert {p.name for p in run.run.folder.glob("*_total*")} and "-cross-" in run.run.folder.name and run.manifest["parameters"]["session"] is None


def test_neutral_source_is_of_training_speakers(made):
    run = made("train", dict(FEW, source="neutral"))
    table = run.found.table
    assert len(rows(run)["sad"]) == 12 and set(provenance(run)["sources"]) == {Path(f).stem for f in table.file[(table.emotion == "neutral") & table.speaker.isin(parts(run)["train"])]}
    assert "GAN source" in {entry["what"] for entry in run.manifest["fitted"]}


def test_share_thins_the_targets(made):
    run = made("train", dict(FEW, share=.5))
    assert run.sets.loc["sess0", EMOTIONS].tolist() == [6]*4 and "-share0.5-" in run.run.folder.name


# ---- every parameter -----------------------------------------------------------------------------------------------

DECAYED = dict(FEW, decay_epochs=1)
CHANGED = dict(
    train=dict(  # parameter -> (settings, the same with another value of it)
        mode=(FEW, dict(FEW, mode="cross")),
        session=(FEW, dict(FEW, session=1)),
        corpus=(FEW, dict(FEW, corpus="others")),
        source=(FEW, dict(FEW, source="neutral")),
        features=(FEW, dict(FEW, features="emobase2010")),
        protocol=(FEW, dict(FEW, protocol="faithful")),
        preset=(FEW, dict(FEW, preset="small")),
        seed=(FEW, dict(FEW, seed=1)),
        emotions=(FEW, dict(FEW, emotions=["angry", "happy", "sad"])),
        labels=(FEW, dict(FEW, labels={"happy": "excited"})),
        scheme=(FEW, dict(FEW, scheme="speakers")),
        share=(FEW, dict(FEW, share=.5)),
        dim_g=(FEW, dict(FEW, dim_g=[16, 8, 16])),
        dim_d=(FEW, dict(FEW, dim_d=[16])),
        dim_c=(FEW, dict(FEW, dim_c=[16])),
        lr=(FEW, dict(FEW, lr=1e-4)),
        batch_size=(FEW, dict(FEW, batch_size=6)),
        keep_prob=(FEW, dict(FEW, keep_prob=.5)),
        train_epochs=(FEW, dict(FEW, train_epochs=5)),
        lambda_cyc=(FEW, dict(FEW, lambda_cyc=1)),
        lambda_cls=(FEW, dict(FEW, lambda_cls=0)),
        lambda_mom=(FEW, dict(FEW, lambda_mom=0)),
        cls_real=(FEW, dict(FEW, cls_real=0)),
        d_moves_g=(FEW, dict(FEW, d_moves_g=True)),
        decay=(DECAYED, dict(DECAYED, decay=.5)),
        decay_epochs=(FEW, DECAYED),
        pretrain_epochs=(FEW, dict(FEW, pretrain_epochs=0)),
        precision=(FEW, dict(FEW, precision="bfloat16")),
        export=(FEW, dict(FEW, export="hdf5")),
    ),
    pretrain=dict(
        mode=(PRE, dict(PRE, mode="cross")),
        session=(PRE, dict(PRE, session=1)),
        corpus=(PRE, dict(PRE, corpus="others")),
        source=(PRE, dict(PRE, source="neutral")),
        features=(PRE, dict(PRE, features="emobase2010")),
        protocol=(PRE, dict(PRE, protocol="faithful")),
        preset=(PRE, dict(PRE, preset="small")),
        seed=(PRE, dict(PRE, seed=1)),
        emotions=(PRE, dict(PRE, emotions=["angry", "happy", "sad"])),
        labels=(PRE, dict(PRE, labels={"happy": "excited"})),
        scheme=(PRE, dict(PRE, scheme="speakers")),
        share=(PRE, dict(PRE, share=.5)),
        dim_g=(PRE, dict(PRE, dim_g=[16, 8, 16])),
        lr=(PRE, dict(PRE, lr=1e-4)),
        batch_size=(PRE, dict(PRE, batch_size=6)),
        keep_prob=(PRE, dict(PRE, keep_prob=.5)),
        train_epochs=(PRE, dict(PRE, train_epochs=3)),
        precision=(PRE, dict(PRE, precision="bfloat16")),
    ))


@pytest.mark.parametrize("experiment", CHANGED)
def test_no_parameter_without_a_test(experiment): assert set(CHANGED[experiment]) == set(declared_parameters(experiment))


def result(run):
    "Everything that a run made, but for what says how"
    content = {p.name: p.read_bytes() for p in run.run.folder.iterdir() if p.suffix in (".safetensors", ".h5", ".nc")}
    return content, list(run.classes)


@pytest.mark.parametrize("experiment, name", [(experiment, name) for experiment, names in CHANGED.items() for name in names])
def test_parameter_changes_the_result(made, experiment, name):
    one, other = (made(experiment, settings) for settings in CHANGED[experiment][name])
    assert one.run.folder != other.run.folder, "two results in one folder"
    assert result(one) != result(other)


def test_rates_as_a_number_or_as_a_map(made):
    number, both = made("train", dict(FEW, lr=1e-4, keep_prob=.5)), made("train", dict(FEW, lr=dict(d=1e-4, g=1e-4), keep_prob=dict(d=.5, g=.5, c=.5)))
    assert number.run.folder == both.run.folder and result(number) == result(both)
    assert result(made("train", dict(FEW, lr=dict(d=1e-4, g=2e-3)))) != result(made("train", FEW))


def test_no_classifier_without_its_loss(made):
    run = made("train", dict(FEW, lambda_cls=0))
    assert run.curves.cls.isna().all() and run.metrics["sess0"]["cls"] is None and "-cls0-" in run.run.folder.name


def test_default_source(small, monkeypatch):
    monkeypatch.delenv("SER_NB_DATA", raising=False)
    assert default_source("demo") == "demo_unlabelled"
    with pytest.raises(FileNotFoundError, match="librispeech"): execute("train", **FEW, corpus=small)


# ---- published layouts ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("export, file, read", [("hdf5", "syn_sess0.h5", from_hdf), ("netcdf", "syn_sess0.nc", from_netcdf)])
def test_export(made, export, file, read):
    run = made("train", dict(FEW, export=export))
    X, names, table = read(run.run.folder/file)
    expected = rows(run)
    assert names == run.found.names and len(X) == 64
    for e in EMOTIONS: np.testing.assert_array_equal(X[(table.emotion == e).to_numpy()], expected[e])
    sources = provenance(run)["sources"]
    assert table.file[(table.emotion == "angry").to_numpy()].tolist() == [f"{s}_syn_ang" for s in sources]
    if export == "hdf5": assert [pd.read_hdf(run.run.folder/file, key).shape for key in ("ang", "hap", "neu", "sad")] == [(16, 88)]*4


# ---- refused -------------------------------------------------------------------------------------------------------

BOTH = [
    (dict(mode="iner"), "did you mean 'inner'"), (dict(mode="cross", session=0), "holds no session out"), (dict(mode="cross", session="all"), "holds no session out"), (dict(mode="cross", scheme="speakers"), "has no folds"),
    (dict(session=3), "3 folds, 0 to 2"), (dict(session="x"), "session 'x' is out of range"), (dict(scheme="speaker"), "did you mean 'speakers'"),
    (dict(corpus="demoo"), "did you mean 'demo'"), (dict(source="nowhere/talks.csv"), "nowhere/talks.csv: no such CSV"), (dict(features="eGeMAPS"), "did you mean 'eGeMAPSv02'"),
    (dict(protocol="faithfull"), "did you mean 'faithful'"), (dict(preset="smal"), "did you mean 'small'"), (dict(emotions=["sad"]), "1 class (sad)"), (dict(emotions=["sad", "angy"]), "did you mean 'angry'"),
    (dict(emotions=["angry", "sad"], source="neutral"), "source='neutral' needs neutral"), (dict(labels={"happy": "joyful"}), "'joyful'"), (dict(share=0.), "share=0.0"), (dict(share=1.5), "share=1.5"),
    (dict(sesion=1), "did you mean 'session'"), (dict(dim_G=[8]), "did you mean 'dim_g'"), (dict(lr="high"), "expects float"), (dict(lr=0.), "lr="), (dict(keep_prob=0.), "keep_prob="), (dict(keep_prob=1.5), "keep_prob="),
    (dict(batch_size=1), "batch_size=1"), (dict(batch_size=1000), "12 rows of angry, fewer than a batch of 1000; lower batch_size"), (dict(batch_size=14), "12 rows of angry, fewer than a batch of 14"), (dict(train_epochs=0), "train_epochs=0"),
    (dict(train_epochs=True), "expects int"), (dict(precision="float16"), "unknown precision 'float16'"), (dict(dim_g=8), "expects list"), (dict(dim_g=[0]), "dim_g=[0]"),
]
ONLY_TRAIN = [
    (dict(lambda_cls=-1), "lambda_cls=-1"), (dict(lambda_cyc=-.5), "lambda_cyc=-0.5"), (dict(lambda_mom=float("nan")), "lambda_mom=nan"), (dict(lamda_cls=2), "did you mean 'lambda_cls'"), (dict(cls_real=1.), "cls_real=1.0"),
    (dict(lr=dict(d=1e-4)), "for each of d, g, such as"), (dict(keep_prob=dict(d=.5, g=.5, e=.5)), "for each of d, g, c, such as"), (dict(decay=0.), "decay=0.0"), (dict(decay_epochs=0), "decay_epochs=0"),
    (dict(pretrain_epochs=-1), "pretrain_epochs=-1"), (dict(d_moves_g=1), "train expects bool"), (dict(lambda_cls=True), "train expects float"), (dict(export="hdf"), "did you mean 'hdf5'"),
]
REFUSED = [*(("train", FEW, given, words) for given, words in BOTH + ONLY_TRAIN), *(("pretrain", PRE, given, words) for given, words in BOTH)]


@pytest.mark.parametrize("experiment, few, given, words", REFUSED, ids=[" ".join([e, *(f"{k}={v}" for k, v in given.items())]) for e, _, given, _ in REFUSED])
def test_refused_before_anything_is_written(small, talks, outputs, experiment, few, given, words):
    with pytest.raises((ValueError, FileNotFoundError)) as caught: execute(experiment, **{**few, "corpus": small, "source": talks, **given})
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not outputs.exists()


@pytest.mark.parametrize("experiment, few", [("train", FEW), ("pretrain", PRE)])
@pytest.mark.parametrize("given, words", [(dict(dim_g=[8, 4]), "must read the same backwards"), (dict(source="small"), "the source has utterances of the test speaker small/d1f")], ids=str)
def test_refused_while_training(small, talks, experiment, few, given, words):
    with pytest.raises((ValueError, LeakageError)) as caught: execute(experiment, **{**few, "corpus": small, "seed": 5, "source": talks, **given, **(dict(source=small) if "source" in given else {})})
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not finished_runs(experiment)


@pytest.mark.parametrize("experiment, few", [("train", FEW), ("pretrain", PRE)])
def test_an_emotion_that_a_fold_lacks(small, talks, outputs, experiment, few):
    table, path = pd.read_csv(small), Path(small).with_name("lacking.csv")
    table[(table.emotion != "sad") | (table.session == "Session1")].to_csv(path, index=False)
    with pytest.raises(ValueError) as caught: execute(experiment, **few, corpus=str(path), source=talks, session="all")
    assert "sad" in str(caught.value) and "leave the emotion out" in str(caught.value) and "\n" not in str(caught.value) and not outputs.exists()
    assert execute(experiment, **few, corpus=str(path), source=talks, emotions=["angry", "happy", "neutral"]).classes == ["angry", "happy", "neutral"]


def test_other_features_of_the_source_are_left_out_and_shown(small, talks):
    import soundfile
    path = Path(talks).with_name("broken.csv")
    soundfile.write(path.with_name("silence.wav"), np.zeros(16000), 16000)
    table = pd.read_csv(talks)
    pd.concat([table, table.head(1).assign(file="silence.wav")]).to_csv(path, index=False)
    run = execute("train", **FEW, corpus=small, source=str(path))
    assert list(run.failures.file) == ["silence.wav"] and run.manifest["failures"] == 1 and len(rows(run)["sad"]) == 16


def test_an_unlabelled_corpus_is_no_target(talks):
    for experiment, few in (("train", FEW), ("pretrain", PRE)):
        with pytest.raises(ValueError, match="'talks' has no labels, so there is no emotion to turn speech into"): execute(experiment, **few, corpus=talks, source=talks)
