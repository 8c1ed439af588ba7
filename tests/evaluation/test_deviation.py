"""Figures against plain numpy and Polygraphy's own; sums against the whole."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from polygraphy import comparator

from hqp_onnx.evaluation.deviation import Deviation

RNG = np.random.default_rng(0)
X = RNG.standard_normal((6, 5, 4)).astype(np.float32)
Y = X + 0.1 * RNG.standard_normal(X.shape).astype(np.float32)


def test_figures_are_their_definitions() -> None:
    found = Deviation.between(X, Y)
    x, y = X.astype(np.float64), Y.astype(np.float64)
    assert found.max_abs == pytest.approx(np.abs(y - x).max(), rel=1e-12)
    assert found.mean_abs == pytest.approx(np.abs(y - x).mean(), rel=1e-12)
    assert found.relative == pytest.approx(np.linalg.norm(y - x) / np.linalg.norm(x), rel=1e-12)


def test_cosine_and_psnr_are_polygraphys() -> None:
    if not hasattr(comparator, "PsnrCompareFunc"):
        pytest.skip("this Polygraphy has no cosine and PSNR")
    peaked = np.maximum(X, -1)  # Polygraphy's peak is the largest value, not the largest magnitude
    results = [
        comparator.IterationResult(outputs={"y": values}, runner_name=name)
        for name, values in (("a", peaked), ("b", Y))
    ]
    found = Deviation.between(peaked, Y)
    assert found.cosine == pytest.approx(
        comparator.CosineSimilarityCompareFunc()(*results)["y"].cosine_similarity, rel=1e-5
    )
    assert found.psnr_db == pytest.approx(float(comparator.PsnrCompareFunc()(*results)["y"].psnr), rel=1e-5)


def test_parts_add_up_to_the_whole() -> None:
    whole, parts = Deviation.between(X, Y), Deviation.between(X[:2], Y[:2]) + Deviation.between(X[2:], Y[2:])
    assert parts.count == whole.count
    assert parts.max_abs == whole.max_abs
    for name in ("mean_abs", "relative", "cosine", "psnr_db"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-12)


def test_equal_values_and_zeros() -> None:
    same, nothing = Deviation.between(X, X), Deviation.between(0 * X, 0 * X)
    assert (same.relative, same.psnr_db) == (0, math.inf)
    assert same.cosine == pytest.approx(1, abs=1e-12)
    assert (nothing.relative, nothing.cosine) == (0, 1)
    assert Deviation.between(0 * X, X).cosine == 0


def test_what_is_not_finite_is_counted_and_makes_figures_unknown() -> None:
    x = np.array([1, np.inf, -np.inf, np.nan, 2])
    alike = Deviation.between(x, x)
    assert (alike.broken, alike.undefined, alike.count, alike.comparable) == (0, 3, 2, False)
    assert alike.share(1.0) == 0  # of layers, masks are alike
    found = Deviation.between(x, np.array([1, 3, -np.inf, np.nan, np.nan]))
    assert (found.broken, found.undefined, found.count, found.relative) == (2, 2, 1, math.inf)
    for deviation in (alike, found, Deviation.between(0 * x[3:4], 0 * x[3:4])):
        assert math.isnan(deviation.cosine)
        figures = json.loads(json.dumps(deviation.json(), allow_nan=False))
        assert {name for name, value in figures.items() if value is not None} == {"broken", "undefined"}
