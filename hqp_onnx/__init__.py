"""hqp_onnx: structural pruning and INT8 quantization of exported ONNX models inside one accuracy budget."""

from __future__ import annotations

__version__ = "0.1.0"
