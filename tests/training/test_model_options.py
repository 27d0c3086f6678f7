"""What a study may ask of its model reaches the run: from the file's keys to a training step."""

import math

import pytest
from trajectories import trajectory

from quokka_ray.campaign.menu import Menu, plan_run
from quokka_ray.errors import ConfigurationError
from quokka_ray.model.counts import count_params
from quokka_ray.model.transformer import build_model
from quokka_ray.study.config import StudyConfig, TrainingConfig
from quokka_ray.training.loop import Trainer
from quokka_ray.training.run import train

STUDY = {
    "name": "options",
    "model": {"seq_len": 32, "head_dim": 8, "ffn_multiple": 8, "conv_width": 3},
    "training": {"batch_sequences": 4, "lr": 1e-3},
    "evaluation": {"sequences": 8, "draws": 1},
    "search": {
        "params": {"low": 2000, "high": 20e6},
        "run_flops": {"low": 1e8, "high": 1e13},
        "tokens_per_param": {"low": 1e-9, "high": 1e9},
    },
    "budget": {"flops": 1e15},
    "target": {"flops": 1e15},
}


def planned(corpus, *, pick=0, **sections):
    study = StudyConfig(
        **{
            k: {**v, **sections.get(k, {})} if isinstance(v, dict) else v for k, v in STUDY.items()
        },
        **{k: v for k, v in sections.items() if k not in STUDY},
    )
    rung = list(Menu(study, corpus.vocab_size, corpus.train_tokens).rungs.values())[pick]
    return plan_run(
        "t0",
        study,
        corpus,
        rung,
        tokens=2 * rung.step_tokens,
        unique_tokens=corpus.train_tokens,
        lr=1e-3,
        lr_schedule="wsd",
        seed=0,
    )


@pytest.mark.parametrize(
    "sections",
    [
        {"model": {"document_attention": "within"}},
        {"diffusion": {"kernel": "uniform"}},
        {"diffusion": {"kernel": "none", "objective": "next_token"}},
        {
            "diffusion": {"kernel": "none", "objective": "next_token"},
            "model": {"document_attention": "within"},
        },
        {
            "training": {
                "transfer": "completep",
                "transfer_base_width": 8,
                "transfer_base_layers": 2,
            }
        },
        {"training": {"transfer": "mup", "transfer_base_width": 64, "optimizer": "muon"}},
    ],
)
def test_every_option_of_the_model_trains_and_is_priced_as_it_costs(corpus, tmp_path, sections):
    config = planned(corpus, pick=1, **sections)
    outcome = train(config, tmp_path, report=lambda row: None)
    assert outcome.status == "finished"
    assert 0 < outcome.loss < 2 * math.log(corpus.vocab_size)
    assert outcome.flops_spent == pytest.approx(config.flops_exact)


def test_the_kernel_decides_what_the_model_leaves_open(corpus):
    uniform = planned(corpus, diffusion={"kernel": "uniform"})
    assert (uniform.model.causal, uniform.model.time_conditioning) == (None, True)
    causal = planned(corpus, diffusion={"kernel": "none", "objective": "next_token"})
    assert (causal.model.causal, causal.model.time_conditioning) == (True, None)
    assert planned(corpus).model == StudyConfig(**STUDY).model


@pytest.mark.parametrize(
    ("training", "sentence"),
    [
        ({"transfer": "mup"}, "needs transfer_base_width"),
        ({"transfer": "completep", "transfer_base_width": 64}, "needs transfer_base_layers"),
        ({"transfer_base_width": 64}, "no meaning with transfer 'none'"),
        (
            {"transfer": "mup", "transfer_base_width": 64, "transfer_base_layers": 2},
            "no meaning with transfer 'mup'",
        ),
    ],
)
def test_a_rule_of_transfer_says_where_it_starts_from(training, sentence):
    with pytest.raises(ValueError, match=sentence):
        TrainingConfig(**training)


def test_the_papers_sizes_are_planned_from_a_study(corpus):
    config = planned(corpus, model={"family": "quokka"})
    assert (config.shape.d_model, config.shape.layers, config.shape.head_dim) == (128, 3, 32)
    assert config.params == count_params(config.shape, config.model, corpus.vocab_size)
    built = sum(parameter.numel() for parameter in build_model(config).parameters())
    assert built == config.params


def test_within_documents_a_run_knows_what_ends_one_and_is_refused_without(corpus):
    config = planned(corpus, model={"document_attention": "within"})
    assert config.end_of_document == corpus.tokenizer().end_of_document
    assert build_model(config).end_of_document == config.end_of_document
    with pytest.raises(ConfigurationError, match="end_of_document"):
        build_model(config.model_copy(update={"end_of_document": None}))
    assert planned(corpus).end_of_document is None


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [({}, 946.35848411), ({"optimizer": "adamw", "lr": 3e-3}, 445.80657158)],
)
def test_the_default_model_takes_the_steps_that_it_took_before_there_were_options(
    corpus, recipe, expected
):
    # Sums of the parameters' sizes after 20 steps, as they were before there were options.
    config = trajectory(corpus, steps=20, **recipe)
    windows = corpus.window_order(config.unique_tokens, config.model.seq_len, config.seed)
    trainer = Trainer(config, windows, "cpu")
    for _ in range(20):
        trainer.advance()
    total = sum(p.double().abs().sum() for p in trainer.model.parameters())
    assert total.item() == pytest.approx(expected, rel=1e-5)
