"The compact transformer: training beside the same network from torch's own parts and beside one large product of the same dtype, what its pictures cost, and inference and a whole stream against real time"
import argparse
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ser_nb.features.mel_augment import augment, drawn
from ser_nb.data.demo import demo_utterance
from ser_nb.features.speaker import WIDTH, fit_projection
from ser_nb.features.spectrogram import SAMPLING_RATE, log_mel, paint, view
from ser_nb.models.cct import CCT, SIZES
from ser_nb.pictures import Trained, build, recipe
from ser_nb.streaming import CHUNK, stream

ROUNDS, SECONDS, STREAM = 3, 4, 24   # SECONDS of speech in a picture, and in the stream
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class PlainBlock(nn.Module):
    "As in timm: one module per operation, torch's scaled_dot_product_attention"
    def __init__(self, dim, heads, mlp_ratio, attention_dropout, rate):
        super().__init__()
        self.heads, self.attention_dropout, self.rate = heads, attention_dropout, rate
        self.before, self.between, self.qkv, self.out = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.Linear(dim, 3*dim, bias=False), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, dim*mlp_ratio), nn.GELU(), nn.Linear(dim*mlp_ratio, dim))

    def path(self, x):
        if not self.rate or not self.training: return x
        return x*x.new_empty(len(x), 1, 1).bernoulli_(1 - self.rate).div_(1 - self.rate)

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = self.qkv(self.before(x)).reshape(b, n, 3, self.heads, d//self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.attention_dropout if self.training else 0.)
        x = self.between(x + self.path(self.out(y.transpose(1, 2).reshape(b, n, d))))
        return x + self.path(self.mlp(x))


class Plain(nn.Module):
    "The network without speaker, from torch's own modules"
    def __init__(self, size, n_classes=4):
        super().__init__()
        c = SIZES[size]
        def layer(a, b): return [nn.Conv2d(a, b, 7, 2, 3, bias=False), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        self.tokenizer = nn.Sequential(*layer(3, c["conv_width"]), *layer(c["conv_width"], c["dim"]), nn.Flatten(2))
        self.positions = nn.Parameter(torch.zeros(1, (c["image_size"]//16)**2, c["dim"]))
        self.blocks = nn.Sequential(*(PlainBlock(c["dim"], c["heads"], c["mlp_ratio"], c["attention_dropout"], r) for r in torch.linspace(0, c["drop_path"], c["layers"]).tolist()))
        self.norm, self.pool, self.head = nn.LayerNorm(c["dim"]), nn.Linear(c["dim"], 1), nn.Linear(c["dim"], n_classes)

    def forward(self, x):
        x = self.norm(self.blocks(self.tokenizer(x).transpose(1, 2) + self.positions))
        return self.head((self.pool(x).softmax(1).transpose(1, 2) @ x)[:, 0])


def flops(size):
    "Products of a picture's forward pass, and of a training step with it: the picture itself needs no gradient"
    c = SIZES[size]
    side, n = c["image_size"], (c["image_size"]//16)**2
    first, second = 2*(side//2)**2*c["conv_width"]*c["channels"]*49, 2*(side//8)**2*c["dim"]*c["conv_width"]*49
    block = 2*n*c["dim"]**2*(4 + 2*c["mlp_ratio"]) + 4*n*n*c["dim"]
    forward = first + second + c["layers"]*block
    return forward, 3*forward - first


def training(model, size, batch, dtype):
    "A step on pictures in memory: fused AdamW, smoothed cross entropy"
    model = model.to(DEVICE).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=.05, fused=True)
    x, y = torch.randn(batch, 3, *[SIZES[size]["image_size"]]*2, device=DEVICE), torch.arange(batch, device=DEVICE) % 4
    def step():
        with torch.autocast(DEVICE, dtype, enabled=dtype != torch.float32): loss = F.cross_entropy(model(x).float(), y, label_smoothing=.01)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return step


def product(dtype):
    n = 8192 if DEVICE == "cuda" else 2048
    a, b = (torch.randn(n, n, device=DEVICE).to(dtype) for _ in range(2))
    return lambda: a @ b, 2*n**3


def seconds(work, times):
    start = time.perf_counter()
    for _ in range(times): work()
    if DEVICE == "cuda": torch.cuda.synchronize()
    return (time.perf_counter() - start)/times


def inputs(size, batch):
    "Signals to augmented pictures: spectrogram and all that follows, and what follows alone (spectrograms are kept on disk)"
    side = SIZES[size]["image_size"]
    signals = torch.randn(batch, SECONDS*SAMPLING_RATE, generator=torch.Generator().manual_seed(0)).to(DEVICE)*.1
    mels = [mel.half() for mel in log_mel(signals)]
    names = drawn(list(range(batch)), "time_freq_aug", 0, 0)
    def pictures(mels):
        V, widths = view(mels, side)
        return paint(augment(V, widths, names, list(range(batch)))[0])
    return lambda: pictures(list(log_mel(signals))), lambda: pictures(mels)


def compare(size, batch, dtype):
    "In turns, so that a busy machine hits all alike; medians, and of ratios those of each turn"
    torch.manual_seed(0)
    mm, n = product(dtype)
    everything, augmented = inputs(size, batch)
    works = dict(mm=mm, ours=training(CCT(size), size, batch, dtype), plain=training(Plain(size), size, batch, dtype), everything=everything, augmented=augmented)
    for work in works.values(): work()
    taken = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items(): taken[name].append(seconds(work, 1 if name in ("ours", "plain") and size != "tiny" else 3))
    t = {name: np.array(v) for name, v in taken.items()}
    ours, share = np.median(t["ours"]), np.median(flops(size)[1]*batch/t["ours"]/(n/t["mm"]))
    print(f"{size}, training, {str(dtype)[6:]}, batch {batch}: {batch/ours:.1f} images/s; {np.median(t['plain']/t['ours']):.2f} times the plain network (bar 1.0); "
          f"{share:.0%} of a large product's {n/np.median(t['mm'])/1e9:.0f} GFLOP/s (bar 60 %); pictures take {np.median(t['everything']/t['ours']):.1%} of a step (bar 10 %), {np.median(t['augmented']/t['ours']):.1%} from spectrograms on disk", flush=True)


def infer(size):
    "One clip after another: signal to probabilities on one core; the network alone beside it"
    torch.set_num_threads(1)
    model, signal = CCT(size).eval(), torch.randn(SECONDS*SAMPLING_RATE)*.1
    images = paint(view([log_mel(signal)], SIZES[size]["image_size"])[0])
    with torch.inference_mode():
        def clip(): return model(paint(view([log_mel(signal)], SIZES[size]["image_size"])[0])).softmax(1)
        for work in (clip, lambda: model(images)): work()
        whole, alone = (np.median([seconds(work, 3) for _ in range(5)]) for work in (clip, lambda: model(images)))
    print(f"{size}, inference, float32, 1 core: {1e3*whole:.1f} ms for {SECONDS} s of speech = real-time factor {whole/SECONDS:.4f}{' (bar 0.05)'*(size == 'small')}, {1e3*alone:.1f} ms of it the network", flush=True)


def listen(size):
    "Demo speech in pieces, a row each half second from the last four: all that `ser-nb predict` does beside reading and printing, on one core"
    torch.set_num_threads(1)
    speech = np.concatenate([demo_utterance("demo", "d1f", "female", e, i)[0] for e in ("angry", "happy", "neutral", "sad") for i in range(1, 9)])[:STREAM*SAMPLING_RATE]
    pieces = np.array_split(speech, len(speech)//int(CHUNK*SAMPLING_RATE))
    for variant, told in (("none", "no speaker"), ("first_token", "GE2E")):
        way = recipe(model=size, variant=variant)
        projection = None if variant == "none" else fit_projection(np.random.default_rng(0).random((2*SIZES[size]["dim"], WIDTH)), SIZES[size]["dim"])
        model = Trained(build(way, 4).eval(), ["angry", "happy", "neutral", "sad"], way, projection)
        list(stream(pieces[:2], SAMPLING_RATE, model))
        rows = list(stream(pieces, SAMPLING_RATE, model))
        taken = [row["latency"] for row in rows]
        print(f"{size}, stream, {told}, 1 core: {len(rows)} rows of {rows[-1]['end']:.1f} s take {sum(taken):.2f} s = real-time factor {sum(taken)/rows[-1]['end']:.4f}{' (bar 0.05)'*(size == 'small')}; latency {1e3*np.median(taken):.0f} ms, {1e3*max(taken):.0f} at most", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", default="cct_14_7x2_224")
    a = parser.parse_args()
    for dtype in (torch.float32, torch.bfloat16): compare(a.size, a.batch, dtype)
    for size in dict.fromkeys(("small", a.size)) if DEVICE == "cpu" else ():
        infer(size)
        listen(size)


if __name__ == "__main__": main()
