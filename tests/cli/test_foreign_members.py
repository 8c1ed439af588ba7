"""Models with what few models have: every command writes what onnxruntime runs, or ends in one line and no file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from command import hqp
from onnx import TensorProto, helper, numpy_helper
from small_model import small_data, small_model

COMMANDS = {
    "prune": ("prune", "model.onnx", "--sparsity", "0.3", "-o", "new.onnx"),
    "int8": ("quantize", "model.onnx", "--data", "data.npz", "-o", "new.onnx"),
    "fp16": ("quantize", "model.onnx", "--precision", "fp16", "-o", "new.onnx"),
    "int4": ("quantize", "model.onnx", "--int4-weights", "1", "--data", "data.npz", "-o", "new.onnx"),
    "optimize": (
        *("optimize", "model.onnx", "--calib", "data.npz", "--val", "data.npz", "-o", "out", "--metric", "m.py:near"),
        *("--max-drop", "0.5", "--step", "0.3", "--saliency", "l2", "--precision", "int8"),
    ),
}
REFUSED = {"sparse": COMMANDS.keys(), "sequence": {"fp16"}}


def member(kind: str) -> onnx.ModelProto:
    model = small_model()
    graph, value = model.graph, onnx.ValueInfoProto(name="more")
    if kind == "sequence":
        graph.node.append(helper.make_node("SequenceConstruct", ["r1", "r2"], ["more"]))
        graph.output.append(helper.make_tensor_sequence_value_info("more", TensorProto.FLOAT, None))
    if kind == "map":
        named = {"domain": "ai.onnx.ml", "classlabels_strings": list("abcd")}
        model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
        graph.node.append(helper.make_node("Softmax", ["logits"], ["shares"], axis=1))
        graph.node.append(helper.make_node("ZipMap", ["shares"], ["more"], **named))
        inner = value.type.sequence_type.elem_type.map_type
        inner.key_type, inner.value_type.tensor_type.elem_type = TensorProto.STRING, TensorProto.FLOAT
        graph.output.append(value)
    if kind == "optional":
        graph.node.append(helper.make_node("Optional", ["sum"], ["more"]))
        value.type.optional_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT
        graph.output.append(value)
    if kind == "sparse":
        dense = next(t for t in graph.initializer if t.name == "w4")
        graph.initializer.remove(dense)
        indices = numpy_helper.from_array(np.array([0, 9]), "i")
        values = numpy_helper.from_array(np.ones(2, np.float32), "w4")
        graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4, 16]))
    if kind == "ir3":
        model.ir_version = 3
        graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in graph.initializer)
    if kind == "function":
        body = [helper.make_node("Constant", [], ["k"], value_float=0.3), helper.make_node("Mul", ["v", "k"], ["o"])]
        model.functions.append(helper.make_function("my", "Scale", ["v"], ["o"], body, [helper.make_opsetid("", 17)]))
        model.opset_import.append(helper.make_opsetid("my", 1))
        next(node for node in graph.node if node.op_type == "Relu").CopyFrom(
            helper.make_node("Scale", ["n1"], ["r1"], domain="my")
        )
    return model


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ["sequence", "map", "optional", "sparse", "ir3", "function"])
def test_a_member_works_or_is_refused_in_one_line(
    kind: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(member(kind), "model.onnx")
    np.savez("data.npz", **small_data())
    Path("m.py").write_text("def near(outputs, labels):\n    return outputs['logits'][:, 0] * 0 + 0.5\n")
    code = hqp(monkeypatch, *COMMANDS[command], "--quiet")
    lines = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("warning: ")]
    files = [*Path().glob("new*"), *Path().glob("out/*.onnx")]
    if command in REFUSED.get(kind, ()):
        assert code == 2 and len(lines) == 1 and lines[0].startswith("error: ") and not files
        return
    assert code == 0 and not lines and files
    feeds = {"input": small_data()["input"]}
    want = ort.InferenceSession("model.onnx").run(["logits"], feeds)[0]
    for file in files:
        session = ort.InferenceSession(str(file))
        assert [x.name for x in session.get_outputs()] == [x.name for x in onnx.load("model.onnx").graph.output]
        got = session.run(["logits"], feeds)[0]
        assert got.shape == want.shape and np.isfinite(got).all()
