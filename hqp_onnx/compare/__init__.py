"""Compare models: outputs, accuracy, latency, and the first layer where one departs from another."""

from hqp_onnx.compare.comparison import Comparison, compare
from hqp_onnx.compare.engine_session import EngineSession
from hqp_onnx.compare.runner import SessionRunner

__all__ = ["Comparison", "EngineSession", "SessionRunner", "compare"]
