"The compact transformers: published counts, the published order of layers written out, speakers that count, weights that go where they belong, errors in one sentence"
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from ser_nb.models import cct
from ser_nb.models.cct import BASELINES, CCT, PUBLISHED_NAMES, SIZES, VARIANTS, attention, load_imagenet, make_model, saliency


pytestmark = pytest.mark.usefixtures("one_thread")
WITH_SPEAKER = ("second_attention", "first_token", "speaker_token", "trained")


def count(make, *args, **options):
    with torch.device("meta"): return sum(p.numel() for p in make(*args, **options).parameters())


def tiny(variant="none", seed=0, **options):
    torch.manual_seed(seed)
    return CCT("tiny", variant=variant, **({"speaker_width": 1/64} if variant == "trained" else {}), **options)


def given(variant, n=3, seed=1):
    "Pictures and speakers for a variant"
    rng = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 3, 64, 64, generator=rng)
    if variant == "none": return images, None
    return images, torch.rand(n, 1, 512, 80, generator=rng) if variant == "trained" else torch.randn(n, 32, generator=rng)


# Published numbers

@pytest.mark.parametrize("variant, classes, parameters", [("none", 1000, 22_367_273), ("none", 4, 21_983_813), ("second_attention", 4, 23_463_365), ("first_token", 4, 21_984_197), ("speaker_token", 4, 21_983_812)])
def test_published_parameters(variant, classes, parameters): assert count(CCT, "cct_14_7x2_224", classes, variant) == parameters


@pytest.mark.parametrize("name, millions", [("cct_2_3x2_32", .28), ("cct_4_3x2_32", .48), ("cct_6_3x2_32", 3.33), ("cct_7_3x1_32", 3.76), ("cct_7_3x2_32", 3.85), ("cvt_7_4_32", 3.72), ("vit_7_4_32", 3.72)])
def test_published_sizes_with_ten_classes(name, millions): assert round(count(CCT, name, 10)/1e6, 2) == millions


@pytest.mark.parametrize("name, tokens", [("cct_14_7x2_224", 196), ("cct_14_7x2_384", 576), ("cct_7_3x1_32", 256), ("cct_2_3x2_32", 64), ("vit_2_4_32", 64), ("small", 36), ("tiny", 16)])
def test_tokens_of_a_picture(name, tokens):
    model = CCT(name, layers=1)
    images = torch.zeros(1, 3, SIZES[name]["image_size"], SIZES[name]["image_size"])
    assert model.tokenizer(images).shape == (1, tokens, SIZES[name]["dim"]) and model.grid**2 == tokens


def test_resnet50_is_the_published_one(): assert count(make_model, "resnet50", 1000) == 25_557_032


def test_every_published_name_can_be_built():
    for name, (size, variant) in PUBLISHED_NAMES.items():
        with torch.device("meta"): model = make_model(name)
        assert (model.variant, model.options) == (variant, SIZES[size])


# The published order of layers, in plain sums

