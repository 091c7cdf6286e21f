"The style autoencoder: published sizes counted by hand, AdaIN against a loop, losses against their formulas, training that resumes"
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import l1_loss

from ser_nb.core import named_seed
from ser_nb.models.style_autoencoder import StyleAutoencoder, adain
from ser_nb.training import loop, style_autoencoder as training
from ser_nb.training.style_autoencoder import PUBLISHED, choose_style, discriminator_loss, encode_decode, generator_loss, pairs_of, restyle, train_autoencoder
from ser_nb.training.voice import gather, mirrored, stored, windows


pytestmark = pytest.mark.usefixtures("one_thread")


def count(module): return sum(p.numel() for p in module.parameters())


def small(domains=("neutral", "angry"), seed=0, **options):
    torch.manual_seed(seed)
    return StyleAutoencoder(domains, **{"width": 1/32, **options})


# Sizes

def conv(n_in, n_out, *kernel): return n_in*n_out*int(np.prod(kernel)) + n_out
def glu(n_in, n_out, kernel, norm=0): return 2*(conv(n_in, n_out, kernel) + norm*n_out)


def test_published_sizes():
    "Table of spec B8, a convolution and its gate counted as two; a normalisation has a scale and a shift for each channel"
    style = glu(24, 128, 15) + glu(128, 256, 5) + glu(256, 512, 5) + 2*glu(512, 512, 3) + conv(512, 16, 1)
    content = glu(24, 128, 15, 2) + glu(128, 256, 5, 2) + glu(256, 512, 5, 2) + 4*(glu(512, 512, 3, 2) + conv(512, 512, 3) + 2*512)
    mlp = conv(16, 512) + 3*conv(512, 512) + 2*conv(512, 512)
    up = glu(512, 512, 5) + 2*2*256 + glu(256, 256, 5) + 2*2*128
    decoder = mlp + 3*(glu(512, 512, 3) + conv(512, 512, 3)) + up + conv(128, 24, 15)
    assert (style, content, decoder) == (4_888_336, 11_191_552, 11_730_456)
    with torch.device("meta"): model = StyleAutoencoder(["A", "B"])
    for domain in range(2):
        assert count(model.style_encoders[domain]) == style
        assert count(model.content_encoders[domain]) == content
        assert count(model.decoders[domain]) == decoder
        assert count(model.discriminators[domain]) == 21_837_825
    assert count(model) == 2*(style + content + decoder + 21_837_825)


