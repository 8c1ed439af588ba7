"""Per-sample filter norms against torch autograd, one sample at a time."""

import os
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from oracle import runs
from small_net import array, build

from hqp_onnx.errors import DataError, GradientError
from hqp_onnx.gradients import PerSample, filter_weights
from hqp_onnx.runtimes.session import Session

torch = pytest.importorskip("torch")
from gradients.onnx_in_torch import TorchModel, filter_norms, sample_gradients  # noqa: E402  needs torch

torch.set_num_threads(1)
MODELS = Path(os.environ.get("HQP_MODELS", Path(__file__).parents[2] / "models"))
COUNT = 4


def convolution(shape, weight, op="Conv", **attributes):
    """The operator, tanh, and a classifier of three classes over all that it gives."""
    listed = ", ".join(f"{name} = {value}" for name, value in attributes.items())
    first = f"c = {op} <{listed}> (x, w, b)" if listed else f"c = {op} (x, w, b)"
    channels = weight[0] if op == "Conv" else weight[1] * attributes.get("group", 1)
    weights = {"w": array(*weight), "b": array(channels, 1)[:, 0]}
    probe = build(first.replace("c =", "z ="), shape, weights)
    size = Session(probe).run({"x": np.zeros((1, *shape), np.float32)})["z"].size
    body = f"{first} t = Tanh (c) f = Flatten (t) z = Gemm <transB = 1> (f, v)"
    return build(body, shape, {**weights, "v": array(3, size)})


def samples(shape, count=COUNT, classes=3):
    rng = np.random.default_rng(3)
    return rng.standard_normal((count, *shape)).astype(np.float32), rng.integers(0, classes, count)


def assert_matches_torch(model, x, labels, tolerance=2e-5, **options):
    """Worst difference relative to the largest norm of the weight: float32 rounding of sums of a few hundred terms."""
    axes = filter_weights(model)
    gradients = sample_gradients(model, {"x": x}, labels, list(axes), torch.float64)
    want = filter_norms(gradients, axes)
    got = PerSample(model, {"x": x}, **options)({"x": x}, labels)
    assert got.keys() == want.keys()
    for name in want:
        assert np.abs(got[name] - want[name]).max() <= tolerance * want[name].max(), name
    weights = {tensor.name: numpy_helper.to_array(tensor).astype(float) for tensor in model.graph.initializer}
    taylor = PerSample(model, {"x": x}, kind="taylor")({"x": x}, labels)
    for name, axis in axes.items():
        products = np.moveaxis(gradients[name] * weights[name], 1 + axis, 1).reshape(
            len(x), weights[name].shape[axis], -1
        )
        inner = products.sum(-1) ** 2
        bound = np.abs(products).sum(-1).max() ** 2  # cancellation: relative to the sum of magnitudes
        assert np.abs(taylor[name] - inner).max() <= tolerance * bound, name


