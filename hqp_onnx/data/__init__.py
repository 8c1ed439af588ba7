"""Samples as checked batches: arrays, images, scripts."""
