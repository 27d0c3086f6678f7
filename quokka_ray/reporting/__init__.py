"""TensorBoard and the terminal's live table."""
