"""One module per law: its formula, gradient, priors, and the names of its parameters."""
