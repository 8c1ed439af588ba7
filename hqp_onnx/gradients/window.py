"""Sliding windows (``graphs.windows``) on a tape: what a tap reads, and the adjoint.

The adjoint scatters: dx[l s + t d - p] += w[t] g[l]. With stride 1 that is a correlation of g with the flipped
kernel; otherwise ConvTranspose, whose output_padding restores the pixels that no window reached.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.gradients.tape import Tape, refuse
from hqp_onnx.graphs.nodes import attribute
from hqp_onnx.graphs.windows import Window, window_of


def window(t: Tape, node: onnx.NodeProto, kernel: Sequence[int], inner: str, outer: str) -> Window:
    """The window of a convolution or pooling node from traced tensor ``inner`` to ``outer`` [N, C, ...]."""
    axes = range(2, 2 + len(kernel))
    return window_of(node, kernel, t.static(node, inner, axes), t.static(node, outer, axes))


def adjoint_window(t: Tape, n: onnx.NodeProto, kernel: Sequence[int]) -> Window:
    """The window of the convolution (from y to x) of which a ConvTranspose node is the adjoint."""
    if attribute(n, "auto_pad", "NOTSET") not in ("NOTSET", "VALID") or attribute(n, "output_shape"):
        raise refuse(n, "has no gradient rule with auto_pad or output_shape: make its pads explicit")
    return window(t, n, kernel, n.output[0], n.input[0])


def padded(t: Tape, x: str, w: Window, trailing: int = 0) -> str:
    """``x`` [N, G, *inner, ...] with the zeros that the window reads; ``trailing`` axes follow the spatial ones."""
    begin, end = [max(0, p) for p in w.begin], [max(0, p) for p in w.end]
    more = [0] * trailing
    return t.op("Pad", x, t.ints(0, 0, *begin, *more, 0, 0, *end, *more)) if any(begin + end) else x


def read(t: Tape, x: str, w: Window, taps: Sequence[int]) -> str:
    """What one tap reads from the padded ``x``; of fewer taps than axes, along the first of them."""
    axes = range(2, 2 + len(taps))
    starts = [tap * d for tap, d in zip(taps, w.dilation, strict=False)]
    stops = [a + (n - 1) * s + 1 for a, n, s in zip(starts, w.outer, w.stride, strict=False)]
    return t.op("Slice", x, t.ints(*starts), t.ints(*stops), t.ints(*axes), t.ints(*w.stride[: len(taps)]))


def scatter_back(t: Tape, g: str, name: str, weight: Array | None, w: Window) -> str:
    """Adjoint of the Conv by tensor ``name`` [K, C / group, ...]: to [N, C, *inner]. ``weight`` if it is constant."""
    if set(w.stride) == {1}:
        pads = [reach - 1 - p for reach, p in zip(w.extent * 2, w.begin + w.end, strict=True)]
        if min(pads) >= 0:
            flipped = _flip_in_graph(t, name, w) if weight is None else t.const(_flip(weight, w.group))
            return t.op("Conv", g, flipped, **{**w.attributes(), "pads": pads})
    return t.op("ConvTranspose", g, name, **w.attributes(), output_padding=[max(0, -p) for p in w.end])


def _flip(weight: Array, group: int) -> Array:
    """[K, C / group, ...] -> [C, K / group, ...], every spatial axis reversed."""
    k, c, *spatial = weight.shape
    grouped = weight.reshape(group, k // group, c, *spatial).swapaxes(1, 2)
    return np.flip(grouped.reshape(group * c, k // group, *spatial), tuple(range(2, 2 + len(spatial)))).copy()


def _flip_in_graph(t: Tape, name: str, w: Window) -> str:
    """``_flip`` of a tensor."""
    k, c = (int(n or 0) for n in t.dims(name)[:2])
    grouped = t.reshape(name, w.group, k // w.group, c, -1)
    turned = t.reshape(t.op("Transpose", grouped, perm=[0, 2, 1, 3]), w.group * c, k // w.group, *w.kernel)
    axes = [axis for axis, size in enumerate(w.kernel, 2) if size > 1]
    if not axes:
        return turned
    count, last = len(axes), np.iinfo(np.int64).min
    return t.op("Slice", turned, t.ints(*[-1] * count), t.ints(*[last] * count), t.ints(*axes), t.ints(*[-1] * count))
