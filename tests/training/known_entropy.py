"""Texts of a known entropy, endless, for the tests of what training reaches."""

import numpy as np

from quokka_ray.model.counts import count_params, count_params_non_embedding
from quokka_ray.model.shapes import make_shape
from quokka_ray.study.config import (
    DiffusionConfig,
    EvaluationConfig,
    ModelConfig,
    TrainingConfig,
    fit_to_kernel,
)
from quokka_ray.study.trajectory import TrajectoryConfig

KERNELS = {
    "mask": {},
    "uniform": {"kernel": "uniform"},
    "hybrid": {"kernel": "hybrid"},
    "none": {"kernel": "none", "objective": "next_token"},
}


class Chain:
    """A stationary Markov chain of `states` states.

    Attributes:
        entropy: Of a token of a text of `length`, in nats.
    """

    def __init__(self, states, length, seed=0):
        generator = np.random.default_rng(seed)
        self.length = length
        self.transition = generator.dirichlet(np.full(states, 0.4), states)
        values, vectors = np.linalg.eig(self.transition.T)
        start = np.abs(np.real(vectors[:, np.argmax(values.real)]))
        self.start = start / start.sum()
        logs = np.log(np.maximum(self.transition, 1e-300))
        rate = -(self.start[:, None] * self.transition * logs).sum()
        first = -(self.start * np.log(self.start)).sum()
        self.entropy = float(first + (length - 1) * rate) / length

    def batch(self, first, count, seed=0):
        """Draw windows first .. first + count of an endless stream, int64 [count, length]."""
        generator = np.random.default_rng((seed, first))
        sums = self.transition.cumsum(1)
        tokens = np.empty((count, self.length), dtype=np.int64)
        tokens[:, 0] = np.searchsorted(self.start.cumsum(), generator.random(count))
        for i in range(1, self.length):
            draw = generator.random(count)[:, None]
            tokens[:, i] = (sums[tokens[:, i - 1]] < draw).sum(1)
        return np.minimum(tokens, len(self.start) - 1)

    def surprise(self, tokens):
        """Return -log p(text) of texts [count, length] per token, in nats, [count]."""
        logs = -np.log(np.maximum(self.transition, 1e-300))
        total = -np.log(self.start[tokens[:, 0]]) + logs[tokens[:, :-1], tokens[:, 1:]].sum(1)
        return total / self.length


def chain_trajectory(chain, kernel, *, steps, d_model=24, batch=16, lr=1e-2, diffusion=None):
    """Return the configuration of a run on `chain` under one kernel."""
    section = DiffusionConfig(**(diffusion or KERNELS[kernel]))
    family = ModelConfig(
        seq_len=chain.length,
        head_dim=8,
        ffn_multiple=8,
        rope_base=100,
        embedding_norm=True,
        conv_width=3,
        zero_init_residual=True,
        init_std=0.1,
    )
    model = fit_to_kernel(family, section)
    recipe = TrainingConfig(
        optimizer="muon",
        lr=lr,
        muon_lr_ratio=1.667,
        beta2=0.98,
        batch_sequences=batch,
        cooldown_fraction=0.4,
        weight_decay=0,
    )
    states, shape = len(chain.start), make_shape(d_model, 2, model)
    tokens = steps * batch * chain.length
    return TrajectoryConfig(
        id="t0",
        study="test",
        corpus="/none",
        corpus_hash="none",
        tokenizer="none",
        vocab_size=states,
        model=model,
        shape=shape,
        diffusion=section,
        training=recipe,
        evaluation=EvaluationConfig(sequences=512, draws=8),
        tokens=tokens,
        unique_tokens=tokens,
        lr=lr,
        lr_schedule="wsd",
        seed=0,
        params=count_params(shape, model, states),
        params_non_embedding=count_params_non_embedding(shape, model, states),
        flops=1.0,
        flops_exact=1.0,
    )
