"""The training loop: Adam on batches in a seeded order, judged on held-out samples after every round (``Schedule``).

The learning rate is relative: a step moves a weight by a share of the root mean square of its tensor. That share falls
with the square root of the loss before training, since near the optimum the loss grows with the square of the distance:
what is nearly right is changed little.

Everything that a step depends on is a function of the settings, the seed and the weights, and a checkpoint after every
round holds weights and moments to the bit: an interrupted run ends in the same weights. With a time limit, the rate
follows the clock as well; the checkpoint says how much of the time is over, and a longer time goes on from it.

Samples are read as they are used, a batch at a time, ahead of the training where that is work.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from hqp_onnx.arrays import Array, Float32Array, IntArray, content
from hqp_onnx.data.ahead import ahead
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.progress import StageProgress
from hqp_onnx.recovery.adam import Adam, cosine
from hqp_onnx.recovery.augment import augmented, spatial_axes
from hqp_onnx.recovery.checkpoint import FORM, State, load, save
from hqp_onnx.recovery.objective import Objective
from hqp_onnx.recovery.samples import Feeds, gather
from hqp_onnx.recovery.schedule import STALE, Schedule
from hqp_onnx.recovery.settings import Recovery
from hqp_onnx.recovery.step import Part, Step, Teaching, flat, parts_of
from hqp_onnx.workers import active, spread
from hqp_onnx.workers.parcels import Parcel, packed

ROUNDING = 1e-8  # a loss from which there is nothing to learn
SMALLEST = 0.01  # size of a weight tensor, for the learning rate


@dataclass(frozen=True)
class Trained:
    """``losses``: held out, before training and after each round. ``epochs``: how many of them were trained then.

    ``ended`` says what ended it.
    """

    weights: Mapping[str, Array]
    losses: list[float]
    epochs: list[float]
    ended: str


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
        self.lesson = lesson
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
        self._read_by_workers = active() is not None and self._work.data is not None
        self.schedule = Schedule.of(settings, len(self.train), part)
        self._model = lesson.objective.model

    def run(
        self,
        checkpoint: Path | None,
        progress: StageProgress,
        began: float | None = None,
        final: bool = False,
        other: Mapping[str, Array] | None = None,
    ) -> Trained:
        """Train; the start counts as well.

        Args:
            checkpoint: written after every round; one of the same training is gone on from.
            progress: called with samples trained on, and in all.
            began: when the time began, by ``perf_counter``.
            final: a checkpoint of a training that ended is its result, even if there is more time now.
            other: values of weights to start with, if their loss is less.
        """
        key = "" if checkpoint is None else self._key()
        state = None if checkpoint is None else load(checkpoint, key)
        began = (perf_counter() if began is None else began) - (0.0 if state is None else state.seconds)
        limit = math.inf if self.schedule.seconds is None else self.schedule.seconds
        if state is None:
            state = self._begun(other or {}, limit)
        clock = _Clock(self.schedule, began, state.judging)
        if not (final and state.ended):
            if state.limit != limit:  # what was skipped, was so for the other time
                self._restart(state, other or {})
                state.limit, state.skipped, state.since = limit, 0, len(state.losses) - 1
                state.place = clock.at(state.adam.step)
            state.ended = self._why_over(state, clock)
            if state.ended and checkpoint is not None:  # no round writes it
                save(checkpoint, key, state, self.lesson.weights)
        while not state.ended:
            self._round(state, clock, progress)
            loss = self.held_loss(state.weights)
            if loss < min(state.losses):
                state.best = state.weights.copy()
            state.losses.append(loss)
            state.steps.append(state.adam.step)
            self._shorten(state, clock)
            state.ended = self._why_over(state, clock)
            state.seconds = perf_counter() - began
            if checkpoint is not None:
                save(checkpoint, key, state, self.lesson.weights)
        epochs = [step / self.schedule.epoch for step in state.steps]
        return Trained(self._arrays(state.best), state.losses, epochs, state.ended)

    def _begun(self, other: Mapping[str, Array], limit: float) -> State:
        """Before the first step, from the better of two starts."""
        before = perf_counter()
        losses = [self.held_loss(self.start)]
        judging = perf_counter() - before
        state = State(self.start.copy(), Adam.zeros(self.start.size), self.start, losses, [0], judging, limit)
        self._restart(state, other)
        return state

    def _restart(self, state: State, other: Mapping[str, Array]) -> None:
        """Go on from ``other`` weights, if their loss is less than any so far."""
        if not other:
            return
        weights = np.clip(flat({**self.lesson.weights, **other}.values()), self.low, self.high)
        if (loss := self.held_loss(weights)) < min(state.losses):
            state.weights, state.best = weights, weights.copy()
            state.losses.append(loss)
            state.steps.append(state.adam.step)

    def _why_over(self, state: State, clock: _Clock) -> str:
        """Why there is no other round; "" if there is."""
        schedule, losses = self.schedule, state.losses
        if losses[0] <= ROUNDING:
            return "there was nothing to learn"
        if not math.isfinite(losses[-1]):
            return "the loss was not finite"
        if clock.at(state.adam.step) + state.skipped < schedule.steps:
            return ""
        if state.skipped:
            return "the loss had stopped falling"
        return "the time was over" if state.adam.step < schedule.steps else "all epochs were over"

    def _shorten(self, state: State, clock: _Clock) -> None:
        """Skip half of the rest, where the loss does not fall any more."""
        schedule, last = self.schedule, len(state.losses) - 1
        here = clock.at(state.adam.step) + state.skipped
        fell = int(np.argmin(state.losses)) == last
        few = last - state.since < schedule.patience or here - state.place < STALE * schedule.steps
        if not schedule.patience or (few and not fell):
            return
        more = 0 if fell else max(math.ceil((schedule.steps - here) / 2), 0)
        state.skipped += more
        state.since, state.place = last, here + more

    def held_loss(self, weights: Float32Array) -> float:
        """Mean loss of the held-out samples."""
        fed, total, rows = self._arrays(weights), 0.0, parts_of(self.held, self.part)
        for loss in self._results((Part(fed, some, self._sent(some), False) for some in rows), len(rows)):
            total += loss
        return total / len(self.held)

    def _round(self, state: State, clock: _Clock, progress: StageProgress) -> None:
        schedule, adam = self.schedule, state.adam
        peak, total = peak_rate(self.settings.rate, state.losses[0]), schedule.steps * schedule.batch
        stop = min(adam.step + schedule.round, schedule.steps - state.skipped)
        for rows, feeds in self._batches(range(adam.step, stop)):
            at = clock.at(adam.step) + state.skipped
            if at >= schedule.steps:
                return
            gradient = self.gradient(state.weights, rows, feeds)
            adam.update(state.weights, gradient, np.float32(cosine(at, schedule.steps, peak)) * self.units)
            np.clip(state.weights, self.low, self.high, out=state.weights)
            done = clock.at(adam.step) + state.skipped
            progress(min(int(done * schedule.batch), total), total)

    def _batches(self, steps: range) -> Iterator[tuple[IntArray, Feeds | None]]:
        """The samples of some steps, and their feeds; None where who computes reads them."""

        def read(step: tuple[int, IntArray]) -> tuple[IntArray, Feeds | None]:
            number, rows = step
            if self.axes is not None:
                rng = np.random.default_rng((self.settings.seed, 3, number))
                return rows, augmented(gather(self.data, rows), self.settings.augment, self.axes, rng)
            return rows, None if self._read_by_workers else gather(self.data, rows)

        return ahead(self._rows(steps), read, self.data.source.readers)

    def _rows(self, steps: range) -> Iterator[tuple[int, IntArray]]:
        """Numbers of steps, and of their samples."""
        order = self.train
        for step in steps:
            epoch, place = divmod(step, self.schedule.epoch)
            if step == steps.start or not place:
                order = np.random.default_rng((self.settings.seed, 2, epoch)).permutation(self.train)
            yield step, order[place * self.schedule.batch :][: self.schedule.batch]

    def gradient(self, weights: Float32Array, rows: IntArray, feeds: Feeds | None) -> Float32Array:
        """Mean over the samples ``rows``, flat; ``feeds`` as of ``_batches``."""
        fed, total, places = self._arrays(weights), np.zeros_like(weights), parts_of(np.arange(len(rows)), self.part)
        for gradient in self._results((self._part(fed, rows, feeds, some) for some in places), len(places)):
            total += gradient
        total /= len(rows)
        return total

    def _part(self, fed: Mapping[str, Array], rows: IntArray, feeds: Feeds | None, places: IntArray) -> Part:
        given = None if feeds is None else {name: values[places] for name, values in feeds.items()}
        return Part(fed, None if self.axes is not None else rows[places], given, True)

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
        """Digest of all that decides the result, but for the time that there is; without one, there are fewer steps."""
        digest = hashlib.sha256(self._model.SerializeToString(deterministic=True))
        rows = self.held[: self.part]
        feeds = gather(self.data, rows)
        for values in (self.start, *feeds.values(), *self.teach(feeds, rows).values()):
            digest.update(content(values))
        timeless = replace(self.settings, seconds=None), replace(self.schedule, seconds=None)
        digest.update(repr((FORM, *timeless, len(self.data), self.part)).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class _Clock:
    """``began``: by ``perf_counter``. ``judging``: seconds that the last judgement will take."""

    schedule: Schedule
    began: float
    judging: float

    def at(self, step: int) -> float:
        """Where on the way of all steps a step is: by its number, or by the time that is over."""
        if self.schedule.seconds is None:
            return step
        useful = max(self.schedule.seconds - self.judging, 1e-3)
        return max(step, self.schedule.steps * (perf_counter() - self.began) / useful)


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
