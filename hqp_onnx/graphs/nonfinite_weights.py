"""Weights that hold NaN or infinities: where, how many, and whether that is worth a word.

An infinity that is added, compared or selected is a mask, as of attention, and means what it says. Multiplied by an
activation, or looked up, it is a weight that no integer can stand for; a NaN never means anything.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.counts import counted

_MASKING = frozenset(
    {"Add", "Sub", "Where", "Max", "Min", "Clip", "Pad", "Greater", "Less", "Equal", "Concat", "Expand"}
)


def is_finite(tensor: gs.Tensor) -> bool:
    """Whether a constant holds no NaN and no infinity; True for all that is no floating-point constant."""
    if not isinstance(tensor, gs.Constant) or not np.issubdtype(tensor.dtype, np.floating):
        return True
    return bool(np.isfinite(tensor.values).all())


def nonfinite_weights(graph: gs.Graph) -> list[str]:
    """One line for each weight with NaN, or with infinities that mask nothing."""
    found = []
    for inner in [graph, *graph.subgraphs(recursive=True)]:
        for tensor in inner.tensors().values():
            if not is_finite(tensor):
                values = tensor.values
                nan, infinite = int(np.isnan(values).sum()), int(np.isinf(values).sum())
                if nan or any(node.op not in _MASKING for node in tensor.outputs):
                    found.append(f"weight '{tensor.name}': {_counts(nan, infinite)} of {counted(values.size, 'value')}")
    return list(dict.fromkeys(found))


def _counts(nan: int, infinite: int) -> str:
    return " and ".join(f"{count} {kind}" for count, kind in ((nan, "NaN"), (infinite, "infinite")) if count)
