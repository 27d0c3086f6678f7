"""The step is one function, however it is run: what `benchmarks/train.py` prints, held."""

import pytest
import torch

from benchmarks.training.equality import difference, resumed_difference

WAYS = {
    "micro-batches": ({"micro_batch_sequences": 2}, {}),
    "compiled": ({"compile": "always"}, {"compile": "never"}),
}


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))


@pytest.mark.parametrize(
    "way", [WAYS["micro-batches"], pytest.param(WAYS["compiled"], marks=pytest.mark.slow)]
)
def test_losses_agree_to_rounding_in_float64(way):
    assert difference(*way, "cpu", torch.float64, 20) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_losses_agree_after_200_steps_in_float32(way):
    assert difference(*way, "cpu", torch.float32, 200) < 2e-3


def test_a_resumed_run_of_a_large_vocabulary_equals_a_straight_one_to_the_bit():
    assert resumed_difference("cpu", 8) == 0
