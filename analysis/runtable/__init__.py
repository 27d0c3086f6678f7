"""The parts of the run table: its schema, reading, derived columns and checks."""
