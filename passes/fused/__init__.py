"""What fused operators of onnxruntime and of opset 23 compute, in standard operators: a file per family."""

from hqp_onnx.passes.fused import activation, attention, normalization, product, rotary
from hqp_onnx.passes.fused.body import BODIES, Body

__all__ = ["BODIES", "Body", "activation", "attention", "normalization", "product", "rotary"]
