"""Extraction of emobase2010 with 2 workers against one worker of plain opensmile-python on the same files; then everything cached; then one changed file.

Uses EMOVO under SER_NB_DATA, else the demo corpus. Nothing is cached before: each round has an empty cache of its own."""
import argparse
import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import opensmile
import soundfile

from ser_nb.core import cache_root
from ser_nb.data.readers import load_corpus
from ser_nb.features.functionals import emobase2010_config, functionals


def seconds(work, *given):
    start = time.perf_counter()
    result = work(*given)
    return time.perf_counter() - start, result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=588)
    parser.add_argument("--rounds", type=int, default=3)
    a = parser.parse_args()
    corpus = load_corpus("emovo" if (Path(os.environ.get("SER_NB_DATA", "/nowhere"))/"emovo").is_dir() else "demo")
    corpus = replace(corpus, table=corpus.table.head(a.files))
    files = [str(corpus.path(i)) for i in range(len(corpus))]
    plain = opensmile.Smile(str(emobase2010_config()), "func", num_workers=1)
    print(f"{corpus.name}: {len(files)} files, {corpus.table.duration.sum():.0f} s of audio")
    for _ in range(a.rounds):
        os.environ["SER_NB_CACHE"] = tempfile.mkdtemp()
        baseline, table = seconds(plain.process_files, files)
        cold, found = seconds(functionals, corpus, "emobase2010", 2)
        assert found.computed == len(files) and np.allclose(found.X, table.to_numpy(), rtol=1e-3, atol=1e-3)
        warm, again = min((seconds(functionals, corpus, "emobase2010", 2) for _ in range(3)), key=lambda pair: pair[0])
        assert again.computed == 0 and np.array_equal(again.X, found.X)
        copy = Path(tempfile.mkdtemp())/corpus.name
        shutil.copytree(corpus.root, copy)
        signal, rate = soundfile.read(copy/corpus.table.file[0], dtype="int16")
        signal[100] += 1
        soundfile.write(copy/corpus.table.file[0], signal, rate)
        one, changed = seconds(functionals, replace(corpus, root=copy), "emobase2010", 2)
        print(f"plain, 1 worker {baseline:.2f} s; ours, 2 workers {cold:.2f} s: {baseline/cold:.2f}x; all cached {warm*1000:.0f} ms: {cold/warm:.0f}x faster than the first run; one file changed: {changed.computed} computed, {one*1000:.0f} ms", flush=True)
        shutil.rmtree(cache_root())
        shutil.rmtree(copy.parent)
