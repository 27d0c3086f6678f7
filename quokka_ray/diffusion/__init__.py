"""Schedules, noising, mask samplers, objectives, likelihood evaluation."""