def norm(x, layer): return (x - x.mean(-1, keepdim=True))/(x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()*layer.weight + layer.bias


def plain_block(x, b, heads):
    "Attention head by head, from the weights"
    h = norm(x, b.before)
    q, k, v = (h @ b.attention.qkv.weight.T).chunk(3, -1)
    parts = [((i @ j.transpose(1, 2))/i.shape[-1]**.5).softmax(-1) @ w for i, j, w in zip(*(t.chunk(heads, -1) for t in (q, k, v)))]
    x = norm(x + torch.cat(parts, -1) @ b.attention.out.weight.T + b.attention.out.bias, b.between)
    h = x @ b.up.weight.T + b.up.bias
    return x + (h*.5*(1 + torch.erf(h/2**.5))) @ b.down.weight.T + b.down.bias


def plain(model, images, speaker):
    x = images
    for conv in model.tokenizer.convs: x = F.max_pool2d(F.conv2d(x, conv.weight, None, 2, 3).clamp(min=0), 3, 2, 1)
    x = x.flatten(2).transpose(1, 2)
    if model.variant == "trained": speaker = norm(F.linear(model.speaker_network(speaker), model.speaker_out[0].weight, model.speaker_out[0].bias), model.speaker_out[1])
    if model.variant in ("first_token", "speaker_token", "trained"): x = torch.cat([speaker[:, None], x], 1)
    x = x + model.positions.weight
    for block in model.blocks: x = plain_block(x, block, 2)
    x = norm(x, model.norm)
    if model.variant == "speaker_token": x = x[:, 0]
    else: x = torch.einsum("bn,bnd->bd", (x @ model.pool.weight[0] + model.pool.bias).softmax(1), x)
    if model.variant == "second_attention":
        second = model.second
        x = norm(plain_block(torch.stack([x, speaker], 1) + second["positions"].weight, second["block"], 1)[:, 0], second["norm"])
    return x @ model.head.weight.T + model.head.bias


@pytest.mark.parametrize("variant", VARIANTS)
def test_layers_are_in_the_published_order(variant):
    model, (images, speaker) = tiny(variant).double().eval(), given(variant)
    with torch.no_grad():
        for p in model.parameters(): p.add_(torch.randn_like(p), alpha=.1)
        images, speaker = images.double(), None if speaker is None else speaker.double()
        torch.testing.assert_close(model(images, speaker), plain(model, images, speaker), rtol=1e-9, atol=1e-9)


def test_sines_are_those_of_the_formula():
    weight = CCT("cct_2_3x2_32_sine", layers=1).positions.weight[0].numpy()
    p, i = np.arange(64)[:, None], np.arange(128)[None]
    angle = p/10_000**(2*(i//2)/128)
    np.testing.assert_allclose(weight, np.where(i % 2 == 0, np.sin(angle), np.cos(angle)), atol=1e-5)


def test_weights_begin_as_published():
    model = CCT("cct_7_7x2_224", layers=2)
    second = model.tokenizer.convs[1].weight
    assert abs(model.blocks[0].up.weight.std() - .02) < 1e-3 and abs(model.positions.weight.std() - .2) < 5e-3 and abs(second.std() - (2/(64*49))**.5) < 1e-3
    assert not model.head.bias.any() and not model.blocks[1].attention.out.bias.any() and (model.norm.weight == 1).all()


# Training

def test_attention_with_dropout_is_the_softmax_times_what_is_kept():
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 7, 4, generator=rng, dtype=torch.float64, requires_grad=True) for _ in range(3))
    torch.manual_seed(5)
    y = attention(q, k, v, .25)
    torch.manual_seed(5)
    kept = cct._kept(torch.empty(2, 3, 7, 7, dtype=torch.float64), .25)
    assert set(kept.unique().tolist()) == {0., 1.}
    torch.testing.assert_close(y, ((q @ k.mT/2).softmax(-1)*kept/.75) @ v)
    torch.testing.assert_close(attention(q, k, v), (q @ k.mT/2).softmax(-1) @ v)
    assert torch.autograd.gradcheck(lambda *x: (torch.manual_seed(5), attention(*x, .25))[1], (q[:1, :1], k[:1, :1], v[:1, :1]))


@pytest.mark.parametrize("p", [.1, .5, .9])
def test_dropout_leaves_out_the_share_it_should(p):
    torch.manual_seed(0)
    kept = cct._kept(torch.empty(101, 999), p)
    assert abs((kept == 0).float().mean() - p) < .005
    for lag in (1, 2, 3, 4, 64): assert abs(np.corrcoef(kept.flatten()[:-lag], kept.flatten()[lag:])[0, 1]) < .015


def test_dropout_and_drop_path_are_for_training_only():
    model, (images, _) = tiny(drop_path=.5, attention_dropout=.5, layers=3), given("none")
    def answers(): return torch.stack([model(images) for _ in range(2)]).detach()
    a = answers()
    assert not torch.equal(a[0], a[1])
    model.eval()
    a = answers()
    assert torch.equal(a[0], a[1])
    assert [b.drop_path for b in model.blocks] == [0, .25, .5]


def test_drop_path_leaves_out_whole_rows():
    torch.manual_seed(0)
    y = cct.drop_path(torch.ones(2000, 3, 5), .2, True)
    rows = y.flatten(1)
    assert (rows == rows[:, :1]).all() and abs((rows[:, 0] == 0).float().mean() - .2) < .04 and rows.max() == 1/.8


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_all_parameters_learn(variant, precision):
    "Every one gets a gradient, and the loss of one batch falls"
    model, (images, speaker) = tiny(variant, drop_path=0., attention_dropout=0.).train(), given(variant, 8)
    y, losses = torch.arange(8) % 4, []
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(8):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"): loss = F.cross_entropy(model(images, speaker).float(), y)
        optimizer.zero_grad()
        loss.backward()
        if not step: assert [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()] == []
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < .8*losses[0]
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16_says_nearly_the_same(variant):
    model, (images, speaker) = tiny(variant).eval(), given(variant)
    with torch.no_grad():
        exact = model(images, speaker)
        with torch.autocast("cpu", torch.bfloat16): near = model(images, speaker)
    assert (near - exact).abs().max() < .03*exact.std() + .01


@pytest.mark.parametrize("variant", WITH_SPEAKER)
def test_the_speaker_counts(variant):
    model, (images, speaker) = tiny(variant).eval(), given(variant)
    with torch.no_grad():
        assert (model(images, speaker) != model(images, speaker.flip(0)))[[0, 2]].any(1).all()
        torch.testing.assert_close(model(images, speaker)[1:2], model(images[1:2], speaker[1:2]), atol=1e-5, rtol=1e-4)


def test_only_trained_trains_the_speaker_network():
    model, (images, speaker) = tiny("trained"), given("trained")
    model(images, speaker).logsumexp(1).sum().backward()
    assert model.speaker_network.conv1.weight.grad.abs().sum() > 0
    assert not hasattr(tiny("first_token"), "speaker_network")


# On disk

@pytest.mark.parametrize("variant", VARIANTS)
def test_saved_and_loaded(variant, tmp_path):
    model, (images, speaker) = tiny(variant, n_classes=5, heads=4).eval(), given(variant)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path/"config.json").read_text())["heads"] == 4 and (tmp_path/"model.safetensors").is_file()
    with torch.no_grad(): assert torch.equal(CCT.from_pretrained(tmp_path).eval()(images, speaker), model(images, speaker))


