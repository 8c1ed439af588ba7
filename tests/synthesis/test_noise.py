"""Noise is of the mean and spread that it should have, and as smooth."""

import numpy as np
import pytest

from hqp_onnx.synthesis.noise import drawn, pink
from hqp_onnx.synthesis.prior import BYTES, CONVENTIONS


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((64, 3, 16, 16), (2, 3)), ((64, 16, 16, 1), (1, 2)), ((64, 8, 64), (2,)), ((8, 4, 8, 8, 8), (2, 3, 4))],
)
def test_neighbours_are_alike_in_space_and_time_only(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    noise = pink(np.random.default_rng(0), shape)
    assert noise.shape == shape and abs(noise.mean()) < 1e-9 and noise.std() == pytest.approx(1)
    for axis in range(len(shape)):
        ahead = np.roll(noise, 1, axis)
        alike = np.corrcoef(noise.ravel(), ahead.ravel())[0, 1]
        colours = axis == 1 and shape[1] == 3
        assert (alike > 0.3) == (axis in axes or colours or shape[axis] == 1), (axis, alike)


def test_power_falls_as_the_square_of_the_frequency() -> None:
    noise = pink(np.random.default_rng(1), (4000, 2, 32))
    power = np.square(np.abs(np.fft.rfft(noise, axis=2))).mean((0, 1))[1:-1]
    np.testing.assert_allclose(power * np.arange(1, 16) ** 2, power[0], rtol=0.1)  # of 8,000 draws: 5 sigma


@pytest.mark.parametrize("shape", [(500, 20), (500,), (500, 3, 1, 1)])
def test_features_without_space_are_white(shape: tuple[int, ...]) -> None:
    noise = drawn(np.random.default_rng(0), CONVENTIONS[0], shape)
    assert noise.shape == shape and abs(noise.mean()) < 0.2 and abs(noise.std() - 1) < 0.1


def test_bounds_hold() -> None:
    noise = drawn(np.random.default_rng(0), BYTES, (64, 1, 8, 8))
    assert noise.min() >= 0 and noise.max() <= 255 and abs(noise.mean() - 127.5) < 3
