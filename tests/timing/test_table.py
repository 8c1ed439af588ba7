"""Tables of made-up runtimes, whose times are known."""

from __future__ import annotations

import numpy as np
import pytest

from hqp_onnx.allocation.groups import Group, Groups
from hqp_onnx.allocation.program import Program
from hqp_onnx.runtimes.kernels import Kernel
from hqp_onnx.timing import fit
from hqp_onnx.timing.fit import Configuration, _balanced, fit_table
from hqp_onnx.timing.kernel_times import KeyTime, by_key
from hqp_onnx.timing.table import KernelTime, Part, TimeTable

SIZES = (64, 48, 32)  # the last group is a branch that may go


def seconds(widths: tuple[int, int, int]) -> dict[str, float]:
    """Two convolutions of 16 channels a block, and a branch."""
    _, b, c = widths
    blocks = [-(-x // 16) * 16 for x in widths]
    times = {"conv1": 2e-6 + 1e-8 * blocks[0], "conv2": 1e-6 + 3e-9 * blocks[0] * blocks[1]}
    if c:
        times["branch"] = 5e-6 + 2e-9 * b * c
    return times


def shapes(key: str, widths: tuple[int, int, int]) -> tuple[tuple[int, ...], ...]:
    first, second = (-(-x // 16) * 16 for x in widths[:2])
    return {
        "conv1": ((1, 3, 8, 8), (1, first, 8, 8)),
        "conv2": ((1, first, 8, 8), (second, first, 3, 3), (1, second, 8, 8)),
        "branch": ((1, widths[1], 8, 8), (1, widths[2], 8, 8)),
    }[key]


def configuration(widths: tuple[int, int, int], slower: float = 1.0, clock: float = 0.0) -> Configuration:
    """A profiler that multiplies times by ``slower`` and adds ``clock`` to each; the model takes 4 us besides."""
    true = seconds(widths)
    kernels = {key: KeyTime(slower * t + clock, 1, shapes(key, widths)) for key, t in true.items()}
    return Configuration(np.array(widths), kernels, sum(true.values()) + 4e-6)


def random_widths(count: int) -> list[tuple[int, int, int]]:
    rng = np.random.default_rng(0)
    return [
        (int(rng.integers(1, 65)), int(rng.integers(1, 49)), int(rng.choice([0, 8, 16, 24, 32]))) for _ in range(count)
    ]


@pytest.mark.parametrize(("slower", "clock"), [(1.0, 0.0), (1.3, 1.5e-6)])
def test_a_table_predicts_configurations_that_it_has_not_seen(slower: float, clock: float) -> None:
    table = fit_table([configuration(SIZES), *(configuration(w, slower, clock) for w in random_widths(40))][1:], 3)
    assert table.error < 0.05
    for widths in [SIZES, (20, 40, 0), (1, 1, 32)]:
        assert table.seconds(np.array(widths)) == pytest.approx(sum(seconds(widths).values()) + 4e-6, rel=0.1)


def test_what_took_no_time_judges_no_table() -> None:
    fitted = [configuration(w) for w in random_widths(20)]
    gone = Configuration(np.array([0, 0, 0]), {}, 0.0)
    errors = [fit_table([*fitted, *more], 3).error for more in ([gone], [])]
    assert errors[0] == pytest.approx(errors[1]) and fit_table([gone] * 3, 3).error == 0


def test_a_kernel_goes_with_its_branch_and_knows_its_groups_and_blocks() -> None:
    table = fit_table([configuration(w) for w in random_widths(40)], 0)
    branch, conv = table.kernels["branch"], table.kernels["conv2"]
    assert branch.owners == (2,) and branch.seconds(np.array([64, 48, 0])) == 0
    assert {group for part in branch.parts for group in part.groups} <= {1, 2}
    assert conv.owners == ()
    for group, seen in enumerate(zip(*(widths[:2] for widths in random_widths(40)), strict=True)):
        assert conv.rounded(group, np.array(seen)).tolist() == [-(-x // 16) * 16 for x in seen]
    assert {group for part in conv.parts for group in part.groups} <= {0, 1}


def test_sizes_that_the_runtime_pads_stand_for_widths() -> None:
    """Below 16 channels a kernel works on what there are, from 16 on in whole blocks; then its name is another, too."""

    def padded(width: int) -> int:
        return width if width < 16 else -(-width // 16) * 16

    def run(width: int) -> Configuration:
        shape = ((1, padded(width), 8, 8), *([(1, width, 8, 8)] if width % 16 else []))
        time = 1e-6 + 1e-7 * padded(width)
        return Configuration(np.array([width]), {"conv": KeyTime(time, 1, shape)}, time)

    table = fit_table([run(width) for width in range(4, 65, 4)], 0)
    for width in range(4, 65, 4):
        assert table.seconds(np.array([width])) == pytest.approx(run(width).seconds, rel=0.02)
    assert table.seconds(np.array([128])) == pytest.approx(13.8e-6, rel=0.1)


def test_kernels_may_be_slower_on_few_channels_than_on_more() -> None:
    """As those of INT8 whose outputs fill no register: seen in no shape, only in the times."""

    def run(width: int, inputs: int) -> Configuration:
        time = 1e-6 + 1e-8 * width + (2e-8 if width < 16 else 1e-8) * 16 * inputs
        shapes = ((1, inputs, 8, 8), (1, width, 8, 8))
        return Configuration(np.array([width, inputs]), {"conv": KeyTime(time, 1, shapes)}, time)

    widths = [(width, inputs) for width in range(4, 41, 4) for inputs in (5, 17, 30)]
    table = fit_table([run(*each) for each in widths], 0)
    for each in widths:
        assert table.seconds(np.array(each)) == pytest.approx(run(*each).seconds, rel=0.03)
    of = Groups(tuple(Group(w, (np.arange(0), np.arange(w - 12)), np.arange(2.0)) for w in (40, 30)))
    choice = np.array([1, 0])
    assert Program(of, table).seconds(choice) == pytest.approx(table.seconds(of.widths(choice)))
    assert Program(of, table).seconds(choice) == pytest.approx(run(12, 30).seconds, rel=0.03)


@pytest.mark.parametrize(("slower", "near"), [((1.0, 1.0), 1e-6), ((3.0, 0.5), 0.05)])
def test_the_clock_corrects_kernels_whose_profile_is_wrong(slower: tuple[float, float], near: float) -> None:
    """Each by a factor of its own; what is right stays as it is."""
    kernels = {str(g): KernelTime((Part((g,), ((0.0, 1e-7),)),), (), 1) for g in (0, 1)}
    rng = np.random.default_rng(0)
    timed = [
        Configuration(widths, {}, 2e-6 + 1e-7 * float(np.dot(slower, widths)))
        for widths in rng.integers(1, 64, (40, 2))
    ]
    table = _balanced(TimeTable(kernels, 2e-6, 0.0), timed)
    errors = [abs(table.seconds(c.widths) / c.seconds - 1) for c in timed]
    assert np.mean(errors) < near


def test_factors_are_found_where_the_active_set_goes_in_circles(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    matrix, true = rng.uniform(0, 1, (30, 4)) * [1, 1e-6, 1e6, 0], np.array([2.0, 3e6, 0.0, 0.0])
    for solver in (fit.nnls, circling):
        monkeypatch.setattr(fit, "nnls", solver)
        found, left = fit._nonnegative(matrix, matrix @ true)
        assert matrix @ found == pytest.approx(matrix @ true, rel=1e-4) and found.min() >= 0 and left < 1e-3


def circling(*_: object) -> None:
    raise RuntimeError("Maximum number of iterations reached.")


def test_kernels_of_unknown_names_count_with_the_one_before() -> None:
    kernels = [
        Kernel(("/a/Conv",), ((1, 8),), 1.0),
        Kernel(("ReorderOutput_3",), ((1, 8),), 0.5),
        Kernel(("y_fused_token",), ((1, 4),), 2.0),
        Kernel(("/a/Conv_2/FusedAdd",), (), 0.25),
    ]
    times = by_key(kernels, {"/a/Conv", "/a/Conv_2", "y"})
    assert {key: time.seconds for key, time in times.items()} == {"/a/Conv": 1.5, "y": 2.0, "/a/Conv_2": 0.25}
    assert times["/a/Conv"].count == 2


def test_a_kernel_below_the_clock_takes_no_time_and_equal_knots_are_one() -> None:
    """Two widths only: both quantiles of them are the same."""
    configurations = [
        Configuration(
            np.array([width]),
            {"reshape": KeyTime(0.0, 1, ((width,),)), "conv": KeyTime(0.1 * width, 1, ((width,),))},
            0.1 * width,
        )
        for width in (8, 32, 32, 32, 8, 32, 32, 32)
    ]
    table = fit_table(configurations, 0)
    assert table.kernels["reshape"].seconds(np.array([8])) == 0
    assert table.seconds(np.array([32])) == pytest.approx(3.2, rel=0.02)


def test_a_configuration_without_products_tells_nothing_of_the_others() -> None:
    """Multiply-accumulates stand for time, and the least widths leave none."""
    counted = [
        Configuration(np.array(w), {"conv": KeyTime(1e-12 * w[0] * w[1], 1, ())}, 1e-12 * w[0] * w[1])
        for w in random_widths(12)
    ]
    nothing = Configuration(np.zeros(3, int), {}, 0.0)
    with_it, without = fit_table([*counted, nothing], 0), fit_table(counted, 0)
    assert with_it.seconds(np.array(SIZES)) == pytest.approx(without.seconds(np.array(SIZES)))
    assert fit_table([nothing, nothing], 0).seconds(np.array(SIZES)) == 0


@pytest.mark.parametrize("seed", [33, 78, 107])
def test_kernels_that_say_nothing_of_the_times_leave_their_mean(seed: int) -> None:
    """As many kernels in each, so that what each loses and what is between them are one."""
    rng = np.random.default_rng(seed)
    work, times = 1e-9 * rng.uniform(0.3, 1, 10), 3e-5 * rng.uniform(0.9, 1.1, 10)
    configurations = [
        Configuration(np.array([width]), {"conv": KeyTime(float(seconds), 12, ())}, float(whole))
        for width, seconds, whole in zip(range(8, 48, 4), work, times, strict=True)
    ]
    assert fit_table(configurations, 0).seconds(np.array([20])) == pytest.approx(3e-5, rel=0.1)
