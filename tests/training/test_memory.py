"""The memory model against the step itself, run on tensors without storage."""

import dataclasses

import pytest
import torch
from trajectories import MODEL

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
from quokka_ray.training.memory import Recipe, gib, step_memory
from quokka_ray.training.memory_trace import trace_step

WITHIN = 0.15
MID = {"d_model": 512, "layers": 3, "vocab_size": 32_000, "seq_len": 512, "rows": 8}
DEEP = {"d_model": 256, "layers": 5, "vocab_size": 258, "seq_len": 256, "rows": 8}
BILLION = {"d_model": 1728, "layers": 25, "vocab_size": 50_257, "seq_len": 2048, "rows": 8}
UNIFORM = DiffusionConfig(kernel="uniform")
NEXT = DiffusionConfig(kernel="none", objective="next_token")


def run_of(d_model, layers, vocab_size, seq_len, rows, diffusion=None, model=None, **training):
    diffusion = diffusion or DiffusionConfig()
    family = fit_to_kernel(ModelConfig(seq_len=seq_len, **(model or {})), diffusion)
    shape = make_shape(d_model, layers, family)
    params = count_params(shape, family, vocab_size)
    return TrajectoryConfig(
        id="t0",
        study="test",
        corpus="none",
        corpus_hash="none",
        tokenizer="none",
        vocab_size=vocab_size,
        model=family,
        shape=shape,
        diffusion=diffusion,
        training=TrainingConfig(batch_sequences=rows, **training),
        evaluation=EvaluationConfig(),
        tokens=100 * rows * seq_len,
        unique_tokens=1 << 30,
        lr=1e-3,
        lr_schedule="constant",
        seed=0,
        params=params,
        params_non_embedding=count_params_non_embedding(shape, family, vocab_size),
        flops=1.0,
        flops_exact=1.0,
    )


def predicted(config, rows, checkpointing=False):
    return step_memory(
        Recipe.of(config),
        rows,
        accumulate=rows < config.training.batch_sequences,
        checkpointing=checkpointing,
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("size", "rows", "checkpointing", "options"),
    [
        (MID, 8, False, {}),
        (MID, 2, False, {"optimizer": "muon"}),
        (MID, 1, False, {}),
        (MID, 8, True, {}),
        (MID, 4, False, {"diffusion": NEXT}),
        (DEEP, 8, False, {}),
        (DEEP, 8, True, {"optimizer": "muon"}),
        (DEEP, 8, False, {"dropout": 0.1}),
        (DEEP, 8, True, {"dropout": 0.1}),
        (DEEP, 8, False, {"diffusion": UNIFORM}),
        (DEEP, 8, False, {"model": {"qk_norm": False, "conv_width": 3, "embedding_norm": True}}),
    ],
)
def test_the_model_says_what_a_step_holds(precision, size, rows, checkpointing, options):
    config = run_of(**size, precision=precision, **options)
    traced = trace_step(config, rows, checkpointing=checkpointing)
    memory = predicted(config, rows, checkpointing)
    assert memory.peak == pytest.approx(traced.peak, rel=WITHIN)
    if config.training.optimizer == "adamw":
        # A fused update holds what lasts, and nothing else.
        lasting = memory.parameters + memory.gradients + memory.optimizer
        assert traced.update == pytest.approx(lasting, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "checkpointing"), [(8, False), (2, False), (8, True)])
def test_a_model_of_a_billion_parameters_at_2048_tokens(rows, checkpointing):
    config = run_of(**BILLION, precision="bf16")
    traced = trace_step(config, rows, checkpointing=checkpointing)
    assert predicted(config, rows, checkpointing).peak == pytest.approx(traced.peak, rel=WITHIN)


def test_the_trace_counts_what_torchs_own_tracker_counts():
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    from quokka_ray.model.transformer import DiffusionTransformer
    from quokka_ray.training.memory_trace import Allocations

    shape = make_shape(32, 2, MODEL)
    with FakeTensorMode():
        totals = []
        for ours in (True, False):
            model = DiffusionTransformer(shape, MODEL, 300)
            if ours:
                tracker = Allocations(round_to=1)
                for tensor in [*model.parameters(), *model.buffers()]:
                    tracker.add(tensor)
            else:
                tracker = MemTracker()
                tracker.track_external(model)
            with tracker:
                tokens = torch.zeros((4, 32), dtype=torch.int64)
                model.logits(model(tokens).flatten(0, 1)).square().sum().backward()
            totals.append(
                tracker.peak_since()
                if ours
                else next(iter(tracker.get_tracker_snapshot("peak").values()))["Total"]
            )
    assert totals[0] == pytest.approx(totals[1], rel=0.01)


def test_parts_add_up_where_arithmetic_is_plain():
    config = run_of(**MID)
    memory = predicted(config, 8)
    assert memory.parameters == memory.gradients == 4 * config.params
    assert memory.optimizer == 8 * config.params
    assert memory.casts == 0
    matrices = 3 * (4 * 512**2 + 3 * 512 * config.shape.ffn)
    assert predicted(run_of(**MID, precision="bf16"), 8).casts == 2 * matrices
    muon = predicted(run_of(**MID, optimizer="muon"), 8)
    assert muon.optimizer == 8 * config.params - 4 * matrices


def test_sharding_divides_what_lasts_and_gathers_a_block_at_a_time():
    recipe = Recipe.of(run_of(**BILLION, precision="bf16"))
    whole = step_memory(recipe, 1)
    peaks = [step_memory(dataclasses.replace(recipe, shards=n), 1).peak for n in (2, 4, 8, 64)]
    assert sorted(peaks, reverse=True) == peaks
    assert peaks[0] < whole.peak
    # What is not sharded: the table, two blocks, casts and activations.
    assert peaks[-1] > whole.activations + whole.casts


def test_memory_grows_with_rows_and_shrinks_with_checkpointing():
    config = run_of(**BILLION, precision="bf16")
    peaks = [predicted(config, rows).peak for rows in (1, 2, 4, 8)]
    assert peaks == sorted(peaks)
    assert predicted(config, 8, checkpointing=True).peak < 0.4 * peaks[-1]


def test_sizes_are_readable():
    assert gib(3 * 2**30) == "3.0 GiB"
    assert gib(140 * 2**20) == "140 MiB"
