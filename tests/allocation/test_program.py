"""The program against every choice that there is."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest

from hqp_onnx.allocation.curves import curves_around, measured_curves
from hqp_onnx.allocation.groups import Group, Groups
from hqp_onnx.allocation.program import Program
from hqp_onnx.allocation.search import Allocation
from hqp_onnx.timing.table import KernelTime, Part, TimeTable


def groups() -> Groups:
    """Three groups of 8 units with levels of 2; the last may go."""
    made, first = [], 0
    for most in (6, 6, 8):
        levels = tuple(np.arange(first, first + count) for count in range(0, most + 1, 2))
        made.append(Group(8, levels, np.linspace(0, 1, len(levels)) ** 2))
        first += 8
    return Groups(tuple(made))


def table() -> TimeTable:
    kernels = {
        "a": KernelTime((Part((), ((0, 1.0),)), Part((0,), ((0, 0.5),))), (), 1),
        "b": KernelTime((Part((0, 1), ((0, 0.1), (30, 0.2))),), (), 4),
        "c": KernelTime((Part((), ((0, 2.0),)), Part((1, 2), ((0, 0.05),))), (2,), 1),
    }
    return TimeTable(kernels, 0.5, 0.0)


def all_choices(of: Groups) -> list[np.ndarray]:
    return [np.array(levels) for levels in product(*(range(len(group.levels)) for group in of.groups))]


def test_the_program_sees_the_times_of_the_table() -> None:
    of, times = groups(), table()
    program = Program(of, times)
    for choice in all_choices(of):
        assert program.seconds(choice) == pytest.approx(times.seconds(of.widths(choice)))


@pytest.mark.parametrize("share", [0.25, 0.4, 0.55, 0.7, 0.9])
def test_the_choice_is_the_best_of_all(share: float) -> None:
    of, times = groups(), table()
    program, rng = Program(of, times), np.random.default_rng(3)
    losses = [np.concatenate([[0], np.cumsum(rng.random(len(g.levels) - 1))]) for g in of.groups]
    limit = share * program.seconds(of.whole)
    chosen = program.solve(losses, limit)
    inside = [c for c in all_choices(of) if times.seconds(of.widths(c)) <= limit]
    assert chosen is not None and times.seconds(of.widths(chosen)) <= limit * (1 + 1e-6)
    best = min(sum(loss[level] for loss, level in zip(losses, c, strict=True)) for c in inside)
    assert sum(loss[level] for loss, level in zip(losses, chosen, strict=True)) == pytest.approx(best, rel=2e-3)
    near = program.solve(losses, limit, of.whole, 1)
    assert near is None or near.max() <= 1


def test_no_choice_is_fast_enough() -> None:
    program = Program(groups(), table())
    assert program.solve([group.costs for group in groups().groups], 0.1) is None


def loss(choice: np.ndarray) -> float:
    """What groups lose adds up to more than its sum."""
    total = float(np.dot([1.0, 3.0, 0.5], np.square(choice)))
    return total + 0.3 * float(choice[0] * choice[1])


def test_a_descent_gets_faster_within_its_threshold_and_beats_the_sum_of_curves() -> None:
    of = groups()
    program = Program(of, table())
    curves = measured_curves(of, loss, lambda done, total: None)
    allocation = Allocation(of, program, curves, loss)
    path = allocation.path()
    times = [program.seconds(choice) for choice in path]
    assert times == sorted(times, reverse=True) and (path[0] == 0).all()
    start, threshold = path[1], loss(path[3])
    found = list(allocation.descent(start, threshold))
    seconds = [program.seconds(choice) for choice in found]
    assert seconds == sorted(seconds, reverse=True) and seconds[-1] < program.seconds(start)
    assert max(map(loss, found)) <= threshold
    inside = [program.seconds(c) for c in all_choices(of) if loss(c) <= threshold]
    assert seconds[-1] <= 1.1 * min(inside)
    front = allocation.front([*path, *found])
    assert all(loss(a) < loss(b) for a, b in pairwise(front))


def test_between_two_choices_lie_faster_ones() -> None:
    of = groups()
    allocation = Allocation(of, Program(of, table()), measured_curves(of, loss, lambda done, total: None), loss)
    slow, fast = of.whole, of.least
    found = allocation.between(slow, fast)
    seconds = [allocation.program.seconds(choice) for choice in (slow, *found, fast)]
    assert found and all(a > b for a, b in pairwise(seconds))
    assert all((slow <= choice).all() and (choice <= fast).all() for choice in found)
    assert allocation.between(slow, slow) == []


def test_a_descent_of_slow_measurements_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One measurement takes a second; what surrounds a choice would take seven of the eight that there are."""
    of, seconds = groups(), [0.0]
    curves = measured_curves(of, loss, lambda done, total: None)

    def slow(choice: np.ndarray) -> float:
        seconds[0] += 1
        return loss(choice)

    for module in ("curves", "search"):
        monkeypatch.setattr(f"hqp_onnx.allocation.{module}.perf_counter", lambda: seconds[0])
    allocation = Allocation(of, Program(of, table()), curves, slow)
    path = allocation.path()
    assert list(allocation.descent(path[1], loss(path[3]), 8.0))
    assert seconds[0] <= 8 + 3  # a last step, and what is around it: the choice itself and one group


def test_curves_around_a_choice_are_what_was_measured_there() -> None:
    of = groups()
    curves = measured_curves(of, loss, lambda done, total: None)
    choice = np.array([1, 1, 2])
    local = curves_around(of, curves, choice, loss)
    for number, curve in enumerate(local):
        assert curve[choice[number]] == 0
        up = choice.copy()
        up[number] += 1
        assert curve[choice[number] + 1] == pytest.approx(loss(up) - loss(choice))
        down = choice.copy()
        down[number] -= 1
        assert curve[choice[number] - 1] == pytest.approx(loss(down) - loss(choice))


def test_parts_with_several_owners_are_tables_of_two_groups() -> None:
    of = groups()
    kernel = KernelTime((Part((0,), ((0, 1.0),)),), (0, 2), 1)
    program = Program(of, TimeTable({"k": kernel}, 0.5, 0.0))
    for choice in all_choices(of):
        assert program.seconds(choice) == pytest.approx(0.5 + kernel.seconds(of.widths(choice)))
    third = Program(of, TimeTable({"k": KernelTime((Part((0,), ((0, 1.0),)),), (0, 1, 2), 1)}, 0.5, 0.0))
    assert third.seconds(of.whole) == pytest.approx(8.5)


def test_infinite_divergences_end_a_curve_and_nothing_else() -> None:
    of = groups()
    curves = measured_curves(of, lambda choice: np.inf if choice.max() > 2 else 0.1 * choice.max(), lambda *_: None)
    for curve in curves:
        assert curve[0] == 0 and np.isinf(curve[-1]) and not np.isnan(curve).any()
    local = curves_around(of, curves, np.array([1, 1, 1]), lambda c: np.inf if c.max() > 1 else 0.0)
    assert not any(np.isnan(curve).any() for curve in local)


def test_the_front_holds_one_choice_for_each_divergence() -> None:
    of = groups()
    allocation = Allocation(of, Program(of, table()), [], lambda choice: float(choice[1] > 0))
    front = allocation.front([of.whole, np.array([1, 0, 0]), np.array([2, 0, 0]), np.array([2, 1, 0])])
    assert [choice.tolist() for choice in front] == [[2, 0, 0], [2, 1, 0]]
