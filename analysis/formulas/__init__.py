"""Formulas that users write: read safely, differentiated, and turned into NumPy functions."""
