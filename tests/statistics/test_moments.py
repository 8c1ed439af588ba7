"""Moments against numpy on activations that onnxruntime hands out, for every operator that mixes channels."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from hqp_onnx.data.batch import Batch
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.memory import ArraySource
from hqp_onnx.errors import DataError
from hqp_onnx.runtimes.session import Session
from hqp_onnx.statistics import feature_sums, moments
from hqp_onnx.statistics.moments import Moments, contractions, input_moments, load_moments, save_moments

RNG = np.random.default_rng(1)
IMAGES = RNG.normal(0.5, 1, (7, 3, 6, 5)).astype(np.float32)


def model(inputs, body, **weights):
    """An ONNX model of ``body`` over ``weights``, with output y."""
    text = f'<ir_version: 8, opset_import: ["": 17]> g ({inputs}) => (float[] y) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in weights.items()
    )
    return proto


def normal(*shape):
    return RNG.normal(size=shape)


def expect(found, features):
    """``features``: float [positions, features], collected by other means."""
    x = np.asarray(features, np.float64)
    assert found.count == len(x)
    np.testing.assert_allclose(found.gram, x.T @ x / len(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-5, atol=1e-5)


def patches(x, kernel, strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1)):
    """[positions, C * taps] of x [N, C, H, W], by padding and slicing."""
    x = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    extent = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    cut = sliding_window_view(x, extent, (2, 3))[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    return cut.transpose(0, 2, 3, 1, 4, 5).reshape(-1, x.shape[1] * kernel[0] * kernel[1])


CONVS = [
    ((1, 1), {}),
    ((1, 1), {"strides": (2, 2)}),
    ((3, 3), {"pads": (1, 1, 1, 1)}),
    ((3, 2), {"strides": (2, 1), "pads": (0, 1, 2, 1)}),
    ((2, 2), {"dilations": (2, 3)}),
]


@pytest.mark.parametrize(("kernel", "options"), CONVS)
def test_conv_patches(kernel, options):
    attributes = ", ".join(f"{k} = {list(v)}" for k, v in options.items())
    proto = model(
        "float[N,3,6,5] x", f"y = Conv<{attributes}>(x, w)" if options else "y = Conv(x, w)", w=normal(4, 3, *kernel)
    )
    found = input_moments(proto, None, [Batch({"x": IMAGES[:4]}), Batch({"x": IMAGES[4:]})])["w"]
    expect(found, patches(IMAGES, kernel, **options))


def test_one_and_three_dimensional_conv():
    proto = model("float[N,2,5] x", "y = Conv(x, w)", w=normal(4, 2, 2))
    x = normal(3, 2, 5).astype(np.float32)
    expect(input_moments(proto, None, [Batch({"x": x})])["w"], patches(x[..., None], (2, 1)))
    proto = model("float[N,2,3,3,3] x", "y = Conv(x, w)", w=normal(4, 2, 3, 3, 3))
    x = normal(3, 2, 3, 3, 3).astype(np.float32)
    expect(input_moments(proto, None, [Batch({"x": x})])["w"], x.reshape(3, -1))


def test_same_padding_is_that_of_the_conv():
    proto = model("float[N,3,6,5] x", 'y = Conv<auto_pad = "SAME_UPPER">(x, w)', w=normal(4, 3, 2, 2))
    expect(input_moments(proto, None, [Batch({"x": IMAGES})])["w"], patches(IMAGES, (2, 2), pads=(0, 0, 1, 1)))


@pytest.mark.parametrize(
    ("body", "shape"),
    [("y = Gemm(x, w)", (5, 2)), ("y = Gemm<transB = 1>(x, w)", (2, 5)), ("y = MatMul(x, w)", (5, 2))],
)
def test_matrix_products(body, shape):
    x = normal(9, 5).astype(np.float32)
    expect(input_moments(model("float[N,5] x", body, w=normal(*shape)), None, [Batch({"x": x})])["w"], x)


def test_matmul_of_tokens_and_conv_transpose():
    x = normal(3, 4, 5).astype(np.float32)
    expect(
        input_moments(model("float[N,4,5] x", "y = MatMul(x, w)", w=normal(5, 2)), None, [Batch({"x": x})])["w"],
        x.reshape(-1, 5),
    )
    proto = model("float[N,3,6,5] x", "y = ConvTranspose<strides = [2, 2]>(x, w)", w=normal(3, 2, 2, 2))
    expect(input_moments(proto, None, [Batch({"x": IMAGES})])["w"], IMAGES.transpose(0, 2, 3, 1).reshape(-1, 3))


SHARED = """
    a = Conv<pads = [1, 1, 1, 1]>(x, w1)  h = Relu(a)
    b = Conv<pads = [1, 1, 1, 1]>(h, w2)  c = Conv<pads = [1, 1, 1, 1]>(h, w3)  d = Conv(h, w4)
    e = Conv(a, w4)  f = Add(d, e)  g = Add(b, c)  y = Add(f, g)
