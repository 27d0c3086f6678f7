"""Scaling laws: fitted, with intervals, from tables of runs. Neither torch nor Ray."""
