"""The parts of a comparison of laws: parameters, budgets, scores on runs, and the page."""
