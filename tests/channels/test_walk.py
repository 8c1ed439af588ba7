"""Random graphs and plans: pruned(x) == zero-masked original(x). HQP_EXAMPLES=3000 tries more graphs than usual.

A stack machine writes the graph: every step reads tensors [n, c, h, w] from the stack and pushes its result.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import onnx
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from oracle import worst_error

from hqp_onnx.channels.channel_map import ChannelMap, PruningPlan
from hqp_onnx.channels.walk import analyze
from hqp_onnx.errors import UsageError
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.model import open_model
from hqp_onnx.passes.absorb_scales import absorb_scales
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.prune_channels import prune_channels

EXAMPLES = int(os.environ.get("HQP_EXAMPLES", "150"))
ACTIVATIONS = ("Relu", "Sigmoid", "HardSwish", "Tanh", "Softplus", "LeakyRelu", "Cos", "Neg", "Abs", "Identity")
Shape = tuple[int, int, int]


class Machine:
    """A graph being written; ``stack`` holds (name, (c, h, w)) of tensors [n, c, h, w]."""

    def __init__(self, draw: Callable, seed: int) -> None:
        self.draw = draw
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.values: dict[str, np.ndarray] = {}
        self.stack: list[tuple[str, Shape]] = [("x", (3, 4, 4))]
        self.outputs: list[str] = []

    def pick(self, *choices: object) -> object:
        return self.draw(st.sampled_from(choices))

    def top(self) -> tuple[str, Shape]:
        return self.stack[-1]

    def any(self) -> tuple[str, Shape]:
        return self.pick(*self.stack)

    def emit(self, op: str, inputs: list[str], **attrs: object) -> str:
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attrs))
        return name

    def push(self, name: str, shape: Shape) -> None:
        self.stack.append((name, shape))

    def weight(self, *shape: int) -> str:
        """Parameters of either sign, scaled to keep values of order one; sometimes an earlier one of that shape."""
        same = [name for name, v in self.values.items() if v.shape == shape and v.dtype == np.float32]
        if same and self.draw(st.integers(0, 9)) >= 7:
            return same[0]
        fan = max(int(np.prod(shape[1:])), 1) if len(shape) > 1 else 1
        return self.constant(self.rng.uniform(-1, 1, shape) * np.sqrt(3 / fan), np.float32)

    def constant(self, values: object, dtype: type = np.int64) -> str:
        name = f"p{len(self.values)}"
        self.values[name] = np.asarray(values, dtype)
        return name

    def reshape(self, name: str, *shape: int) -> str:
        return self.emit("Reshape", [name, self.constant(shape)])


def conv(m: Machine) -> None:
    name, (c, h, w) = m.any()
    groups = m.pick(*(g for g in (1, 1, 2, c) if c % g == 0))
    out = groups * m.draw(st.integers(1, max(8 // groups, 2)))
    kernel = m.pick(1, 3)
    inputs = [name, m.weight(out, c // groups, kernel, kernel)] + ([m.weight(out)] if m.pick(True, False) else [])
    m.push(m.emit("Conv", inputs, group=groups, pads=[kernel // 2] * 4), (out, h, w))


def conv_transpose(m: Machine) -> None:
    name, (c, h, w) = m.any()
    groups = m.pick(*(g for g in (1, 2, c) if c % g == 0))
    out = groups * m.pick(1, 2, 3)
    if h * w <= 16:
        weight = m.weight(c, out // groups, 2, 2)
        m.push(
            m.emit("ConvTranspose", [name, weight, m.weight(out)], group=groups, strides=[2, 2]), (out, 2 * h, 2 * w)
        )


def batch_norm(m: Machine) -> None:
    name, shape = m.top()
    variance = m.constant(m.rng.uniform(0.5, 2, shape[0]), np.float32)
    params = [m.weight(shape[0]), m.weight(shape[0]), m.weight(shape[0]), variance]
    m.push(m.emit("BatchNormalization", [name, *params]), shape)


def instance_norm(m: Machine) -> None:
    name, (c, h, w) = m.top()
    if h * w >= 4:
        inputs = [name, m.weight(c), m.weight(c)]
        m.push(m.emit("InstanceNormalization", inputs, epsilon=0.1), (c, h, w))


def group_norm(m: Machine) -> None:
    name, (c, h, w) = m.top()
    if c % 2 == 0:
        split = m.reshape(name, 0, 2, -1)
        normal = m.emit("InstanceNormalization", [split, m.weight(2), m.weight(2)], epsilon=0.1)
        m.push(m.emit("Mul", [m.reshape(normal, 0, c, h, w), m.weight(c, 1, 1)]), (c, h, w))


def layer_norm(m: Machine) -> None:
    name, (c, h, w) = m.top()
    if m.pick(True, False):
        m.push(m.emit("LayerNormalization", [name, m.weight(w)], epsilon=0.1), (c, h, w))
    else:
        last = m.emit("Transpose", [name], perm=[0, 2, 3, 1])
        normal = m.emit("LayerNormalization", [last, m.weight(c), m.weight(c)], epsilon=0.1)
        m.push(m.emit("Transpose", [normal], perm=[0, 3, 1, 2]), (c, h, w))


def activation(m: Machine) -> None:
    name, shape = m.top()
    m.push(m.emit(m.pick(*ACTIVATIONS), [name]), shape)


def scale(m: Machine) -> None:
    name, (c, h, w) = m.top()
    other = m.pick((c, 1, 1), (1, c, 1, 1), (1,), (), (h, w), (c, h, w))
    m.push(m.emit(m.pick("Mul", "Add", "Sub", "PRelu"), [name, m.weight(*other)]), (c, h, w))


def meet(m: Machine) -> None:
    (a, shape), (b, other) = m.any(), m.any()
    if all(x == y or 1 in (x, y) for x, y in zip(shape, other, strict=True)) and min(shape[0], other[0]) > 0:
        result = tuple(max(x, y) for x, y in zip(shape, other, strict=True))
        m.push(m.emit(m.pick("Add", "Mul", "Max", "Sub"), [a, b]), result)


def residual(m: Machine) -> None:
    (name, (c, h, w)), (trunk, shape) = m.any(), m.top()
    if (h, w) == shape[1:]:
        m.push(m.emit("Add", [trunk, m.emit("Conv", [name, m.weight(shape[0], c, 1, 1)])]), shape)


def gate(m: Machine) -> None:
    name, (c, h, w) = m.top()
    pooled = m.emit("GlobalAveragePool", [name])
    logits = m.emit("Conv", [pooled, m.weight(c, c, 1, 1), m.weight(c)])
    m.push(m.emit("Mul", [m.emit("HardSigmoid", [logits]), name]), (c, h, w))


def branch(m: Machine) -> None:
    """A gate of two layers, or a residual branch of channels of its own, perhaps with an operator behind it."""
    name, (c, h, w) = m.any()
    inner, kernel = m.pick(2, 3, 5), m.pick(1, 3)
    start = m.emit("GlobalAveragePool", [name]) if m.pick(True, False) else name
    t = m.emit(m.pick(*ACTIVATIONS), [m.emit("Conv", [start, m.weight(inner, c, 1, 1), m.weight(inner)])])
    inputs = [t, m.weight(c, inner, kernel, kernel)] + ([m.weight(c)] if m.pick(True, False) else [])
    t = m.emit("Conv", inputs, pads=[kernel // 2] * 4)
    if m.pick(True, False):
        t = m.emit(m.pick(*ACTIVATIONS), [t])
    m.push(m.emit(m.pick("Add", "Mul", "Max", "Sub"), m.pick([t, name], [name, t])), (c, h, w))


def concat(m: Machine) -> None:
    (a, (c, h, w)), (b, other) = m.any(), m.any()
    if (h, w) == other[1:] and c + other[0] <= 12:
        m.push(m.emit("Concat", [a, b], axis=1), (c + other[0], h, w))
    elif other == (c, 1, w) or (other[0], other[2]) == (c, w):
        m.push(m.emit("Concat", [a, b], axis=2), (c, h + other[1], w))


def split(m: Machine) -> None:
    name, (c, h, w) = m.top()
    if c < 2:
        return
    first = m.draw(st.integers(1, c - 1))
    parts = [f"part{len(m.nodes)}_{i}" for i in range(2)]
    m.nodes.append(helper.make_node("Split", [name, m.constant([first, c - first])], parts, axis=1))
    m.push(parts[0], (first, h, w))
    m.push(parts[1], (c - first, h, w))


def cut(m: Machine) -> None:
    name, shape = m.top()
    axis = m.pick(1, 1, 2, 3)
    size = shape[axis - 1]
    start = m.draw(st.integers(0, size - 1))
    stop = m.draw(st.integers(start + 1, size))
    bounds = [[start], [stop]] if m.pick(True, False) else [[start - size], [stop]]
    sliced = m.emit("Slice", [name, *(m.constant(b) for b in bounds), m.constant([axis])])
    m.push(sliced, tuple(stop - start if i == axis - 1 else n for i, n in enumerate(shape)))


def pick_channels(m: Machine) -> None:
    name, (c, h, w) = m.top()
    indices = m.draw(st.lists(st.integers(-c, c - 1), min_size=1, max_size=6))
    m.push(m.emit("Gather", [name, m.constant(indices)], axis=1), (len(indices), h, w))


def pad(m: Machine) -> None:
    name, (c, h, w) = m.top()
    before, after, space = m.pick(0, 1, 2), m.pick(0, 2), m.pick(0, 1)
    if c + before + after <= 12 and h + 2 * space <= 8:
        value = m.constant(m.pick(0.0, 0.5), np.float32)
        padded = m.emit("Pad", [name, m.constant([0, before, space, 0, 0, after, space, 0]), value])
        m.push(padded, (c + before + after, h + 2 * space, w))


def pool(m: Machine) -> None:
    name, (c, h, w) = m.top()
    if min(h, w) >= 2:
        pooled = m.emit(m.pick("MaxPool", "AveragePool"), [name], kernel_shape=[2, 2], strides=[1, 1])
        m.push(pooled, (c, h - 1, w - 1))


def reduce(m: Machine) -> None:
    name, (c, h, w) = m.top()
    axes = m.pick([2, 3], [2], [1])
    shape = tuple(1 if axis in axes else n for axis, n in zip((1, 2, 3), (c, h, w), strict=True))
    m.push(m.emit(m.pick("ReduceMean", "ReduceMax", "ReduceL2", "ReduceLogSumExp"), [name], axes=axes), shape)


def divide(m: Machine) -> None:
    """By what may be zero in no channel, or by what is zero in the removed ones."""
    (a, shape), (b, other) = m.any(), m.any()
    if all(x == y or 1 in (x, y) for x, y in zip(shape, other, strict=True)):
        bound = m.constant(0.5, np.float32)
        size = m.emit(m.pick("Abs", "Sigmoid", "Softplus"), [b])
        divisor = m.emit(m.pick("Add", "Max", "Clip"), [size, bound])
        result = tuple(max(x, y) for x, y in zip(shape, other, strict=True))
        m.push(m.emit("Div", [a, divisor]), result)


def measured(m: Machine) -> None:
    """Resize, Expand or Reshape to a shape that the graph computes, with the channels of another tensor."""
    (a, (c, h, w)), (b, other) = m.any(), m.any()
    if c == other[0]:
        shape = m.emit("Shape", [b])
        count = m.emit("Slice", [shape, m.constant([0]), m.constant([2])])
        if m.pick(True, False):
            m.push(m.emit("Reshape", [a, m.emit("Concat", [count, m.constant([w, h])], axis=0)]), (c, w, h))
        else:
            pooled = m.emit("GlobalAveragePool", [a])
            m.push(m.emit("Expand", [pooled, shape]), other)


def softmax(m: Machine) -> None:
    name, shape = m.top()
    m.push(m.emit("Softmax", [name], axis=m.pick(1, 2, 3)), shape)


def in_groups(m: Machine) -> None:
    """Reshape to groups, work there, perhaps shuffle, and back."""
    name, (c, h, w) = m.top()
    groups = m.pick(*(g for g in (2, 3, 4, c) if c % g == 0))
    t = m.reshape(name, 0, groups, c // groups, h, w)
    step = m.pick("none", "Relu", "gate", "bias", "mean", "softmax")
    if step == "Relu":
        t = m.emit("Relu", [t])
    elif step == "gate":
        t = m.emit("Mul", [t, m.weight(groups, 1, 1, 1)])
    elif step == "bias":
        t = m.emit("Add", [t, m.weight(c // groups, 1, 1)])
    elif step == "mean":
        t = m.emit("Sub", [t, m.emit("ReduceMean", [t], axes=[m.pick(1, 2)])])
    elif step == "softmax":
        t = m.emit("Softmax", [t], axis=m.pick(1, 2))
    if m.pick(True, False):
        t = m.emit("Transpose", [t], perm=[0, 2, 1, 3, 4])
    m.push(m.reshape(t, m.pick(0, -1), c, h, w), (c, h, w))


def shuffle_pixels(m: Machine) -> None:
    name, (c, h, w) = m.top()
    if c % 4 == 0 and h * w <= 16:
        m.push(m.emit("DepthToSpace", [name], blocksize=2, mode=m.pick("DCR", "CRD")), (c // 4, 2 * h, 2 * w))
    elif h % 2 == w % 2 == 0 and c <= 3:
        m.push(m.emit("SpaceToDepth", [name], blocksize=2), (4 * c, h // 2, w // 2))


def resize(m: Machine) -> None:
    name, (c, h, w) = m.top()
    if h * w <= 16:
        sizes = [name, "", m.constant([1.0, 1.0, 2.0, 1.0], np.float32)]
        m.push(m.emit("Resize", sizes, mode=m.pick("nearest", "linear")), (c, 2 * h, w))


def tile(m: Machine) -> None:
    name, (c, h, w) = m.top()
    if c <= 5 and h <= 4:
        times = m.pick((2, 1), (1, 2))
        m.push(m.emit("Tile", [name, m.constant([1, *times, 1])]), (times[0] * c, times[1] * h, w))


def channels_last(m: Machine) -> None:
    """A matrix over channels, or over width."""
    name, (c, h, w) = m.top()
    out = m.draw(st.integers(1, 8))
    if m.pick(True, False):
        t = m.emit("MatMul", [m.emit("Transpose", [name], perm=[0, 2, 3, 1]), m.weight(c, out)])
        m.push(m.emit("Transpose", [m.emit("Add", [t, m.weight(out)])], perm=[0, 3, 1, 2]), (out, h, w))
    else:
        m.push(m.emit("MatMul", [name, m.weight(w, out)]), (c, h, out))


def product(m: Machine) -> None:
    """Data by data, channels as a batch or summed over."""
    (a, (c, h, w)), (b, other) = m.any(), m.any()
    if other == (c, h, w):
        if m.pick(True, False):
            m.push(m.emit("MatMul", [a, m.emit("Transpose", [b], perm=[0, 1, 3, 2])]), (c, h, h))
        else:
            left = m.emit("Transpose", [a], perm=[0, 2, 3, 1])
            m.push(m.emit("MatMul", [left, m.emit("Transpose", [b], perm=[0, 2, 1, 3])]), (h, w, w))


def attention(m: Machine) -> None:
    name, (c, h, w) = m.top()
    heads, width = m.pick(1, 2, 3), m.pick(1, 2, 3)
    tokens = m.emit("Transpose", [m.reshape(name, 0, c, h * w)], perm=[0, 2, 1])
    q, k, v = (m.emit("MatMul", [tokens, m.weight(c, heads * width)]) for _ in range(3))
    if m.pick(True, False):
        q = m.emit("Add", [q, m.weight(heads * width)])
    q, k, v = (m.reshape(t, 0, 0, heads, width) for t in (q, k, v))
    q, v = (m.emit("Transpose", [t], perm=[0, 2, 1, 3]) for t in (q, v))
    if m.pick(True, False):
        q = m.emit("Mul", [q, m.weight(h * w, width)])
    scores = m.emit("MatMul", [q, m.emit("Transpose", [k], perm=[0, 2, 3, 1])])
    mixed = m.emit("MatMul", [m.emit("Softmax", [scores], axis=-1), v])
    joined = m.reshape(m.emit("Transpose", [mixed], perm=[0, 1, 3, 2]), 0, heads * width, h, w)
    m.push(joined, (heads * width, h, w))


def recall(m: Machine) -> None:
    m.stack.append(m.any())


def output(m: Machine) -> None:
    if len(m.outputs) < 1 and m.top()[0] != "x":
        m.outputs.append(m.emit("Add", [m.top()[0], m.constant(1, np.float32)]))


STEPS = (
    *6 * (conv,),
    *2 * (activation, batch_norm, scale, meet, residual, branch, concat, in_groups),
    *(
        conv_transpose,
        instance_norm,
        group_norm,
        layer_norm,
        gate,
        split,
        cut,
        pick_channels,
        pad,
        pool,
        reduce,
        softmax,
    ),
    *(shuffle_pixels, resize, tile, channels_last, product, attention, recall, output, divide, measured),
)


def write(data: st.DataObject) -> onnx.ModelProto:
    """A random model x [n, 3, 4, 4] -> y [n, 2] or [n, 2, h, w], sometimes with a second output."""
    m = Machine(data.draw, data.draw(st.integers(0, 2**16)))
    conv(m)
    for step in data.draw(st.lists(st.sampled_from(STEPS), min_size=2, max_size=14)):
        step(m)
    name, (c, h, w) = m.top()
    one = m.constant([1, -1], np.float32)  # outputs of order one: cancellation is no error
    if m.pick(True, False):
        y = m.emit("Conv", [name, m.weight(2, c, 1, 1), one])
    elif m.pick(True, False):
        y = m.emit("Gemm", [m.emit("Flatten", [name]), m.weight(2, c * h * w), one], transB=1)
    else:
        y = m.emit("Gemm", [m.emit("ReduceMean", [name], axes=[2, 3], keepdims=0), m.weight(c, 2), one])
    dims = ["n", 3, 4, 4]
    outputs = [onnx.ValueInfoProto(name=name) for name in dict.fromkeys([y, *m.outputs])]
    graph = helper.make_graph(
        m.nodes,
        "random",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        outputs,
        [numpy_helper.from_array(v, k) for k, v in m.values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="HQP_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.data())
def test_random_graphs(data: st.DataObject) -> None:
    model = write(data)
    note(onnx.printer.to_text(model))
    check(model)


def check(model: onnx.ModelProto) -> int:
    """Assert the invariant for two random plans; units removed."""
    graph = canonicalize(to_graph(model)).graph
    channels = analyze(graph)
    original = to_proto(graph)
    rng = np.random.default_rng(0)
    feeds = {"x": rng.uniform(-1, 1, (3, 3, 4, 4)).astype(np.float32)}
    removed = 0
    for share in (0.3, 0.6):
        plan = random_plan(channels, rng, share)
        try:
            pruned = prune_channels(graph, channels, plan).graph
        except UsageError:
            continue  # would empty a tensor
        once = to_proto(pruned)
        for same in (once, to_proto(absorb_scales(pruned).graph)):
            assert worst_error(original, same, channels.removed_slices(plan), feeds) <= 1e-4
        removed += len(plan)
        if len(plan):
            again(once, rng, feeds)
    return removed


def random_plan(channels: ChannelMap, rng: np.random.Generator, share: float) -> PruningPlan:
    """A share of all units, and some branches as a whole."""
    ended = [units for units in channels.branches if rng.random() < share]
    return PruningPlan(np.concatenate([channels.prunable[rng.random(len(channels.prunable)) < share], *ended]))


def again(once: onnx.ModelProto, rng: np.random.Generator, feeds: dict[str, np.ndarray]) -> None:
    """A pruned model is a model like any other."""
    graph = canonicalize(to_graph(once)).graph
    channels = analyze(graph)
    plan = random_plan(channels, rng, 0.3)
    try:
        twice = prune_channels(graph, channels, plan).graph
    except UsageError:
        return  # would empty a tensor
    assert worst_error(to_proto(graph), to_proto(twice), channels.removed_slices(plan), feeds) <= 1e-4


def test_a_table_whose_transpose_multiplies_something_else_keeps_its_columns() -> None:
    """An embedding is read as it is, and by a product with data that have no channels: its columns are not units."""
    rng = np.random.default_rng(0)
    table, weight = (rng.standard_normal(shape).astype(np.float32) for shape in ((10, 8), (8, 4)))
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("Relu", ["e"], ["r"]),
        helper.make_node("MatMul", ["r", "weight"], ["c"]),
        helper.make_node("Transpose", ["table"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["y", "t"], ["d"]),
    ]
    inputs = [helper.make_tensor_value_info("ids", 7, ["n", 3]), helper.make_tensor_value_info("y", 1, ["n", 8])]
    outputs = [helper.make_tensor_value_info("c", 1, ["n", 3, 4]), helper.make_tensor_value_info("d", 1, ["n", 10])]
    weights = [onnx.numpy_helper.from_array(table, "table"), onnx.numpy_helper.from_array(weight, "weight")]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    assert not len(open_model(model).channels().prunable)
    tied = helper.make_graph(
        [*nodes[:4], helper.make_node("MatMul", ["r", "t"], ["d"])], "g", inputs[:1], outputs, weights
    )
    tied.output[1].type.tensor_type.shape.dim.insert(1, onnx.TensorShapeProto.Dimension(dim_value=3))
    model = helper.make_model(tied, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    assert len(open_model(model).channels().prunable) == 8
