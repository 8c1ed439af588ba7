"""Fused operators written out: onnxruntime's own kernels are the oracle, with heads pruned against masked as well."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from oracle import worst_error

from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.channels.walk import analyze
from hqp_onnx.graphs.model_io import check, to_graph, to_proto
from hqp_onnx.passes.canonicalize import canonicalize, canonicalize_with_shapes
from hqp_onnx.passes.fused import BODIES
from hqp_onnx.passes.prune_channels import prune_channels

B, S, N, H = 2, 5, 4, 6
W = N * H
RNG = np.random.default_rng(0)
Arrays = Mapping[str, np.ndarray]


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)
PLACES = np.array([[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]])
BOTH = np.array([[True, True, False, True, True]] * S)
SOME = np.arange(S)[:, None] > np.arange(S)[::-1]  # the first query sees no key
MS = "com.microsoft"
QKV = {"q": floats(B, S, W), "k": floats(B, S, W), "v": floats(B, S, W)}
SPLIT = {"q": floats(B, N, S, H), "k": floats(B, N, S, H), "v": floats(B, N, S, H)}
GROUPED = {"q": floats(B, S, W), "k": floats(B, S, 2 * H), "v": floats(B, S, 2 * H)}
PAST = {"pk": floats(B, N, 3, H), "pv": floats(B, N, 3, H)}
X, PACKED = {"x": floats(B, S, 7)}, {"w": floats(7, 3 * W), "b": floats(3 * W)}
UNEQUAL = {"w": floats(7, 2 * W + N * 2), "b": floats(2 * W + N * 2)}
ROWS = {"x": floats(B, S, W)}
LINE = {"scale": floats(W), "bias": floats(W)}
IMAGE = {"x": floats(2, 3, 6, 6)}
FILTERS = {"w": floats(4, 3, 3, 3), "b": floats(4)}
EMBED = {
    "words": floats(9, W),
    "places": floats(8, W),
    "kinds": floats(2, W),
    **LINE,
}
IDS = {
    "ids": np.array([[1, 2, 3, 4, 0], [5, 6, 7, 8, 1]], np.int32),
    "types": np.array([[0, 0, 1, 1, 0]] * 2, np.int32),
}
ROTARY = {"cos": np.cos(floats(8, H // 2)), "sin": np.sin(floats(8, H // 2))}
PROMPT = {"q": floats(B, S, N * 16), "k": floats(B, S, 2 * 16), "v": floats(B, S, 2 * 16)}
LENGTHS = {"ends": np.full(B, S - 1, np.int32), "total": np.array(S, np.int32)}
LENGTHS |= {"cos": np.cos(floats(8, 8)), "sin": np.sin(floats(8, 8))}


def case(op: str, inputs: str, feeds: Arrays, weights: Arrays | None = None, outputs: int = 1, **attrs: Any) -> Any:
    """``inputs``: names by the operator's order; '-' for one that is absent."""
    return pytest.param(op, inputs, feeds, weights or {}, outputs, attrs, id=f"{op.split('::')[-1]}-{inputs}-{attrs}")


