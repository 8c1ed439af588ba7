"""Flips and moves of images, and what may be augmented at all."""

import numpy as np
import pytest

from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.memory import ArraySource
from hqp_onnx.errors import UsageError
from hqp_onnx.recovery.augment import augmented, spatial_axes
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
