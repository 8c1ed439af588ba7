"""Exact per-sample gradients in standard ONNX operators.

Reverse mode: with y = f(x) and g = dL/dy, a rule appends nodes that compute g^T df/dx. Walking the graph backwards
from the loss gives delta = dL/dy for the output y of every Conv, ConvTranspose, Gemm and MatMul; norms.py turns
delta and the node's input into ||dL_i/dW_f||^2, per sample i and filter f, without the weight gradient itself.
"""

from hqp_onnx.gradients.filters import filter_weights
from hqp_onnx.gradients.per_sample import PerSample

__all__ = ["PerSample", "filter_weights"]
