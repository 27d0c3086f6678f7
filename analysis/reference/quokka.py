"""Published laws as laws that predict and allocate, from the constants in `laws.csv`."""

from functools import cache

import numpy as np

from analysis.laws.base import get_law
from analysis.reference import constants
from analysis.state import LawState

RECOVERED = "recovered"
PRINTED = "printed"

_FORMS = {
    "eq13": "chinchilla",
    "chinchilla": "chinchilla",
    "eq15": "data_constrained",
    "eq21": "data_constrained_log",
    "eq23": "data_constrained_softplus",
    "muennighoff": "muennighoff",
}
"""Which formula each published law has."""

_MUENNIGHOFF = {
    "E": float(np.exp(0.6254804)),
    "A": float(np.exp(6.255414)),
    "B": float(np.exp(7.3049974)),
    "alpha": 0.3526596,
    "beta": 0.3526596,
    "R_D": 15.387756,
    "R_N": 5.309743,
}
"""Muennighoff et al. 2023 (arXiv 2305.16264), to the digits of their code."""

_ABSENT = {"E": 1e-9, "R_D": 1e9}
"""What stands for a floor of zero, and for repeated tokens that are as good as new ones."""

_COMPUTE_RUNS = {"params": (7e6, 11.764e9), "tokens": (1.1e9, 261.6e9), "flops": (3e18, 1e21)}
_DATA_RUNS = {
    "params": (14e6, 2792e6),
    "tokens": (2e7, 139e9),
    "flops": (1.7e15, 2.4e21),
    "unique_tokens": (10e6, 139e6),
}
"""Ranges of the runs that the paper's laws were fitted to."""


@cache
def published_state(name: str, status: str = RECOVERED) -> LawState:
    """Return a published law with its numbers; intervals have no width, since none are printed.

    Args:
        name: `eq13`, `eq15`, `eq21`, `eq23` (the Quokka paper's), `chinchilla` (Hoffmann et al.
            2022, approach 3) or `muennighoff`.
        status: `recovered`, to more digits, from the curves that the paper draws, or `printed`.
            Laws that need no recovery have printed constants only, and these are taken.

    Raises:
        KeyError: there is no such law.
    """
    if name not in _FORMS:
        raise KeyError(f"no published law is called {name!r}; known: {', '.join(_FORMS)}")
    law = get_law(_FORMS[name])
    if name == "muennighoff":
        numbers = dict(_MUENNIGHOFF)
    else:
        numbers = constants(name, PRINTED if name == "chinchilla" else status)
    if "R_star" in numbers:
        numbers["R_D"] = numbers["R_star"]
    values = [max(numbers.get(n, 0.0), 0.0) or _ABSENT[n] for n in law.parameters]
    theta = law.theta(np.array(values))
    size = theta.size
    validity = {}
    if name.startswith("eq"):
        validity = _COMPUTE_RUNS if name == "eq13" else _DATA_RUNS
    return LawState(law, theta, np.zeros((size, size)), theta[None], 0.0, validity=dict(validity))


def power_laws() -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the paper's approach 1: (k, a) of N_opt = k C^a, and the same of D_opt."""
    numbers = constants("isoflop")
    return (numbers["k_N"], numbers["a"]), (numbers["k_D"], numbers["b"])
