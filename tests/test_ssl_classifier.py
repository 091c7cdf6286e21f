"The classifier on a speech encoder: pooling against loops, losses against formulas, masks against clips alone, and saved folders against transformers' own loading"
import importlib
import json
import os
import subprocess
import sys

import audmetric
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForAudioClassification, Trainer, TrainingArguments, pipeline

import ser_nb
from ser_nb.features.ssl import hidden_states, load_encoder, prepare, tiny_encoder
from ser_nb.models.ssl_classifier import (ATTENTION, CHANNELS, CHOICES, GROUPS, HEAD, AttentiveStatistics, Ecapa, Head, SSLClassifier, SSLClassifierConfig, add_lora, check_head, clips, concordance_loss, freeze,
                                          head_loss, make_classifier)


pytestmark = [pytest.mark.usefixtures("one_thread", "quiet"), pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")]
LABELS, MODES, FAMILIES = ["angry", "happy", "sad"], CHOICES["pooling_mode"], ["whisper", "wav2vec2", "hubert", "wavlm"]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    return {family: load_encoder(tiny_encoder(folder/family, family, 1), device="cpu") for family in [*FAMILIES, "wav2vec2-conformer"]}


def noise(seconds, seed=0, quiet_end=400):
    "Noise that ends in silence, as files do, with whole frames of Whisper"
    x = np.random.default_rng(seed).normal(0, .1, round(seconds*100)*160).astype("float32")
    x[-quiet_end:] = 0
    return x


def frames(lengths=(12, 7, 3), width=16, n_states=3, extra=0, seed=0):
    "States of a padded batch: noise beyond the ends as well"
    rng = torch.Generator().manual_seed(seed)
    clips = [torch.randn(n_states, n, width, generator=rng) for n in lengths]
    states = torch.full((n_states, len(lengths), max(lengths) + extra, width), 1e3)
    for i, clip in enumerate(clips): states[:, i, :clip.shape[1]] = clip
    return states, torch.arange(states.shape[2]) < torch.tensor(lengths)[:, None], clips


def head_of(seed=0, width=16, n_states=3, **options):
    torch.manual_seed(seed)
    return Head(width, n_states, 4, **options)


# Options

def test_published_options_and_defaults():
    assert HEAD == dict(pooling_mode="mean", use_relu=True, use_batch_norm=False, use_dropout=False, dropout_rate=.5, use_l2_reg=False, weight_decay=.01, use_weight_encoder_layers=False, pool_position="after",
                        is_regression=False, protocol="corrected")
    assert check_head({}) == HEAD and check_head({}) is not HEAD


@pytest.mark.parametrize("options, sentence", [
    (dict(pooling="mean"), "did you mean 'pooling_mode'"), (dict(pooling_mode="epaca"), "did you mean 'ecapa'"), (dict(pool_position="behind"), "known are after, before"), (dict(protocol="exact"), "unknown protocol"),
    (dict(use_relu=1), "use_relu=1: expected true or false"), (dict(dropout_rate=1.), "dropout_rate=1.0"), (dict(dropout_rate=-.1), "dropout_rate"), (dict(dropout_rate=True), "dropout_rate=True"),
    (dict(weight_decay="a"), "weight_decay='a'"), (dict(weight_decay=float("nan")), "weight_decay=nan"), (dict(weight_decay=float("inf")), "weight_decay=inf")])
def test_options_are_checked(options, sentence):
    with pytest.raises(ValueError, match=sentence): check_head(options)
    with pytest.raises(ValueError, match=sentence): SSLClassifierConfig(head=options)


# The head

@pytest.mark.parametrize("mode, pool", [("mean", lambda x: x.mean(0)), ("sum", lambda x: x.sum(0)), ("max", lambda x: x.amax(0))], ids=["mean", "sum", "max"])
def test_pooling_is_a_loop_over_clips(mode, pool):
    states, mask, clips = frames(extra=2)
    head = head_of(pooling_mode=mode)
    torch.testing.assert_close(head(states, mask), torch.stack([head.out(pool(clip[-1]).relu()) for clip in clips]))


def test_attentive_statistics_are_a_loop_over_clips():
    "Each channel has an attention of its own, which sees the clip's mean and deviation beside the frame"
    states, mask, clips = frames()
    torch.manual_seed(0)
    net = AttentiveStatistics(16, 16).eval()
    net.norm.running_mean.normal_(), net.look.norm.running_var.uniform_(1, 2)
    for i, x in enumerate(c[0] for c in clips):
        mean, std = x.mean(0), x.std(0, correction=0)
        look = F.linear(torch.cat([x, mean.expand_as(x), std.expand_as(x)], 1), net.look.conv.weight[..., 0], net.look.conv.bias).relu()
        a = net.score(((look - net.look.norm.running_mean)/(net.look.norm.running_var + 1e-5).sqrt()).tanh()).softmax(0)
        mean = (a*x).sum(0)
        both = torch.cat([mean, (a*(x - mean)**2).sum(0).sqrt()])
        expected = net.out((both - net.norm.running_mean)/(net.norm.running_var + 1e-5).sqrt())
        torch.testing.assert_close(net(states[0].masked_fill(~mask[..., None], 0), mask)[i], expected, rtol=1e-4, atol=1e-5)


def test_size_of_ecapa():
    "SpeechBrain's at 16 inputs and 16 outputs, counted by hand; a batch normalisation has two numbers for each channel"
    def tdnn(n_in, n_out, kernel=1): return n_in*n_out*kernel + n_out + 2*n_out
    c, part = CHANNELS, CHANNELS//GROUPS
    block = 2*tdnn(c, c) + 7*tdnn(part, part, 3) + c*128 + 128 + 128*c + c
    statistics = tdnn(9*c, ATTENTION) + ATTENTION*3*c + 3*c + 2*6*c + 6*c*16 + 16
    assert (c, GROUPS, ATTENTION) == (512, 8, 128)
    assert sum(p.numel() for p in Ecapa(16).parameters()) == tdnn(16, c, 5) + 3*block + tdnn(3*c, 3*c) + statistics


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_padding_changes_nothing(mode, training):
    "Neither how long it is nor what is in it, in training neither: batch statistics are those of speech"
    head = head_of(pooling_mode=mode, use_batch_norm=True, use_weight_encoder_layers=True).train(training)
    (states, mask, _), (longer, long_mask, _) = frames(), frames(extra=9)
    longer[:, ~long_mask] = torch.nan
    torch.testing.assert_close(head(longer, long_mask), head(states, mask), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_a_clip_alone(mode):
    head = head_of(pooling_mode=mode).eval()
    states, mask, clips = frames()
    for i, clip in enumerate(clips): torch.testing.assert_close(head(states, mask)[i:i + 1], head(clip[:, None], torch.ones(1, clip.shape[1], dtype=bool)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_faithful_pools_the_padding(mode):
    states, mask, _ = frames()
    head = head_of(pooling_mode=mode, protocol="faithful").eval()
    torch.testing.assert_close(head(states, mask), head(states, torch.ones_like(mask)))
    other = states.clone()
    other[:, ~mask] = 0
    assert not torch.allclose(head(states, mask)[1:], head(other, mask)[1:])


def test_layer_weights():
    states, mask, clips = frames()
    even, drawn = head_of(use_weight_encoder_layers=True), head_of(use_weight_encoder_layers=True, protocol="faithful")
    torch.testing.assert_close(even(states, mask)[0], even.out(clips[0].mean(0).mean(0).relu()))
    even.layers.data = torch.tensor([0., 1., 2.])
    torch.testing.assert_close(even.layer_weights(), torch.tensor([1, np.e, np.e**2], dtype=torch.float32)/(1 + np.e + np.e**2))
    weights = torch.stack([head_of(seed, use_weight_encoder_layers=True, protocol="faithful", n_states=9).layer_weights().detach() for seed in range(40)])
    assert abs(weights.mean()) < .2 and abs(weights.std() - 1) < .15
    torch.testing.assert_close(drawn(states, mask)[0], drawn.out(sum(w*s[0].mean(0) for w, s in zip(drawn.layers, states)).relu()))
    assert head_of().layers is None


@pytest.mark.parametrize("kind", ["tuple", "half"])
def test_states_may_be_a_tuple_or_come_from_the_cache(kind):
    states, mask, _ = frames()
    head = head_of(use_weight_encoder_layers=True)
    kept = tuple(states) if kind == "tuple" else states.half()
    torch.testing.assert_close(head(kept, mask), head(torch.stack([s.float() for s in kept]), mask), rtol=1e-6, atol=1e-6)


def test_pool_position():
    "A maximum of sums is not a sum of maxima; means are the same either way"
    states, mask, clips = frames()
    for mode, same in (("mean", True), ("max", False)):
        after, before = (head_of(pooling_mode=mode, use_weight_encoder_layers=True, pool_position=p)(states, mask) for p in ("after", "before"))
        assert torch.allclose(after, before, atol=1e-5) is same
    torch.testing.assert_close(before[1], head_of().out(clips[1].amax(1).mean(0).relu()))


@pytest.mark.parametrize("option, value", [("use_relu", False), ("use_batch_norm", True), ("use_dropout", True)])
def test_each_step_of_the_head_counts(option, value):
    states, mask, _ = frames()
    assert not torch.allclose(head_of(**{option: value}).train()(states, mask), head_of().train()(states, mask))


def test_dropout_rate():
    states, mask, _ = frames(width=4000)
    def dropped(rate):
        head = head_of(width=4000, use_dropout=True, dropout_rate=rate).train()
        with torch.no_grad(): head.out.weight.fill_(1), head.out.bias.zero_()
        head.norm, head.options = torch.nn.Identity(), {**head.options, "use_relu": False}
        kept = []
        head.dropout.register_forward_hook(lambda m, i, o: kept.append((o != 0).float().mean().item()))
        head(states, mask)
        return 1 - kept[0]
    assert abs(dropped(.5) - .5) < .03 and abs(dropped(.1) - .1) < .03


@pytest.mark.parametrize("mode", ["mean", "att_stats"])
def test_a_batch_of_one_in_training(mode):
    states, mask, _ = frames((5,))
    head = head_of(pooling_mode=mode, use_batch_norm=True).train()
    head(states, mask).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    torch.testing.assert_close(head.norm.running_mean, torch.zeros(16))


@pytest.mark.parametrize("mode", MODES)
def test_half_precision_by_autocast(mode):
    states, mask, _ = frames((9, 1))
    head = head_of(pooling_mode=mode, use_batch_norm=True, use_weight_encoder_layers=True).train()
    with torch.autocast("cpu", torch.bfloat16): loss = head_loss(head, head(states.masked_fill(~mask[None, ..., None], 0), mask), torch.tensor([0, 1]))
    loss.backward()
    assert loss.dtype == torch.float32 and all(p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("change, sentence", [(lambda s, m: (s, m & (torch.arange(3) < 2)[:, None]), "no frames"), (lambda s, m: (s[:2], m), "2 layers for a head that was made for 3")], ids=["empty", "layers"])
def test_head_refuses(change, sentence):
    with pytest.raises(ValueError, match=sentence): head_of(use_weight_encoder_layers=True)(*change(*frames()[:2]))


# Losses

@pytest.mark.parametrize("weights", [None, [1, .5, .25, 2]])
def test_cross_entropy(weights):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 4)), rng.integers(0, 4, 6)
    w = np.asarray(weights or [1]*4)[labels]
    expected = -(w*(logits - np.log(np.exp(logits).sum(1, keepdims=True)))[np.arange(6), labels]).sum()/w.sum()
    assert head_loss(head_of(), torch.tensor(logits), torch.tensor(labels), weights).item() == pytest.approx(expected, rel=1e-5)


def test_l2_takes_all_weights_of_the_head():
    head = head_of(use_l2_reg=True, weight_decay=.3, use_batch_norm=True, use_weight_encoder_layers=True)
    head.layers.data.fill_(2), head.norm.bias.data.fill_(.5)
    logits, labels = torch.zeros(2, 4), torch.tensor([0, 1])
    squares = sum((p.double()**2).sum().item() for p in head.parameters())
    assert squares > 16 + 3*4 + 16*.25
    assert head_loss(head, logits, labels).item() == pytest.approx(np.log(4) + .3*squares, rel=1e-5)


def test_regression_losses():
    rng = np.random.default_rng(0)
    predicted, true = rng.normal(size=(2, 9, 2)) + np.array([[[0, 1]], [[.5, 0]]])
    expected = np.mean([1 - audmetric.concordance_cc(true[:, i], predicted[:, i]) for i in range(2)])
    assert concordance_loss(torch.tensor(predicted), torch.tensor(true)).item() == pytest.approx(expected, rel=1e-9)
    head = head_of(is_regression=True)
    assert head_loss(head, torch.tensor(predicted), torch.tensor(true)).item() == pytest.approx(expected, rel=1e-5)
    assert head_loss(head, torch.tensor(predicted[:, :1]), torch.tensor(true[:, 0])).item() == pytest.approx(((predicted - true)[:, 0]**2).mean(), rel=1e-5)
    assert concordance_loss(torch.ones(1, 2), torch.ones(1, 2)).isfinite(), "a batch of one"
    with pytest.raises(ValueError, match=r"targets of shape \(9, 1\) for outputs of shape \(9, 2\)"): head_loss(head, torch.tensor(predicted), torch.tensor(true[:, 0]))


# Inputs

def test_clips_are_cut_and_cleaned():
    inputs, lengths = torch.arange(24.).view(2, 12) + 1, torch.tensor([3, 9])
    expected = inputs[:, :9].clone()
    expected[0, 3:] = 0
    for given in (dict(lengths=lengths), dict(attention_mask=(torch.arange(12) < lengths[:, None]).int())):
        made, ends = clips(inputs, **given)
        assert torch.equal(made, expected) and ends.tolist() == [3, 9]
    made, ends = clips(inputs)
    assert torch.equal(made, inputs) and ends.tolist() == [12, 12]
    mels = torch.ones(2, 4, 10)
    made, ends = clips(mels, attention_mask=(torch.arange(1600) < torch.tensor([100, 959])[:, None]).long())
    assert ends.tolist() == [1, 5] and made.shape == (2, 4, 5) and not made[0, :, 1:].any() and made[1].all()


@pytest.mark.parametrize("given, sentence", [
    (dict(attention_mask=torch.ones(1, 8), lengths=[8]), "give one of them"), (dict(attention_mask=torch.tensor([[0]*4 + [1]*4])), "pad at the end"), (dict(attention_mask=torch.zeros(1, 8)), "is empty"),
    (dict(lengths=[9]), r"lengths \[9\]: expected 1 whole numbers from 1 to 8"), (dict(lengths=[0]), "from 1 to 8"), (dict(lengths=[4, 4]), "expected 1 whole")],
    ids=["both", "left", "empty", "long", "zero", "two"])
def test_clips_refuse(given, sentence):
    with pytest.raises(ValueError, match=sentence): clips(torch.ones(1, 8), **given)


# The model

@pytest.mark.parametrize("family", FAMILIES)
def test_model_is_encoder_and_head(encoders, family):
    "A padded batch gives what each clip gives alone, and what cached states give"
    encoder = encoders[family]
    model = make_classifier(encoder, LABELS, use_weight_encoder_layers=True)
    signals = [noise(s, i) for i, s in enumerate((.4, 1.13, .7))]
    inputs, lengths = prepare(encoder.extractor, signals)
    with torch.no_grad():
        together = model(**{encoder.network.main_input_name: inputs}, lengths=lengths).logits
        torch.testing.assert_close(together, model.head(*hidden_states(encoder.network, inputs, lengths)))
        for i, x in enumerate(signals):
            alone, n = prepare(encoder.extractor, [x])
            torch.testing.assert_close(model(**{encoder.network.main_input_name: alone}, lengths=n).logits[0], together[i], rtol=1e-4, atol=1e-4)
        filled = torch.nn.functional.pad(inputs, (0, 64), value=7.)
        torch.testing.assert_close(model(**{encoder.network.main_input_name: filled}, lengths=lengths).logits, together, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_loaded(encoders, family, tmp_path):
    "transformers finds the class, the weights are the same, and the pipeline's answer is the model's own for clips of any length"
    model = make_classifier(encoders[family], LABELS, 3, label_weights=[1, 2, 3], pooling_mode="att_stats", use_batch_norm=True, use_weight_encoder_layers=True)
    model.head.norm.running_mean.normal_()
    model.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors", "preprocessor_config.json"]
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path)
    assert type(loaded) is SSLClassifier and loaded.config.id2label == dict(enumerate(LABELS)) and loaded.config.label_weights == [1, 2, 3]
    assert loaded.state_dict().keys() == model.state_dict().keys() and all(torch.equal(v, model.state_dict()[k]) for k, v in loaded.state_dict().items())
    recogniser = pipeline("audio-classification", model=str(tmp_path), device="cpu", top_k=None)
    signals = [noise(s, i) for i, s in enumerate((.1, 1., 2.37))]
    with torch.no_grad():
        for x, batched in zip(signals, recogniser(signals, batch_size=2)):
            inputs, lengths = prepare(encoders[family].extractor, [x])
            own = model(**{model.main_input_name: inputs}, lengths=lengths).logits.softmax(1)[0]
            for answer in (recogniser(x), batched):
                torch.testing.assert_close(torch.tensor([a["score"] for a in sorted(answer, key=lambda a: LABELS.index(a["label"]))]), own, rtol=1e-4, atol=1e-5)


def test_pipeline_hears_thirty_seconds_of_whisper(encoders, tmp_path):
    make_classifier(encoders["whisper"], LABELS).save_pretrained(tmp_path)
    recogniser, x = pipeline("audio-classification", model=str(tmp_path), device="cpu"), noise(31, quiet_end=0)
    assert recogniser(x) == recogniser(x[:480_000]) != recogniser(x[:400_000])


def test_regression_in_a_pipeline(encoders, tmp_path):
    "Targets as they are, no softmax"
    model, x = make_classifier(encoders["wav2vec2"], ["valence", "arousal"], is_regression=True), noise(1)
    model.save_pretrained(tmp_path)
    answer = {a["label"]: a["score"] for a in pipeline("audio-classification", model=str(tmp_path), device="cpu")(x)}
    own = model(**model.extractor(x, sampling_rate=16_000, return_tensors="pt")).logits[0].tolist()
    assert answer == pytest.approx(dict(zip(["valence", "arousal"], own)), rel=1e-4) and model.config.problem_type == "regression"


def test_half_precision_becomes_single(tmp_path):
    folder = tiny_encoder(tmp_path/"encoder", "whisper")
    load_encoder(folder, device="cpu").network.half().save_pretrained(folder)
    assert json.loads((tmp_path/"encoder"/"config.json").read_text())["dtype"] == "float16"
    model = make_classifier(load_encoder(folder, device="cpu"), LABELS)
    model.save_pretrained(tmp_path/"saved")
    config = json.loads((tmp_path/"saved"/"config.json").read_text())
    assert config["dtype"] == "float32" and "dtype" not in config["encoder"]
    for m in (model, AutoModelForAudioClassification.from_pretrained(tmp_path/"saved")): assert {p.dtype for p in m.parameters()} == {torch.float32}


def test_asked_for_half_precision(encoders, tmp_path):
    model, inputs = make_classifier(encoders["whisper"], LABELS, pooling_mode="att_stats", use_batch_norm=True), torch.randn(2, 80, 60)
    model.save_pretrained(tmp_path)
    half = AutoModelForAudioClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)(input_features=inputs.bfloat16(), lengths=[60, 31], labels=torch.tensor([0, 1]))
    assert half.logits.dtype == torch.bfloat16 and half.loss.dtype == torch.float32
    torch.testing.assert_close(half.logits.float(), model(input_features=inputs, lengths=[60, 31]).logits, rtol=.1, atol=.1)


def test_first_layers_only(tmp_path):
    encoder = load_encoder(tiny_encoder(tmp_path/"encoder", "whisper"), first=1, device="cpu")
    make_classifier(encoder, LABELS, use_weight_encoder_layers=True).save_pretrained(tmp_path/"saved")
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path/"saved")
    assert len(loaded.encoder.layers) == 1 and len(loaded.head.layers) == 2


def test_seeds(encoders):
    "The head's weights depend on the seed and on nothing that was drawn before, and what is drawn afterwards does not depend on them"
    def weights(seed, before): return (torch.manual_seed(before), make_classifier(encoders["wavlm"], LABELS, seed, pooling_mode="att_stats", use_weight_encoder_layers=True, protocol="faithful").head.state_dict(), torch.rand(1).item())[1:]
    (a, x), (b, y), (c, _) = weights(0, 1), weights(0, 2), weights(1, 1)
    assert all(torch.equal(a[k], b[k]) for k in a) and not torch.equal(a["out.weight"], c["out.weight"]) and not torch.equal(a["layers"], c["layers"])
    assert x == torch.rand(1, generator=torch.Generator().manual_seed(1)).item() and x != y


def test_training_leaves_the_encoder_alone(encoders):
    encoder = encoders["hubert"]
    before = {k: v.clone() for k, v in encoder.network.state_dict().items()}
    model = make_classifier(encoder, LABELS).train()
    optimizer = torch.optim.SGD(model.parameters(), 1.)
    model(input_values=torch.randn(2, 16_000), labels=torch.tensor([0, 1])).loss.backward()
    optimizer.step()
    assert not all(torch.equal(v, before[k]) for k, v in model.encoder.state_dict().items())
    assert all(torch.equal(v, before[k]) for k, v in encoder.network.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_short_clips_in_training(encoders, family):
    "SpecAugment would refuse a batch shorter than what it hides"
    model = make_classifier(encoders[family], LABELS)
    inputs, lengths = prepare(encoders[family].extractor, [noise(.05, quiet_end=1)])
    out = model.train()(**{model.main_input_name: inputs}, lengths=lengths, labels=torch.tensor([0]))
    out.loss.backward()
    assert out.loss.isfinite() and model.head.out.weight.grad.any()


def test_another_head_on_a_saved_encoder(encoders, tmp_path):
    "Weights that do not fit are drawn anew, none is left as memory was found"
    model = make_classifier(encoders["whisper"], LABELS, use_batch_norm=True)
    model.save_pretrained(tmp_path)
    other = AutoModelForAudioClassification.from_pretrained(tmp_path, num_labels=5, id2label=dict(enumerate("abcde")), ignore_mismatched_sizes=True)
    assert other.head.out.weight.shape == (5, 16) and other.head.out.weight.abs().max() <= .25 and other.head.out.weight.std() > .05
    assert all(torch.equal(v, model.encoder.state_dict()[k]) for k, v in other.encoder.state_dict().items())


@pytest.mark.parametrize("labels, more, sentence", [
    (["angry", "angry"], {}, "each named once"), (["angry"], {}, "expected 2 or more"), ([], dict(is_regression=True), "expected 1 or more"), (LABELS, dict(label_weights=[1, 2]), "expected 3 positive numbers"),
    (LABELS, dict(label_weights=[1, 2, 0]), "expected 3 positive"), (LABELS, dict(label_weights=[1, 2, 3], is_regression=True), "none in a regression"), (LABELS, dict(pooling="max"), "did you mean 'pooling_mode'")])
def test_classifier_refuses(encoders, labels, more, sentence):
    with pytest.raises(ValueError, match=sentence): make_classifier(encoders["whisper"], labels, **more)


def test_forward_refuses(encoders):
    "Nothing is ignored in silence"
    model, x = make_classifier(encoders["whisper"], LABELS), torch.randn(1, 16_000)
    for given in (dict(input_values=x), dict(), dict(input_values=x, input_features=torch.zeros(1, 80, 100))):
        with pytest.raises(ValueError, match="takes input_features and nothing else"): model(**given)
    with pytest.raises(TypeError, match="unexpected keyword"): model(input_features=torch.zeros(1, 80, 100), length=[100])
    with pytest.raises(ValueError, match="make_classifier"): SSLClassifier(SSLClassifierConfig())


# What is trained

@pytest.mark.parametrize("family", FAMILIES)
def test_freeze(encoders, family):
    "Each part, in any order; gradients go where they should and the convolutions of the others are not even run backwards"
    model = make_classifier(encoders[family], LABELS)
    inputs = {model.main_input_name: torch.randn(2, 80, 100) if family == "whisper" else torch.randn(2, 16_000)}
    def moved(part):
        freeze(model, part).train().zero_grad()
        model(**inputs, labels=torch.tensor([0, 1])).loss.backward()
        return {name for name, p in model.named_parameters() if p.grad is not None}
    none, cnn, encoder = (moved(part) for part in ("none", "cnn", "encoder"))
    front = {n for n in none if n.split(".")[1] in ("conv1", "conv2", "feature_extractor")}
    assert front and cnn == none - front and encoder == {"head.out.weight", "head.out.bias"}
    assert moved("none") == none and not any("embed_positions" in n for n in none)
    assert freeze(model, "encoder").train().training and not model.encoder.training and freeze(model, "cnn").encoder.training


@pytest.mark.parametrize("family", [*FAMILIES, "wav2vec2-conformer"])
def test_lora(encoders, family, tmp_path):
    "Every added weight is used (WavLM would ignore those of its queries), saved, loaded and merged"
    from peft import PeftModel
    base, x = make_classifier(encoders[family], LABELS), noise(.5)
    model = add_lora(make_classifier(encoders[family], LABELS, use_l2_reg=True, weight_decay=.1), rank=2, alpha=4)
    inputs = model.extractor(x, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad(): torch.testing.assert_close(model(**inputs).logits, base(**inputs).logits)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], .1)
    for _ in range(2):
        optimizer.zero_grad()
        loss = model.train()(**inputs, labels=torch.tensor([1])).loss
        loss.backward(), optimizer.step()
    assert all(p.grad.any() for n, p in model.named_parameters() if "lora" in n) and {n for n, p in model.named_parameters() if p.requires_grad} == {n for n, _ in model.named_parameters() if "lora" in n or "modules_to_save" in n}
    assert sum("lora_A" in n for n, _ in model.named_parameters()) == 4
    model.eval().save_pretrained(tmp_path/"adapter")
    loaded, merged = PeftModel.from_pretrained(base, tmp_path/"adapter"), model(**inputs).logits
    torch.testing.assert_close(loaded(**inputs).logits, merged)
    model.merge_and_unload().save_pretrained(tmp_path/"merged")
    torch.testing.assert_close(AutoModelForAudioClassification.from_pretrained(tmp_path/"merged")(**inputs).logits, merged, rtol=1e-4, atol=1e-5)


def test_lora_seeds_and_l2(encoders):
    "The adapter comes from its seed; the untouched copy of the head that peft keeps is not decayed"
    a, b, c = (add_lora(make_classifier(encoders["whisper"], LABELS, use_l2_reg=True, weight_decay=1.), seed=seed) for seed in (0, 0, 1))
    first = [next(p for n, p in m.named_parameters() if "lora_A" in n) for m in (a, b, c)]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])
    head = make_classifier(encoders["whisper"], LABELS).head
    squares = sum((p**2).sum().item() for p in head.parameters())
    plain = make_classifier(encoders["whisper"], LABELS)(input_features=torch.zeros(1, 80, 50), labels=torch.tensor([0])).loss.item()
    assert a(input_features=torch.zeros(1, 80, 50), labels=torch.tensor([0])).loss.item() == pytest.approx(plain + squares, rel=1e-4)


