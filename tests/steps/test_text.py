"""Models that read text, hold some, or give some: names of classes, a vocabulary."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
from oracle import run

import hqp_onnx
from hqp_onnx.data.batch import Batch

TEXT = """<ir_version: 8, opset_import: ["": 17, "ai.onnx.ml": 2]>
  g (string[n] word) => (string[n] name, float[n,3] y) {
    id = ai.onnx.ml.LabelEncoder <keys_strings = ["a", "b"], values_int64s = [0, 1]> (word)
    e = Gather (table, id) h = MatMul (e, w) r = Relu (h) y = MatMul (r, v)
    best = ArgMax <axis = 1, keepdims = 0> (y) name = Gather (names, best) }"""
WORDS = {"word": np.array(["a", "b", "c", "b"] * 8)}


def model() -> onnx.ModelProto:
    made, rng = onnx.parser.parse_model(TEXT), np.random.default_rng(0)
    for name, shape in {"table": (3, 8), "w": (8, 16), "v": (16, 3)}.items():
        made.graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal(shape).astype("f4"), name))
    names = onnx.helper.make_tensor("names", onnx.TensorProto.STRING, [3], [b"one", b"two", "drei €".encode()])
    made.graph.initializer.append(names)
    return made


def test_it_is_pruned_and_quantized_like_any_other() -> None:
    given, feeds = model(), {"word": WORDS["word"].astype(object)}
    names, y = run(given, feeds)
    assert set(names) <= {"one", "two", "drei €"}
    for made in (hqp_onnx.prune(given, 0.2, data=WORDS), hqp_onnx.quantize(given, WORDS)):
        found, values = run(made, feeds)
        assert np.square(values - y).sum() < 0.1 * np.square(y).sum()
        assert set(found) <= {"one", "two", "drei €"}
    assert hqp_onnx.inspect(given).units


def test_numbers_are_compared() -> None:
    compared = hqp_onnx.compare([model(), model()], WORDS, samples=4, threads=1)
    assert set(compared.models[1].outputs) == {"y"}


def test_samples_of_text_are_told_apart() -> None:
    batch = Batch({"word": WORDS["word"][:4].astype(object)})
    first, second, third, fourth = batch.digests()
    assert len({first, second, third}) == 3 and second == fourth
    assert batch.part(slice(1, 2)).digests() == [second]
