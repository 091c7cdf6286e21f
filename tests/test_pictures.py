"From speech to a trained picture network: recipes, failures, augmentation, components, kills and answers"
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

import ser_nb.pictures as pictures
from ser_nb.core import LeakageError, save_tensors, versions
from ser_nb.data.corpus import select
from ser_nb.data.cross_corpus import class_set, leave_corpus_out
from ser_nb.data.partition import Guard
from ser_nb.data.readers import load_corpus
from ser_nb.features.mel_augment import AUGMENTATIONS
from ser_nb.features.speaker import fit_projection, project, voices
from ser_nb.features.spectrogram import Mels, mel_spectrograms, paint, view
from ser_nb.models.cct import CCT, SIZES
from ser_nb.models.vggvox import VGGVox
from ser_nb.pictures import _Epoch, _Pictures, answers, build, epoch_of, hear, load_model, pictures_of, probabilities, recipe, save, spectrum, train_fold, views_of
from ser_nb.run import code_key

pytestmark = pytest.mark.usefixtures("one_thread")
TRAINING = dict(epochs=2, warmup_epochs=0, cooldown_epochs=0, lr=1e-3, min_lr=1e-4, batch_size=8, select="uar")


@pytest.fixture(scope="module", autouse=True)
def read_once():
    "Versions of packages and the library's own code"
    known, code = versions(), code_key()
    with pytest.MonkeyPatch.context() as patch:
        for place in ("run", "pictures"): patch.setattr(f"ser_nb.{place}.versions", lambda: known), patch.setattr(f"ser_nb.{place}.code_key", lambda: code)
        yield


def quick(**given): return recipe(**{**dict(model="tiny", balance="no_balanced", training={**TRAINING, **given.pop("training", {})}), **given})


def few(name, speakers, sentences):
    "The first sentences of the first speakers of a demo corpus"
    corpus = load_corpus(name)
    corpus = select(corpus, speaker=sorted(corpus.table.speaker.unique())[:speakers])
    return replace(corpus, table=corpus.table[corpus.table.groupby(["speaker", "emotion"]).cumcount() < sentences].reset_index(drop=True))


@pytest.fixture(scope="module")
def corpora(): return [few("demo", 6, 2), few("demo_phone", 2, 1)]


@pytest.fixture(scope="module")
def heard(corpora): return hear(corpora, quick(variant="first_token"))


@pytest.fixture(scope="module")
def case(heard):
    "Classes, fold and guard of the demo corpora, nobody of the phone in training"
    labels, y, _ = class_set(heard.table, "demo_phone")
    fold = leave_corpus_out(heard.table, "demo_phone", dev_share=.2)
    return labels, y, fold


def train(speech, case, r, seed=0):
    labels, y, fold = case
    return train_fold(speech, y, fold, Guard(speech.table, fold, r["protocol"]), labels, r, seed)


def weights(folder): return torch.cat([v.flatten().float() for v in load_model(folder/"model").network.state_dict().values()])


# ---- recipe ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("given, words", [
    (dict(model="smal"), "did you mean 'small'"), (dict(variant="token"), "unknown variant"), (dict(colours="viridis"), "unknown colours"), (dict(window="hanning"), "unknown window"), (dict(augmentation="all"), "unknown augmentation"), (dict(balance="balanced"), "unknown balance"),
    (dict(protocol="published"), "unknown protocol"), (dict(variant="first_token", speaker="vgg"), "unknown speaker encoder"), (dict(variant="first_token", speaker="vggvox"), "needs speaker_weights"), (dict(variant="first_token", speaker_weights="a.safetensors"), "ge2e brings its own"),
    (dict(model="resnet50", variant="first_token"), "sees no speaker"), (dict(model="small_cnn", variant="trained"), "sees no speaker"), (dict(kept=3., protocol="faithful"), "keeps the time scale"), (dict(kept=0.), "seconds that fill"), (dict(kept=-1), "seconds that fill"), (dict(kept="3"), "seconds that fill"), (dict(kept=True), "seconds that fill"),
    (dict(input_size=0), "16 or more"), (dict(input_size=8), "16 or more"), (dict(input_size=64.5), "whole number"), (dict(variant="trained", speaker_width=0), "speaker_width=0"), (dict(variant="trained", speaker_width=2), "at most 1"),
    (dict(model="small_cnn", pretrained="a.pth"), "no ImageNet weights"), (dict(training=dict(epoch=3)), "did you mean 'epochs'"), (dict(training=dict(select="last", epochs=0)), "epochs=0"), (dict(trim=0.), "trim=0.0"), (dict(trim="60"), "decibels above 0"), (dict(learning_rate=1), "unknown option of a picture network")])
