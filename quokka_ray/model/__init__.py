"""The transformer, the family of shapes, parameter and FLOP counts."""
