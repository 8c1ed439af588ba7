"""Rules by operator, one short file per family."""

from hqp_onnx.channel_rules import contraction, elementwise, movement, reduction
from hqp_onnx.channel_rules.registry import REWRITES, RULES, Survivors

__all__ = ["REWRITES", "RULES", "Survivors", "contraction", "elementwise", "movement", "reduction"]