CASES = [
    case(f"{MS}::Attention", "x w b", X, PACKED, num_heads=N),
    case(f"{MS}::Attention", "x w b mask", {**X, "mask": MASK}, PACKED, num_heads=N),
    case(f"{MS}::Attention", "x w b mask", {**X, "mask": np.zeros((B, 1), np.int32)}, PACKED, num_heads=N),
    case(f"{MS}::Attention", "x w b mask", {**X, "mask": MASK.sum(1, dtype=np.int32)}, PACKED, num_heads=N),
    case(
        f"{MS}::Attention",
        "x w b mask",
        {**X, "mask": MASK[:, None] * np.ones((1, S, 1), np.int32)},
        PACKED,
        num_heads=N,
    ),
    case(f"{MS}::Attention", "x w b", X, PACKED, num_heads=N, unidirectional=1, scale=0.3),
    case(f"{MS}::Attention", "x w b", X, UNEQUAL, num_heads=N, qkv_hidden_sizes=[W, W, N * 2]),
    case(f"{MS}::Attention", "x w b - - bias", {**X, "bias": floats(1, N, S, S)}, PACKED, num_heads=N),
    case(
        f"{MS}::Attention",
        "x w b - past",
        {**X, "past": floats(2, B, N, 3, H)},
        PACKED,
        2,
        num_heads=N,
        unidirectional=1,
    ),
    case(f"{MS}::MultiHeadAttention", "q k v", QKV, num_heads=N),
    case(f"{MS}::MultiHeadAttention", "q k v b", QKV, {"b": floats(3 * W)}, num_heads=N, scale=0.2),
    case(f"{MS}::MultiHeadAttention", "q k v b", {**QKV, "q": floats(B, 3, W)}, {"b": floats(3 * W)}, num_heads=N),
    case(f"{MS}::MultiHeadAttention", "q k v - mask", {**QKV, "mask": MASK}, num_heads=N),
    case(f"{MS}::MultiHeadAttention", "q k v - - bias", {**QKV, "bias": floats(B, N, S, S)}, num_heads=N),
    case(f"{MS}::MultiHeadAttention", "q k v - - - pk pv", {**QKV, **PAST}, {}, 3, num_heads=N, unidirectional=1),
    case(f"{MS}::MultiHeadAttention", "q k v", {"q": floats(B, S, W), "k": SPLIT["k"], "v": SPLIT["v"]}, num_heads=N),
    case(f"{MS}::GroupQueryAttention", "q k v - - ends total", PROMPT, LENGTHS, num_heads=N, kv_num_heads=2),
    case(
        f"{MS}::GroupQueryAttention",
        "q - - - - ends total cos sin",
        {"q": floats(B, S, 8 * 16)},
        LENGTHS,
        3,
        num_heads=N,
        kv_num_heads=2,
        do_rotary=1,
        local_window_size=2,
        scale=0.3,
    ),
    case(
        f"{MS}::GroupQueryAttention",
        "q - - - - ends total cos sin - bias",
        {"q": floats(B, S, 8 * 32), "bias": floats(1, 1, S, S)},
        LENGTHS,
        3,
        num_heads=N,
        kv_num_heads=2,
        do_rotary=1,
        rotary_interleaved=1,
        softcap=3.0,
    ),
    case(f"{MS}::SkipLayerNormalization", "x y scale bias", {**ROWS, "y": floats(B, S, W)}, LINE, epsilon=1e-3),
    case(f"{MS}::SkipLayerNormalization", "x y scale bias bias", {**ROWS, "y": floats(B, S, W)}, LINE, outputs=4),
    case(f"{MS}::SkipSimplifiedLayerNormalization", "x y scale", {**ROWS, "y": floats(B, S, W)}, LINE, outputs=4),
    case("SimplifiedLayerNormalization", "x scale", ROWS, LINE, axis=-1, epsilon=1e-3),
    case(f"{MS}::EmbedLayerNormalization", "ids - words places - scale bias", IDS, EMBED, 2),
    case(f"{MS}::EmbedLayerNormalization", "ids types words places kinds scale bias", IDS, EMBED, 2, epsilon=1e-3),
    case(
        f"{MS}::EmbedLayerNormalization",
        "ids types words places kinds scale bias mask",
        {**IDS, "mask": 2 * MASK - MASK[:, ::-1]},
        EMBED,
        2,
    ),
    case(f"{MS}::BiasGelu", "x bias", ROWS, LINE),
    case(f"{MS}::Gelu", "x", ROWS),
    case(f"{MS}::FastGelu", "x bias", ROWS, LINE),
    case(f"{MS}::FastGelu", "x", ROWS),
    case(f"{MS}::QuickGelu", "x", ROWS, alpha=1.5),
    case(f"{MS}::FusedMatMul", "q k", SPLIT, alpha=0.5, transB=1),
    case(f"{MS}::FusedMatMul", "q k", {"q": floats(S, B, H), "k": floats(B, 7, H)}, transBatchA=1, transB=1),
    case(
        f"{MS}::FusedGemm",
        "x w c",
        {"x": floats(3, 4)},
        {"w": floats(5, 4), "c": floats(5)},
        transB=1,
        activation="Relu",
    ),
    case(
        f"{MS}::FusedGemm",
        "x w",
        {"x": floats(3, 4)},
        {"w": floats(4, 5)},
        activation="LeakyRelu",
        activation_alpha=0.3,
    ),
    case(f"{MS}::FusedConv", "x w b", IMAGE, FILTERS, activation="Relu", pads=[1, 1, 1, 1]),
    case(f"{MS}::FusedConv", "x w b z", {**IMAGE, "z": floats(2, 4, 4, 4)}, FILTERS, activation="Relu"),
    case(f"{MS}::FusedConv", "x w", IMAGE, FILTERS, activation="Clip", activation_params=[-0.5, 0.5]),
    case(f"{MS}::FusedConv", "x w", IMAGE, FILTERS, activation="HardSigmoid", activation_params=[0.3, 0.4]),
    case(f"{MS}::RotaryEmbedding", "x p cos sin", {**ROWS, "p": PLACES}, ROTARY),
    case(f"{MS}::RotaryEmbedding", "x p cos sin", {"x": SPLIT["q"], "p": PLACES}, ROTARY, interleaved=1),
    case("RotaryEmbedding", "x cos sin p", {**ROWS, "p": PLACES}, ROTARY, num_heads=N),
    case("RotaryEmbedding", "x cos sin p", {"x": floats(B, N, S, 10), "p": PLACES}, ROTARY, rotary_embedding_dim=6),
    case(
        "RotaryEmbedding", "x cos sin", {"x": SPLIT["q"], "cos": floats(B, S, 3), "sin": floats(B, S, 3)}, interleaved=1
    ),
    case("Attention", "q k v", QKV, q_num_heads=N, kv_num_heads=N),
    case("Attention", "q k v", GROUPED, q_num_heads=N, kv_num_heads=2, is_causal=1),
    case("Attention", "q k v mask", {**SPLIT, "mask": BOTH}, scale=0.3, softcap=2.0),
    case("Attention", "q k v mask", {**SPLIT, "mask": SOME}),
    case("Attention", "q k v mask", {**GROUPED, "mask": SOME}, q_num_heads=N, kv_num_heads=2, is_causal=1),
    case("Attention", "q k v mask", {**GROUPED, "mask": floats(B, 1, S, S)}, q_num_heads=N, kv_num_heads=2),
    case("Attention", "q k v - pk pv", {**SPLIT, **PAST}, {}, 3, is_causal=1),
    case("Attention", "q k v", {"q": SPLIT["q"], "k": floats(B, 2, S, H), "v": floats(B, 2, S, 4)}),
    case("Einsum", "x w", ROWS, {"w": floats(W, N, H)}, equation="abc, cde -> abde"),
    case("Einsum", "w x", ROWS, {"w": floats(N, W, H)}, equation="dce,abc->bade"),
    case("Einsum", "x w", {"x": SPLIT["q"]}, {"w": floats(N, H, 7)}, equation="bnsh,nhd->bsd"),
    case("Einsum", "x w", {"x": SPLIT["q"]}, {"w": floats(H, 7, N)}, equation="bnsh,hdn->bsd"),
    case("Einsum", "q k", SPLIT, equation="bnqh,bnkh->bnqk"),
    case("Einsum", "k q", SPLIT, equation="aecd,abcd->acbe"),
    case("Einsum", "q k", {"q": floats(B, S, 2, 3, H), "k": floats(B, 7, 2, H)}, equation="bqgrd,bkgd->bgrqk"),
    case("Einsum", "k q", {"q": floats(B, S, 3, H), "k": floats(B, 7, 2, H)}, equation="bkgd,bqrd->bkrgq"),
    case("Einsum", "q k", {"q": floats(B, 1, H), "k": floats(1, 7, H)}, equation="bqd,bkd->bqk"),
]


