"""FusedMatMul, FusedGemm, FusedConv: a product, with transpositions, a factor, a sum or an activation."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from hqp_onnx.passes.fused.activation import activated
from hqp_onnx.passes.fused.body import Body, Results, body


@body("com.microsoft::FusedMatMul", "com.microsoft::TransposeMatMul")
def _matmul(b: Body) -> Results:
    """The factor follows the product; transBatch puts the first axis before the last."""
    sides = [_side(b, tensor, side) for tensor, side in zip(b.node.inputs, "AB", strict=True)]
    product = b.op("MatMul", *sides)
    alpha = float(b.attribute("alpha", 1.0))
    return [product if alpha == 1 else b.op("Mul", product, alpha)]


def _side(b: Body, tensor: gs.Tensor, side: str) -> gs.Tensor:
    rank = b.rank(tensor)
    perm = list(range(rank))
    if b.attribute(f"transBatch{side}", 0):
        perm = [*perm[1:-1], 0, perm[-1]]
    if b.attribute(f"trans{side}", 0):
        perm[-2:] = perm[:-3:-1]
    return tensor if perm == sorted(perm) else b.transpose(tensor, *perm)


@body("com.microsoft::FusedGemm")
def _gemm(b: Body) -> Results:
    attrs = {name: b.attribute(name) for name in ("alpha", "beta", "transA", "transB")}
    stated = {name: value for name, value in attrs.items() if value is not None}
    result = activated(b, b.op("Gemm", *b.node.inputs, **stated))
    return None if result is None else [result]


@body("com.microsoft::FusedConv")
def _conv(b: Body) -> Results:
    """``Z`` is added before the activation."""
    attrs = {name: value for name, value in b.node.attrs.items() if not name.startswith("activation")}
    product = b.op("Conv", *(t for t in (b.input(i) for i in range(3)) if t is not None), **attrs)
    result = activated(b, b.add(product, b.input(3)))
    return None if result is None else [result]
