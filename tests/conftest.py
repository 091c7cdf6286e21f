"What every test stands on: the folder of the checkout, and runs and caches that stay out of it"
import os
from pathlib import Path

import pytest

os.environ.pop("IN_TEST", None)
os.environ.update(MPLBACKEND="Agg", HF_HUB_OFFLINE="1")


@pytest.fixture(scope="session")
def root(): return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def _scratch(tmp_path_factory):
    "One empty outputs folder and one empty cache for the whole session"
    folder = tmp_path_factory.mktemp("ser_nb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SER_NB_OUTPUTS", str(folder/"outputs"))
        patch.setenv("SER_NB_CACHE", str(folder/"cache"))
        yield


@pytest.fixture(scope="module")
def one_thread():
    "Tiny products gain nothing from threads, and sums of other orders would be other bytes"
    import torch
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def quiet():
    "No bars and no reports of transformers"
    from transformers.utils import logging
    level = logging.get_verbosity()
    logging.set_verbosity_error(), logging.disable_progress_bar()
    yield
    logging.set_verbosity(level), logging.enable_progress_bar()