def test_a_baseline_is_saved_and_loaded(tmp_path):
    model = make_model("small_cnn", 3, width=4).eval()
    model.save_pretrained(tmp_path)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad(): assert torch.equal(BASELINES["small_cnn"].from_pretrained(tmp_path).eval()(x), model(x))


# ImageNet

BACK = ((".before.", ".pre_norm."), (".between.", ".norm1."), (".attention.qkv.", ".self_attn.qkv."), (".attention.out.", ".self_attn.proj."), (".up.", ".linear1."), (".down.", ".linear2."))


def published(model):
    "Its tensors under the names of Compact-Transformers"
    names = {}
    for name, v in model.state_dict().items():
        if name.startswith("tokenizer"): new = name.replace("convs.0.", "conv_layers.0.0.").replace("convs.1.", "conv_layers.1.0.")
        else:
            new = name.replace("positions.weight", "positional_emb").replace("class_token", "class_emb").replace("pool.", "attention_pool.").replace("head.", "fc.")
            for ours, theirs in BACK: new = new.replace(ours, theirs)
            new = f"classifier.{new}"
        names[new] = v
    return names


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights")/"cct_imagenet.pth"
    torch.save({"state_dict": published(tiny(seed=9, n_classes=1000))}, path)
    return path


def whats(report): return report.groupby("what").name.agg(sorted).to_dict()


def test_all_weights_reach_their_places(imagenet, tmp_path):
    images, _ = given("none")
    there, model = tiny(seed=9, n_classes=1000).eval(), tiny(seed=1, n_classes=1000).eval()
    assert set(load_imagenet(model, imagenet).what) == {"loaded"}
    assert torch.equal(model(images), there(images))
    save_file({f"module.{k}": v for k, v in published(there).items()}, tmp_path/"w.safetensors")
    model = tiny(seed=1, n_classes=1000).eval()
    assert set(load_imagenet(model, tmp_path/"w.safetensors").what) == {"loaded"} and torch.equal(model(images), there(images))


@pytest.mark.parametrize("variant, protocol, lost", [
    ("none", "corrected", {"other shape": ["head.bias", "head.weight"]}), ("none", "faithful", {"other shape": ["head.bias", "head.weight"]}),
    ("second_attention", "faithful", {"dropped": ["head.bias", "head.weight", "norm.bias", "norm.weight", "pool.bias", "pool.weight"]}),
    ("first_token", "corrected", {"other shape": ["head.bias", "head.weight"], "loaded, token 0 as it was": ["positions.weight"]}),
    ("first_token", "faithful", {"dropped": ["head.bias", "head.weight", "pool.bias", "pool.weight", "positions.weight"]}),
    ("speaker_token", "corrected", {"other shape": ["head.bias", "head.weight"], "loaded, token 0 as it was": ["positions.weight"], "no place": ["pool.bias", "pool.weight"]}),
    ("speaker_token", "faithful", {"dropped": ["head.bias", "head.weight", "positions.weight"], "no place": ["pool.bias", "pool.weight"]})])
