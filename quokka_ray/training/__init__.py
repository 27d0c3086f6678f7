"""One run: recipe, loop, optimiser, LR schedules, checkpoints."""