def test_recipes_that_do_not_fit(given, words):
    with pytest.raises(ValueError, match=words): recipe(**given)


def test_pretrained_file_that_is_not_there():
    with pytest.raises(FileNotFoundError, match="nowhere.pth: no such file; expected weights"): recipe(pretrained="nowhere.pth")


def test_a_recipe_is_complete_and_of_what_is_used():
    plain = recipe()
    assert (plain["speaker"], plain["speaker_weights"], plain["speaker_width"], plain["input_size"], plain["training"]["epochs"]) == (None, None, None, SIZES["small"]["image_size"], 50)
    assert recipe(variant="trained", speaker_width=.5)["speaker"] == "spectra" and recipe(model="tiny")["input_size"] == 64 and recipe(model="resnet50")["input_size"] == SIZES["small"]["image_size"]
    for r in (plain, recipe(variant="trained", speaker_width=.5), recipe(variant="first_token"), recipe(variant="first_token", speaker="vggvox", speaker_weights="a")): assert json.loads(json.dumps(r)) == r
    assert recipe(kept=None, colours=None, training=None) == plain and recipe(variant="none", speaker="vggvox", speaker_weights="a", speaker_width=.1) == plain


# ---- hearing -----------------------------------------------------------------------------------------------------------

def test_rows_vectors_and_spectrograms_belong_together(heard, corpora):
    assert len(heard) == len(heard.mels) == len(heard.speakers) == 56 and not len(heard.failures) and list(heard.table.corpus.unique()) == ["demo", "demo_phone"]
    alone = [voices(c) for c in corpora]
    assert np.array_equal(heard.speakers, np.concatenate([f.X for f in alone])) and heard.speakers.dtype == np.float32
    for corpus, first in zip(corpora, (0, 48)): assert np.array_equal(mel_spectrograms(corpus)[3], heard.mels[first + 3])


