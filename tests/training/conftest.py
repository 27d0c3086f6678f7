import pytest
import torch
from support.ranks import Ranks
from trajectories import tiny_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("text"))


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pair():
    """Two ranks: call with a function of a world and its arguments, get what each returns."""
    ranks = Ranks(2)
    yield ranks
    ranks.close()
