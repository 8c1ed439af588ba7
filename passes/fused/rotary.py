"""RotaryEmbedding: pairs (u, v) of what is inside a head are turned by an angle that depends on the position.

u' = u cos - v sin,   v' = u sin + v cos        pairs are (i, i + half), or (2 i, 2 i + 1) where interleaved
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.passes.fused.body import Body, Results, body


@body("RotaryEmbedding", "com.microsoft::RotaryEmbedding")
def _rotary(b: Body) -> Results:
    """Onnxruntime's has positions before the tables. Data are [batch, heads, length, size], or without heads apart."""
    data, *others = (b.input(i) for i in range(4))
    ours = b.node.domain == "com.microsoft"
    places, cos, sin = others if ours else (others[2], *others[:2])
    if data is None or cos is None or sin is None or b.attribute("is_packed_batching", 0):
        return None
    if ours and (places is None or b.rank(places) != 2 or b.attribute("scale", 1.0) != 1.0):
        return None
    flat, half = b.rank(data) == 3, b.proven(cos, -1)
    heads = b.attribute("num_heads", 0) or (b.shape(data)[-1] // (2 * half) if flat and half else 0)
    if half is None or (flat and not heads):
        return None
    axis = 2 if flat else 1
    angles = [b.unsqueeze(t if places is None else b.op("Gather", t, places), axis) for t in (cos, sin)]
    split = b.reshape(data, 0, 0, heads, -1) if flat else data
    turned = turn(b, split, angles, half, b.attribute("rotary_embedding_dim", 0), b.attribute("interleaved", 0))
    return [b.reshape(turned, 0, 0, -1) if flat else turned]


def turn(
    b: Body, data: gs.Tensor, angles: Sequence[gs.Tensor], half: int, partly: bool, interleaved: bool
) -> gs.Variable:
    """The first ``2 half`` values of each head, by cosines and sines; the rest stays, if only part is turned."""
    rest: list[gs.Tensor] = []
    if partly:
        data, *rest = (b.op("Slice", data, *bounds) for bounds in _bounds(2 * half))
    if interleaved:
        pairs = b.op("Reshape", data, np.array([0, 0, 0, half, 2]))
        u, v = (b.op("Gather", pairs, np.array(i), axis=-1) for i in range(2))
    else:
        u, v = b.ops("Split", 2, data, np.array([half, half]), axis=-1)
    cos, sin = angles
    first = b.op("Sub", b.op("Mul", u, cos), b.op("Mul", v, sin))
    second = b.op("Add", b.op("Mul", u, sin), b.op("Mul", v, cos))
    if interleaved:
        joined = b.op("Concat", b.unsqueeze(first, -1), b.unsqueeze(second, -1), axis=-1)
        return b.op("Concat", b.op("Reshape", joined, np.array([0, 0, 0, -1])), *rest, axis=-1)
    return b.op("Concat", first, second, *rest, axis=-1)


def _bounds(size: int) -> list[list[np.ndarray]]:
    ends = [(0, size), (size, np.iinfo(np.int64).max)]
    return [[np.array([start]), np.array([stop]), np.array([-1])] for start, stop in ends]
