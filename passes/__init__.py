"""Everything that takes a model and returns a changed one, and leaves the given one as it is.

Imported as ``hqp_onnx.passes``. What only grows a copy for a session of its own, to measure it or to fetch more of it,
is no pass: nobody keeps its model.
"""
