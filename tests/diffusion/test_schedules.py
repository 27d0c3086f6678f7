import json
from pathlib import Path

import numpy as np
import pytest
import torch

from quokka_ray.diffusion.schedules import Linear

ORACLES = Path(__file__).parents[3] / "shared" / "oracles" / "schedules_torch.json"


def test_linear_schedule_masks_at_rate_t_with_weight_one_over_t():
    schedule = Linear()
    for t in (0.001, 0.25, 0.5, 1.0):
        assert schedule.alpha(t) == 1 - t
        assert schedule.alpha_prime(t) == -1
        assert schedule.weight(t) == pytest.approx(1 / t, rel=1e-12)


def test_a_schedule_takes_arrays_and_tensors_alike():
    t = np.array([0.1, 0.7])
    np.testing.assert_allclose(Linear().weight(t), 1 / t, rtol=1e-12)
    torch.testing.assert_close(Linear().weight(torch.tensor(t)), torch.tensor(1 / t))


def test_linear_schedule_equals_the_published_values():
    if not ORACLES.exists():
        pytest.skip("needs ../shared/oracles/schedules_torch.json")
    oracle = json.loads(ORACLES.read_text())
    t, expected = np.array(oracle["t"]), oracle["schedules"]["linear"]
    np.testing.assert_allclose(Linear().alpha(t), expected["alpha"], rtol=1e-9)
    np.testing.assert_allclose(Linear().alpha_prime(t), expected["dalpha"], rtol=1e-9)
    np.testing.assert_allclose(Linear().weight(t), expected["weight"], rtol=1e-9)
