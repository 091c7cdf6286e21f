"""Linear probes of all layers and folds as one stack, against one after another.

Both standardise, choose the strength on development speakers among the same candidates, fit again on all training rows and predict the test rows. The baselines are scikit-learn's
LogisticRegression (lbfgs, the same objective, tolerance and float32 rows), and the library's own solver called for one problem at a time.
States are made up at the size of EMOVO (588 utterances, 6 folds, 7 classes) and of RAVDESS (1,440, 6 folds, 8 classes) under Whisper-base (7 layers of 512 columns), with variances that fall as an encoder's do."""
import argparse
import time
import warnings

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.preprocessing import StandardScaler

from ser_nb.data.partition import Guard, make_partition
from ser_nb.evaluation.layers import STRENGTHS, fit_probes, layer_scores, probe_layers

LAYERS, WIDTH = 7, 512


def made_up(rows, speakers, classes, seed=0):
    "(states, table): few steep directions, many flat ones, and a little of the class and of the speaker in both"
    rng = np.random.default_rng(seed)
    who, what = np.arange(rows) % speakers, rng.integers(0, classes, rows)
    steep = np.arange(1, WIDTH + 1)**-.7
    states = [(rng.normal(size=(rows, WIDTH)) + .35*rng.normal(size=(classes, WIDTH))[what] + rng.normal(size=(speakers, WIDTH))[who])*steep @ np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0] for _ in range(LAYERS)]
    table = pd.DataFrame(dict(corpus="x", file=[f"{i:05}.wav" for i in range(rows)], start=0., end=np.nan, speaker=[f"s{w:02}" for w in who], gender=np.where(who % 2, "male", "female"), session="", emotion=[f"e{w}" for w in what]))
    return np.stack(states, 1).astype("float32"), table


def by_scikit(Z, y, strength):
    "A function that predicts, of one problem"
    return LogisticRegression(C=1/(strength*len(Z)), class_weight="balanced", max_iter=2000, tol=1e-4).fit(Z, y).predict


def by_ourselves(Z, y, strength):
    counts, k = np.bincount(y), y.max() + 1
    with torch.inference_mode(): W = fit_probes(torch.as_tensor(Z)[None], torch.eye(k)[torch.as_tensor(y)].T[None], torch.as_tensor(1/(k*counts[y]), dtype=torch.float32)[None], torch.tensor([[strength]]))[0, 0].numpy()
    return lambda X: (X @ W[:, :-1].T + W[:, -1]).argmax(1)


def one_after_another(fit, X, table, folds):
    "Test predictions, shape (layers, rows)"
    y, guesses = pd.factorize(table.emotion, sort=True)[0], np.zeros((LAYERS, len(X)), int)
    for layer in range(LAYERS):
        for fold in folds:
            scaler, best = StandardScaler().fit(X[fold.train, layer]), (-1, None)
            Z, dev = scaler.transform(X[fold.train, layer]), scaler.transform(X[fold.dev, layer])
            for strength in sorted(STRENGTHS): best = max(best, (recall_score(y[fold.dev], fit(Z, y[fold.train], strength)(dev), average="macro"), strength))
            rows = np.sort(np.concatenate([fold.train, fold.dev]))
            scaler = StandardScaler().fit(X[rows, layer])
            guesses[layer, fold.test] = fit(scaler.transform(X[rows, layer]), y[rows], best[1])(scaler.transform(X[fold.test, layer]))
    return guesses


def together(X, table, folds, device):
    return probe_layers(X, table.emotion, folds, 0, [Guard(table, f) for f in folds], device=device)


def seconds(work, *given):
    start = time.perf_counter()
    result = work(*given)
    return time.perf_counter() - start, result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="paired measurements; the median ratio counts")
    rounds = parser.parse_args().rounds
    warnings.simplefilter("ignore")
    for device in ["cpu"] + ["cuda"]*torch.cuda.is_available():
        for name, size, scheme in (("EMOVO size", (588, 6, 7), "speakers"), ("RAVDESS size", (1440, 24, 8), "kfold")):
            X, table = made_up(*size)
            folds = make_partition(table, scheme, folds=6)
            together(X, table, folds[:1], device)
            for baseline, fit in (("scikit-learn", by_scikit), ("own solver", by_ourselves)):
                pairs = [(seconds(one_after_another, fit, X, table, folds), seconds(together, X, table, folds, device)) for _ in range(rounds)]
                ratio, guesses, predictions = [a[0]/b[0] for a, b in pairs], pairs[0][0][1], pairs[0][1][1].set_index(["layer", "file"]).prediction
                same = np.mean([predictions[layer].loc[table.file].to_numpy(object) == np.array([f"e{g}" for g in guesses[layer]], object) for layer in range(LAYERS)])
                print(f"{device}, {name} ({LAYERS*len(folds)} probes, {len(STRENGTHS)} strengths), {torch.get_num_threads()} threads: {baseline} one after another {np.median([a[0] for a, _ in pairs]):.2f} s, together {np.median([b[0] for _, b in pairs]):.2f} s, "
                      f"{np.median(ratio):.1f}x (min {min(ratio):.1f}, max {max(ratio):.1f}); {same:.1%} of the decisions are the same", flush=True)
            print("  UAR by layer:", " ".join(f"{u:.2f}" for u in layer_scores(pairs[0][1][1]).uar))
