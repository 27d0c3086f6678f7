"""Fitting laws to runs. `analysis.fitting.fit.fit_law` is the way in."""
