"The adapter ResNet: published counts and frames, log-mels and layers written out, padding that changes nothing, tasks that leave each other alone, folded networks, errors in one sentence"
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from ser_nb.models import adapter_resnet
from ser_nb.models.adapter_resnet import (CLASSIFIERS, FLAGS, MODES, OPTIONS, AdapterResNet, LogMels, Norm, averaged, begin, class_probabilities, fold, frames_of, freeze, load_network, load_vgg16,
                                          mel_filters, network_options, parameter_table)

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = dict(filters=4, n_mels=32, blocks=1, units=16, window=1.)
KINDS = dict(avgpool=dict(classifier="avgpool"), attention=dict(classifier="FCNAttention", input_norm=True), shared=dict(classifier="FCNAttention", share_features=True), deep=dict(classifier="FCNAttention", blocks=3, factor=2),
             lstm=dict(classifier="rnn", projection=12), gru=dict(classifier="rnn", cell="gru", bidirectional=True), mels=dict(body="mels", classifier="rnn", bidirectional=True), fusion=dict(classifier="fusion"))


def make(kind="attention", tasks=("one", "two"), seed=0, warm=True, **options):
    "A small network whose normalisations have seen something"
    torch.manual_seed(seed)
    model = AdapterResNet(**SMALL | KINDS[kind] | options)
    for i, task in enumerate(tasks): model.add_task(task, 3 - i)
    with torch.no_grad():
        for p in model.parameters(): p.add_(.1*torch.randn_like(p))
        for m in model.modules():
            if isinstance(m, Norm) and warm: m.running_mean.normal_(0, .3), m.running_var.uniform_(.5, 2)
    return model.eval()


def given(n=3, seconds=1., seed=1): return .3*torch.randn(n, round(16000*seconds), generator=torch.Generator().manual_seed(seed))


# Published numbers

@pytest.mark.parametrize("options, shared, own", [({}, 2_709_792, 301_088), (dict(factor=2), 288*2 + 4*2_709_504, 32*2 + 4*301_056), (dict(blocks=3), None, None)], ids=["published", "twice as wide", "deeper"])
def test_published_parameters(options, shared, own):
    with torch.device("meta"): model = AdapterResNet(classifier="FCNAttention", **options).add_task("a", 7).add_task("b", 4, adapters=False)
    table = parameter_table(model)
    assert shared is None or (table.total["shared"], table.adapters["a"]) == (shared, own)
    assert table.convolutions["shared"] == 9*table.adapters["a"] and table.adapters["b"] == 0
    assert len(model.body.convs) == len(model.part("a").adapters) == 1 + 6*options.get("blocks", 2)
    if not options: assert table.loc["a"].to_dict() == dict(convolutions=0, adapters=301_088, norms=4160, features=66_048, head=34_055, total=405_351)
    assert table.total.sum() == sum(p.numel() for p in model.parameters())


def test_published_defaults_and_flags():
    o = network_options(window=2)
    assert (o["n_mels"], o["blocks"], o["filters"], o["factor"], o["dropout"], o["classifier"], o["scale"], o["units"]) == (128, 2, 32, 1, (0., .5), "avgpool", "ln", 512)
    assert set(FLAGS.values()) <= set(OPTIONS) and network_options(classifier="fusion")["scale"] == network_options(body="vgg16", window=2)["scale"] == "db"


def test_frames():
    assert [frames_of(16000*s) for s in (2, 5, 6)] == [61, 155, 186] and [frames_of(n) for n in (1, 1023, 1024, 1535, 1536)] == [1, 1, 1, 1, 2]
    assert frames_of(torch.tensor([1, 1536])).tolist() == [1, 2]


# Log-mels

@pytest.mark.parametrize("n_mels", [128, 40])
def test_filters_are_triangles_on_the_mel_axis(n_mels):
    mel = 1127*np.log1p(np.arange(513)*16000/1024/700)
    edges = np.linspace(*1127*np.log1p(np.array([20, 8000])/700), n_mels + 2)
    up, down = (mel[:, None] - edges[:-2])/np.diff(edges)[:-1], (edges[2:] - mel[:, None])/np.diff(edges)[1:]
    np.testing.assert_allclose(mel_filters(n_mels), np.clip(np.minimum(up, down), 0, None), atol=1e-4)


