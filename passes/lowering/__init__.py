"""Passes that write a model in simpler operators, for gradients and recovery."""
