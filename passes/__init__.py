"""Everything that takes a model and returns a changed model. Imported as ``hqp_onnx.passes``."""
