"""The laws, one module each, behind `analysis.laws.base.Law`."""
