"Speaker vectors against their definitions and the packages they come from; what has no voice is listed, never replaced; projections of any width; VGG-Vox by its published counts"
import sys

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file as load_arrays, save_file as save_arrays
from safetensors.torch import save_file
from sklearn.decomposition import PCA

from ser_nb.core import AudioError
from ser_nb.data.audio import resample
from ser_nb.data.corpus import make_corpus
from ser_nb.data.demo import demo_utterance
from ser_nb.features.speaker import fit_projection, front_end, plot_speakers_map, project, voice, voices
from ser_nb.models.vggvox import VGGVox, load_vggvox

pytestmark = pytest.mark.usefixtures("one_thread")
CLICK = np.eye(1, 8000, 4000)[0]*.5
WIDTH = 1/64   # of the networks of these tests: 16 dimensions


@pytest.fixture(scope="module")
def said(): return {e: demo_utterance("demo", "d1f", "female", e, 1)[0].astype("float32") for e in ("neutral", "angry")}


@pytest.fixture
def corpus(tmp_path, said, monkeypatch):
    "Two utterances and a click, with a cache of its own"
    monkeypatch.setenv("SER_NB_CACHE", str(tmp_path/"cache"))
    for name, signal in {**said, "click": CLICK}.items(): soundfile.write(tmp_path/f"{name}.wav", signal, 16000, subtype="FLOAT")
    return make_corpus("voices", [dict(file=f"{name}.wav", speaker="d1f") for name in ("neutral", "angry", "click")], tmp_path)


