"""Statistics, gradients and recovery on an execution provider, held against the CPU: numbers, and samples per second.

Used by tools/bench_gpu.py. Errors are ||found - expected|| / ||expected||, the largest of all weights:

    fisher     squared norms of every filter's gradient, sample by sample
    moments    second moments of what each weight reads
    recovery   held-out losses before and after one epoch of training the model, pruned by half, towards itself
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hqp_onnx.data.dataset import Dataset
from hqp_onnx.gradients.per_sample import PerSample
from hqp_onnx.graphs.model_io import load, to_graph, to_proto
from hqp_onnx.model import open_data, open_model
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.recover import recover
from hqp_onnx.recovery import Recovery
from hqp_onnx.runtimes.session import CPU, set_provider
from hqp_onnx.statistics.moments import input_moments

Numbers = Mapping[str, np.ndarray]
COLUMNS = ("model", "work", "samples", "CPU samples/s", "provider samples/s", "ratio", "largest error")


@dataclass(frozen=True)
class WorkRow:
    """One kind of work: its rates, and how far the provider's numbers are from the CPU's."""

    model: str
    work: str
    samples: int
    cpu: float
    provider: float
    error: float

    def cells(self) -> list[str]:
        """For the table."""
        rates = [f"{self.cpu:.0f}", f"{self.provider:.0f}", f"{self.provider / self.cpu:.2f}"]
        return [self.model, self.work, str(self.samples), *rates, f"{self.error:.1e}"]


def work_rows(model: Path, pruned: Path, data: Path, provider: str) -> Iterator[WorkRow]:
    """Rows of a model; ``data`` is a file of its inputs."""
    opened = open_model(model)
    few = open_data(opened, str(data))
    proto = to_proto(opened.graph)
    student, teacher = (canonicalize(to_graph(load(path))).graph for path in (pruned, model))

    def fisher(clock: Clock) -> Numbers:
        engine = PerSample(proto, few.rows(0, 1).feeds)
        labels = np.random.default_rng(0).integers(0, engine.loss.classes, len(few))
        parts = [slice(start, start + engine.batch) for start in range(0, len(few), engine.batch)]
        rounds = [(few.rows(part.start, min(part.stop, len(few))).feeds, labels[part]) for part in parts]
        engine(*rounds[0])  # loads kernels
        with clock:
            found = [engine(*one) for one in rounds]
        return {name: np.concatenate([values[name] for values in found]) for name in found[0]}

    def moments(clock: Clock) -> Numbers:
        with clock:
            found = input_moments(proto, None, few)
        return {name: moment.gram for name, moment in found.items()}

    def recovery(clock: Clock) -> Numbers:
        settings = Recovery(1, batch=min(64, len(few) // 2))
        with clock:
            losses = recover(student, teacher, few, settings).losses
        return {"losses": np.array(losses)}

    for name, work in (("fisher", fisher), ("moments", moments), ("recovery", recovery)):
        yield _row(model.stem, name, work, few, provider)


class Clock:
    """Seconds of a block."""

    seconds = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start


def _row(model: str, name: str, work: Callable[[Clock], Numbers], data: Dataset, provider: str) -> WorkRow:
    (expected, cpu), (found, other) = (_on(which, work) for which in (CPU, provider))
    rates = len(data) / cpu, len(data) / other
    return WorkRow(model, name, len(data), *rates, max(_error(found[key], expected[key]) for key in expected))


def _on(provider: str, work: Callable[[Clock], Numbers]) -> tuple[Numbers, float]:
    def run() -> tuple[Numbers, float]:
        set_provider(provider)
        clock = Clock()
        return work(clock), clock.seconds

    return copy_context().run(run)


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    size = float(np.linalg.norm(expected))
    difference = float(np.linalg.norm(found.astype(np.float64) - expected))
    return difference / size if size else difference
