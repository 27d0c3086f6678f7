"""Micro-batches: chosen by the memory model, and made smaller when memory runs out."""

import json

import pytest
import torch
from trajectories import trajectory

from quokka_ray.errors import MachineError
from quokka_ray.model.transformer import FeedForward
from quokka_ray.study.config import DiffusionConfig, fit_to_kernel
from quokka_ray.training import micro_batches, optimizers
from quokka_ray.training.device_memory import MicroBatch, Notes, is_out_of_memory
from quokka_ray.training.loop import Trainer
from quokka_ray.training.memory import Recipe, step_memory
from quokka_ray.training.micro_batches import MicroBatches, cuts
from quokka_ray.training.run import train

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def causal(corpus, **changes):
    """Return a run whose step is autograd's, block by block."""
    config = trajectory(corpus, steps=12, **changes)
    diffusion = DiffusionConfig(kernel="none", objective="next_token")
    model = fit_to_kernel(config.model, diffusion)
    return config.model_copy(update={"diffusion": diffusion, "model": model})


def run(config, folder, **options):
    rows = []
    outcome = train(config, folder, report=rows.append, **options)
    return outcome, [row for row in rows if row["kind"] == "micro_batch"]


def stop_after(polls):
    count = iter(range(polls))
    return lambda: next(count, None) is None


class Backward(torch.autograd.Function):
    """The identity, whose backward pass calls a function."""

    @staticmethod
    def forward(ctx, x, function):
        ctx.function = function
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        ctx.function()
        return gradient, None


class Fault:
    """Raises at one call of many."""

    def __init__(self, at, error=FULL):
        self.left, self.error = at, error

    def __call__(self):
        self.left -= 1
        if self.left == 0:
            raise self.error


def fault_in(monkeypatch, where, at, error=FULL):
    fault = Fault(at, error)
    forward = FeedForward.forward
    if where == "forward":

        def broken(self, x):
            fault()
            return forward(self, x)

        monkeypatch.setattr(FeedForward, "forward", broken)
    elif where == "backward":
        monkeypatch.setattr(
            FeedForward, "forward", lambda self, x: Backward.apply(forward(self, x), fault)
        )
    elif where == "moments":
        zeros = torch.zeros_like

        def no_zeros(*args, **options):
            fault()
            return zeros(*args, **options)

        monkeypatch.setattr(torch, "zeros_like", no_zeros)
    elif where == "AdamW":
        step = torch.optim.AdamW.step

        def no_step(self, *args):
            fault()
            return step(self, *args)

        monkeypatch.setattr(torch.optim.AdamW, "step", no_step)
    else:
        whole = optimizers.orthogonalise

        def not_orthogonal(stack):
            fault()
            return whole(stack)

        monkeypatch.setattr(optimizers, "orthogonalise", not_orthogonal)
    return fault


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory):
    return {
        optimizer: run(causal(corpus, optimizer=optimizer), tmp_path_factory.mktemp(optimizer))[0]
        for optimizer in ("adamw", "muon")
    }


@pytest.mark.parametrize(
    ("optimizer", "where", "at"),
    [
        ("adamw", "forward", 3),
        ("adamw", "backward", 8),
        ("adamw", "AdamW", 5),
        ("adamw", "moments", 7),
        ("muon", "moments", 30),
        ("muon", "stack", 1),
        ("muon", "stack", 6),
    ],
)
def test_a_run_that_meets_the_end_of_memory_goes_on_and_differs_by_rounding_only(
    corpus, tmp_path, monkeypatch, undisturbed, optimizer, where, at
):
    fault = fault_in(monkeypatch, where, at)
    outcome, changes = run(causal(corpus, optimizer=optimizer), tmp_path / "t0")
    assert fault.left <= 0, "the fault was never met"
    assert outcome.status == "finished"
    assert outcome.loss == pytest.approx(undisturbed[optimizer].loss, rel=1e-5)
    (change,) = changes
    assert change["micro_batch_sequences"] == 4
    assert not change["activation_checkpointing"]
    assert "out of memory" in change["reason"]
    assert change["trajectory"] == "t0"
    assert change["tokens"] % (8 * 32) == 0


def test_memory_that_ends_in_the_second_micro_batch_and_again_later_halves_twice(
    corpus, tmp_path, monkeypatch, undisturbed
):
    # Two blocks a pass: the fifth backward pass of a block is in the second of two parts.
    config = causal(corpus, optimizer="adamw", micro_batch_sequences=4)
    fault = fault_in(monkeypatch, "backward", 3)
    again = iter((6,))
    shrink = MicroBatches._shrink

    def set_again(self, *args):
        fault.left = next(again, -1)
        shrink(self, *args)

    monkeypatch.setattr(MicroBatches, "_shrink", set_again)
    outcome, changes = run(config, tmp_path / "t0")
    assert [row["micro_batch_sequences"] for row in changes] == [4, 2, 1]
    assert outcome.loss == pytest.approx(undisturbed["adamw"].loss, rel=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: out of memory\nCUDA kernel errors might be reported later",
    ],
)
def test_memory_that_is_out_beside_torchs_own_counts(text):
    assert is_out_of_memory(RuntimeError(text))


def test_the_text_of_a_cpus_allocator_counts_and_other_errors_do_not(
    corpus, tmp_path, monkeypatch
):
    text = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"
    assert is_out_of_memory(RuntimeError(text))
    fault_in(monkeypatch, "forward", 3, RuntimeError("shapes disagree"))
    with pytest.raises(RuntimeError, match="shapes disagree"):
        run(causal(corpus), tmp_path)