def test_log_mels_are_those_of_the_formula():
    signal = given(1, .3)
    n, window = np.arange(1024), .5 - .5*np.cos(2*np.pi*np.arange(1024)/1024)
    power = np.stack([np.abs(np.fft.rfft(signal[0, 512*i + n].double().numpy()*window))**2 for i in range(frames_of(4800))])
    mels, mask = LogMels()(signal)
    assert mask is None and mels.shape == (1, 1, 128, 8)
    np.testing.assert_allclose(mels[0, 0], np.log(power @ mel_filters(128).double().numpy() + 1e-6).T, atol=1e-4)


def test_decibels():
    loud, soft = given(1), given(1, seed=2)*.1
    clip, batch = LogMels(32, "db"), LogMels(32, "batch_db")
    both, alone = clip(torch.cat([loud, soft]))[0], clip(soft)[0]
    assert both.max() == 0 and torch.equal(both[1], alone[0]) and both.min() >= -80
    assert clip(F.pad(loud, (0, 4000)))[0].min() == -80
    assert batch(torch.cat([loud, soft]))[0][1].max() < -15 and torch.equal(batch(soft)[0], alone)


@pytest.mark.parametrize("scale", ["ln", "db"])
def test_padding_is_zero_and_changes_no_log_mel(scale):
    front, x = LogMels(32, scale), given(2)
    x[0, 9000:] = .5
    mels, mask = front(x, [9000, 16000])
    alone = front(x[:1, :9000])[0]
    torch.testing.assert_close(mels[:1, ..., :alone.shape[3]], alone)
    assert mask.sum(1).tolist() == [frames_of(9000), frames_of(16000)] and not mels[0, ..., frames_of(9000):].any() and front(x, [16000, 16000])[1] is None
    assert front(x[:, :500])[0].shape[3] == 1


# Normalisation and averages

def test_statistics_are_of_speech_alone():
    x = torch.randn(3, 4, 5, 6)
    mask = torch.tensor([[1]*6, [1]*2 + [0]*4, [1]*3 + [0]*3]).bool()
    norm, plain = Norm(4), torch.nn.BatchNorm1d(4)
    y = norm(x*mask[:, None, None], mask)
    torch.testing.assert_close(y.movedim(3, 1)[mask], plain(x.movedim(3, 1)[mask]))
    torch.testing.assert_close(norm.running_var, plain.running_var)
    assert not y.movedim(3, 1)[~mask].any()
    norm.weight.requires_grad = False
    before = norm.running_mean.clone()
    torch.testing.assert_close(norm(x), norm.eval()(x))
    assert torch.equal(norm.running_mean, before)


