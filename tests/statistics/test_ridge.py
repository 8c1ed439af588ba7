"""Solves that always have an answer, and a ridge that is never below the noise of moments."""

from __future__ import annotations

import numpy as np
import pytest

from hqp_onnx.statistics.ridge import NOISE, inverse, ridge_strength, solve

RNG = np.random.default_rng(0)


def test_the_ridge_is_a_share_of_the_variance_and_never_below_the_noise() -> None:
    gram = np.diag([4.0, 2.0])
    assert ridge_strength(np.diag([3.0, 1.0]), gram, 0.5) == 1.0
    assert ridge_strength(np.zeros((2, 2)), gram, 0.5) == ridge_strength(-np.eye(2), gram, 0.5) == NOISE * 3
    assert ridge_strength(np.zeros((2, 2)), np.zeros((2, 2)), 0.5) == 1.0
    assert ridge_strength(np.zeros((0, 0)), np.zeros((0, 0)), 0.5) == 1.0


def test_regular_matrices_are_solved_and_inverted() -> None:
    matrix = np.cov(RNG.standard_normal((4, 50)))
    np.testing.assert_allclose(solve(matrix, np.eye(4)), np.linalg.inv(matrix))
    np.testing.assert_allclose(inverse(np.stack([matrix, 2 * matrix]))[1], np.linalg.inv(2 * matrix))


def test_nothing_is_solved_where_there_is_nothing() -> None:
    assert solve(np.zeros((0, 0)), np.zeros((0, 3))).shape == (0, 3)
    assert solve(np.eye(3), np.zeros((3, 0))).shape == (3, 0)


def test_matrices_that_are_not_positive_are_solved_too() -> None:
    matrix = np.array([[1.0, 2.0], [2.0, 1.0]])
    np.testing.assert_allclose(matrix @ solve(matrix, np.eye(2)), np.eye(2), atol=1e-12)


@pytest.mark.parametrize("matrix", [np.zeros((3, 3)), np.ones((3, 3)), np.diag([1.0, 0.0, 2.0])])
def test_singular_matrices_have_the_answer_of_least_norm(matrix: np.ndarray) -> None:
    target = matrix @ np.array([1.0, 2.0, 3.0])
    found = solve(matrix, target)
    np.testing.assert_allclose(matrix @ found, target, atol=1e-12)
    np.testing.assert_allclose(found, np.linalg.lstsq(matrix, target, rcond=None)[0], atol=1e-12)
    np.testing.assert_allclose(inverse(np.stack([matrix, np.eye(3)]))[0], np.linalg.pinv(matrix), atol=1e-12)
