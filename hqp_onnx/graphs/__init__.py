"""Read a model: files, shapes, tensor types, and where each weight holds its channels."""