@pytest.mark.parametrize("family, key", [("whisper", "lengths"), ("wav2vec2", "attention_mask")])
def test_trainer(encoders, family, key, tmp_path):
    "Trainer's own collation, evaluation and checkpoints, with nothing of ours in between"
    model = freeze(make_classifier(encoders[family], LABELS, use_batch_norm=True), "cnn")
    inputs, lengths = prepare(encoders[family].extractor, [noise(.3 + .1*i, i) for i in range(5)])
    where = lengths if key == "lengths" else (torch.arange(inputs.shape[1]) < lengths[:, None]).long()
    rows = [{model.main_input_name: x, key: n, "labels": i % 3} for i, (x, n) in enumerate(zip(inputs, where))]
    before = [p.clone() for p in model.parameters() if p.requires_grad]
    arguments = TrainingArguments(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=2, save_steps=2, learning_rate=.01, report_to="none", use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False)
    trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
    assert not trainer.model_accepts_loss_kwargs and trainer.label_names == ["labels"], "so the loss of accumulated batches is a mean"
    trainer.train()
    assert sum(not torch.equal(p, b) for p, b in zip((p for p in model.parameters() if p.requires_grad), before)) > len(before)/2
    predicted = trainer.predict(rows)
    assert predicted.predictions.shape == (5, 3) and predicted.label_ids.tolist() == [0, 1, 2, 0, 1] and np.isfinite(predicted.metrics["test_loss"])
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path/"checkpoint-2")
    with torch.no_grad(): np.testing.assert_allclose(loaded(**{model.main_input_name: inputs, key: where}).logits, predicted.predictions, rtol=1e-4, atol=1e-5)


