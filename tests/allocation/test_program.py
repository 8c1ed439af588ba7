"""The program against every choice that there is."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from hqp_onnx.allocation.curves import curves_around, measured_curves
from hqp_onnx.allocation.groups import Group, Groups
from hqp_onnx.allocation.program import Program
from hqp_onnx.allocation.search import Allocation, Point, between, front, refine
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


def nowhere(done: int, total: int) -> None:
    pass


class Clock:
    """Times of ``table``, of which the first table that is fitted may know nothing but the first group's."""

    def __init__(self, blind: bool = True) -> None:
        self.blind = blind

    def seconds(self, choice: np.ndarray) -> float:
        return table().seconds(groups().widths(choice))

    def tables(self) -> list[TimeTable]:
        blind = TimeTable({"a": table().kernels["a"]}, 8.0, 0.5)
        return [blind, table()] if self.blind else [table()]


def fastest_within(limit: float):
    return lambda points: min(points, key=lambda point: (point.divergence > limit, point.seconds))


def made(measure=loss) -> Allocation:
    of = groups()
    return Allocation(of, [Program(of, table())], measured_curves(of, measure, nowhere), measure, measure)


@pytest.mark.parametrize("begin", [1, 2])
def test_a_refinement_ends_with_the_fastest_choice_of_a_divergence(begin: int) -> None:
    allocation = made()
    seconds, path = allocation.program.seconds, allocation.path()
    assert [*map(seconds, path)] == sorted(map(seconds, path), reverse=True) and not path[0].any()
    limit = loss(path[3])
    found = refine(allocation, Clock(), path[begin], 1.2 * limit, fastest_within(limit), np.inf, nowhere)
    inside = [seconds(choice) for choice in all_choices(allocation.groups) if loss(choice) <= limit]
    assert found.best.divergence <= limit and found.best.seconds <= 1.02 * min(inside)
    for point in found.points:
        assert point.divergence == loss(point.choice) <= 1.2 * limit
        assert point.seconds == pytest.approx(seconds(point.choice))
    beyond = found.allocation.path(found.best.choice)
    times = [found.allocation.program.seconds(choice) for choice in beyond]
    assert (beyond[0] == found.best.choice).all() and times == sorted(times, reverse=True) and len(times) > 1


def test_what_is_best_is_measured_not_predicted() -> None:
    """By the clock, the first group's units are free, which neither table knows."""
    allocation, clock = made(), Clock()
    free = {name: kernel for name, kernel in table().kernels.items() if name == "c"}
    clock.seconds = lambda choice: TimeTable(free, 1.0, 0.0).seconds(groups().widths(choice))
    start = allocation.path()[2]
    found = refine(allocation, clock, start, 3 * loss(start), fastest_within(2 * loss(start)), np.inf, nowhere)
    assert found.best.seconds == min(point.seconds for point in found.points if point.divergence <= 2 * loss(start))


def test_the_least_divergence_for_a_time() -> None:
    allocation, clock = made(), Clock()
    start = np.array([0, 0, 4])
    limit = clock.seconds(start)

    def closest(points: list[Point]) -> Point:
        return min(points, key=lambda point: (point.seconds > limit, point.divergence))

    found = refine(allocation, clock, start, loss(start), closest, np.inf, nowhere)
    fast = [loss(choice) for choice in all_choices(allocation.groups) if clock.seconds(choice) <= limit]
    assert found.best.seconds <= limit and found.best.divergence <= 1.1 * min(fast) < loss(start)


def test_no_round_begins_after_the_end() -> None:
    allocation, reported = made(), []
    path = allocation.path()
    most, pick = loss(allocation.groups.least), fastest_within(loss(path[4]))
    refine(allocation, Clock(), path[1], most, pick, 0.0, lambda done, total: reported.append((done, total)))
    assert reported == [(1, 3)]


def test_curves_around_a_choice_are_what_was_measured_there() -> None:
    of = groups()
    curves = measured_curves(of, loss, lambda done, total: None)
    choice = np.array([1, 1, 2])
    local = curves_around(of, curves, choice, loss, [2, 0, 1], np.inf, nowhere)
    for number, curve in enumerate(local):
        assert curve[choice[number]] == 0
        up = choice.copy()
        up[number] += 1
        assert curve[choice[number] + 1] == pytest.approx(loss(up) - loss(choice))
        down = choice.copy()
        down[number] -= 1
        assert curve[choice[number] - 1] == pytest.approx(loss(down) - loss(choice))
        for end in (0, len(curve) - 1):
            far = choice.copy()
            far[number] = end
            assert curve[end] == pytest.approx(loss(far) - loss(choice))
        assert (np.diff(curve) >= 0).all()


def test_groups_that_there_is_no_time_for_keep_their_own_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """One measurement takes a second; after those of the first group, the time is over."""
    of, seconds = groups(), [0.0]
    curves = measured_curves(of, loss, nowhere)

    def slow(choice: np.ndarray) -> float:
        seconds[0] += 1
        return loss(choice)

    monkeypatch.setattr("hqp_onnx.allocation.curves.perf_counter", lambda: seconds[0])
    choice = np.array([1, 1, 2])
    local = curves_around(of, curves, choice, slow, [1, 0, 2], 3.0, nowhere)
    assert local[1][2] == pytest.approx(loss(np.array([1, 2, 2])) - loss(choice))
    assert (local[0] == curves[0] - curves[0][1]).all() and (local[2] == curves[2] - curves[2][2]).all()


def test_groups_that_take_most_time_come_first() -> None:
    """Of kernels a, b and c: 3 + 9.6 of the first group, 9.6 + 2.4 of the second, 5.2 of the third."""
    assert made().by_leverage() == [0, 1, 2]
    reversed_groups = Groups(groups().groups[::-1])
    kernels = {"c": KernelTime((Part((0,), ((0, 1.0),)),), (), 1), "a": KernelTime((Part((1,), ((0, 2.0),)),), (), 1)}
    program = Program(reversed_groups, TimeTable(kernels, 0.5, 0.0))
    assert replace(made(), groups=reversed_groups, programs=[program]).by_leverage() == [1, 0, 2]


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
    for choice in (np.array([1, 1, 1]), np.array([0, 1, 2])):
        limit = choice.max()
        local = curves_around(
            of, curves, choice, lambda c, most=limit: np.inf if c.max() > most else 0.0, range(3), np.inf, nowhere
        )
        assert not any(np.isnan(curve).any() for curve in local)
        assert all(curve[level] == 0 for curve, level in zip(local, choice, strict=True))


def test_the_front_holds_what_no_other_beats() -> None:
    points = [
        Point(np.array([n]), *pair)
        for n, pair in enumerate([(0, 3), (0, 2), (1, 2.5), (2, 1), (2, 1.5), (np.inf, 0.5)])
    ]
    assert [int(point.choice[0]) for point in front(points)] == [1, 3]


def test_between_choices_that_are_far_apart_lie_others() -> None:
    ends = [Point(np.array(levels), d, 1.0) for levels, d in (((0, 0, 0), 0.0), ((1, 0, 4), 1.0), ((3, 2, 4), 1.2))]
    found = [choice.tolist() for choice in between(ends)]
    assert found == [[0, 0, 1], [0, 0, 2], [1, 0, 3]]
    assert not [*between(ends[1:])]