def model(
    op: str, inputs: str, feeds: Arrays, weights: Arrays, outputs: int, attrs: Mapping[str, Any]
) -> onnx.ModelProto:
    domain, _, kind = op.rpartition("::")
    names = ["" if name == "-" else name for name in inputs.split()]
    results = ["out0", *(f"out{i}" for i in range(1, outputs))]
    if kind.startswith("Skip") and outputs == 4:
        results = ["out0", "", "", "out3"]
    node = helper.make_node(kind, names, results, "fused", domain=domain, **attrs)
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), ["batch", *v.shape[1:]])
            for n, v in feeds.items()
            if n in names
        ],
        [
            helper.make_tensor_value_info(
                n, TensorProto.INT32 if "Embed" in op and n == "out1" else TensorProto.FLOAT, None
            )
            for n in results
            if n
        ],
        [numpy_helper.from_array(v, n) for n, v in weights.items() if n in names],
    )
    newest = {"Attention": 23, "RotaryEmbedding": 23, "Einsum": 13}.get(kind, 17) if not domain else 17
    return helper.make_model(
        graph, ir_version=10, opset_imports=[helper.make_opsetid("", newest), helper.make_opsetid(MS, 1)]
    )


def run(proto: onnx.ModelProto, feeds: Arrays) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()})


