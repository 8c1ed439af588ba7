"""Latency under a clock that only models and sleep move: sessions whose threads stay awake do not meet in a figure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hqp_onnx.evaluation import latency
from hqp_onnx.evaluation.latency import measure
from hqp_onnx.runtimes import bench

SPIN = 0.04


class Machine:
    """Simulated seconds: wall and process time, and until when the threads of each session spin."""

    def __init__(self) -> None:
        self.now = self.cpu = 0.0
        self.awake: dict[object, float] = {}

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.cpu

    def sleep(self, seconds: float) -> None:
        last = max(self.awake.values(), default=0.0)
        self.cpu += min(max(last - self.now, 0.0), seconds)
        self.now += seconds


class Model:
    """Takes twice its time while threads of another session spin, and five times its time at first."""

    def __init__(self, machine: Machine, seconds: float) -> None:
        self.machine, self.seconds, self.runs = machine, seconds, 0

    def run(self, _: Any) -> dict[str, Any]:
        machine = self.machine
        disturbed = any(until > machine.now for other, until in machine.awake.items() if other is not self)
        cold = machine.awake.get(self, 0.0) < machine.now
        spent = self.seconds * (2 if disturbed else 1) * (5 if cold else 1)
        machine.now += spent
        machine.cpu += spent
        machine.awake[self] = machine.now + SPIN
        self.runs += 1
        return {}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made = Machine()
    for module in (latency, bench):
        monkeypatch.setattr(module, "time", made)
    return made


def test_every_model_is_as_fast_as_alone(machine: Machine) -> None:
    models = {str(ms): Model(machine, 1e-3 * ms) for ms in (0.05, 1.0, 25.0)}
    found = measure(models, {})
    for name, result in found.items():
        assert result.p10_ms == pytest.approx(float(name))
        assert result.p90_ms == pytest.approx(float(name))
        assert result.runs >= 5 * 3
        assert result.runs < models[name].runs


def test_slow_seconds_cancel(machine: Machine) -> None:
    """Half of the rounds find the machine twice as slow: medians may be of either half, the speedup is not."""
    a, b = Model(machine, 4e-3), Model(machine, 1e-3)

    def slow(done: int, _: int) -> None:
        factor = 2 if done % 20 < 10 else 1
        a.seconds, b.seconds = 4e-3 * factor, 1e-3 * factor

    found = measure({"a": a, "b": b}, {}, 1e9, slow)
    assert (found["a"].speedup, found["b"].speedup) == (1.0, pytest.approx(4.0))
    assert found["b"].p90_ms == pytest.approx(2 * found["b"].p10_ms)


def test_rounds_end_in_their_time(machine: Machine) -> None:
    """Five rounds at least, of 3 runs that count and one that does not; no more once time is over."""
    rounds: list[int] = []
    slow = Model(machine, 1.0)
    found = measure({"slow": slow}, {}, 4.0, lambda done, _: rounds.append(done))
    assert rounds == [1, 2, 3, 4, 5]
    assert (found["slow"].runs, slow.runs) == (15, 20)
    fast = measure({"fast": Model(machine, 1e-5)}, {}, 1e9)
    assert fast["fast"].runs == 40 * 50


def test_other_work_of_the_process_does_not_stop_it(machine: Machine) -> None:
    machine.awake["a thread of the caller"] = 1e9
    assert measure({"a": Model(machine, 1e-3)}, {})["a"].median_ms == pytest.approx(2.0)
    assert machine.now < 20
