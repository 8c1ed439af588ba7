"""What a model says of itself, and what a caller may feed it, comes out as it went in."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper, numpy_helper
from oracle import run
from small_model import small_data, small_model

from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.channels.walk import analyze
from hqp_onnx.errors import ModelError
from hqp_onnx.graphs.model_io import to_file, to_graph, to_proto
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.compress_weights import compress_weights
from hqp_onnx.passes.convert_fp16 import convert_fp16
from hqp_onnx.passes.fold_batchnorm import fold_batchnorm
from hqp_onnx.passes.prune_channels import prune_channels
from hqp_onnx.passes.raise_opset import raise_opset
from hqp_onnx.runtimes.session import Session

IMAGES = small_data()["input"]


def told() -> onnx.ModelProto:
    """The small model with a threshold that may be fed, and all that a file can say."""
    model = small_model()
    model.producer_name, model.producer_version, model.domain, model.model_version = "acme", "3", "org.acme", 7
    model.doc_string, model.graph.doc_string = "what this is", "what it computes"
    model.metadata_props.add(key="names", value="{0: 'cat'}")
    model.graph.input[0].doc_string, model.graph.output[0].doc_string = "pixels", "scores"
    model.graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    model.graph.value_info.append(helper.make_tensor_value_info("r1", TensorProto.FLOAT, ["n", 16, 8, 8]))
    model.graph.value_info[-1].doc_string = "features"
    relu = next(node for node in model.graph.node if node.output[0] == "r1")
    relu.doc_string = "first"
    model.graph.input.append(helper.make_tensor_value_info("threshold", TensorProto.FLOAT, [1]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0.25], np.float32), "threshold"))
    last = model.graph.node[-1]
    last.output[0] = "scores"
    model.graph.node.append(helper.make_node("Sub", ["scores", "threshold"], ["logits"]))
    onnx.checker.check_model(model, full_check=True)
    return model


def pruned(graph: object) -> object:
    channels = analyze(graph)
    return prune_channels(graph, channels, PruningPlan(channels.prunable[:3])).graph


WRITERS: dict[str, Callable] = {
    "copied": lambda graph: graph.copy(),
    "canonical": lambda graph: canonicalize(graph).graph,
    "pruned": lambda graph: pruned(canonicalize(graph).graph),
    "folded": lambda graph: fold_batchnorm(canonicalize(graph).graph).graph,
    "compressed": lambda graph: compress_weights(canonicalize(graph).graph).graph,
    "float16": lambda graph: convert_fp16(canonicalize(graph).graph).graph,
    "newer": lambda graph: raise_opset(graph, 19).graph,
}


@pytest.mark.parametrize("name", WRITERS)
def test_all_that_is_said_is_kept(name: str) -> None:
    model = told()
    after = to_proto(WRITERS[name](to_graph(model)))
    onnx.checker.check_model(after, full_check=True)
    header = ("producer_name", "producer_version", "domain", "model_version", "doc_string")
    assert {key: getattr(after, key) for key in header} == {key: getattr(model, key) for key in header}
    assert list(after.metadata_props) == list(model.metadata_props)
    assert after.graph.doc_string == model.graph.doc_string
    assert list(after.graph.input) == list(model.graph.input)
    assert list(after.graph.output) == list(model.graph.output)
    assert "first" in [node.doc_string for node in after.graph.node]
    assert {value.name: value.doc_string for value in after.graph.value_info}.get("r1") == "features"
    assert after.opset_import[0].version == (19 if name == "newer" else 17)


@pytest.mark.parametrize("name", WRITERS)
def test_a_default_can_be_fed_and_left_out(name: str) -> None:
    model = told()
    after = to_proto(WRITERS[name](to_graph(model)))
    for more in ({}, {"threshold": np.array([3.0], np.float32)}):
        want, have = (run(which, {"input": IMAGES, **more})[0] for which in (model, after))
        assert np.abs(want - have).max() <= (0.5 if name == "pruned" else 0.05) * np.abs(want).max()
        assert np.allclose(have, run(after, {"input": IMAGES})[0] + 0.25 - more.get("threshold", 0.25), atol=1e-2)


def listed(version: int) -> onnx.ModelProto:
    """Every weight is an input too."""
    model = small_model()
    model.ir_version = version
    for node in [node for node in model.graph.node if node.op_type == "Constant"]:
        model.graph.node.remove(node)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "half"))
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return model


@pytest.mark.parametrize("version", [3, 8])
def test_weights_listed_as_inputs_are_weights(version: int) -> None:
    model = listed(version)
    onnx.checker.check_model(model)
    graph = canonicalize(to_graph(model)).graph
    assert len(analyze(graph).prunable) == 40
    after = to_proto(graph)
    onnx.checker.check_model(after)
    assert after.ir_version == max(version, 4) and [value.name for value in after.graph.input] == ["input"]
    assert np.allclose(run(model, {"input": IMAGES})[0], run(after, {"input": IMAGES})[0], atol=1e-5)


def test_outputs_that_are_no_tensors() -> None:
    model = small_model()
    model.graph.node.append(helper.make_node("SequenceConstruct", ["r1", "r2"], ["pair"]))
    model.graph.output.append(helper.make_tensor_sequence_value_info("pair", TensorProto.FLOAT, None))
    model.graph.node.append(
        helper.make_node("ZipMap", ["logits"], ["map"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2, 3])
    )
    model.opset_import.add(domain="ai.onnx.ml", version=3)
    value = onnx.ValueInfoProto(name="map")
    kind = value.type.sequence_type.elem_type.map_type
    kind.key_type, kind.value_type.tensor_type.elem_type = TensorProto.INT64, TensorProto.FLOAT
    model.graph.output.append(value)
    after = to_proto(canonicalize(to_graph(model)).graph)
    want, have = (Session(which).run({"input": IMAGES}) for which in (model, after))
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(want["pair"], have["pair"], strict=True))
    assert all(a.keys() == b.keys() for a, b in zip(want["map"], have["map"], strict=True))


def test_functions_are_inlined() -> None:
    text = """<opset_import: ["" : 17], domain: "loc"> Block (p, q) => (o) {
      s = Conv<pads=[1,1,1,1]>(p, q) k = Constant<value_float=0.5>() t = Mul(s, k) o = Relu(t) }"""
    body = "b = loc.Block(x, w) y = loc.Block(b, v)"
    header = '<ir_version: 8, opset_import: ["" : 17, "loc" : 1]>'
    model = onnx.parser.parse_model(f"{header} g (float[n,3,8,8] x) => (float[n,4,8,8] y) {{ {body} }}")
    model.functions.append(onnx.parser.parse_function(text))
    rng = np.random.default_rng(0)
    arrays = {"w": rng.standard_normal((8, 3, 3, 3)), "v": rng.standard_normal((4, 8, 3, 3))}
    model.graph.initializer.extend(numpy_helper.from_array(x.astype(np.float32), key) for key, x in arrays.items())
    graph = canonicalize(to_graph(model)).graph
    assert len(analyze(graph).prunable) == 8
    feeds = {"x": rng.standard_normal((2, 3, 8, 8)).astype(np.float32)}
    assert np.allclose(run(model, feeds)[0], run(to_proto(graph), feeds)[0], rtol=1e-5, atol=1e-5)


def test_weights_that_branches_read_are_stored_once() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[n,64] x) => (float[n,64] y) {
      m = ReduceMax<keepdims=0>(x) q = Greater(m, zero)
      z = If(q) <then_branch = a () => (float[n,64] t)
                   { k = Constant<value_float=0.3>() u = MatMul(x, w) t = Mul(u, k) },
                 else_branch = b () => (float[n,64] e)
                   { k = Constant<value_float=0.7>() v = MatMul(x, w) e = Mul(v, k) }>
      y = MatMul(z, w) }"""
    model = onnx.parser.parse_model(text)
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    arrays = {"w": weight, "zero": np.float32(0)}
    model.graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in arrays.items())
    graph = canonicalize(to_graph(model)).graph
    after = to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    assert after.ByteSize() < 1.1 * model.ByteSize()
    for sign in (1, -1):
        feeds = {"x": sign * np.abs(np.random.default_rng(1).standard_normal((2, 64))).astype(np.float32)}
        assert np.allclose(run(model, feeds)[0], run(after, feeds)[0], rtol=1e-5)


