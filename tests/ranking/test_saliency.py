from dataclasses import dataclass

import numpy as np
import onnx
import onnx.parser
import onnx.reference
import pytest
from onnx import numpy_helper
from scored import scored

from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis
from hqp_onnx.data.batch import Batch
from hqp_onnx.errors import DataError, ModelError, UsageError
from hqp_onnx.gradients import filter_weights, running_sums
from hqp_onnx.model import open_model
from hqp_onnx.ranking.order import unit_scores
from hqp_onnx.ranking.rank import rank
from hqp_onnx.ranking.saliencies import SALIENCIES, Saliency, Scoring

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
    np.testing.assert_allclose(scored(model, data)["v"], want, rtol=1e-5)
    inner = residual * (f @ WEIGHTS["v"].T)
    np.testing.assert_allclose(scored(model, data, saliency="taylor")["v"], (inner**2).mean(0), rtol=1e-4)


def test_drawn_labels_give_the_true_fisher():
    """E over labels: (p - e_y)^2 has mean p (1 - p); 4000 draws come within four standard errors."""
    model = build()
    data = Rows(np.repeat(rows().x[:1], 4000, 0), None, 500)
    p, f = last_layer(model, data)
    want = (p[0] * (1 - p[0])) * (f[0] ** 2).sum()
    squares = np.where(np.eye(3) == 1, (1 - p[0]) ** 2, p[0] ** 2) * (f[0] ** 2).sum()  # [label, filter]
    error = np.sqrt((p[0] @ squares**2 - want**2) / 4000)
    got = scored(model, data, seed=3)["v"]
    assert np.all(np.abs(got - want) < 4 * error)
    assert np.array_equal(scored(model, data, seed=3)["v"], got)


def test_expected_labels_have_a_closed_form():
    """E over labels: (p - e_y)_k^2 is p_k (1 - p_k)."""
    model, data = build(), rows(labeled=False)
    p, f = last_layer(model, data)
    variance = p * (1 - p)
    scores = scored(model, data, loss="expected")
    np.testing.assert_allclose(scores["v"], (variance * (f**2).sum(1, keepdims=True)).mean(0), rtol=1e-5)
    taylor = scored(model, data, saliency="taylor", loss="expected")
    np.testing.assert_allclose(taylor["v"], (variance * (f @ WEIGHTS["v"].T) ** 2).mean(0), rtol=1e-4)


def test_batch_size_does_not_matter():
    model = build()
    one, seven = scored(model, rows(batch=1)), scored(model, rows(batch=7))
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

    whole = scored(model, data, **options)
    with pytest.raises(InterruptedRunError):
        scored(model, data, progress=stop, checkpoint=path, **options)
    assert path.exists()
    resumed = []
    again = scored(model, data, progress=lambda done, _: resumed.append(done), checkpoint=path, **options)
    assert (calls, resumed) == ([4, 8, 12], [16, 20, 23])
    assert all(np.array_equal(whole[name], again[name]) for name in whole)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{"seed": 1}, {"draws": 2}, {"loss": "expected"}, {"saliency": "taylor"}], ids=str)
def test_a_checkpoint_of_other_settings_is_ignored(tmp_path, options):
    model, data, path = build(), rows(labeled=False, batch=4), tmp_path / "partial.npz"

    def stop(done, total):
        raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        scored(model, data, progress=stop, checkpoint=path)
    want = scored(model, data, **options)
    got = scored(model, data, checkpoint=path, **options)
    assert all(np.array_equal(want[name], got[name]) for name in want)


@pytest.mark.parametrize("other", [rows(batch=5), rows(count=22, batch=4)], ids=["batch size", "length"])
def test_a_checkpoint_of_another_run_is_ignored(tmp_path, other):
    model, path = build(), tmp_path / "partial.npz"

    def stop(done, total):
        raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        scored(model, rows(batch=4), progress=stop, checkpoint=path)
    want = scored(model, other)
    got = scored(model, other, checkpoint=path)
    assert all(np.array_equal(want[name], got[name]) for name in want)


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "partial.npz"
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"partial\.npz"):
        scored(build(), rows(), checkpoint=path)


def test_bn_gamma_needs_batch_normalization():
    text = NET.replace("n = BatchNormalization (c, gamma, beta, mean, var)", "n = Identity (c)")
    with pytest.raises(ModelError, match="use another saliency, such as l2"):
        scored(build(text), saliency="bn-gamma")


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


def residuals(data):
    p, f = last_layer(build(), data)
    return p - np.eye(3)[data.labels], f


