"""Run tables out of TensorBoard, Optuna and Ray Tune: names, observations, damage, remedies."""

import json
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.cli import main
from analysis.errors import RunTableError
from analysis.importers import ImportOptions, detect, import_runs
from analysis.importers.events import smoothed_end
from analysis.importers.names import read_name
from analysis.runs import validate_runs

BATCH, SEQ = 256, 2048


def write_events(folder: Path, scalars: dict[str, dict[int, float]], stamp: int = 1) -> Path:
    """Write one event file as TensorBoard does; return its path."""
    pytest.importorskip("tensorboard", reason="event files need tensorboard")
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"events.out.tfevents.{stamp}.node.1.0"
    with path.open("wb") as stream:
        records = RecordWriter(stream)
        records.write(Event(file_version="brain.Event:2").SerializeToString())
        for tag, points in scalars.items():
            for step, value in points.items():
                summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
                records.write(Event(step=step, summary=summary).SerializeToString())
        records.flush()
    return path


def curve(steps: int, end: float) -> dict[int, float]:
    return {s: end + 3.0 / s for s in range(1, steps + 1)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("1e18_7_23.8B", {"flops": 1e18, "params": 7e6, "tokens": 23.8e9}),
        ("3e+18_51_9804000000", {"flops": 3e18, "params": 51e6, "tokens": 9.804e9}),
        ("6e18_95M_10.5e9", {"params": 95e6, "tokens": 10.5e9}),
        ("1e21_1510_110", {"params": 1510e6, "tokens": 110e9}),
        (
            "217_100M_200_0_2000_4_256_2e-4",
            {"params": 217e6, "unique_tokens": 1e8, "epochs": 200, "tokens": 2e10, "lr": 2e-4},
        ),
        ("51_10e6_1000_100_2000_8_256_0.0002", {"unique_tokens": 1e7, "global_batch_size": 256}),
        (
            "96b_1e_difflm_1b_schedule_fixed_poly2",
            {"params": 1e9, "tokens": 96e9, "noise_schedule": "poly2", "kernel": "mask"},
        ),
        ("96b_1e_difflm_1b_bsz_1024", {"global_batch_size": 1024}),
        ("96b_1e_difflm_1b_lr_0.0004", {"lr": 4e-4}),
        ("1b_96e_difflm_1b_0wd_0.0002", {"epochs": 96, "unique_tokens": 1e9, "weight_decay": 0}),
        ("uniform_diffusion_96b_1e_difflm_1b_1_1", {"kernel": "uniform", "params": 1e9}),
        ("1b_96e_dlm", {"tokens": 96e9}),
        ("mask_git_loss_300b", {"tokens": 300e9, "objective": "maskgit"}),
    ],
)
def test_names_of_the_released_logs_are_read(name, expected):
    found = read_name(("logs", name, "tensorboard"))
    assert found is not None
    for column, value in expected.items():
        assert found[column] == (value if isinstance(value, str) else pytest.approx(value)), column


def test_a_name_whose_numbers_do_not_fit_says_which():
    with pytest.raises(RunTableError, match=r"1e18_7_5B: 1e\+18 FLOPs are not 6 N D"):
        read_name(("1e18_7_5B",))
    with pytest.raises(RunTableError, match=r"100 tokens have no unit.*--pattern"):
        read_name(("217_100_200_0_2000_4_256_2e-4",))


def test_the_smoothed_end_weighs_the_last_half_window_by_a_gaussian():
    steps = np.arange(1.0, 1001.0)
    values = np.sin(steps / 7.0)
    back = np.arange(0.0, 151.0)
    weights = np.exp(-0.5 * (back / (301 / 6)) ** 2)
    expected = (weights * values[::-1][:151]).sum() / weights.sum()
    assert smoothed_end(steps, values, 301) == pytest.approx(expected)
    assert smoothed_end(steps, values, 1) == values[-1]