def network(width=WIDTH, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VGGVox(width).eval()


# ---- GE2E ----------------------------------------------------------------------------------------------------------

def test_a_voice_is_what_resemblyzer_says(said):
    import resemblyzer
    expected = resemblyzer.VoiceEncoder("cpu", verbose=False).embed_utterance(resemblyzer.preprocess_wav(said["angry"]))
    found = voice(said["angry"], 16000)
    assert found.dtype == "float32" and np.allclose(found, expected, atol=1e-6) and np.linalg.norm(found) == pytest.approx(1, abs=1e-5)
    assert np.array_equal(found, voice(np.stack([said["angry"]]*2), 16000))
    assert found @ voice(resample(said["angry"], 16000, 48000), 48000) > .97


def test_what_is_louder_than_full_scale_is_clipped(said):
    loud = said["angry"]/np.abs(said["angry"]).max()*2
    assert np.array_equal(voice(loud, 16000), voice(np.clip(loud, -1, 1), 16000))


@pytest.mark.parametrize("signal, reason", [(CLICK, "finds no speech"), (np.zeros(16000), "silent"), (np.ones(300)*.1, "at least 0.1 s"), (np.full(16000, np.nan), "NaN"), (np.zeros((2, 3, 4)), "shape")],
                         ids=["click", "silence", "short", "nan", "shape"])
def test_what_has_no_voice_is_refused(signal, reason):
    with pytest.raises(AudioError, match=reason): voice(signal, 16000)


def test_an_encoder_that_is_not_installed_names_its_extra(monkeypatch, said, corpus):
    monkeypatch.setitem(sys.modules, "resemblyzer", None)
    for call in (lambda: voice(said["angry"], 16000), lambda: voices(corpus)):
        with pytest.raises(ImportError, match=r"ser_nb\[speaker\]"): call()


def test_voices_of_a_corpus_are_kept_and_failures_listed(corpus, said):
    found = voices(corpus, workers=2)
    assert found.table.file.tolist() == ["angry.wav", "neutral.wav"] and found.names[-1] == "ge2e_255" and found.computed == 2
    for row, name in zip(found.X, ("angry", "neutral")): assert np.allclose(row, voice(said[name], 16000), atol=1e-6)
    assert found.failures.file.tolist() == ["click.wav"] and "finds no speech" in found.failures.reason[0]
    again = voices(corpus)
    assert again.computed == 0 and np.array_equal(again.X, found.X) and again.key == found.key


def test_other_weights_are_other_embeddings(corpus):
    found = {seed: voices(corpus, "vggvox", network(seed=seed)) for seed in (0, 1, 0)}
    assert found[0].X.shape == (3, 16) and found[0].names[0] == "vggvox_0" and found[0].key != found[1].key != voices(corpus).key
    assert not np.allclose(found[0].X, found[1].X) and found[0].computed == 0 and found[1].computed == 3


def test_a_vggvox_voice_is_the_network_on_its_front_end(corpus, said):
    net = network()
    with torch.no_grad(): expected = net(torch.as_tensor(front_end(said["angry"]))[None, None])[0].numpy()
    assert np.allclose(voices(corpus, "vggvox", net).X[0], expected, atol=1e-6)


@pytest.mark.parametrize("kind, net, problem", [("gee2e", None, "unknown speaker encoder 'gee2e'"), ("vggvox", None, "needs its network"), ("vggvox", "training", "training mode"), ("ge2e", "ready", "brings its own network")])
def test_encoders_that_are_not_ready_are_refused(corpus, kind, net, problem):
    with pytest.raises(ValueError, match=problem): voices(corpus, kind, net and network().train(net == "training"))


# ---- the input of VGG-Vox ------------------------------------------------------------------------------------------

def published_front_end(signal, dither=0.):
    "The published steps one after the other, at 16 bits and with their dither"
    x, out, before, kept = signal.astype("float64")*2**15, [], 0., 0.
    for value in x:
        kept = value - before + .99*kept
        before = value
        out.append(kept)
    x = np.array(out) + dither*1e-6*np.random.default_rng(0).normal(size=len(out))
    x = np.append(x[0], x[1:] - .97*x[:-1])
    frames = [np.pad(x[i:i + 400], (0, max(0, 400 - len(x[i:i + 400])))) for i in range(0, len(x) - 400 + 80, 80)]
    magnitude = np.stack([np.abs(np.fft.fft(f*np.hamming(400), 512)) for f in frames], 1)
    return (magnitude - magnitude.mean(1, keepdims=True))/magnitude.std(1, keepdims=True)


@pytest.mark.parametrize("samples", [17_777, 40_000])
def test_the_front_end_is_the_published_one(said, samples):
    signal = np.resize(said["angry"], samples)
    expected, found = published_front_end(signal, dither=1.), front_end(signal)
    first = (expected.shape[1] - found.shape[1])//2
    assert found.dtype == "float32" and np.allclose(found, expected[:, first:first + found.shape[1]], atol=1e-5)


@pytest.mark.parametrize("samples, frames", [(400, 200), (8_000, 200), (16_400, 200), (32_240, 200), (32_241, 400), (160_240, 1800), (160_241, 2000), (400_000, 2000)])
def test_clips_become_whole_seconds(said, samples, frames): assert front_end(np.resize(said["angry"], samples)).shape == (512, frames)


def test_short_clips_are_filled_up_with_zeros(said):
    short = said["angry"][:9000]
    assert np.array_equal(front_end(short), front_end(np.pad(short, (0, 16_400 - 9000))))


def test_a_block_boundary_is_not_seen(said):
    "Spectra are made 2000 frames at a time"
    signal = np.resize(said["angry"], 200_000)
    assert np.allclose(front_end(signal), published_front_end(signal)[:, 248:2248], atol=1e-5)


def test_level_and_silence_do_no_harm(said):
    assert np.allclose(front_end(said["angry"]), front_end(said["angry"]*1e-3), atol=1e-4)
    assert not front_end(np.zeros(16_400)).any()
    for signal in (np.zeros(399), np.zeros((2, 16000))):
        with pytest.raises(AudioError, match="at least one frame of 400"): front_end(signal)


# ---- projection ----------------------------------------------------------------------------------------------------

def drawn(n, d, seed=0): return (np.random.default_rng(seed).normal(size=(n, d))*np.geomspace(3, .1, d) + 5).astype("float32")


def test_a_projection_is_what_sklearn_finds():
    X, new = drawn(60, 20), drawn(10, 20, 1)
    fitted = fit_projection(X, 7, scaled=False)
    expected = PCA(7).fit(X.astype("float64")).transform(new)
    found = project(fitted, new)
    assert found.dtype == "float32" and fitted["scale"] == 1
    assert np.allclose(np.abs(found), np.abs(expected), atol=1e-4)


def test_scaled_is_one_number_for_all():
    X = drawn(60, 20)
    plain, scaled = fit_projection(X, 7, scaled=False), fit_projection(X, 7)
    assert np.square(project(scaled, X)).mean() == pytest.approx(1, rel=1e-5)
    ratio = project(plain, X)/project(scaled, X)
    assert np.allclose(ratio, scaled["scale"], rtol=1e-4)


def test_a_width_beyond_the_embedding_keeps_distances():
    X = drawn(30, 8)
    Z = project(fit_projection(X, 12, scaled=False), X)
    assert Z.shape == (30, 12) and not Z[:, 8:].any()
    assert np.allclose(np.linalg.norm(Z[:, None] - Z[None], axis=-1), np.linalg.norm(X[:, None] - X[None], axis=-1), atol=1e-4)
    assert np.square(project(fit_projection(X, 12), X)).mean() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("n, d, width, problem", [(6, 20, 7, "7 dimensions from 6 rows"), (6, 20, 384, "20 dimensions from 6 rows"), (7, 20, 7, None), (6, 4, 384, None)])
def test_there_are_no_more_dimensions_than_rows(n, d, width, problem):
    if problem is None: assert project(fit_projection(drawn(n, d), width), drawn(3, d)).shape == (3, width)
    else:
        with pytest.raises(ValueError, match=problem): fit_projection(drawn(n, d), width)


@pytest.mark.parametrize("X, width, problem", [(np.ones((9, 3)), 2, "all the same"), (np.full((9, 3), np.nan), 2, "NaN"), (np.ones(9), 2, r"shape \(9,\)"), (np.ones((9, 3)), 0, "width 0"), (np.ones((9, 3)), 1.5, "width 1.5")],
                         ids=["same", "nan", "flat", "zero", "half"])
def test_what_has_no_components_is_refused(X, width, problem):
    for scaled in (True, False):
        with pytest.raises(ValueError, match=problem): fit_projection(X, width, scaled)


def test_another_encoder_is_refused():
    fitted = fit_projection(drawn(30, 8), 4)
    for X in (drawn(3, 9), drawn(3, 8)[0]):
        with pytest.raises(ValueError, match="fitted on 8 dimensions"): project(fitted, X)


def test_a_projection_survives_a_file(tmp_path):
    X = drawn(30, 8)
    fitted = fit_projection(X, 4)
    save_arrays(fitted, tmp_path/"p.safetensors")
    assert np.array_equal(project(load_arrays(tmp_path/"p.safetensors"), X), project(fitted, X)) and np.array_equal(fit_projection(X, 4)["components"], fitted["components"])


# ---- the map -------------------------------------------------------------------------------------------------------

def people(*names): return pd.DataFrame(dict(corpus=[n.split("/")[0] for n in names], speaker=[n.split("/")[1] for n in names]))


@pytest.mark.parametrize("names, legend", [(("a/x", "a/y", "a/x"), ["x", "y"]), (("a/x", "b/x", "b/x"), ["a", "b", "a/x", "b/x"]), ([f"a/{i}" for i in range(21)], [])], ids=["one corpus", "two", "many speakers"])
def test_the_map_names_its_speakers(names, legend):
    X = drawn(len(names), 5)
    figure = plot_speakers_map(X, people(*names))
    assert [t.get_text() for t in figure.legends[0].get_texts()] == legend
    points = np.concatenate([c.get_offsets() for c in figure.axes[0].collections])
    assert len(points) == len(names) and len(figure.axes[0].collections) == len(set(names))
    assert np.allclose(np.sort(np.abs(points[:, 0])), np.sort(np.abs(PCA(2).fit_transform(X.astype("float64"))[:, 0])), atol=1e-4)


@pytest.mark.parametrize("n, names, problem", [(2, ("a/x", "a/y"), "at least 3"), (4, ("a/x", "a/y", "a/z"), "4 speaker embeddings and 3 rows"), (3, ("a/", "a/", "a/"), "name no speaker")])
def test_a_map_of_nothing_is_refused(n, names, problem):
    with pytest.raises(ValueError, match=problem): plot_speakers_map(drawn(n, 5), people(*names))


# ---- VGG-Vox -------------------------------------------------------------------------------------------------------

PUBLISHED = dict(conv1=4_800, conv2=614_656, conv3=885_120, conv4=884_992, conv5=590_080, fc6=9_441_280, fc7=4_195_328, fc8=1_049_600)


def test_the_published_network_has_the_published_parameters():
    with torch.device("meta"): net = VGGVox()
    assert {name: sum(p.numel() for p in getattr(net, name).parameters()) for name in PUBLISHED} == PUBLISHED
    assert sum(p.numel() for p in net.parameters()) == 17_678_592 and net.dim == 1024
    assert [m.eps for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)] == [1e-5]*7