def broken(corpus, folder, **files):
    "A corpus of copies, some of which are something else"
    for i, row in corpus.table.iterrows():
        (folder/row.file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(corpus.root/row.file, folder/row.file)
    for place, content in files.items():
        path = folder/corpus.table.file.iat[int(place[1:])]
        if isinstance(content, bytes): path.write_bytes(content)
        else: soundfile.write(path, content, 16000, format="wav")
    return replace(corpus, root=folder)


def clicks():
    "Loud for a spectrogram, no speech for a detector of voices"
    signal = np.zeros(8000, "float32")
    signal[4000:4040] = np.hanning(40)*.5
    return signal


def test_failures_of_either_kind_leave_the_rest_aligned(corpora, tmp_path, monkeypatch):
    speech = few("demo", 2, 1)
    bad = broken(speech, tmp_path, _1=b"not audio", _3=np.zeros(16000, "float32"))
    real = pictures.mel_spectrograms
    def fails_too(corpus, window, **given):
        "One more that has a voice and no spectrogram"
        made = real(corpus, window, **given)
        if corpus.name != "demo": return made
        kept = [i for i in range(len(made)) if made.table.file.iat[i] != speech.table.file.iat[5]]
        lost = made.table[made.table.file == speech.table.file.iat[5]][["file", "start", "end"]].assign(reason="for the test")
        return Mels([made.paths[i] for i in kept], made.table.iloc[kept].reset_index(drop=True), pd.concat([made.failures, lost]), made.key, 0)
    monkeypatch.setattr(pictures, "mel_spectrograms", fails_too)
    found = hear([bad, corpora[1]], quick(variant="speaker_token"))
    assert sorted(found.failures.file) == sorted(speech.table.file.iloc[[1, 3, 5]]) and len(found) == len(found.mels) == len(found.speakers) == 5 + 8 and list(found.table.index) == list(range(13))
    wanted = voices(speech)
    for i, row in enumerate([0, 2, 4, 6, 7]): assert found.table.file.iat[i] == speech.table.file.iat[row] and np.array_equal(found.speakers[i], wanted.X[row]) and np.array_equal(found.mels[i], mel_spectrograms(speech)[row])
    monkeypatch.undo()
    for variant in ("none", "trained"):   # nobody asks for voices: only what has no spectrogram fails, and spectra follow the rows
        other = hear([bad, corpora[1]], quick(variant=variant))
        assert sorted(other.failures.file) == sorted(speech.table.file.iloc[[1, 3]]) and len(other) == 6 + 8
    assert len(other.speakers) == 14
    for i, path in ((1, speech.path(2)), (6, corpora[1].path(0))): assert np.array_equal(other.speakers[i], spectrum(soundfile.read(path, dtype="float32")[0]))


def test_two_segments_of_one_begin(corpora):
    "A file and a part of it may both be utterances"
    speech = few("demo", 1, 1)
    twice = replace(speech, table=pd.concat([speech.table, speech.table.iloc[:2].assign(end=speech.table.duration.iloc[:2]*.8, duration=speech.table.duration.iloc[:2]*.8)], ignore_index=True))
    found = hear([twice], quick(variant="first_token"))
    assert len(found) == 6 and np.array_equal(found.speakers[:4], voices(speech).X) and not np.array_equal(found.speakers[4], found.speakers[0]) and np.array_equal(found.speakers, voices(twice).X)


def test_spectra_are_two_seconds_of_the_middle():
    rng = np.random.default_rng(0)
    for n in (400, 5000, 32400, 50000, 200_000): assert spectrum(rng.standard_normal(n).astype("float32")).shape == (512, 400)


def test_the_key_tells_speech_and_speakers(heard, corpora):
    again = hear(corpora, quick(variant="speaker_token"))
    keys = {heard.key, hear(corpora, quick()).key, hear(corpora, quick(variant="trained", speaker_width=1/64)).key, hear(corpora[:1], quick(variant="first_token")).key, hear(corpora, quick(variant="first_token", window="hann")).key}
    assert again.key == heard.key and len(keys) == 5


# ---- pictures ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("given", [dict(), dict(kept=1.), dict(colours="jet"), dict(input_size=48), dict(protocol="faithful"), dict(protocol="faithful", colours="grey")], ids=lambda g: "-".join(map(str, g.values())) or "plain")
def test_tested_pictures_are_the_same_from_both_doors(given, heard):
    r = quick(**given)
    rows = np.array([50, 3, 7])
    epoch = _Epoch(_Pictures(heard, r), None, np.arange(len(heard)), rows, ["clean"]*3, [0]*3, 64, False)
    (images, speaker, numbers), = epoch
    assert torch.equal(images, pictures_of([heard.mels[i] for i in rows], r)) and images.shape == (3, 3, r["input_size"], r["input_size"]) and speaker is None and numbers.tolist() == [50, 3, 7]


def test_every_look_has_other_pictures(heard):
    mels = [heard.mels[0]]
    made = {name: pictures_of(mels, quick(**given)) for name, given in dict(plain={}, kept=dict(kept=1.), jet=dict(colours="jet"), grey=dict(colours="grey"), faithful=dict(protocol="faithful")).items()}
    names = list(made)
    assert all(not torch.equal(made[a], made[b]) for i, a in enumerate(names) for b in names[i + 1:])
    corpus = few("demo", 1, 1)
    assert not np.array_equal(mel_spectrograms(corpus, "hamm")[0], mel_spectrograms(corpus, "hann")[0])


def test_edges_are_cut_in_evaluation_of_faithful_only(heard):
    r, plain = quick(protocol="faithful"), quick()
    rows, made = np.array([0, 9]), {}
    for name, chosen in (("faithful", r), ("corrected", plain)):
        shared = _Pictures(heard, chosen)
        made[name] = [shared(rows, ["clean"]*2, [0]*2, training) for training in (True, False)]
    assert torch.equal(*made["corrected"]) and not torch.equal(*made["faithful"])
    whole, cut = made["faithful"]
    middle = torch.nn.functional.interpolate(whole[:, :, 3:-3, 3:-3], (64, 64), mode="bicubic")
    assert (middle - cut).abs().mean() < .5*(whole - cut).abs().mean()


def test_views_are_made_once_and_shared_by_what_does_not_change_them(heard, monkeypatch):
    first, _ = views_of(heard.mels, quick())
    def never(*args): raise AssertionError("made again")
    monkeypatch.setattr(pictures, "view", never)
    again, widths = views_of(heard.mels, quick(colours="jet", variant="first_token", augmentation="time_aug"))
    assert again.shape == (56, 64, 64) and again.dtype == np.float16 and np.array_equal(first, again) and (widths == 1).all() and isinstance(again, np.memmap)
    with pytest.raises(AssertionError, match="made again"): views_of(heard.mels, quick(kept=1.5))


def test_kept_has_widths(heard):
    _, widths = views_of(heard.mels, quick(kept=3.))
    wanted = view([heard.mels[i] for i in range(len(heard))], 64, 3.)[1].numpy()
    assert np.array_equal(widths, wanted) and len(set(widths)) > 5


# ---- batches -------------------------------------------------------------------------------------------------------------

def taken(heard, case, r, epoch=0, seed=0):
    return epoch_of(heard, heard.speakers, case[1], case[2].train, r, seed)(epoch)


def test_answers_speakers_and_pictures_follow_their_rows(heard, case):
    r = quick(variant="first_token")
    made = taken(heard, case, r)
    labels, y, fold = case
    order = np.concatenate([made.rows[part] for part in made.parts])
    assert len(made) == len(fold.train)//8 and set(order) <= set(fold.train) and len(set(order)) == len(order) and list(order) != sorted(order)
    shared = views_of(heard.mels, r)[0]
    for images, speaker, numbers in made:
        rows, order = order[:8], order[8:]
        assert torch.equal(numbers, torch.from_numpy(y[rows])) and np.array_equal(speaker, heard.speakers[rows])
        assert torch.equal(images, paint(torch.from_numpy(np.array(shared[rows])).float()))


def test_epochs_differ_and_the_same_is_the_same(heard, case):
    r = quick(augmentation="time_freq_aug")
    a, b, other, seeded = taken(heard, case, r, 3), taken(heard, case, r, 3), taken(heard, case, r, 4), taken(heard, case, r, 3, 1)
    assert torch.equal(a[1][0], b[1][0]) and list(a.rows) != list(other.rows) and list(a.rows) != list(seeded.rows) and a.names != other.names
    assert all(torch.equal(x, z) for x, z in zip(a[2][0], a[2][0])) and torch.equal(a[0][0], next(iter(a))[0])


@pytest.mark.parametrize("group, kinds", [("no_aug", ()), ("time_aug", AUGMENTATIONS[:6]), ("freq_aug", AUGMENTATIONS[6:]), ("time_freq_aug", AUGMENTATIONS)])
def test_augmentations_of_a_group(group, kinds, heard, case):
    names = {n for epoch in range(6) for n in taken(heard, case, quick(augmentation=group), epoch).names}
    assert names == {"clean", *kinds}


@pytest.mark.parametrize("protocol", ["corrected", "faithful"])
def test_augmented_pictures_are_others_and_clean_ones_are_not(protocol, heard):
    shared = _Pictures(heard, quick(protocol=protocol))
    rows = np.zeros(9, int) + 4
    made = shared(rows, ["clean", *AUGMENTATIONS], list(range(9)), True)
    clean = shared(rows[:1], ["clean"], [5], True)[0]
    assert torch.equal(made[0], clean) and all(not torch.equal(m, clean) for m in made[1:])
    assert torch.equal(shared(rows[:2], ["mask", "clean"], [7, 0], True)[0], made[7])   # by its own seed, whatever else is there


def test_balance_of_an_epoch(heard, case):
    labels, y, fold = case
    uneven = replace(fold, train=np.setdiff1d(fold.train, fold.train[y[fold.train] == 0][3:]))
    def rows(how, epoch, protocol="corrected"):
        made = epoch_of(heard, None, y, uneven.train, quick(balance=how, protocol=protocol, training=dict(batch_size=4)), 0)(epoch)
        return made, np.bincount(y[made.rows], minlength=4).tolist()
    assert rows("undersampling", 0)[1] == [3]*4 and set(rows("no_balanced", 0)[0].rows) == set(uneven.train)
    assert set(rows("undersampling", 0)[0].rows) != set(rows("undersampling", 1)[0].rows) and set(rows("undersampling", 0, "faithful")[0].rows) == set(rows("undersampling", 1, "faithful")[0].rows)
    made, counts = rows("balanced_aug", 0)
    assert len(set(counts)) == 1 and counts[0] == (y[uneven.train] == 1).sum()
    assert sum(n != "clean" for n in made.names) == counts[0] - 3   # repeats alone: the group has none


# ---- networks ------------------------------------------------------------------------------------------------------------

VARIED = [dict(), dict(variant="second_attention"), dict(variant="first_token"), dict(variant="speaker_token"), dict(variant="trained", speaker_width=1/64), dict(model="small_cnn"), dict(model="tiny", input_size=48), dict(protocol="faithful", variant="first_token")]


@pytest.mark.parametrize("given", VARIED, ids=lambda g: "-".join(map(str, g.values())) or "plain")
def test_written_and_read_it_says_the_same(given, corpora, heard, tmp_path):
    r = quick(**given)
    projection = fit_projection(heard.speakers, 32) if r["speaker"] == "ge2e" else None
    trained = pictures.Trained(build(r, 4, 3).eval(), ["angry", "happy", "neutral", "sad"], r, projection)
    save(trained, tmp_path)
    again = load_model(tmp_path)
    mels, speakers = [heard.mels[i] for i in (0, 50)], None if r["speaker"] is None else heard.speakers[[0, 50]] if projection else np.stack([hear(corpora, r).speakers[i] for i in (0, 50)])
    p = probabilities(trained, mels, speakers)
    assert np.array_equal(p, probabilities(again, mels, speakers)) and p.sum(1) == pytest.approx(1) and (again.recipe, again.labels, repr(again)) == (r, trained.labels, repr(trained))
    with pytest.raises(ValueError, match="leave it out" if r["speaker"] is None else "give them"): probabilities(again, mels, heard.speakers[:2] if r["speaker"] is None else None)


def test_another_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="model folder of a run of exp6"): load_model(tmp_path)


