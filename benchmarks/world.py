"""WORLD analysis of a folder by `analyse_corpus` on 2 cores against a plain loop over the same files with pyworld in one process; then the real-time factors of its parts.

Uses nEMO under SER_NB_DATA, else the demo corpus. Each round has an empty cache of its own; the plain loop keeps the same codes and writes nothing."""
import argparse
import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyworld
import soundfile

from ser_nb.core import cache_root
from ser_nb.data.readers import load_corpus
from ser_nb.features.world import analyse_corpus, synthesise

RATE, FRAMES = 16000, dict(f0_floor=71., f0_ceil=800., frame_period=5.)


def seconds(work, *given, **options):
    start = time.perf_counter()
    result = work(*given, **options)
    return time.perf_counter() - start, result


def plain(files, f0_of):
    "What a script with pyworld does"
    worlds = []
    for file in files:
        signal, _ = soundfile.read(file)
        f0, times = f0_of(signal)
        power, share = pyworld.cheaptrick(signal, f0, times, RATE, fft_size=1024), pyworld.d4c(signal, f0, times, RATE, fft_size=1024)
        worlds.append((f0, pyworld.code_spectral_envelope(power, RATE, 24), pyworld.code_aperiodicity(share, RATE)))
    return worlds


def harvest(signal): return pyworld.harvest(signal, RATE, **FRAMES)
def dio(signal):
    rough, times = pyworld.dio(signal, RATE, **FRAMES)
    return pyworld.stonemask(signal, rough, times, RATE), times


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=1)
    a = parser.parse_args()
    corpus = load_corpus("nemo" if (Path(os.environ.get("SER_NB_DATA", "/nowhere"))/"nemo").is_dir() else "demo")
    corpus = replace(corpus, table=corpus.table.iloc[::max(1, len(corpus)//a.files)].head(a.files).reset_index(drop=True))
    files, length = [corpus.path(i) for i in range(len(corpus))], corpus.table.duration.sum()
    assert {soundfile.info(file).samplerate for file in files} == {RATE}
    print(f"{corpus.name}: {len(files)} files, {length:.0f} s of audio")
    plain(files[:1], harvest)
    for method, f0_of in (("harvest", harvest), ("dio", dio)):
        for _ in range(a.rounds):
            os.environ["SER_NB_CACHE"] = tempfile.mkdtemp()
            baseline, expected = seconds(plain, files, f0_of)
            cold, (worlds, failures) = seconds(analyse_corpus, corpus, 2, f0_method=method)
            warm, _ = seconds(analyse_corpus, corpus, 2, f0_method=method)
            assert not len(failures) and all(np.array_equal(w.f0, f0.astype("float32")) and np.array_equal(w.mcep, mcep.astype("float32")) for w, (f0, mcep, _) in zip(worlds, expected))
            print(f"{method}: plain loop {baseline:.2f} s; analyse_corpus, 2 processes {cold:.2f} s: {baseline/cold:.2f}x ({length/cold:.0f}x real time); all cached {warm*1000:.0f} ms", flush=True)
            shutil.rmtree(cache_root())
    signals = [soundfile.read(file)[0] for file in files[::3]]
    part = sum(map(len, signals))/RATE
    tracks = [harvest(s) for s in signals]
    parts = {
        "harvest": lambda: [harvest(s) for s in signals],
        "dio + stonemask": lambda: [dio(s) for s in signals],
        "CheapTrick": lambda: [pyworld.cheaptrick(s, *t, RATE, fft_size=1024) for s, t in zip(signals, tracks)],
        "D4C": lambda: [pyworld.d4c(s, *t, RATE, fft_size=1024) for s, t in zip(signals, tracks)],
        "synthesise": lambda: [synthesise(w) for w in worlds[::3]],
    }
    factors = {name: seconds(work)[0]/part for name, work in parts.items()}
    print("real-time factor of one core: " + ", ".join(f"{name} {factor:.4f}" for name, factor in factors.items()))
    print(f"dio + stonemask is {factors['harvest']/factors['dio + stonemask']:.1f}x as fast as harvest; a whole analysis {sum(factors[p] for p in ('harvest', 'CheapTrick', 'D4C'))/sum(factors[p] for p in ('dio + stonemask', 'CheapTrick', 'D4C')):.1f}x")
