"""Published numbers, peers' conventions in terms of ours, and a slow reference.

The numbers in data/ were computed with the peers' own code: mdlm, gidd, gidd-easydel, SMDM,
LLaDA, dllm, SEDD, Duo, UDLM; four rows of eight tokens over ten real tokens and a mask.
"""

import json
import math
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch

from quokka_ray.diffusion.processes import Hybrid, LogSnrHybrid, Mask, Uniform
from quokka_ray.diffusion.schedule import elementwise
from quokka_ray.diffusion.schedules import (
    Cosine,
    Geometric,
    Linear,
    NoiseSchedule,
    Poly,
    SigmaLinear,
)

MASK, ROW = 10, 8


def load(name):
    """Return a file of published numbers."""
    return json.loads((Path(__file__).parent / "data" / f"{name}.json").read_text())


def flat(values, dtype=torch.float64):
    """Return nested [4, 8, ...] lists as a tensor [32, ...]."""
    return torch.tensor(values, dtype=dtype).flatten(0, 1)


class Inputs:
    """The inputs that all published losses share, flattened to 32 positions."""

    def __init__(self):
        data = load("inputs")
        self.with_mask_logit = flat(data["logits"])
        self.logits = self.with_mask_logit[:, :MASK]
        self.clean = flat(data["clean"], torch.int64)
        self.t = torch.tensor(data["t"], dtype=torch.float64).repeat_interleave(ROW)
        self.masked = flat(data["masked"], torch.int64)
        self.uniform = flat(data["uniform"], torch.int64)
        self.hybrid = flat(data["hybrid"], torch.int64)


@dataclass(frozen=True)
class Squeezed(NoiseSchedule):
    """alpha squeezed into [low, high]: how peers keep away from the ends of time."""

    inner: NoiseSchedule
    low: float = 0.0
    high: float = 1.0

    def alpha(self, t):
        return self.low + (self.high - self.low) * self.inner.alpha(t)

    def alpha_prime(self, t):
        return (self.high - self.low) * self.inner.alpha_prime(t)

    def log_alpha(self, t):
        return elementwise(t).log(self.alpha(t))

    def log1m_alpha(self, t):
        noise = elementwise(t).exp(self.inner.log1m_alpha(t))
        return elementwise(t).log((1 - self.high) + (self.high - self.low) * noise)

    def inverse(self, mask_rate):
        return self.inner.inverse((mask_rate - (1 - self.high)) / (self.high - self.low))


class CosinePower(NoiseSchedule):
    """alpha = cos(pi t / 2)^power, mdlm's cosine schedules: a new schedule in a few lines."""

    def __init__(self, power):
        self.power = power

    def alpha(self, t):
        return elementwise(t).cos(math.pi / 2 * t) ** self.power

    def alpha_prime(self, t):
        angle = math.pi / 2 * t
        slope = self.power * elementwise(t).cos(angle) ** (self.power - 1)
        return -math.pi / 2 * elementwise(t).sin(angle) * slope

    def log_alpha(self, t):
        return self.power * elementwise(t).log(elementwise(t).cos(math.pi / 2 * t))

    def log1m_alpha(self, t):
        return elementwise(t).log(-elementwise(t).expm1(self.log_alpha(t)))

    def inverse(self, mask_rate):
        return 2 / math.pi * elementwise(mask_rate).acos((1 - mask_rate) ** (1 / self.power))


EPS = 1e-3
SCHEDULES = {
    "linear": Linear(),
    "cosine": Cosine(),
    "poly2": Poly(),
    "poly3": Poly(3.0),
    "poly0.5": Poly(0.5),
    "geometric": Geometric(),
    "sigma_linear": SigmaLinear(),
}
MDLM = {
    "mdlm_loglinear_eps1e-3": Squeezed(Linear(), low=EPS),
    "mdlm_cosine_eps1e-3": Squeezed(CosinePower(1), low=EPS),
    "mdlm_cosinesqr_eps1e-3": Squeezed(CosinePower(2), low=EPS),
    "mdlm_sigma_linear_1e-3_7": SigmaLinear(spanning=False),
    "mdlm_geometric_1e-4_20": Geometric(spanning=False),
}


