"""The training loop: Adam on batches in a seeded order, judged on held-out samples after every epoch.

The learning rate is relative: a step moves a weight by a share of the root mean square of its tensor. That share falls
with the square root of the loss before training, since near the optimum the loss grows with the square of the distance:
what is nearly right is changed little.

Everything that a step depends on is a function of the settings, the seed and the weights, and a checkpoint after every
epoch holds weights and moments to the bit: an interrupted run ends in the same weights.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hqp_onnx.archives import read_arrays
from hqp_onnx.arrays import Array, Float32Array, IntArray
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.errors import DataError
from hqp_onnx.files import write_arrays
from hqp_onnx.progress import StageProgress
from hqp_onnx.recovery.adam import Adam, cosine
from hqp_onnx.recovery.augment import augmented, spatial_axes
from hqp_onnx.recovery.objective import Objective
from hqp_onnx.recovery.samples import Feeds, gather
from hqp_onnx.recovery.settings import Recovery
from hqp_onnx.recovery.step import Part, Step, Teaching, flat, parts_of
from hqp_onnx.workers import active, spread
from hqp_onnx.workers.parcels import Parcel, packed

ROUNDING = 1e-8  # a loss from which there is nothing to learn
SMALLEST = 0.01  # size of a weight tensor, for the learning rate


@dataclass
class _State:
    """What a checkpoint holds. ``losses``: held out, before training and after each epoch."""

    weights: Float32Array
    adam: Adam
    best: Float32Array
    losses: list[float]


@dataclass(frozen=True)
class Lesson:
    """What is to be learned.

    Attributes:
        objective: of the student.
        weights: start of each weight that has a gradient.
        bounds: smallest and largest values, for those that have some.
        teach: targets of ``objective``.
    """

    objective: Objective
    weights: Mapping[str, Array]
    bounds: Mapping[str, tuple[Array, Array]]
    teach: Teaching


class Trainer:
    """One training.

    Args:
        lesson: weights, loss, gradients and targets.
        data: all samples.
        rows: sample numbers to train on, and to judge by.
        settings: of the recovery.
        part: samples per run.
        threads: of onnxruntime.
    """

    def __init__(
        self,
        lesson: Lesson,
        data: Dataset,
        rows: tuple[IntArray, IntArray],
        settings: Recovery,
        part: int,
        threads: int,
    ) -> None:
        self.teach, self.data, self.settings, self.part = lesson.teach.opened(threads), data, settings, part
        self.train, self.held = rows
        self.names, self.shapes = list(lesson.weights), [x.shape for x in lesson.weights.values()]
        self.ends = np.cumsum([0, *(math.prod(shape) for shape in self.shapes)])
        self.start = flat(lesson.weights.values())
        self.units = flat(np.full(x.shape, max(_size(x), SMALLEST)) for x in lesson.weights.values())
        low, high = ([_whole(lesson, name, side) for name in self.names] for side in (0, 1))
        self.low, self.high = flat(low), flat(high)
        self.axes = spatial_axes(data) if settings.augment else None
        self._work, self._threads = Step.of(lesson.objective, lesson.teach, data), threads
        self._here = self._work.taught_by(self.teach, threads)
        self.batch = max(part, min(settings.batch, len(self.train)) // part * part)
        self.steps = len(self.train) // self.batch
        self._model = lesson.objective.model

    def run(self, checkpoint: Path | None, progress: StageProgress) -> tuple[dict[str, Array], list[float]]:
        """The best weights and the held-out losses; the first is that of the start, which counts as well."""
        key = "" if checkpoint is None else self._key()
        state = self._load(checkpoint, key)
        if state is None:
            state = _State(self.start.copy(), Adam.zeros(self.start.size), self.start, [self.held_loss(self.start)])
        while self._goes_on(state.losses):
            self._epoch(state, len(state.losses) - 1, progress)
            loss = self.held_loss(state.weights)
            if loss < min(state.losses):
                state.best = state.weights.copy()
            state.losses.append(loss)
            self._save(state, checkpoint, key)
        return self._arrays(state.best), state.losses

    def _goes_on(self, losses: list[float]) -> bool:
        """Until the last epoch; not with a loss that is mere rounding, nor behind one that is not finite."""
        return len(losses) <= self.settings.epochs and losses[0] > ROUNDING and math.isfinite(losses[-1])

    def held_loss(self, weights: Float32Array) -> float:
        """Mean loss of the held-out samples."""
        fed, total, rows = self._arrays(weights), 0.0, parts_of(self.held, self.part)
        for loss in self._results((Part(fed, some, self._sent(some), False) for some in rows), len(rows)):
            total += loss
        return total / len(self.held)

    def _epoch(self, state: _State, epoch: int, progress: StageProgress) -> None:
        rng = np.random.default_rng((self.settings.seed, 2, epoch))
        order = rng.permutation(self.train)
        for step in range(self.steps):
            gradient = self.gradient(state.weights, order[step * self.batch :][: self.batch], rng)
            peak = peak_rate(self.settings.rate, state.losses[0])
            rate = cosine(epoch * self.steps + step, self.settings.epochs * self.steps, peak)
            state.adam.update(state.weights, gradient, np.float32(rate) * self.units)
            np.clip(state.weights, self.low, self.high, out=state.weights)
            done = epoch * self.steps + step + 1
            progress(done * self.batch, self.settings.epochs * self.steps * self.batch)

    def gradient(self, weights: Float32Array, batch: IntArray, rng: np.random.Generator) -> Float32Array:
        """Mean over the samples ``batch``, flat."""
        fed, total, rows = self._arrays(weights), np.zeros_like(weights), parts_of(batch, self.part)
        for gradient in self._results((self._part(fed, some, rng) for some in rows), len(rows)):
            total += gradient
        total /= len(batch)
        return total

    def _part(self, fed: Mapping[str, Array], rows: IntArray, rng: np.random.Generator) -> Part:
        if self.axes is None:
            return Part(fed, rows, self._sent(rows), True)
        return Part(fed, None, augmented(gather(self.data, rows), self.settings.augment, self.axes, rng), True)

    def _sent(self, rows: IntArray) -> Feeds | None:
        """The feeds of samples that workers cannot read."""
        return gather(self.data, rows) if self._work.data is None else None

    def _results(self, parts: Iterable[Part], count: int) -> Iterator[Any]:
        """Of each of ``count`` parts, in order; a single one is not worth sending."""
        if count == 1 or active() is None or (parcel := self._parcel) is None:
            return map(self._here, parts)
        return spread(self._work, parts, self._threads, parcel)

    @cached_property
    def _parcel(self) -> Parcel | None:
        return packed(self._work)

    def _arrays(self, flat: Float32Array) -> dict[str, Array]:
        """Views by name."""
        pieces = zip(self.names, self.shapes, self.ends[:-1], self.ends[1:], strict=True)
        return {name: flat[a:b].reshape(shape) for name, shape, a, b in pieces}

    def _key(self) -> str:
        """Digest of all that decides the result."""
        digest = hashlib.sha256(self._model.SerializeToString(deterministic=True))
        rows = self.held[: self.part]
        feeds = gather(self.data, rows)
        for content in (self.start, *feeds.values(), *self.teach(feeds, rows).values()):
            digest.update(np.ascontiguousarray(content).tobytes())
        digest.update(repr((self.settings, len(self.data), self.part)).encode())
        return digest.hexdigest()

    def _save(self, state: _State, path: Path | None, key: str) -> None:
        """Write the file; after the last epoch, the best weights are enough."""
        if path is None:
            return
        size = self.start.size if self._goes_on(state.losses) else 0
        arrays = {"weights": state.weights[:size], "m": state.adam.m[:size], "v": state.adam.v[:size]}
        numbers = {"key": np.array(key), "step": np.array(state.adam.step), "losses": np.array(state.losses)}
        write_arrays(path, {"best": state.best, **arrays, **numbers})

    def _load(self, path: Path | None, key: str) -> _State | None:
        """The state of an interrupted run; None if there is none of this key."""
        if path is None or not path.is_file():
            return None
        try:
            x = read_arrays(path)
            if str(x["key"]) != key:
                return None
            return _State(x["weights"], Adam(x["m"], x["v"], int(x["step"])), x["best"], x["losses"].tolist())
        except (DataError, KeyError, TypeError, ValueError) as e:
            raise DataError(f"{path}: not a checkpoint of a recovery ({e}): remove it") from e


def peak_rate(rate: float, loss: float) -> float:
    """Peak of the learning rate for the held-out loss before training; a loss of 1 is that of knowing nothing."""
    return rate * min(1.0, math.sqrt(max(loss, 0.0)))


def _size(weight: Array) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(weight, dtype=np.float64))))


def _whole(lesson: Lesson, name: str, side: int) -> Array:
    """Bounds of each value of a weight."""
    bound = lesson.bounds.get(name, (-np.inf, np.inf))[side]
    return np.broadcast_to(np.float32(bound), lesson.weights[name].shape)
