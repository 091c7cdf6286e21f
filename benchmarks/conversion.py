"""Emotional conversion: steps of training against a plain loop, a folder of speech through `ser-nb convert`, and the memory that a long recording needs.

The plain loop is the released code in PyTorch, eager and in float32: convolution and gate apart, torch's InstanceNorm, a call of a network for each of its six and four uses, Adam as it is. Sizes, batch and data are the same, and as in
the released code (TensorFlow's var_list) generator steps make no gradients of the discriminators' weights. Speech is nEMO under SER_NB_DATA, else the demo corpus, again and again. Weights are random: they change no time."""
import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import nn

from ser_nb.conversion import FORMAT, Converter, conversion_options, convert_file, load_converter, make_nets, make_side, network, save_converter, standardised
from ser_nb.data.audio import read_utterance
from ser_nb.data.corpus import select
from ser_nb.data.readers import load_corpus
from ser_nb.features.world import FRAME_PERIOD, SAMPLING_RATE, analyse
from ser_nb.models.voice_cyclegan import Discriminator, Generator, channels
from ser_nb.training.voice import SEGMENT, seeded, train_cyclegan, whole_utterance

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DIMS = 24


# ---- the plain loop ------------------------------------------------------------------------------------------------

class PlainGated(nn.Module):
    def __init__(self, n_in, n_out, kernel, stride=1, norm=True, shuffle=False):
        super().__init__()
        self.shuffle = shuffle
        self.conv, self.gate = (nn.Conv1d(n_in, n_out, kernel, stride, kernel//2) for _ in range(2))
        self.norms = nn.ModuleList(nn.InstanceNorm1d(n_out//2 if shuffle else n_out, 1e-6, affine=True) if norm else nn.Identity() for _ in range(2))
    def forward(self, x):
        a, b = self.conv(x), self.gate(x)
        if self.shuffle: a, b = (y.transpose(1, 2).reshape(len(y), 2*y.shape[2], -1).transpose(1, 2) for y in (a, b))
        return self.norms[0](a)*torch.sigmoid(self.norms[1](b))


class PlainResidual(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.gated, self.conv, self.norm = PlainGated(n, 2*n, 3), nn.Conv1d(2*n, n, 3, padding=1), nn.InstanceNorm1d(n, 1e-6, affine=True)
    def forward(self, x): return x + self.norm(self.conv(self.gated(x)))


class PlainPicture(nn.Module):
    def __init__(self, n_in, n_out, kernel, stride, norm=True):
        super().__init__()
        self.pad = nn.ZeroPad2d((1, 1, (kernel[0] - 1)//2, kernel[0]//2))
        self.conv, self.gate = (nn.Conv2d(n_in, n_out, kernel, stride) for _ in range(2))
        self.norms = nn.ModuleList(nn.InstanceNorm2d(n_out, 1e-6, affine=True) if norm else nn.Identity() for _ in range(2))
    def forward(self, x):
        x = self.pad(x)
        return self.norms[0](self.conv(x))*torch.sigmoid(self.norms[1](self.gate(x)))


def plain_generator(o):
    a, b, c, d = (channels(n, o["width"]) for n in (128, 256, 512, 1024))
    return nn.Sequential(PlainGated(DIMS, a, 15, norm=False), PlainGated(a, b, 5, 2), PlainGated(b, c, 5, 2), *(PlainResidual(c) for _ in range(o["blocks"])),
                         PlainGated(c, d, 5, shuffle=True), PlainGated(c, c, 5, shuffle=True), nn.Conv1d(b, DIMS, 15, padding=7))


def plain_discriminator(o):
    a, b, c, d = (channels(n, o["width"]) for n in (128, 256, 512, 1024))
    return nn.Sequential(nn.Unflatten(1, (1, DIMS)), PlainPicture(1, a, (3, 3), (1, 2), norm=False), PlainPicture(a, b, (3, 3), (2, 2)), PlainPicture(b, c, (3, 3), (2, 2)), PlainPicture(c, d, (6, 3), (1, 2)), nn.Conv2d(d, 1, 1), *[nn.Sigmoid()]*o["sigmoid"])


def plain_step(o, domains):
    "A function that does a step, on its own networks"
    nets = {"A2B": plain_generator(o), "B2A": plain_generator(o), "A": plain_discriminator(o), "B": plain_discriminator(o)}
    count = lambda *made: sum(p.numel() for net in made for p in net.parameters())
    assert count(*nets.values()) == 2*count(Generator(DIMS, o["width"], o["blocks"]), Discriminator(DIMS, o["width"], o["sigmoid"])), "the networks are not of the same size"
    for net in nets.values(): net.to(DEVICE)
    adams = {name: torch.optim.Adam([p for net in names for p in nets[net].parameters()], o["lr"][name], (.5, .999)) for name, names in dict(g=("A2B", "B2A"), d=("A", "B")).items()}
    rng, l1, square = np.random.default_rng(0), nn.L1Loss(), nn.MSELoss()
    def batch(pairs):
        cut = [(x, rng.integers(len(x) - SEGMENT)) for x in (pairs[rng.integers(len(pairs))][0] for _ in range(o["batch_size"]))]
        return torch.tensor(np.stack([x[i:i + SEGMENT].T for x, i in cut]), device=DEVICE)
    def judged(y, wanted): return square(y, torch.full_like(y, wanted))
    def step():
        a, b = map(batch, domains.values())
        for d in "AB": nets[d].requires_grad_(False)
        fake_b, fake_a = nets["A2B"](a), nets["B2A"](b)
        loss = o["lambda_cyc"]*(l1(nets["B2A"](fake_b), a) + l1(nets["A2B"](fake_a), b)) + o["lambda_id"]*(l1(nets["B2A"](a), a) + l1(nets["A2B"](b), b)) + o["lambda_adv"]*(judged(nets["A"](fake_a), 1.) + judged(nets["B"](fake_b), 1.))
        adams["g"].zero_grad()
        loss.backward()
        adams["g"].step()
        for d in "AB": nets[d].requires_grad_(True)
        loss = sum((judged(nets[d](real), 1.) + judged(nets[d](fake.detach()), 0.))/2 for d, real, fake in (("A", a, fake_a), ("B", b, fake_b)))
        adams["d"].zero_grad()
        loss.backward()
        adams["d"].step()
    return step


# ---- training ------------------------------------------------------------------------------------------------------

def now():
    if DEVICE == "cuda": torch.cuda.synchronize()
    return time.perf_counter()


def library_seconds(domains, options, warm, steps):
    "Of a step within `train_cyclegan`, everything that belongs to its loop included"
    at = {}
    train_cyclegan(domains, dict(options, iterations=warm + steps), watch=lambda i, nets, writer: at.setdefault(i, now()), watch_every=warm)
    return (at[warm + steps] - at[warm])/steps


def plain_seconds(step, warm, steps):
    for _ in range(warm): step()
    start = now()
    for _ in range(steps): step()
    return (now() - start)/steps


def training(steps, rounds):
    rng = np.random.default_rng(0)
    domains = {name: [(rng.normal(size=(400, DIMS)).astype("float32"), np.ones(400, bool)) for _ in range(60)] for name in ("neutral", "angry")}
    given = {precision: conversion_options("small", precision=precision) for precision in ("float32", "bfloat16")}
    o, bar = given["float32"], 3 if DEVICE == "cuda" else 1.5
    assert o["identity_until"] == 1, "the plain loop has the identity loss in every step"
    step, warm = plain_step(o, domains), max(2, steps//4)
    taken = {name: [] for name in ("plain", *given)}
    for _ in range(rounds):
        taken["plain"].append(plain_seconds(step, warm, steps))
        for name, options in given.items(): taken[name].append(library_seconds(domains, options, warm, steps))
    median = {name: float(np.median(v)) for name, v in taken.items()}
    print(f"training, small preset (width {o['width']:g}, batch {o['batch_size']}) on {DEVICE}, {torch.get_num_threads()} threads: plain loop {1/median['plain']:.2f} steps a second, the library {1/median['float32']:.2f}: {median['plain']/median['float32']:.2f} times as fast (bar {bar})")
    print(f"with bfloat16 products {1/median['bfloat16']:.2f} steps a second, {median['plain']/median['bfloat16']:.2f} times as fast as the plain loop", flush=True)


# ---- conversion ----------------------------------------------------------------------------------------------------

def speech():
    "Neutral and angry utterances of a speaker"
    nemo = (Path(os.environ.get("SER_NB_DATA", "/nowhere"))/"nemo").is_dir()
    corpus = load_corpus("nemo" if nemo else "demo")
    return {e: select(corpus, speaker="IC0" if nemo else "d1f", emotion=e) for e in ("neutral", "angry")}


def random_model(corpora, folder, preset, f0_method):
    "A converter as it would be after training, but for its weights"
    sides = {name: make_side(select(c, file=list(c.table.file[:3])), dict(f0_method=f0_method), workers=1) for name, c in corpora.items()}
    config = dict(format=FORMAT, kind="cyclegan", domains=list(sides), analysis=sides["neutral"].worlds[0].options, options=conversion_options(preset), stats={n: s.stats for n, s in sides.items()})
    return save_converter(Converter(config, seeded(lambda: nn.ModuleDict(make_nets(config)), 0, "benchmark")), folder)


def linked(corpora, folder, seconds):
    "So many seconds of speech as files of their own: how many files, and how many seconds"
    folder.mkdir()
    rows, total = [(c.path(i), c.table.duration[i]) for c in corpora.values() for i in range(len(c))], 0.
    for i, (file, duration) in enumerate(cycle(rows)):
        if total >= seconds: return i, total
        (folder/f"{i:04}{file.suffix}").symlink_to(file)
        total += duration


def network_speed(files, model):
    "How many times as fast as real time the generator alone is, on one core or on the GPU"
    model = load_converter(model)
    net, stats, threads = network(model, "neutral", "angry"), model.config["stats"]["neutral"], torch.get_num_threads()
    envelopes = [standardised(analyse(*read_utterance(file), **model.config["analysis"]), stats) for file in files]
    torch.set_num_threads(1)
    whole_utterance(net, envelopes[0], DEVICE)
    start = now()
    for x in envelopes: whole_utterance(net, x, DEVICE)
    taken = now() - start
    torch.set_num_threads(threads)
    return sum(map(len, envelopes))*FRAME_PERIOD/1000/taken


def folder_of_speech(corpora, models, folder, minutes):
    n, length = linked(corpora, folder/"in", 60*minutes)
    files = sorted((folder/"in").iterdir())[:20]
    print(f"{n} files, {length:.0f} s of speech, through ser-nb convert, imports and model included, times as fast as real time (bar: small with dio 10; with a GPU 100):", flush=True)
    for (preset, f0_method), model in models.items():
        start = time.perf_counter()
        subprocess.run([Path(sys.executable).with_name("ser-nb"), "convert", folder/"in", folder/f"out-{model.name}", "--model", model, "--to", "angry"], check=True, capture_output=True)
        taken = time.perf_counter() - start
        assert len(list((folder/f"out-{model.name}").iterdir())) == n
        print(f"  {preset}, {f0_method}: {taken:.1f} s, {length/taken:.1f} times; the network alone {network_speed(files, model):.0f} times on {'the GPU' if DEVICE == 'cuda' else 'one core'}", flush=True)


# ---- memory --------------------------------------------------------------------------------------------------------

def recording(corpora, file, minutes):
    "Speech in a row"
    c = corpora["neutral"]
    with soundfile.SoundFile(file, "w", SAMPLING_RATE, 1) as out:
        for i in cycle(range(len(c))):
            if out.tell() >= 60*minutes*SAMPLING_RATE: return file
            out.write(read_utterance(c.path(i), sampling_rate=SAMPLING_RATE)[0])


def measure(file, model, output):
    "Megabytes at the peak of a conversion; Linux' getrusage would count what the starting process had as well"
    convert_file(file, output, load_converter(model), "angry")
    status = Path("/proc/self/status")
    print(int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1])/1024 if status.exists() else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20)


def memory(corpora, model, folder, short, long):
    peaks = {}
    for minutes in (short, long):
        file = recording(corpora, folder/f"{minutes:g}.wav", minutes)
        start = time.perf_counter()
        peaks[minutes] = float(subprocess.run([sys.executable, __file__, "--measure", file, model, folder/"made.wav"], capture_output=True, text=True, check=True).stdout)
        print(f"recording of {minutes:g} minutes, piece by piece: peak {peaks[minutes]:.0f} MiB, {60*minutes/(time.perf_counter() - start):.1f} times as fast as real time", flush=True)
    print(f"{long:g} minutes need {peaks[long] - peaks[short]:.1f} MiB more than {short:g} (bar 30)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=15, help="of training, timed in a round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=5, help="of speech in a folder")
    parser.add_argument("--long", type=float, default=20, help="minutes of the long recording; 60 for an hour")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.measure: measure(*a.measure)
    else:
        training(a.steps, a.rounds)
        with tempfile.TemporaryDirectory() as folder:
            corpora, folder = speech(), Path(folder)
            models = {(preset, f0): random_model(corpora, folder/f"{preset}-{f0}", preset, f0) for preset, f0 in (("small", "dio"), ("small", "harvest"), ("paper", "dio"))}
            folder_of_speech(corpora, models, folder, a.minutes)
            memory(corpora, models["small", "dio"], folder, min(2, a.long/2), a.long)
