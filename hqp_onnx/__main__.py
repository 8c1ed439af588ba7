"""``python -m hqp_onnx`` is ``hqp``."""

from hqp_onnx.cli import main

main()
