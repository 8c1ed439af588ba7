"""Shared heads that are broadcast: the same function, in fewer nodes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from oracle import run

from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.graphs.shapes import probe
from hqp_onnx.passes.share_heads import share_heads

INTS = {"one": [1], "heads": [1, 1, 4, 1], "all": [1, 1, 4, 1, 1], "zeros": [0] * 4, "split": [0, 4, -1, 3]}
INTS |= {"copies": [1, 1, 4, 1], "apart": [2], "merged": [0, 4, 0, 3], "positions": [4]}
REPEATS = {
    "Expand": "r = Expand(k, heads)",
    "Tile": "r = Tile(k, copies)",
    "Gather": "r = Gather<axis=2>(k, zeros)",
    "Concat": "r = Concat<axis=2>(k, k, k, k)",
}


def model(body: str, out: str = "n,4,5,s") -> onnx.ModelProto:
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[n,4,5,3] q, float[n,s,1,3] k) => (float[{out}] y) {{ {body} }}"""
    proto = onnx.parser.parse_model(text)
    values = {name: np.array(value) for name, value in INTS.items()} | {"half": np.array(0.5, np.float32)}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(v, n) for n, v in values.items() if f"{n})" in body)
    return proto


def shared(proto: onnx.ModelProto) -> list[str] | None:
    """Operators that remain, of a model that computes the same; None where nothing was shared."""
    graph = to_graph(proto)
    result = share_heads(graph, probe(graph).known.dims)
    rng = np.random.default_rng(0)
    for length in (4, 7):
        feeds = {"q": rng.standard_normal((2, 4, 5, 3)), "k": rng.standard_normal((2, length, 1, 3))}
        feeds = {name: value.astype(np.float32) for name, value in feeds.items()}
        want, have = (run(m, feeds)[0] for m in (proto, to_proto(result.graph)))
        np.testing.assert_allclose(have, want, rtol=1e-6)
    return [node.op for node in result.graph.nodes] if result.modified else None


@pytest.mark.parametrize("repeat", REPEATS)
def test_one_head_is_broadcast(repeat: str) -> None:
    body = f"{REPEATS[repeat]} t = Transpose<perm=[0,2,3,1]>(r) u = Mul(t, half) y = MatMul(q, u)"
    assert shared(model(body)) == ["Transpose", "Mul", "MatMul"]


def test_a_reshape_that_merges_the_copies_is_restated() -> None:
    """As transformers' repeat_kv."""
    body = """h = Transpose<perm=[0,2,1,3]>(k) e = Unsqueeze(h, apart) r = Expand(e, all) m = Reshape(r, merged_)
        t = Transpose<perm=[0,1,3,2]>(m) y = MatMul(q, t)"""
    proto = model(body)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 4, -1, 3]), "merged_"))
    assert shared(proto) == ["Transpose", "Unsqueeze", "Reshape", "Transpose", "MatMul"]


TURNED = "r = Expand(k, heads) t = Transpose<perm=[0,2,3,1]>(r)"
OTHERS = {
    "another reader": (f"{TURNED} u = MatMul(q, t) v = Relu(t) w = ReduceMax(v) y = Add(u, w)", "n,4,5,s"),
    "no product": (f"{TURNED} y = Relu(t)", "n,4,3,s"),
    "nothing else as long": (f"{TURNED} p = ReduceSum(q, one) y = MatMul(p, t)", "n,4,5,s"),
    "summed": ("r = Expand(k, heads) t = Transpose<perm=[0,1,3,2]>(r) p = ReduceMax(q) y = Mul(p, t)", "n,s,3,4"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_copies_that_anything_else_reads_stay(case: str) -> None:
    assert shared(model(*OTHERS[case])) is None
