import resource

import pytest
import torch

from quokka_ray.training.allocator import keep_freed_memory


def faults_of_a_tensor() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_a_large_tensor_reuses_the_pages_of_the_one_before():
    if not keep_freed_memory():
        pytest.skip("this C library has no mallopt")
    faults_of_a_tensor()
    # 64 MiB are 16,384 pages of 4 KiB.
    assert faults_of_a_tensor() < 1000