CONVOLUTIONS = {
    "3x3": ((3, 6, 7), (5, 3, 3, 3), {}),
    "3x3 padded": ((3, 6, 7), (5, 3, 3, 3), {"pads": [1, 1, 1, 1]}),
    "stride 2": ((3, 8, 7), (5, 3, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    "uneven": ((3, 8, 7), (5, 3, 3, 2), {"pads": [2, 0, 1, 1], "strides": [2, 3]}),
    "dilated": ((3, 8, 7), (5, 3, 3, 2), {"pads": [1, 1, 1, 1], "dilations": [2, 3]}),
    "1x1": ((6, 4, 3), (5, 6, 1, 1), {}),
    "1x1 stride 2": ((6, 5, 4), (5, 6, 1, 1), {"strides": [2, 2]}),
    "1x1 padded": ((6, 5, 4), (5, 6, 1, 1), {"pads": [1, 0, 0, 1]}),
    "1x1 one pixel": ((6, 1, 1), (5, 6, 1, 1), {}),
    "grouped": ((4, 5, 5), (6, 2, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    "grouped 1x1": ((4, 1, 1), (6, 2, 1, 1), {"group": 2}),
    "wide": ((9, 5, 6), (4, 9, 3, 3), {"pads": [1, 1, 1, 1]}),
    "wide stride 2": ((9, 8, 7), (4, 9, 3, 2), {"pads": [2, 0, 1, 1], "strides": [2, 3]}),
    "wide grouped": ((18, 5, 4), (4, 9, 3, 3), {"group": 2, "pads": [1, 1, 1, 1], "dilations": [1, 2]}),
    "depthwise": ((4, 5, 5), (4, 1, 3, 3), {"group": 4, "pads": [1, 1, 1, 1]}),
    "depthwise stride 2": ((4, 6, 5), (4, 1, 5, 5), {"group": 4, "pads": [2, 2, 2, 2], "strides": [2, 2]}),
    "depthwise large": ((2, 9, 9), (2, 1, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    "depthwise multiplier": ((4, 5, 5), (8, 1, 3, 3), {"group": 4}),
    "1d": ((3, 11), (5, 3, 4), {"strides": [3], "pads": [2, 1]}),
    "3d": ((2, 4, 3, 5), (4, 2, 2, 3, 3), {"strides": [2, 1, 2], "pads": [0, 1, 1, 0, 1, 1]}),
}


@pytest.mark.parametrize("form", [None, "direct", "gram"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name, form):
    shape, weight, attributes = CONVOLUTIONS[name]
    assert_matches_torch(convolution(shape, weight, **attributes), *samples(shape), form=form)


@pytest.mark.parametrize(
    ("weight", "attributes"),
    [
        ((4, 3, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
        ((4, 3, 2, 3), {"group": 2, "dilations": [2, 1]}),
    ],
)
def test_transposed_convolution(weight, attributes):
    shape = (4, 3, 4)
    assert_matches_torch(convolution(shape, weight, "ConvTranspose", **attributes), *samples(shape))


TOKENS = "a = MatMul (x, w) t = Tanh (a) m = ReduceMean <axes = [1], keepdims = 0> (t) z = Gemm (m, v)"


@pytest.mark.parametrize("form", [None, "direct", "gram"])
def test_matmul_over_tokens(form):
    model = build(TOKENS, (5, 4), {"w": array(4, 6), "v": array(6, 3)})
    assert_matches_torch(model, *samples((5, 4)), form=form)


def test_attention():
    body = """n = LayerNormalization (x, s, s)
              q = MatMul (n, wq) k = MatMul (n, wk) v = MatMul (n, wv)
              q4 = Reshape (q, split) q5 = Transpose <perm = [0, 2, 1, 3]> (q4)
              k4 = Reshape (k, split) k5 = Transpose <perm = [0, 2, 3, 1]> (k4)
              v4 = Reshape (v, split) v5 = Transpose <perm = [0, 2, 1, 3]> (v4)
              a = MatMul (q5, k5) p = Softmax (a) o = MatMul (p, v5)
              o4 = Transpose <perm = [0, 2, 1, 3]> (o) o3 = Reshape (o4, merge)
              u = MatMul (o3, wo) r = Add (u, x)
              m = ReduceMean <axes = [1], keepdims = 0> (r) z = Gemm (m, head)"""
    shapes = {"wq": (8, 6), "wk": (8, 6), "wv": (8, 6), "wo": (6, 8), "head": (8, 3)}
    weights = {name: 2 * array(*shape) + 0.1 * len(name) for name, shape in shapes.items()}
    constants = {"s": array(8, 1)[:, 0] + 1, "split": np.array([0, 5, 2, 3]), "merge": np.array([0, 5, 6])}
    model = build(body, (5, 8), {**{name: x.astype(np.float32) for name, x in weights.items()}, **constants})
    assert_matches_torch(model, *samples((5, 8)))


def test_strided_pooled_network_with_gates():
    body = """a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w) r = Relu (a)
              p = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (r)
              g = GlobalAveragePool (p) h = Conv (g, e) s = Sigmoid (h) y = Mul (p, s)
              f = Flatten (y) z = Gemm (f, v)"""
    model = build(body, (3, 13, 11), {"w": array(4, 3, 3, 3), "e": array(4, 4, 1, 1), "v": array(48, 3)})
    assert_matches_torch(model, *samples((3, 13, 11)))


@pytest.mark.skipif(not runs(21), reason="this onnxruntime does not know opset 21")
def test_encoder_and_decoder():
    body = """a = Conv <pads = [1, 1, 1, 1]> (x, w) n = GroupNormalization <num_groups = 2> (a, s, t) r = Tanh (n)
              d = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (r) e = Conv (d, u)
              up = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (e, , scales)
              c = Concat <axis = 1> (r, up) h = Conv (c, k) g = GlobalAveragePool (h) f = Flatten (g)
              z = Gemm (f, v)"""
    shapes = {"w": (4, 3, 3, 3), "u": (6, 4, 1, 1), "k": (5, 10, 3, 3), "v": (5, 3)}
    constants = {"s": array(4, 2)[:, 0] + 1, "t": array(4, 3)[:, 0], "scales": np.array([1, 1, 2, 2], np.float32)}
    weights = {**{name: array(*shape) for name, shape in shapes.items()}, **constants}
    assert_matches_torch(build(body, (3, 6, 8), weights, opset=21), *samples((3, 6, 8)))


@pytest.mark.skipif(not runs(23), reason="this onnxruntime does not know opset 23")
def test_operators_that_are_functions():
    """RMSNormalization and Attention are lowered; the trace then sees their shape arithmetic."""
    body = """n = RMSNormalization (x, s) q = MatMul (n, wq) k = MatMul (n, wk) v = MatMul (n, wv)
              o = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v) u = MatMul (o, wo) r = Add (u, x)
              e = Einsum <equation = "blc,bld->bcd"> (r, r) f = Flatten (e) z = MatMul (f, head)"""
    shapes = {"wq": (8, 6), "wk": (8, 6), "wv": (8, 6), "wo": (6, 8), "head": (64, 3)}
    weights = {name: 2 * array(*shape) for name, shape in shapes.items()}
    model = build(body, (5, 8), {**weights, "s": array(8, 1)[:, 0] + 1}, opset=23)
    assert_matches_torch(model, *samples((5, 8)))


def test_rows_of_one_sample_merged_with_the_batch():
    body = "r = Reshape (x, two) a = Gemm <alpha = 0.5> (r, w, b) t = Tanh (a) s = Reshape (t, back) z = MatMul (s, v)"
    constants = {"two": np.array([-1, 4]), "back": np.array([-1, 30]), "b": array(6, 1)[:, 0]}
    model = build(body, (5, 4), {"w": array(4, 6), "v": array(30, 3), **constants})
    assert_matches_torch(model, *samples((5, 4)))


def test_shared_weights_add_before_the_square():
    body = """a = Conv <pads = [1, 1, 1, 1]> (x, w) r = Tanh (a) c = Conv <strides = [2, 2]> (r, w)
              f = Flatten (c) z = Gemm (f, v)"""
    model = build(body, (3, 5, 6), {"w": array(3, 3, 3, 3), "v": array(12, 3)})
    assert_matches_torch(model, *samples((3, 5, 6)))


def test_a_matrix_read_by_two_operators():
    body = "a = Gemm <alpha = 0.5> (x, w) t = Tanh (a) z = MatMul (t, w)"
    assert_matches_torch(build(body, (4,), {"w": array(4, 4)}), *samples((4,), classes=4))


TURNED = {
    "by transB": ("h = Gemm (x, w) t = Tanh (h) z = Gemm <transB = 1, alpha = 0.5> (t, w)", (4,)),
    "by Transpose": ("v = Transpose <perm = [1, 0]> (w) h = MatMul (x, w) t = Tanh (h) z = MatMul (t, v)", (4,)),
    "Transpose first": ("v = Transpose <perm = [1, 0]> (w) h = Gemm (x, v) t = Tanh (h) z = MatMul (t, w)", (4,)),
    "at several positions": (
        """v = Transpose <perm = [1, 0]> (w) h = MatMul (x, w) t = Tanh (h) o = MatMul (t, v) u = Tanh (o)
           z = ReduceMean <axes = [1], keepdims = 0> (u)""",
        (5, 4),
    ),
}


@pytest.mark.parametrize("name", TURNED)
def test_a_matrix_read_as_its_transpose_too(name):
    body, shape = TURNED[name]
    weight = array(6, 4) if "first" in name else array(4, 6)
    assert_matches_torch(build(body, shape, {"w": weight}), *samples(shape, classes=4))


def test_kernels_read_by_a_transposed_convolution_too():
    body = """c = Conv (x, w) t = Tanh (c) d = ConvTranspose (t, w) r = Tanh (d)
              z = ReduceMean <axes = [2, 3], keepdims = 0> (r)"""
    model, (x, labels) = build(body, (3, 5, 6), {"w": array(4, 3, 3, 2)}), samples((3, 5, 6))
    want = filter_norms(sample_gradients(model, {"x": x}, labels, ["w"], torch.float64), {"w": 0})["w"]
    got = PerSample(model, {"x": x})({"x": x}, labels)["w"]
    assert np.abs(got - want).max() <= 2e-5 * want.max()
    with pytest.raises(GradientError, match="along another axis"):
        PerSample(model, {"x": x}, kind="taylor")


def test_models_in_double():
    body, weights = "h = Gemm (x, w) t = Tanh (h) z = Gemm (t, v)", {"w": array(4, 6), "v": array(6, 3)}
    x, labels = samples((4,))
    model = build(body, (4,), {name: value.astype(float) for name, value in weights.items()})
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    for kind in PerSample.kinds:
        want = PerSample(build(body, (4,), weights), {"x": x}, kind=kind)({"x": x}, labels)
        got = PerSample(model, {"x": x.astype(float)}, kind=kind)({"x": x.astype(float)}, labels)
        assert all(np.allclose(got[name], want[name], rtol=1e-4) for name in want), kind


TIED = {
    "rows": "t = Tanh (e) m = ReduceMean <axes = [1], keepdims = 0> (t) z = Gemm <transB = 1> (m, w)",
    "columns": """s = MatMul (e, u) p = Softmax (s) o = MatMul (p, w) t = Tanh (o)
                  m = ReduceMean <axes = [1], keepdims = 0> (t) z = MatMul (m, u)""",
}


@pytest.mark.parametrize("name", TIED)
def test_embeddings_that_are_weights_too(name):
    """The table's gradient has the rows that were looked up, and the rows that the classifier uses."""
    weights = {"w": 4 * array(7, 5), **({"u": 3 * array(5, 7)} if name == "columns" else {})}
    model = build(f"e = Gather (w, x) {TIED[name]}", (6,), weights)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    rng = np.random.default_rng(2)
    assert_matches_torch(model, rng.integers(0, 7, (COUNT, 6)), rng.integers(0, 7, COUNT))


@pytest.mark.parametrize("head", ["Softmax <axis = 1>", "LogSoftmax", "Identity"])
def test_output_may_be_probabilities(head):
    logits = build("h = MatMul (x, w) t = Tanh (h) z = MatMul (t, v)", (4,), {"w": array(4, 5), "v": array(5, 3)})
    ended = build(
        f"h = MatMul (x, w) t = Tanh (h) y = MatMul (t, v) z = {head} (y)", (4,), {"w": array(4, 5), "v": array(5, 3)}
    )
    x, labels = samples((4,))
    want, got = (PerSample(model, {"x": x})({"x": x}, labels) for model in (logits, ended))
    assert all(np.array_equal(want[name], got[name]) for name in want)


def test_fixed_batch_and_short_batches():
    weights = {"w": array(5, 3, 3, 3), "v": array(5, 3)}
    body = "c = Conv (x, w) r = Relu (c) p = GlobalAveragePool (r) f = Flatten (p) z = Gemm (f, v)"
    fixed = build(body, (3, 6, 6), weights, batch=6)
    net = PerSample(fixed, {"x": samples((3, 6, 6))[0]})
    assert net.batch == 6
    assert_matches_torch(fixed, *samples((3, 6, 6), count=4))


def test_names_do_not_clash():
    model = build("hqp.labels = MatMul (x, w) z = Tanh (hqp.labels)".replace("hqp.", "hqp_"), (4,), {"w": array(4, 3)})
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [name.replace("hqp_", "hqp.") for name in names]
    assert_matches_torch(model, *samples((4,)))


def test_a_weight_off_the_path_scores_zero():
    model = build("z = MatMul (x, w) u = MatMul (z, d)", (4,), {"w": array(4, 3), "d": array(3, 3)})
    x, labels = samples((4,))
    got = PerSample(model, {"x": x})({"x": x}, labels)
    assert np.array_equal(got["d"], np.zeros((COUNT, 3))) and got["w"].min() > 0


def test_memory_sets_the_batch():
    model = convolution(*CONVOLUTIONS["3x3"][:2])
    x, _ = samples(CONVOLUTIONS["3x3"][0])
    assert PerSample(model, {"x": x}, memory=1).batch == 1
    assert PerSample(model, {"x": x}).batch > 1


REFUSED = {
    "mixes samples": (
        "t = Transpose <perm = [1, 0]> (x) s = MatMul (t, x) y = MatMul (x, s) z = MatMul (y, w)",
        {"w": (4, 3)},
    ),
    "not a weight only": ("y = MatMul (x, w) s = ReduceSum (w) z = Add (y, s)", {"w": (4, 4)}),
    "no weight": ("z = Tanh (x)", {}),
    "read in a loop": (
        """y = MatMul (x, w) n = Constant <value_int = 2> () r = ReduceMax <keepdims = 0> (y) go = Cast <to = 9> (r)
           z = Loop (n, go, y) <body = b (int64 i, bool c, float[m,3] s) => (bool d, float[m,3] t) {
               d = Identity (c) t = Tanh (s) }>""",
        {"w": (4, 3)},
    ),
    "quantized": (
        """y = MatMul (x, w) s = Constant <value_float = 0.1> () q = QuantizeLinear (y, s)
           d = DequantizeLinear (q, s) z = MatMul (d, w)""",
        {"w": (4, 4)},
    ),
    "no rule": ("y = MatMul (x, w) z = Mod <fmod = 1> (y, y)", {"w": (4, 3)}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    body, shapes = REFUSED[name]
    x, _ = samples((4,))
    with pytest.raises(GradientError, match=r"node '|no Conv|mixes its samples"):
        PerSample(build(body, (4,), {key: array(*shape) for key, shape in shapes.items()}), {"x": x})


def test_dense_outputs_are_refused():
    with pytest.raises(GradientError, match=r"needs logits \[batch, classes\]"):
        PerSample(build("z = MatMul (x, w)", (5, 4), {"w": array(4, 3)}), {"x": samples((5, 4))[0]})


def test_labels_must_be_classes():
    model = build("z = MatMul (x, w)", (4,), {"w": array(4, 3)})
    x, _ = samples((4,))
    with pytest.raises(DataError, match=r"expected 0 \.\. 2"):
        PerSample(model, {"x": x})({"x": x}, np.array([0, 1, 2, 3]))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_bundled_models(name):
    model = onnx.load(MODELS / f"{name}.onnx")
    with np.load(Path(__file__).parents[2] / "models" / "fashion_mnist_calib.npz") as data:
        x, labels = data["input"][:8].astype(np.float32), data["labels"][:8].astype(np.int64)
    axes = filter_weights(model)
    want = filter_norms(sample_gradients(model, {"input": x}, labels, list(axes)), axes)
    got = PerSample(model, {"input": x})({"input": x}, labels)
    assert got.keys() == want.keys()
    for weight in want:
        mean = want[weight].mean(0)
        assert np.abs(got[weight].mean(0) - mean).max() <= 1e-4 * mean.max(), weight


@pytest.mark.parametrize(
    "model, shape",
    [
        (convolution((2, 5, 5), (3, 2, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2]), (2, 5, 5)),
        (convolution((2, 4, 4), (2, 3, 3, 3), "ConvTranspose", strides=[2, 2]), (2, 4, 4)),
        (convolution((4, 5, 5), (6, 2, 3, 3), group=2), (4, 5, 5)),
        (convolution((4, 4, 4), (4, 3, 3, 3), "ConvTranspose", group=2, strides=[2, 2]), (4, 4, 4)),
        (convolution((4, 4, 4), (4, 1, 2, 2), "ConvTranspose", group=4, strides=[2, 2]), (4, 4, 4)),
        (
            build(
                "c = MatMul (x, w) t = Tanh (c) z = ReduceMean <axes = [1], keepdims = 0> (t)",
                (4, 6),
                {"w": array(6, 3)},
            ),
            (4, 6),
        ),
    ],
)
def test_output_gradients_match_torch(model, shape):
    x, labels = samples(shape)
    got = PerSample(model, {"x": x}, kind="output")({"x": x}, labels)["w"]
    net = TorchModel(model, torch.float64)
    for i, label in enumerate(labels):
        tensors = net.tensors({"x": x[i : i + 1]})
        loss = torch.nn.functional.cross_entropy(tensors["z"], torch.tensor([int(label)]))
        gradient = torch.autograd.grad(loss, tensors["c"])[0][0].numpy()
        rows = gradient if len(shape) == 3 else gradient.T
        norms = np.square(rows.reshape(len(rows), -1)).sum(1)  # a transposed filter has a channel in each group
        np.testing.assert_allclose(got[i], norms.reshape(-1, got.shape[1]).sum(0), rtol=1e-4, atol=1e-7)


def test_tensors_that_are_called_by_numbers():
    """As PyTorch once named them: names that the backward pass makes up are numbered, too."""
    body = (
        "c = Conv (x, w, b) p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c) f = Flatten (p) z = Gemm (f, v)"
    )
    weights = {"w": array(4, 2, 3, 3), "b": array(4, 1)[:, 0], "v": array(16, 3)}
    want = PerSample(build(body, (2, 6, 6), weights), {"x": samples((2, 6, 6))[0]})
    x, labels = samples((2, 6, 6))
    for number in range(1, 40):
        model = build(body, (2, 6, 6), weights)
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [str(number) if name == "p" else name for name in names]
        got = PerSample(model, {"x": x})({"x": x}, labels)
        np.testing.assert_array_equal(got["w"], want({"x": x}, labels)["w"])
