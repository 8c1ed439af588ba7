"""Flips and moves of images, and what may be augmented at all."""

import numpy as np
import pytest

from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.memory import ArraySource
from hqp_onnx.errors import UsageError
from hqp_onnx.recovery.augment import SAME, augmented, harmless, of_images, spatial_axes
from hqp_onnx.runtimes.session import TensorSpec

NCHW = np.random.default_rng(0).standard_normal((40, 2, 16, 8)).astype(np.float32)


def dataset(values, source=None):
    spec = TensorSpec("x", np.dtype(np.float32), (None, *values.shape[1:]))
    return Dataset(source or ArraySource("x", {"x": values}), [spec])


@pytest.mark.parametrize("axes", [(2, 3), (1, 2)])
def test_flips(axes):
    images = NCHW if axes == (2, 3) else np.moveaxis(NCHW, 1, 3)
    found = augmented({"x": images}, ("flip",), axes, np.random.default_rng(1))["x"]
    same = (found == images).all((1, 2, 3))
    mirrored = (found == np.flip(images, axes[1])).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert 10 < mirrored.sum() < 30


def test_moves_repeat_the_edge():
    found = augmented({"x": NCHW}, ("crop",), (2, 3), np.random.default_rng(1))["x"]
    padded = np.pad(NCHW, ((0, 0), (0, 0), (2, 2), (1, 1)), mode="edge")
    windows = [padded[:, :, i : i + 16, j : j + 8] for i in range(5) for j in range(3)]
    hits = np.stack([(window == found).all((1, 2, 3)) for window in windows])
    assert (hits.sum(0) == 1).all()
    assert hits.any(1).sum() > 10


def test_only_images_are_augmented():
    with pytest.raises(UsageError, match="augment is for images"):
        spatial_axes(dataset(np.ones((3, 8), np.float32)))
    assert spatial_axes(dataset(NCHW)) == (2, 3)


def test_the_models_input_states_the_layout():
    assert spatial_axes(dataset(np.zeros((1, 8, 8, 3), np.float32))) == (1, 2)
    assert spatial_axes(dataset(np.zeros((1, 3, 8, 8), np.float32))) == (2, 3)


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_mirrored_image_is_harmless_where_the_answers_stay(symmetric):
    """The model answers by what is on the left, or by what is in all of the image."""
    rng = np.random.default_rng(3)
    images = np.zeros((60, 1, 16, 16), np.float32)
    images[np.arange(60), 0, 8, rng.integers(0, 16, 60)] = 1
    images[::2] *= 2

    def answer(feeds):
        left = feeds["x"][:, 0, :, :8].sum((1, 2))
        whole = feeds["x"].sum((1, 2, 3)) - 1.5
        score = 20 * (whole if symmetric else left - 0.5)
        return np.stack([score, -score], 1)

    same = harmless({"x": images}, answer, 1, (2, 3), 0)
    assert same["crop"] > SAME
    assert (same["flip"] >= SAME) == symmetric


def test_values_that_move_with_the_image_are_harmed():
    images = np.random.default_rng(3).standard_normal((40, 1, 16, 16)).astype(np.float32)
    place = harmless({"x": images}, lambda feeds: feeds["x"].argmax(3).astype(np.float32), None, (2, 3), 0)
    total = harmless({"x": images}, lambda feeds: feeds["x"].max((2, 3)), None, (2, 3), 0)
    assert place["flip"] < SAME
    assert place["crop"] < SAME
    assert total["flip"] == 1


@pytest.mark.parametrize("beside", [640.0, 1e4])
def test_a_value_of_another_unit_hides_none_that_moves(beside):
    """Where the brightest pixel is, and a constant, or how bright it is in a large unit, which moves with nothing."""
    images = np.random.default_rng(3).standard_normal((40, 1, 1, 16)).astype(np.float32)

    def answer(feeds):
        place, bright = feeds["x"].argmax(3)[:, 0, 0], beside * feeds["x"].max((1, 2, 3))
        return np.stack([place, np.full(40, beside) if beside == 640 else bright], 1).astype(np.float32)

    same = harmless({"x": images}, answer, None, (2, 3), 0)
    assert same["flip"] < SAME
    constant = harmless({"x": images}, lambda feeds: np.full((40, 2), beside, np.float32), None, (2, 3), 0)
    assert constant == {"crop": 1, "flip": 1}


def test_three_dimensions_of_many_channels_are_no_images():
    assert of_images(dataset(np.zeros((1, 3, 8, 8), np.float32)))
    assert of_images(dataset(np.zeros((1, 8, 8, 3), np.float32)))
    assert not of_images(dataset(np.zeros((1, 64, 8, 8), np.float32)))
    assert not of_images(dataset(np.zeros((1, 3, 8), np.float32)))