# Registration

def test_saved_model_in_another_process(encoders, tmp_path):
    "`import ser_nb` alone makes it known, and loads nothing; a configuration can be asked for first"
    model, x = make_classifier(encoders["whisper"], LABELS), noise(.5)
    model.save_pretrained(tmp_path)
    np.save(tmp_path/"x.npy", x)
    code = ("import sys, json, ser_nb; light = 'transformers' not in sys.modules\n"
            "from transformers import AutoConfig, pipeline; late = 'ser_nb.models.ssl_classifier' not in sys.modules\n"
            "import numpy; kind = type(AutoConfig.from_pretrained(sys.argv[1])).__name__\n"
            "print(json.dumps([light, late, kind, pipeline('audio-classification', model=sys.argv[1], device='cpu')(numpy.load(sys.argv[1] + '/x.npy'))]))")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert "not supported" not in done.stderr
    light, late, kind, answer = json.loads(done.stdout)
    own = model(**model.extractor(x, sampling_rate=16_000, return_tensors="pt")).logits.softmax(1)[0]
    assert light and late and kind == "SSLClassifierConfig"
    assert {a["label"]: a["score"] for a in answer} == pytest.approx(dict(zip(LABELS, own.tolist())), rel=1e-4)


def test_registered_when_transformers_was_first(encoders, tmp_path):
    make_classifier(encoders["whisper"], LABELS).save_pretrained(tmp_path)
    importlib.reload(ser_nb)
    assert type(AutoConfig.from_pretrained(tmp_path)) is SSLClassifierConfig


@pytest.mark.skipif("SER_NB_WEIGHTS" not in os.environ, reason="needs real weights")
def test_real_whisper(tmp_path):
    "Float16 in the file, float32 in the model, and a pipeline that hears the clip and not the 30 s around it"
    encoder = load_encoder("whisper-base", first=2, device="cpu")
    model, x = make_classifier(encoder, LABELS, use_weight_encoder_layers=True), noise(1.37)
    model.save_pretrained(tmp_path)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    with torch.no_grad(): own = model(input_features=(made := prepare(encoder.extractor, [x]))[0], lengths=made[1]).logits.softmax(1)[0]
    answer = {a["label"]: a["score"] for a in pipeline("audio-classification", model=str(tmp_path), device="cpu")(x)}
    assert answer == pytest.approx(dict(zip(LABELS, own.tolist())), rel=1e-3)
