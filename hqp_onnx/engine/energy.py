"""Power, and energy by the trapezoidal rule over its samples.

    E = sum_i (t_{i+1} - t_i) (P_i + P_{i+1}) / 2        mean power = E / (t_n - t_0)

Discrete GPUs: NVML (package nvidia-ml-py), power of the board. Jetson: tegrastats, power of the module: its input rail
where it has one, else the sum of its rails (AGX Orin; VDDQ rails are fed from VIN_SYS_5V0, and would count twice).
Processors (Intel, AMD): RAPL, a counter of the energy of the package, which Linux shows to root only.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hqp_onnx.errors import MissingRuntimeError
from hqp_onnx.runtimes.bench import module_watts

Meter = Callable[[], float]
"""Watts, now."""

PERIOD_S = 0.02
RAPL = Path("/sys/class/powercap/intel-rapl:0")


@contextmanager
def open_meter() -> Iterator[Meter | None]:
    """The power sensor of this machine's GPU; None where there is none that can be read."""
    if shutil.which("tegrastats"):
        with _tegrastats() as meter:
            yield meter
        return
    with _nvml() as meter:
        yield meter


@contextmanager
def _nvml() -> Iterator[Meter | None]:
    try:
        import pynvml
    except ImportError:
        yield None
        return
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        pynvml.nvmlDeviceGetPowerUsage(handle)
    except pynvml.NVMLError:
        yield None  # no driver, or a GPU without a power sensor
        return
    try:
        yield lambda: float(pynvml.nvmlDeviceGetPowerUsage(handle)) / 1e3
    finally:
        pynvml.nvmlShutdown()


@contextmanager
def _tegrastats() -> Iterator[Meter]:
    with subprocess.Popen(["tegrastats", "--interval", "50"], stdout=subprocess.PIPE, text=True) as process:
        reader = _Lines(process.stdout)
        try:
            yield reader.watts
        finally:
            process.terminate()
            reader.join()


class _Lines(threading.Thread):
    """Keeps the last power that tegrastats printed."""

    def __init__(self, lines: Any) -> None:
        super().__init__(daemon=True)
        self._lines, self._last, self._first = lines, 0.0, threading.Event()
        self.start()

    def run(self) -> None:
        """Read until tegrastats ends."""
        for line in self._lines:
            if (watts := module_watts(line)) is not None:
                self._last = watts
                self._first.set()

    def watts(self) -> float:
        """The last value; waits for the first."""
        if not self._first.wait(timeout=5):
            raise MissingRuntimeError("tegrastats prints no power rail: run it by hand, as root if necessary")
        return self._last


class Sampler:
    """Reads a meter every ``period`` seconds in a thread, between entry and exit."""

    def __init__(self, meter: Meter, period: float = PERIOD_S) -> None:
        self._meter, self._period = meter, period
        self._stop = threading.Event()
        self._samples: list[tuple[float, float]] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Sampler:
        self._read()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._read()

    def _run(self) -> None:
        while not self._stop.wait(self._period):
            self._read()

    def _read(self) -> None:
        self._samples.append((time.perf_counter(), self._meter()))

    @property
    def joules(self) -> float:
        """Energy between entry and exit."""
        t, watts = np.array(self._samples).T
        return float((np.diff(t) * (watts[1:] + watts[:-1]) / 2).sum())

    @property
    def watts(self) -> float:
        """Mean power."""
        return self.joules / (self._samples[-1][0] - self._samples[0][0])


def package_joules() -> float | None:
    """What the processor's energy counter (RAPL) reads now; None where there is none that can be read."""
    try:
        return int((RAPL / "energy_uj").read_text()) / 1e6
    except OSError:
        return None


def joules_per_run(run: Callable[[], object], on_gpu: bool, seconds: float = 1.0) -> float | None:
    """Energy of one run, of runs that fill ``seconds``: of the GPU's board or module, or of the processor's package.

    None where there is no counter that can be read.
    """
    if on_gpu:
        with open_meter() as meter:
            if meter is None:
                return None
            with Sampler(meter) as sampler:
                runs = _repeat(run, seconds)
        return sampler.joules / runs
    if (before := package_joules()) is None:
        return None
    runs = _repeat(run, seconds)
    wraps_at = int((RAPL / "max_energy_range_uj").read_text()) / 1e6
    return ((package_joules() or 0.0) - before) % wraps_at / runs


def _repeat(run: Callable[[], object], seconds: float) -> int:
    """How often it ran."""
    runs, stop = 0, time.perf_counter() + seconds
    while time.perf_counter() < stop:
        run()
        runs += 1
    return runs
