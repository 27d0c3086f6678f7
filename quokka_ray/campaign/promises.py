"""What a new run's training loss is held to: ceilings from the runs that came to their ends.

A run that its learning rate (or whatever else is searched) spoils is told by its training loss
long before its end. The ceilings are written into its configuration, so that it ends by itself,
with no word from the driver, and the same after a kill. It leaves no observation: the law is
fitted to runs that came to their ends, and of their noise nothing is cut off, since `margin` is
many times that.

No ceilings for a run larger than all before it, which tests the law, and for none while
predictions of such runs have failed; for none in a place where a trial has ended so before, since
a law that is too low there would end all of them and never hear of it; nor where weights of a
mixture are searched or text is repeated, since the training loss then tells of the text.
"""

from collections.abc import Sequence

import numpy as np

from analysis.fitting.fit import Fit
from analysis.hopeless import SHARES, Curves, ceilings
from analysis.laws.base import FloatArray, Points
from quokka_ray.campaign.beliefs import Beliefs, Predicted
from quokka_ray.campaign.trajectory_state import TrajectoryState
from quokka_ray.study.config import StudyConfig
from quokka_ray.study.search import HopelessConfig
from quokka_ray.study.trajectory import Promise, TrajectoryConfig

_ONE_PLACE = 0.1
"""Ratios of N and of D, as logarithms, within which trials are of one place: recipes round both a
little otherwise, and neighbouring places are further apart."""


def promised(
    study: StudyConfig,
    beliefs: Beliefs,
    config: TrajectoryConfig,
    predicted: Predicted | None,
    guide: Fit | None,
    states: Sequence[TrajectoryState],
) -> TrajectoryConfig:
    """Return a planned run with what its training loss is held to on its way.

    Args:
        study: The study.
        beliefs: Its steering's.
        config: The run.
        predicted: What is expected of it.
        guide: The law of all runs.
        states: All trajectories.
    """
    rule = study.search.hopeless
    if rule is None:
        return config
    promise = noted(rule)
    if (
        guide is not None
        # A run that tests the law must be able to contradict it, and so must every place.
        and not (predicted is None or predicted.beyond)
        and not any(state.hopeless_excess is not None and _near(state, config) for state in states)
        and not beliefs.trust_now(guide, states).raised
        and not study.corpus.searched_weights
    ):
        unsure = beliefs.unsure_at(guide, states, config.params, config.tokens)
        promise = promise_of(rule, config, states, guide, unsure)
    return config.model_copy(update={"promise": promise})


def noted(rule: HopelessConfig) -> Promise:
    """Return the promise of a run that is judged nowhere, for later ones to learn from."""
    return Promise(margin=rule.margin, shares=SHARES, ceilings=(None,) * len(SHARES))


def promise_of(
    rule: HopelessConfig,
    config: TrajectoryConfig,
    states: Sequence[TrajectoryState],
    guide: Fit,
    unsure: float,
) -> Promise:
    """Return what a run is held to.

    Args:
        rule: The study's.
        config: The run.
        states: All trajectories; those that finished and are of its kind are learnt from.
        guide: The law of all runs.
        unsure: Standard deviation of ln loss that is expected of the run, were it tuned.
    """
    like = [state for state in states if _shows(state, config)]
    limit = None
    if not repeats_text(config):
        limit = ceilings(
            _curves(like, config, guide),
            _traits([config], config)[0],
            margin=rule.margin,
            deviations=rule.deviations,
            unsure=unsure,
        )
    if limit is None:
        return noted(rule)
    nats = np.exp(limit + _law_on_the_way([config], guide)[0])
    return Promise(margin=rule.margin, shares=SHARES, ceilings=tuple(nats.tolist()))


def repeats_text(config: TrajectoryConfig) -> bool:
    """Return whether a run reads some of its text twice."""
    return config.tokens > config.unique_tokens


def _near(state: TrajectoryState, config: TrajectoryConfig) -> bool:
    """Return whether a trajectory has the size and tokens of `config`, as far as recipes agree."""
    other = state.config
    off = np.log([other.params / config.params, other.tokens / config.tokens])
    return bool((np.abs(off) < _ONE_PLACE).all())


def _shows(state: TrajectoryState, config: TrajectoryConfig) -> bool:
    """Return whether a trajectory's losses on the way and at the end speak for `config`'s."""
    other = state.config
    return (
        state.ended is not None
        and state.ended["status"] == "finished"
        and len(state.ended.get("passed") or ()) == len(SHARES)
        and other.diffusion == config.diffusion
        and other.training.dropout == config.training.dropout
        and not repeats_text(other)
    )


def _curves(states: Sequence[TrajectoryState], judged: TrajectoryConfig, guide: Fit) -> Curves:
    configs = [state.config for state in states]
    ends = np.array([state.observations[-1]["loss"] for state in states])
    passed = np.array([state.ended["passed"] for state in states if state.ended])
    at_end = Points.of(_sizes(configs), [config.tokens for config in configs])
    return Curves(
        excess=np.log(ends) - guide.law.log_loss(guide.theta, at_end),
        passed=np.log(passed.reshape(-1, len(SHARES))) - _law_on_the_way(configs, guide),
        traits=_traits(configs, judged),
    )


def _law_on_the_way(configs: Sequence[TrajectoryConfig], guide: Fit) -> FloatArray:
    """Return ln of the law's loss at each share of each run's tokens, [R, S]."""
    tokens = np.array([config.tokens for config in configs], dtype=np.float64)
    there = Points.of(np.array(_sizes(configs))[:, None], tokens[:, None] * np.array(SHARES))
    return guide.law.log_loss(guide.theta, there).reshape(len(configs), len(SHARES))


def _sizes(configs: Sequence[TrajectoryConfig]) -> list[int]:
    return [config.params for config in configs]


def _traits(configs: Sequence[TrajectoryConfig], judged: TrajectoryConfig) -> FloatArray:
    """Return what runs pass their shares higher or lower for, [R, 6].

    ln N, ln D, ln lr and ln of the batch, tenths of the run that are warmup, and whether the
    schedule is another than `judged` has.
    """
    sizes = [[one.params, one.tokens, one.lr, one.batch_tokens] for one in configs]
    warmup = [10.0 * one.training.warmup_fraction for one in configs]
    other = [config.lr_schedule != judged.lr_schedule for config in configs]
    logs = np.log(np.array(sizes, dtype=np.float64).reshape(-1, 4))
    return np.column_stack([logs, warmup, other])
