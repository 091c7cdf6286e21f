"The IEMOCAP params file end to end, on a tree in the owners' layout: five sessions, EmoEvaluation files, the 4-class rule, speech of the demo corpus"
import json
import shutil

import pytest

from ser_nb.cli import main
from ser_nb.data.demo import demo
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
    return data


def test_params_file_runs_on_the_official_layout(tree, monkeypatch):
    monkeypatch.setenv("SER_NB_DATA", str(tree))
    assert main(["exp2", "-f", "params/exp2/iemocap.yaml", "-p", "classifier", "svm", "-p", "features", "eGeMAPSv02", "-p", "session", "1"]) == 0
    (params, folder), = finished_runs("exp2", corpus="iemocap")
    metrics = json.loads((folder/"metrics.json").read_text())
    assert [k for k in metrics if k.startswith("recall_")] == ["recall_angry", "recall_happy", "recall_neutral", "recall_sad"]
    assert (metrics["n"], metrics["n_speakers"]) == (56, 2)  # 2 x 32 utterances, one in eight without agreement
    assert metrics["uar"] > .4
