"""The step of tiny models in C, for one CPU thread, where there is a compiler."""