def processes(schedule, size):
    """Return one of each kind of process, with settings off their defaults too."""
    return [
        Mask(schedule, size),
        Uniform(schedule, size),
        Hybrid(schedule, size),
        Hybrid(schedule, size, p_uniform=0.6, gamma=1.7),
        LogSnrHybrid(schedule, size),
        LogSnrHybrid(schedule, size, shift=-2.0, scale=-0.5),
    ]


def reference_elbo(process, logits, clean, noisy, t):
    """Return the ELBO's integrand from dense distributions over K + 1 tokens, in float64.

    Rates come from differentiating the marginals by t: nothing of the closed forms is used.
    """
    size = process.vocab_size
    t = t.double().clone().requires_grad_()
    keep, mask, other = process.marginal(t)

    def slope(values):
        return torch.autograd.grad(values.sum(), t, retain_graph=True)[0]

    noise = torch.cat((other[:, None].expand(-1, size), mask[:, None]), dim=1)
    growth = [slope(v) if v.requires_grad else torch.zeros_like(v) for v in (other, mask)]
    growth = torch.cat((growth[0][:, None].expand(-1, size), growth[1][:, None]), dim=1)
    rate = growth - (slope(keep) / keep)[:, None] * noise
    truth = torch.nn.functional.one_hot(clean, size + 1).double()
    model = torch.cat((logits.double().softmax(-1), torch.zeros(len(logits), 1)), dim=1)
    q = (keep[:, None] * truth + noise).detach()
    p = keep[:, None].detach() * model + noise.detach()
    divergence = torch.where(q > 0, q * (q.log() - p.log()), 0).sum(-1)
    here = noisy[:, None]
    ratio = (q.gather(1, here) / p.gather(1, here)).squeeze(1)
    weight = (rate.detach().gather(1, here) / q.gather(1, here)).squeeze(1)
    loss = weight * (divergence + ratio - 1 - ratio.log())
    # A token that noise cannot have made: R may be infinite, the weight is 0.
    return torch.where(weight > 0, loss, 0)


def reachable(process, clean):
    """Return a mask over K + 1 tokens of what the process can turn `clean` into."""
    keep, mask, other = process.marginal(0.5)
    tokens = np.full(process.vocab_size + 1, other > 0)
    tokens[clean] = keep > 0
    tokens[process.mask_id] = mask > 0
    return tokens


def quadrature(steps=140):
    """Return nodes and weights on (0, 1), tanh-sinh: singular ends do it no harm."""
    u = np.linspace(-3.9, 3.2, steps)
    inner = math.pi / 2 * np.sinh(u)
    nodes = 1 / (1 + np.exp(-2 * inner))
    weights = (u[1] - u[0]) * math.pi / 4 * np.cosh(u) / np.cosh(inner) ** 2
    return torch.from_numpy(nodes), torch.from_numpy(weights)


def nelbo(process, elbo, text, denoise):
    """Return a text's NELBO in nats, by enumerating its noisy versions and quadrature over t.

    Args:
        process: The noise process.
        elbo: The integrand.
        text: A list of L clean tokens.
        denoise: Maps noisy text, a tuple, and the marginal at t, three float64 [T], to
            a list of L tensors of probabilities [T, K] or [K].
    """
    nodes, weights = quadrature()
    keep, mask, other = process.marginal(nodes)
    size, count = process.vocab_size, len(nodes)
    rows = []
    for noisy in product(range(size + 1), repeat=len(text)):
        chance = torch.ones_like(nodes)
        for clean, token in zip(text, noisy, strict=True):
            chance = chance * (mask if token == size else other + keep * (token == clean))
        if not (chance > 0).any():
            continue
        predicted = denoise(noisy, (keep, mask, other))
        for belief, clean, token in zip(predicted, text, noisy, strict=True):
            logits = torch.as_tensor(belief).log().expand(count, size)
            ids = [torch.full((count,), v) for v in (clean, token)]
            rows.append((logits, *ids, nodes, weights * chance))
    *arguments, shares = (torch.cat(column) for column in zip(*rows, strict=True))
    return elbo(process, *arguments).dot(shares).item()