def test_weights_are_of_the_seed():
    first, same, other = (build(quick(), 4, seed).state_dict()["blocks.0.up.weight"] for seed in (0, 0, 1))
    assert torch.equal(first, same) and not torch.equal(first, other)


# ---- training a fold -----------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def trained(heard, case): return train(heard, case, quick(variant="first_token", augmentation="freq_aug"))


def test_what_a_training_leaves(trained, heard, case):
    assert {p.name for p in trained.iterdir()} >= {"looks.csv", "runs", "model", "made_of.json"} and len(pd.read_csv(trained/"looks.csv")) == 2 and list((trained/"runs").rglob("*tfevents*"))
    model = load_model(trained/"model")
    assert model.labels == case[0] and not model.network.training and {p.name for p in (trained/"model").iterdir()} >= {"model.safetensors", "config.json", "recipe.json", "projection.safetensors"}


def test_answers_are_those_of_single_clips(trained, heard, case):
    labels, y, fold = case
    found = answers(trained, heard, y, fold.test, 0, 2, 5)
    model = load_model(trained/"model")
    assert list(found.file) == list(heard.table.file.iloc[fold.test]) and list(found.truth) == list(heard.table.emotion.iloc[fold.test]) and (found.repeat == 2).all() and (found.seed == 5).all() and (found.corpus == "demo_phone").all()
    p = found[[f"p_{e}" for e in labels]].to_numpy()
    for i, row in enumerate(fold.test): assert probabilities(model, [heard.mels[row]], heard.speakers[[row]])[0] == pytest.approx(p[i], abs=1e-6)
    assert list(found.prediction) == [labels[k] for k in p.argmax(1)]
    turned = answers(trained, heard, y, fold.test[::-1], 0, 0, 0)
    assert list(turned.file) == list(found.file)[::-1] and turned.p_sad.to_numpy() == pytest.approx(found.p_sad.to_numpy()[::-1], abs=1e-6)
    pd.testing.assert_frame_equal(found, answers(trained, heard, y, fold.test, 0, 2, 5), check_exact=True)


