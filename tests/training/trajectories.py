"""A small real corpus and trajectories on it, for the tests of training."""

import random

from quokka_ray.corpus.prepare import prepare
from quokka_ray.corpus.store import TokenCorpus
from quokka_ray.model.counts import (
    count_params,
    count_params_non_embedding,
    evaluation_flops,
    training_flops,
)
from quokka_ray.model.shapes import make_shape
from quokka_ray.study.config import (
    CorpusConfig,
    DiffusionConfig,
    EvaluationConfig,
    ModelConfig,
    TrainingConfig,
)
from quokka_ray.study.path import path_steps
from quokka_ray.study.trajectory import TrajectoryConfig

MODEL = ModelConfig(
    seq_len=32,
    head_dim=8,
    ffn_multiple=8,
    rope_base=100,
    embedding_norm=True,
    conv_width=3,
    zero_init_residual=True,
)
TRAINING = TrainingConfig(
    optimizer="muon",
    lr=1.2e-2,
    muon_lr_ratio=1.667,
    beta2=0.98,
    batch_sequences=8,
    warmup_fraction=0.05,
    cooldown_fraction=0.4,
    weight_decay=0,
    checkpoint_seconds=1e6,
    report_seconds=1e6,
)


def tiny_corpus(folder):
    """Prepare a corpus of made-up sentences and return it open."""
    nouns, verbs = ("fox", "dog", "bird", "cow", "cat"), ("runs", "sees", "eats", "hears")
    words = ("the", "a", "red", "blue", "old", "new", "and", "under", *nouns, *verbs)
    rng = random.Random(0)
    for i in range(40):
        text = ". ".join(" ".join(rng.choices(words, k=9)) for _ in range(40))
        (folder / f"{i}.txt").write_text(text, encoding="utf-8")
    config = CorpusConfig(
        source="files",
        paths=(str(folder / "*.txt"),),
        cache=folder / "cache",
        validation_fraction=0.2,
    )
    return TokenCorpus.open(prepare(config))


def trajectory(
    corpus: TokenCorpus,
    *,
    steps=60,
    earlier=(),
    d_model=16,
    lr=1.2e-2,
    lr_schedule="wsd",
    seed=0,
    model=MODEL,
    **training,
):
    """Return a complete configuration on `corpus`, observed after `earlier` steps too."""
    shape = make_shape(d_model, 2, model)
    recipe = TRAINING.model_copy(update=training)
    evaluation = EvaluationConfig(sequences=32, draws=2)
    tokens = steps * recipe.batch_sequences * model.seq_len
    params = count_params(shape, model, corpus.vocab_size)
    points = (*earlier, steps)
    path_tokens = path_steps(points, lr_schedule, recipe) * recipe.batch_sequences * model.seq_len
    each = evaluation_flops(shape, model, corpus.vocab_size, evaluation)
    return TrajectoryConfig(
        id="t0",
        study="test",
        corpus=corpus.path,
        corpus_hash=corpus.hash,
        tokenizer=corpus.tokenizer_id,
        vocab_size=corpus.vocab_size,
        model=model,
        shape=shape,
        diffusion=DiffusionConfig(weight_power=0.5),
        training=recipe,
        evaluation=evaluation,
        tokens=tokens,
        earlier_points=tuple(tokens // steps * point for point in earlier),
        unique_tokens=corpus.train_tokens,
        lr=lr,
        lr_schedule=lr_schedule,
        seed=seed,
        params=params,
        params_non_embedding=count_params_non_embedding(shape, model, corpus.vocab_size),
        flops=6.0 * params * tokens,
        flops_exact=training_flops(shape, model, corpus.vocab_size, path_tokens)
        + len(points) * each,
        flops_evaluation=each,
    )
