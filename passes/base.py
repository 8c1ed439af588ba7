"""The contract of a pass: a graph in, a changed graph out, and whether anything really changed."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

__all__ = ["PassResult"]


@dataclass(frozen=True)
class PassResult:
    """``modified`` is False only if ``graph`` equals the input; ``notes`` say what was done or refused, and why.

    ``warnings`` are what nobody should miss.
    """

    graph: gs.Graph
    modified: bool
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
