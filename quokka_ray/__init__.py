"""quokka-ray: scaling laws of diffusion language models, searched for on Ray."""

__version__ = "0.1.0"
