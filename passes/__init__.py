"""Everything that takes a model and returns a changed one, without changing the one it was given.

Imported as ``hqp_onnx.passes``. What only grows a copy for a session of its own, to measure it or to fetch more of it,
is not a pass: its model is not kept.
"""
