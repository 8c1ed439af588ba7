"""The search on models whose cost is a known function, under a clock that only they move."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pytest

from hqp_onnx.quantization import float_nodes as mixed_precision
from hqp_onnx.quantization.float_nodes import compare, faster_in_float, output_errors
from hqp_onnx.runtimes import bench

NODES = [f"n{i}" for i in range(16)]


class Clock:
    """Simulated seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Model:
    """Takes a given time, times a little noise; counts its runs."""

    def __init__(self, clock: Clock, seconds: float, noise: float, seed: int) -> None:
        self.clock, self.seconds, self.noise, self.rng = clock, seconds, noise, np.random.default_rng(seed)

    def run(self, _: Any) -> dict[str, Any]:
        self.clock.now += self.seconds * (1 + self.noise * abs(self.rng.standard_normal()))
        return {}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (mixed_precision, bench):
        monkeypatch.setattr(module, "time", made)
    return made


def opener(clock: Clock, cost: Callable[[list[bool]], float], noise: float) -> Callable[[Collection[str]], Model]:
    """Opens models whose milliseconds are ``cost`` of one flag per node: whether it is in float."""
    seeds = iter(range(10**6))
    return lambda floats: Model(clock, 1e-3 * cost([n in floats for n in NODES]), noise, next(seeds))


def with_borders(gains: list[float], border: float) -> Callable[[list[bool]], float]:
    """A float node costs 1 + its gain, an INT8 node 1, each change of precision along the chain ``border``."""

    def cost(floats: list[bool]) -> float:
        changes = sum(a != b for a, b in zip([True, *floats], [*floats, True], strict=True))
        return 10 + sum(1 + gain * on for gain, on in zip(gains, floats, strict=True)) + border * changes

    return cost


@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize(
    ("gains", "border", "wanted"),
    [
        ([0.5] * 16, 0.2, []),
        ([-0.5] * 16, 0.2, NODES),
        ([0.1] * 16, 2.0, NODES),  # INT8 arithmetic is faster, but not by its two borders
        ([0.6] * 8 + [-0.6] * 8, 0.3, NODES[8:]),
        ([0.6] * 6 + [-0.6] * 4 + [0.6] * 6, 0.3, NODES[6:10]),
        ([0.6] * 7 + [-0.9] + [0.6] * 8, 1.0, []),  # one node in float does not pay for two borders
    ],
)
def test_the_fastest_division_is_found(
    clock: Clock, noise: float, gains: list[float], border: float, wanted: list[str]
) -> None:
    assert faster_in_float(NODES, opener(clock, with_borders(gains, border), noise), {}) == wanted


def test_noise_alone_changes_nothing(clock: Clock) -> None:
    """Every division costs the same: with 30 % noise the search stays where it started, at either end."""
    assert faster_in_float(NODES, opener(clock, lambda _: 20.0, 0.3), {}) in ([], NODES)


@pytest.mark.parametrize("gain", [-0.0005, 0.0005])
def test_leaving_int8_takes_no_more_evidence_than_entering_it(clock: Clock, gain: float) -> None:
    """All nodes in float differ from all in INT8 by less than a switch must gain."""
    found = faster_in_float(NODES, opener(clock, with_borders([gain] * 16, 0.0), 0.0), {})
    assert found == (NODES if gain < 0 else [])


def test_a_search_ends_in_its_time(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of 100 ms may take 2000 runs, 200 seconds; the comparison under way is finished."""
    monkeypatch.setattr(mixed_precision, "_CERTAIN", 1e9)
    faster_in_float(NODES * 10, opener(clock, lambda _: 100.0, 0.0), {})
    assert 195 < clock.now < 215


def test_a_difference_has_its_size_and_its_noise(clock: Clock) -> None:
    found = compare(Model(clock, 0.010, 0.02, 0), Model(clock, 0.008, 0.02, 1), {}, 1.0)
    assert found.gain == pytest.approx(0.002, rel=0.1)
    assert found.median == pytest.approx(0.010, rel=0.03)
    assert found.noise < found.gain


def test_threads_that_stay_awake_do_not_meet(clock: Clock) -> None:
    """The first model's threads spin for 1.2 ms, and halve the speed of the second, which is the faster one."""
    first, second = Model(clock, 1e-4, 0.0, 0), Model(clock, 0.8e-4, 0.0, 1)
    asleep = 0.0

    def spin(_: Any) -> dict[str, Any]:
        nonlocal asleep
        clock.now += first.seconds
        asleep = clock.now + 1.2e-3
        return {}

    def slowed(_: Any) -> dict[str, Any]:
        clock.now += second.seconds * (2 if clock.now < asleep else 1)
        return {}

    first.run, second.run = spin, slowed  # type: ignore[method-assign]
    found = compare(first, second, {}, 1.0)
    assert found.gain == pytest.approx(0.2e-4)
    assert found.gain > found.noise


def test_errors_are_those_of_one_quantized_node() -> None:
    """Outputs [3, 4] of norm 5; quantizing node i alone adds i to each of the two."""

    class Exact:
        def __init__(self, quantized: list[int]) -> None:
            self.shift = sum(quantized)

        def run(self, _: Any) -> dict[str, Any]:
            return {"y": np.array([3.0, 4.0], np.float32) + self.shift, "class": np.array([1])}

    def open_with(floats: Collection[str]) -> Exact:
        assert "kept" in floats
        return Exact([i for i in range(1, 4) if f"n{i}" not in floats])

    errors = output_errors(["n1", "n2", "n3"], open_with, [{}, {}], ["kept"])
    assert errors == pytest.approx({f"n{i}": 2 * 2 * i**2 / (2 * (25 + 1)) for i in (1, 2, 3)})
