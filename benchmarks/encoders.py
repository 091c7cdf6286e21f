"""Encoding a corpus with 2 threads against a plain loop of one file at a time through the same encoder, both in float32 and both at each clip's own length, the loop with all of torch's threads and with one;
padding of a GPU's batches; what cutting Whisper's 30-s window changes; peak memory at 40 and at 400 files, each size in a process of its own.

Uses EMOVO under SER_NB_DATA and whisper-base under SER_NB_WEIGHTS, else the demo corpus and a small encoder with random weights. Nothing is cached before: each round has an empty cache of its own."""
import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ser_nb.data.audio import read_audio
from ser_nb.data.readers import load_corpus
from ser_nb.features.ssl import BUDGET, buckets, embeddings, encode, hidden_states, load_encoder, prepare, tiny_encoder, waste


def encoder_at_hand():
    if (Path(os.environ.get("SER_NB_WEIGHTS", "/nowhere"))/"whisper-base").is_dir(): return load_encoder("whisper-base", device="cpu")
    return load_encoder(tiny_encoder(tempfile.mkdtemp(), "whisper", d_model=256, encoder_layers=6, encoder_attention_heads=4, encoder_ffn_dim=1024, decoder_attention_heads=4), device="cpu")


def corpus_at_hand(n):
    corpus = load_corpus("emovo" if (Path(os.environ.get("SER_NB_DATA", "/nowhere"))/"emovo").is_dir() else "demo")
    return replace(corpus, table=corpus.table.iloc[np.linspace(0, len(corpus) - 1, min(n, len(corpus))).astype(int)].reset_index(drop=True))


def seconds(work, *given):
    start = time.perf_counter()
    result = work(*given)
    return time.perf_counter() - start, result


def plain(corpus, encoder, threads):
    "What one writes first: file after file"
    means = []
    torch.set_num_threads(threads)
    for i in range(len(corpus)):
        with torch.inference_mode(): states, _ = hidden_states(encoder.network, *prepare(encoder.extractor, [read_audio(corpus.path(i), sampling_rate=16000)[0]]))
        means.append(torch.stack([s[0].mean(0) for s in states]).numpy())
    torch.set_num_threads(2)
    return np.stack(means)


def ours(corpus, encoder):
    os.environ["SER_NB_CACHE"] = tempfile.mkdtemp()
    return embeddings(corpus, encoder, workers=2)


def window(encoder, signal):
    "As transformers has it: padded to 30 s"
    with torch.inference_mode(): return torch.stack(encoder.network(encoder.extractor([signal], sampling_rate=16000, return_tensors="pt").input_features, output_hidden_states=True).hidden_states)[:, 0].numpy()


def peak(n):
    "Megabytes at the peak, of so many files of 3 s by a tiny encoder"
    import soundfile

    from ser_nb.data.corpus import make_corpus
    with tempfile.TemporaryDirectory() as folder:
        for i in range(n): soundfile.write(f"{folder}/{i:05}.wav", .1*np.random.default_rng(i).normal(size=48000).clip(-3, 3), 16000)
        found = ours(make_corpus("noise", [dict(file=f"{i:05}.wav") for i in range(n)], folder), load_encoder(tiny_encoder(f"{folder}/encoder", "hubert"), device="cpu"))
    assert found.computed == n
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(2**20 if sys.platform == "darwin" else 2**10))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.peak:
        peak(a.peak)
        sys.exit()
    peaks = {n: float(subprocess.run([sys.executable, __file__, "--peak", str(n)], capture_output=True, text=True, check=True).stdout.split()[-1]) for n in (40, 400)}
    print(f"peak memory: {peaks[40]:.0f} MiB at 40 files, {peaks[400]:.0f} MiB at 400: {peaks[400] - peaks[40]:+.1f} MiB")
    corpus, encoder = corpus_at_hand(a.files), encoder_at_hand()
    print(f"{encoder} on {corpus.name}: {len(corpus)} files, {corpus.table.duration.sum():.0f} s of audio; load before {os.getloadavg()[0]:.1f}")
    plain(replace(corpus, table=corpus.table.head(2)), encoder, 2)
    for _ in range(a.rounds):
        baseline, means = seconds(plain, corpus, encoder, 2)
        single, _ = seconds(plain, corpus, encoder, 1)
        cold, found = seconds(ours, corpus, encoder)
        assert found.computed == len(corpus) and np.allclose(found.X, means, rtol=2e-3, atol=2e-3*abs(means).max((0, 2))[None, :, None].max())
        warm, again = seconds(embeddings, corpus, encoder)
        assert again.computed == 0 and np.array_equal(again.X, found.X)
        print(f"plain loop with torch's 2 threads {baseline:.2f} s, with 1 {single:.2f} s; ours, 2 threads {cold:.2f} s: {baseline/cold:.2f}x and {single/cold:.2f}x; all cached {warm*1000:.0f} ms", flush=True)
    whole = corpus_at_hand(10**6).table.duration.tolist()
    for budget in (BUDGET["cuda"]/4, BUDGET["cuda"]): print(f"batches of at most {budget:.0f} s over {len(whole)} files: {len(batches := buckets(whole, budget))}, padding {waste(whole, batches):.1%}; in the corpus' own order it would be {waste(whole, np.array_split(np.arange(len(whole)), len(batches))):.1%}")
    torch.set_num_threads(1)
    signals = [read_audio(corpus.path(i), sampling_rate=16000)[0] for i in range(0, len(corpus), max(1, len(corpus)//8))][:8]
    own, full = (seconds(lambda how=how: [how(encoder, s) for s in signals]) for how in (lambda e, s: encode(e, s, 16000), window))
    cosines = [[float(np.dot(x, y)/np.linalg.norm(x)/np.linalg.norm(y)) for x, y in zip(mine.mean(1), theirs[:, :mine.shape[1]].mean(1))] for mine, theirs in zip(own[1], full[1])]
    print(f"{len(signals)} clips at their own length {own[0]:.2f} s, in Whisper's window of 30 s {full[0]:.2f} s: {full[0]/own[0]:.1f}x; cosine of the time means by state {np.mean(cosines, 0).round(3).tolist()}")
