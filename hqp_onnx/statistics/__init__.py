"""Sums over data: second moments, channel statistics, ranges."""