def test_what_a_variant_loads(imagenet, variant, protocol, lost):
    model, there = tiny(variant), tiny(seed=9, n_classes=1000).state_dict()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    report = load_imagenet(model, imagenet, protocol)
    found = whats(report)
    assert {k: v for k, v in found.items() if k not in ("loaded", "absent")} == lost
    assert all(name.startswith("second.") for name in found.get("absent", []))
    for name, v in model.state_dict().items():
        what = report.set_index("name").what[name]
        if what == "loaded": assert torch.equal(v, there[name])
        elif what == "loaded, token 0 as it was": assert torch.equal(v[:, 1:], there[name]) and torch.equal(v[:, :1], before[name][:, :1])
        else: assert torch.equal(v, before[name])


def test_positions_of_another_grid_keep_their_picture(tmp_path):
    "A smooth slope over the grid stays a slope"
    there = tiny(image_size=128)
    slope = torch.linspace(-1, 1, 8)
    with torch.no_grad(): there.positions.weight.copy_((slope[:, None] + 2*slope).reshape(1, 64, 1).expand(1, 64, 32))
    torch.save(there.state_dict(), tmp_path/"w.pth")
    model = tiny("first_token", image_size=224)
    report = load_imagenet(model, tmp_path/"w.pth")
    assert report.set_index("name").what["positions.weight"] == "interpolated, token 0 as it was"
    made = model.positions.weight[0, 1:, 0].reshape(14, 14).detach()
    centres = (torch.arange(14) + .5)*8/14 - .5
    wanted = (centres[:, None] + 2*centres)*2/7 - 3
    assert (made - wanted)[3:-3, 3:-3].abs().max() < .05 and (made - wanted).abs().max() < .3


def test_a_vit_keeps_its_class_token(tmp_path):
    torch.manual_seed(0)
    there, model = CCT("vit_2_4_32"), CCT("vit_2_4_32", image_size=64)
    torch.save(there.state_dict(), tmp_path/"w.pth")
    what = load_imagenet(model, tmp_path/"w.pth").set_index("name").what
    assert what["positions.weight"] == "interpolated" and what["class_token"] == "loaded"
    assert torch.equal(model.positions.weight[:, 0], there.positions.weight[:, 0])


@pytest.mark.parametrize("options", [dict(dim=64), dict(layers=3), dict(layers=1), dict(kernel=3), dict(mlp_ratio=3), dict(channels=1)], ids=lambda o: "-".join(f"{k}{v}" for k, v in o.items()))
def test_a_file_of_another_architecture_is_refused(imagenet, options):
    model = tiny(**options)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match="cct_imagenet.pth: weights of another architecture: under .* choose the file of the same size"): load_imagenet(model, imagenet)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


class Harmful:
    def __reduce__(self): return (print, ("run",))


@pytest.mark.parametrize("content, words", [("resnet", "another architecture"), ("text", "cannot be read as weights"), ("empty", "cannot be read as weights"), ("code", "cannot be read as weights"), ("list", "holds a list"), ("numbers", "another architecture"), ("safetensors", "cannot be read as weights")])
def test_files_that_are_no_such_weights(content, words, tmp_path, capsys):
    path = tmp_path/("w.safetensors" if content == "safetensors" else "w.pth")
    if content == "resnet": torch.save(make_model("small_cnn", width=4).state_dict(), path)
    elif content == "code": torch.save({"a": Harmful()}, path)
    elif content in ("list", "numbers"): torch.save([torch.ones(2)] if content == "list" else {"a": 1, 5: 2}, path)
    else: path.write_bytes(b"" if content == "empty" else b"these are no weights, whatever the name says")
    with pytest.raises(ValueError, match=words): load_imagenet(tiny(), path)
    assert "run" not in capsys.readouterr().out


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.pth: no such file"): load_imagenet(tiny(), tmp_path/"gone.pth")
    with pytest.raises(ValueError, match="unknown protocol 'correct'"): load_imagenet(tiny(), tmp_path/"gone.pth", "correct")


# Where it looks

@pytest.mark.parametrize("variant", VARIANTS)
def test_saliency_is_a_picture(variant):
    model, (images, speaker) = tiny(variant), given(variant)
    maps = saliency(model, images, speaker)
    assert maps.shape == (3, 64, 64) and maps.min() >= 0 and torch.equal(maps.amax((1, 2)), torch.ones(3)) and model.training and not maps.requires_grad


