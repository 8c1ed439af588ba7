"""Write a quantized model as the float model that it stands for: its weights, and activations that are not rounded.

    QLinearConv(x, W), QLinearMatMul, ...              ->  Q(Conv(DQ(x), DQ(W))), and then
    DQ(Q(x))                                           ->  x
    DQ(q) of a constant q                              ->  W = s (q - z)
    DynamicQuantizeLinear, MatMulInteger, Cast, Mul    ->  MatMul(x, W); so with ConvInteger, DynamicQuantizeLSTM, ...

Quantizers take a Relu or Clip away where the range of the integers does the same. So where a range begins at 0, and
what is quantized may be below, Clip(x, 0, end of the range) takes its place. No other saturation stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx.reference import ReferenceEvaluator

from hqp_onnx.counts import counted
from hqp_onnx.errors import ModelError
from hqp_onnx.graphs.model_io import is_quantized, to_proto
from hqp_onnx.passes.base import PassResult
from hqp_onnx.passes.in_float.dynamic import DYNAMIC
from hqp_onnx.passes.in_float.linear import LINEAR
from hqp_onnx.passes.in_float.parts import Steps, Work, input_of, name_of
from hqp_onnx.passes.raise_opset import raise_opset

__all__ = ["dequantize"]

_OPSET = 13  # Clip takes its bounds as inputs
_PAIR = ("QuantizeLinear", "DequantizeLinear")
_REWRITES = LINEAR | DYNAMIC
_FIRST = frozenset(
    {"Compress", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity"}
)
_FIRST |= {
    "MaxPool",
    "ReduceMax",
    "ReduceMin",
    "Reshape",
    "Resize",
    "ReverseSequence",
    "Slice",
    "SpaceToDepth",
    "Split",
}
_FIRST |= {"Squeeze", "Tile", "TopK", "Transpose", "Unsqueeze"}
_PLACES = frozenset({"ArgMax", "ArgMin", "Shape", "Size"})
_COMPUTES = _PLACES | {"MaxPool", "Resize", "TopK"}
"""What does more than to move numbers."""
_MOVES: dict[str, Sequence[int] | None] = dict.fromkeys(_FIRST | _PLACES, (0,))
_MOVES |= dict.fromkeys(("Concat", "Max", "Min")) | dict.fromkeys(("Pad", "ScatterElements", "ScatterND"), (0, 2))
_MOVES |= {"Where": (1, 2)}
"""What gives numbers that it is given, so it may stand between Q and DQ -> its inputs that are numbers; None for all.