def test_trained_once_and_the_same_twice(trained, heard, case, monkeypatch):
    r = quick(variant="first_token", augmentation="freq_aug")
    before = weights(trained)
    assert train(heard, case, r) == trained
    shutil.move(trained, trained.with_name("moved"))
    try:
        again = train(heard, case, r)
        assert torch.equal(before, weights(again)) and (again/"looks.csv").read_bytes() == (trained.with_name("moved")/"looks.csv").read_bytes()
    finally: shutil.rmtree(trained), shutil.move(trained.with_name("moved"), trained)
    assert not torch.equal(before, weights(train(heard, case, r, 1)))


@pytest.mark.parametrize("given", [dict(model="small_cnn", variant="none"), dict(variant="none"), dict(variant="second_attention"), dict(variant="speaker_token"), dict(input_size=48), dict(kept=1.5), dict(colours="grey"), dict(augmentation="time_aug"), dict(balance="balanced_aug"), dict(balance="undersampling"),
                                   dict(protocol="faithful"), dict(training=dict(smoothing=.2))], ids=lambda g: "-".join(str(v if not isinstance(v, dict) else "training") for v in g.values()))
def test_every_option_changes_the_network(given, trained, heard, case):
    labels, y, fold = case
    if given.get("balance"): case = labels, y, replace(fold, train=np.setdiff1d(fold.train, fold.train[y[fold.train] == 0][3:]))
    base = train(heard, case, quick(variant="first_token", augmentation="freq_aug", training=dict(epochs=1))) if given.get("balance") else trained
    other = train(heard, case, quick(**{**dict(variant="first_token", augmentation="freq_aug", training=dict(epochs=1) if given.get("balance") else {}), **given}))
    a, b = (answers(folder, heard, y, fold.test, 0, 0, 0)[[f"p_{e}" for e in labels]].to_numpy() for folder in (base, other))
    assert np.abs(a - b).max() > 1e-6


