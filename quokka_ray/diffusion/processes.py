"""Noise processes: what a token turns into at time t.

Every process here has the marginal q_t(. | x0) = alpha(t) e_x0 + m_t(.) (D3PM; GIDD section 3),
where the noise m_t gives one probability to the mask token and one, the same, to each of the K
real tokens. The mask token's id is K; x0's own share of the noise counts as noise, so that a
token which noise drew equal to x0 cannot be told from a clean one.

Functions of t take a float, a float array or a float tensor of any shape, on any device, and
return the like. The primitives are logarithms, exact near both ends of time.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from quokka_ray.diffusion.schedule import NoiseSchedule, Time, divide, elementwise, log1p


@dataclass(frozen=True)
class NoiseProcess(ABC):
    """A schedule of alpha and a way to share the noise between the mask and the real tokens.

    Attributes:
        schedule: The noise schedule, a function of t in [0, 1].
        vocab_size: Real tokens K.
        needs_time: Whether the denoiser is told t. Masked text shows its own noise level, so
            that the mask process needs none; the others do by default.

    Raises:
        ValueError: Fewer than two real tokens.
    """

    schedule: NoiseSchedule
    vocab_size: int
    needs_time: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        if self.vocab_size < 2:
            raise ValueError(f"a vocabulary of {self.vocab_size} tokens; at least two are needed")

    @property
    def mask_id(self) -> int:
        """The mask token's id, K."""
        return self.vocab_size

    @abstractmethod
    def log_marginal(self, t: Time) -> tuple[Time, Time, Time]:
        """Return the logarithms of `marginal(t)`; minus infinity where it is 0."""

    @abstractmethod
    def noise_weights(self, t: Time) -> tuple[Time, Time]:
        """Return w = r_t(z) / m_t(z) for z the mask, and for z a real token that is not x0.

        r_t(z) = m_t'(z) - (alpha' / alpha) m_t(z) is the rate at which every other token turns
        into z, at least 0. For z = x0 the ELBO's weight is r_t(z) / (alpha + m_t(z)).
        """

    def marginal(self, t: Time) -> tuple[Time, Time, Time]:
        """Return P(kept), P(mask by noise), and P(z by noise) of each one real token z.

        The three add to 1 when the last is counted K times.
        """
        exp = elementwise(t).exp
        keep, mask, other = self.log_marginal(t)
        return exp(keep), exp(mask), exp(other)

    def rates(self, t: Time) -> tuple[Time, Time]:
        """Return r_t of the mask and of each one real token, per unit of t; for 0 < t < 1."""
        _, mask, other = self.marginal(t)
        to_mask, to_other = self.noise_weights(t)
        return to_mask * mask, to_other * other

    def corrupt(
        self, tokens: np.ndarray, t: np.ndarray, generator: np.random.Generator
    ) -> np.ndarray:
        """Draw noisy text, each token by itself.

        How many numbers are drawn depends on the shape alone. With one generator, the noise at
        a later time keeps no token that an earlier time replaced.

        Args:
            tokens: int64 [B, L], clean, ids below K.
            t: float64 [B], a time for each row, or [B, L], one for each token.
            generator: Where the randomness comes from.

        Returns:
            int64 [B, L], ids up to K.
        """
        _, mask, other = self.marginal(t[:, None] if t.ndim == 1 else t)
        draw = generator.random(tokens.shape)
        replacement = generator.integers(self.vocab_size, size=tokens.shape)
        noisy = np.where(draw < mask + self.vocab_size * other, replacement, tokens)
        return np.where(draw < mask, self.mask_id, noisy)


@dataclass(frozen=True)
class Mask(NoiseProcess):
    """Absorbing noise: m_t = (1 - alpha) on the mask token (mdlm, md4, LLaDA, Quokka)."""

    needs_time: bool = field(default=False, kw_only=True)

    def log_marginal(self, t: Time) -> tuple[Time, Time, Time]:
        """Return log alpha, log(1 - alpha) and minus infinity."""
        return self.schedule.log_alpha(t), self.schedule.log1m_alpha(t), 0 * t - math.inf

    def noise_weights(self, t: Time) -> tuple[Time, Time]:
        """Return -alpha' / (alpha (1 - alpha)) and 0: no real token comes from noise."""
        return divide(self.schedule.weight(t), self.schedule.alpha(t)), 0 * t


@dataclass(frozen=True)
class Uniform(NoiseProcess):
    """Uniform noise: m_t = (1 - alpha) / K on every real token (UDLM, Duo)."""

    def log_marginal(self, t: Time) -> tuple[Time, Time, Time]:
        """Return log alpha, minus infinity and log((1 - alpha) / K)."""
        other = self.schedule.log1m_alpha(t) - math.log(self.vocab_size)
        return self.schedule.log_alpha(t), 0 * t - math.inf, other

    def noise_weights(self, t: Time) -> tuple[Time, Time]:
        """Return 0, for no token is masked, and -alpha' / (alpha (1 - alpha))."""
        return 0 * t, divide(self.schedule.weight(t), self.schedule.alpha(t))