@pytest.mark.parametrize("frames, pooled", [(65, 1), (200, 5), (300, 8), (400, 11), (2000, 61)])
def test_any_length_is_pooled(frames, pooled):
    net, seen = network(), []
    net.fc6.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].shape[2:], output.shape[2:])))
    with torch.no_grad(): assert net(torch.randn(2, 1, 512, frames)).shape == (2, 16)
    assert seen == [((9, pooled), (1, pooled))]


def test_the_length_is_one_before_the_last_layer_and_batches_do_not_matter():
    net, x, seen = network(), torch.randn(3, 1, 512, 200, generator=torch.Generator().manual_seed(0)), []
    net.fc8.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.no_grad(): together, alone = net(x), net(x[1:2])
    assert torch.allclose(seen[0].norm(dim=1), torch.ones(3)) and torch.allclose(together[1], alone[0], atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 512, 64), (1, 1, 257, 200), (1, 512, 200), (1, 3, 512, 200)])
def test_other_inputs_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected \(B, 1, 512, 65 frames or more\)"): network()(torch.zeros(shape))


@pytest.mark.parametrize("width", [0, -1, 1e-9])
def test_no_width_is_refused(width):
    with pytest.raises(ValueError, match="above 0"): VGGVox(width)


def test_a_step_lowers_the_loss_and_one_spectrum_is_no_batch():
    net, x, y = network().train(), torch.randn(4, 1, 512, 100, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    optimiser, losses = torch.optim.Adam(net.parameters(), 1e-3), []
    for _ in range(4):
        loss = F.cross_entropy(20*net(x), y)
        optimiser.zero_grad(), loss.backward(), optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < .8*losses[0] and all(p.grad is not None for p in net.parameters())
    with pytest.raises(ValueError, match="a batch of one"): net(x[:1])


@pytest.mark.parametrize("width", [1/64, .03, .05])
def test_weights_come_back_from_a_file(tmp_path, width):
    net, x = network(width), torch.randn(1, 1, 512, 100, generator=torch.Generator().manual_seed(0))
    save_file(net.state_dict(), tmp_path/"w.safetensors")
    again = load_vggvox(tmp_path/"w.safetensors")
    with torch.no_grad(): assert torch.equal(again(x), net(x)) and not again.training and again.width == net.width


def lacking(tensors): return {k: v for k, v in tensors.items() if k != "norm_conv3.running_mean"}
def turned(tensors): return {**tensors, "conv2.weight": tensors["conv2.weight"].permute(2, 3, 1, 0).contiguous()}
def other(tensors): return {"encoder.weight": torch.zeros(2)}


@pytest.mark.parametrize("change, problem", [(lacking, "has no norm_conv3.running_mean"), (turned, r"conv2.weight has the shape \(5, 5, .*permute\(3, 2, 0, 1\)"), (other, "has no fc8.bias; .* begins with encoder.weight")], ids=["lacking", "turned", "other"])
def test_files_of_something_else_name_the_tensor(tmp_path, change, problem):
    save_file(change(network().state_dict()), tmp_path/"w.safetensors")
    with pytest.raises(ValueError, match=f"w.safetensors: {problem}"): load_vggvox(tmp_path/"w.safetensors")


def test_no_file_and_no_safetensors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"): load_vggvox(tmp_path/"w.safetensors")
    (tmp_path/"w.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(ValueError, match="w.h5: cannot be read as safetensors"): load_vggvox(tmp_path/"w.h5")
