"""One rule per operator: how labels flow through it, and what it must restate when channels have left."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.channel_map import BoolArray, ChannelMap, IntArray

if TYPE_CHECKING:
    from hqp_onnx.channels import Walk

Rule = Callable[["Walk", gs.Node], None]
Rewrite = Callable[["Survivors", gs.Node], None]
F = TypeVar("F", Rule, Rewrite)

RULES: dict[str, Rule] = {}
REWRITES: dict[str, Rewrite] = {}


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Register how labels flow through ``ops``."""
    return lambda function: _register(RULES, ops, function)


def rewrite(*ops: str) -> Callable[[Rewrite], Rewrite]:
    """Register how ``ops`` restate attributes and shape inputs that name a channel count."""
    return lambda function: _register(REWRITES, ops, function)


def _register(table: dict[str, F], ops: tuple[str, ...], function: F) -> F:
    for op in ops:
        if op in table:
            raise ValueError(f"a second rule for {op}")
        table[op] = function
    return function


class Survivors:
    """Which positions of each activation remain under a plan."""

    def __init__(self, channels: ChannelMap, removed: BoolArray) -> None:
        self._channels = channels
        self._removed = removed

    def mask(self, tensor: gs.Tensor, axis: int) -> BoolArray | None:
        """Positions kept along ``axis``, bool [size]; None if labels do not vary there."""
        labels = self._channels.tensors.get(tensor.name)
        if labels is None or labels.shape[axis] == 1:
            return None
        lines = np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)
        kept: BoolArray = np.any(~self._removed[lines], axis=1)
        return kept

    def replace_input(self, node: gs.Node, index: int, values: IntArray) -> None:
        """Give ``node`` its own constant with new values; other users of the old one keep it."""
        old = node.inputs[index]
        if not np.array_equal(old.values, values):
            node.inputs[index] = gs.Constant(f"{old.name}_{node.name}_pruned", values.astype(old.values.dtype))
