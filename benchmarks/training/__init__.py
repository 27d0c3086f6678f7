"""Rows of `benchmarks/train.py`, one module a group."""
