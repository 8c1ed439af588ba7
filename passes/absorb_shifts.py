"""A constant per channel that a removed branch leaves in a sum becomes part of the biases around it.

The sum y = x + c, x a residual trunk, costs a kernel and keeps the convolution before it from taking in sum and
activation. Where nothing but the sum reads x, c can move: backward into the bias of what computes x, and forward, since
what reads y - c in place of y needs W c more in its bias:

    y = x + c                       backward: x is a sum, and one of its terms is computed with a bias
    y = Relu(x + c), x = Relu(z)    y = Relu(z + min(c, 0)) + max(c, 0), the first backward, the second forward
    otherwise                       forward

Forward, c passes spatial means, maxima and further sums, until it has reached a bias on every way. That is exact, but
for windows that reach over an edge, where a tap sees no c. So c moves there only into weights that are refitted
afterwards (``refit_in_order``), and it is what their refit starts from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import FloatArray
from hqp_onnx.graphs.nodes import attribute, numbers
from hqp_onnx.graphs.unique_names import UniqueNames
from hqp_onnx.passes.base import PassResult
from hqp_onnx.passes.compensate import replace_weight
from hqp_onnx.statistics.moments import takes_bias

__all__ = ["Absorbed", "absorb_shifts", "constants"]

Edit = Callable[[], None]
_PASSING = {"GlobalAveragePool", "GlobalMaxPool", "MaxPool", "Identity", "Dropout"}
_DEEPEST = 64  # sums and means that a constant passes on its way


@dataclass(frozen=True)
class Absorbed(PassResult):
    """The changed graph, and what was moved where.

    Attributes:
        targets: weights whose outputs are larger by so much than before, float64 [outputs].
        readers: weights that read what is smaller than before.
    """

    targets: Mapping[str, FloatArray] = field(default_factory=dict)
    readers: Collection[str] = ()


def absorb_shifts(graph: gs.Graph, known: Collection[str] = (), inexact: Collection[str] = ()) -> Absorbed:
    """A copy of ``graph`` (canonical) without sums with constants that can move into biases.

    Args:
        graph: see above.
        known: names of constants that stay where they are.
        inexact: weights whose windows may reach over an edge, since they are refitted afterwards.
    """
    result = graph.copy()
    before = len(result.nodes)
    result.fold_constants(fold_shapes=False).cleanup()
    moved, notes, folded = _Moves(result, inexact), [], len(result.nodes) != before
    for node in list(result.nodes):
        constant = next((t for t in node.inputs if isinstance(t, gs.Constant)), None)
        if node.op != "Add" or constant is None or constant.name in known:
            continue
        shift = _shift(constant)
        data = node.inputs[1 - node.inputs.index(constant)]
        if shift is not None and not isinstance(data, gs.Constant) and moved.absorb(node, data, shift):
            notes.append(f"{node.name}: its constant moved into biases")
    result.cleanup()
    return Absorbed(result, folded or bool(notes), tuple(notes), targets=moved.targets, readers=moved.readers)


def constants(graph: gs.Graph) -> set[str]:
    """Names of a graph's constants."""
    return {name for name, tensor in graph.tensors().items() if isinstance(tensor, gs.Constant)}


@dataclass(frozen=True)
class _Shift:
    """One value per channel, float64 [channels], along axis 1 of ``rank`` or along the last; ``one`` pixel is all."""

    values: FloatArray
    last: bool
    rank: int
    one: bool = False


def _shift(constant: gs.Constant) -> _Shift | None:
    shape = list(constant.shape)
    wide = [axis for axis, size in enumerate(shape) if size != 1]
    if len(wide) != 1 or not np.issubdtype(constant.dtype, np.floating) or not np.isfinite(constant.values).all():
        return None
    last = wide[0] == len(shape) - 1
    return _Shift(constant.values.ravel().astype(np.float64), last, len(shape)) if last or wide[0] == 1 else None


