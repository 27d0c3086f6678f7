"""How many trials share a GPU, from arithmetic alone."""

import pytest
from test_memory import run_of

from quokka_ray.training.device_memory import MicroBatch
from quokka_ray.training.memory import Recipe, step_memory
from quokka_ray.training.packing import GPUS, GiB, Gpu, busy_share, gpu_named, trials_on_gpu

TINY = {"d_model": 64, "layers": 2, "vocab_size": 258, "seq_len": 64, "rows": 8}
BILLION = {"d_model": 1728, "layers": 25, "vocab_size": 50_257, "seq_len": 2048, "rows": 8}


def recipe_of(**size):
    return Recipe.of(run_of(**size, precision="bf16"))


def test_a_model_that_waits_for_its_launches_shares_and_a_large_one_does_not():
    tiny, billion = recipe_of(**TINY), recipe_of(**BILLION)
    gpu = GPUS["H200"]
    assert trials_on_gpu(tiny, 8, gpu) == 2
    assert trials_on_gpu(tiny, 8, gpu, mps=True) > 4
    for mps in (False, True):
        assert trials_on_gpu(billion, 8, gpu, mps=mps) == 1
        assert busy_share(billion, 8, MicroBatch(8), gpu, mps=mps) == 1


def test_no_more_trials_share_a_gpu_than_fit_in_it():
    recipe = recipe_of(**TINY)
    peak = step_memory(recipe, 8).peak
    room = 3.5 * (peak / 0.9 + 0.7 * GiB) / 0.95
    assert trials_on_gpu(recipe, 8, Gpu(room, 989e12, 132), mps=True) == 3
    assert trials_on_gpu(recipe, 8, Gpu(peak, 989e12, 132), mps=True) == 1


@pytest.mark.parametrize("mps", [False, True])
def test_the_share_that_a_trial_keeps_busy_grows_with_its_size_and_rows(mps):
    gpu = GPUS["H100"]
    sizes = [recipe_of(**{**TINY, "d_model": d, "layers": 6}) for d in (64, 256, 1024, 4096)]
    for rows in (2, 64):
        shares = [busy_share(size, rows, MicroBatch(rows), gpu, mps=mps) for size in sizes]
        assert shares == sorted(shares)
        assert shares[0] > 0
        assert shares[-1] <= 1
    small = sizes[0]
    few, many = (busy_share(small, n, MicroBatch(n), gpu, mps=mps) for n in (2, 1 << 16))
    assert few < many


def test_of_several_types_the_smallest_counts_and_unknown_ones_do_not():
    assert gpu_named(["H200", "A100"]) == GPUS["A100"]
    assert gpu_named(["TPU-V4"]) is None
    assert gpu_named([]) is None
