"""Weights behind Transpose, Reshape, Cast and Identity: named as in the file, stored once, in the type of the file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest
from oracle import run

import hqp_onnx
from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.model import open_model
from hqp_onnx.passes.prune_channels import prune_channels
from hqp_onnx.steps.inspect import inspect_model
from hqp_onnx.steps.prune import Pruning, prune_file

TRUNK = "a = MatMul(e, {w1}) r = Relu(a) c = MatMul(r, {w2}) t = Add(e, c)"
TIED = "ET = Transpose<perm=[1,0]>({e}) y = MatMul(t, ET)"
SHAPES = {"E": (90, 16), "w1": (16, 48), "w2": (48, 16)}
TURNED = {"E": (90, 16), "w1": (48, 16), "w2": (90, 48)}
HALVES = "EF = Cast<to=1>(E) w1f = Cast<to=1>(w1) w2f = Cast<to=1>(w2)"
CASES = {
    "tied": (f"e = Gather(E, x) {TRUNK.format(w1='w1', w2='w2')} {TIED.format(e='E')}", SHAPES, np.float32),
    "tied, small": (
        f"e = Gather(E, x) {TRUNK.format(w1='w1', w2='w2')} {TIED.format(e='E')}",
        {"E": (90, 8), "w1": (8, 24), "w2": (24, 8)},
        np.float32,
    ),
    "identity": (
        f"E2 = Identity(E) e = Gather(E2, x) {TRUNK.format(w1='w1', w2='w2')} {TIED.format(e='E2')}",
        SHAPES,
        np.float32,
    ),
    "halves": (
        f"{HALVES} e = Gather(EF, x) {TRUNK.format(w1='w1f', w2='w2f')} {TIED.format(e='EF')}",
        SHAPES,
        np.float16,
    ),
    "brain floats": (
        f"{HALVES} e = Gather(EF, x) {TRUNK.format(w1='w1f', w2='w2f')} {TIED.format(e='EF')}",
        SHAPES,
        ml_dtypes.bfloat16,
    ),
    "turned": (
        "e = Gather(E, x) v1 = Transpose<perm=[1,0]>(w1) v2 = Transpose<perm=[1,0]>(w2) "
        "a = MatMul(e, v1) r = Relu(a) y = MatMul(r, v2)",
        TURNED,
        np.float32,
    ),
    "turned halves": (
        "EF = Cast<to=1>(E) e = Gather(EF, x) u1 = Cast<to=1>(w1) u2 = Cast<to=1>(w2) "
        "v1 = Transpose<perm=[1,0]>(u1) v2 = Transpose<perm=[1,0]>(u2) a = MatMul(e, v1) r = Relu(a) y = MatMul(r, v2)",
        TURNED,
        np.float16,
    ),
    "reshaped": (
        "e = Gather(E, x) v1 = Reshape(w1, two) a = MatMul(e, v1) r = Relu(a) y = MatMul(r, w2)",
        {"E": (90, 16), "w1": (1, 16, 48), "w2": (48, 90)},
        np.float32,
    ),
}


def made(case: str) -> onnx.ModelProto:
    body, shapes, dtype = CASES[case]
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (int64[n,7] x) => (float[n,7,90] y) {{ {body} }}'
    model, rng = onnx.parser.parse_model(text), np.random.default_rng(0)
    for name, shape in shapes.items():
        values = (rng.standard_normal(shape) / 4).astype(dtype)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([16, 48]), "two"))
    return model


def feeds() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).integers(0, 90, (4, 7))}


def masked(model: onnx.ModelProto, removed: dict[str, dict[str, list[int]]]) -> onnx.ModelProto:
    """The file itself, slices of its initializers zero."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in copy.graph.initializer}
    for name, axes in removed.items():
        values = onnx.numpy_helper.to_array(tensors[name]).copy()
        for axis, gone in axes.items():
            values[(slice(None),) * int(axis) + (gone,)] = 0
        tensors[name].CopyFrom(onnx.numpy_helper.from_array(values, name))
    return copy


@pytest.mark.parametrize("case", CASES)
def test_the_ledger_is_of_the_file(case: str, tmp_path: Path) -> None:
    model = made(case)
    onnx.save(model, tmp_path / "m.onnx")
    options = Pruning(0.4, saliency="random", compensate=False)
    prune_file(tmp_path / "m.onnx", tmp_path / "p.onnx", options, ledger=tmp_path / "l.json")
    removed = json.loads((tmp_path / "l.json").read_text())["removed"]
    pruned = onnx.load(tmp_path / "p.onnx")
    want, have = run(masked(model, removed), feeds())[0], run(pruned, feeds())[0]
    np.testing.assert_allclose(have, want, atol=1e-5 * float(np.abs(want).max()))
    assert pruned.ByteSize() < model.ByteSize()
    again = Pruning(plan=tmp_path / "l.json", compensate=False)
    prune_file(tmp_path / "m.onnx", tmp_path / "q.onnx", again)
    assert (tmp_path / "q.onnx").read_bytes() == (tmp_path / "p.onnx").read_bytes()