@pytest.mark.parametrize("frames", [128, 132, 8])
@pytest.mark.parametrize("domains", [["A", "B"], ["f/happy", "f/sad", "keys.x"]], ids=len)
def test_shapes(frames, domains):
    model, x = small(domains), torch.randn(3, 24, frames)
    for source, target in zip(domains, domains[1:] + domains[:1]):
        content, style = model.content(x, source), model.style(x, source)
        assert content.shape == (3, 16, frames//4) and style.shape == (3, 16)
        assert model.decode(content, style, target).shape == x.shape
        score = model.judge(x, target)
        assert len(score) == 3 and score[0].numel() == 6*-(-frames//16)


def test_sizes_follow_the_options():
    model = small(["A", "B", "C"], dims=36, style_dims=5, width=1/16)
    x = torch.randn(1, 36, 16)
    assert model.style(x, "B").shape == (1, 5) and model.mean_styles.shape == (3, 5)
    assert model.content(x, "B").shape == (1, 32, 4)
    assert model.decode(torch.randn(1, 32, 4), torch.randn(1, 5), "C").shape == x.shape


# Meaning

def test_adain_is_a_loop():
    rng = np.random.default_rng(0)
    x, scale, shift = rng.normal(3, 2, (4, 12, 9)), rng.normal(size=(4, 6)), rng.normal(size=(4, 6))
    expected = np.empty_like(x)
    for b in range(4):
        for c in range(12):
            row = x[b, c]
            expected[b, c] = (row - row.mean())/np.sqrt(row.var() + 1e-5)*scale[b, c % 6] + shift[b, c % 6]
    np.testing.assert_allclose(adain(*map(torch.as_tensor, (x, scale, shift))).numpy(), expected, rtol=1e-9, atol=1e-9)


def test_a_batch_is_its_rows():
    "Nothing is shared between the utterances of a batch"
    model, x, style = small().eval(), torch.randn(3, 24, 16), torch.randn(3, 16)
    def all_of(x, style): return torch.cat([model.decode(model.content(x, "neutral"), style, "angry").flatten(1), model.style(x, "angry"), model.judge(x, "angry").flatten(1)], 1)
    torch.testing.assert_close(all_of(x, style), torch.cat([all_of(x[i:i+1], style[i:i+1]) for i in range(3)]), atol=1e-5, rtol=1e-4)


def test_content_has_no_level_and_style_has():
    model, x = small(), torch.randn(1, 24, 64)
    interior = slice(4, -4)   # zero padding makes the edges differ
    torch.testing.assert_close(model.content(10*x, "angry")[..., interior], model.content(x, "angry")[..., interior], atol=2e-2, rtol=.1)
    assert (model.style(10*x, "angry") - model.style(x, "angry")).abs().max() > .1


def test_domain_and_style_matter():
    model, x = small(), torch.randn(1, 24, 16)
    content, styles = model.content(x, "neutral"), torch.randn(2, 1, 16)
    first = model.decode(content, styles[0], "angry")
    assert (model.decode(content, styles[1], "angry") - first).abs().max() > 1e-3
    assert (model.decode(content, styles[0], "neutral") - first).abs().max() > 1e-3


def test_upsampling_is_layer_normalised():
    "Convolution and gate apart, over channels and frames together"
    up, x = small(width=1/16).decoders[0].up[0], torch.randn(2, 32, 6)
    torch.nn.init.normal_(up.norm.weight)
    torch.nn.init.normal_(up.norm.bias)
    halves = [torch.stack([y[:, 0::2], y[:, 1::2]], 3).flatten(2) for y in up.conv(x).chunk(2, 1)]
    linear, gate = (torch.nn.functional.layer_norm(y, y.shape[1:], eps=1e-6)*w[:, None] + b[:, None] for y, w, b in zip(halves, up.norm.weight.chunk(2), up.norm.bias.chunk(2)))
    torch.testing.assert_close(up(x), linear*gate.sigmoid())


def test_gradients_reach_every_parameter():
    model, x = small(["A", "B", "C"]), torch.randn(2, 24, 32)
    for source, target in (("A", "B"), ("B", "C"), ("C", "A")):
        made = model.decode(model.content(x, source), model.style(x, target), target)
        (made.square().mean() + model.judge(made, target).square().mean()).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all(), name
        if p.ndim > 1: assert (p.grad.flatten(1) != 0).any(1).all(), name


def test_sigmoid():
    x = torch.randn(1, 24, 16)
    scores, probabilities = (small(sigmoid=s).judge(x, "angry") for s in (False, True))
    torch.testing.assert_close(scores.sigmoid(), probabilities)


def test_kaiming():
    "Weights keep the variance of a rectified layer, biases begin at zero, a seed makes a model"
    model = small(width=1/4)
    for layer in model.modules():
        if isinstance(layer, (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Linear)):
            assert not layer.bias.any()
            if layer.weight.numel() > 1e4: assert layer.weight.std().item() == pytest.approx((2/layer.weight[0].numel())**.5, rel=.05)
    again = small(width=1/4).state_dict()
    assert all(torch.equal(v, again[k]) for k, v in model.state_dict().items())


def test_round_trip(tmp_path):
    model, other, x = small(), small(seed=1), torch.randn(1, 24, 16)
    model.mean_styles.normal_()
    save_file(model.state_dict(), tmp_path/"model.safetensors")
    assert not torch.equal(other.style(x, "angry"), model.style(x, "angry"))
    other.load_state_dict(load_file(tmp_path/"model.safetensors"))
    assert torch.equal(other.style(x, "angry"), model.style(x, "angry")) and torch.equal(other.mean_styles, model.mean_styles)


# Refusals

@pytest.mark.parametrize("frames", [0, 4, 126, 127, 130])
@pytest.mark.parametrize("method", ["content", "style", "judge"])
def test_frames_are_a_multiple_of_4(method, frames):
    with pytest.raises(ValueError, match="multiple of 4"): getattr(small(), method)(torch.zeros(1, 24, frames), "angry")


def test_refusals():
    model, x = small(), torch.zeros(1, 24, 16)
    for method in (model.content, model.style, model.judge, lambda x, d: model.decode(torch.zeros(1, 16, 4), torch.zeros(1, 16), d)):
        with pytest.raises(ValueError, match="unknown domain.*did you mean 'angry'"): method(x, "angri")
    for domains in ([], ["A"], ["A", "A"], ["A", "B", "A"]):
        with pytest.raises(ValueError, match="at least 2 domains"): small(domains)
    with pytest.raises(ValueError, match="multiple of 4"): model.content(torch.zeros(24, 16), "angry")


# Losses

def a_pair(model, seed=0):
    torch.manual_seed(seed)
    return ("neutral", "angry"), tuple(torch.randn(2, 24, 16) for _ in range(2)), tuple(torch.randn(2, 16) for _ in range(2))


def test_losses_are_their_formulas():
    "Decoded one at a time, as the released code does it"
    model, o = small(), dict(w_gan=2., w_x=3., w_s=5., w_c=7., w_cyc=11.)
    (a, b), (xa, xb), (sa, sb) = pair, x, drawn = a_pair(model)
    ca, cb, own_a, own_b = model.content(xa, a), model.content(xb, b), model.style(xa, a), model.style(xb, b)
    x_aa, x_bb, x_ba, x_ab = model.decode(ca, own_a, a), model.decode(cb, own_b, b), model.decode(cb, sa, a), model.decode(ca, sb, b)
    cb_, ca_ = model.content(x_ba, a), model.content(x_ab, b)
    expected = dict(gan=(model.judge(x_ba, a) - 1).square().mean() + (model.judge(x_ab, b) - 1).square().mean(), x=l1_loss(x_aa, xa) + l1_loss(x_bb, xb),
                    s=l1_loss(model.style(x_ba, a), sa) + l1_loss(model.style(x_ab, b), sb), c=l1_loss(cb_, cb) + l1_loss(ca_, ca),
                    cyc=l1_loss(model.decode(ca_, own_a, a), xa) + l1_loss(model.decode(cb_, own_b, b), xb))
    made = encode_decode(model, pair, x, drawn)
    total, terms = generator_loss(model, pair, x, drawn, made, o)
    assert terms.keys() == expected.keys()
    for name, v in expected.items(): torch.testing.assert_close(terms[name], v, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(total, sum(o[f"w_{k}"]*v for k, v in terms.items()))
    for name in terms: assert name not in generator_loss(model, pair, x, drawn, made, o | {f"w_{name}": 0})[1]
    total, terms = discriminator_loss(model, pair, x, made)
    torch.testing.assert_close(total, sum((model.judge(v, d) - 1).square().mean() + model.judge(y, d).square().mean() for v, y, d in ((xa, x_ba, a), (xb, x_ab, b))))
    total.backward()
    assert all((p.grad is not None) == name.startswith("discriminators") for name, p in model.named_parameters())


# Training

TINY = dict(iterations=2, width=1/32, sigmoid=False, lr=dict(g=2e-3, d=1e-3), w_gan=1., w_x=10.)


def speech(names=("up", "down"), n=3, frames=300, dims=8):
    "Domains in which coefficient 0 follows coefficient 1 in a different way"
    def one(rng, slope):
        x = np.cumsum(rng.normal(size=(frames, dims)), 0)
        x = (x - x.mean(0))/x.std(0)
        x[:, 0] = slope*x[:, 1]
        return x.astype("float32"), np.ones(frames, bool)
    rng = np.random.default_rng(0)
    return {name: [one(rng, 1 - i) for _ in range(n)] for i, name in enumerate(names)}


def same(a, b): return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def test_losses_go_down(monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 20)
    _, curves = train_autoencoder(speech(), dict(TINY, iterations=60, lr=dict(g=5e-3, d=2e-3)))
    first, last = curves.iloc[0], curves.iloc[-1]
    assert list(curves.iteration) == [20, 40, 60] and list(curves)[1:] == ["gan", "x", "s", "c", "cyc", "d", "d_real", "d_made"]
    assert all(last[k] < .95*first[k] for k in ("x", "c", "cyc", "d")) and last.d_real > last.d_made + .1 > first.d_made


def test_resumed_is_uninterrupted(tmp_path, monkeypatch):
    "Stopped between two checkpoints and begun again: the same weights, moments and curves; global random numbers play no part and are left alone"
    monkeypatch.setattr(loop, "LOG_EVERY", 2)
    data, options, path = speech(("up", "still", "down")), dict(TINY, iterations=9), tmp_path/"a.safetensors"
    state = torch.get_rng_state()
    straight, curves = train_autoencoder(data, options, checkpoint=tmp_path/"b.safetensors", every=0)
    assert torch.equal(torch.get_rng_state(), state)
    def stop(i, model, writer): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): train_autoencoder(data, options, watch=stop, watch_every=5, checkpoint=path, every=0)
    torch.manual_seed(99)
    resumed, again = train_autoencoder(data, options, checkpoint=path, every=0)
    pd.testing.assert_frame_equal(again, curves, check_dtype=False, check_exact=True)
    kept, wanted = load_file(path), load_file(tmp_path/"b.safetensors")
    assert same(straight, resumed) and kept.keys() == wanted.keys() and all(torch.equal(v, wanted[k]) for k, v in kept.items())
    finished, again = train_autoencoder(data, options, checkpoint=path)
    pd.testing.assert_frame_equal(again, curves, check_dtype=False, check_exact=True)
    assert same(straight, finished)
    assert not same(straight, train_autoencoder(data, options, seed=1)[0])


@pytest.mark.parametrize("change", [dict(width=1/16), dict(batch_size=2), dict(sigmoid=True), dict(precision="bfloat16"), dict(lr=dict(g=1e-3, d=1e-3)), dict(lr=dict(g=2e-3, d=1e-2)), dict(lr_end=.01),
                                    *({w: v} for w in ("w_gan", "w_x", "w_s", "w_c", "w_cyc") for v in (0, 30.))], ids=str)
def test_every_option_counts(change):
    def weights(**more): return torch.cat([v.flatten() for v in train_autoencoder(speech(), dict(TINY, **more))[0].state_dict().values()])
    plain, changed = weights(), weights(**change)
    assert len(plain) != len(changed) or not torch.equal(plain, changed)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings_run(name):
    model, curves = train_autoencoder(speech(), dict(PUBLISHED[name], iterations=2, width=1/32))
    assert ("cyc" in curves) == bool(PUBLISHED[name]["w_cyc"]) and 0 < curves.d_made.iloc[0] < 1
    assert not model.training and all(p.requires_grad and p.device.type == "cpu" for p in model.parameters())


def test_a_pair_moves_alone():
    "The third domain of a step stays as it was; without w_gan so do the discriminators"
    data = speech(("a", "b", "c"))
    start = {k: v for k, v in training.seeded(lambda: StyleAutoencoder(list(data), 8, 1/32), 0, "style autoencoder").state_dict().items()}
    for w_gan in (1., 0.):
        trained = train_autoencoder(data, dict(TINY, iterations=1, w_gan=w_gan))[0].state_dict()
        moved = {tuple(k.split(".")[:2]) for k, v in trained.items() if not torch.equal(v, start[k])} - {("mean_styles",)}
        assert len({number for _, number in moved}) == 2
        assert len(moved) == (8 if w_gan else 6) and any(part == "discriminators" for part, _ in moved) == bool(w_gan)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_pairs(n):
    names = list("abcde"[:n])
    found = pairs_of(names, 200, seed=1)
    assert found == pairs_of(names, 200, seed=1) and len(found) == 200*(n//2)
    for step in range(200):
        met = [d for s, *pair in found if s == step for d in pair]
        assert len(met) == len(set(met)) == n - n % 2
    assert len({frozenset(pair) for _, *pair in found}) == n*(n - 1)//2
    if n == 2: assert {tuple(pair) for _, *pair in found} == {("a", "b")}


def test_mean_styles():
    "The mean over all windows, of the model that is handed out, also where the training is watched"
    data, seen = speech(), []
    model, _ = train_autoencoder(data, TINY, watch=lambda i, m, writer: seen.append((i, writer, m.mean_styles.clone())), watch_every=1)
    frames, firsts = stored(data)
    for i, name in enumerate(data):
        cut = windows([v for _, v in data[name]], named_seed(0, "mean style", name))
        with torch.no_grad(): styles = model.style(gather(frames[name], firsts[name], cut), name)
        assert len(cut) > 2 and styles.std(0).min() > 0
        torch.testing.assert_close(model.mean_styles[i], styles.mean(0))
    assert [i for i, *_ in seen][-1] == 2 and seen[-1][1] is None and torch.equal(seen[-1][2], model.mean_styles) and not torch.equal(seen[0][2], model.mean_styles)


def test_tensorboard(tmp_path):
    def watch(i, model, writer): writer.add_scalar("seen", i, i)
    train_autoencoder(speech(), TINY, watch=watch, logs=tmp_path)
    assert any(tmp_path.rglob("events.out*"))


# Converting

def test_styles():
    model, x = small(), np.random.default_rng(0).normal(size=(50, 24))
    model.mean_styles.normal_()
    assert torch.equal(choose_style(model, "angry"), model.mean_styles[1:])
    draws = [choose_style(model, "angry", "random", seed=s) for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    guided = choose_style(model, "angry", "reference", x)
    torch.testing.assert_close(guided, model.style(torch.tensor(mirrored(x).T[None].copy()), "angry").detach())
    for style in (*draws, guided, choose_style(model, "angry")): assert style.shape == (1, 16) and not style.requires_grad
    for how, reference, error in (("reference", None, "needs a reference"), ("mean", x, "uses no reference"), ("means", None, "did you mean 'mean'")):
        with pytest.raises(ValueError, match=error): choose_style(model, "angry", how, reference)
    for how in ("mean", "reference"):
        with pytest.raises(ValueError, match="did you mean 'angry'"): choose_style(model, "angri", how, x if how == "reference" else None)


@pytest.mark.parametrize("frames", [1, 5, 8, 128, 131])
def test_any_length(frames):
    model, x = small(), np.random.default_rng(0).normal(size=(frames, 24))
    made = restyle(model, x, "neutral", "angry", torch.randn(1, 16))
    assert made.shape == x.shape and made.dtype == np.float32 and np.isfinite(made).all()


# Refusals of the training

@pytest.mark.parametrize("options, error", [(dict(w_cycle=1), "unknown option of the style autoencoder 'w_cycle': did you mean 'w_cyc'"), (dict(lambda_id=5), "unknown option"), (dict(w_x=-1), "w_x=-1"), (dict(w_s=float("nan")), "w_s=nan"),
                                            (dict(lr_end=0), "lr_end=0"), (dict(lr=dict(g=1e-4)), "lr="), (dict(iterations=0), "iterations=0"), (dict(batch_size=0), "batch_size=0"), (dict(sigmoid=1), "sigmoid=1"),
                                            (dict(precision="half"), "precision='half'"), (dict.fromkeys(("w_gan", "w_x", "w_s", "w_c", "w_cyc"), 0), "all 0")], ids=str)
def test_refused_options(options, error):
    with pytest.raises(ValueError, match=error): train_autoencoder(speech(), dict(TINY, **options))


def test_refused_domains():
    data = speech()
    with pytest.raises(ValueError, match="at least 2 domains"): train_autoencoder(dict(up=data["up"]), TINY)
    with pytest.raises(ValueError, match="domain 'down'.*expected 2 at least"): train_autoencoder(dict(data, down=data["down"][:1]), TINY)
    with pytest.raises(ValueError, match="coefficients"): train_autoencoder(dict(data, down=[(x[:, :5], v) for x, v in data["down"]]), TINY)
    with pytest.raises(ValueError, match="coefficients"): train_autoencoder({}, TINY)


def test_a_loss_that_is_not_finite():
    with pytest.raises(FloatingPointError, match="not finite at iteration"): train_autoencoder(speech(), dict(TINY, iterations=6, lr=dict(g=1e30, d=1e30)))
