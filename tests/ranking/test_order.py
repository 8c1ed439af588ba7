"""The order in which units are removed, and widths that stay aligned."""

from __future__ import annotations

import numpy as np
import pytest

from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis, PruningPlan
from hqp_onnx.errors import UsageError
from hqp_onnx.ranking.order import aligned, first_removed, removal_order, with_branches


def one_axis(units: int, frozen: dict[int, str] | None = None) -> ChannelMap:
    return ChannelMap(units, {ParamAxis("w", 0): np.arange(units)}, frozen or {}, {})


def test_order_is_ascending_without_frozen_units() -> None:
    scores = np.array([3.0, 1.0, 2.0, 0.0])
    assert removal_order(scores, one_axis(4, {3: "why"}), 0.0).tolist() == [1, 2, 0]


def test_the_last_units_of_a_branch_are_removed_together_for_their_sum() -> None:
    members = {ParamAxis("a", 0): np.arange(10), ParamAxis("b", 0): np.arange(10, 20)}
    channels = ChannelMap(20, members, {}, {}, (np.arange(10),))
    scores = with_branches(np.arange(20.0), channels, 0.25)
    assert scores.tolist() == [*range(7), 24, 24, 24, *range(10, 20)]  # 7 + 8 + 9
    assert removal_order(scores, channels, 0.25, branches=True).tolist() == [*range(7), *range(10, 17), 7, 8, 9]
    gains = np.where(np.arange(20) < 10, 2.0, 1.0)
    per_gain = with_branches(np.arange(20.0), channels, 0.25, gains)
    np.testing.assert_allclose(per_gain, [*np.arange(7) / 2, 4, 4, 4, *range(10, 20)])  # 24 / 6


def test_order_keeps_the_floor_of_every_line() -> None:
    members = {ParamAxis("a", 0): np.arange(10), ParamAxis("b", 0): np.arange(10, 20)}
    channels = ChannelMap(20, members, {}, {})
    order = removal_order(np.arange(20.0), channels, 0.25)
    kept = set(range(20)) - set(order.tolist())
    assert kept == {7, 8, 9, 17, 18, 19}
    assert len(removal_order(np.arange(20.0), channels, 0.0)) == 18  # one of each stays


def test_bad_values() -> None:
    with pytest.raises(UsageError, match=r"^min_width -0\.1: expected a share"):
        removal_order(np.zeros(1), one_axis(1), -0.1)
    with pytest.raises(UsageError, match=r"^multiple_of 0: expected 1 or more"):
        aligned(np.arange(0), one_axis(1), 0)


@pytest.mark.parametrize("multiple", [1, 2, 4, 8])
@pytest.mark.parametrize("removed", [0, 1, 5, 16, 30])
def test_aligned_widths_put_back_the_last_to_be_removed(multiple: int, removed: int) -> None:
    shared = np.arange(16)
    members = {ParamAxis("a", 0): shared, ParamAxis("b", 1): np.repeat(shared, 3), ParamAxis("c", 0): np.arange(16, 36)}
    channels = ChannelMap(36, members, {}, {})
    order = np.random.default_rng(removed).permutation(36)[:removed]
    kept = aligned(order, channels, multiple)
    for line in members.values():
        width = len(line) - np.isin(line, kept).sum()
        assert width % multiple == 0 or width == len(line)
        back = [unit for unit in order if unit in line and unit not in kept]
        stayed = [unit for unit in order if unit in line and unit in kept]
        assert [*stayed, *back] == [unit for unit in order if unit in line]  # a prefix of the order is removed
    if multiple == 1:
        assert kept.tolist() == order.tolist()


@pytest.mark.parametrize("scores", [[3.0, 1.0, 2.0, 0.0], [-3.0, -1.0, -2.0, -9.0], [np.inf, -np.inf, 2.0, np.nan]])
def test_units_that_come_first_are_removed_in_their_order(scores: list[float]) -> None:
    given = np.array(scores)
    changed = first_removed(given, [2, 0])
    assert removal_order(changed, one_axis(4), 0.0).tolist()[:2] == [2, 0]
    np.testing.assert_array_equal(given, scores)


def test_what_remains_keeps_its_unit_numbers() -> None:
    members = {ParamAxis("a", 0): np.arange(4), ParamAxis("b", 1): np.array([0, 0, 1, 1, 2, -1])}
    rest = ChannelMap(4, members, {3: "why"}, {}).without(PruningPlan(np.array([0, 2])))
    assert rest.members[ParamAxis("a", 0)].tolist() == [1, 3]
    assert rest.members[ParamAxis("b", 1)].tolist() == [1, 1, -1]
    assert rest.prunable.tolist() == [1]
    assert rest.frozen == {0: "removed", 2: "removed", 3: "why"}


def test_keep_and_only() -> None:
    members = {ParamAxis("conv1.w", 0): np.arange(4), ParamAxis("conv2.w", 0): np.arange(4, 8)}
    channels = ChannelMap(8, members, {0: "graph output"}, {})
    assert channels.restricted(keep=["conv2.*"]).prunable.tolist() == [1, 2, 3]
    assert channels.restricted(only=["conv2.*"]).prunable.tolist() == [4, 5, 6, 7]
    assert channels.restricted(keep=["*"]).frozen[0] == "graph output"
    with pytest.raises(UsageError, match=r"'conv3\.\*' matches no tensor"):
        channels.restricted(keep=["conv3.*"])
