"""Ledger, budget, steering and sampler: ask, tell, end. No Ray, no torch."""
