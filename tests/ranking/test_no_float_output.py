"""A model that ends in ArgMax has no loss to differentiate: the advice is a saliency that works on it."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx.parser
import pytest
from small_model import small_data, small_model

import hqp_onnx
from hqp_onnx.errors import GradientError
from hqp_onnx.runtimes.session import Session


@pytest.mark.parametrize("saliency", ["obs", "fisher"])
def test_the_advice_works(saliency: str) -> None:
    model = small_model()
    model.graph.node.append(onnx.helper.make_node("ArgMax", ["logits"], ["class"], axis=1, keepdims=0))
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("class", onnx.TensorProto.INT64, ["n"]))
    with pytest.raises(GradientError, match=r"the model ends in ArgMax: .* or use saliency l1, l2") as refused:
        hqp_onnx.prune(model, sparsity=0.2, data=small_data(), saliency=saliency)
    advised = re.findall(r"l1|l2|random", str(refused.value))
    assert advised == ["l1", "l2", "random"]
    for saliency in advised:
        pruned = hqp_onnx.prune(model, sparsity=0.2, data=small_data(), saliency=saliency)
        assert [output.name for output in pruned.graph.output] == ["class"]


def test_channels_that_nothing_reads_cost_nothing() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[n,8] x) => (float[n,4] y) {
        h = MatMul (x, w) r = Relu (h) few = Gather <axis = 1> (r, kept) y = MatMul (few, v) }"""
    model, rng = onnx.parser.parse_model(text), np.random.default_rng(0)
    for name, shape in {"w": (8, 16), "v": (6, 4)}.items():
        value = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    kept = np.array([3, 3, 0, 15, 7, 2])
    model.graph.initializer.append(onnx.numpy_helper.from_array(kept, "kept"))
    data = {"x": rng.standard_normal((32, 8)).astype(np.float32)}
    costs = hqp_onnx.score(model, data, saliency="obs").units
    idle = np.setdiff1d(np.arange(16), kept)
    of_hidden = [unit for unit, cost in enumerate(costs) if cost == 0]
    assert len(of_hidden) == len(idle)
    pruned = hqp_onnx.prune(model, 11 / 16, data=data, saliency="obs", min_width=0)
    want, got = (Session(each).run(data)["y"] for each in (model, pruned))
    np.testing.assert_allclose(got, want, atol=1e-5)
