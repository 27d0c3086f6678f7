"""What a type means, whatever a process had set before."""

import torch

from quokka_ray.training.precision import fix_float32_products


def test_float32_means_float32_for_products_and_convolutions(monkeypatch):
    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    torch.set_float32_matmul_precision("high")
    try:
        fix_float32_products()
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before)