Resize may give what is between them, which integers round; ``_PLACES`` give numbers of their own.
"""
_COMPARES = frozenset({"ArgMax", "ArgMin", "Max", "Min", "ReduceMax", "ReduceMin"})
_COMPARES |= {"ScatterElements", "ScatterND", "TopK"}
"""Of these, what compares numbers that may have scales of their own."""
_NONNEGATIVE = frozenset(["Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus", "Sqrt"])
_KEEPS_SIGN = _MOVES | dict.fromkeys(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean"), (0,))
_KEEPS_SIGN |= dict.fromkeys(("Add", "Mul", "Sum"))


def dequantize(graph: gs.Graph) -> PassResult:
    """``graph`` in float, as a copy, in opset 13 or newer; a float model stays as it is.

    Raises:
        ModelError: a node has no known meaning in float, or the model gives integers that were quantized.
    """
    count = sum(map(_is_quantized, graph.nodes))
    if not count:
        return PassResult(graph.copy(), False)
    raised = raise_opset(graph, _OPSET)
    work = Work(raised.graph.copy().toposort())
    for node in [node for node in work.graph.nodes if node.op in _REWRITES]:
        _REWRITES[node.op](work, node)
    work.graph.cleanup().toposort()
    _drop_pairs(work)
    work.graph.cleanup().toposort()
    for inner in (work.graph, *work.graph.subgraphs(recursive=True)):
        if left := next(filter(_is_quantized, inner.nodes), None):
            raise _unknown(left)
    return PassResult(work.graph, True, (*raised.notes, f"{counted(count, 'quantized node')} written in float"))


def _is_quantized(node: gs.Node) -> bool:
    return is_quantized(node.op) or node.op in _REWRITES


def _unknown(node: gs.Node) -> ModelError:
    return ModelError(
        f"node '{node.name or node.outputs[0].name}' of {node.op} has no known meaning in float here. Give the float "
        "model that the quantized one was made from"
    )


def _drop_pairs(work: Work) -> None:
    """Replace what DequantizeLinear gives by the numbers that it stands for."""
    _fold(work)
    numbers = _of_moved_constants(work)  # of tensors of integers
    ends: dict[str, gs.Tensor] = {}  # of the model, by what is there now
    for node in list(work.graph.nodes):
        read = [numbers[t.name] for t in node.inputs if t.name in numbers]
        if node.op == "QuantizeLinear":
            steps = _steps(node)
            numbers[node.outputs[0].name] = _saturated(work, node.inputs[0], steps), steps
        elif node.op == "DequantizeLinear":
            given, steps = node.inputs[0], _steps(node)
            if read and not read[0][1].same(steps):
                raise _unknown(node)
            found = read[0][0] if read else _numbers(work, given, steps)
            if found is None:
                raise _unknown(node)
            for reader in list(node.outputs[0].outputs):
                reader.inputs = [found if t is node.outputs[0] else t for t in reader.inputs]
            ends[node.outputs[0].name] = found
        elif read:
            _move(work, node, numbers, read[0][1])
    if given_out := next((t for t in work.graph.outputs if t.name in numbers), None):
        raise ModelError(f"output '{given_out.name}' holds quantized integers: only float outputs have a float model")
    for output in work.graph.outputs:
        if output.name in ends:
            value = ends[output.name]
            kept = _take_place(work, output, value)
            ends = {name: kept if tensor is value else tensor for name, tensor in ends.items()}


def _fold(work: Work) -> None:
    """Move constants that are moved, by constants, before they are dequantized, once and for all."""
    wanted: set[int] = set()
    for node in reversed(work.graph.nodes):
        moves = node.op in _MOVES and not wanted.isdisjoint(map(id, node.outputs))
        places = [0] if node.op == "DequantizeLinear" else _operands(node) if moves else []
        wanted.update(id(node.inputs[place]) for place in places)
    wanted -= {id(t) for t in work.graph.outputs}
    for node in work.graph.nodes:
        moves = node.op in _MOVES.keys() - _COMPUTES and not wanted.isdisjoint(map(id, node.outputs))
        if not moves or not all(isinstance(t, gs.Constant) for t in node.inputs if not t.is_empty()):
            continue
        part = to_proto(gs.Graph([node], [], node.outputs, opset=work.graph.opset))
        with suppress(Exception):  # numpy's own: it stays
            results = ReferenceEvaluator(part).run(None, {})
            for tensor, values in zip(list(node.outputs), results, strict=True):
                tensor.to_constant(np.asarray(values)).inputs.clear()


def _of_moved_constants(work: Work) -> dict[str, tuple[gs.Tensor, Steps]]:
    """Copies of constants of integers that are moved before they are dequantized: rows of a table, that are gathered.

    Each is for one DequantizeLinear, with what moves it: others may read it with other steps, or as integers.
    """
    chains = [(node, *_moves_before(node)) for node in work.graph.nodes if node.op == "DequantizeLinear"]
    moved = {id(source) for _, source, moves in chains if moves and isinstance(source, gs.Constant)}
    found: dict[str, tuple[gs.Tensor, Steps]] = {}
    made: dict[int, list[tuple[Steps, gs.Tensor]]] = {}
    for node, source, moves in chains:
        steps = _before(moves, _steps(node))
        if id(source) not in moved or steps is None:
            continue
        own = made.setdefault(id(source), [])
        floats = next((floats for known, floats in own if known.same(steps)), None)
        if floats is None:
            floats = work.constant(steps.of(source.values), f"{source.name}/float")
            own.append((steps, floats))
        copy = gs.Constant(work.names.tensor(f"{source.name}/copy"), source.values)
        found[copy.name] = floats, _steps(node)
        node.inputs[0] = _repeated(work, moves, copy)
    work.graph.toposort()
    return found


def _moves_before(node: gs.Node) -> tuple[gs.Tensor, list[gs.Node]]:
    """What the integers of DequantizeLinear come from, and the nodes that move them on their way, in order."""
    source = node.inputs[0]
    moves: list[gs.Node] = []
    while source.inputs and source.inputs[0].op in _FIRST and source is source.inputs[0].outputs[0]:
        moves.insert(0, source.inputs[0])
        source = source.inputs[0].inputs[0]
    return source, moves


def _before(moves: Sequence[gs.Node], steps: Steps) -> Steps | None:
    """``steps`` of what ``moves`` give, as those of what they take; None where that is not known."""
    if not steps.known or steps.scale.values.size == 1 or not moves:
        return steps if steps.known else None
    if steps.block or any(node.op != "Gather" or node.inputs[1].shape is None for node in moves):
        return None
    ranks = [len(node.inputs[1].shape) for node in moves]  # of what tells the places: as many axes take one's place
    rank = len(moves[0].inputs[0].shape)
    axis = steps.axis % (rank + sum(ranks) - len(ranks))
    for n, node in reversed(list(enumerate(moves))):
        at = node.attrs.get("axis", 0) % (rank + sum(ranks[:n]) - n)
        if at <= axis < at + ranks[n]:
            return None
        axis -= ranks[n] - 1 if axis >= at else 0
    return replace(steps, axis=axis)


def _repeated(work: Work, moves: Sequence[gs.Node], value: gs.Tensor) -> gs.Tensor:
    """The result of new nodes that move ``value`` as ``moves`` do."""
    for node in moves:
        outputs = [gs.Variable(work.names.tensor(f"{t.name}/copy"), t.dtype, t.shape) for t in node.outputs]
        name = work.names.node(f"{name_of(node)}/copy")
        work.graph.nodes.append(gs.Node(node.op, name, {**node.attrs}, [value, *node.inputs[1:]], outputs))
        value = outputs[0]
    return value


def _move(work: Work, node: gs.Node, numbers: dict[str, tuple[gs.Tensor, Steps]], steps: Steps) -> None:
    """Let a node that moves integers of ``steps`` move the numbers that they stand for."""
    adds = node.attrs.get("reduction", "none") in ("add", "mul")
    pads = node.op == "Pad" and node.attrs.get("mode", "constant") == "constant"
    crops = node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    alone = steps.known and steps.scale.values.size == 1
    if node.op not in _MOVES or adds or ((pads or crops or node.op in _COMPARES) and not alone):
        raise _unknown(node)
    if crops:
        beyond = np.array(node.attrs.get("extrapolation_value", 0)).astype(steps.kind)
        node.attrs["extrapolation_value"] = float(steps.of(beyond))
    if pads and input_of(node, 2) is None:
        padding = work.constant(np.zeros((), steps.kind), f"{name_of(node)}/padding")
        node.inputs = [*node.inputs[:2], padding, *node.inputs[3:]]
    for place in _operands(node):
        tensor = node.inputs[place]
        value, own = numbers.get(tensor.name) or (_numbers(work, tensor, steps), steps)
        if value is None or not own.same(steps):
            raise _unknown(node)
        node.inputs[place] = value
    given = 0 if node.op in _PLACES else len(node.outputs) if node.op == "Split" else 1
    integers = node.outputs[:given]
    floats = [gs.Variable(work.names.tensor(f"{t.name}/float")) for t in integers]
    node.outputs = [*floats, *node.outputs[given:]]
    numbers |= {t.name: (value, steps) for t, value in zip(integers, floats, strict=True)}


def _operands(node: gs.Node, ops: Mapping[str, Sequence[int] | None] = _MOVES) -> list[int]:
    """Which inputs of a node are numbers."""
    places = ops[node.op]
    return [n for n in (range(len(node.inputs)) if places is None else places) if input_of(node, n) is not None]


def _take_place(work: Work, output: gs.Tensor, value: gs.Tensor) -> gs.Tensor:
    """Let an output of the model be ``value``, under its own name where ``value`` needs none; which of both stays."""
    output.inputs = []
    if not value.inputs or any(value is t for t in work.graph.outputs):
        work.op("Identity", [value], output.name, output)
        return value
    maker = value.inputs[0]
    maker.outputs = [output if t is value else t for t in maker.outputs]
    for reader in list(value.outputs):
        reader.inputs = [output if t is value else t for t in reader.inputs]
    return output


def _steps(node: gs.Node) -> Steps:
    axis, block, zero = node.attrs.get("axis", 1), node.attrs.get("block_size", 0), input_of(node, 2)
    stated = node.attrs.get("output_dtype", 0) or onnx.TensorProto.UINT8
    kind = zero.values.dtype if isinstance(zero, gs.Constant) else onnx.helper.tensor_dtype_to_np_dtype(stated)
    return Steps(node.inputs[1], zero, axis, block, np.dtype(kind))


def _numbers(work: Work, integers: gs.Tensor, steps: Steps) -> gs.Tensor | None:
    """Those of a constant, or of integers that the model is given; None where they are not known."""
    if isinstance(integers, gs.Constant):
        return work.floats(integers, steps)
    if not steps.known or steps.scale.values.size > 1:
        return None
    kind = steps.scale.values.dtype
    to = onnx.helper.np_dtype_to_tensor_dtype(kind)
    value = work.op("Cast", [integers], f"{integers.name}/float", to=to)
    if steps.zero is not None and steps.zero.values.any():
        zero = work.constant(steps.zero.values.astype(kind), f"{integers.name}/zero")
        value = work.op("Sub", [value, zero], f"{integers.name}/centred")
    return work.op(
        "Mul", [value, work.constant(steps.scale.values, f"{integers.name}/scale")], f"{integers.name}/number"
    )


def _saturated(work: Work, value: gs.Tensor, steps: Steps) -> gs.Tensor:
    """``value``, not below 0 where the integers could not be, either, and it might."""
    if not steps.known or not np.issubdtype(steps.kind, np.integer) or not value.inputs or _is_nonnegative(value):
        return value
    ends = np.iinfo(steps.kind)
    if np.any(ends.min != 0 if steps.zero is None else steps.zero.values != ends.min):
        return value
    if steps.scale.values.size > 1:
        return work.op("Relu", [value], f"{value.name}/clipped")
    top, kind = float(steps.scale.values.item()) * (ends.max - ends.min), steps.scale.values.dtype
    bounds = [work.constant(np.array(x, kind), f"{value.name}/{end}") for x, end in ((0.0, "low"), (top, "high"))]
    return work.op("Clip", [value, *bounds], f"{value.name}/clipped")


def _is_nonnegative(value: gs.Tensor) -> bool:
    """Whether it is seen that no element is below 0."""
    if isinstance(value, gs.Constant):
        return bool(value.values.min(initial=0) >= 0)
    node = value.inputs[0] if value.inputs else None
    if node is None:
        return False
    if node.op == "Clip":
        low = input_of(node, 1)
        return isinstance(low, gs.Constant) and bool(low.values >= 0)
    if node.op not in _KEEPS_SIGN or node.attrs.get("mode") == "cubic":
        return node.op in _NONNEGATIVE
    return all(_is_nonnegative(node.inputs[n]) for n in _operands(node, _KEEPS_SIGN))
