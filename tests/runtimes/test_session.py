"""Sessions: any tensor as an output, fixed batches, missing runtimes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from hqp_onnx.errors import MissingRuntimeError, ModelError
from hqp_onnx.runtimes import session as runtime
from hqp_onnx.runtimes.kernels import onnxruntime_kernels
from hqp_onnx.runtimes.session import Session, TensorSpec

TEXT = '<ir_version: 8, opset_import: ["" : 17]> g (float[{n},3] x) => (float[{n},3] y, float s) {{ BODY }}'
TEXT = TEXT.replace("BODY", "h = Neg(x)\n y = Relu(h)\n s = ReduceSum<keepdims=0>(x)")
X = np.arange(6, dtype=np.float32).reshape(2, 3) - 3


def model(batch: str = "n") -> onnx.ModelProto:
    return onnx.parser.parse_model(TEXT.format(n=batch))


def test_inputs_and_outputs() -> None:
    session = Session(model())
    assert session.inputs == (TensorSpec("x", np.dtype(np.float32), (None, 3)),)
    assert session.batch is None
    assert session.run({"x": X})["y"].tolist() == np.maximum(-X, 0).tolist()


@pytest.mark.parametrize("source", ["proto", "bytes", "path", "text"])
def test_any_tensor_can_be_fetched_from_any_form(source: str, tmp_path: Path) -> None:
    onnx.save(model(), tmp_path / "m.onnx")
    forms = {"proto": model(), "bytes": model().SerializeToString(), "path": tmp_path / "m.onnx"}
    forms["text"] = str(tmp_path / "m.onnx")
    assert Session(forms[source], outputs=["h"]).run({"x": X})["h"].tolist() == (-X).tolist()


def test_a_summand_that_onnxruntime_fuses_away_can_be_fetched() -> None:
    """onnxruntime 1.32 makes one node of a sum of two convolutions of odd widths, though one of them is an output."""
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[n,3,8,8] x) => (float[n,19,8,8] y) { a = Conv (x, w1)
      r = Relu (a) c = Conv (r, w2) s = Conv (r, ws, b) h = Relu (c) q = Conv (h, w3, b)
      t = Add (q, s) y = Relu (t) }"""
    summed, rng = onnx.parser.parse_model(text), np.random.default_rng(0)
    for name, shape in {
        "w1": (35, 3, 1, 1),
        "w2": (39, 35, 1, 1),
        "w3": (19, 39, 1, 1),
        "ws": (19, 35, 1, 1),
        "b": (19,),
    }.items():
        values = rng.standard_normal(shape).astype(np.float32)
        summed.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    x = rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    for names in (["s"], ["q"], ["s", "y"], ["q", "s", "t"]):
        found, plain = (Session(summed, names, optimize=last).run({"x": x}) for last in (True, False))
        for name in names:
            np.testing.assert_allclose(found[name], plain[name], rtol=1e-4, atol=1e-4)


def test_a_short_batch_of_a_fixed_one_is_padded_and_cut() -> None:
    session = Session(model("4"))
    assert session.batch == 4
    values = session.run({"x": X})
    assert values["y"].tolist() == np.maximum(-X, 0).tolist()
    assert values["s"].shape == ()


def test_a_model_beyond_the_limit_of_protobuf_goes_through_files(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = "g (float[n,512] x) => (float[n,512] y) { y = Add(x, w) }"
    big = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {graph}')
    big.graph.initializer.append(onnx.numpy_helper.from_array(np.arange(512, dtype=np.float32), "w"))
    monkeypatch.setattr(runtime, "BYTES_LIMIT", 1)
    assert Session(big).run({"x": np.zeros((1, 512), np.float32)})["y"].tolist() == [list(range(512))]
    assert onnx.numpy_helper.to_array(big.graph.initializer[0]).tolist() == [*range(512)]  # not moved out for good


def test_errors_of_onnxruntime_are_model_errors() -> None:
    with pytest.raises(ModelError, match="onnxruntime cannot load the model"):
        Session(b"nonsense")
    unsorted = model()
    unsorted.graph.node[1].input[0] = "nowhere"
    with pytest.raises(ModelError, match=r"load the model: \[ONNXRuntimeError\] [^/]*'nowhere'[^/]*$"):
        Session(unsorted)
    with pytest.raises(ModelError, match="onnxruntime cannot run the model"):
        Session(model()).run({"x": X[:, :2]})


def test_without_onnxruntime_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingRuntimeError, match=r"pip install 'hqp-onnx\[onnxruntime\]'"):
        Session(model())


def test_kernels_are_timed_by_name() -> None:
    timed = model()
    for node in timed.graph.node:
        node.name = f"the {node.op_type}"
    kernels = onnxruntime_kernels(timed, {"x": np.zeros((4096, 3), np.float32)}, runs=3)
    assert {kernel.names for kernel in kernels} == {("the Neg",), ("the Relu",), ("the ReduceSum",)}
    assert all(0 < kernel.seconds < 1 for kernel in kernels) and any((4096, 3) in kernel.shapes for kernel in kernels)
    with pytest.raises(ModelError, match="onnxruntime cannot run the model"):
        onnxruntime_kernels(timed, {"x": np.zeros((4, 2), np.float32)})