"""


def shared():
    weights = {"w1": normal(4, 3, 3, 3), "w2": normal(2, 4, 3, 3), "w3": normal(2, 4, 3, 3), "w4": normal(2, 4, 1, 1)}
    return model("float[N,3,6,5] x", SHARED, **weights)


def test_weights_that_read_the_same_share_and_a_shared_weight_pools():
    proto = shared()
    found = input_moments(proto, None, [Batch({"x": IMAGES})])
    assert set(found) == {"w1", "w2", "w3", "w4"} and found["w2"] is found["w3"] and found["w1"] is not found["w2"]
    inner = Session(proto, ["h", "a"]).run({"x": IMAGES})
    expect(found["w2"], patches(inner["h"], (3, 3), pads=(1, 1, 1, 1)))
    expect(found["w4"], np.concatenate([patches(inner["h"], (1, 1)), patches(inner["a"], (1, 1))]))


def test_only_the_weights_asked_for():
    assert set(input_moments(shared(), ["w2"], [Batch({"x": IMAGES})])) == {"w2"}
    assert input_moments(shared(), [], []) == {}


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("y = Conv<group = 3>(x, w)", {"w": (3, 1, 1, 1)}),
        ("a = Conv(x, w)  b = Add(w, w)  c = ReduceSum(b)  y = Add(a, c)", {"w": (3, 3, 1, 1)}),
        ("a = Flatten(x)  y = Gemm<transA = 1>(a, w)", {"w": (7, 2)}),
        ("y = MatMul(x, w)", {"w": (7, 3, 5, 2)}),
        ("a = Conv(x, w)  b = Conv(w, w)  c = ReduceSum(b)  y = Add(a, c)", {"w": (3, 3, 1, 1)}),
    ],
)
def test_other_uses_are_left_out_and_said(body, weights, caplog):
    proto = model("float[N,3,6,5] x", body, **{k: normal(*shape) for k, shape in weights.items()})
    with caplog.at_level(logging.INFO):
        assert input_moments(proto, ["w"], [Batch({"x": IMAGES})]) == {}
    assert "w: no moments" in caplog.text


def test_too_many_features_fall_back_to_channels_then_to_blocks(monkeypatch):
    proto = model("float[N,3,6,5] x", "y = Conv<pads = [1, 1, 1, 1]>(x, w)", w=normal(4, 3, 3, 3))
    channels = IMAGES.transpose(0, 2, 3, 1).reshape(-1, 3)
    monkeypatch.setattr(moments, "LARGEST", 26)
    expect(input_moments(proto, None, [Batch({"x": IMAGES})])["w"], channels)
    monkeypatch.setattr(moments, "LARGEST", 2)
    monkeypatch.setattr(moments, "BLOCK", 2)
    found = input_moments(proto, None, [Batch({"x": IMAGES})])
    assert list(found) == moments.block_names("w", 3) == ["w[0:2]", "w[2:3]"]
    expect(found["w[0:2]"], channels[:, :2])
    expect(found["w[2:3]"], channels[:, 2:])


def test_batches_and_workspace_do_not_matter(monkeypatch):
    proto = shared()
    data = Dataset(ArraySource("d", {"x": IMAGES}), Session(proto).inputs, batch_size=3)
    whole = input_moments(proto, None, data.in_batches(7))
    again = input_moments(proto, None, data.in_batches(7))
    monkeypatch.setattr(feature_sums, "WORKSPACE", 1 << 12)
    parts = input_moments(proto, None, data)
    for name, found in whole.items():
        np.testing.assert_array_equal(found.gram, again[name].gram)
        np.testing.assert_allclose(found.gram, parts[name].gram, rtol=1e-5, atol=1e-6)
        assert found.count == parts[name].count


def test_fixed_batch_size_completes_a_short_batch_by_its_own_samples():
    proto = model("float[4,3,6,5] x", "y = Conv(x, w)", w=normal(4, 3, 1, 1))
    found = input_moments(proto, None, [Batch({"x": IMAGES[:4]}), Batch({"x": IMAGES[4:]})])["w"]
    expect(found, patches(IMAGES[[0, 1, 2, 3, 4, 5, 6, 4]], (1, 1)))
    expect(input_moments(proto, None, [Batch({"x": IMAGES})])["w"], patches(IMAGES[[0, 1, 2, 3, 4, 5, 6, 4]], (1, 1)))


def test_progress_and_empty_data():
    data = Dataset(ArraySource("d", {"x": IMAGES}), Session(shared()).inputs, batch_size=3)
    seen = []
    input_moments(shared(), ["w1"], data, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 7), (6, 7), (7, 7)]
    with pytest.raises(DataError, match="no calibration data"):
        input_moments(shared(), None, [])


def test_the_model_is_not_changed():
    proto = shared()
    before = proto.SerializeToString()
    input_moments(proto, None, [Batch({"x": IMAGES})])
    assert proto.SerializeToString() == before


def test_contractions_name_axis_and_features():
    found = contractions(gs.import_onnx(shared()))
    assert [found[name].axis for name in ("w1", "w2", "w4")] == [1, 1, 1]
    assert found["w2"].features[0].taps == 9 and [f.tensor for f in found["w4"].features] == ["h", "a"]
    found = contractions(gs.import_onnx(model("float[N,5] x", "y = Gemm(x, w)", w=normal(5, 2))))
    assert found["w"].axis == 0 and found["w"].features[0].taps == 1


def test_saved_moments_come_back_bit_for_bit_and_shared(tmp_path):
    found = input_moments(shared(), None, [Batch({"x": IMAGES})])
    save_moments(found, tmp_path / "m.npz")
    back = load_moments(tmp_path / "m.npz")
    assert list(back) == list(found) and back["w2"] is back["w3"] and [p.name for p in tmp_path.iterdir()] == ["m.npz"]
    for name, value in found.items():
        np.testing.assert_array_equal(back[name].gram, value.gram)
        np.testing.assert_array_equal(back[name].mean, value.mean)
        assert back[name].count == value.count
    content = (tmp_path / "m.npz").read_bytes()
    (tmp_path / "m.npz").write_bytes(content[: len(content) // 2])
    for name in ("m.npz", "missing.npz"):
        with pytest.raises(DataError, match=rf"{name}: not a file of moments .* measure again"):
            load_moments(tmp_path / name)


def test_moments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        Moments(np.zeros((2, 2)), np.zeros(3), 1)
