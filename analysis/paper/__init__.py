"""The Quokka paper recomputed: `python -m analysis.paper` writes docs/results/paper.md."""
