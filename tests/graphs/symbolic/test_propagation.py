"""What is proven holds at sizes that no run of ours has seen: onnxruntime says what each size and value is."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx.parser
import pytest
from zoo.test_zoo import PRUNABLE, feeds_of, load

from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.graphs.shapes import Shapes, probe
from hqp_onnx.graphs.symbolic.shape_rules import SHAPES
from hqp_onnx.graphs.symbolic.value_rules import VALUES
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.raise_opset import raise_opset
from hqp_onnx.runtimes.session import Session

LENGTH = "s = Shape(x) \n l = Gather(s, one) \n"
SIZES = LENGTH + "n = Gather(s, zero) \n c = Gather(s, two) \n"
# statements that make y of x [N, L, 12] and weights w [12, 12]
BODIES = {
    "If on a length": LENGTH + "q = Greater(l, fifty) \n y = If(q) <then_branch = a () => (float[N,L,12] t) "
    "{t = Neg(x)}, else_branch = b () => (float[N,L,12] e) {e = Abs(x)}>",
    "TopK of min(k, L)": LENGTH + "k = Min(l, eight) \n kk = Unsqueeze(k, axis0) \n y, i = TopK<axis=1>(x, kk)",
    "Reshape to max(L, 5)": LENGTH
    + "m = Max(l, five) \n ll = Unsqueeze(l, axis0) \n mm = Unsqueeze(m, axis0) \n p = Sub(mm, ll) \n"
    " pads = Concat<axis=0>(zeros4, p, axis0) \n z = Pad(x, pads) \n t = Concat<axis=0>(minus, mm, twelve) \n"
    " y = Reshape(z, t)",
    "Squeeze of a batch": "r = ReduceMean<axes=[1]>(x) \n y = Squeeze(r, axis1)",
    "Expand by shape": "s = Shape(x) \n r = ReduceMean<axes=[1]>(x) \n y = Expand(r, s)",
    "Expand of one to L": LENGTH + "u = Unsqueeze(l, axis0) \n t = Concat<axis=0>(one1, u, twelve) \n"
    " y = Expand(row, t)",
    "Range of a length": LENGTH + "r = Range(zero, l, one) \n f = Cast<to=1>(r) \n g = Unsqueeze(f, axis1) \n"
    " y = Mul(x, g)",
    "Tile by a length": LENGTH + "u = Unsqueeze(l, axis0) \n t = Concat<axis=0>(one1, u, one1) \n y = Tile(row, t)",
    "Slice to a length": LENGTH + "u = Unsqueeze(l, axis0) \n p = Slice(table, axis0, u, axis1) \n y = Add(x, p)",
    "Slice from the end": "y = Slice(x, minus2, far, axis1)",
    "Slice of the first five": "y = Slice(x, axis0, five1, axis1) \n",
    "Slice of half": LENGTH + "h = Div(l, two) \n u = Unsqueeze(h, axis0) \n y = Slice(x, axis0, u, axis1)",
    "Zeros of a length": SIZES + "u = Unsqueeze(l, axis0) \n t = Concat<axis=0>(u, twelve) \n"
    " z = ConstantOfShape(t) \n y = Add(x, z)",
    "Causal mask": LENGTH + "u = Unsqueeze(l, axis0) \n t = Concat<axis=0>(u, u) \n z = ConstantOfShape(t) \n"
    " o = Add(z, onef) \n m = Trilu<upper=0>(o) \n v = Transpose<perm=[0,2,1]>(x) \n a = MatMul(x, v) \n"
    " b = Mul(a, m) \n y = MatMul(b, x)",
    "Heads": SIZES + "a, b, d = Split<axis=0>(s, ones3) \n t = Concat<axis=0>(a, b, three, four) \n"
    " h = Reshape(x, t) \n p = Transpose<perm=[0,2,1,3]>(h) \n v = Transpose<perm=[0,2,1,3]>(p) \n"
    " y = Reshape(v, s)",
    "Rows of a batch": "t = Reshape(x, rows) \n z = MatMul(t, w) \n s = Shape(x) \n y = Reshape(z, s)",
    "Where of a shape": SIZES + "e = Equal(s, minus) \n o = ConstantOfShape<value=int64[1]{1}>(three1) \n"
    " t = Where(e, o, s) \n r = ReduceMean<axes=[1]>(x) \n y = Expand(r, t)",
    "Pad to a multiple": LENGTH + "r = Mod(l, four0) \n d = Sub(four0, r) \n p = Mod(d, four0) \n"
    " u = Unsqueeze(p, axis0) \n pads = Concat<axis=0>(zeros4, u, axis0) \n y = Pad(x, pads)",
    "Flattened": "f = Flatten<axis=2>(x) \n g = MatMul(f, w) \n s = Shape(x) \n y = Reshape(g, s)",
    "Elements": "n = Size(x) \n k = Div(n, twelve0) \n u = Unsqueeze(k, axis0) \n t = Concat<axis=0>(u, twelve) \n"
    " y = Reshape(x, t)",
    "Nonzero": "b = Relu(x) \n i = NonZero(b) \n s = Shape(i) \n p = Gather(s, one) \n f = Cast<to=1>(p) \n"
    " y = Mul(x, f)",
    "Resized": LENGTH + "d = Mul(l, two) \n u = Unsqueeze(d, axis0) \n t = Concat<axis=0>(u, twelve) \n"
    " n = Unsqueeze(x, axis1) \n b = Slice(s, axis0, one1) \n q = Concat<axis=0>(b, one1, t) \n"
    ' z = Resize<mode="nearest">(n, , , q) \n y = Squeeze(z, axis1)',
    "Halves of a batch": "xx = Concat<axis=0>(x, x) \n a, b = Split<axis=0>(xx) \n y = Add(a, b)",
    "Convolved": "v = Transpose<perm=[0,2,1]>(x) \n c = Conv<kernel_shape=[3], strides=[2], pads=[1,1]>(v, kernel) \n"
    " s = Shape(c) \n d = ConvTranspose<kernel_shape=[2], strides=[2]>(c, kernel2) \n r = Reshape(d, rest) \n"
    " p = Reshape(c, s) \n y = Concat<axis=-1>(p, d)",
}
INTS: dict[str, object] = {
    "zero": 0, "one": 1, "two": 2, "eight": 8, "five": 5, "five1": [5],
    "fifty": 50, "four0": 4, "twelve0": 12, "axis0": [0],
    "axis1": [1], "one1": [1], "twelve": [12], "minus": [-1], "minus2": [-2], "far": [2**62], "zeros4": [0] * 4,
    "ones3": [1] * 3, "three": [3], "four": [4], "three1": [3], "rows": [-1, 12], "rest": [0, -1],
}  # fmt: skip


def model_of(body: str) -> onnx.ModelProto:
    """The model of one row."""
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[N,L,12] x) => (float[a,b,c] y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    rng = np.random.default_rng(0)
    arrays = {name: np.asarray(value, np.int64) for name, value in INTS.items()}
    floats = {"w": (12, 12), "row": (1, 1, 12), "table": (1, 400, 12), "kernel": (4, 12, 3), "kernel2": (4, 4, 2)}
    arrays |= {name: rng.standard_normal(shape).astype(np.float32) for name, shape in floats.items()}
    arrays["onef"] = np.float32(1)
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in arrays.items() if k in used)
    return model


def feeds(batch: int, length: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(batch + length).standard_normal((batch, length, 12)).astype(np.float32)}


def check_proofs(model: onnx.ModelProto, shapes: Shapes, fed: dict[str, np.ndarray]) -> None:
    """Constants are constant, and equal expressions equal, in a run."""
    names = [name for node in model.graph.node for name in node.output if name]
    values = {**fed, **Session(model, outputs=names, optimize=False).run(fed)}
    sizes: dict[object, int] = {}
    for name, value in values.items():
        known = shapes.known
        if not isinstance(value, np.ndarray):
            continue
        pairs = list(zip(known.dims.get(name, ()), value.shape, strict=name in known.dims))
        if name in known.values:
            assert known.values[name].shape == value.shape, name
            pairs += list(zip(known.values[name].flat, value.flat, strict=True))
        for proven, found in pairs:
            assert proven.value in (None, found), (name, proven, found)
            assert sizes.setdefault(proven, found) == found, (name, proven, found)


@pytest.mark.parametrize("name", BODIES)
def test_proofs_hold(name: str) -> None:
    model = to_proto(to_graph(model_of(BODIES[name])))
    shapes = probe(to_graph(model))
    for batch, length in itertools.product((1, 2, 7), (2, 3, 8, 51, 390)):
        check_proofs(model, shapes, feeds(batch, length))


@pytest.mark.parametrize("name", BODIES)
def test_canonical_is_original_at_all_sizes(name: str) -> None:
    model = model_of(BODIES[name])
    canonical = Session(to_proto(canonicalize(to_graph(model)).graph))
    for batch, length in itertools.product((1, 2, 7), (1, 2, 3, 8, 51, 390)):
        fed = feeds(batch, length)
        want, have = Session(model).run(fed)["y"], canonical.run(fed)["y"]
        assert want.shape == have.shape and np.allclose(want, have, rtol=1e-5, atol=1e-5), (batch, length)


@pytest.mark.parametrize("name", PRUNABLE)
def test_proofs_hold_in_the_zoo(name: str) -> None:
    graph = raise_opset(to_graph(load(name)), 13).graph
    model, shapes = to_proto(graph), probe(graph)
    for batch, size in ((1, 32), (3, 80)):
        check_proofs(model, shapes, feeds_of(model, batch, size))


def test_every_rule_is_in_some_model() -> None:
    models = [model_of(body) for body in BODIES.values()] + [load(name) for name in PRUNABLE]
    used = {node.op_type for model in models for node in model.graph.node}
    rare = {"MaxPool", "AveragePool", "LpPool", "ReduceProd", "Neg", "Less", "LessOrEqual", "GreaterOrEqual"}
    assert (SHAPES.keys() | VALUES.keys()) - used <= rare | {"Not", "And", "Or", "Identity"}


def test_names_of_dimensions_are_no_expressions() -> None:
    """A size that the file calls ``M*N`` is not the product of two others."""
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[M,N,4] x, float[P,4] u) => (float[a,4] y, float[P,4] z)
      { f = Flatten<axis=2>(x) y = Relu(f) z = Relu(u) }"""
    model = onnx.parser.parse_model(text)
    model.graph.input[1].type.tensor_type.shape.dim[0].dim_param = "M*N"
    shapes = probe(to_graph(model))
    assert shapes.same("x", "x") and not shapes.same("f", "u")
    assert str(shapes.known.dims["y"][0]) != str(shapes.known.dims["z"][0])
