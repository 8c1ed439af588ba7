"""A model that is of no use is refused in one line, and one of doubtful use is warned of."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_model import small_data, small_model

from hqp_onnx.errors import MissingRuntimeError, ModelError
from hqp_onnx.evaluation.verification import Output, Verified, together, verify
from hqp_onnx.graphs.interface import Interface
from hqp_onnx.model import open_data, open_model
from hqp_onnx.runtimes.targets import target

Sizes = list[int | str | None] | None
Change = Callable[[onnx.ModelProto], object]


def changed(*changes: Change) -> onnx.ModelProto:
    model = small_model()
    for change in changes:
        change(model)
    return model


def found(model: onnx.ModelProto, goal: str = "onnxruntime", precision: str = "fp32") -> Verified:
    opened = open_model(small_model())
    return verify(model, "new.onnx", opened.source(open_data(opened, small_data())), target(goal), precision)


def weight(name: str, value: Callable[[np.ndarray], np.ndarray]) -> Change:
    def change(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == name)
        tensor.CopyFrom(numpy_helper.from_array(value(numpy_helper.to_array(tensor)).astype(np.float32), name))

    return change


def node(op: str, **fields: object) -> Change:
    """Change the fields of the last node of an operator."""

    def change(model: onnx.ModelProto) -> None:
        last = [n for n in model.graph.node if n.op_type == op][-1]
        for name, value in fields.items():
            setattr(last, name, value)

    return change


def test_a_model_is_compared_with_its_source_output_by_output() -> None:
    """Noise of a tenth of the last weights' size is 20 dB; a model that did not change is equal."""
    opened = open_model(small_model())
    data = small_data(16)
    noisy = found(changed(weight("w4", lambda w: 1.1 * w), weight("d4", lambda d: 1.1 * d)))
    assert noisy.outputs["logits"].sqnr_db == pytest.approx(20, abs=1e-3)
    assert noisy.samples == len(data["input"]) and not noisy.warnings
    assert "logits 20.0 dB" in noisy.words and "on 16 samples" in noisy.words
    same = found(small_model())
    assert same.outputs["logits"].equal == 1 and same.outputs["logits"].sqnr_db is None
    assert same.bytes == opened.bytes == same.original_bytes


def test_several_files_are_said_in_one_plain_line() -> None:
    noisy = found(changed(weight("w4", lambda w: 1.1 * w), weight("d4", lambda d: 1.1 * d)))
    same = found(small_model())
    begin = "All files were run again as written, and their outputs "
    assert together({"a": same}) == f"{begin}are the original's"
    many = together({"a": same, "b": noisy})
    assert many == f"{begin}differ from the original's by at most 10 % of their size (b)"
    words = together({"a": same, "b": replace(same, samples=0, outputs={})})
    assert words.startswith("b: loaded as written, not run: the original does not run on ")
    tags = Output(None, 0.97)  # integers, of which 3 % differ
    assert tags.difference == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (weight("w4", lambda w: -w), r"output 'logits' is at -?\d"),
        (weight("w4", lambda w: w * np.inf), "values of output 'logits' are NaN or infinite, and the original's are"),
        (lambda m: m.graph.initializer.append(numpy_helper.from_array(np.zeros(500), "spare")), "larger than its inp"),
    ],
)
def test_what_is_of_doubtful_use_is_a_warning(change: Change, words: str) -> None:
    (warning,) = found(changed(change)).warnings
    assert warning.startswith("new.onnx: ")
    assert re.search(words, warning), warning


@pytest.mark.parametrize(("factor", "warns", "of_judged"), [(1.3, False, False), (1.5, True, False), (2.5, True, True)])
def test_an_output_that_a_metric_has_judged_may_be_noisier(factor: float, warns: bool, of_judged: bool) -> None:
    """Noise of 0.3, 0.5 and 1.5 times the signal: 10.5, 6 and -3.5 dB."""
    opened = open_model(small_model())
    source = opened.source(open_data(opened, small_data()))
    noisy = changed(weight("w4", lambda w: factor * w), weight("d4", lambda d: factor * d))
    assert bool(verify(noisy, "new", source).warnings) is warns
    assert bool(verify(noisy, "new", source, judged=["logits"]).warnings) is of_judged


@pytest.mark.parametrize(
    ("precision", "named"), [("int8", "int8"), ("mixed", "int8"), ("fp16", "fp16"), ("int4", "int4")]
)
def test_a_precision_that_changed_nothing_is_a_warning(precision: str, named: str) -> None:
    assert f"nothing was brought to {named}:" in found(small_model(), precision=precision).warnings[-1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (node("Gemm", op_type="NoSuchOperator"), "not a valid ONNX model"),
        (node("Conv", domain="com.nowhere"), "onnxruntime cannot load the model"),
        (weight("w4", lambda w: w[:, :3]), "onnxruntime cannot"),
        (lambda m: setattr(m.graph.output[0], "name", "r1"), "its outputs are r1, not logits"),
        (
            lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 1),
            r"input 'input' is float\[1",
        ),
        (lambda m: m.graph.output.append(helper.make_tensor_value_info("r1", TensorProto.FLOAT, None)), "outputs are"),
        (lambda m: m.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [])), "inputs are"),
    ],
)
def test_what_is_of_no_use_is_refused(change: Change, words: str) -> None:
    with pytest.raises(ModelError, match=words) as refused:
        found(changed(change, lambda m: m.opset_import.append(helper.make_opsetid("com.nowhere", 1))))
    assert str(refused.value).startswith("new.onnx: is not written, since it would be of no use: ")


