"""Repeats of the classifier as one batched ensemble, against the same repeats one after another.

The baseline is the plain PyTorch loop: nn.Sequential with nn.Dropout, the same dtype and batch, fused Adam, tensors in memory, and nobody looking at the loss.
Prints seconds and ratios at the size of EMOVO (490 training rows) and of IEMOCAP (4,424), on the CPU and on a GPU where there is one."""
import argparse
import time

import numpy as np
import torch

from ser_nb.training.ensemble import train_ensemble

DIM, CLASSES, BATCH, REPEATS = 1582, 7, 64, 10


def one_after_another(X, y, epochs, device):
    X, y = torch.as_tensor(X, device=device), torch.as_tensor(y, device=device)
    for repeat in range(REPEATS):
        torch.manual_seed(repeat)
        net = torch.nn.Sequential(torch.nn.Linear(DIM, 100), torch.nn.LeakyReLU(.2), torch.nn.Dropout(.2), torch.nn.Linear(100, 100), torch.nn.LeakyReLU(.2), torch.nn.Dropout(.2), torch.nn.Linear(100, CLASSES)).to(device)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-4, fused=True)
        for _ in range(epochs):
            order = torch.randperm(len(X), device=device)
            for step in range(len(X)//BATCH):
                rows = order[step*BATCH:(step + 1)*BATCH]
                loss = torch.nn.functional.cross_entropy(net(X[rows]), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return net


def together(X, y, epochs, device):
    return train_ensemble(X, y, [np.arange(len(X))]*REPEATS, list(range(REPEATS)), [100, 100], 1e-4, BATCH, .8, epochs, n_classes=CLASSES, device=device)


def seconds(work, *given):
    torch.cuda.is_available() and torch.cuda.synchronize()
    start = time.perf_counter()
    work(*given)
    torch.cuda.is_available() and torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="paired measurements; the median ratio counts")
    rounds = parser.parse_args().rounds
    for device in ["cpu"] + ["cuda"]*torch.cuda.is_available():
        for name, rows, epochs in (("EMOVO size", 490, 20), ("IEMOCAP size", 4424, 2)):
            rng = np.random.default_rng(0)
            X, y = rng.normal(size=(rows, DIM)).astype("float32"), rng.integers(0, CLASSES, rows)
            for work in (one_after_another, together): work(X, y, 1, device)
            pairs = [(seconds(one_after_another, X, y, epochs, device), seconds(together, X, y, epochs, device)) for _ in range(rounds)]
            ratio = np.median([a/b for a, b in pairs])
            print(f"{device}, {name} ({rows} rows, {REPEATS} repeats, {epochs} epochs): one after another {np.median([a for a, _ in pairs]):.2f} s, together {np.median([b for _, b in pairs]):.2f} s, {ratio:.2f}x "
                  f"(min {min(a/b for a, b in pairs):.2f}, max {max(a/b for a, b in pairs):.2f})", flush=True)