def test_a_run_that_never_fits_ends_with_the_numbers_and_what_helps(corpus, tmp_path, monkeypatch):
    tried = []

    def no_room(self, tokens, batch):
        tried.append((len(tokens), self.model.checkpointing))
        raise FULL

    monkeypatch.setattr(Trainer, "_learn", no_room)
    with pytest.raises(MachineError, match=r"out of memory on cpu.*a smaller model.*seq_len"):
        run(causal(corpus), tmp_path)
    assert tried[:4] == [(8, False), (4, False), (2, False), (1, False)]
    assert tried[-1] == (1, True)


def test_a_resume_goes_on_with_the_micro_batch_that_fitted_to_the_bit(
    corpus, tmp_path, monkeypatch
):
    config = causal(corpus)
    with monkeypatch.context() as patch:
        fault_in(patch, "forward", 5)
        straight, _ = run(config, tmp_path / "a" / "t0")
    with monkeypatch.context() as patch:
        fault_in(patch, "forward", 5)
        run(config, tmp_path / "b" / "t0", should_stop=stop_after(6))
    resumed, changes = run(config, tmp_path / "b" / "t0")
    assert resumed == straight
    assert not changes, "what goes on as before is no change"


def test_the_next_run_of_the_shape_starts_where_the_last_one_came_down_to(
    corpus, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        fault_in(patch, "forward", 5)
        run(causal(corpus), tmp_path / "t0")
    outcome, changes = run(causal(corpus), tmp_path / "t1")
    assert outcome.status == "finished"
    assert [row["micro_batch_sequences"] for row in changes] == [4]
    _, other = run(causal(corpus, d_model=24), tmp_path / "t2")
    assert not other, "another size has learnt nothing"


def test_notes_that_are_damaged_or_cannot_be_written_are_no_obstacle(corpus, tmp_path):
    recipe = Recipe.of(causal(corpus))
    path = tmp_path / "notes.json"
    path.write_text("{")
    notes = Notes(path)
    assert notes.correction(recipe, "cpu") == 1
    notes.correct(recipe, "cpu", 1.3)
    notes.correct(recipe, "cpu", 1.1)
    assert Notes(path).correction(recipe, "cpu") == 1.3
    assert json.loads(path.read_text())["limits"] == {}
    Notes(tmp_path / "absent" / "notes.json").correct(recipe, "cpu", 1.3)


def test_parts_are_equal_and_hold_whole_antithetic_pairs():
    for batch in (8, 12, 14, 256):
        rows = [cut.rows for cut in cuts(batch, "never")]
        assert rows[0] == batch
        assert rows[-1] == 1
        assert all(batch % n == 0 and (n % 2 == 0 or n == 1) for n in rows)
    assert [cut.rows for cut in cuts(8, "never", most=3)] == [3, 2, 1]
    assert all(cut.checkpointing for cut in cuts(8, "always"))
    both = [cut.checkpointing for cut in cuts(8, "auto")]
    assert both == sorted(both), "blocks run twice only where nothing else is left"


@pytest.mark.parametrize("share", [2.0, 0.8, 0.5, 0.3, 0.18])
def test_the_largest_part_that_fits_is_chosen_and_blocks_run_twice_only_if_they_must(
    corpus, monkeypatch, share
):
    config = trajectory(corpus, d_model=64, batch_sequences=64)
    recipe = Recipe.of(config)

    def peak(cut):
        return step_memory(
            recipe, cut.rows, accumulate=cut.rows < 64, checkpointing=cut.checkpointing
        ).peak

    free = share * peak(MicroBatch(64)) / 0.8
    monkeypatch.setattr(micro_batches, "free_memory", lambda device: free)
    told = []
    chosen = MicroBatches(config, "cpu", report=told.append).now
    tried = cuts(64, "auto")
    assert peak(chosen) <= 0.8 * free
    assert all(peak(cut) > 0.8 * free for cut in tried[: tried.index(chosen)])
    assert bool(told) == (chosen != MicroBatch(64))


def test_what_cannot_fit_is_refused_before_anything_is_built(corpus, monkeypatch):
    monkeypatch.setattr(micro_batches, "free_memory", lambda device: 1e4)
    with pytest.raises(MachineError, match="were free at the start"):
        MicroBatches(trajectory(corpus), "cpu")


def test_a_measurement_corrects_the_choice_of_the_next_run(corpus, monkeypatch, tmp_path):
    config = trajectory(corpus, d_model=64, batch_sequences=64)
    recipe = Recipe.of(config)
    free = 1.05 * step_memory(recipe, 64).peak / 0.8
    monkeypatch.setattr(micro_batches, "free_memory", lambda device: free)
    notes = Notes(tmp_path / "notes.json")
    assert MicroBatches(config, "cpu", notes=notes).now == MicroBatch(64)
    notes.correct(recipe, "cpu", 1.2)
    assert MicroBatches(config, "cpu", notes=notes).now == MicroBatch(32)


def test_blocks_that_run_twice_give_the_same_gradients_to_the_bit(corpus):
    config = causal(corpus)
    windows = corpus.window_order(config.unique_tokens, config.model.seq_len, 0)
    once, twice = (
        Trainer(config.model_copy(update={"training": training}), windows, "cpu")
        for training in (
            config.training,
            config.training.model_copy(update={"activation_checkpointing": "always"}),
        )
    )
    for trainer in (once, twice):
        trainer.advance()
        trainer.advance()
    assert twice.model.checkpointing
    assert not once.model.checkpointing
    for p, q in zip(once.model.parameters(), twice.model.parameters(), strict=True):
        assert torch.equal(p, q)
