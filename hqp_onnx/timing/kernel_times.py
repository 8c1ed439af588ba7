"""The kernels of one width configuration, by what they stand for in the model.

A kernel is known by the node or tensor of the model that it is named after; one whose name stands for nothing in the
model (a conversion between layouts, a fusion with a name of its own) is counted with the kernel before it. So the same
key means the same work in every configuration, whatever the runtime fused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from hqp_onnx.runtimes.kernels import Kernel, Shape

_FIRST = "<before any node>"


@dataclass(frozen=True)
class KeyTime:
    """Seconds of all kernels of one key, their number, and their shapes."""

    seconds: float
    count: int
    shapes: tuple[Shape, ...]


def by_key(kernels: Iterable[Kernel], known: Collection[str]) -> dict[str, KeyTime]:
    """Seconds by key.

    Args:
        kernels: in the order in which they run.
        known: names of the model's nodes and tensors.
    """
    times: dict[str, KeyTime] = {}
    key = _FIRST
    for kernel in kernels:
        key = next((found for name in kernel.names if (found := _stands_for(name, known))), key)
        before = times.get(key, KeyTime(0.0, 0, ()))
        times[key] = KeyTime(before.seconds + kernel.seconds, before.count + 1, before.shapes + kernel.shapes)
    return times


def _stands_for(name: str, known: Collection[str]) -> str | None:
    """The longest known name that ``name`` is, or begins with up to a separator."""
    while name not in known:
        ends = [place for place in (name.rfind(mark) for mark in "/_.:") if place > 0]
        if not ends:
            return None
        name = name[: max(ends)]
    return name