def test_lost_metadata_and_defaults_are_changes_of_the_interface() -> None:
    said, silent = small_model(), small_model()
    said.producer_name = "torch"
    said.metadata_props.add(key="classes", value="4")
    said.graph.input.append(helper.make_tensor_value_info("d4", TensorProto.FLOAT, [4]))
    changes = list(Interface.of(said).changes(Interface.of(silent)))
    assert [words for words in changes if "classes" in words] and [words for words in changes if "producer" in words]
    assert "its inputs are input, not input, d4" in changes and any("default value" in words for words in changes)
    assert not list(Interface.of(said).changes(Interface.of(said)))


@pytest.mark.parametrize(
    ("stated", "fits", "does_not"),
    [
        ([None, 3], [["n", 3], [None, 3]], [[1, 3], [None, 4], [None, None], [None], [None, 3, 1]]),
        (["n", 3], [["n", 3]], [["m", 3], [None, 3], [1, 3]]),
        ([], [[]], [[1]]),
        (None, [[1], ["n"], []], []),
    ],
)
def test_what_is_stated_of_sizes_stays(stated: Sizes, fits: list[Sizes], does_not: list[Sizes]) -> None:
    def of(sizes: Sizes, kind: int = TensorProto.FLOAT) -> Interface:
        graph = helper.make_graph([], "g", [], [helper.make_tensor_value_info("y", kind, sizes)])
        return Interface.of(helper.make_model(graph))

    assert not [sizes for sizes in fits if list(of(stated).changes(of(sizes)))]
    assert all(list(of(stated).changes(of(sizes))) for sizes in does_not)
    assert list(of(stated).changes(of(stated, TensorProto.FLOAT16)))


SEQUENCES = """
<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]> g (float[n,3] x) => (seq(float[n,3]) parts, float[n,3] p) {
  y = Relu(x)
  p = Softmax(y)
  parts = SequenceConstruct(x, y)
}
"""


@pytest.mark.parametrize("kind", ["sequence", "map"])
def test_sequences_and_maps_are_compared_value_by_value(kind: str) -> None:
    model = onnx.parser.parse_model(SEQUENCES)
    if kind == "map":
        attributes = {"domain": "ai.onnx.ml", "classlabels_int64s": [0, 1, 2]}
        model.graph.node.append(helper.make_node("ZipMap", ["p"], ["map"], **attributes))
        value = onnx.ValueInfoProto(name="map")
        value.type.sequence_type.elem_type.map_type.key_type = TensorProto.INT64
        value.type.sequence_type.elem_type.map_type.value_type.tensor_type.elem_type = TensorProto.FLOAT
        model.graph.output.append(value)
    name = "map" if kind == "map" else "parts"
    other = onnx.ModelProto()
    other.CopyFrom(model)
    other.graph.node[0].op_type = "Neg"
    source = open_model(model).source()
    assert verify(model, "new", source).outputs[name].equal == 1
    output = verify(other, "new", source).outputs[name]
    assert output.sqnr_db is not None and output.equal is not None and output.equal < 1


def test_answers_that_are_no_floats_are_compared_by_how_many_are_equal() -> None:
    graph = "g (float[n,4] x) => (int64[n] y)"
    text = '<ir_version: 8, opset_import: ["" : 17]> {} {{ y = {}<axis=1, keepdims=0>(x) }}'
    model, other = (onnx.parser.parse_model(text.format(graph, op)) for op in ("ArgMax", "ArgMin"))
    opened, rows = open_model(model), np.array([[1, 1, 1, 1], [2, 3, 4, 5], [5, 4, 3, 2], [9, 1, 1, 1]], np.float32)
    verified = verify(other, "new", opened.source(open_data(opened, {"x": rows})))
    assert verified.outputs["y"].sqnr_db is None and verified.outputs["y"].equal == 0.25  # that of the first row
    assert "only 25.0 % of output 'y' equal the original's" in verified.warnings[0]


def test_without_data_random_inputs_of_the_declared_shapes_are_taken_and_said() -> None:
    opened = open_model(small_model())
    verified = verify(small_model(), "new", opened.source())
    assert "random inputs (no data were given)" in verified.words and verified.samples == 4


def test_a_model_that_takes_no_random_inputs_is_loaded_and_that_is_said() -> None:
    """Its index, made of ones, is out of bounds."""
    graph = "g (int64[2] i, float[3,n] x) => (float[2,n] y)"
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> {graph} {{ j=Add(i, far) y=Gather(x, j) }}'
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(1000), "far"))
    verified = verify(model, "new", open_model(model).source())
    assert verified.outputs == {} and "{" not in verified.words
    why = "the original does not run on random inputs (no data were given)"
    assert verified.warnings[-1] == f"new: loads, but was not run: {why}" and verified.words.endswith(f"not run: {why}")


def test_samples_that_the_original_cannot_run_say_nothing_of_the_new_model() -> None:
    opened = open_model(small_model())
    feeds = [{"input": np.zeros((1, 2, 8, 8), np.float32)}, {"input": small_data(3)["input"]}]
    verified = verify(small_model(), "new", replace(opened.source(), feeds=feeds))
    assert verified.samples == 3 and verified.outputs["logits"].equal == 1


def test_openvino_runs_what_is_for_openvino_and_onnxruntime_where_it_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("openvino")
    assert found(small_model(), "openvino").runtime.startswith("OpenVINO ")

    def missing(*_: object) -> None:
        raise MissingRuntimeError("not here")

    monkeypatch.setattr(type(target("openvino").runtime), "open", missing)
    assert "onnxruntime" in (runtime := found(small_model(), "openvino").runtime) and "not installed" in runtime
