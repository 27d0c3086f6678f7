"""What trials ask of a cluster whose GPUs are logical: Ray counts them without looking."""

from types import SimpleNamespace

import pytest

from quokka_ray.cluster import shares
from quokka_ray.cluster.machines import room_for
from quokka_ray.model.shapes import make_shape
from quokka_ray.study.config import ModelConfig, StudyConfig


def campaign(d_model=16, layers=2, **resources):
    """Return what `with_shares` looks at of a campaign: a study, its sizes and its vocabulary."""
    model = ModelConfig(seq_len=64, head_dim=8, ffn_multiple=8)
    study = StudyConfig.model_validate(
        {
            "name": "shares",
            "model": model.model_dump(),
            "training": {"batch_sequences": 8, "precision": "auto"},
            "search": {"params": {"low": 1e3, "high": 1e9}, "run_flops": {"low": 1, "high": 2}},
            "budget": {"flops": 1e12},
            "target": {"flops": 1e13},
            "resources": resources,
        }
    )
    shapes = [make_shape(width, layers, model) for width in (8, d_model)]
    rungs = {n: SimpleNamespace(shape=shape, params=n) for n, shape in enumerate(shapes)}
    return SimpleNamespace(
        study=study,
        menu=SimpleNamespace(rungs=rungs),
        corpus=SimpleNamespace(vocab_size=258),
    )


@pytest.fixture
def cluster(monkeypatch):
    """Return a function that says what `ray.cluster_resources` answers."""
    import ray

    monkeypatch.setattr(shares, "_has_mps", lambda: True)
    return lambda **total: monkeypatch.setattr(ray, "cluster_resources", lambda: total)


def asked(campaign):
    return shares.with_shares(campaign).gpus_per_trial


def test_small_trials_share_a_gpu_by_the_largest_size_of_the_study(cluster):
    cluster(**{"CPU": 32.0, "GPU": 2.0, "accelerator_type:H200": 2.0})
    assert asked(campaign()) == 1 / 16
    assert asked(campaign(d_model=4096, layers=8)) == "auto"


def test_no_gpu_is_cut_finer_than_there_are_cpus_or_slots_for(cluster):
    cluster(**{"CPU": 6.0, "GPU": 2.0, "accelerator_type:H200": 2.0})
    assert asked(campaign()) == 1 / 3
    assert asked(campaign(slots=4)) == 1 / 2


def test_a_gpu_of_unknown_type_is_not_shared_and_a_given_fraction_is_taken(cluster):
    cluster(CPU=8.0, GPU=1.0)
    assert asked(campaign()) == "auto"
    assert asked(campaign(gpus_per_trial=0.25)) == 0.25
    cluster(CPU=8.0)
    assert asked(campaign()) == "auto"
    cluster(**{"CPU": 8.0, "GPU": 1.0, "accelerator_type:H200": 1.0})
    assert asked(campaign(workers_per_trial=2)) == "auto"


@pytest.mark.slow
def test_ray_runs_as_many_trials_on_one_gpu_as_the_share_says(tmp_path, monkeypatch):
    import ray
    from ray import tune as ray_tune

    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    ray.init(
        address="local",
        num_cpus=4,
        num_gpus=1,
        resources={"accelerator_type:H200": 1},
        include_dashboard=False,
        log_to_driver=False,
    )
    try:
        room = room_for(shares.with_shares(campaign()))
        slots = room.trials(1)
        assert slots == 4

        def trial(config):
            asked = ray_tune.get_context().get_trial_resources().required_resources
            ray_tune.report({"gpu": asked["GPU"], "ids": len(ray.get_gpu_ids())})

        results = ray_tune.Tuner(
            ray_tune.with_resources(trial, {"cpu": room.cpus, "gpu": room.gpus}),
            tune_config=ray_tune.TuneConfig(num_samples=4, max_concurrent_trials=slots),
            run_config=ray_tune.RunConfig(storage_path=str(tmp_path), verbose=0),
        ).fit()
        assert [result.metrics["gpu"] for result in results] == [0.25] * 4
        assert [result.metrics["ids"] for result in results] == [1] * 4
    finally:
        ray.shutdown()