def test_released_logs_become_a_table_that_fits_can_use(tmp_path):
    for params, tokens in ((51e6, 9.8e9), (95e6, 5.26e9), (110e6, 4.55e9), (301e6, 1.66e9)):
        name = f"3e18_{params / 1e6:.0f}_{tokens / 1e9:.2f}B"
        scalars = {"lm loss": curve(800, 4.0), "learning-rate": {1: 1e-5, 400: 2e-4, 800: 1e-6}}
        write_events(tmp_path / "logs" / name / "tensorboard", scalars)
    found = import_runs([tmp_path / "logs"])
    table = validate_runs(found.table)
    np.testing.assert_allclose(sorted(table["params"]), [51e6, 95e6, 110e6, 301e6])
    np.testing.assert_allclose(table["flops"], 3e18, rtol=0.01)
    np.testing.assert_allclose(table["lr"], 2e-4, rtol=1e-6)
    assert list(table["trajectory"]) == sorted(p.name for p in (tmp_path / "logs").iterdir())
    # 3 / s averaged over the last steps: a little above the end's own 3 / 800.
    assert (table["loss"] > 4.0 + 3 / 800).all()
    assert (table["loss"] < 4.0 + 3 / 700).all()
    assert any("log no batch size" in n for n in found.notes)


def test_validation_points_are_observations_of_one_trajectory(tmp_path):
    folder = tmp_path / "217_10M_100_0_2000_4_256_2e-4" / "tensorboard"
    step_tokens = BATCH * SEQ
    last = round(1e9 / step_tokens)
    validation = {last // 2: 3.9, last: 3.7}
    write_events(folder, {"lm loss": curve(50, 4.0), "lm loss validation": validation})
    asked = ImportOptions(tag="lm loss validation")
    table = import_runs([tmp_path], options=asked).table
    np.testing.assert_allclose(table["tokens"], np.array(list(validation)) * step_tokens)
    np.testing.assert_allclose(table["epochs"], table["tokens"] / 1e7)
    assert table["trajectory"].nunique() == 1
    assert list(table["status"].unique()) == ["finished"]
    assert (table["batch_tokens"] == step_tokens).all()
    # The training loss ends early by its own steps: the run was stopped.
    stopped = import_runs([tmp_path], options=ImportOptions(tag="lm loss"))
    assert list(stopped.table["status"]) == ["stopped"]
    assert any("it is 'stopped'" in n for n in stopped.notes)


def test_logged_batch_sizes_give_the_tokens(tmp_path):
    sizes = {s: 128.0 if s <= 100 else 256.0 for s in range(1, 201)}
    write_events(tmp_path / "run_7M", {"loss": curve(200, 3.0), "batch-size": sizes})
    asked = ImportOptions(
        pattern=r"_(?P<params_M>\d+)M$", constants={"seq_len": "1024"}, results="all"
    )
    table = import_runs([tmp_path], options=asked).table
    assert table["tokens"].iloc[-1] == (100 * 128 + 100 * 256) * 1024
    assert table["tokens"].iloc[99] == 100 * 128 * 1024


def test_a_resumed_run_overrides_what_its_first_file_told_of_later_steps(tmp_path):
    folder = tmp_path / "N7M_D1B"
    write_events(folder, {"val/loss": {10: 5.0, 20: 4.5, 30: 9.9}}, stamp=100)
    write_events(folder, {"val/loss": {20: 4.4, 25: 4.3}}, stamp=200)
    asked = ImportOptions(pattern=r"N(?P<params_M>\d+)M_D(?P<tokens_B>\d+)B")
    table = import_runs([tmp_path], options=asked).table
    np.testing.assert_allclose(table["loss"], [5.0, 4.4, 4.3], rtol=1e-6)
    np.testing.assert_allclose(table["tokens"], np.array([0.4, 0.8, 1.0]) * 1e9)


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_what_a_damaged_event_file_still_tells_is_kept_and_said(tmp_path, damage):
    name = "3e18_51_9.8B"
    path = write_events(tmp_path / name, {"lm loss": curve(100, 4.0)})
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) * 6 // 10]
    else:
        content[len(content) * 6 // 10] ^= 0xFF
    path.write_bytes(content)
    asked = ImportOptions(constants={"batch_tokens": str(9.8e9 / 100)}, results="all")
    found = import_runs([tmp_path], options=asked)
    assert 40 < len(found.table) < 70
    assert set(found.table["status"]) == {"stopped"}
    assert any("damaged or cut off after" in n for n in found.notes)


def test_a_damaged_run_whose_steps_tell_no_tokens_is_left_out(tmp_path):
    path = write_events(tmp_path / "3e18_51_9.8B", {"lm loss": curve(100, 4.0)})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(RunTableError, match=r"no run could be used.*batch_tokens"):
        import_runs([tmp_path])
    write_events(tmp_path / "3e18_95_5.26B", {"lm loss": curve(100, 4.0)})
    found = import_runs([tmp_path])
    assert list(found.table["trajectory"]) == ["3e18_95_5.26B"]
    assert any("3e18_51_9.8B: left out" in n for n in found.notes)


def test_a_run_that_ends_in_nan_is_diverged(tmp_path):
    losses = {1: 5.0, 2: 4.0, 3: float("nan")}
    write_events(tmp_path / "3e18_51_9.8B", {"lm loss": losses})
    table = import_runs([tmp_path]).table
    assert list(table["status"]) == ["diverged"]


def test_a_name_that_says_nothing_is_shown_with_the_patterns_tried(tmp_path):
    write_events(tmp_path / "best-run", {"lm loss": curve(3, 4.0)})
    with pytest.raises(RunTableError) as caught:
        import_runs([tmp_path])
    assert "best-run" in str(caught.value)
    assert "compute-constrained: ^(?P<flops>" in str(caught.value)
    assert "--pattern" in str(caught.value)
    asked = ImportOptions(constants={"params": "7M", "batch_tokens": "64k"})
    assert import_runs([tmp_path], options=asked).table["tokens"].iloc[0] == 3 * 64e3
    with pytest.raises(RunTableError, match=r"no run logged 'nll'; name its tag.*lm loss"):
        import_runs([tmp_path], options=ImportOptions(tag="nll"))
    with pytest.raises(RunTableError, match="no regular expression"):
        import_runs([tmp_path], options=ImportOptions(pattern="(?P<params"))


def test_a_studys_own_event_folder_is_read_by_its_hyperparameters(tmp_path):
    pytest.importorskip("torch", reason="the study's own writer needs torch")
    from quokka_ray.reporting.tensorboard import StudyBoard

    with StudyBoard(tmp_path / "tensorboard") as board:
        board.trial_started("n1", {"params": 1000, "tokens": 50000, "lr": 0.01})
        for tokens, loss in ((25000, 5.0), (50000, 4.5)):
            board.observation(
                {"trajectory": "n1", "tokens": tokens, "loss": loss, "flops": 6e3 * tokens}
            )
        board.trial_ended("n1", "finished")
    table = import_runs([tmp_path / "tensorboard"]).table
    assert list(table["trajectory"]) == ["n1", "n1"]
    assert list(table["tokens"]) == [25000, 50000]
    assert set(table["params"]) == {1000}
    np.testing.assert_allclose(table["lr"], 0.01)


@pytest.fixture(params=["journal", "sqlite"])
def storage(request, tmp_path):
    """An Optuna storage with one study of four trials: two complete, one pruned, one failed."""
    optuna = pytest.importorskip("optuna", reason="reading studies needs optuna")
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = tmp_path / f"study.{request.param}"
    if request.param == "journal":
        made = JournalStorage(JournalFileBackend(str(path)))
    else:
        made = RDBStorage(f"sqlite:///{path}")
    study = optuna.create_study(storage=made, study_name="sizes")

    def objective(trial):
        params = trial.suggest_float("N", 1e6, 1e6 + 1e5 * (trial.number + 1))
        trial.suggest_float("learning_rate", 1e-3, 1e-3)
        trial.set_user_attr("tokens", 20 * params)
        trial.report(5.0, 10_000_000)
        trial.report(4.0, 20_000_000)
        if trial.number == 1:
            raise optuna.TrialPruned
        return float("nan") if trial.number == 2 else 3.5

    study.optimize(objective, n_trials=4)
    return path


def test_trials_of_optuna_become_rows(storage):
    assert detect(str(storage)) == "optuna"
    found = import_runs([storage])
    table = found.table
    assert list(table["status"]) == ["finished", "stopped", "failed", "finished"]
    np.testing.assert_allclose(table["tokens"], 20 * table["params"])
    np.testing.assert_allclose(table["lr"], 1e-3)
    assert list(table["loss"])[::3] == [3.5, 3.5]
    assert any("params is taken from 'N'" in n for n in found.notes)
    assert len(validate_runs(table)) == 2


def test_intermediate_values_are_observations_where_steps_are_tokens(storage):
    table = import_runs([storage], options=ImportOptions(step="tokens")).table
    first = table[table["trajectory"] == "sizes/0"]
    assert list(first["tokens"]) == [1e7, 2e7]
    assert list(first["loss"]) == [5.0, 4.0]
    assert len(table) == 8


def test_the_study_must_be_named_where_there_are_several(storage):
    import optuna

    if storage.suffix == ".sqlite":
        optuna.create_study(
            storage=f"sqlite:///{storage}", study_name="best", direction="maximize"
        )
    else:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        journal = JournalStorage(JournalFileBackend(str(storage)))
        optuna.create_study(storage=journal, study_name="best", direction="maximize")
    with pytest.raises(RunTableError, match=r"2 studies \('best', 'sizes'\).*--study-name"):
        import_runs([storage])
    with pytest.raises(RunTableError, match="no study is called 'x'"):
        import_runs([storage], options=ImportOptions(study_name="x"))
    with pytest.raises(RunTableError, match="maximises"):
        import_runs([storage], options=ImportOptions(study_name="best"))
    assert len(import_runs([storage], options=ImportOptions(study_name="sizes")).table) == 4


def test_a_database_of_something_else_is_left_as_it_is(tmp_path):
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE things (x)")
    before = path.read_bytes()
    with pytest.raises(RunTableError, match="without Optuna's tables"):
        import_runs([path], kind="optuna")
    assert path.read_bytes() == before


def ray_folder(root: Path) -> Path:
    """Write an experiment as Ray Tune 2.60 lays it out: two trials ended, one failed."""
    experiment = root / "sizes"
    state = []
    for number, status in enumerate(("TERMINATED", "TERMINATED", "ERROR")):
        trial = f"0a1cb_{number:05d}"
        folder = experiment / f"train_{trial}_{number}_params={10**6}_2026-01-01_00-00-00"
        folder.mkdir(parents=True)
        config = {"model": {"params": 1e6 * (number + 1)}, "lr": 1e-3, "betas": [0.9, 0.95]}
        (folder / "params.json").write_text(json.dumps(config))
        reported = 3 if status == "TERMINATED" else 1
        rows = [
            {
                "eval": {"nll": 4.0 - 0.1 * i - 0.01 * number},
                "seen": 1e7 * (i + 1),
                "training_iteration": i + 1,
                "trial_id": trial,
                "hostname": "node",
                "config": config,
            }
            for i in range(reported)
        ]
        lines = "".join(json.dumps(r) + "\n" for r in rows)
        (folder / "result.json").write_text(lines)
        trial_state = {"relative_logdir": folder.name, "status": status, "trial_id": trial}
        state.append([json.dumps(trial_state), "{}"])
    text = json.dumps({"trial_data": state, "runner_data": {}, "stats": {}})
    (experiment / "experiment_state-2026-01-01_00-00-00.json").write_text(text)
    return experiment


RAY = ImportOptions(loss_metric="eval/nll", tokens_metric="seen")


def test_trials_of_ray_tune_become_trajectories(tmp_path):
    experiment = ray_folder(tmp_path)
    assert detect(str(experiment)) == detect(str(tmp_path)) == "ray"
    table = import_runs([experiment], options=RAY).table
    assert list(table["status"]) == ["finished", "finished", "failed"]
    assert list(table["trajectory"]) == ["0a1cb_00000", "0a1cb_00001", "0a1cb_00002"]
    np.testing.assert_allclose(table["params"], [1e6, 2e6, 3e6])
    np.testing.assert_allclose(table["tokens"], [3e7, 3e7, 1e7])
    np.testing.assert_allclose(table["loss"][:2], [3.8, 3.79])
    assert "hostname" not in table
    every = ImportOptions(loss_metric="eval/nll", tokens_metric="seen", results="all")
    assert len(import_runs([experiment], options=every).table) == 7


def test_damage_in_ray_tunes_folder_is_said(tmp_path):
    experiment = ray_folder(tmp_path)
    next(experiment.glob("experiment_state*")).write_text('{"trial_data": [')
    first, second, third = sorted(p.parent for p in experiment.glob("*/params.json"))
    with (first / "result.json").open("a") as stream:
        stream.write('{"eval": {"nl')
    (second / "result.json").unlink()
    table = pd.DataFrame({"eval/nll": [3.9, 3.7], "seen": [1e7, 2e7]})
    table.to_csv(second / "progress.csv", index=False)
    (third / "error.txt").write_text("RuntimeError")
    found = import_runs([experiment], options=RAY)
    assert list(found.table["loss"]) == pytest.approx([3.8, 3.7, 3.98])
    assert list(found.table["status"]) == ["finished", "finished", "failed"]
    assert any("line 4 is damaged" in n for n in found.notes)
    assert any("experiment_state" in n and "not readable" in n for n in found.notes)


def test_a_metric_that_no_trial_reported_lists_those_that_are(tmp_path):
    with pytest.raises(RunTableError, match=r"--loss-metric, one of eval/nll, seen"):
        import_runs([ray_folder(tmp_path)])
    asked = ImportOptions(loss_metric="eval/nll", tokens_metric="tokens")
    with pytest.raises(RunTableError, match="for --tokens-metric; there are eval/nll, seen"):
        import_runs([tmp_path], options=asked)


@pytest.mark.slow
def test_a_folder_that_ray_tune_wrote_is_read(tmp_path):
    ray = pytest.importorskip("ray", reason="makes a folder with Ray Tune itself")
    from ray import tune

    def train(config):
        for step in (1, 2):
            tune.report({"loss": 4.0 / step, "tokens": 1e7 * step})
        if config["params"] == 3e6:
            raise RuntimeError

    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        space = {"params": tune.grid_search([1e6, 2e6, 3e6]), "opt": {"lr": 1e-3}}
        settings = tune.RunConfig(name="sizes", storage_path=str(tmp_path), verbose=0)
        tune.Tuner(train, param_space=space, run_config=settings).fit()
    finally:
        ray.shutdown()
    table = import_runs([tmp_path / "sizes"]).table.sort_values("params")
    assert list(table["status"]) == ["finished", "finished", "failed"]
    np.testing.assert_allclose(table["params"], [1e6, 2e6, 3e6])
    np.testing.assert_allclose(table["tokens"], 2e7)
    np.testing.assert_allclose(table["lr"], 1e-3)


def test_tables_of_other_names_are_imported_and_what_is_missing_is_asked_for(tmp_path, capsys):
    source = tmp_path / "mine.csv"
    source.write_text("N,training_tokens,nll\n7M,1B,4.1\n14M,2B,3.8\n")
    out = tmp_path / "runs.csv"
    call = ["import", str(source), "--out", str(out)]
    assert main(call) == 2
    assert "nothing gives loss" in capsys.readouterr().err
    assert not out.exists()
    more = ["--column", "loss=nll", "--constant", "seq_len=2k", "--constant", "corpus=c4"]
    assert main([*call, *more, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["rows"] == 2
    assert "params is taken from 'N'" in answer["notes"]
    table = pd.read_csv(out)
    np.testing.assert_allclose(table["params"], [7e6, 14e6])
    assert set(table["seq_len"]) == {2000}
    assert set(table["corpus"]) == {"c4"}
    assert main([*call, *more, "--constant", "loss=good"]) == 2
    assert "is no number" in capsys.readouterr().err


def test_a_source_of_no_known_kind_is_refused(tmp_path):
    with pytest.raises(RunTableError, match="no such file or folder"):
        detect(str(tmp_path / "none"))
    with pytest.raises(RunTableError, match="holds neither"):
        detect(str(tmp_path))
