"""What training has changed in the weights of one plan, carried to another plan of the same original.

    W' = W + D    on the channels that both plans keep; W as it is on the others

W is refitted for its own plan, so the change D is carried, not the weights: without their refit, these do worse.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import Array, IntArray

Gone = Mapping[str, Mapping[int, IntArray]]
"""Weight -> axis -> indices that a plan removes (``ChannelMap.removed_slices``)."""


def carried(change: Mapping[str, Array], graph: gs.Graph, given: Gone, own: Gone) -> dict[str, Array]:
    """New values of constants of ``graph``; those that the change does not fit are left out.

    Args:
        change: by weight, of the model of another plan.
        graph: of this plan.
        given: what the other plan removes.
        own: what this plan removes.
    """
    tensors, moved = graph.tensors(), {}
    for name, values in change.items():
        tensor = tensors.get(name)
        if isinstance(tensor, gs.Constant):
            fitted = _fitted(values, given.get(name, {}), own.get(name, {}))
            if fitted.shape == tensor.values.shape:
                moved[name] = (tensor.values + fitted).astype(tensor.values.dtype)
    return moved


def _fitted(values: Array, given: Mapping[int, IntArray], own: Mapping[int, IntArray]) -> Array:
    """The values for the channels of the other plan; 0 where there are none."""
    for axis in sorted({*given, *own}):
        there, here = given.get(axis, ()), own.get(axis, ())
        whole = np.arange(values.shape[axis] + len(there))
        before, after = np.setdiff1d(whole, there), np.setdiff1d(whole, here)
        _, old, new = np.intersect1d(before, after, return_indices=True)
        fitted = np.zeros((*values.shape[:axis], len(after), *values.shape[axis + 1 :]), values.dtype)
        np.moveaxis(fitted, axis, 0)[new] = np.moveaxis(values, axis, 0)[old]
        values = fitted
    return values