def fisher_rows(data):
    residual, f = residuals(data)
    return {"v": (residual**2 * (f**2).sum(1, keepdims=True)).mean(0)}


def taylor_rows(data):
    residual, f = residuals(data)
    return {"v": np.square(residual * (f @ WEIGHTS["v"].T)).mean(0)}


def obs_rows(data):
    """dL/dz of a projection <u, z> is u itself."""
    u = [np.random.default_rng((0, 0, sample)).standard_normal(3, np.float32) for sample in range(len(data))]
    return {"v": np.square(u).mean(0)}


def random_rows(_):
    rng = np.random.default_rng(0)
    return {"w": rng.random(5), "v": rng.random(3)}


ROWS = {
    "fisher": fisher_rows,
    "taylor": taylor_rows,
    "obs": obs_rows,
    "l1": lambda _: {name: [np.abs(x).sum() for x in WEIGHTS[name].astype(float)] for name in "wv"},
    "l2": lambda _: {name: [np.linalg.norm(x) for x in WEIGHTS[name].astype(float)] for name in "wv"},
    "bn-gamma": lambda _: {"w": np.abs(WEIGHTS["gamma"])},
    "random": random_rows,
}


def test_every_saliency_has_a_row():
    assert SALIENCIES.names == tuple(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_saliencies_have_a_closed_form(name):
    data = rows()
    scores = scored(build(), data, saliency=name)
    for weight, want in ROWS[name](data).items():
        assert scores[weight].dtype == np.float64
        np.testing.assert_allclose(scores[weight], want, rtol=1e-4 if name == "taylor" else 1e-5)


def test_a_function_is_a_saliency():
    def largest(model, data):
        return {"w": np.abs(WEIGHTS["w"]).max((1, 2, 3))}

    assert Scoring(largest).name == "largest"
    np.testing.assert_array_equal(scored(build(), saliency=largest)["w"], largest(None, None)["w"].astype(np.float64))


class Votes(Saliency):
    """Needs data, and ranks units by itself."""

    needs_data = True

    def filters(self, model, data, scoring, execution):
        return {"w": np.full(5, float(len(data)))}

    def units(self, graph, channels, filters, halves, min_width, gains):
        return filters["w"][0] - np.arange(channels.units, dtype=float)


def test_a_class_says_what_it_needs_and_ranks_units():
    with pytest.raises(UsageError, match="saliency Votes needs data"):
        scored(build(), saliency=Votes())
    model = open_model(build())
    ranking = rank(model.graph, model.channels(), Scoring(Votes()), rows())
    assert ranking.units.tolist() == [23.0 - unit for unit in range(model.channels().units)]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"u": [1.0]}, "scores 'u', which is no weight with filters"),
        ({"w": [1.0, 2.0]}, r"'w' have shape \[2\], expected \[5\]"),
        ({"w": "five"}, "failed: ValueError"),
        (None, "failed: AttributeError"),
    ],
)
def test_what_a_function_returns_is_checked(found, message):
    with pytest.raises(UsageError, match=message):
        scored(build(), saliency=lambda model, data: found)


def test_scores_that_are_nan_are_refused():
    broken = {**WEIGHTS, "w": np.where(np.arange(5)[:, None, None, None] == 3, np.nan, WEIGHTS["w"])}
    with pytest.raises(ModelError, match="saliency 'l2' of 'w' is NaN for 1 of 5 filters"):
        scored(build(weights=broken), saliency="l2")


def test_a_scoring_is_checked_when_it_is_made(tmp_path):
    for options, message in (
        ({"saliency": "l3"}, "unknown saliency 'l3': expected one of fisher, .*, or FILE.py:name"),
        ({"engine": "jax"}, "unknown gradient engine 'jax'"),
        (
            {"saliency": "obs", "engine": "ort-training"},
            "engine ort-training: saliency obs needs another, such as native",
        ),
        ({"draws": 0}, "draws 0"),
        ({"loss": "hinge"}, "loss hinge"),
    ):
        with pytest.raises(UsageError, match=message):
            Scoring(**options)
    with pytest.raises(ModelError, match="no such file"):
        Scoring(loss=str(tmp_path / "none.onnx"))
    assert Scoring("l2", "ort-training") == Scoring("l2", "ort-training")


def test_usage_errors():
    with pytest.raises(UsageError, match="needs data"):
        scored(build())
    with pytest.raises(DataError, match="not all classes"):
        scored(build(), Rows(rows().x, np.full(23, 3), 10))
