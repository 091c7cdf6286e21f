"Figures of pictures and of their training: what is drawn where"
import numpy as np
import pandas as pd
import pytest

from ser_nb.evaluation.plots import plot_looks, plot_pictures
from ser_nb.features.spectrogram import DEVIATION, MEAN


def test_pictures_are_shown_as_they_were_before_normalisation():
    colours = np.random.default_rng(0).random((2, 8, 8, 3))
    weights = np.stack([np.eye(8), np.zeros((8, 8))])
    figure = plot_pictures(((colours - MEAN)/DEVIATION).transpose(0, 3, 1, 2), ["angry", "sad"], weights)
    above, below = figure.axes[:2], figure.axes[2:]
    assert [ax.get_title() for ax in above] == ["angry", "sad"]
    for ax, shown in zip(above, colours): np.testing.assert_allclose(ax.images[0].get_array(), shown, atol=1e-6)
    for ax, shown, w in zip(below, colours, weights, strict=True):
        grey, green = ax.images
        np.testing.assert_allclose(grey.get_array(), shown.mean(2), atol=1e-6), np.testing.assert_allclose(green.get_alpha(), .8*w)
    with pytest.raises(ValueError): plot_pictures(np.zeros((2, 3, 8, 8)), ["one"])


@pytest.mark.parametrize("held_back", [True, False])
def test_looks_of_every_seed(held_back):
    looks = pd.DataFrame(dict(seed=[0, 0, 3, 3], epoch=[1, 2, 1, 2], loss=[1.3, 1, 1.2, .9], dev_loss=[1.3, 1.2, 1.4, 1.1], dev_uar=[.3, .4, .35, .45]))
    figure = plot_looks(looks if held_back else looks[["seed", "epoch", "loss"]], "training")
    loss, uar = figure.axes
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["seed 0", "seed 3"] and figure.get_suptitle() == "training"
    drawn = [[*line.get_ydata()] for line in loss.lines], [[*line.get_ydata()] for line in uar.lines]
    assert drawn == (([[1.3, 1], [1.3, 1.2], [1.2, .9], [1.4, 1.1]], [[.3, .4], [.35, .45]]) if held_back else ([[1.3, 1], [1.2, .9]], []))
