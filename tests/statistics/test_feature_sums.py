"""Sums of features: grams beyond the room take more passes, uses of one weight one sum, large means no precision."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from hqp_onnx.data.batch import Batch
from hqp_onnx.data.dataset import Dataset, Portion
from hqp_onnx.data.memory import ArraySource
from hqp_onnx.graphs.model_io import to_graph
from hqp_onnx.graphs.nonfinite_weights import nonfinite_weights
from hqp_onnx.runtimes.session import Session
from hqp_onnx.statistics import feature_sums
from hqp_onnx.statistics.channel_stats import channel_stats
from hqp_onnx.statistics.moments import input_moments

RNG = np.random.default_rng(3)
X = RNG.standard_normal((20, 4, 6)).astype(np.float32)
BODY = """a = Gather<axis=1>(x, zero) b = Gather<axis=1>(x, one) c = MatMul(a, w) d = MatMul(b, w)
          e = Add(c, d) f = Tanh(e) y = MatMul(f, v)"""


def model(body: str = BODY, **weights: np.ndarray) -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["": 17]> g (float[n,4,6] x) => (float[n,3] y) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    found = {"w": RNG.standard_normal((6, 5)), "v": RNG.standard_normal((5, 3)), **weights}
    proto.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in found.items())
    proto.graph.initializer.extend(numpy_helper.from_array(np.int64(k), name) for k, name in enumerate(("zero", "one")))
    return proto


def test_passes_with_few_grams_each_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    proto, data, opened, done = model(), [Batch({"x": X[:9]}), Batch({"x": X[9:]})], [], []
    whole = input_moments(proto, None, data)
    monkeypatch.setattr(feature_sums, "GRAMS", 4 * 36 + 4)
    session = feature_sums.work_session
    monkeypatch.setattr(feature_sums, "work_session", lambda *a, **k: opened.append(a) or session(*a, **k))
    parts = input_moments(proto, None, data, progress=lambda some, total: done.append(some))
    assert len(opened) == 3 and done == [9, 20] * 3
    for name in ("w", "v"):
        np.testing.assert_allclose(parts[name].gram, whole[name].gram, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(parts[name].mean, whole[name].mean, rtol=1e-6, atol=1e-7)
    both = np.concatenate([X[:, 0], X[:, 1]]).astype(np.float64)
    np.testing.assert_allclose(whole["w"].gram, both.T @ both / len(both), rtol=1e-5, atol=1e-6)
    assert whole["w"].count == 40


@pytest.mark.parametrize("offset", [1e3, 1e4])
def test_a_covariance_is_exact_where_means_are_large(offset: float) -> None:
    x = (X + np.float32(offset)).astype(np.float32)
    want = np.cov(np.concatenate([x[:, 0], x[:, 1]]).astype(np.float64).T, bias=True)
    found = input_moments(model(), ["w"], [Batch({"x": x[:9]}), Batch({"x": x[9:]})])["w"]
    covariance = found.gram - np.outer(found.mean, found.mean)
    np.testing.assert_allclose(covariance, want, atol=1e-5)
    assert np.linalg.eigvalsh(covariance).min() > 0


def test_what_is_not_finite_has_no_moments(caplog: pytest.LogCaptureFixture) -> None:
    x = X.copy()
    x[3, 0, 2] = np.inf
    with caplog.at_level("INFO"):
        found = input_moments(model(), None, [Batch({"x": x})])
    assert set(found) == {"v"}
    assert "w: no moments: its input is NaN or infinite on some samples" in caplog.text


def test_weights_that_are_not_finite_are_named_and_masks_are_not() -> None:
    mask = np.where(np.arange(5) < 2, -np.inf, 0)
    table, broken = np.array([[-np.inf] * 5, [0.0] * 5]), np.full((5, 3), np.nan)
    body = (
        "i = Gather(t, zero) a = Gather<axis=1>(x, one) c = MatMul(a, w) d = Add(c, m) e = Add(d, i) y = MatMul(e, v)"
    )
    lines = nonfinite_weights(to_graph(model(body, m=mask, t=table, v=broken)))
    assert sorted(lines) == ["weight 't': 5 infinite of 10 values", "weight 'v': 15 NaN of 15 values"]


def test_names_of_the_measurement_may_exist() -> None:
    proto = model()
    names = {"c": "hqp.moments.gram.0", "d": "hqp.moments.own.0", "e": "hqp.stats.mean.0", "f": "hqp.stats.flat.0"}
    taken = onnx.ModelProto()
    taken.CopyFrom(proto)
    for node in taken.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    data = [Batch({"x": X})]
    for name, found in input_moments(proto, None, data).items():
        np.testing.assert_array_equal(input_moments(taken, None, data)[name].gram, found.gram)
    (plain,), (renamed,) = (channel_stats(m, {own: 5}, data).values() for m, own in ((proto, "f"), (taken, names["f"])))
    np.testing.assert_array_equal(plain.power, renamed.power)


def test_float16_is_summed_in_float32() -> None:
    proto = model()
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    for tensor in [t for t in proto.graph.initializer if t.name in "wv"]:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    x = (100 * X).astype(np.float16)
    found = input_moments(proto, None, [Batch({"x": x})])["w"]
    both = np.concatenate([x[:, 0], x[:, 1]]).astype(np.float64)
    assert both.T[0] @ both.T[0] > 65504
    np.testing.assert_allclose(found.gram, both.T @ both / len(both), rtol=1e-5, atol=0.1)


@pytest.mark.parametrize("columns", [False, True])
def test_more_positions_than_enough_are_thinned_out(monkeypatch: pytest.MonkeyPatch, columns: bool) -> None:
    """80 positions of 6 features, 2 per feature are enough: each fifth is taken."""
    turned = "t = Transpose<perm=[0,2,1]>(x) c = Conv(t, k) y = Transpose<perm=[0,2,1]>(c)"
    body = turned if columns else "y = MatMul(x, m)"
    weight = {"k": RNG.standard_normal((3, 6, 1))} if columns else {"m": RNG.standard_normal((6, 3))}
    proto = model(body, **weight)
    data = Dataset(ArraySource("x", {"x": X}), Session(proto).inputs)
    name = next(iter(weight))
    assert input_moments(proto, [name], data)[name].count == 80
    monkeypatch.setattr(feature_sums, "WIDE", 6)
    monkeypatch.setattr(feature_sums, "ENOUGH", 2)
    found, some = input_moments(proto, [name], data)[name], X.reshape(80, 6)[::5].astype(np.float64)
    assert found.count == len(some) == 16
    np.testing.assert_allclose(found.gram, some.T @ some / 16, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.mean, some.mean(0), rtol=1e-5, atol=1e-6)
    assert input_moments(proto, [name], Portion(data, data.ranges))[name].count == 16