@pytest.mark.parametrize("protocol", ["corrected", "faithful"])
def test_components_are_fitted_on(protocol, trained, heard, case):
    folder = trained if protocol == "corrected" else train(heard, case, quick(variant="first_token", protocol="faithful", augmentation="freq_aug"))
    labels, y, fold = case
    model, rows = load_model(folder/"model"), fold.train if protocol == "corrected" else np.arange(len(heard))
    wanted = fit_projection(heard.speakers[rows], 32, protocol == "corrected")
    assert np.allclose(project(model.projection, heard.speakers), project(wanted, heard.speakers), atol=1e-5) and not np.allclose(model.projection["mean"], heard.speakers[np.delete(np.arange(len(heard)), rows) if protocol == "corrected" else fold.train].mean(0), atol=1e-5)


def test_the_guard_knows_who_was_looked_at(trained, heard, case):
    labels, y, fold = case
    guard = Guard(heard.table, fold, "corrected")
    train_fold(heard, y, fold, guard, labels, quick(variant="first_token", augmentation="freq_aug", training=dict(epochs=1)))
    assert "picture network" in str(guard.log) and "speaker components" in str(guard.log)
    with pytest.raises(LeakageError, match="picture network"): train_fold(heard, y, replace(fold, train=np.concatenate([fold.train, fold.test[:1]])), guard, labels, quick(), 0)


