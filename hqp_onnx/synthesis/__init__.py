"""Inputs for a model whose data are not here, made from what the model itself holds."""
