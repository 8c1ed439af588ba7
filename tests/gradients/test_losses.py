"""Losses other than cross-entropy on labels: against torch autograd, one sample at a time, and closed forms."""

import numpy as np
import onnx
import onnx.parser
import pytest
from gradients.test_per_sample import array, build, samples
from scored import scored

from hqp_onnx.data.batch import Batch
from hqp_onnx.errors import DataError, GradientError, UsageError
from hqp_onnx.gradients import PerSample, filter_weights
from hqp_onnx.gradients.loss import Draw

torch = pytest.importorskip("torch")
from gradients.onnx_in_torch import TorchModel, filter_norms, sample_gradients  # noqa: E402  needs torch

COUNT, SHAPE = 5, (2, 5, 6)
SEGMENTER = "c = Conv <pads = [1, 1, 1, 1]> (x, w) t = Tanh (c) z = Conv (t, k)"
LOGITS = build("h = MatMul (x, w) t = Tanh (h) z = MatMul (t, v)", (4,), {"w": array(4, 6), "v": array(6, 3)})


class Rows:
    """Samples in batches, as Dataset gives them."""

    def __init__(self, x, labels=None, batch=4):
        self.x, self.labels, self.batch = x, labels, batch

    def __len__(self):
        return len(self.x)

    def __iter__(self):
        for start in range(0, len(self.x), self.batch):
            part = slice(start, start + self.batch)
            yield Batch({"x": self.x[part]}, None if self.labels is None else self.labels[part])


def segmenter():
    return build(SEGMENTER, SHAPE, {"w": array(3, 2, 3, 3), "k": array(4, 3, 1, 1)})


def two_headed():
    body = f"{SEGMENTER} g = GlobalAveragePool (t) f = Flatten (g) y = MatMul (f, v)"
    model = build(body, SHAPE, {"w": array(3, 2, 3, 3), "k": array(4, 3, 1, 1), "v": array(3, 5)})
    model.graph.output.append(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None))
    return model


def loss_model(text, inputs, opset=17):
    declared = ", ".join(inputs)
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]> loss ({declared}) => (float l) {{ {text} }}'
    )


def autograd_norms(model, x, objective):
    """||d objective(outputs_i, i) / dW_f||^2 by torch at batch 1, with outputs {name: tensor of one sample}."""
    net, axes = TorchModel(model, torch.float64), filter_weights(model)
    rows = {name: [] for name in axes}
    for i in range(len(x)):
        values = net.tensors({"x": x[i : i + 1]})
        leaves = [net.weights[name] for name in axes]
        for name, grad in zip(axes, torch.autograd.grad(objective(values, i), leaves), strict=True):
            rows[name].append(grad.numpy())
    return filter_norms({name: np.stack(some) for name, some in rows.items()}, axes)


def assert_close(got, want, tolerance=2e-5):
    assert got.keys() == want.keys()
    for name in want:
        assert np.abs(got[name] - want[name]).max() <= tolerance * want[name].max(), name


def test_projections_of_all_outputs_against_torch():
    model, (x, _) = two_headed(), samples(SHAPE, COUNT)
    net = PerSample(model, {"x": x}, loss="gauss-newton")
    pixels = 4 * 5 * 6
    assert net.loss.width == pixels + 5
    v = np.random.default_rng(4).standard_normal((COUNT, pixels + 5)).astype(np.float32)

    def projected(values, i):
        flat = torch.cat([values["z"].flatten(), values["y"].flatten()])
        return flat @ torch.from_numpy(v[i]).double()

    assert_close(net({"x": x}, v), autograd_norms(model, x, projected))


def test_projections_estimate_the_jacobian():
    """E over v of ||d<v, y>/dW_f||^2 = |x|^2 for y = x W; the variance of v^2 is 2."""
    model, (x, _) = build("z = MatMul (x, w)", (4,), {"w": array(4, 3)}), samples((4,), 3)
    draws = 3000
    want = np.square(x, dtype=np.float64).sum(1)
    error = np.sqrt(2 * np.square(want).sum() / draws) / len(x)
    got = scored(model, Rows(x), loss="gauss-newton", draws=draws)["w"]
    assert np.all(np.abs(got - want.mean()) < 4 * error)


@pytest.mark.parametrize("loss", ["gauss-newton", "sampled"])
def test_draws_depend_on_position_and_seed_alone(loss):
    x, _ = samples((4,), 9)
    one, four = (scored(LOGITS, Rows(x, batch=size), loss=loss, draws=2, seed=1) for size in (1, 4))
    assert_close(one, four, 1e-5)
    other = scored(LOGITS, Rows(x), loss=loss, draws=2, seed=2)
    assert not np.allclose(one["v"], other["v"], rtol=1e-3)


def test_draws_are_averaged():
    x, _ = samples((4,), 6)
    draw, net = Draw(3, 6, 7), PerSample(LOGITS, {"x": x}, loss="gauss-newton")
    each = [net({"x": x}, v)["w"].mean(0, dtype=np.float64) for v in net.loss.rounds(range(6), None, draw)]
    assert len(each) == 3
    np.testing.assert_allclose(scored(LOGITS, Rows(x), draws=3, seed=7, loss="gauss-newton")["w"], np.mean(each, 0))