@pytest.mark.parametrize("columns", [6, 7])
def test_tiles_of_a_padded_map_are_those_of_the_map(columns):
    x = torch.randn(1, 2, 3, columns)
    y, left = averaged(F.pad(x, (0, 4)), (torch.arange(columns + 4) < columns)[None], (2, 2))
    alone, none = averaged(x, None, (2, 2))
    torch.testing.assert_close(y[..., :left.sum()], alone)
    assert none is None and left.sum() == alone.shape[3] and alone.shape[2:] == (2, -(-columns//2))


# The order of the layers, in plain sums

def plain_map(model, mels, task):
    "The ResNet from the weights: 3x3 and strided 1x1 apart, shortcuts by hand, any size"
    part, o, i = model.part(task), model.options, 0

    def norm(x, n): return (x - n.running_mean[:, None, None])/(n.running_var[:, None, None] + 1e-5).sqrt()*n.weight[:, None, None] + n.bias[:, None, None]

    def unit(x, stride):
        nonlocal i
        y = F.conv2d(x, model.body.convs[i].weight, None, stride, 1) + F.conv2d(x, part.adapters[i].weight, None, stride)
        i += 1
        return norm(y, part.norms[i - 1])
    x = unit(mels, 1)
    for _ in range(3):
        for block in range(o["blocks"]):
            short = x
            if not block:
                rows, columns = x.shape[2:]
                short = torch.stack([torch.stack([x[:, :, r:r + 2, c:c + 2].mean((2, 3)) for c in range(0, columns, 2)], 2) for r in range(0, rows, 2)], 2)
                short = torch.cat([short, torch.zeros_like(short)], 1)
            x = F.relu(unit(F.relu(unit(x, 1 if block else 2)), 1) + short)
    return F.relu(norm(x, part.norms[-1]))


@pytest.mark.parametrize("n_mels, samples, blocks", [(32, 16000, 2), (37, 17000, 1), (40, 9300, 2)])
def test_layers_are_in_the_published_order(n_mels, samples, blocks):
    model = make(n_mels=n_mels, blocks=blocks, input_norm=False).double()
    x = torch.randn(2, 1, n_mels, frames_of(samples)).double()
    with torch.no_grad(): torch.testing.assert_close(model.body(x, None, model.part("two"))[0], plain_map(model, x, "two"), rtol=1e-9, atol=1e-9)


def test_attention_and_head_are_those_of_the_formula():
    model, x = make(input_norm=False).double(), torch.randn(2, 32, 4, 5).double()
    part = model.part("one")
    a, head = part.features.attention, part.head
    rows = x.permute(0, 2, 3, 1).reshape(2, 20, 32)
    e = .3*torch.tanh(rows @ a.look.weight.T + a.look.bias) @ a.score.weight[0]
    vector = torch.stack([sum(w*r for w, r in zip(e[i].softmax(0), rows[i])) for i in range(2)])
    with torch.no_grad():
        torch.testing.assert_close(a(x, None), vector)
        h = (vector @ head.hidden.weight.T + head.hidden.bias - head.norm.running_mean)/(head.norm.running_var + 1e-5).sqrt()*head.norm.weight + head.norm.bias
        torch.testing.assert_close(head(vector), h.clamp(min=0) @ head.out.weight.T + head.out.bias)


def test_self_attention_is_that_of_the_formula():
    layer, x = make("lstm").recurrent.mix, torch.randn(1, 5, 16)
    with torch.no_grad():
        scores = torch.stack([torch.stack([torch.sigmoid(layer.score(torch.tanh(layer.query(x[0, i]) + layer.key(x[0, j])))[0]) for j in range(5)]) for i in range(5)])
        torch.testing.assert_close(layer(x, None)[0], scores.softmax(1) @ x[0])


@pytest.mark.parametrize("kind", ["attention", "avgpool"])
def test_training_and_evaluation_compute_the_same(kind):
    "Adapters beside the convolutions, and merged into them"
    model = make(kind, dropout=(0., 0.)).requires_grad_(False)
    with torch.no_grad(): torch.testing.assert_close(model.train().vectors(given(), "one"), model.eval().vectors(given(), "one"), atol=1e-4, rtol=1e-4)


def test_dropout_is_before_adapters_or_where_there_are_none_before_all():
    model = make(dropout=(.9, .9), tasks=("one",)).add_task("plain", 3, adapters=False).requires_grad_(False)
    for adapter in model.part("one").adapters: adapter.weight.zero_()
    x = given()
    for task, same in (("one", True), ("plain", False)):
        calm = model.eval().vectors(x, task)
        assert torch.allclose(model.train().vectors(x, task), calm, atol=1e-5) is same


def test_bottlenecks_begin_as_the_identity():
    torch.manual_seed(0)
    model = AdapterResNet(**SMALL | KINDS["gru"]).add_task("one", 3).eval()
    x = given()
    before = model(x)
    model.part().bottlenecks = None
    torch.testing.assert_close(model(x), before)


# Padding

@pytest.mark.parametrize("length", [900, 5000, 9300, 15999])
@pytest.mark.parametrize("kind", [k for k in KINDS if k != "avgpool"])
def test_a_clip_says_the_same_alone_and_padded(kind, length):
    model, x = make(kind), given()
    x[0, length:] = .9
    with torch.no_grad(): torch.testing.assert_close(model(x, "one", torch.tensor([length, 16000, 12000]))[:1], model(x[:1, :length], "one"), atol=2e-5, rtol=1e-4)


def test_avgpool_hears_nothing_beyond_the_end():
    model, x = make("avgpool"), given()
    with torch.no_grad():
        answers = model(x, "one", [9000, 16000, 16000])
        x[0, 9000:] = .9
        assert torch.equal(model(x, "one", [9000, 16000, 16000]), answers) and not torch.allclose(model(x, "one")[0], answers[0])
        torch.testing.assert_close(model(x, "one")[1:], answers[1:], atol=1e-5, rtol=1e-5)


def test_windows_give_vectors_of_the_size_that_the_head_expects():
    for n_mels, window in ((32, .1), (128, 2.), (64, 3.), (40, 6.), (72, 1.)):
        model = make("avgpool", n_mels=n_mels, window=window)
        assert model(given(1, window), "one").shape == (1, 3)


# Training

@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_all_parameters_learn(kind, precision):
    "Those of the task and the shared ones get a gradient, another task none; the loss of a batch falls"
    model, x, y, losses = make(kind, warm=False, dropout=(0., .1), recurrent_dropout=0.).train(), .1*given(6), torch.arange(6) % 3, []
    x = x + .3*torch.sin(torch.arange(16000)*(.1 + .4*y[:, None]))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    for step in range(8):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"): loss = F.cross_entropy(model(x, "one", [16000]*5 + [8000]).float(), y)
        optimizer.zero_grad()
        loss.backward()
        if not step: assert {name for name, p in model.named_parameters() if p.grad is None} == {name for name, _ in model.named_parameters() if name.startswith("parts.of_two.")}
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < .8*losses[0]


@pytest.mark.parametrize("filters", [1, 4, 8])
def test_narrow_convolutions_train_in_channels_last(filters):
    "Whose strided 1x1 form has crashed PyTorch"
    model = make(filters=filters).to(memory_format=torch.channels_last).train()
    model(given(4), "one").square().sum().backward()
    assert all(torch.isfinite(a.weight.grad).all() for a in model.part("one").adapters)


def test_a_batch_of_one_trains():
    model = make("attention").train()
    model(given(1), "one").sum().backward()
    assert torch.isfinite(model.part("one").head.hidden.weight.grad).all()


@pytest.mark.parametrize("kind", ["attention", "shared", "gru", "fusion"])
def test_a_task_that_is_added_changes_no_other(kind):
    "To the bit, buffers included; a GRU whose weights need no gradient takes another kernel of PyTorch"
    model, x = make(kind), given()
    with torch.no_grad(): before = [model(x, t) for t in ("one", "two")]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    freeze(model.add_task("three", 4, like="one"), "adapters", "three").train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(x, "three", [16000, 9000, 9000]).square().sum().backward()
        optimizer.step()
    model.eval().requires_grad_(True)
    with torch.no_grad(): assert all(torch.equal(model(x, t), b) for t, b in zip(("one", "two"), before))
    assert all(torch.equal(model.state_dict()[k], v) for k, v in state.items())
    assert not torch.equal(model.part("three").norms[0].weight, state["parts.of_one.norms.0.weight"])


@pytest.mark.parametrize("mode", MODES)
def test_what_a_mode_trains(mode):
    model = make("fusion", share_features=True)
    trained = {name for name, p in freeze(model, mode, "two").named_parameters() if p.requires_grad}
    own = {name for name, _ in model.named_parameters() if name.startswith("parts.of_two.")}
    shared = {name for name, _ in model.named_parameters() if not name.startswith("parts.")}
    assert {name.split(".")[0] for name in shared} == {"body", "recurrent", "features"}
    assert trained == {"adapters": own, "last-layer": {n for n in own if ".head." in n}}.get(mode, own | shared)
    trained = {name for name, p in freeze(model, "last-layer", "two", last=2).named_parameters() if p.requires_grad}
    assert trained - own == {"body.convs.5.weight", "body.convs.6.weight"}


def test_frozen_normalisations_keep_their_statistics():
    model = freeze(make(), "last-layer", "one").train()
    before = {k: v.clone() for k, v in model.state_dict().items() if "running" in k}
    model(given(), "one")
    assert {k for k, v in before.items() if not torch.equal(v, model.state_dict()[k])} == {f"parts.of_one.head.norm.running_{w}" for w in ("mean", "var")}


# Folded

@pytest.mark.parametrize("norms", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_folded_network_says_the_same(kind, norms):
    model, x = make(kind), given()
    for task in model.tasks:
        single = fold(model, task, norms)
        with torch.no_grad():
            torch.testing.assert_close(single(x), model(x, task), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(single(x, lengths=[9000, 16000, 700]), model(x, task, [9000, 16000, 700]), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(fold(single)(x), single(x), atol=1e-5, rtol=1e-5)
        assert list(single.tasks) == [task] and single.part().adapters is None and single.folded is norms


def test_a_folded_network_costs_nothing_more(tmp_path):
    model, x = make(), given()
    single, scratch = fold(model, "one"), begin("scratch", "one", 3, **SMALL | KINDS["attention"])
    assert [c.weight.shape for c in single.body.convs] == [c.weight.shape for c in scratch.body.convs]
    assert parameter_table(single).total.sum() < parameter_table(scratch).total.sum()
    single.save_pretrained(tmp_path)
    with torch.no_grad(): assert torch.equal(load_network(tmp_path)(x), single(x))


# On disk, and begun from there

@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded(kind, tmp_path):
    model, x = make(kind, tasks=("zulu", "alpha")), given()
    model.add_task("mike", 4, adapters=False).save_pretrained(tmp_path)
    for there in (load_network(tmp_path), AdapterResNet.from_pretrained(tmp_path).eval()):
        assert there.config == model.config and list(there.tasks) == ["zulu", "alpha", "mike"] and not there.training
        with torch.no_grad(): assert all(torch.equal(there(x, task), model(x, task)) for task in model.tasks)


def test_folders_that_hold_no_network(tmp_path):
    with pytest.raises(FileNotFoundError, match="no config.json there"): load_network(tmp_path)
    make().save_pretrained(tmp_path)
    about = json.loads((tmp_path/"config.json").read_text())
    for wrong in (about | dict(filters=8), about | dict(layers=3), about | dict(tasks=about["tasks"][:1])):
        (tmp_path/"config.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match="cannot be read as an AdapterResNet"): load_network(tmp_path)
    (tmp_path/"model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no model.safetensors"): load_network(tmp_path)


@pytest.mark.parametrize("mode", ["finetune", "last-layer"])
def test_fine_tuning_begins_where_a_task_ended(mode, tmp_path):
    model, x = make("fusion"), given()
    model.save_pretrained(tmp_path)
    new = begin(mode, "two", 5, tmp_path, like="two").eval()
    assert new.tasks == dict(two=dict(n_classes=5, adapters=False, bottlenecks=True))
    with torch.no_grad(): torch.testing.assert_close(new.vectors(x), model.vectors(x, "two"), atol=1e-5, rtol=1e-5)
    assert any(p.requires_grad for p in new.body.parameters()) is (mode == "finetune")


def test_adapters_begin_fresh_or_like_a_task():
    source, one = make(), make(tasks=("one",))
    fresh, like, only = begin("adapters", "three", 4, source), begin("adapters", "three", 4, source, like="two"), begin("adapters", "three", 4, one)
    assert list(source.tasks) == ["one", "two"] and list(like.tasks) == ["one", "two", "three"]
    for begun, whose in ((like, source.part("two")), (only, one.part())):
        assert all(torch.equal(v, whose.state_dict()[k]) for k, v in begun.part("three").state_dict().items() if not k.startswith("head."))
    assert (fresh.part("three").norms[0].running_mean == 0).all()


@pytest.mark.parametrize("mode, task, source, more, words", [
    ("finetune", "new", None, {}, "begins with a trained network"), ("scratch", "new", "source", {}, "begins anew"), ("finetune", "new", "source", {}, "which task\\? this network has 2: one, two"), ("adapters", "one", "source", {}, "'one' is there already"),
    ("adapters", "new", "source", dict(filters=8), "has filters=4, and filters=8 was asked for"), ("finetune", "new", "source", dict(like="one", n_mels=64), "has n_mels=32, and n_mels=64"), ("last-layer", "new", "source", dict(like="tow"), "did you mean 'two'"),
    ("tune", "new", "source", {}, "unknown mode of training"), ("adapters", "new", "folded", {}, "is folded for one")], ids=range(9))
def test_what_cannot_begin(mode, task, source, more, words):
    source = dict(source=lambda: make(), folded=lambda: fold(make(), "one")).get(source, lambda: None)()
    with pytest.raises(ValueError, match=words): begin(mode, task, 3, source, **more)


# VGG16

@pytest.fixture(scope="module")
def vgg():
    torch.manual_seed(0)
    model = AdapterResNet(body="vgg16", n_mels=32, classifier="FCNAttention").add_task("one", 3).eval()
    with torch.no_grad(): model.part().colours.weight.normal_(), model.part().colour_norm.bias.normal_()
    return model


def test_vgg16_knows_no_padding(vgg):
    x = given(2, 2.)
    with torch.no_grad():
        for length in (9300, 17000, 25000): torch.testing.assert_close(vgg(x, lengths=[length, 32000])[:1], vgg(x[:1, :length]), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(fold(vgg)(x), vgg(x), atol=1e-5, rtol=1e-5)
    trained = {name.split(".")[2] for name, p in freeze(vgg, "adapters").named_parameters() if p.requires_grad}
    assert trained == {"colours", "colour_norm", "features", "head"}


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_vgg16_weights_from_a_file(vgg, suffix, tmp_path):
    places = [i for i, layer in enumerate("cc p cc p ccc p ccc p ccc p".replace(" ", "").replace("c", "cr")) if layer == "c"]
    state = {f"features.{p}.{kind}": getattr(conv, kind).detach().half().float() for p, conv in zip(places, vgg.body.convs) for kind in ("weight", "bias")} | {"classifier.0.weight": torch.zeros(2)}
    path = tmp_path/f"vgg16.{suffix}"
    (torch.save if suffix == "pth" else save_file)(state, path)
    load_vgg16(vgg, path)
    assert torch.equal(vgg.body.convs[12].weight, state["features.28.weight"])


@pytest.mark.parametrize("content", [b"no weights", {"features.0.weight": torch.zeros(64, 1, 3, 3)}, [1]], ids=["text", "other", "list"])
def test_files_that_hold_no_vgg16(vgg, content, tmp_path):
    path = tmp_path/"vgg16.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match="vgg16.pth: (cannot be read as weights|holds no VGG16)"): load_vgg16(vgg, path)
    with pytest.raises(ValueError, match="build it with body='vgg16'"): load_vgg16(make(), path)


# Bad input

@pytest.mark.parametrize("name, n, words", [("one", 4, "'one' is there already"), ("a.b", 4, "a word without a dot"), ("", 4, "a word without"), ("new", 1, "1 classes in the task 'new': expected 2"), ("new", 2.5, "expected 2 or more")], ids=range(5))
def test_tasks_that_cannot_be(name, n, words):
    with pytest.raises(ValueError, match=words): make().add_task(name, n)


def test_tasks_may_have_any_other_name():
    model = AdapterResNet(**SMALL)
    for name in ("keys", "train", "of_a", "Corpus 3/ä"): model.add_task(name, 3)
    assert set(model.eval()(given(), "keys").shape) == {3}


@pytest.mark.parametrize("options, words", [
    (dict(window=None), "avgpool without a window"), (dict(filter=8), "did you mean 'filters'"), (dict(classifier="fcn"), "unknown classifier"), (dict(filters=0), "filters=0: expected a whole number"), (dict(dropout=.5), "two shares below 1"),
    (dict(dropout=(0, 1)), "two shares"), (dict(window="2"), "seconds above 0"), (dict(body="mels"), "choose classifier='rnn'"), (dict(body="vgg16", n_mels=31), "32 bands"), (dict(n_mels=400), "choose 128 or fewer"), (dict(scale="dB"), "did you mean"), (dict(input_norm=1), "True or False")], ids=range(12))
def test_networks_that_cannot_be(options, words):
    with pytest.raises(ValueError, match=words): AdapterResNet(**SMALL | options)


@pytest.mark.parametrize("shape, dtype, lengths, words", [((2, 8000), None, None, "a window of 1 s, 16000 samples"), ((16000,), None, None, "of the shape \\(batch, samples\\)"), ((2, 16000), torch.int16, None, "torch.int16"), ((2, 16000), None, [1, 16001], "from 1 to 16000"), ((2, 16000), None, [5], "expected 2 numbers"),
                                                          ((2, 16000), None, [0, 9], "from 1 to 16000")], ids=range(6))
def test_signals_that_do_not_fit(shape, dtype, lengths, words):
    with pytest.raises(ValueError, match=words): make("avgpool")(torch.zeros(shape, dtype=dtype), "one", lengths)


def test_tasks_that_are_not_there():
    model = make()
    for call in (lambda: model(given(), "on"), lambda: fold(model, "on"), lambda: freeze(model, "adapters", "on"), lambda: model.add_task("new", 3, like="on")):
        with pytest.raises(ValueError, match="unknown task of the network 'on': did you mean 'one'"): call()
    with pytest.raises(ValueError, match="which task"): model(given())
    assert list(model.tasks) == ["one", "two"]
    with pytest.raises(ValueError, match="'new' has no adapters to train"): freeze(model.add_task("new", 3, adapters=False), "adapters", "new")
    with pytest.raises(ValueError, match="last=8: expected a number of convolutions from 0 to 7"): freeze(model, "finetune", "one", last=8)


def test_probabilities():
    torch.testing.assert_close(class_probabilities(torch.tensor([[0.], [2.]])), torch.tensor([[.5, .5], [.1192029, .8807971]]))
    assert class_probabilities(torch.randn(4, 3).bfloat16()).sum(1).allclose(torch.ones(4)) and adapter_resnet.CLASSIFIERS == CLASSIFIERS