@pytest.mark.parametrize(("op", "inputs", "feeds", "weights", "outputs", "attrs"), CASES)
def test_the_same_function(
    op: str, inputs: str, feeds: Arrays, weights: Arrays, outputs: int, attrs: Mapping[str, Any]
) -> None:
    fused = model(op, inputs, feeds, weights, outputs, attrs)
    wanted = run(fused, feeds)
    for output, value in zip(fused.graph.output, wanted, strict=True):
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        output.CopyFrom(
            helper.make_tensor_value_info(output.name, kind, [f"{output.name}{i}" for i in range(value.ndim)])
        )
    plain = to_proto(canonicalize(to_graph(fused)).graph)
    assert not {node.op_type for node in plain.graph.node} & {name.rpartition("::")[2] for name in BODIES} - {"Gelu"}
    onnx.checker.check_model(plain)
    for got, want in zip(run(plain, feeds), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    "equation", ["bij,bij->b", "bij,bjk->ik", "...ij,...jk->...ik", "bij,bjk", "bij->bji", "bij,bij->bij"]
)
def test_other_sums_of_products_stay(equation: str) -> None:
    feeds = {"x": floats(2, 4, 4), "y": floats(2, 4, 4)}
    named = "x" if "," not in equation else "x y"
    given = model("Einsum", named, {name: feeds[name] for name in named.split()}, {}, 1, {"equation": equation})
    given.graph.output[0].CopyFrom(helper.make_tensor_value_info("out0", TensorProto.FLOAT, None))
    assert [node.op_type for node in to_proto(canonicalize(to_graph(given)).graph).graph.node] == ["Einsum"]


def test_padding_behind_a_prompt_is_no_one_s() -> None:
    weights = LENGTHS | {"ends": np.array([4, 2], np.int32)}
    attrs = {"num_heads": N, "kv_num_heads": 2, "do_rotary": 1}
    fused = model(f"{MS}::GroupQueryAttention", "q k v - - ends total cos sin", PROMPT, weights, 1, attrs)
    (want,), (got,) = run(fused, PROMPT), run(to_proto(canonicalize(to_graph(fused)).graph), PROMPT)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(got[1, :3], want[1, :3], rtol=1e-4, atol=2e-5)


def test_every_body_has_a_case() -> None:
    ops = {parameters.values[0] for parameters in CASES}
    assert ops == BODIES.keys() - {f"{MS}::TransposeMatMul", f"{MS}::SimplifiedLayerNormalization"}


def attention_model(opset: int, weights: Mapping[str, tuple[int, ...]], *nodes: onnx.NodeProto) -> onnx.ModelProto:
    """x [2, 5, 12] -> out [2, 5, 3], the last node reading 'a' and weight 'o'."""
    graph = helper.make_graph(
        [*nodes, helper.make_node("MatMul", ["a", "o"], ["out"], "project")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 5, 12])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [2, 5, 3])],
        [numpy_helper.from_array(0.4 * floats(*shape), name) for name, shape in weights.items()]
        + [numpy_helper.from_array(np.tile(np.arange(5), (2, 1)), "p")],
    )
    domains = [helper.make_opsetid("", opset), helper.make_opsetid(MS, 1)]
    return helper.make_model(graph, ir_version=10, opset_imports=domains)


def products(query: int, key: int) -> tuple[dict[str, tuple[int, ...]], list[onnx.NodeProto]]:
    """Queries, keys and values of these widths."""
    shapes = {"wq": (12, query), "wk": (12, key), "wv": (12, key), "o": (query, 3)}
    return shapes, [helper.make_node("MatMul", ["x", f"w{side}"], [side], f"m{side}") for side in "qkv"]


PACKED_WEIGHTS = {"w": (12, 72), "b": (72,), "o": (24, 3)}
ROTARY_NODES = [
    helper.make_node("RotaryEmbedding", [side, "cos", "sin", "p"], [f"{side}r"], f"r{side}", num_heads=heads)
    for side, heads in (("q", 6), ("k", 2))
]
PRUNED = {
    "packed": (
        12,
        attention_model(
            17, PACKED_WEIGHTS, helper.make_node("Attention", ["x", "w", "b"], ["a"], "att", domain=MS, num_heads=4)
        ),
    ),
    "unequal": (
        16,
        attention_model(
            17,
            {"w": (12, 88), "b": (88,), "o": (40, 3)},
            helper.make_node(
                "Attention", ["x", "w", "b"], ["a"], "att", domain=MS, num_heads=4, qkv_hidden_sizes=[24, 24, 40]
            ),
        ),
    ),
    "apart": (
        12,
        attention_model(
            17,
            {**products(24, 24)[0], "b": (72,)},
            *products(24, 24)[1],
            helper.make_node("MultiHeadAttention", ["q", "k", "v", "b"], ["a"], "att", domain=MS, num_heads=4),
        ),
    ),
    "shared keys, turned": (
        2,
        attention_model(
            23,
            {**products(48, 16)[0], "cos": (16, 4), "sin": (16, 4)},
            *products(48, 16)[1],
            *ROTARY_NODES,
            helper.make_node("Attention", ["qr", "kr", "v"], ["a"], "att", q_num_heads=6, kv_num_heads=2, is_causal=1),
        ),
    ),
}


