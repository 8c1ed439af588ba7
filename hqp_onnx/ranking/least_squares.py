"""Closed-form refit of one weight, and the ridge that holds it best (``passes.compensate`` has the formulas).

lambda is chosen on data that the fit does not see: with moments of two halves of the calibration samples, a weight is
fitted on one half and its squared output error is that of the other,

    E|e|^2 = tr(D S D^T) - 2 b^T D E[x] + |b|^2,    e = D x - b,    D = [W_R, W_K - W'],

both ways; the lambda of least error is taken, weight by weight. No data are read again.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import BoolArray, FloatArray
from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis, PruningPlan
from hqp_onnx.errors import ModelError
from hqp_onnx.graphs.nonfinite_weights import is_finite
from hqp_onnx.statistics.moments import Contraction, Moments, reading_weights, takes_bias
from hqp_onnx.statistics.ridge import ridge_strength, solve

RIDGE = 1e-3
GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def held_out_ridges(
    graph: gs.Graph,
    channels: ChannelMap,
    plan: PruningPlan,
    halves: tuple[Mapping[str, Moments], Mapping[str, Moments]],
) -> dict[str, float]:
    """The lambda of ``GRID`` by weight, for weights that lose inputs by ``plan``.

    Args:
        graph: canonical, before pruning.
        channels: its units.
        plan: a plan like those to come, half of the units say.
        halves: moments of the inputs of its weights over two sets of samples.
    """
    gone, ridges = channels.removed(plan), {}
    for name, use in reading_weights(graph).items():
        weight = graph.tensors()[name]
        removed = removal_mask(channels, gone, ParamAxis(name, use.axis), weight)
        known = all(name in half for half in halves) and is_finite(weight)
        if not removed.any() or removed.all() or not known:
            continue
        values = np.moveaxis(weight.values, use.axis, 1).astype(np.float64)
        errors = {}
        for ridge in GRID:
            fits = [fit_weight(values, removed, half[name], use, ridge, takes_bias(weight)) for half in halves]
            errors[ridge] = sum(
                _error(values, removed, fit, half[name]) for fit, half in zip(fits, halves[::-1], strict=True)
            )
        ridges[name] = min(errors, key=errors.__getitem__)
    return ridges


def _error(weight: FloatArray, removed: BoolArray, fit: Fit, moments: Moments) -> float:
    """Mean squared output error over other samples."""
    difference = weight.copy()
    difference[:, ~removed] -= fit.weight
    if len(moments.mean) == weight[0].size:
        rows = difference.reshape(len(weight), -1)
    else:  # one mixing of channels for all taps
        rows = np.moveaxis(difference, 1, -1).reshape(-1, len(moments.mean))
    error = float(np.sum((rows @ moments.gram) * rows))
    if fit.bias is not None:
        error += float(fit.bias @ fit.bias - 2 * fit.bias @ (rows @ moments.mean))
    return error


def removal_mask(channels: ChannelMap, gone: BoolArray, key: ParamAxis, weight: gs.Constant) -> BoolArray:
    """Which indices of a parameter axis are removed."""
    labels = channels.members.get(key)
    return np.zeros(weight.shape[key.axis], bool) if labels is None else gone[labels]


def mean_product(weight: FloatArray, moments: Moments) -> FloatArray:
    """E[W x] of a weight [outputs, channels, taps ...]; where x is channels, not patches, as if nothing were padded."""
    if len(moments.mean) == weight[0].size:
        return np.asarray(weight.reshape(len(weight), -1) @ moments.mean, np.float64)
    return np.asarray(weight.reshape(*weight.shape[:2], -1).sum(2) @ moments.mean, np.float64)


@dataclass(frozen=True, slots=True)
class Fit:
    """What a weight becomes without the removed inputs."""

    weight: FloatArray  # [outputs, kept channels, taps ...]
    bias: FloatArray | None  # [outputs], to add
    error: float  # squared output error of the plain cut
    residual: float  # of this one

    @property
    def remains(self) -> float:
        """The share of the plain cut's squared error that remains."""
        return max(self.residual, 0) / self.error if self.error > 0 else 0.0


