"""Shapes for all sizes: expressions in the model's symbolic dimensions, proven node by node."""
