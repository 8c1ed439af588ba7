"""Compare models: outputs, accuracy, latency, and the first layer where one departs from another."""

from hqp_onnx.comparison.comparison import compare
from hqp_onnx.comparison.found import Comparison
from hqp_onnx.comparison.runner import SessionRunner
from hqp_onnx.engine.session import EngineSession

__all__ = ["Comparison", "EngineSession", "SessionRunner", "compare"]
