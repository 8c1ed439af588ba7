"""Latency of an engine on its GPU, layer times, energy.

One batch is copied to the GPU once; a run is what the GPU does between two CUDA events around one enqueue, so
neither copies nor Python count. Warmed up first, then timed one by one: median and 99th percentile. Layers are timed
in runs of their own, since a profiled run is slower. Energy is sampled while runs are enqueued back to back:

    joules per sample      E / (n B)       energy E of n runs of B samples
    paper_joules           P L / B         mean power P times median latency L (the paper's E = P L)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hqp_onnx.arrays import Array
from hqp_onnx.engine.builder import load
from hqp_onnx.engine.device import Cuda, open_cuda
from hqp_onnx.engine.energy import Sampler, open_meter
from hqp_onnx.engine.library import of_engine
from hqp_onnx.errors import ModelError, UsageError

WARM_UP = 20
PROFILED = 20


@dataclass(frozen=True)
class EngineLatency:
    """Of one batch: milliseconds, samples per second, mean ms by layer; watts and joules per sample where measured."""

    batch: int
    runs: int
    median_ms: float
    p99_ms: float
    layers: Mapping[str, float] = field(default_factory=dict)
    watts: float | None = None
    joules: float | None = None

    @property
    def throughput(self) -> float:
        """Samples per second, one batch after the other."""
        return 1e3 * self.batch / self.median_ms

    @property
    def paper_joules(self) -> float | None:
        """Joules per sample as power times latency."""
        return None if self.watts is None else self.watts * self.median_ms / 1e3 / self.batch


class EngineSession:
    """An engine with inputs and outputs on the GPU.

    Args:
        path: the engine file.
        batch: leading size of every dynamic input; None takes the optimal shapes of the engine's profile.
        cuda: see ``device.open_cuda``.
        feeds: inputs by name; seeded noise where absent.

    Raises:
        ModelError: the file is not an engine for this TensorRT and GPU.
        UsageError: a batch outside the engine's profile.
        MissingRuntimeError: no TensorRT, or no GPU.
    """

    def __init__(self, path: Path, batch: int | None, cuda: Cuda, feeds: Mapping[str, Array] | None = None) -> None:
        library = of_engine(path)
        self._trt = library.load()
        self._cuda, self._engine = cuda, load(path.read_bytes(), library)
        self._context = self._engine.create_execution_context()
        self._outputs: dict[str, tuple[int, Array]] = {}
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        inputs = [n for n in names if self._engine.get_tensor_mode(n) == self._trt.TensorIOMode.INPUT]
        shapes = {name: self._input_shape(name, batch) for name in inputs}
        leading = [shape[0] for shape in shapes.values() if shape]
        self.batch = max(leading, default=1) if batch is None else batch
        if batch not in (None, *leading):
            raise UsageError(f"batch {batch}: the engine's inputs have batch {max(leading, default=1)}, and no other")
        for name, shape in shapes.items():
            self._bind_input(name, shape, (feeds or {}).get(name))
        for name in [n for n in names if n not in inputs]:
            values = self._buffer(name)
            self._outputs[name] = self._cuda.upload(values), values
            self._context.set_tensor_address(name, self._outputs[name][0])

    def _input_shape(self, name: str, batch: int | None) -> tuple[int, ...]:
        """Of an input: its own, or the optimal one of the profile, with ``batch`` in front where that is free."""
        shape = tuple(self._engine.get_tensor_shape(name))
        if -1 not in shape:
            return shape
        low, best, high = (tuple(s) for s in self._engine.get_tensor_profile_shape(name, 0))
        if batch is None or shape[0] != -1:
            return best
        if not low[0] <= batch <= high[0]:
            raise UsageError(
                f"batch {batch}: the engine's input '{name}' takes {low[0]} to {high[0]}. See {{--shapes}}"
            )
        return (batch, *best[1:])

    def _bind_input(self, name: str, shape: tuple[int, ...], values: Array | None) -> None:
        if -1 in tuple(self._engine.get_tensor_shape(name)):
            self._context.set_input_shape(name, shape)
        if values is None:
            values = np.random.default_rng(0).uniform(0, 1, shape)
        self._context.set_tensor_address(name, self._cuda.upload(values.astype(self._dtype(name), copy=False)))

    def _buffer(self, name: str) -> Array:
        """An output; flat and of the largest size where its shape depends on values."""
        shape, dtype = tuple(self._context.get_tensor_shape(name)), self._dtype(name)
        if -1 in shape:
            shape = (self._context.get_max_output_size(name) // dtype.itemsize,)
        return np.zeros(shape, dtype)

    def _dtype(self, name: str) -> np.dtype[Any]:
        kind: np.dtype[Any] = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))
        return kind

    def enqueue(self) -> None:
        """Start one run on the stream."""
        if not self._context.execute_async_v3(self._cuda.stream):
            raise ModelError("TensorRT could not run the engine; its log says why")

    def outputs(self) -> dict[str, Array]:
        """Outputs of the last run, by name."""
        for address, values in self._outputs.values():
            self._cuda.download(address, values)
        return {name: values for name, (_, values) in self._outputs.items()}

    def layer_times(self, runs: int) -> dict[str, float]:
        """Mean milliseconds by layer."""
        trt = self._trt
        times: dict[str, list[float]] = {}

        class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                times.setdefault(layer_name, []).append(ms)

        profiler = Profiler()  # TensorRT keeps no reference of its own
        self._context.profiler = profiler
        for _ in range(runs):
            self.enqueue()
            self.outputs()
        self._context.profiler = None
        return {name: float(np.mean(values)) for name, values in times.items()}


def measure(
    path: Path, batch: int | None = None, *, wrapper: str = "polygraphy", seconds: float = 2.0, profile: bool = False
) -> EngineLatency:
    """Latency and energy of the engine in ``path``; see ``EngineSession`` for arguments and errors."""
    if not path.is_file():
        raise ModelError(f"{path}: no such file. Expected an engine written by 'hqp build'")
    of_engine(path).load()  # says what to install, before the GPU is asked
    cuda = open_cuda(wrapper)
    try:
        session = EngineSession(path, batch, cuda)
        times = event_times(session.enqueue, cuda, seconds)
        watts, joules = energy(session.enqueue, cuda, seconds, session.batch)
        layers = session.layer_times(PROFILED) if profile else {}
    finally:
        cuda.close()
    median, p99 = (float(q) for q in np.percentile(times, (50, 99)))
    return EngineLatency(session.batch, len(times), median, p99, layers, watts, joules)


def event_times(enqueue: Callable[[], None], cuda: Cuda, seconds: float, least: int = 50) -> Sequence[float]:
    """Milliseconds of single runs, for at least ``seconds`` and ``least`` runs."""
    start, end = cuda.event(), cuda.event()
    times: list[float] = []
    for _ in range(WARM_UP):
        enqueue()
    stop = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < stop:
        cuda.record(start)
        enqueue()
        cuda.record(end)
        times.append(cuda.elapsed(start, end))
    return times


def energy(enqueue: Callable[[], None], cuda: Cuda, seconds: float, batch: int) -> tuple[float | None, float | None]:
    """Mean watts, and joules per sample, of runs back to back; None where no power sensor is found."""
    start, end, runs = cuda.event(), cuda.event(), 0
    with open_meter() as meter:
        if meter is None:
            return None, None
        with Sampler(meter) as sampler:
            stop = time.perf_counter() + seconds
            while time.perf_counter() < stop:
                cuda.record(start)
                for _ in range(10):
                    enqueue()
                cuda.record(end)
                cuda.elapsed(start, end)
                runs += 10
    return sampler.watts, sampler.joules / (runs * batch)
