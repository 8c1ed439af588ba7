"""hqp_onnx: structural pruning and INT8 quantization of exported ONNX models inside one accuracy budget.

The main job is ``optimize(Options(...))``; ``prune``, ``quantize`` and ``recover`` change a ModelProto. Single passes
are in ``hqp_onnx.passes``, what they need to know in ``hqp_onnx.channels.walk``, ``hqp_onnx.ranking.saliencies`` and
``hqp_onnx.statistics.calibration``, adapters for other tools in ``hqp_onnx.plugins``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hqp_onnx.version import __version__

if TYPE_CHECKING:
    from hqp_onnx.channels.walk import analyze
    from hqp_onnx.errors import HqpError
    from hqp_onnx.job.options import Options
    from hqp_onnx.model import open_data, open_model
    from hqp_onnx.plugins.functions import prune, quantize, recover
    from hqp_onnx.steps.optimize import optimize

__all__ = [
    "HqpError",
    "Options",
    "__version__",
    "analyze",
    "open_data",
    "open_model",
    "optimize",
    "prune",
    "quantize",
    "recover",
]

_HOMES = {
    "HqpError": "errors",
    "Options": "job.options",
    "analyze": "channels.walk",
    "open_data": "model",
    "open_model": "model",
    "optimize": "steps.optimize",
    "prune": "plugins.functions",
    "quantize": "plugins.functions",
    "recover": "plugins.functions",
}


def __getattr__(name: str) -> Any:
    """Import public names on first use: passes import this package, so it cannot import them first."""
    if name not in _HOMES:
        raise AttributeError(f"module 'hqp_onnx' has no attribute '{name}'")
    return getattr(import_module(f"hqp_onnx.{_HOMES[name]}"), name)