def test_dev_and_test_are_never_augmented_and_dev_is_evened_out_in_faithful_only(heard, case, monkeypatch):
    labels, y, fold = case
    uneven = replace(fold, dev=np.setdiff1d(fold.dev, fold.dev[y[fold.dev] == 1][:1]))
    for protocol, size in (("corrected", 7), ("faithful", 4)):
        seen = []
        class Watched(_Epoch):
            def __getitem__(self, i):
                seen.append((self.training, {*self.names[self.parts[i]]}, len(self.rows)))
                return super().__getitem__(i)
        monkeypatch.setattr(pictures, "_Epoch", Watched)
        folder = train(heard, (labels, y, uneven), quick(protocol=protocol, augmentation="time_freq_aug", balance="balanced_aug", training=dict(epochs=1)))
        answers(folder, heard, y, fold.test, 0, 0, 0)
        told = [(names, n) for training, names, n in seen if not training]
        assert told == [({"clean"}, size), ({"clean"}, 8)] and any(names - {"clean"} for training, names, n in seen if training)


def test_nobody_to_choose_by(heard, case):
    labels, y, fold = case
    alone = replace(fold, train=np.concatenate([fold.train, fold.dev]), dev=fold.dev[:0])
    with pytest.raises(ValueError, match="select='last'"): train(heard, (labels, y, alone), quick())
    looks = pd.read_csv(train(heard, (labels, y, alone), quick(training=dict(select="last", epochs=1)))/"looks.csv")
    assert list(looks) == ["epoch", "loss"]


def test_more_dimensions_than_rows(heard, case):
    labels, y, fold = case
    with pytest.raises(ValueError, match="32 dimensions from 20 rows"): train(heard, (labels, y, replace(fold, train=fold.train[:20])), quick(variant="first_token"))


def test_killed_and_gone_on(heard, case, trained, monkeypatch):
    "Killed in the last epoch and again while the stage is written; the scratch is gone at the end"
    import ser_nb.training.loop as loop
    class Killed(BaseException): pass
    r = quick(variant="first_token", augmentation="freq_aug", training=dict(cooldown_epochs=1))
    whole = train(heard, case, r)
    wanted, looks = weights(whole), (whole/"looks.csv").read_bytes()
    shutil.rmtree(whole)
    monkeypatch.setattr(loop, "LOG_EVERY", 5)
    monkeypatch.setattr(loop.time, "monotonic", iter(range(0, 10**6, 100)).__next__)
    real, count = pictures._Pictures.__call__, [0]
    def once(self, rows, names, seeds, training):
        count[0] += training
        if count[0] == 12: raise Killed
        return real(self, rows, names, seeds, training)
    def never(*args): raise Killed
    for place, what in (("_Pictures.__call__", once), ("save", never)):
        with monkeypatch.context() as patch:
            patch.setattr(f"ser_nb.pictures.{place}", what)
            with pytest.raises(Killed): train(heard, case, r)
    from ser_nb.core import cache_root
    assert list((cache_root()/"checkpoints").glob("pictures-*"))
    again = train(heard, case, r)
    assert torch.equal(wanted, weights(again)) and list(pd.read_csv(again/"looks.csv").dev_uar) == list(pd.read_csv(pd.io.common.BytesIO(looks)).dev_uar)
    assert count[0] == 12 and not list((cache_root()/"checkpoints").glob("pictures-*"))