def test_saliency_is_the_weight_of_the_pooling():
    "Of a token that the pooling is made to like, in its place"
    model, (images, _) = tiny(layers=1).eval(), given("none")
    with torch.no_grad():
        x = model.norm(model.blocks[0](model.tokens(images)))
        target = x[0, 6] - x[0].mean(0)
        model.pool.weight.copy_(3*target[None])
    map = saliency(model, images)[0]
    row, column = divmod(int(map.argmax()), 64)
    assert (row//16, column//16) == (1, 2)


@pytest.mark.parametrize("name", ["speaker_token", "vit"])
def test_saliency_without_pooling_is_the_attention_of_the_first_token(name):
    torch.manual_seed(0)
    model = (CCT("vit_2_4_32") if name == "vit" else tiny("speaker_token")).eval()
    images = torch.randn(2, 3, model.options["image_size"], model.options["image_size"])
    speaker = torch.randn(2, 32) if name == "speaker_token" else None
    with torch.no_grad():
        x = model.blocks[0](model.tokens(images, speaker))
        q, k, _ = (model.blocks[1].before(x) @ model.blocks[1].attention.qkv.weight.T).chunk(3, -1)
        d = q.shape[-1]//2
        seen = torch.stack([(a[:, :1] @ b.mT/d**.5).softmax(-1)[:, 0] for a, b in zip(q.split(d, -1), k.split(d, -1))]).mean(0)
    torch.testing.assert_close(cct._token_weights(model, model.tokens(images, speaker)), seen, atol=1e-6, rtol=1e-4)
    assert saliency(model, images, speaker).shape == images[:, 0].shape


def test_no_saliency_without_attention():
    with pytest.raises(ValueError, match="SmallCNN has no attention"): saliency(make_model("small_cnn", width=4), torch.zeros(1, 3, 32, 32))


# Bad input

@pytest.mark.parametrize("options, words", [
    (dict(size="cct_14_7x2"), "unknown size of the transformer 'cct_14_7x2': did you mean"), (dict(variant="token"), "unknown variant"), (dict(depth=3), "unknown option of the transformer 'depth'"), (dict(dim=30, heads=4), "choose a dim that 4 divides"),
    (dict(positions="sin"), "did you mean 'sine'"), (dict(size="vit_2_4_32", variant="first_token"), "a vit has its class token"), (dict(size="vit_2_4_32", variant="trained"), "a vit has its class token"), (dict(family="cat"), "unknown family")], ids=range(8))
def test_what_cannot_be_built(options, words):
    with pytest.raises(ValueError, match=words): CCT(**{"size": "tiny", **options})


@pytest.mark.parametrize("variant, images, speaker, words", [
    ("none", (2, 3, 64, 32), None, "takes .batch, 3, 64, 64."), ("none", (2, 1, 64, 64), None, "takes .batch, 3, 64, 64."), ("none", (3, 64, 64), None, "takes .batch, 3, 64, 64."),
    ("none", (2, 3, 64, 64), (2, 32), "takes no speaker"), ("first_token", (2, 3, 64, 64), None, "takes a speaker beside"), ("trained", (2, 3, 64, 64), None, "takes a speaker beside"),
    ("second_attention", (2, 3, 64, 64), (2, 256), "project them"), ("speaker_token", (2, 3, 64, 64), (1, 32), r"expected \(2, 32\)"), ("trained", (2, 3, 64, 64), (3, 1, 512, 80), "one for each")], ids=range(9))
def test_input_that_does_not_fit(variant, images, speaker, words):
    with pytest.raises(ValueError, match=words): tiny(variant).eval()(torch.zeros(images), None if speaker is None else torch.zeros(speaker))


@pytest.mark.parametrize("name", ["resnet50", "small_cnn"])
def test_baselines_answer_and_take_no_speaker(name):
    model = make_model(name, 3, **({"width": 4} if name == "small_cnn" else {})).eval()
    with torch.no_grad(): assert model(torch.zeros(2, 3, 48, 48)).shape == (2, 3) and model.head.weight.shape[0] == 3
    with pytest.raises(ValueError, match="takes no speaker"): model(torch.zeros(1, 3, 48, 48), torch.zeros(1, 32))


@pytest.mark.parametrize("name, variant, words", [("small_cnn", "first_token", "leave the variant out"), ("speaker_vgg_cct_14_7x2_224", "first_token", "is 'second_attention'"), ("resnet", "none", "did you mean 'resnet50'"), ("tiny", "first", "unknown variant")])
def test_names_that_contradict(name, variant, words):
    with pytest.raises(ValueError, match=words): make_model(name, 4, variant)
