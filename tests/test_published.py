"The params files of the published corpora end to end, on trees in their owners' layouts filled with speech of the demo corpora: IEMOCAP, MSP-IMPROV, TED-LIUM 2"
import json
import shutil

import pytest

from ser_nb.cli import main
from ser_nb.data.demo import demo, demo_phone, demo_unlabelled
from ser_nb.run import finished_runs

CODES = dict(angry="ang", happy="exc", neutral="neu", sad="sad")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    "One dialog per speaker; every happy utterance is labelled excited, every eighth has no agreement"
    data, corpus = tmp_path_factory.mktemp("data"), demo()
    for (session, speaker, gender), rows in corpus.table.groupby(["session", "speaker", "gender"]):
        number, sex = int(session[-1]), gender[0].upper()
        dialog = f"Ses0{number}{sex}_impro01"
        wavs, evaluation = data/"iemocap"/f"Session{number}"/"sentences"/"wav"/dialog, data/"iemocap"/f"Session{number}"/"dialog"/"EmoEvaluation"
        wavs.mkdir(parents=True)
        evaluation.mkdir(parents=True, exist_ok=True)
        lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        for turn, (row, u) in enumerate(rows.iterrows()):
            name = f"{dialog}_{sex}{turn:03}"
            shutil.copy(corpus.path(row), wavs/f"{name}.wav")
            lines += [f"[{turn:.4f} - {turn + u.duration:.4f}]\t{name}\t{'xxx' if turn % 8 == 7 else CODES[u.emotion]}\t[2.5000, 2.5000, 2.5000]", ""]
        (evaluation/f"{dialog}.txt").write_text("\n".join(lines))
    msp_improv(data/"msp_improv")
    tedlium2(data/"tedlium2")
    return data


def msp_improv(folder):
    "Read sentences of the demo telephone corpus, with one label each in the evaluation file"
    corpus, lines, turns = demo_phone(), [], {}
    speakers = {s: f"{g[0].upper()}{1 + i:02}" for g, part in corpus.table.groupby("gender") for i, s in enumerate(sorted(part.speaker.unique()))}
    assert len(set(speakers.values())) == len(speakers)
    for row, u in corpus.table.iterrows():
        speaker, n = speakers[u.speaker], turns.setdefault(u.speaker, 0) + 1
        turns[u.speaker] = n
        clip = f"IMPROV-S01A-{speaker}-P-FM{n:02}"
        path = folder/f"session{int(speaker[1:])}"/"S01A"/"P"/f"MSP-{clip}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(corpus.path(row), path)
        lines.append(f"UTD-{clip}.avi; {u.emotion[0].upper()}; A:2.000000; V:3.000000; D:3.000000 ; N:3.000000;\n")
    (folder/"Evalution.txt").write_text("\n".join(lines))


def tedlium2(folder):
    "A talk for each file of the unlabelled demo corpus"
    corpus, part = demo_unlabelled(), folder/"train"
    for name in ("sph", "stm"): (part/name).mkdir(parents=True)
    for row, u in corpus.table.iterrows():
        talk = f"Speaker{row}_2010"
        shutil.copy(corpus.path(row), part/"sph"/f"{talk}.wav")
        (part/"stm"/f"{talk}.stm").write_text(f"{talk} 1 {talk} 0.00 {u.duration:.2f} <o,f0,{u.gender or 'male'}> words\n")


def test_params_file_runs_on_the_official_layout(tree, monkeypatch):
    monkeypatch.setenv("SER_NB_DATA", str(tree))
    assert main(["exp2", "-f", "params/exp2/iemocap.yaml", "-p", "classifier", "svm", "-p", "features", "eGeMAPSv02", "-p", "session", "1"]) == 0
    (params, folder), = finished_runs("exp2", corpus="iemocap")
    metrics = json.loads((folder/"metrics.json").read_text())
    assert [k for k in metrics if k.startswith("recall_")] == ["recall_angry", "recall_happy", "recall_neutral", "recall_sad"]
    assert (metrics["n"], metrics["n_speakers"]) == (56, 2)  # 2 x 32 utterances, one in eight without agreement
    assert metrics["uar"] > .4


SMALL = ["-p", "features", "eGeMAPSv02", "-p", "preset", "tiny"]


def only(experiment, **same):
    (params, folder), = finished_runs(experiment, **same)
    return params, json.loads((folder/"metrics.json").read_text())


@pytest.mark.parametrize("protocol", ["corrected", "faithful"])
def test_exp2_with_synthetic_rows_out_of_tedlium(tree, monkeypatch, protocol):
    monkeypatch.setenv("SER_NB_DATA", str(tree))
    assert main(["exp2", "-f", "params/exp2/iemocap.yaml", *SMALL, "-p", "session", "2", "-p", "train_on", "real+syn", "-p", "source", "tedlium2", "-p", "protocol", protocol]) == 0
    params, metrics = only("exp2", corpus="iemocap", train_on="real+syn", protocol=protocol)
    assert params["source"] == "tedlium2" and metrics["synthetic"]["Session3"]["rows"] == 4*len(demo_unlabelled().table)
    assert (metrics["n"], metrics["n_speakers"]) == (56, 2)


def test_exp1_on_the_official_layouts(tree, monkeypatch):
    monkeypatch.setenv("SER_NB_DATA", str(tree))
    assert main(["exp1", "-f", "params/exp1/iemocap.yaml", *SMALL, "-p", "session", "0", "-p", "lambdas", "[2]"]) == 0
    _, metrics = only("exp1", corpus="iemocap")
    assert metrics["emotions"] == ["angry", "happy", "neutral", "sad"]


def test_exp3_to_msp_improv(tree, monkeypatch):
    monkeypatch.setenv("SER_NB_DATA", str(tree))
    assert main(["exp3", "-f", "params/exp3/iemocap-msp_improv.yaml", *SMALL, "-p", "train_on", "syn", "-p", "source", "tedlium2"]) == 0
    _, metrics = only("exp3", corpus="iemocap", test_corpus="msp_improv")
    assert metrics["n"] == len(demo_phone().table) and metrics["n_speakers"] == demo_phone().table.speaker.nunique()
