"""Every form of a depthwise convolution's weight gradient against torch autograd; which form is chosen when."""

import pytest

from hqp_onnx.gradients import depthwise
from hqp_onnx.gradients.factors import Factors
from hqp_onnx.graphs.windows import Window

pytest.importorskip("torch")
from test_per_sample import assert_matches_torch, convolution, samples

SHAPES = {
    "padded": ((4, 5, 6), (4, 1, 3, 3), {"pads": [1, 1, 1, 1]}),
    "stride 2": ((4, 6, 5), (4, 1, 5, 5), {"pads": [2, 2, 2, 2], "strides": [2, 2]}),
    "uneven": ((4, 7, 6), (4, 1, 3, 2), {"pads": [2, 0, 1, 1], "strides": [1, 2], "dilations": [2, 1]}),
    "pixels that no window reads": ((4, 9, 8), (4, 1, 2, 3), {"strides": [2, 3], "dilations": [3, 1]}),
}


@pytest.mark.parametrize("form", depthwise.FORMS)
@pytest.mark.parametrize("name", SHAPES)
def test_form(form, name, monkeypatch):
    shape, weight, attributes = SHAPES[name]
    monkeypatch.setattr(depthwise, "depthwise_form", lambda f: form)
    assert_matches_torch(convolution(shape, weight, group=4, **attributes), *samples(shape))


@pytest.mark.parametrize("form", depthwise.FORMS)
def test_transposed_convolution(form, monkeypatch):
    """One index of its filter axis covers every group: their squares add up."""
    monkeypatch.setattr(depthwise, "depthwise_form", lambda f: form)
    model = convolution((4, 3, 4), (4, 1, 3, 2), "ConvTranspose", group=4, strides=[2, 2])
    assert_matches_torch(model, *samples((4, 3, 4)))


@pytest.mark.parametrize("form", ["taps", "fourier"])
@pytest.mark.parametrize(("shape", "kernel"), [((3, 11), (4,)), ((3, 3, 4, 5), (2, 1, 3))])
def test_other_ranks(form, shape, kernel, monkeypatch):
    monkeypatch.setattr(depthwise, "depthwise_form", lambda f: form)
    assert_matches_torch(convolution(shape, (3, 1, *kernel), group=3), *samples(shape))


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "form"),
    [(112, 3, 1, "taps"), (112, 3, 2, "taps"), (28, 5, 1, "rows"), (56, 5, 2, "rows"), (7, 5, 1, "fourier")],
)
def test_the_form_follows_the_size(side, kernel, stride, form):
    out, pad = side // stride, kernel // 2
    w = Window((kernel,) * 2, (stride,) * 2, (1, 1), (pad,) * 2, (side,) * 2, (out,) * 2, 8)
    assert depthwise.depthwise_form(Factors("w", "d", "x", 8, 1, 1, out**2, w)) == form
