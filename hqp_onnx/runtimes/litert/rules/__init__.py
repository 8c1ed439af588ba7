"""How operators are written; see ``registry``."""

from hqp_onnx.runtimes.litert.rules import elementwise, movement, products, recurrent, reduction, windows  # noqa: F401
from hqp_onnx.runtimes.litert.rules.registry import RULES as RULES
from hqp_onnx.runtimes.litert.rules.registry import Step as Step
