"""The command line: one module per group of verbs; parses, calls, prints."""