def test_expectation_over_labels():
    """sum over c of p_c ||dL_c/dW_f||^2, each from torch."""
    x, _ = samples((4,), COUNT)
    want = dict.fromkeys(("w", "v"), 0.0)
    axes = filter_weights(LOGITS)
    logits = TorchModel(LOGITS, torch.float64)({"x": x})
    p = torch.softmax(logits, 1).detach().numpy()
    for c in range(3):
        norms = filter_norms(sample_gradients(LOGITS, {"x": x}, np.full(COUNT, c), list(axes), torch.float64), axes)
        want = {name: want[name] + (p[:, c : c + 1] * norms[name]).mean(0) for name in want}
    assert_close(scored(LOGITS, Rows(x), loss="expected"), want)


@pytest.mark.parametrize(
    ("model", "name"),
    [(LOGITS, "sampled"), (segmenter(), "gauss-newton"), (two_headed(), "gauss-newton")],
    ids=["classifier", "segmenter", "two outputs"],
)
def test_without_labels_the_loss_fits_the_model(model, name):
    shape = (4,) if name == "sampled" else SHAPE
    assert PerSample(model, {"x": samples(shape)[0]}, loss=None).loss.name == name


def test_a_loss_model_of_pixels():
    model, (x, _) = segmenter(), samples(SHAPE, COUNT)
    text = "o = Constant <value_float = 1.0> () d = Sub (z, o) s = Mul (d, d) l = ReduceSum <keepdims = 0> (s)"
    net = PerSample(model, {"x": x}, loss=loss_model(text, ["float[N, 4, 5, 6] z"]))
    assert_close(net({"x": x}), autograd_norms(model, x, lambda values, i: ((values["z"] - 1) ** 2).sum()))


def test_a_loss_model_may_read_labels_and_inputs():
    x, labels = samples((4,), COUNT)
    text = """a = SoftmaxCrossEntropyLoss <reduction = "none"> (z, labels)
              s = ReduceSumSquare <axes = [1], keepdims = 0> (x) l = Mul (a, s)"""
    declared = ["float[N, 3] z", "int64[N] labels", "float[N, 4] x"]
    net = PerSample(LOGITS, {"x": x}, loss=loss_model(text, declared))
    plain = PerSample(LOGITS, {"x": x})({"x": x}, labels)
    factor = np.square(x).sum(1, keepdims=True) ** 2
    assert_close(net({"x": x}, labels), {name: factor * values for name, values in plain.items()})


def test_a_loss_model_of_another_opset_and_a_fixed_batch():
    x, labels = samples((4,), COUNT)
    fixed = onnx.ModelProto()
    fixed.CopyFrom(LOGITS)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 6
    loss = loss_model(
        'l = SoftmaxCrossEntropyLoss <reduction = "sum"> (z, labels)', ["float[N, 3] z", "int64[N] labels"], 13
    )
    want = scored(LOGITS, Rows(x, labels))
    assert_close(scored(fixed, Rows(x, labels), loss=loss), want, 1e-5)


LOSS_REFUSED = {
    "mean": ("l = ReduceMean <keepdims = 0> (z)", "grows with the batch"),
    "weighted mean": (
        "c = Shape (z) d = CastLike (c, z) e = ReduceProd (d) f = Div (z, e) l = ReduceSum <keepdims = 0> (f)",
        "mixes samples",
    ),
    "mixed": ("t = Transpose (z) g = MatMul (t, z) s = Mul (g, g) l = ReduceSum <keepdims = 0> (s)", "mixes samples"),
    "shape": ("l = Tanh (z)", r"the loss is \[\?, 3\]"),
    "unknown": ("l = ReduceSum <keepdims = 0> (logits)", "reads 'logits', which is no output"),
    "no rule": ("h = ReduceProd <axes = [1]> (z) l = ReduceSum <keepdims = 0> (h)", "ReduceProd node"),
}


@pytest.mark.parametrize("name", LOSS_REFUSED)
def test_loss_models_that_are_refused(name):
    text, message = LOSS_REFUSED[name]
    tensor = "logits" if name == "unknown" else "z"
    with pytest.raises(GradientError, match=message):
        PerSample(LOGITS, {"x": samples((4,))[0]}, loss=loss_model(text, [f"float[N, 3] {tensor}"]))


def test_labels_of_a_loss_model_are_int64():
    loss = loss_model("l = ReduceSum (labels)", ["float[N, 3] z", "float[N] labels"])
    with pytest.raises(GradientError, match="are not int64"):
        PerSample(LOGITS, {"x": samples((4,))[0]}, loss=loss)


def test_errors():
    x, labels = samples((4,), COUNT)
    with pytest.raises(DataError, match="sample 0 has no label"):
        scored(LOGITS, Rows(x), loss="cross-entropy")
    with pytest.raises(UsageError, match="draws 0"):
        scored(LOGITS, Rows(x), draws=0)
    with pytest.raises(GradientError, match=r"use saliency obs, .* or loss gauss-newton"):
        scored(segmenter(), Rows(samples(SHAPE)[0], labels))
