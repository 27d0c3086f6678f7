"""What stands around a CUDA graph, with the recording of a CPU in its place."""

import pytest
import torch
from trajectories import trajectory

from quokka_ray.study.config import DiffusionConfig
from quokka_ray.training import cuda_graphs
from quokka_ray.training.cuda_graphs import Replayed, fits
from quokka_ray.training.loop import Trainer


class Recorder:
    """Repeats a function on the inputs that it was recorded with, into the tensor it returned."""

    def __init__(self):
        self.recordings = 0

    def __call__(self, function):
        self.recordings += 1
        for _ in range(3):
            result = function()
        return lambda: result.copy_(function()), result


def trained(corpus, config, recorder=None, steps=6):
    trainer = Trainer(config, corpus.window_order(config.unique_tokens, 32, config.seed), "cpu")
    trainer.fused = None  # on a GPU autograd makes the passes
    if recorder is not None:
        trainer._replayed = Replayed(trainer._learn, trainer._parameters, recorder)
        trainer._may_replay = lambda rows: True
    losses = []
    for _ in range(steps):
        trainer.advance()
        losses.append(trainer.smoothed_loss.item())
    return losses, [parameter.detach() for parameter in trainer.model.parameters()]


@pytest.mark.parametrize("rows", [8, 4, 2])
@pytest.mark.parametrize("kernel", ["mask", "uniform"])
def test_replayed_passes_train_as_the_passes_themselves(corpus, rows, kernel):
    config = trajectory(corpus, micro_batch_sequences=rows)
    config = config.model_copy(update={"diffusion": DiffusionConfig(kernel=kernel)})
    recorder = Recorder()
    losses, parameters = trained(corpus, config, recorder)
    expected, expected_parameters = trained(corpus, config)
    assert recorder.recordings == 1
    assert losses == pytest.approx(expected, rel=1e-6)
    for one, other in zip(parameters, expected_parameters, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_shapes_that_keep_changing_are_not_recorded_for_ever(corpus, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "_MOST_GRAPHS", 2)
    diffusion = DiffusionConfig(mask_sampler="independent")
    config = trajectory(corpus).model_copy(update={"diffusion": diffusion})
    recorder = Recorder()
    losses, _ = trained(corpus, config, recorder)
    expected, _ = trained(corpus, config)
    assert recorder.recordings == 2
    assert losses == pytest.approx(expected, rel=1e-6)


def test_a_graph_is_for_small_models_of_one_shape_on_a_gpu(corpus):
    config = trajectory(corpus)
    assert fits(config, 8, "cuda")
    assert not fits(config, 8, "cpu")
    assert not fits(config, 3, "cuda"), "pairs of masks are torn, and their number changes"
    assert not fits(config, 6, "cuda"), "the last micro-batch is smaller"

    def changed(**sections):
        return config.model_copy(update=sections)

    never = config.training.model_copy(update={"cuda_graphs": "never"})
    assert not fits(changed(training=never), 8, "cuda")
    cosine = DiffusionConfig(noise_schedule="cosine")
    assert not fits(changed(diffusion=cosine), 8, "cuda"), "the number of masks is random"
    assert fits(changed(diffusion=DiffusionConfig(kernel="uniform")), 3 + 1, "cuda")
    large = config.shape.model_copy(update={"d_model": 2048, "ffn": 5440, "heads": 256})
    many = config.training.model_copy(update={"batch_sequences": 512})
    assert fits(changed(training=many), 512, "cuda")
    assert not fits(changed(training=many, shape=large), 512, "cuda")


def test_micro_batches_of_whole_pairs_have_equal_shapes(corpus):
    config = trajectory(corpus, batch_sequences=12, micro_batch_sequences=4)
    windows = corpus.window_order(config.unique_tokens, 32, config.seed)
    trainer = Trainer(config, windows, "cpu")
    shapes = set()
    for step in range(20):
        _, batch = trainer.feed.take(step)
        for first in range(0, 12, 4):
            part = batch.part(first, first + 4, 32)
            shapes.add((part.flat.shape, part.weights.shape, part.normaliser))
    assert shapes == {((4 * 33 // 2,), (4 * 33 // 2,), 12 * 32)}
