from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from conftest import MODELS

from hqp_onnx.data.batch import Batch
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.quantize import quantize
from hqp_onnx.passes.restore_float_weights import restore_float_weights
from hqp_onnx.runtimes.session import Session
from hqp_onnx.runtimes.targets import target


def test_the_same_integers_behind_float_weights(bundled: Path) -> None:
    images = np.load(MODELS / "fashion_mnist_calib.npz")["input"][:8].astype(np.float32)
    graph = canonicalize(to_graph(onnx.load(bundled))).graph
    quantized = quantize(graph, [Batch({"input": images})], target("tensorrt"), "minmax").graph
    result = restore_float_weights(quantized)
    before, after = to_proto(quantized), to_proto(result.graph)
    onnx.checker.check_model(after, full_check=True)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in before.graph.initializer}
    weights = [n for n in before.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in stored]
    restored = [f"{node.input[0]}/restored" for node in weights]
    integers = Session(after, outputs=restored, optimize=False).run({"input": images[:1]})
    for node, name in zip(weights, restored, strict=True):
        np.testing.assert_array_equal(integers[name], stored[node.input[0]])
    kinds = {t.name: t.data_type for t in after.graph.initializer if not t.name.endswith("zero_point")}
    assert onnx.TensorProto.INT8 not in kinds.values()
    expected, found = (Session(model, optimize=False).run({"input": images})["logits"] for model in (before, after))
    np.testing.assert_array_equal(found, expected)
    assert result.modified and not restore_float_weights(graph).modified
