"One step of the feature CycleGAN (1 D, 2 G) at the published sizes, batch 64, 4 emotions: the stack, a plain loop over pairs, and one large matrix product of the same dtype, in turns"
import time

import numpy as np
import torch
import torch.nn.functional as F

from ser_nb.training.adversarial import PUBLISHED, _discriminator, _generator, _Networks
from ser_nb.models.feature_cyclegan import init_feature_cyclegan

D, N, BATCH = 1582, 4, PUBLISHED["batch_size"]
ROUNDS = 5
SIZES = {name: PUBLISHED[name] for name in ("dim_g", "dim_d", "dim_c")}


def flops(dim_g, dim_d, dim_c):
    "Of the products of one step: 2 a multiply-add; gradients of the inputs of a first layer are not needed where these are data"
    def products(sizes, rows): return sum(2*a*b*rows for a, b in zip(sizes, sizes[1:]))
    g, d, c = (products([D, *dim, out], BATCH) for dim, out in ((dim_g, D), (dim_d, 1), (dim_c, N)))
    first_g, first_d, first_c = 2*D*dim_g[0]*BATCH, 2*D*dim_d[0]*BATCH, 2*D*dim_c[0]*BATCH
    d_step = 2*N*(g + 2*(3*d - first_d))            # forward of G; both batches through D and back
    g_step = 2*N*(2*3*g - first_g + 2*d) + 2*N*3*c - N*first_c   # there and back with gradients, through D without its own; C on made and real rows
    return d_step + 2*g_step


def stacked_step(precision):
    from accelerate import Accelerator
    o = dict(PUBLISHED, d_moves_g=False, cls_real=.5)
    nets = _Networks(init_feature_cyclegan(D, N, [0], **SIZES), {"d": ["d"], "g": ["g", "c"]}, o["lr"], o["keep_prob"], precision, 1, Accelerator())
    nets.begin([0], 0, .8, 50)
    x, weights = torch.rand(2*N, BATCH, D, device=nets.accelerator.device), torch.tensor([2.], device=nets.accelerator.device)
    def step():
        nets.move("d", lambda: _discriminator(nets, x, False).sum())
        for _ in range(2): nets.move("g", lambda: _generator(nets, x, o, weights)[0])
    return step


def loop_step():
    "As anybody would write it: a Sequential for every network, one optimiser for the discriminators and one for the rest"
    from torch import nn
    device = "cuda" if torch.cuda.is_available() else "cpu"
    def net(sizes, keep): return nn.Sequential(*[m for a, b in zip(sizes[:-1], sizes[1:-1]) for m in (nn.Linear(a, b), nn.LeakyReLU(.2), nn.Dropout(1 - keep))], nn.Linear(sizes[-2], sizes[-1])).to(device)
    G, back = ([net([D, *SIZES["dim_g"], D], .8) for _ in range(N)] for _ in range(2))
    DT, DS = ([net([D, *SIZES["dim_d"], 1], .8) for _ in range(N)] for _ in range(2))
    C = net([D, *SIZES["dim_c"], N], .5)
    def optimizer(*nets): return torch.optim.Adam([p for n in nets for p in n.parameters()], lr=2e-4, fused=True)
    od, og = optimizer(*DT, *DS), optimizer(*G, *back, C)
    s, t = torch.rand(2, N, BATCH, D, device=device)
    def bce(z, label): return F.binary_cross_entropy_with_logits(z, torch.full_like(z, label))
    def step():
        loss = 0
        for i in range(N):
            with torch.no_grad(): into, out = G[i](s[i]), back[i](t[i])
            for d, real, made in ((DT[i], t[i], into), (DS[i], s[i], out)): loss = loss + (bce(d(real), .9) + bce(d(made), 0.))/2
        od.zero_grad(); loss.backward(); od.step()
        for _ in range(2):
            loss, everything = 0, []
            for i in range(N):
                into, out = G[i](s[i]), back[i](t[i])
                loss = loss + bce(DT[i](into), .9) + bce(DS[i](out), .9) + 5*(F.mse_loss(back[i](into), s[i]) + F.mse_loss(G[i](out), t[i]))
                everything.append(into)
            labels = torch.arange(N, device=device).repeat_interleave(BATCH)
            loss = loss + F.cross_entropy(C(torch.cat(everything)), labels) + F.cross_entropy(C(t.flatten(0, 1)), labels)
            og.zero_grad(); loss.backward(); og.step()
    return step


def product(dtype, n=4096 if torch.cuda.is_available() else 2048):
    a, b = (torch.randn(n, n, device="cuda" if torch.cuda.is_available() else "cpu").to(dtype) for _ in range(2))
    return lambda: a @ b, 2*n**3


def seconds(work, times):
    start = time.perf_counter()
    for _ in range(times): work()
    if torch.cuda.is_available(): torch.cuda.synchronize()
    return (time.perf_counter() - start)/times


def main():
    total = flops(**SIZES)
    mm32, n32 = product(torch.float32)
    mm16, n16 = product(torch.bfloat16)
    works = dict(stack=(stacked_step("float32"), 2), loop=(loop_step(), 2), mm32=(mm32, 20), mm16=(mm16, 40), stack16=(stacked_step("bfloat16"), 2))
    for work, _ in works.values(): work()
    taken = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, (work, times) in works.items(): taken[name].append(seconds(work, times))
    best = {name: float(np.median(v)) for name, v in taken.items()}
    rate32, rate16 = n32/best["mm32"], n16/best["mm16"]
    print(f"products of a step: {total/1e9:.1f} GFLOP; large product: {rate32/1e9:.0f} GFLOP/s in float32, {rate16/1e9:.0f} in bfloat16")
    print(f"stack, float32: {1e3*best['stack']:.0f} ms a step = {total/best['stack']/rate32:.0%} of the rate of a large product (bar 70 %)")
    print(f"plain loop, float32: {1e3*best['loop']:.0f} ms = {total/best['loop']/rate32:.0%}; the stack is {best['loop']/best['stack']:.2f} times as fast (bar 1.0)")
    print(f"stack, bfloat16 products: {1e3*best['stack16']:.0f} ms = {total/best['stack16']/rate16:.0%} of bfloat16's rate; {best['stack']/best['stack16']:.2f} times as fast as the stack in float32")


if __name__ == "__main__": main()
