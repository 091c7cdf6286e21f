"Speech encoders: a clip's states are its own whatever lies beside it, whatever its length, and computed once; what cannot be an encoder or a clip is named"
import json
import shutil
import weakref
from dataclasses import replace
from glob import glob
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ser_nb.core import AudioError
from ser_nb.data.corpus import make_corpus
from ser_nb.features import ssl
from ser_nb.features.ssl import FAMILIES, WASTE, buckets, embed, embeddings, encode, encoder_of, frames, hidden_states, layer_sum, load_encoder, prepare, sees_padding, tiny_encoder, waste

pytestmark = pytest.mark.usefixtures("one_thread")
RATE = 16000
GROUP = dict(feat_extract_norm="group", do_stable_layer_norm=False)


def noise(seconds, seed=0): return (.1*np.random.default_rng(seed).normal(size=round(seconds*RATE))).astype("float32")
def states_of(encoder, *signals):
    with torch.inference_mode(): return hidden_states(encoder.network, *prepare(encoder.extractor, list(signals)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    return {**{f: tiny_encoder(folder/f, f) for f in FAMILIES}, "group": tiny_encoder(folder/"group", "wav2vec2", **GROUP)}


@pytest.fixture(scope="module")
def encoders(folders): return {name: load_encoder(folder) for name, folder in folders.items()}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SER_NB_CACHE", str(tmp_path/"cache"))
    return tmp_path/"cache"


@pytest.fixture
def corpus(tmp_path):
    for i in range(8): soundfile.write(tmp_path/f"{i}.wav", noise(.5 + .07*i, i), RATE)
    return make_corpus("noise", [dict(file=f"{i}.wav", speaker=str(i)) for i in range(8)], tmp_path)


# States

@pytest.mark.parametrize("name", [*FAMILIES, "group"])
def test_padding_changes_only_what_is_said_to_see_it(encoders, name):
    encoder, clips = encoders[name], [noise(1), noise(.563, 1), noise(.1, 2)]
    states, mask = states_of(encoder, *clips)
    assert len(states) == encoder.n_states and {s.shape for s in states} == {(*mask.shape, encoder.width)}
    off = 0.
    for i, clip in enumerate(clips):
        alone, whole = states_of(encoder, clip)
        assert whole.all() and mask[i].sum() == whole.shape[1] and all(torch.isfinite(s).all() for s in states)
        off = max(off, *(float((s[i][mask[i]] - a[0]).abs().max()) for s, a in zip(states, alone)))
    assert (off > .01) if sees_padding(encoder.network.config) else (off < 1e-4)


def test_what_stands_in_the_padding_is_not_seen(encoders):
    for name in ("whisper", "wav2vec2"):
        inputs, lengths = prepare(encoders[name].extractor, [noise(1), noise(.5, 1)])
        with torch.inference_mode():
            states, mask = hidden_states(encoders[name].network, inputs, lengths)
            inputs[1, ..., int(lengths[1]):] = 3.
            other, _ = hidden_states(encoders[name].network, inputs, lengths)
        for a, b in zip(states, other): torch.testing.assert_close(a[mask], b[mask], rtol=0, atol=1e-5)


def test_whisper_is_transformers_own_at_thirty_seconds(encoders):
    network, extractor = encoders["whisper"].network, encoders["whisper"].extractor
    inputs, lengths = prepare(extractor, [noise(30)])
    torch.testing.assert_close(inputs, extractor([noise(30)], sampling_rate=RATE, return_tensors="pt").input_features, rtol=0, atol=1e-6)
    with torch.inference_mode():
        for ours, theirs in zip(hidden_states(network, inputs, lengths)[0], network(inputs, output_hidden_states=True).hidden_states, strict=True): torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    with pytest.raises(AudioError, match="3001 frames.*positions for 3000.*in pieces with encode"): hidden_states(network, *prepare(extractor, [noise(30.01)]))


@pytest.mark.parametrize("name", ["whisper", "wav2vec2", "wavlm"])
def test_gradients_flow_and_training_keeps_every_state(folders, name):
    settings = dict(attention_dropout=0., layerdrop=.9, hidden_dropout=.5, mask_time_prob=0.) if name != "whisper" else dict(dropout=.5, encoder_layerdrop=.9)
    network = encoder_of({**json.loads((Path(folders[name])/"config.json").read_text()), **settings}).train()
    inputs, lengths = prepare(load_encoder(folders[name]).extractor, [noise(1), noise(.5, 1)])
    states, mask = hidden_states(network, inputs, lengths)
    assert len(states) == 3 and not torch.equal(states[-1], hidden_states(network, inputs, lengths)[0][-1])
    states[-1][mask].square().mean().backward()
    assert not [n for n, p in network.named_parameters() if p.requires_grad and "masked_spec" not in n and "k_proj.bias" not in n and (p.grad is None or not p.grad.any())]
    inputs.requires_grad_(True)
    hidden_states(network.eval(), inputs, lengths)[0][-1][mask].square().mean().backward()
    assert inputs.grad[..., :100].abs().sum() > 0 and inputs.grad[1, ..., int(lengths[1]):].abs().sum() == 0


def test_masking_in_training_is_the_networks_own(folders):
    config = json.loads((Path(folders["wav2vec2"])/"config.json").read_text())
    calm = dict(attention_dropout=0., hidden_dropout=0., activation_dropout=0., feat_proj_dropout=0.)
    inputs, lengths = prepare(load_encoder(folders["wav2vec2"]).extractor, [noise(1)])
    for share, same in ((0., True), (.5, False)):
        network = encoder_of({**config, **calm, "mask_time_prob": share})
        with torch.no_grad(): a, b = (hidden_states(network.train(mode), inputs, lengths)[0][0] for mode in (True, False))
        assert torch.allclose(a, b) is same


def test_first_layers_are_the_same_layers(folders, encoders):
    for name in ("whisper", "wav2vec2", "hubert"):
        one, all_ = load_encoder(folders[name], first=1), encoders[name]
        states, both = states_of(one, noise(1))[0], states_of(all_, noise(1))[0]
        norm = one.network.layer_norm if name == "whisper" else one.network.encoder.layer_norm
        assert one.n_states == len(states) == 2 and len(both) == 3 and one.key != all_.key
        torch.testing.assert_close(states[0], both[0], rtol=0, atol=0)
        with torch.inference_mode(): torch.testing.assert_close(states[1], norm(both[1]), rtol=0, atol=1e-6)
        assert load_encoder(folders[name], first=2).key == all_.key


# Loading

def test_a_key_is_configuration_and_weights(folders, encoders, tmp_path, monkeypatch):
    copy = shutil.copytree(folders["hubert"], tmp_path/"weights"/"another name")
    monkeypatch.setenv("SER_NB_WEIGHTS", str(tmp_path/"weights"))
    assert load_encoder("another name").key == encoders["hubert"].key
    others = [tiny_encoder(tmp_path/"seed", "hubert", seed=1), tiny_encoder(tmp_path/"eps", "hubert", layer_norm_eps=1e-3)]
    settings = json.loads((copy/"preprocessor_config.json").read_text())
    (copy/"preprocessor_config.json").write_text(json.dumps({**settings, "do_normalize": not settings["do_normalize"]}))
    assert len({encoders["hubert"].key, *(load_encoder(o).key for o in [*others, copy])}) == 4


@pytest.mark.parametrize("kind", ["WhisperForConditionalGeneration", "WhisperForAudioClassification"])
def test_whisper_comes_without_its_decoder_and_in_float32(encoders, tmp_path, kind):
    import transformers
    whole = getattr(transformers, kind)(encoders["whisper"].network.config)
    {"WhisperForConditionalGeneration": lambda m: m.model.encoder, "WhisperForAudioClassification": lambda m: m.encoder}[kind](whole).load_state_dict(encoders["whisper"].network.state_dict())
    whole.half().save_pretrained(tmp_path)
    encoders["whisper"].extractor.save_pretrained(tmp_path)
    found = load_encoder(tmp_path)
    assert {p.dtype for p in found.network.parameters()} == {torch.float32} and not found.network.training and not any("decoder" in n for n, _ in found.network.named_parameters())
    for a, b in zip(found.network.parameters(), encoders["whisper"].network.parameters(), strict=True): torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def without(folder, file): (folder/file).unlink()
def pickled(folder): (folder/"model.safetensors").rename(folder/"pytorch_model.bin")
def cut(folder): (folder/"model.safetensors").write_bytes((folder/"model.safetensors").read_bytes()[:2000])
def configured(folder, **changes): (folder/"config.json").write_text(json.dumps({**json.loads((folder/"config.json").read_text()), **changes}))


REFUSED = dict(
    no_config=(lambda f: without(f, "config.json"), FileNotFoundError, "has no config.json; expected a folder as transformers saves it"),
    no_extractor=(lambda f: without(f, "preprocessor_config.json"), FileNotFoundError, "has no preprocessor_config.json"),
    no_weights=(lambda f: without(f, "model.safetensors"), FileNotFoundError, "has no weights; expected model.safetensors"),
    pickle=(pickled, ValueError, "a pickle .pytorch_model.bin., which is never opened; convert them once to model.safetensors"),
    cut=(cut, ValueError, "cannot be read as safetensors"),
    not_json=(lambda f: (f/"config.json").write_text("{"), ValueError, "not the folder of a speech encoder"),
    other_layers=(lambda f: configured(f, num_hidden_layers=3), ValueError, "has no encoder.layers.2.*and 15 more like it; expected the weights of the 'hubert'"),
    other_width=(lambda f: configured(f, intermediate_size=64), ValueError, "of the right shape"),
    text=(lambda f: configured(f, model_type="bert"), ValueError, "unknown encoder family 'bert'"),
    future=(lambda f: configured(f, model_type="no such model"), ValueError, "not the folder of a speech encoder"),
    own_code=(lambda f: configured(f, model_type="mine", auto_map=dict(AutoConfig="mine.Mine")), ValueError, "not the folder of a speech encoder"),
)


@pytest.mark.parametrize("fault", list(REFUSED))
def test_what_is_no_encoder_is_refused_in_one_sentence(folders, tmp_path, fault):
    break_it, error, words = REFUSED[fault]
    folder = shutil.copytree(folders["hubert"], tmp_path/"encoder")
    break_it(folder)
    with pytest.raises(error, match=words) as refused: load_encoder(folder)
    assert str(folder) in str(refused.value) or "family" in words
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["facebook/wav2vec2-base", "a/b/c", "/no/such/folder"])
def test_offline_a_hub_name_says_what_to_give(name):
    with pytest.raises(FileNotFoundError, match="not to be had from the hub.*give a local folder with config.json, preprocessor_config.json and model.safetensors") as refused: load_encoder(name)
    assert repr(name) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("first", [0, 3, 1.5, "1"])
def test_layers_that_are_not_there(folders, first):
    with pytest.raises(ValueError, match="expected a whole number of layers from 1 to 2"): load_encoder(folders["hubert"], first=first)


# Signals

BAD = dict(empty=(noise(0), "lasts 0.000 s"), short=(noise(.02), "lasts 0.020 s, an utterance needs"), silent=(noise(1)*0, "is silent"), nan=(np.where(noise(40) > .3, np.nan, noise(40)), "NaN or infinite"), ints=(noise(1)*32768, "full scale is 1"), shape=(np.zeros((9, 2)), "transpose"), silent_hour=(np.zeros(RATE*3600, "int8"), "is silent"))


@pytest.mark.parametrize("fault", list(BAD))
@pytest.mark.parametrize("how", ["encode", "embed"])
def test_what_is_no_speech_is_refused(encoders, fault, how):
    signal, words = BAD[fault]
    with pytest.raises(AudioError, match=words): dict(encode=encode, embed=embed)[how](encoders["whisper"], signal, RATE)


def test_nothing_to_prepare(encoders):
    for signals, words in (([], "no signals"), ([noise(1), noise(0)], r"shape \(0,\)"), ([np.zeros((2, 100))], r"shape \(2, 100\)")):
        with pytest.raises(AudioError, match=words): prepare(encoders["hubert"].extractor, signals)


def test_channels_rates_and_integers_make_no_difference(encoders):
    x = noise(1)
    plain = encode(encoders["hubert"], x, RATE)
    assert plain.dtype == np.float32 and plain.shape == (3, 50, 16)
    np.testing.assert_array_equal(encode(encoders["hubert"], np.stack([x, x]), RATE), plain)
    np.testing.assert_allclose(encode(encoders["hubert"], (x*32768).round().astype("int16"), RATE), plain, atol=.05)
    assert encode(encoders["hubert"], x, 8000).shape == (3, 100, 16)


@pytest.mark.parametrize("seconds", [1., 29.99, 30., 30.001, 30.02, 59.999, 60., 60.5, 89.995, 90.01])
@pytest.mark.parametrize("name", ["whisper", "hubert"])
def test_pieces_lie_on_the_grid(encoders, name, seconds):
    encoder, signal = encoders[name], np.arange(round(seconds*RATE))
    step, more, most = ssl._grid(encoder)
    for every in (1, 7):
        pieces = ssl._pieces(encoder, signal, every)
        assert (len(pieces) == 1 or every == 7) if seconds <= 30 else len(pieces) == int(np.ceil(seconds/30)) or every == 7
        assert all(p[0] % (step*every) == 0 for p in pieces) and all(len(p) <= most*step + max(more, 0) and len(p) > .4*len(signal)/len(pieces) for p in pieces)
        assert pieces[-1][-1] == signal[-1] and all(b[0] + more == a[-1] + 1 for a, b in zip(pieces, pieces[1:]))


def test_in_pieces_there_are_as_many_states_at_the_same_places(encoders, monkeypatch):
    signal, real = noise(3.337), ssl._grid
    for name in ("whisper", "hubert"):
        encoder = encoders[name]
        whole = encode(encoder, signal, RATE)
        monkeypatch.setattr(ssl, "_grid", lambda e: (*real(e)[:2], 50))
        pieces = encode(encoder, signal, RATE)
        monkeypatch.setattr(ssl, "_grid", real)
        assert pieces.shape == whole.shape
        if name == "hubert": assert np.median(abs(pieces[0] - whole[0])) < .2*np.median(abs(pieces[0, 1:] - whole[0, :-1]))
        else: assert np.corrcoef(pieces[0, 60:90, 3], whole[0, 60:90, 3])[0, 1] > .5


def test_an_hour_is_encoded_in_pieces(tmp_path, monkeypatch):
    encoder = load_encoder(tiny_encoder(tmp_path, "wav2vec2", hidden_size=2, num_attention_heads=1, num_hidden_layers=1, intermediate_size=2, conv_dim=(1, 1, 1), conv_kernel=(400, 1, 1), conv_stride=(320, 1, 1), num_conv_pos_embeddings=2, num_conv_pos_embedding_groups=1))
    seen, real = [], ssl.prepare
    def recording(extractor, signals):
        seen.extend(map(len, signals))
        return real(extractor, signals)
    monkeypatch.setattr(ssl, "prepare", recording)
    hour = np.tile(noise(10), 360)
    states = encode(encoder, hour, RATE)
    assert states.shape == (2, (len(hour) - 400)//320 + 1, 2) and np.isfinite(states).all()
    assert len(seen) == 120 and max(seen) <= 30*RATE + 80
    np.testing.assert_allclose(embed(encoder, hour, RATE, "mean+std"), np.concatenate([states.mean(1, dtype="float64"), states.std(1, dtype="float64")], -1), rtol=1e-4, atol=1e-5)


# Batches

@pytest.mark.parametrize("seconds", [[], [1.], [1.]*10, [.1, 30., 30., .1, 300.], np.random.default_rng(0).gamma(3, 1.2, 500).tolist()], ids=["none", "one", "equal", "extremes", "speech"])
@pytest.mark.parametrize("budget", [0., 10., 240.])
def test_batches_hold_every_clip_once_and_little_padding(seconds, budget):
    batches = buckets(seconds, budget)
    assert sorted(i for b in batches for i in b) == list(range(len(seconds)))
    assert all(len(b) == 1 or len(b)*max(seconds[i] for i in b) <= budget for b in batches)
    if seconds: assert waste(seconds, batches) <= WASTE
    if seconds and budget == 240.: assert len(batches) < max(2, len(seconds)) or len(set(seconds)) > 2 > len(seconds)/3


def test_batches_and_single_clips_agree(encoders, corpus, cache, monkeypatch):
    alone = {name: embeddings(corpus, encoders[name]).X for name in ("whisper", "hubert", "group")}
    shutil.rmtree(cache)
    monkeypatch.setattr(ssl, "BUDGET", dict(cpu=240.))
    seen, real = [], ssl.prepare
    def recording(extractor, signals):
        inputs, lengths = real(extractor, signals)
        seen.append((len(signals), 1 - float(lengths.float().mean()/inputs.shape[-1])))
        return inputs, lengths
    monkeypatch.setattr(ssl, "prepare", recording)
    for name, X in alone.items():
        seen.clear()
        np.testing.assert_allclose(embeddings(corpus, encoders[name]).X, X, rtol=2e-3, atol=2e-3)
        assert (max(n for n, _ in seen) > 1) == (name != "group") and max(share for _, share in seen) < .11


# A corpus

def test_a_batch_names_the_bad_and_does_the_rest(encoders, corpus, cache, tmp_path):
    soundfile.write(tmp_path/"silent.wav", noise(1)*0, RATE), soundfile.write(tmp_path/"nan.wav", noise(1)*np.nan, RATE, subtype="FLOAT"), soundfile.write(tmp_path/"long.wav", noise(70, 3), RATE), soundfile.write(tmp_path/"hour.wav", np.tile(noise(1)[::2], 3600), 8000, subtype="PCM_U8")
    soundfile.write(tmp_path/"blip.wav", noise(.02), RATE)
    files = ["silent.wav", *corpus.table.file, "nan.wav", "long.wav", "blip.wav", "hour.wav"]
    mixed = make_corpus("mixed", [dict(file=f, speaker=f) for f in files], tmp_path)
    found = embeddings(mixed, encoders["hubert"], "mean+std")
    assert dict(zip(found.failures.file, found.failures.reason.str.split(": ").str[1].str[:9])) == {"silent.wav": "is silent", "nan.wav": "has NaN o", "blip.wav": "lasts 0.0", "hour.wav": "lasts 360"}
    assert found.table.file.tolist() == found.table.speaker.tolist() == [*corpus.table.file, "long.wav"] and found.X.dtype == np.float32 and found.computed == 9 == len(found)
    for i, file in enumerate(found.table.file): np.testing.assert_allclose(found.X[i], embed(encoders["hubert"], *soundfile.read(tmp_path/file, dtype="float32"), "mean+std"), rtol=1e-3, atol=1e-3)
    steps = frames(mixed, encoders["hubert"], every=3)
    assert steps.failures.equals(found.failures) and steps[8].shape == (3, 1167, 16)
    (tmp_path/"0.wav").unlink()
    with pytest.raises(ValueError, match="no utterance could be encoded, all 1 failed.*0.wav"): embeddings(replace(corpus, table=corpus.table.head(1)), encoders["hubert"])


def test_found_is_what_was_computed(encoders, corpus, cache):
    first, found = embeddings(corpus, encoders["whisper"], workers=1), embeddings(corpus, encoders["whisper"])
    assert (first.computed, found.computed, found.key) == (8, 0, first.key)
    np.testing.assert_array_equal(found.X, first.X)
    shutil.rmtree(cache)
    np.testing.assert_array_equal(embeddings(corpus, encoders["whisper"], workers=3).X, first.X)
    others = [embeddings(corpus, encoders["hubert"]), embeddings(corpus, encoders["whisper"], "mean+std"), frames(corpus, encoders["whisper"]), frames(corpus, encoders["whisper"], every=2)]
    assert [o.computed for o in others] == [8]*4 and len({first.key, *(o.key for o in others)}) == 5


def test_what_is_wrong_with_an_entry_or_a_file_is_made_again(encoders, corpus, cache):
    first = embeddings(corpus, encoders["hubert"])
    entries = sorted(Path(p) for p in glob(f"{cache}/ssl/**/*.npy", recursive=True))
    assert len(entries) == 8 and all(np.load(e).dtype == np.float16 for e in entries)
    entries[0].write_bytes(entries[0].read_bytes()[:100]), entries[1].write_bytes(b""), np.save(entries[2], np.load(entries[2])[:2]), np.save(entries[3], np.load(entries[3]).astype("float32"))
    again = embeddings(corpus, encoders["hubert"])
    assert again.computed == 4
    np.testing.assert_array_equal(again.X, first.X)
    corpus.path(2).write_bytes(corpus.path(3).read_bytes())
    changed = embeddings(corpus, encoders["hubert"])
    assert changed.computed == 0 and np.array_equal(changed.X[2], first.X[3]) and changed.key != first.key


def test_a_killed_run_goes_on_and_ends_the_same(encoders, corpus, cache, monkeypatch):
    whole = embeddings(corpus, encoders["hubert"]).X
    shutil.rmtree(cache)
    real, done, threads = ssl._save, [], torch.get_num_threads()
    def killed(*given):
        if len(done) == 3: raise KeyboardInterrupt
        done.append(real(*given))
    monkeypatch.setattr(ssl, "_save", killed)
    with pytest.raises(KeyboardInterrupt): embeddings(corpus, encoders["hubert"], workers=1)
    assert torch.get_num_threads() == threads
    monkeypatch.setattr(ssl, "_save", real)
    again = embeddings(corpus, encoders["hubert"])
    assert again.computed == 5
    np.testing.assert_array_equal(again.X, whole)


def test_only_the_clips_in_hand_are_in_memory(encoders, corpus, cache, monkeypatch):
    live, most, real = set(), [], ssl.read_utterance
    def counted(*given):
        signal, rate = real(*given)
        live.add(id(signal))
        weakref.finalize(signal, live.discard, id(signal))
        most.append(len(live))
        return signal, rate
    monkeypatch.setattr(ssl, "read_utterance", counted)
    frames(corpus, encoders["hubert"], workers=2)
    assert len(most) == 8 and max(most) <= 4


def test_what_half_precision_cannot_hold_is_named(encoders, corpus, cache, tmp_path):
    network = encoder_of(encoders["hubert"].network.config).eval()
    with torch.no_grad(): network.encoder.layer_norm.weight.fill_(1e7)
    loud = ssl.Encoder(network, encoders["hubert"].extractor, "loud", "its key", 3, 16, RATE)
    with pytest.raises(ValueError, match="all 8 failed; the first: .*0.wav: the encoder gives values that half precision cannot hold"): embeddings(corpus, loud)


def test_frames_are_means_of_so_many(encoders, corpus, cache):
    encoder = encoders["whisper"]
    full, third = frames(corpus, encoder), frames(corpus, encoder, every=3)
    for i in range(len(corpus)):
        states = encode(encoder, *soundfile.read(corpus.path(i), dtype="float32"))
        assert isinstance(full[i], np.memmap) and full[i].dtype == np.float16
        np.testing.assert_allclose(full[i], states, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(third[i], np.stack([states[:, a:a + 3].mean(1) for a in range(0, states.shape[1], 3)], 1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("every", [0, -1, 2.5, 101])
def test_impossible_strides(encoders, corpus, every):
    with pytest.raises(ValueError, match="expected a whole number of frames from 1 to 100"): frames(corpus, encoders["hubert"], every=every)


def test_unknown_pooling(encoders, corpus):
    with pytest.raises(ValueError, match="did you mean 'mean\\+std'"): embeddings(corpus, encoders["hubert"], "mean-std")
    with pytest.raises(ValueError, match="unknown pooling 'max'"): embed(encoders["hubert"], noise(1), RATE, "max")


def test_layer_sums_are_those_of_numpy_and_torch():
    X, weights = np.random.default_rng(0).normal(size=(5, 3, 4)), np.array([.2, .3, .5])
    np.testing.assert_allclose(layer_sum(X, weights), np.einsum("nld,l->nd", X, weights))
    learned = torch.tensor(weights, requires_grad=True)
    layer_sum(torch.tensor(X), learned).sum().backward()
    np.testing.assert_allclose(learned.grad, X.sum((0, 2)))
    with pytest.raises(ValueError, match="expected one for each of 3 states"): layer_sum(X, weights[:2])


# The real thing

def test_whisper_base_at_a_clips_own_length():
    try: encoder = load_encoder("whisper-base", first=3)
    except FileNotFoundError: pytest.skip("SER_NB_WEIGHTS holds no whisper-base")
    t = np.arange(2*RATE)/RATE
    voice = (.2*sum(np.sin(2*np.pi*k*(150 + 20*np.sin(3*t))*t)/k for k in range(1, 12))*(.5 + .5*np.sin(2*np.pi*3*t))).astype("float32")
    own = encode(encoder, voice, RATE)
    assert own.shape == (4, 100, 512)
    with torch.inference_mode(): window = encoder.network(encoder.extractor([voice], sampling_rate=RATE, return_tensors="pt").input_features, output_hidden_states=True).hidden_states
    for ours, full in zip(own, window):
        a, b = ours.mean(0), full[0, :100].numpy().mean(0)
        assert a @ b/np.linalg.norm(a)/np.linalg.norm(b) > .9
