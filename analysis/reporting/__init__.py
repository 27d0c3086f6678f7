"""The sections of a law's page."""
