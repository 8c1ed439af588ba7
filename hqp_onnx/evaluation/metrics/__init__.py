"""Quality of a model on data: metrics by name, as sums of statistics of single samples, and evaluations.

A registered metric needs its module, so all are imported here, in the order in which their names are shown.
"""

from hqp_onnx.evaluation.metrics import top, values, confusion, detection, sequences, neighbours  # noqa: F401, I001
from hqp_onnx.evaluation.metrics.metric import METRICS, Metric, ScoreFunction, load_metric
from hqp_onnx.evaluation.metrics.quantity import Quantity
from hqp_onnx.evaluation.metrics.references import References
from hqp_onnx.evaluation.metrics.running import classes, evaluate, predictions, require_finite
from hqp_onnx.evaluation.metrics.scores import Scores

__all__ = [
    "METRICS",
    "Metric",
    "Quantity",
    "References",
    "ScoreFunction",
    "Scores",
    "classes",
    "evaluate",
    "load_metric",
    "predictions",
    "require_finite",
]
