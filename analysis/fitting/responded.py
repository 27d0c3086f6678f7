"""From the numbers of the response's terms to what they say of a recipe."""

from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.fitting.responding import LR, SCHEDULE, numbers
from analysis.laws.base import FloatArray
from analysis.laws.bowls import Bowl, BowlResponse
from analysis.laws.choices import ChoiceResponse, Choices
from analysis.laws.mixture import MixtureDesign
from analysis.laws.response import Response
from analysis.laws.summed import Summed


def fitted_response(
    terms: Summed | None,
    fallback: Response,
    centre: tuple[float, float],
    theta: FloatArray,
    samples: FloatArray,
    table: pd.DataFrame,
) -> Response:
    """Return what the response's parameters theta [Q] and their resamples [B, Q] say.

    Args:
        terms: what was fitted.
        fallback: what is known of the rest.
        centre: ln N0 and ln D0.
        theta, samples: the response's alone.
        table: the fitted runs.
    """
    if terms is None:
        return fallback
    reference = (float(np.exp(centre[0])), float(np.exp(centre[1])))
    response = fallback
    for name, term in terms.terms.items():
        own, drawn = theta[terms.places[name]], samples[:, terms.places[name]]
        if name == LR and isinstance(term, Bowl):
            response = _with_lr(response, term, own, drawn)
        elif name == SCHEDULE and isinstance(term, Choices):
            response = _with_schedules(response, term, own, drawn)
        elif isinstance(term, MixtureDesign):
            response = replace(response, mixture=term.fitted(own, drawn))
        elif isinstance(term, Bowl):
            moved = drawn[:, 1:].copy()
            moved[:, 0] += term.centre
            values = numbers(table, name)
            bowl = BowlResponse(
                curvature=float(np.exp(own[0])),
                log_best=float(own[1] + term.centre),
                slopes=(float(own[2]), float(own[3])),
                reference=reference,
                tried=(float(values.min()), float(values.max())),
                samples=moved,
            )
            response = replace(response, bowls={**response.bowls, name: bowl})
        elif isinstance(term, Choices):
            choice = ChoiceResponse(term.names, term.table(own), reference, term.table(drawn))
            response = replace(response, choices={**response.choices, name: choice})
    return response


def _with_lr(response: Response, term: Bowl, own: FloatArray, drawn: FloatArray) -> Response:
    drawn = drawn.copy()
    drawn[:, 1] += term.centre
    response = replace(
        response,
        lr_fitted=True,
        curvature=float(np.exp(own[0])),
        log_lr=float(own[1] + term.centre),
        slope_params=float(own[2]),
        slope_tokens=float(own[3]),
        samples=drawn,
    )
    if len(term.basis) == 3:
        return response
    return replace(
        response, slope_batch=float(own[4]), reference_batch=float(np.exp(term.reference[2]))
    )


def _with_schedules(
    response: Response, term: Choices, own: FloatArray, drawn: FloatArray
) -> Response:
    if not term.names:
        return response
    offsets, resampled = term.table(own)[:, 0], term.table(drawn)[..., 0]
    best = int(np.argmin(offsets))
    values = (float(v) for v in offsets - offsets[best])
    return replace(
        response,
        offsets=dict(zip(term.names, values, strict=True)),
        offset_samples=resampled - resampled[:, best : best + 1],
    )
