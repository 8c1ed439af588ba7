"""hqp_onnx: structural pruning and INT8 quantization of exported ONNX models inside one accuracy budget.

The main job is ``optimize(Options(...))``. ``prune``, ``quantize`` and ``recover`` give a changed model; ``score``,
``inspect``, ``evaluate``, ``benchmark`` and ``compare`` say something of one; ``check`` holds what was shipped to
thresholds; ``export`` and ``build`` write a model for one runtime. Single passes on onnx-graphsurgeon graphs are in
``hqp_onnx.passes``, adapters for other tools in ``hqp_onnx.plugins``. All else may move between versions.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hqp_onnx.version import __version__

if TYPE_CHECKING:
    from hqp_onnx.api import (
        benchmark,
        build,
        check,
        compare,
        dequantize,
        evaluate,
        inspect,
        prune,
        quantize,
        recover,
        score,
    )
    from hqp_onnx.channels.channel_map import ChannelMap, PruningPlan
    from hqp_onnx.channels.walk import analyze
    from hqp_onnx.comparison import Comparison
    from hqp_onnx.data.preprocess import Preprocess
    from hqp_onnx.data.reading import Reading
    from hqp_onnx.engine import BuildOptions, BuildReport
    from hqp_onnx.errors import HqpError
    from hqp_onnx.evaluation.latency import Latencies, Latency
    from hqp_onnx.evaluation.metrics import Metric, Scores
    from hqp_onnx.evaluation.metrics.detection import average_precision
    from hqp_onnx.job.options import Options
    from hqp_onnx.job.results import Report
    from hqp_onnx.model import open_data, open_model
    from hqp_onnx.progress import Lines
    from hqp_onnx.ranking.rank import Ranking
    from hqp_onnx.steps.check import Finding
    from hqp_onnx.steps.export import Exported, export
    from hqp_onnx.steps.inspect import Inspection
    from hqp_onnx.steps.optimize import optimize

_HOMES = {
    "api": (
        "benchmark",
        "build",
        "check",
        "compare",
        "dequantize",
        "evaluate",
        "inspect",
        "prune",
        "quantize",
        "recover",
        "score",
    ),
    "channels.channel_map": ("ChannelMap", "PruningPlan"),
    "channels.walk": ("analyze",),
    "comparison": ("Comparison",),
    "data.preprocess": ("Preprocess",),
    "data.reading": ("Reading",),
    "engine": ("BuildOptions", "BuildReport"),
    "errors": ("HqpError",),
    "evaluation.latency": ("Latencies", "Latency"),
    "evaluation.metrics": ("Metric", "Scores"),
    "evaluation.metrics.detection": ("average_precision",),
    "job.options": ("Options",),
    "job.results": ("Report",),
    "model": ("open_data", "open_model"),
    "progress": ("Lines",),
    "ranking.rank": ("Ranking",),
    "steps.check": ("Finding",),
    "steps.export": ("Exported", "export"),
    "steps.inspect": ("Inspection",),
    "steps.optimize": ("optimize",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
__all__ = [
    "BuildOptions",
    "BuildReport",
    "ChannelMap",
    "Comparison",
    "Exported",
    "Finding",
    "HqpError",
    "Inspection",
    "Latencies",
    "Latency",
    "Lines",
    "Metric",
    "Options",
    "Preprocess",
    "PruningPlan",
    "Ranking",
    "Reading",
    "Report",
    "Scores",
    "__version__",
    "analyze",
    "average_precision",
    "benchmark",
    "build",
    "check",
    "compare",
    "dequantize",
    "evaluate",
    "export",
    "inspect",
    "open_data",
    "open_model",
    "optimize",
    "prune",
    "quantize",
    "recover",
    "score",
]


def __getattr__(name: str) -> Any:
    """Import public names on first use: passes import this package, so it cannot import them first."""
    if name not in _HOME:
        raise AttributeError(f"module 'hqp_onnx' has no attribute '{name}'")
    return getattr(import_module(f"hqp_onnx.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
