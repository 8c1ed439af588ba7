"""Read a model: files, what nodes say, shapes, tensor types, windows, and where each weight has its filters."""
