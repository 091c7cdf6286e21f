"""A training step of a whole encoder: ours, by transformers' Trainer with batches of about one length at their own length, against Trainer's own example for audio classification on the same encoder
(WhisperForAudioClassification, random batches, every clip padded to 30 s), in float32 and both on the same clips; and ours in bfloat16.

Uses EMOVO under SER_NB_DATA and whisper-base under SER_NB_WEIGHTS, else the demo corpus and a small encoder with random weights."""
import argparse
import os
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from transformers import Trainer, TrainingArguments, WhisperForAudioClassification
from transformers.utils import logging

from ser_nb.data.audio import read_audio
from ser_nb.data.readers import load_corpus
from ser_nb.features.ssl import load_encoder, tiny_encoder
from ser_nb.training.ssl import Labelled, fine_tune


def folder_at_hand():
    real = Path(os.environ.get("SER_NB_WEIGHTS", "/nowhere"))/"whisper-base"
    return str(real) if real.is_dir() else tiny_encoder(tempfile.mkdtemp(), "whisper", d_model=128, encoder_layers=3, encoder_attention_heads=4, encoder_ffn_dim=512, decoder_attention_heads=4)


def clips_at_hand(n):
    corpus = load_corpus("emovo" if (Path(os.environ.get("SER_NB_DATA", "/nowhere"))/"emovo").is_dir() else "demo")
    rows = np.linspace(0, len(corpus) - 1, n).astype(int)
    return [read_audio(corpus.path(i), sampling_rate=16000)[0] for i in rows], np.arange(n) % 4


def ours(encoder, signals, y, batch, bf16=False):
    start = time.perf_counter()
    fine_tune(encoder, list("abcd"), Labelled(signals, y, [len(s) for s in signals]), None, tempfile.mkdtemp(), number_of_training_epochs=1, per_device_batch_size=batch, gradient_accumulation=1, eval_steps=1000, bf16=bf16)
    return time.perf_counter() - start


def example(place, encoder, signals, y, batch):
    "examples/pytorch/audio-classification of transformers, for this encoder: the feature extractor pads to its window"
    model = WhisperForAudioClassification.from_pretrained(place, num_labels=4, dtype=torch.float32, ignore_mismatched_sizes=True)
    def collate(rows): return dict(input_features=encoder.extractor([s for s, _ in rows], sampling_rate=16000, return_tensors="pt").input_features, labels=torch.tensor([int(t) for _, t in rows]))
    folder = tempfile.mkdtemp()
    start = time.perf_counter()
    arguments = TrainingArguments(output_dir=folder, num_train_epochs=1, per_device_train_batch_size=batch, use_cpu=not torch.cuda.is_available(), disable_tqdm=True, report_to="none", remove_unused_columns=False, save_strategy="no", logging_strategy="no")
    Trainer(model, arguments, data_collator=collate, train_dataset=list(zip(signals, y))).train()
    return time.perf_counter() - start


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--clips", type=int, default=16)
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--rounds", type=int, default=2)
    a = p.parse_args()
    warnings.simplefilter("ignore")
    logging.set_verbosity_error(), logging.disable_progress_bar()
    place = folder_at_hand()
    encoder, (signals, y) = load_encoder(place), clips_at_hand(a.clips)
    ratios, halves = [], []
    for _ in range(a.rounds):
        mine, half, theirs = ours(encoder, signals, y, a.batch), ours(encoder, signals, y, a.batch, True), example(place, encoder, signals, y, a.batch)
        ratios.append(theirs/mine), halves.append(mine/half)
        print(f"{a.clips} clips of {np.mean([len(s) for s in signals])/16000:.1f} s, steps of {a.batch}: ours {mine:.1f} s, in bfloat16 {half:.1f} s, Trainer's example {theirs:.1f} s")
    print(f"an epoch is {np.median(ratios):.1f}x as fast as Trainer's own example on the same encoder (bar 1.0); bfloat16 {np.median(halves):.2f}x float32")