class _Moves:
    """Edits of a graph, made only where a whole constant can move."""

    def __init__(self, graph: gs.Graph, inexact: Collection[str]) -> None:
        self.targets: dict[str, FloatArray] = {}
        self.readers: set[str] = set()
        self._inexact, self._names = inexact, UniqueNames(graph)
        self._exposed = {id(tensor) for tensor in graph.outputs}
        self._own = {id(node) for node in graph.nodes}  # nodes of subgraphs read its tensors, too

    def absorb(self, node: gs.Node, data: gs.Tensor, shift: _Shift) -> bool:
        """Let ``data`` stand for the sum of ``node``, if the constant can move."""
        total = node.outputs[0]
        edits = self._backward(data, shift)
        if edits is None and (activated := self._activated(data, total)) is not None:
            before, total = activated
            behind = self._backward(before, replace(shift, values=np.minimum(shift.values, 0)))
            ahead = self._forward(total, replace(shift, values=np.maximum(shift.values, 0)), _DEEPEST)
            edits = None if behind is None or ahead is None else [*behind, *ahead]
        elif edits is None:
            edits = self._forward(total, shift, _DEEPEST)
        if edits is None or id(total) in self._exposed:
            return False
        for edit in edits:
            edit()
        for reader in list(total.outputs):
            for place in [i for i, tensor in enumerate(reader.inputs) if tensor is total]:
                reader.inputs[place] = data
        return True

    def _activated(self, data: gs.Tensor, total: gs.Tensor) -> tuple[gs.Tensor, gs.Tensor] | None:
        """What the Relu before a sum reads, and what the Relu behind it gives, where nothing else reads in between."""
        alone = len(data.outputs) == 1 and len(total.outputs) == 1 and id(total) not in self._exposed
        if not alone or id(data) in self._exposed or not data.inputs:
            return None
        first, second = data.inputs[0], total.outputs[0]
        return (first.inputs[0], second.outputs[0]) if first.op == second.op == "Relu" else None

    def _backward(self, tensor: gs.Tensor, shift: _Shift) -> list[Edit] | None:
        """Edits that add ``shift`` to a tensor that one node reads; None where there are none."""
        if not shift.values.any():
            return []
        if len(tensor.outputs) != 1 or not tensor.inputs or id(tensor) in self._exposed:
            return None
        node = tensor.inputs[0]
        if node.op in ("Conv", "Gemm"):
            return self._biased(node, shift.values, _fits(node, shift), self.targets)
        if node.op == "BatchNormalization" and not shift.last:
            return self._added(node, 2, shift.values)
        if node.op == "Add":
            for place, operand in enumerate(node.inputs):
                if isinstance(operand, gs.Constant):
                    found = self._added(node, place, shift.values) if _is_like(operand, shift) else None
                else:
                    found = self._backward(operand, shift)
                if found is not None:
                    return found
        return None

    def _forward(self, tensor: gs.Tensor, shift: _Shift, deepest: int) -> list[Edit] | None:
        """Edits after which all readers of a tensor may read ``shift`` less of it; None where there are none."""
        if not shift.values.any():
            return []
        if not deepest or id(tensor) in self._exposed:
            return None
        edits: list[Edit] = []
        for reader in tensor.outputs:
            found = self._ahead(reader, tensor, shift, deepest - 1) if id(reader) in self._own else None
            if found is None:
                return None
            edits += found
        return edits

    def _ahead(self, node: gs.Node, tensor: gs.Tensor, shift: _Shift, deepest: int) -> list[Edit] | None:
        if node.op == "Add":
            other = node.inputs[1 - next(i for i, t in enumerate(node.inputs) if t is tensor)]
            if isinstance(other, gs.Constant):
                place = next(i for i, t in enumerate(node.inputs) if t is other)
                return self._added(node, place, shift.values) if _is_like(other, shift) else None
            if other is tensor:
                return None
            found = self._backward(other, shift)
            total = replace(shift, one=False)  # the other may have more pixels
            return self._forward(node.outputs[0], total, deepest) if found is None else found
        if [t is tensor for t in node.inputs].index(True) or sum(t is tensor for t in node.inputs) > 1:
            return None
        if node.op in _PASSING and not shift.last:
            one = shift.one or node.op.startswith("Global")
            return self._forward(node.outputs[0], replace(shift, one=one), deepest)
        if node.op == "Flatten" and shift.one and node.attrs.get("axis", 1) == 1:
            return self._forward(node.outputs[0], replace(shift, last=True), deepest)
        if node.op == "BatchNormalization" and not shift.last:
            return self._added(node, 3, -shift.values)
        if node.op not in ("Conv", "Gemm") or not isinstance(node.inputs[1], gs.Constant) or not _fits(node, shift):
            return None
        if node.op == "Conv":
            if _reaches_over(node) and node.inputs[1].name not in self._inexact:
                return None
            weight = node.inputs[1].values.astype(np.float64)
            taps = weight.reshape(*weight.shape[:2], -1).sum(2)
            parts = np.split(shift.values, int(node.attrs.get("group", 1)))
            groups = zip(np.split(taps, len(parts)), parts, strict=True)
            return self._biased(node, np.concatenate([w @ part for w, part in groups]), True, None)
        matrix = node.inputs[1].values.astype(np.float64)
        matrix = matrix if node.attrs.get("transB", 0) else matrix.T
        fits = matrix.shape[1] == shift.values.size and not node.attrs.get("transA", 0)
        return self._biased(node, matrix @ shift.values, fits, None) if fits else None

    def _biased(
        self, node: gs.Node, values: FloatArray, fits: bool, targets: dict[str, FloatArray] | None
    ) -> list[Edit] | None:
        weight = node.inputs[1]
        if not fits or not isinstance(weight, gs.Constant) or not takes_bias(weight):
            return None

        def edit() -> None:
            replace_weight(weight, weight.values, values, self._names)
            if targets is None:
                self.readers.add(weight.name)
            else:
                targets[weight.name] = targets.get(weight.name, 0.0) + values

        return [edit]

    def _added(self, node: gs.Node, place: int, values: FloatArray) -> list[Edit] | None:
        """Add to a constant of a node, of one value per channel."""
        constant = node.inputs[place]
        if not isinstance(constant, gs.Constant) or constant.values.size != values.size:
            return None

        def edit() -> None:
            now = node.inputs[place]  # which another way may have changed
            name = now.name if len(now.outputs) == 1 else self._names.tensor(f"{now.name}.shifted")
            node.inputs[place] = gs.Constant(name, (now.values + values.reshape(now.shape)).astype(now.dtype))

        return [edit]


def _fits(node: gs.Node, shift: _Shift) -> bool:
    """Whether the channels of a Conv or Gemm are those of a constant."""
    return shift.last if node.op == "Gemm" else not shift.last and shift.rank == len(node.inputs[1].shape)


def _is_like(constant: gs.Constant, shift: _Shift) -> bool:
    own = _shift(constant)
    return own is not None and own.last == shift.last and own.values.size == shift.values.size


def _reaches_over(node: gs.Node) -> bool:
    """Whether some window of a convolution reaches over an edge."""
    return any(numbers(node, "pads", [])) or attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")
