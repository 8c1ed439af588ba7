"""What fused operators of onnxruntime and of opset 23 compute, and Einsum, in simpler ones: a file per family."""

from hqp_onnx.passes.fused import activation, attention, einsum, normalization, product, rotary
from hqp_onnx.passes.fused.body import BODIES, Body

__all__ = ["BODIES", "Body", "activation", "attention", "einsum", "normalization", "product", "rotary"]
