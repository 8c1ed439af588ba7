from dataclasses import dataclass

import numpy as np
import onnx
import onnx.parser
import onnx.reference
import pytest
from onnx import numpy_helper

from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis
from hqp_onnx.data.dataset import Batch
from hqp_onnx.errors import DataError, ModelError, UsageError
from hqp_onnx.gradients import running_sums
from hqp_onnx.ranking.saliency import SALIENCIES, bn_gamma, filter_scores, filter_weights, fisher, l1, l2, unit_scores

RNG = np.random.default_rng(7)
NET = """
<ir_version: 8, opset_import: ["": 17]>
net (float[N, 2, 6, 6] x) => (float[N, 3] z) {
    c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w)
    n = BatchNormalization (c, gamma, beta, mean, var)
    r = Relu (n)
    p = GlobalAveragePool (r)
    f = Flatten (p)
    z = Gemm <transB = 1> (f, v, b)
}
"""


def array(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


WEIGHTS = {
    "w": array(5, 2, 3, 3),
    "gamma": array(5),
    "beta": array(5),
    "mean": array(5),
    "var": np.abs(array(5)) + 0.5,
    "v": array(3, 5),
    "b": array(3),
}


@dataclass
class Rows:
    """Samples in batches, as Dataset gives them."""

    x: np.ndarray
    labels: np.ndarray | None
    batch: int

    def __len__(self):
        return len(self.x)

    def __iter__(self):
        for start in range(0, len(self.x), self.batch):
            part = slice(start, start + self.batch)
            yield Batch({"x": self.x[part]}, None if self.labels is None else self.labels[part])


def build(text=NET, weights=WEIGHTS):
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    return model


def rows(count=23, batch=10, labeled=True):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((count, 2, 6, 6)).astype(np.float32)
    return Rows(x, rng.integers(0, 3, count) if labeled else None, batch)


def last_layer(model, data):
    """Probabilities [N, 3] and features [N, 5], by onnx's reference evaluator."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(onnx.helper.make_tensor_value_info("f", onnx.TensorProto.FLOAT, None))
    z, f = onnx.reference.ReferenceEvaluator(copy).run(None, {"x": data.x})
    p = np.exp(z - z.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True), f


def test_last_layer_has_a_closed_form():
    """dL/dV = (p - e_y) f^T, so S_k = mean (p_k - [y = k])^2 |f|^2."""
    model, data = build(), rows()
    p, f = last_layer(model, data)
    residual = p - np.eye(3)[data.labels]
    want = (residual**2 * (f**2).sum(1, keepdims=True)).mean(0)
    np.testing.assert_allclose(fisher(model, data)["v"], want, rtol=1e-5)
    inner = residual * (f @ WEIGHTS["v"].T)
    np.testing.assert_allclose(fisher(model, data, kind="taylor")["v"], (inner**2).mean(0), rtol=1e-4)


def test_drawn_labels_give_the_true_fisher():
    """E over labels: (p - e_y)^2 has mean p (1 - p); 4000 draws come within four standard errors."""
    model = build()
    data = Rows(np.repeat(rows().x[:1], 4000, 0), None, 500)
    p, f = last_layer(model, data)
    want = (p[0] * (1 - p[0])) * (f[0] ** 2).sum()
    squares = np.where(np.eye(3) == 1, (1 - p[0]) ** 2, p[0] ** 2) * (f[0] ** 2).sum()  # [label, filter]
    error = np.sqrt((p[0] @ squares**2 - want**2) / 4000)
    got = fisher(model, data, seed=3)["v"]
    assert np.all(np.abs(got - want) < 4 * error)
    assert np.array_equal(fisher(model, data, seed=3)["v"], got)


def test_expected_labels_have_a_closed_form():
    """E over labels: (p - e_y)_k^2 is p_k (1 - p_k)."""
    model, data = build(), rows(labeled=False)
    p, f = last_layer(model, data)
    variance = p * (1 - p)
    scores = filter_scores("fisher", model, data, loss="expected")
    np.testing.assert_allclose(scores["v"], (variance * (f**2).sum(1, keepdims=True)).mean(0), rtol=1e-5)
    taylor = filter_scores("taylor", model, data, loss="expected")
    np.testing.assert_allclose(taylor["v"], (variance * (f @ WEIGHTS["v"].T) ** 2).mean(0), rtol=1e-4)


def test_batch_size_does_not_matter():
    model = build()
    one, seven = fisher(model, rows(batch=1)), fisher(model, rows(batch=7))
    for name in one:
        np.testing.assert_allclose(one[name], seven[name], rtol=1e-5, atol=1e-6 * one[name].max())


class InterruptedRunError(Exception):
    pass


@pytest.mark.parametrize(("seconds", "options"), [(0.0, {}), (1e9, {}), (0.0, {"loss": "gauss-newton", "draws": 2})])
def test_resumes_to_the_same_bits(tmp_path, monkeypatch, seconds, options):
    monkeypatch.setattr(running_sums, "SECONDS", seconds)
    model, data, path = build(), rows(batch=4), tmp_path / "partial.npz"
    calls = []

    def stop(done, total):
        assert total == 23
        calls.append(done)
        if done == 12:
            raise InterruptedRunError

    whole = fisher(model, data, **options)
    with pytest.raises(InterruptedRunError):
        fisher(model, data, progress=stop, checkpoint=path, **options)
    assert path.exists()
    resumed = []
    again = fisher(model, data, progress=lambda done, _: resumed.append(done), checkpoint=path, **options)
    assert (calls, resumed) == ([4, 8, 12], [16, 20, 23])
    assert all(np.array_equal(whole[name], again[name]) for name in whole)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{"seed": 1}, {"draws": 2}, {"loss": "expected"}, {"kind": "taylor"}], ids=str)
def test_a_checkpoint_of_other_settings_is_ignored(tmp_path, options):
    model, data, path = build(), rows(labeled=False, batch=4), tmp_path / "partial.npz"

    def stop(done, total):
        raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        fisher(model, data, progress=stop, checkpoint=path)
    want = fisher(model, data, **options)
    got = fisher(model, data, checkpoint=path, **options)
    assert all(np.array_equal(want[name], got[name]) for name in want)


@pytest.mark.parametrize("other", [rows(batch=5), rows(count=22, batch=4)], ids=["batch size", "length"])
def test_a_checkpoint_of_another_run_is_ignored(tmp_path, other):
    model, path = build(), tmp_path / "partial.npz"

    def stop(done, total):
        raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        fisher(model, rows(batch=4), progress=stop, checkpoint=path)
    want = fisher(model, other)
    got = fisher(model, other, checkpoint=path)
    assert all(np.array_equal(want[name], got[name]) for name in want)


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "partial.npz"
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"partial\.npz"):
        fisher(build(), rows(), checkpoint=path)


def test_norms():
    model = build()
    np.testing.assert_allclose(l1(model)["w"], [np.abs(w).sum() for w in WEIGHTS["w"].astype(float)], rtol=1e-12)
    np.testing.assert_allclose(l2(model)["v"], [np.linalg.norm(v) for v in WEIGHTS["v"].astype(float)], rtol=1e-12)
    np.testing.assert_array_equal(bn_gamma(model)["w"], np.abs(WEIGHTS["gamma"]).astype(float))


def test_bn_gamma_needs_batch_normalization():
    text = NET.replace("n = BatchNormalization (c, gamma, beta, mean, var)", "n = Identity (c)")
    with pytest.raises(ModelError, match="use --saliency l2"):
        bn_gamma(build(text))


def test_filter_axes():
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    net (float[N, 4] x) => (float[N, 2] z) {
        alias = Identity (k)
        a = MatMul (x, m)
        b = Gemm <transB = 1> (a, g)
        s = Constant <value_ints = [0, 2, 1]> ()
        r = Reshape (b, s)
        d = ConvTranspose (r, t)
        e = Conv (d, alias)
        f = Flatten (e)
        z = Gemm (f, h)
    }
    """
    shapes = {"m": (4, 3), "g": (2, 3), "t": (2, 5, 1), "k": (6, 5, 1), "h": (6, 2)}
    model = build(text, {name: array(*shape) for name, shape in shapes.items()})
    assert filter_weights(model) == {"m": 1, "g": 0, "t": 1, "k": 0, "h": 1}


def test_units_sum_their_filters():
    labels = np.array([0, 0, 1, -1, 2])
    channels = ChannelMap(4, {ParamAxis("w", 0): labels, ParamAxis("v", 1): labels}, {}, {})
    scores = {"w": np.array([1.0, 2, 4, 8, 16]), "v": np.array([1.0, 1, 1])}
    got = unit_scores(scores, channels, {"w": 0, "v": 0})
    np.testing.assert_array_equal(got, [3, 4, 16, np.inf])


@pytest.mark.parametrize("kind", SALIENCIES)
def test_every_saliency_by_name(kind):
    scores = filter_scores(kind, build(), rows())
    assert scores["w"].shape == (5,) and scores["w"].dtype == np.float64
    assert np.all(scores["w"] >= 0)


def test_usage_errors():
    with pytest.raises(UsageError, match="needs data"):
        filter_scores("fisher", build())
    with pytest.raises(UsageError, match="unknown saliency"):
        filter_scores("l3", build())
    with pytest.raises(DataError, match="not all classes"):
        fisher(build(), Rows(rows().x, np.full(23, 3), 10))