def test_what_cannot_be_held_is_refused_by_name() -> None:
    model = small_model()
    node = model.graph.node.add(op_type="Constant", name="blob", output=["b"])
    node.attribute.add(name="value_string", type=onnx.AttributeProto.STRING, s=b"\xff\xfe")
    with pytest.raises(ModelError, match="'value_string' of Constant node 'blob' is no UTF-8 text"):
        to_graph(model)
    sparse = small_model()
    values, indices = numpy_helper.from_array(np.ones(1, np.float32), "s"), numpy_helper.from_array(np.array([1]))
    sparse.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    with pytest.raises(ModelError, match="'s' is sparse"):
        to_graph(sparse)


def unnamed(weight: int) -> onnx.ModelProto:
    """Nodes without names, the second of which computes the table of the third from constants."""
    body = "p = Range(zero, far, one) t = Sin(p) s = Add(x, t) a = MatMul(s, w) b = Relu(a) y = Add(b, b)"
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[n,{weight}] x) => (float[n,8] y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    weights = {"w": np.ones((weight, 8)), "zero": np.zeros(()), "far": np.array(float(weight)), "one": np.ones(())}
    tensors = [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in weights.items()]
    model.graph.initializer.extend(tensors)
    return model


def test_what_is_written_is_no_larger_than_what_was_read() -> None:
    model = unnamed(100)  # 400 bytes of a table: more than a few names, less than what always becomes a constant
    canonical = canonicalize(to_graph(model)).graph
    written = to_file(canonical)
    assert {node.name for node in to_proto(canonical).graph.node} >= {"MatMul_3", "Relu_4"}  # in memory all have names
    assert written.ByteSize() <= model.ByteSize() < to_proto(canonical).ByteSize()
    assert not any(node.name for node in written.graph.node)
    feeds = {"x": np.ones((2, 100), np.float32)}
    np.testing.assert_array_equal(run(written, feeds)[0], run(model, feeds)[0])
    again = to_file(canonicalize(to_graph(written)).graph)
    assert again == written


def test_a_smaller_model_keeps_the_names_that_it_was_given() -> None:
    canonical = canonicalize(to_graph(unnamed(100))).graph
    written = to_file(pruned_by_hand(canonical))
    assert all(node.name for node in written.graph.node)


def pruned_by_hand(graph: gs.Graph) -> gs.Graph:
    graph = graph.copy()
    matmul = next(node for node in graph.nodes if node.op == "MatMul")
    matmul.inputs[1] = gs.Constant("w", matmul.inputs[1].values[:, :1])
    return graph


def test_absent_fields_stay_absent() -> None:
    model = small_model()
    model.ClearField("producer_name")
    model.graph.ClearField("doc_string")
    written = to_proto(to_graph(model))
    assert not written.HasField("producer_name") and not written.HasField("domain")
    assert not written.graph.HasField("doc_string")