def test_integers_that_are_stored_for_floats_are_named() -> None:
    body = (
        "f1 = Cast<to=1>(w1) v1 = Mul(f1, s1) f2 = Cast<to=1>(w2) v2 = Mul(f2, s2) "
        "a = MatMul(x, v1) r = Relu(a) y = MatMul(r, v2)"
    )
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[n,16] x) => (float[n,5] y) {{ {body} }}'
    )
    rng = np.random.default_rng(0)
    values = {
        name: rng.integers(-100, 100, shape).astype(np.int8) for name, shape in (("w1", (16, 48)), ("w2", (48, 5)))
    }
    values |= {
        name: rng.uniform(0.01, 0.02, shape).astype(np.float32) for name, shape in (("s1", (1, 48)), ("s2", (5,)))
    }
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in values.items())
    opened = open_model(model)
    channels = opened.channels()
    plan = PruningPlan(np.random.default_rng(2).choice(channels.prunable, 20, replace=False))
    removed = channels.of_file().removed_slices(plan)
    assert {"w1", "w2"} <= removed.keys()
    named = {name: {str(axis): gone.tolist() for axis, gone in axes.items()} for name, axes in removed.items()}
    x = {"x": rng.standard_normal((4, 16)).astype(np.float32)}
    pruned = to_proto(prune_channels(opened.graph, channels, plan).graph)
    np.testing.assert_allclose(run(pruned, x)[0], run(masked(model, named), x)[0], atol=1e-4)


def test_gates_in_another_order_are_named_by_their_places_in_the_file() -> None:
    """As torch writes an LSTM: parts of w, put together anew, are one weight whose rows are others."""
    body = (
        "i = Slice(w, k0, k1, z) f = Slice(w, k1, k2, z) o = Slice(w, k2, k3, z) v = Concat<axis=0>(o, i, f) "
        "t = Transpose<perm=[1,0]>(v) a = MatMul(x, t) r = Relu(a) y = MatMul(r, u)"
    )
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[n,40] x) => (float[n,5] y) {{ {body} }}'
    )
    rng = np.random.default_rng(0)
    for name, shape in {"w": (60, 40), "u": (60, 5)}.items():
        values = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    for name, value in {"k0": 0, "k1": 20, "k2": 40, "k3": 60, "z": 0}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value]), name))
    opened = open_model(model)
    channels = opened.channels()
    plan = PruningPlan(np.random.default_rng(2).choice(channels.prunable, 20, replace=False))
    removed = channels.of_file().removed_slices(plan)
    assert removed.keys() == {"w", "u"}
    assert not np.array_equal(removed["w"][0], removed["u"][0])
    named = {name: {str(axis): gone.tolist() for axis, gone in axes.items()} for name, axes in removed.items()}
    x = {"x": rng.standard_normal((4, 40)).astype(np.float32)}
    pruned = to_proto(prune_channels(opened.graph, channels, plan).graph)
    np.testing.assert_allclose(run(pruned, x)[0], run(masked(model, named), x)[0], atol=1e-4)


