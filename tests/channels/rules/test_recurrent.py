"""Hidden units of LSTM, GRU and RNN: what is prunable, and random plans against the zero-masked original."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import onnx
import onnx.parser
import pytest

from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis, PruningPlan
from hqp_onnx.channels.walk import analyze
from hqp_onnx.graphs.model_io import to_graph
from hqp_onnx.graphs.recurrent import GATES
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.prune_channels import prune_channels

STEPS, BATCH, INPUTS, HIDDEN = 6, 3, 5, 7
WIDE = 40  # enough that sums of pruned and masked weights round apart


ENDS = "q = ReduceMean<axes=[0, 1], keepdims=0>(s)\n t = ReduceSum<keepdims=0>(h, zero)"
EVERYTHING = {
    **dict.fromkeys(("GRU", "RNN"), f"{ENDS}\n v = Concat<axis=0>(q, t)\n y = MatMul(v, m)"),
    "LSTM": f"{ENDS}\n u = ReduceSum<keepdims=0>(c, zero)\n v = Concat<axis=0>(q, t, u)\n y = MatMul(v, m)",
}


def node(op: str, attributes: str, operands: str, hidden: int = HIDDEN) -> str:
    outputs = "s, h, c" if op == "LSTM" else "s, h"
    return f"{outputs} = {op}<hidden_size={hidden}{attributes}>({operands})"


def build(
    op: str, attributes: str = "", operands: str = "e, w, r, b", tail: str = "", middle: str = "", hidden: int = HIDDEN
) -> onnx.ModelProto:
    """A MatMul, ``middle``, ``op``, and ``tail``: by default a MatMul of all that the node gives."""
    count = 2 if "bidirectional" in attributes else 1
    gates = GATES[op]
    tail = tail or EVERYTHING[op]
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[{STEPS},{BATCH},{INPUTS}] x, int32[{BATCH}] lengths, float[{count},{BATCH},{hidden}] fed)
      => (float[l,m] y) {{
      e = MatMul(x, we)
      {middle}
      {node(op, attributes, operands, hidden)}
      {tail}
    }}"""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(3)
    shapes = {
        "we": (INPUTS, 4),
        "w": (count, gates * hidden, 4),
        "r": (count, gates * hidden, hidden),
        "b": (count, 2 * gates * hidden),
        "p": (count, 3 * hidden),
        "h0": (count, BATCH, hidden),
        "c0": (count, BATCH, hidden),
        "wi": (4, hidden),
        "m": (hidden, 3),
        "m2": (count * hidden, 3),
    }
    values = {name: rng.uniform(-1, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    values |= {"zero": np.array([0]), "one": np.array([1]), "flat": np.array([0, 0, -1]), "two": np.array([2])}
    values |= {"eps": np.ones((), np.float32), "zeros": np.zeros((count, BATCH, hidden), np.float32)}
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in values.items() if k in used)
    for value in [value for value in model.graph.input if value.name not in used]:
        model.graph.input.remove(value)
    return model


def feeds(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    every = {"lengths": np.array([STEPS, 2, 4], np.int32)}
    for value in model.graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        every.setdefault(value.name, rng.uniform(-1, 1, shape).astype(np.float32))
    return {value.name: every[value.name] for value in model.graph.input}


def units(model: onnx.ModelProto) -> tuple[onnx.ModelProto, ChannelMap]:
    graph = canonicalize(to_graph(model)).graph
    return graph, analyze(graph)


def prunable(channels: ChannelMap, tensor: str, axis: int) -> int:
    return len(set(channels.prunable.tolist()) & set(channels.members[ParamAxis(tensor, axis)].tolist()))


DIRECTIONS = ("", ', direction="reverse"', ', direction="bidirectional"')
OPERANDS = {
    "LSTM": ("e, w, r", "e, w, r, b, , h0, c0", "e, w, r, b, lengths", "e, w, r, b, lengths, h0, c0, p"),
    "GRU": ("e, w, r", "e, w, r, b, , h0", "e, w, r, b, lengths", "e, w, r, b, lengths, h0"),
    "RNN": ("e, w, r", "e, w, r, b, , h0", "e, w, r, b, lengths", "e, w, r, b, lengths, h0"),
}
MORE = {
    "LSTM": (", clip=0.7", ", input_forget=1"),
    "GRU": (", clip=0.7", ", linear_before_reset=1"),
    "RNN": (", clip=0.7",),
}
GRID = [
    (op, direction + more, operands)
    for op in GATES
    for direction, more, operands in [
        *itertools.product(DIRECTIONS, ("",), OPERANDS[op]),
        *itertools.product(DIRECTIONS[::2], MORE[op], OPERANDS[op][1:3]),
    ]
]


@pytest.mark.parametrize(("op", "attributes", "operands"), GRID)
def test_hidden_units(op: str, attributes: str, operands: str, check_plans: Callable[..., None]) -> None:
    model = build(op, attributes, operands)
    graph, channels = units(model)
    assert len(channels.prunable) == HIDDEN + 4
    check_plans(graph, channels, feeds(model), tries=4)


def test_sums_that_round_apart(check_plans: Callable[..., None]) -> None:
    model = build("LSTM", ', direction="bidirectional"', hidden=WIDE)
    graph, channels = units(model)
    assert len(channels.prunable) == WIDE + 4
    check_plans(graph, channels, feeds(model))


TAIL = "q = ReduceMean<axes=[0, 1], keepdims=0>(s)\n f = Relu(q)\n y = MatMul(f, m)"
SUM = "q = ReduceMean<axes=[0, 1], keepdims=0>(s)\n f = Softmax(q)\n y = MatMul(f, m)"
NORM = "q = ReduceMean<axes=[0, 1], keepdims=0>(s)\n d = ReduceL2<axes=[1]>(q)" + (
    "\n d2 = Add(d, eps)\n f = Div(q, d2)\n y = MatMul(f, m)"
)


@pytest.mark.parametrize(
    ("op", "activations", "tail", "hidden"),
    [
        ("RNN", '"Sigmoid"', TAIL, HIDDEN),  # a weight cuts the state off, whatever it is
        ("RNN", '"Sigmoid"', NORM, 0),  # a norm would count it
        ("RNN", '"Relu"', NORM, HIDDEN),
        ("RNN", '"Softplus"', NORM, 0),
        ("RNN", '"Elu"', NORM, HIDDEN),
        ("RNN", '"HardSigmoid"', NORM, 0),
        ("GRU", '"HardSigmoid", "Tanh"', NORM, HIDDEN),
        ("GRU", '"Sigmoid", "Sigmoid"', NORM, 0),
        ("GRU", '"Sigmoid", "Sigmoid"', TAIL, HIDDEN),
        ("LSTM", '"HardSigmoid", "Tanh", "Tanh"', NORM, HIDDEN),
        ("LSTM", '"Sigmoid", "Tanh", "Sigmoid"', NORM, 0),
        ("LSTM", '"Sigmoid", "Sigmoid", "Tanh"', NORM, 0),
        ("LSTM", '"Sigmoid", "Relu", "Softsign"', NORM, HIDDEN),
        ("LSTM", '"Sigmoid", "Sigmoid", "Sigmoid"', TAIL, HIDDEN),
        ("LSTM", '"Sigmoid", "Tanh", "Tanh"', SUM, 0),
    ],
)
def test_what_zeros_become(op: str, activations: str, tail: str, hidden: int, check_plans: Callable[..., None]) -> None:
    model = build(op, f", activations=[{activations}]", "e, w, r, b, , h0", tail=tail)
    graph, channels = units(model)
    assert prunable(channels, "r", 2) == hidden
    check_plans(graph, channels, feeds(model), tries=4)


COMPUTED = "i = Gather<axis=0>(e, zero)\n j = MatMul(i, wi)\n k = {}(j)"


@pytest.mark.parametrize(
    ("middle", "state", "tail", "hidden", "reason"),
    [
        ("", "fed", "", HIDDEN, ""),  # the node reads what remains
        ("k = Relu(fed)", "k", "", HIDDEN, ""),
        ("", "fed", NORM, 0, "reduces over channels"),  # of a cell that fades, but is not zero
        ("", "zeros", "", HIDDEN, ""),
        (COMPUTED.format("Tanh"), "k", "", HIDDEN, ""),  # what is computed follows
        (COMPUTED.format("Tanh"), "k", NORM, HIDDEN, ""),
        (COMPUTED.format("Sigmoid"), "k", NORM, 0, "reduces over channels"),
    ],
)
def test_initial_states(
    middle: str, state: str, tail: str, hidden: int, reason: str, check_plans: Callable[..., None]
) -> None:
    model = build("LSTM", "", f"e, w, r, b, , h0, {state}", middle=middle, tail=tail)
    graph, channels = units(model)
    assert prunable(channels, "r", 2) == hidden
    assert any(reason in why for why in channels.frozen.values()) or not reason
    check_plans(graph, channels, feeds(model), tries=4)


def streaming(op: str, attributes: str = "", before: str = "", after: str = "", states: str = "") -> onnx.ModelProto:
    """A network whose states are fed and handed on, beside what it computes; steps are open."""
    count, gates, cell = 2 if "bidirectional" in attributes else 1, GATES[op], op == "LSTM"
    kind = f"float[{count},{BATCH},{HIDDEN}]"
    inputs = f"{kind} h0, {kind} c0" if cell else f"{kind} h0"
    outputs = "float[a,b,d] h1, float[f,i,j] c1" if cell else "float[a,b,d] h1"
    states = states or (", , h0, c0" if cell else ", , h0")
    results = f"{'z' if ' s = ' in after else 's'}, {'h, c' if cell else 'h'}"
    after = after or ("h1 = Identity(h) c1 = Identity(c)" if cell else "h1 = Identity(h)")
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[t,{BATCH},4] x, {inputs}) => (float[k,l,m] y, {outputs}) {{
          {before} {results} = {op}<hidden_size={HIDDEN}{attributes}>(x, w, r, b{states})
          {after} q = ReduceMean<axes=[1], keepdims=0>(s) y = MatMul(q, m)
        }}"""
    )
    rng = np.random.default_rng(6)
    shapes = {"w": (count, gates * HIDDEN, 4), "r": (count, gates * HIDDEN, HIDDEN), "b": (count, 2 * gates * HIDDEN)}
    shapes |= {"p": (count, 3 * HIDDEN), "m": (HIDDEN, 3)}
    values = {name: rng.uniform(-1, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    values |= {"far": np.array([STEPS] * BATCH, np.int32), "axis": np.array([0])}
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in values.items() if k in used)
    return model


def streamed(model: onnx.ModelProto, steps: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(steps)
    sizes = {
        value.name: [d.dim_value or steps for d in value.type.tensor_type.shape.dim] for value in model.graph.input
    }
    return {name: rng.uniform(-2, 2, shape).astype(np.float32) for name, shape in sizes.items()}


PEEPING = ", , h0, c0, p"
HANDED = "u = {0}(h{1}) h1 = Unsqueeze(u, axis) v = {0}(c{1}) c1 = Unsqueeze(v, axis)"


@pytest.mark.parametrize(
    ("op", "attributes", "after", "states"),
    [
        *((op, attributes, "", "") for op in GATES for attributes in ("", ', direction="bidirectional"')),
        ("GRU", ", linear_before_reset=1", "", ""),
        ("LSTM", ", input_forget=1", "", ""),
        ("LSTM", "", "", PEEPING),
        ("LSTM", "", HANDED.format("Squeeze", ", axis"), PEEPING),
        ("RNN", ', activations=["Relu"]', "", ""),
        ("GRU", "", "h1 = Identity(h) v = Relu(h) s = Unsqueeze(v, axis)", ""),  # read by what computes, too
        (
            "LSTM",
            "",
            HANDED.format("Squeeze", ", axis")
            + " k = Relu(u) i = Sigmoid(v) o = Concat<axis=0>(k, i) s = Unsqueeze(o, axis)",
            PEEPING,
        ),
        ("RNN", "", "a = Squeeze(h, axis) h1 = Unsqueeze(a, axis) v = Relu(a) s = Unsqueeze(v, axis)", ""),
    ],
)
def test_states_that_are_handed_on_keep_their_size(
    op: str, attributes: str, after: str, states: str, check_plans: Callable[..., None]
) -> None:
    """Whatever is fed: what a removed unit would leave in its last state is put back."""
    model = streaming(op, attributes, after=after, states=states)
    graph, channels = units(model)
    assert prunable(channels, "r", 2) == HIDDEN
    for steps in (1, 2, 9):
        check_plans(graph, channels, streamed(model, steps), tries=4)
    pruned = prune_channels(graph, channels, PruningPlan(channels.prunable[1:3])).graph
    assert [list(t.shape) for t in pruned.inputs[1:]] == [list(t.shape) for t in graph.inputs[1:]]
    again = canonicalize(pruned).graph
    check_plans(again, analyze(again), streamed(model, 3), tries=4)


def test_last_states_that_nothing_reads_are_not_put_back() -> None:
    model = streaming("GRU", after="i = Identity(h0) h1 = Identity(i)")
    graph, channels = units(model)
    pruned = prune_channels(graph, channels, PruningPlan(channels.prunable[:2])).graph
    assert [node.op for node in pruned.nodes if node.op not in {node.op for node in graph.nodes}] == ["Gather"]


@pytest.mark.parametrize(
    ("op", "attributes", "after", "states"),
    [
        ("RNN", ', activations=["Sigmoid"]', "", ""),
        ("GRU", ', activations=["HardSigmoid", "Tanh"]', "", ""),
        ("LSTM", ", clip=1.0", "", ""),
        ("GRU", "", "", ", far, h0"),
        ("GRU", "", "h1 = Relu(h)", ""),  # a result, not a state
        ("GRU", "", "h1 = Identity(h)", ", , "),  # not fed
    ],
)
def test_last_states_that_are_not_known_stay(op: str, attributes: str, after: str, states: str) -> None:
    _, channels = units(streaming(op, attributes, after=after, states=states))
    assert prunable(channels, "r", 2) == 0
    assert any("graph output 'h1'" in why for why in channels.frozen.values())


ZEROS = """d = Shape(e)
      i = Gather(d, at)
      to = Concat<axis=0>(two, i, hid)
      z = {zeros}
      h0 = Slice(z, zero, one, zero)"""


@pytest.mark.parametrize(
    "zeros", ["ConstantOfShape(to)", "Expand(nil, to)", "ConstantOfShape<value = float[1] {0.0}>(to)"]
)
def test_zero_states_of_the_batch_are_absent(zeros: str, check_plans: Callable[..., None]) -> None:
    """As exporters write them: their shape counts hidden units."""
    model = build("GRU", "", "e, w, r, b, , h0", middle=ZEROS.format(zeros=zeros))
    more = {"at": np.array([1]), "hid": np.array([HIDDEN]), "nil": np.zeros((), np.float32)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in more.items())
    model.graph.initializer.remove(next(tensor for tensor in model.graph.initializer if tensor.name == "h0"))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "n"
    graph, channels = units(model)
    assert {node.op for node in graph.nodes}.isdisjoint({"ConstantOfShape", "Expand", "Shape"})
    assert prunable(channels, "r", 2) == HIDDEN
    check_plans(graph, channels, feeds(model) | {"x": np.ones((STEPS, BATCH, INPUTS), np.float32)}, tries=4)


STACK = """a, ah = GRU<hidden_size=7, direction="bidirectional">(e, w, r, b)
      at = Transpose<perm=[0, 2, 1, 3]>(a)
      e2 = Reshape(at, flat)"""


def test_stacked(check_plans: Callable[..., None]) -> None:
    """Two layers of both directions, as exporters stack them: the second reads unit j of both directions as one."""
    tail = (
        "q = Transpose<perm=[0, 2, 1, 3]>(s)\n f = Reshape(q, flat)\n t = MatMul(f, m2)\n y = ReduceMean<axes=[0]>(t)"
    )
    model = build("GRU", ', direction="bidirectional"', "e2, w2, r2, b2", tail=tail, middle=STACK)
    rng = np.random.default_rng(5)
    for name, shape in {"w2": (2, 21, 14), "r2": (2, 21, 7), "b2": (2, 42)}.items():
        values = rng.uniform(-1, 1, shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    given = {tensor.name for tensor in model.graph.initializer}
    for name, shape in {"w": (2, 21, 4), "r": (2, 21, 7), "b": (2, 42)}.items():
        if name not in given:
            values = rng.uniform(-1, 1, shape).astype(np.float32)
            model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    model.graph.output[0].type.tensor_type.shape.Clear()
    graph, channels = units(model)
    assert len(channels.prunable) == 7 + 7 + 4
    first = channels.members[ParamAxis("r", 2)]
    np.testing.assert_array_equal(channels.members[ParamAxis("w2", 2)], np.tile(first, 2))
    check_plans(graph, channels, feeds(model))


def test_hidden_size_follows() -> None:
    graph, channels = units(build("LSTM", ', direction="bidirectional"', "e, w, r, b, , h0, c0, p"))
    hidden = channels.members[ParamAxis("r", 2)]
    pruned = prune_channels(graph, channels, PruningPlan(hidden[[1, 4]])).graph
    lstm = next(node for node in pruned.nodes if node.op == "LSTM")
    shapes = [list(tensor.shape) for tensor in lstm.inputs[1:] if tensor.name]
    assert lstm.attrs["hidden_size"] == 5
    assert shapes == [[2, 20, 4], [2, 20, 5], [2, 40], [2, BATCH, 5], [2, BATCH, 5], [2, 15]]


def test_batches_first() -> None:
    """Layout 1, which onnxruntime does not run: hidden units lie along the last axis there too."""
    model = build("LSTM", ", layout=1", tail="y = Gather<axis=0>(s, zero)")
    model.graph.output[0].type.tensor_type.shape.Clear()
    _, channels = units(model)
    assert ParamAxis("r", 2) in channels.members
