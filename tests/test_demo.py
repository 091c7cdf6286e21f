"The demo corpora: same bytes everywhere, resumable, speaker-disjoint, learnable and not trivial"
import os
import shutil
import subprocess
import sys
import time
from glob import glob
from pathlib import Path

import numpy as np
import pytest
import soundfile

import ser_nb.data.demo as module
from ser_nb.data.demo import DEMO_SETTINGS, DEMOS, EFFECTS, demo_rows, demo_unlabelled

MAKE = "import sys; from ser_nb.data.demo import DEMOS\nfor name in sys.argv[2:]: DEMOS[name](sys.argv[1])"


def start(root, *names):
    return subprocess.Popen([sys.executable, "-c", MAKE, str(root), *names], stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})


def content(root):
    files = (p for p in Path(root).rglob("*") if p.is_file())
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demos")
    a, b = folder/"a", folder/"b"
    for process in [start(a, *DEMOS), start(b, *DEMOS), start(b, *reversed(DEMOS))]:
        assert process.wait(120) == 0
    return a, b


@pytest.fixture(scope="module")
def corpora(roots): return {name: make(roots[0]) for name, make in DEMOS.items()}


@pytest.fixture(scope="module")
def signals(corpora): return {name: [soundfile.read(c.path(i), dtype="int16") for i in range(len(c))] for name, c in corpora.items()}


def test_one_process_and_two_at_once_make_the_same_bytes(roots):
    a, b = map(content, roots)
    assert a == b
    assert sum(f.endswith(".wav") for f in a) == 320 + 144 + 100
    assert len({v for f, v in a.items() if f.endswith(".wav")}) == 564


@pytest.mark.parametrize("name", DEMOS)
def test_order_does_not_matter(name, corpora, tmp_path):
    for row in demo_rows(name)[::-40]:
        module._write_utterance(name, row, tmp_path/row["file"])
        assert (tmp_path/row["file"]).read_bytes() == (corpora[name].root/row["file"]).read_bytes()


def test_what_is_missing_or_damaged_is_made_again(corpora, tmp_path):
    source = corpora["demo_unlabelled"].root
    folder = tmp_path/source.name
    shutil.copytree(source, folder)
    wavs = sorted(folder.rglob("*.wav"))
    for file in wavs[::2]: file.unlink()
    wavs[1].write_bytes(wavs[1].read_bytes()[:500])
    (folder/"demo_unlabelled.csv").unlink()
    untouched = {f: f.stat().st_mtime_ns for f in wavs[3::2]}
    made = demo_unlabelled(tmp_path)
    assert len(made) == 100 and not len(made.problems)
    assert content(folder) == content(source)
    assert {f: f.stat().st_mtime_ns for f in untouched} == untouched


def test_a_kill_leaves_nothing_half_done(corpora, tmp_path):
    process = start(tmp_path, "demo_unlabelled")
    until = time.time() + 60
    while len(glob(f"{tmp_path}/*/*/u*.wav")) < 10 and time.time() < until: time.sleep(.01)  # a walk would trip over temporary folders that vanish
    process.kill()
    process.wait()
    before = {f: v for f, v in content(tmp_path).items() if "/." not in f}
    assert 10 <= len(before) < 100 and not any(f.endswith(".csv") for f in before)
    demo_unlabelled(tmp_path)
    after, whole = content(tmp_path), content(corpora["demo_unlabelled"].root.parent)
    assert before.items() <= after.items()
    assert {f: v for f, v in after.items() if "/." not in f} == {f: v for f, v in whole.items() if f.startswith("demo_unlabelled")}


def test_a_complete_set_is_only_read(corpora, roots, monkeypatch):
    def refuse(*_): raise AssertionError("a complete corpus was written again")
    for name in ("_write_utterance", "to_csv"): monkeypatch.setattr(module, name, refuse)
    for name, make in DEMOS.items(): assert make(roots[0]).table.equals(corpora[name].table)


def test_the_key_knows_version_and_settings(monkeypatch):
    keys = [module._demo_key(name) for name in DEMOS]
    monkeypatch.setattr(module, "DEMO_VERSION", module.DEMO_VERSION + 1)
    keys += [module._demo_key(name) for name in DEMOS]
    monkeypatch.setitem(module.EFFECTS, "sad", EFFECTS["angry"])
    keys += [module._demo_key(name) for name in DEMOS]
    assert len(set(keys)) == 9


