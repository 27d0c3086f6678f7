"""The Ray Tune searcher and trainable, and the driver."""
