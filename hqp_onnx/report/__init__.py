"""Frozen results, as JSON and as tables."""