@pytest.mark.parametrize("name", PRUNED)
def test_heads_are_pruned_as_masked_in_the_fused_original(name: str) -> None:
    units, fused = PRUNED[name]
    result, shapes = canonicalize_with_shapes(to_graph(fused))
    channels = analyze(result.graph, shapes)
    assert len(channels.prunable) == units  # heads, or dimensions inside them where there are more of these
    for unit in channels.prunable.tolist()[:3]:
        plan = PruningPlan(np.array([unit]))
        pruned = to_proto(prune_channels(result.graph, channels, plan).graph)
        removed = channels.of_file().removed_slices(plan)
        assert worst_error(fused, pruned, removed, {"x": floats(2, 5, 12)}) < 1e-5


@pytest.mark.parametrize("rotary", [0, 1])
def test_heads_beside_a_cache_are_removed_alike_in_all_groups(rotary: int) -> None:
    """Six heads in two groups; the second token behind a past of three, in a buffer of eight."""
    shapes, nodes = products(6 * 16, 2 * 16)
    names = ["q", "k", "v", "pk", "pv", "ends", "total", *(["cos", "sin"] if rotary else [])]
    attrs = {"num_heads": 6, "kv_num_heads": 2, "do_rotary": rotary}
    attend = helper.make_node("GroupQueryAttention", names, ["a", "nk", "nv"], "att", domain=MS, **attrs)
    fused = attention_model(17, {**shapes, "cos": (16, 8), "sin": (16, 8)}, *nodes, attend)
    past = {name: floats(2, 2, 8, 16) for name in ("pk", "pv")}
    feeds = {"x": floats(2, 1, 12), **past}
    fused.graph.initializer.extend(
        [
            numpy_helper.from_array(np.full(2, 3, np.int32), "ends"),
            numpy_helper.from_array(np.array(4, np.int32), "total"),
        ]
    )
    del fused.graph.input[:], fused.graph.output[:]
    fused.graph.input.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, v.shape) for n, v in feeds.items())
    for name, shape in {"out": [2, 1, 3], "nk": [2, 2, 8, 16], "nv": [2, 2, 8, 16]}.items():
        fused.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    result, known = canonicalize_with_shapes(to_graph(fused))
    channels = analyze(result.graph, known)
    assert len(channels.prunable) == 3
    assert "keeps what its cache holds" in " ".join(channels.frozen.values())
    for unit in channels.prunable.tolist():
        plan = PruningPlan(np.array([unit]))
        pruned = to_proto(prune_channels(result.graph, channels, plan).graph)
        removed = channels.of_file().removed_slices(plan)
        assert {name: len(axes) for name, axes in removed.items()} == {"wq": 1, "o": 1}
        assert worst_error(fused, pruned, removed, feeds) < 1e-5


@pytest.mark.parametrize("opset", [13, 14, 17])
@pytest.mark.parametrize("norm", ["LayerNormalization", "SimplifiedLayerNormalization"])
def test_onnxruntime_s_operators_under_the_standard_domain_are_opened(norm: str, opset: int) -> None:
    names = ["x", "scale", "bias"][: 3 if norm == "LayerNormalization" else 2]
    fused = model(norm, " ".join(names), ROWS, LINE, 1, {"axis": -1})
    fused.opset_import[0].version = opset
    fused.graph.output[0].CopyFrom(helper.make_tensor_value_info("out0", TensorProto.FLOAT, ["batch", S, W]))
    check(fused, Path("norm.onnx"))
    assert fused.graph.node[0].domain == ""
    plain = to_proto(canonicalize(to_graph(fused)).graph)
    onnx.checker.check_model(plain)
    np.testing.assert_allclose(run(plain, ROWS)[0], run(fused, ROWS)[0], rtol=1e-4, atol=1e-5)
