"""How much the bound of uniform noise costs beside a cross-entropy of the same logits.

    python benchmarks/elbo.py [--positions 512] [--vocab 32000]

Forward and backward from float32 logits, CPU time of the fastest of several runs on one thread,
and the memory that waits for the backward pass, in tensors of [positions, vocab]. `dense` is the
textbook way: one-hot clean tokens, both marginals over the vocabulary, the KL divergence of one
from the other. The last line is the ratio of `elbo` to the cross-entropy.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from quokka_ray.diffusion.elbo import elbo, general_elbo
from quokka_ray.diffusion.processes import Uniform
from quokka_ray.diffusion.schedules import Linear

Loss = Callable[[Tensor], Tensor]


def dense_elbo(
    process: Uniform, logits: Tensor, clean: Tensor, noisy: Tensor, t: Tensor
) -> Tensor:
    """Return the integrand from one-hot tokens and marginals over the vocabulary, float32 [M]."""
    keep, _, other = (value[:, None] for value in process.marginal(t))
    q = keep * functional.one_hot(clean, process.vocab_size) + other
    p = keep * logits.softmax(-1) + other
    divergence = functional.kl_div(p.log(), q, reduction="none").sum(-1)
    here = noisy[:, None]
    q_here, ratio = q.gather(1, here), q.gather(1, here) / p.gather(1, here)
    rate = process.rates(t)[1][:, None]
    return (rate / q_here * (divergence[:, None] + ratio - 1 - ratio.log())).squeeze(1)


def cpu_seconds(loss: Loss, logits: Tensor, repeats: int) -> float:
    """Return the CPU time of a forward and backward pass, the best of some."""
    best = float("inf")
    for _ in range(repeats):
        leaf = logits.detach().requires_grad_()
        start = time.process_time()
        loss(leaf).sum().backward()
        best = min(best, time.process_time() - start)
    return best


def kept_tensors(loss: Loss, logits: Tensor) -> float:
    """Return the memory kept for the backward pass, in tensors as large as the logits."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    leaf = logits.detach().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        value = loss(leaf)
    del value
    return sum(kept.values()) / (logits.numel() * logits.element_size())


def main() -> None:
    """Print a line for each way, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--positions", type=int, default=512)
    parser.add_argument("--vocab", type=int, default=32_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    rows, size = arguments.positions, arguments.vocab
    logits = torch.randn(rows, size, generator=generator)
    clean, noisy = torch.randint(size, (2, rows), generator=generator)
    t = 0.05 + 0.9 * torch.rand(rows, generator=generator)
    process = Uniform(Linear(), size)
    ways: dict[str, Loss] = {
        "cross-entropy": lambda x: functional.cross_entropy(x, clean, reduction="none"),
        "elbo": lambda x: elbo(process, x, clean, noisy, t),
        "general_elbo": lambda x: general_elbo(process, x, clean, noisy, t),
        "dense": lambda x: dense_elbo(process, x, clean, noisy, t),
    }
    torch.testing.assert_close(ways["elbo"](logits), ways["dense"](logits), rtol=1e-2, atol=1e-2)
    seconds = {}
    for name, loss in ways.items():
        seconds[name] = cpu_seconds(loss, logits, arguments.repeats)
        kept = kept_tensors(loss, logits)
        ratio = seconds[name] / seconds["cross-entropy"]
        print(f"{name:14} {seconds[name] * 1e3:8.1f} ms {ratio:6.2f}x  {kept:5.2f} tensors kept")
    print(f"ratio {seconds['elbo'] / seconds['cross-entropy']:.2f}")


if __name__ == "__main__":
    main()