def test_default_place_is_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SER_NB_CACHE", str(tmp_path))
    monkeypatch.setitem(module.DEMO_SETTINGS, "demo_unlabelled", {**DEMO_SETTINGS["demo_unlabelled"], "pairs": 1, "sentences": 1})
    made = demo_unlabelled()
    assert len(made) == 2 and made.root.parent == tmp_path/"demo"


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path/"file").write_text("")
    with pytest.raises(OSError, match="cannot write to .*file.*choose a writable folder"): demo_unlabelled(tmp_path/"file")


def test_tables(corpora):
    speakers = [set(c.table.speaker) for c in corpora.values()]
    assert [len(s) for s in speakers] == [10, 6, 10] and len(set.union(*speakers)) == 26
    for c in corpora.values():
        assert not len(c.problems) and set(c.table.language) == {"zxx"}
        pairs = c.table.groupby("session").agg(genders=("gender", lambda g: sorted(g.unique())), speakers=("speaker", "nunique"))
        assert all(g == ["female", "male"] for g in pairs.genders) and (pairs.speakers == 2).all()
    assert corpora["demo"].table.session.unique().tolist() == [f"Session{i}" for i in range(1, 6)]
    assert set(corpora["demo_unlabelled"].table.emotion) == {""}
    for name, sentences in (("demo", 8), ("demo_phone", 6)):
        cells = corpora[name].table.groupby(["speaker", "emotion"]).sentence.nunique()
        assert (cells == sentences).all() and len(cells) == 4*len(speakers[list(DEMOS).index(name)])
    texts = [s for c in corpora.values() for s in c.table.sentence.unique()]
    assert len(texts) == len(set(texts)) == 8 + 6 + 10


@pytest.mark.parametrize("name", DEMOS)
def test_audio(name, corpora, signals):
    for signal, rate in signals[name]:
        assert rate == 16000 and signal.ndim == 1 and .8 < len(signal)/rate < 3
        peak, rms = np.abs(signal.astype(int)).max(), np.sqrt(np.mean(signal.astype(float)**2))
        assert peak < 32000 and 100 < rms < 8000
        assert np.sqrt(np.mean(signal[:800].astype(float)**2)) < rms
    seconds = corpora[name].table.duration
    assert 1.2 < seconds.mean() < 1.8


def test_only_the_telephone_is_band_limited(signals):
    def high(name): return np.median([s[4000:].sum()/s.sum() for s in (np.abs(np.fft.rfft(x, 16000))**2 for x, _ in signals[name])])
    assert high("demo_phone") < .5*high("demo")


def test_level_and_duration_hardly_tell_the_emotion(corpora, signals):
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import recall_score
    from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    table = corpora["demo"].table
    for emotion in EFFECTS:
        inside = table.duration.between(*table.duration[table.emotion == emotion].quantile([.1, .9]))
        assert inside.groupby(table.emotion).mean().min() > .5
    truth, speaker = table.emotion.to_numpy(object), table.speaker.to_numpy(object)
    levels = np.array([10*np.log10(np.mean(s.astype(float)**2)) for s, _ in signals["demo"]])
    for cue in (levels, table.duration.to_numpy()):
        probe = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
        guess = cross_val_predict(probe, cue[:, None], truth, groups=speaker, cv=LeaveOneGroupOut())
        assert (recall_score(truth, guess, average="macro") - .25)/.75 < .2


def test_emotions_can_be_learnt_but_not_wholly(corpora, signals):
    import opensmile
    from sklearn.metrics import recall_score
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02)

    def features(name, rows): return np.concatenate([smile.process_signal(signals[name][i][0]/32768., 16000).to_numpy() for i in rows])

    def uar(train, train_truth, test, test_truth):
        scaler = StandardScaler().fit(train)
        model = SVC(kernel="linear", C=.1, class_weight="balanced").fit(scaler.transform(train), train_truth)
        return recall_score(test_truth, model.predict(scaler.transform(test)), average="macro")

    table, target = corpora["demo"].table.iloc[::2], corpora["demo_phone"].table.iloc[::2]
    x, y = features("demo", table.index), table.emotion.to_numpy(object)
    test = table.session.isin(["Session1", "Session2"]).to_numpy()
    inside = uar(x[~test], y[~test], x[test], y[test])
    across = uar(x, y, features("demo_phone", target.index), target.emotion.to_numpy(object))
    assert .45 < inside < .9
    assert .28 < across < inside