def test_not_finite(heard, case, monkeypatch):
    monkeypatch.setattr(pictures, "paint", lambda V, colours: paint(V, colours)*float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"): train(heard, case, quick(training=dict(epochs=1, smoothing=.05)))


def test_trained_speaker_network_from_end_to_end(corpora, case):
    r = quick(variant="trained", speaker_width=1/64, training=dict(epochs=1))
    speech = hear(corpora, r)
    folder = train(speech, case, r)
    begun, labels = build(r, 4, 0).state_dict(), case[0]
    model = load_model(folder/"model")
    assert not torch.equal(begun["speaker_network.conv1.weight"], model.network.state_dict()["speaker_network.conv1.weight"]) and model.projection is None
    found = answers(folder, speech, case[1], case[2].test, 0, 0, 0)
    row = case[2].test[3]
    assert probabilities(model, [speech.mels[row]], speech.speakers[row][None])[0] == pytest.approx(found[[f"p_{e}" for e in labels]].to_numpy()[3], abs=1e-5)


def test_vggvox_weights(corpora, tmp_path):
    torch.manual_seed(0)
    files = [save_tensors(tmp_path/f"{i}.safetensors", VGGVox(1/64).state_dict()) for i in range(2)]
    a, b = (hear([few("demo", 1, 1)], quick(variant="first_token", speaker="vggvox", speaker_weights=str(f))) for f in files)
    assert a.speakers.shape == (4, 16) and a.key != b.key and not np.array_equal(a.speakers, b.speakers)
    with pytest.raises(FileNotFoundError, match="weights of VGGVox"): hear(corpora, quick(variant="first_token", speaker="vggvox", speaker_weights=str(tmp_path/"no.safetensors")))


@pytest.mark.parametrize("protocol", ["corrected", "faithful"])
def test_imagenet_weights_are_where_training_begins(protocol, heard, case, tmp_path):
    torch.manual_seed(5)
    there = CCT("tiny", n_classes=10)
    path = save_tensors(tmp_path/"imagenet.safetensors", there.state_dict())
    r = quick(variant="first_token", protocol=protocol, pretrained=str(path), training=dict(epochs=1, lr=1e-12, min_lr=0, weight_decay=0))
    folder = train(heard, case, r)
    report, found = pd.read_csv(folder/"pretrained.csv").set_index("name").what, load_model(folder/"model").network.state_dict()
    assert torch.allclose(found["blocks.1.up.weight"], there.state_dict()["blocks.1.up.weight"], atol=1e-6) and report["head.weight"] in ("other shape", "dropped")
    assert report["positions.weight"] == ("dropped" if protocol == "faithful" else "loaded, token 0 as it was")
    other = save_tensors(tmp_path/"other.safetensors", CCT("tiny", n_classes=10).state_dict())
    assert train(heard, case, dict(r, pretrained=str(other))) != folder
    with pytest.raises(ValueError, match="another architecture"): train(heard, case, dict(r, pretrained=str(save_tensors(tmp_path/"large.safetensors", CCT("tiny", dim=64).state_dict()))))


def test_a_step_of_resnet50(heard, case):
    r = recipe(model="resnet50", input_size=32, balance="no_balanced", training=dict(TRAINING, epochs=1, batch_size=16, select="last"))
    labels, y, fold = case
    folder = train(heard, (labels, y, replace(fold, train=fold.train[::2], dev=fold.dev[:0])), r)
    assert answers(folder, heard, y, fold.test[:2], 0, 0, 0)[[f"p_{e}" for e in labels]].sum(axis=1).to_numpy() == pytest.approx(1)
    shutil.rmtree(folder)