class Fits:
    """Fits of weights by name and masks, the latest that need no more than ``limit`` bytes."""

    def __init__(self, limit: int = 1 << 29) -> None:
        self._limit, self._bytes = limit, 0
        self._fits: dict[Hashable, Fit] = {}

    def get(self, key: Hashable) -> Fit | None:
        """The fit of ``key``, if it is known; it is then the latest."""
        fit = self._fits.pop(key, None)
        if fit is not None:
            self._fits[key] = fit
        return fit

    def add(self, key: Hashable, fit: Fit) -> Fit:
        """Remember a fit, and give it back."""
        self._fits[key] = fit
        self._bytes += fit.weight.nbytes
        while self._bytes > self._limit and len(self._fits) > 1:
            self._bytes -= self._fits.pop(next(iter(self._fits))).weight.nbytes
        return fit


def fit_blocks(
    weight: FloatArray, removed: BoolArray, blocks: Sequence[Moments], use: Contraction, ridge: float, biased: bool
) -> Fit:
    """``fit_weight`` for each block of input channels, as if no channel were correlated with those of other blocks."""
    ends = np.cumsum([len(moments.mean) for moments in blocks])[:-1]
    parts = zip(np.split(weight, ends, 1), np.split(removed, ends), blocks, strict=True)
    fits = [fit_weight(rows, gone, moments, use, ridge, biased) for rows, gone, moments in parts]
    biases = [fit.bias for fit in fits if fit.bias is not None]
    return Fit(
        np.concatenate([fit.weight for fit in fits], 1),
        np.sum(biases, 0) if biases else None,
        sum(fit.error for fit in fits),
        sum(fit.residual for fit in fits),
    )


def fit_weight(
    weight: FloatArray, removed: BoolArray, moments: Moments, use: Contraction, ridge: float, biased: bool
) -> Fit:
    """The weight [outputs, channels, taps ...] without the ``removed`` channels, refitted (``passes.compensate``)."""
    outputs, inputs, *taps = weight.shape
    per_channel = int(np.prod(taps))
    if len(moments.mean) == weight[0].size:
        rows, features = weight.reshape(outputs, -1), np.repeat(removed, per_channel)
        new, bias, *errors = _least_squares(rows, features, moments, ridge, biased)
        return Fit(new.reshape(outputs, -1, *taps), bias, *errors)
    if len(moments.mean) != inputs:
        raise ModelError(f"{use.weight}: moments of {len(moments.mean)} features for a weight of {inputs} channels")
    rows = np.moveaxis(weight, 1, -1).reshape(-1, inputs)
    new, _, *errors = _least_squares(rows, removed, moments, ridge, False)
    return Fit(np.moveaxis(new.reshape(outputs, *taps, -1), -1, 1), None, *errors)


def _least_squares(
    weight: FloatArray, removed: BoolArray, moments: Moments, ridge: float, biased: bool
) -> tuple[FloatArray, FloatArray | None, float, float]:
    """New rows over the kept features, the bias to add, and the squared error of the plain cut and of these."""
    lost, stays, mean = weight[:, removed], weight[:, ~removed], moments.mean * biased
    kept_kept = moments.gram[np.ix_(~removed, ~removed)] - np.outer(mean[~removed], mean[~removed])
    kept_lost = moments.gram[np.ix_(~removed, removed)] - np.outer(mean[~removed], mean[removed])
    target = kept_lost @ lost.T
    strength = ridge_strength(kept_kept, moments.gram[np.ix_(~removed, ~removed)], ridge)
    change = solve(kept_kept + strength * np.eye(len(kept_kept)), target)
    error = np.sum((lost @ moments.gram[np.ix_(removed, removed)]) * lost)
    gain = np.sum((lost @ mean[removed]) ** 2) + np.sum(change * target) + strength * np.sum(change**2)
    bias = lost @ mean[removed] - change.T @ mean[~removed] if biased else None
    return stays + change.T, bias, float(error), float(error - gain)
