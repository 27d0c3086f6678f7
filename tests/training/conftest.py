import pytest
import torch
from trajectories import tiny_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("text"))


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
