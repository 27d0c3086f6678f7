"""The observer of a campaign that feeds TensorBoard and the terminal."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from quokka_ray.campaign.speed import device_seconds_left
from quokka_ray.pacing import Pace
from quokka_ray.reporting.live import LiveView, trial_line
from quokka_ray.reporting.state import Optimum, RunningTrial, SearchState
from quokka_ray.reporting.tensorboard import StudyBoard
from quokka_ray.study.config import StudyConfig
from quokka_ray.study.folder import StudyFolder
from quokka_ray.study.trajectory import TrajectoryConfig

if TYPE_CHECKING:
    from analysis.fitting.fit import Fit
    from quokka_ray.campaign.campaign import Campaign

PICTURE_SHARE = 0.02
"""Share of the elapsed time that drawing may take: pictures that took a second come again after
fifty at the earliest, however many trials end in between."""


class Watch:
    """Shows a campaign. One for each search; `finish` it when the search has ended.

    Args:
        study: The study.
        folder: Its folder; event files go to `folder.tensorboard`.
        view: The terminal.
        clock: Seconds, for the rate of pictures.
    """

    def __init__(
        self,
        study: StudyConfig,
        folder: StudyFolder,
        view: LiveView,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._study = study
        self._view = view
        self._board = StudyBoard(folder.tensorboard)
        self._events: list[str] = []
        self._pictures = Pace(PICTURE_SHARE, clock)
        self._drawn: Fit | None = None
        self._law: dict[str, Any] = {}
        self._fit: Fit | None = None
        self._goal = ""

    def planned(self, campaign: "Campaign", trajectory: TrajectoryConfig) -> None:
        """A trajectory was planned: its hyperparameters are in TensorBoard from now on."""
        self._board.trial_started(
            trajectory.id,
            {
                "params": trajectory.params,
                "tokens": trajectory.tokens,
                "lr": trajectory.lr,
                "lr_schedule": trajectory.lr_schedule,
                "tokens_per_param": trajectory.tokens / trajectory.params,
                "unique_tokens": trajectory.unique_tokens,
                "batch_tokens": trajectory.batch_tokens,
                **trajectory.recipe(self._study.search.varied),
                "flops": trajectory.flops,
                "flops_exact": trajectory.flops_exact,
                "seed": trajectory.seed,
                **{f"share_{p}": share for p, share in trajectory.mixture_shares.items()},
                **trajectory.shape.model_dump(),
            },
        )
        self._show(campaign)

    def told(self, campaign: "Campaign", row: dict[str, Any]) -> None:
        """A row was reported."""
        trajectory = row["trajectory"]
        if row["kind"] == "progress":
            self._board.progress(row)
        elif row["kind"] == "observation":
            self._board.observation(row)
        elif row["kind"] == "ended":
            self._board.trial_ended(trajectory, row["status"])
            seen = campaign.ledger.trajectories[trajectory].observations
            account = campaign.account
            self._events.append(
                trial_line(
                    trajectory,
                    row["status"],
                    seen[-1]["loss"] if seen else None,
                    account.spent / account.cap,
                    row.get("reason") or "",
                    earlier=[observation["loss"] for observation in seen[:-1]],
                )
            )
        if self._fit is not None and self._fit is not self._drawn and self._pictures.due:
            self._draw()
        self._show(campaign)

    def refitted(self, campaign: "Campaign", fit: "Fit") -> None:
        """The law was refitted: numbers at once, pictures with a later row, when they are due."""
        self._law = _law_fields(fit, self._study)
        self._fit = fit
        self._goal = f"{campaign.ending.words}"
        self._write_law(campaign)
        self._show(campaign)

    def state(self, campaign: "Campaign") -> SearchState:
        """Return the search as it stands."""
        account = campaign.account
        counts = campaign.counts()
        counts.pop("unfinished", None)
        running = []
        for trajectory in sorted(campaign.live):
            state = campaign.ledger.trajectories[trajectory]
            row = state.progress or {}
            running.append(
                RunningTrial(
                    id=trajectory,
                    params=state.config.params,
                    tokens=state.config.tokens,
                    progress=state.processed / state.config.path_tokens,
                    loss=row.get("train_loss"),
                )
            )
        left = device_seconds_left(account, campaign.ledger.trajectories.values())
        return SearchState(
            name=self._study.name,
            budget_flops=account.cap,
            target_flops=self._study.target.flops,
            target_unique_tokens=self._study.target.unique_tokens,
            spent_flops=account.spent,
            reserved_flops=account.committed - account.spent,
            # Trials side by side share what is left.
            seconds_left=None if left is None else left / max(1, len(running)),
            counts=counts,
            running=running,
            goal=self._goal,
            message="" if self._law else campaign.no_fit_because,
            events=self._events,
            **self._law,
        )

    def finish(self, campaign: "Campaign") -> SearchState:
        """Draw the last law, close the event files, and return the last state."""
        if self._fit is not None and self._fit is not self._drawn:
            self._draw()
        self._board.close()
        self._goal = campaign.ending.words
        state = self.state(campaign)
        self._view.update(state)
        return state

    def _show(self, campaign: "Campaign") -> None:
        self._view.update(self.state(campaign))

    def _write_law(self, campaign: "Campaign") -> None:
        assert self._fit is not None
        optimum: Optimum | None = self._law["optimum"]
        at_target: dict[str, float | None] = {}
        if optimum is not None:
            at_target = {
                "params_at_target": optimum.params.value,
                "tokens_at_target": optimum.tokens.value,
                "loss_at_target": optimum.loss.value,
                "half_width_ln_params": optimum.params.relative_width,
                "half_width_ln_loss": optimum.loss.relative_width,
            }
            if optimum.epochs is not None:
                at_target["epochs_at_target"] = optimum.epochs.value
        scalars: dict[str, float | None] = {
            "budget_spent": campaign.account.spent / campaign.account.cap,
            **at_target,
            "sigma": self._fit.sigma,
            **{f"parameter_{name}": value for name, value in self._law["parameters"].items()},
        }
        self._board.law({}, scalars, step=len(self._fit.runs))

    def _draw(self) -> None:
        from analysis.figures import frontier_figure, isoflop_figure, residual_figure
        from analysis.repeated_figures import epochs_figure

        fit = self._fit
        assert fit is not None
        with self._pictures.run():
            figures = {"predicted_against_observed": residual_figure(fit)}
            if fit.law.needs_unique:
                figures["epochs"] = epochs_figure(fit)
            else:
                figures["isoflop"] = isoflop_figure(fit)
                figures["frontier"] = frontier_figure(fit, target_flops=self._study.target_flops)
            self._board.law(figures, {}, step=len(fit.runs))
        self._drawn = fit


def _law_fields(fit: "Fit", study: StudyConfig) -> dict[str, Any]:
    """Return what a state shows of a law."""
    from analysis.allocation import recipe_warnings

    if study.target.unique_tokens is not None:
        return _data_law_fields(fit, study.target.unique_tokens)
    best = fit.optimum(study.target_flops)
    at = best.params.value, best.tokens.value
    lr, recipe = float(fit.response.lr_optimum(*at)), fit.response.recommended(*at)
    if batch := recipe.get("batch_tokens"):
        batch["sequences"] = max(1, round(batch["value"] / study.model.seq_len))
    return {
        "parameters": {name: estimate.value for name, estimate in fit.parameters.items()},
        "identified": fit.identified,
        "sigma": fit.sigma,
        "optimum": Optimum(
            params=best.params,
            tokens=best.tokens,
            loss=best.loss,
            extrapolation_decades=best.extrapolation_decades,
            lr=lr if lr == lr else None,  # not a number where the rate was never varied
            mixture=_mixture(fit),
            recipe=recipe,
        ),
        "warnings": [*fit.warnings, *recipe_warnings(fit.response, recipe)],
    }


def _mixture(fit: "Fit") -> dict[str, tuple[float, float | None, float | None]]:
    found = fit.response.mixture
    return {} if found is None else found.shares()


def _data_law_fields(fit: "Fit", unique_tokens: float) -> dict[str, Any]:
    """Return what a state shows of a law of repeated data."""
    from analysis.epochs import allocate_data
    from analysis.errors import AllocationError

    optimum, warnings = None, list(fit.warnings)
    try:
        best = allocate_data(fit.state, unique_tokens)
    except AllocationError as error:
        warnings.append(str(error))
    else:
        optimum = Optimum(
            params=best.params,
            tokens=best.tokens,
            loss=best.loss,
            epochs=best.epochs,
            extrapolation_decades=best.extrapolation_decades,
            mixture=_mixture(fit),
        )
        warnings += best.warnings
    return {
        "parameters": {name: estimate.value for name, estimate in fit.parameters.items()},
        "identified": fit.identified,
        "sigma": fit.sigma,
        "optimum": optimum,
        "formula": f"{fit.law.name}, a law of N, unique tokens U and epochs",
        "warnings": warnings,
    }
