"""A model that ends in ArgMax has no loss to differentiate: the advice is a saliency that works on it."""

from __future__ import annotations

import re

import onnx
import pytest
from small_model import small_data, small_model

import hqp_onnx
from hqp_onnx.errors import GradientError


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
