"""Peak memory of extraction at 1,000 and at 8,000 files of 0.3 s: flat but for the table itself (rows x 1582 x 4 bytes). Each size in a process of its own."""
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from ser_nb.data.corpus import make_corpus
from ser_nb.features.functionals import functionals


def measure(folder, n):
    "Megabytes at the peak, less the feature matrix"
    corpus = make_corpus("noise", [dict(file=f"{i:05}.wav") for i in range(n)], folder)
    found = functionals(corpus, "emobase2010", 2)
    assert found.computed == n
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*(1 if sys.platform == "darwin" else 1024)
    print(f"{n} {peak/2**20:.1f} {found.X.nbytes/2**20:.1f}")


if __name__ == "__main__":
    if len(sys.argv) == 3: measure(sys.argv[1], int(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            for i in range(8000):
                rng = np.random.default_rng(i)
                soundfile.write(Path(folder)/f"{i:05}.wav", .1*rng.normal(size=4800).clip(-3, 3), 16000)
            rest = {}
            for n in (1000, 8000):
                with tempfile.TemporaryDirectory() as cache:
                    said = subprocess.run([sys.executable, __file__, folder, str(n)], env={**os.environ, "SER_NB_CACHE": cache}, capture_output=True, text=True, check=True).stdout.split()
                rest[n] = float(said[1]) - float(said[2])
                print(f"{n} files: peak {said[1]} MiB, of which the features {said[2]} MiB, the rest {rest[n]:.1f} MiB", flush=True)
            print(f"8,000 files need {rest[8000] - rest[1000]:.1f} MiB more than 1,000 beside the table")