@dataclass(frozen=True)
class Hybrid(NoiseProcess):
    """GIDD's mixture of mask and uniform noise (von Ruette et al. 2025, section 3.2).

    With u the schedule's mask rate 1 - alpha(t), c = B (u (1 - u))^(gamma / 2) and
    B = 2^gamma p / (1 - p): a token is kept with probability (1 - u) / (1 + c), masked with
    u / (1 + c) and replaced by a uniform real token with c / (1 + c). GIDD's own time is u, the
    linear schedule.

    Attributes:
        p_uniform: p, the share of uniform noise at u = 1/2, where it is largest; in [0, 1).
        gamma: How the share falls towards both ends; in (0, 2], else a rate would be negative.

    Raises:
        ValueError: A setting out of its range.
    """

    p_uniform: float = 0.1
    gamma: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.p_uniform < 1:
            raise ValueError(f"p_uniform is {self.p_uniform}; it must be in [0, 1)")
        if not 0 < self.gamma <= 2:
            raise ValueError(f"gamma is {self.gamma}; it must be in (0, 2]")

    def log_marginal(self, t: Time) -> tuple[Time, Time, Time]:
        """Return the logarithms of the three probabilities above, the last for one token."""
        clean, rate = self.schedule.log_alpha(t), self.schedule.log1m_alpha(t)
        p = self.p_uniform
        log_b = self.gamma * math.log(2) + math.log(p) - math.log1p(-p) if p else -math.inf
        log_c = log_b + self.gamma / 2 * (clean + rate)
        total = log1p(elementwise(t).exp(log_c))
        return clean - total, rate - total, log_c - total - math.log(self.vocab_size)

    def noise_weights(self, t: Time) -> tuple[Time, Time]:
        """Return u' / (u (1 - u)), and that times gamma / 2 + (1 - gamma) u."""
        to_mask = divide(self.schedule.weight(t), self.schedule.alpha(t))
        rate = elementwise(t).exp(self.schedule.log1m_alpha(t))
        return to_mask, to_mask * (self.gamma / 2 + (1 - self.gamma) * rate)


@dataclass(frozen=True)
class LogSnrHybrid(NoiseProcess):
    """The mixture as a function of the log signal-to-noise ratio (gidd-easydel).

    Of the noise, 1 - alpha, a share s = sigmoid(scale * lambda + shift) is uniform over real
    tokens and the rest is masks, with lambda = log(alpha / (1 - alpha)).

    Attributes:
        shift: Low, balanced and high uniform noise are -2, 0 and 2; far below 0 it is the mask
            process, far above the uniform one.
        scale: In [-1, 1], else a rate would be negative.

    Raises:
        ValueError: A setting out of its range.
    """

    shift: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -1 <= self.scale <= 1:
            raise ValueError(f"scale is {self.scale}; it must be in [-1, 1]")
        if not math.isfinite(self.shift):
            raise ValueError(f"shift is {self.shift}; it must be finite")

    def _log_shares(self, t: Time) -> tuple[Time, Time]:
        """Return log(1 - s) and log s."""
        functions = elementwise(t)
        zero = 0 * t
        x = zero + self.shift
        if self.scale:
            x = x + self.scale * (self.schedule.log_alpha(t) - self.schedule.log1m_alpha(t))
        return -functions.logaddexp(zero, x), -functions.logaddexp(zero, -x)

    def log_marginal(self, t: Time) -> tuple[Time, Time, Time]:
        """Return log alpha, log((1 - alpha)(1 - s)) and log((1 - alpha) s / K)."""
        masks, uniform = self._log_shares(t)
        noise = self.schedule.log1m_alpha(t)
        other = noise + uniform - math.log(self.vocab_size)
        return self.schedule.log_alpha(t), noise + masks, other

    def noise_weights(self, t: Time) -> tuple[Time, Time]:
        """Return -alpha' / (alpha (1 - alpha)) times 1 + scale s, and times 1 - scale (1 - s)."""
        exp = elementwise(t).exp
        masks, uniform = self._log_shares(t)
        base = divide(self.schedule.weight(t), self.schedule.alpha(t))
        to_mask, to_other = 1 + self.scale * exp(uniform), 1 - self.scale * exp(masks)
        return base * to_mask, base * to_other


PROCESSES: dict[str, Callable[..., NoiseProcess]] = {
    "mask": Mask,
    "uniform": Uniform,
    "hybrid": Hybrid,
    "log_snr_hybrid": LogSnrHybrid,
}
"""The names that a study file may give as `diffusion.kernel`."""


def noise_process(
    kernel: str, schedule: NoiseSchedule, vocab_size: int, **settings: float
) -> NoiseProcess:
    """Return a process by name.

    Args:
        kernel: One of `PROCESSES`.
        schedule: The noise schedule.
        vocab_size: Real tokens K.
        settings: The process's own: `p_uniform` and `gamma` of hybrid, `shift` and `scale` of
            log_snr_hybrid, `needs_time` of all.

    Raises:
        ValueError: No such process, or a setting that it has not or does not allow.
    """
    if kernel not in PROCESSES:
        raise ValueError(f"no noise process {kernel!r}; there are {', '.join(PROCESSES)}")
    try:
        return PROCESSES[kernel](schedule, vocab_size, **settings)
    except TypeError as error:
        raise ValueError(f"noise process {kernel!r} does not take {settings}: {error}") from None