PARTS = {
    "parts of a packed weight": (
        "q0, k0, v0 = Split<axis=1>(w, thirds) qb, kb, vb = Split<axis=0>(b, thirds) "
        "q1 = MatMul(e, q0) q = Add(q1, qb) k1 = MatMul(e, k0) k = Add(k1, kb) v1 = MatMul(e, v0) v = Add(v1, vb) "
        "g = Mul(q, k) a = Relu(g) c = Relu(v) y1 = MatMul(a, u) y2 = MatMul(c, u2) y = Add(y1, y2)",
        {"w": (16, 60), "b": (60,), "u": (20, 5), "u2": (20, 5)},
        {("w", 0), ("w", 1), ("b", 0), ("u", 0), ("u2", 0)},
    ),
    "the transposed parts of a packed weight": (
        "q0 = Slice(w, i0, i20, i0) k0 = Slice(w, i20, i60, i0) q1 = Transpose(q0) k1 = Transpose(k0) "
        "q = MatMul(e, q1) k = MatMul(e, k1) a = Relu(q) c = Relu(k) y1 = MatMul(a, u) y2 = MatMul(c, u2) "
        "y = Add(y1, y2)",
        {"w": (60, 16), "u": (20, 5), "u2": (40, 5)},
        {("w", 0), ("w", 1), ("u", 0), ("u2", 0)},
    ),
    "a part whose other part is read by its channels, too": (
        "q0, k0 = Split<axis=1>(w, halves) q1 = MatMul(e, q0) q = Relu(q1) k1 = MatMul(x, k0) k = Relu(k1) "
        "y1 = MatMul(q, u) y2 = MatMul(k, u2) y = Add(y1, y2)",
        {"w": (16, 60), "u": (30, 5), "u2": (30, 5)},
        {("q0", 0), ("w", 1), ("u", 0), ("u2", 0)},
    ),
    "a part whose other part has no units": (
        "p0 = Slice(w, i0, i1, i0) p1 = Squeeze(p0, i0) q = MatMul(e, p1) a = Relu(q) y1 = MatMul(a, u) "
        "s0 = Slice(w, i1, i2, i0) m = ArgMax<axis=1, keepdims=0>(x) s1 = Gather<axis=1>(s0, m) s2 = Squeeze(s1, i0) "
        "y2 = MatMul(s2, u2) y = Add(y1, y2)",
        {"w": (2, 16, 20), "u": (20, 5), "u2": (20, 5)},
        {("p1", 0), ("p1", 1), ("u", 0)},
    ),
    "a table that rows are looked up in": (
        "t0 = Gather(t, rows) t1 = Transpose<perm=[2,0,1]>(t0) e1 = Unsqueeze(e, minus) s = Add(e1, t1) "
        "r = Relu(s) a = ReduceSum<keepdims=0>(r, minus) y = MatMul(a, u)",
        {"t": (3, 16), "u": (16, 5)},
        {("t", 1), ("u", 0)},
    ),
    "axes that are joined": (
        'q = Einsum<equation="bc,chd->bhd">(e, w) g = Relu(q) y = Einsum<equation="bhd,hde->be">(g, u)',
        {"w": (16, 4, 6), "u": (4, 6, 5)},
        {("w", 0), ("w", 2), ("u", 1)},
    ),
}
INTS = {
    "thirds": [20] * 3,
    "halves": [30] * 2,
    "i0": [0],
    "i1": [1],
    "i2": [2],
    "i20": [20],
    "i60": [60],
    "rows": [[0, 2, 1], [1, 1, 0]],
}
INTS |= {"minus": [-1, -2]}


@pytest.mark.parametrize("case", PARTS)
def test_parts_and_joined_axes_are_named_where_that_says_the_same(case: str) -> None:
    body, shapes, expected = PARTS[case]
    text = (
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[n,16] x) => (float[n,5] y) {{ e = MatMul(x, e0) {body} }}'
    )
    model, rng = onnx.parser.parse_model(text), np.random.default_rng(0)
    values = {
        name: rng.standard_normal(shape).astype(np.float32) for name, shape in (shapes | {"e0": (16, 16)}).items()
    }
    values |= {name: np.array(value) for name, value in INTS.items() if re.search(rf"\b{name}\b", body)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in values.items())
    opened = open_model(model)
    channels = opened.channels()
    x, named = {"x": rng.standard_normal((4, 16)).astype(np.float32)}, set()
    for _ in range(3):
        plan = PruningPlan(rng.choice(channels.prunable, len(channels.prunable) // 3, replace=False))
        removed = channels.of_file().removed_slices(plan)
        named |= {(name, axis) for name, axes in removed.items() for axis in axes}
        if removed.keys() <= values.keys():
            zeros = {name: {str(axis): gone.tolist() for axis, gone in axes.items()} for name, axes in removed.items()}
            pruned = to_proto(prune_channels(opened.graph, channels, plan).graph)
            np.testing.assert_allclose(run(pruned, x)[0], run(masked(model, zeros), x)[0], rtol=1e-4, atol=1e-4)
    assert named == expected | {("e0", 1)}


@pytest.mark.parametrize("case", CASES)
def test_each_weight_is_counted_and_stored_once(case: str) -> None:
    model = made(case)
    found = inspect_model(model)
    floats = [tensor for tensor in model.graph.initializer if tensor.name in SHAPES]
    assert found.params == sum(int(np.prod(tensor.dims)) for tensor in floats)
    assert {axis.tensor for group in found.groups for axis in group.members} <= set(SHAPES)
    assert found.units - found.prunable == 90  # the outputs
    integers = hqp_onnx.quantize(model, [feeds()] * 4)
    assert integers.ByteSize() < model.ByteSize()
    elements = sum(int(np.prod(tensor.dims)) for tensor in integers.graph.initializer)
    assert elements < 1.2 * found.params
