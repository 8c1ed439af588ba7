"""Which candidates are trained, how long and from which start, against a network whose need of time is known."""

import pytest

from hqp_onnx.job.narrowing import narrow
from hqp_onnx.job.training_time import STAGES

Asked = list[tuple[int, int, "int | None"]]


class Network:
    """Candidate ``n`` needs ``need ** n`` units of training, of which a line of weights keeps all that it had."""

    def __init__(self, need: float, probe: float = 1.0, stage: float = 8.0) -> None:
        self.need, self.seconds = need, {0: probe, **dict.fromkeys(range(1, STAGES + 1), stage)}
        self.had: dict[int, float] = {}
        self.asked: Asked = []

    def admits(self, number: int, stage: int, longest: int | None) -> bool:
        self.asked.append((number, stage, longest))
        carried = 0.0 if longest is None else self.had[longest]
        self.had[number] = max(self.had.get(number, 0.0), carried) + self.seconds[stage]
        return self.had[number] >= self.need**number


def test_most_of_the_time_goes_to_the_model_that_ships() -> None:
    """A third more for each number: probes of about a unit reach number 3, a line of 32 units number 12."""
    network = Network(1.35)
    (best, _), *_ = narrow("bisect", 30, STAGES, network.admits)
    probes = [number for number, stage, _ in network.asked if not stage]
    assert len(probes) == 5
    assert best == 11  # 36 units were trained in all, and number 12 needs 36.6
    assert network.had[best] > 0.75 * sum(network.seconds[stage] for _, stage, _ in network.asked)


def test_the_line_of_weights_is_carried_on() -> None:
    network = Network(1.35)
    narrow("bisect", 30, STAGES, network.admits)
    walk = [(number, longest) for number, stage, longest in network.asked if stage]
    assert len(walk) == STAGES
    assert all(longest == before for (_, longest), (before, _) in zip(walk[1:], walk, strict=False))


def test_one_that_is_refused_is_trained_on() -> None:
    """Number 1 needs 25 units: three of the four stages."""
    network = Network(25.0)
    assert narrow("bisect", 30, STAGES, network.admits)[0] == (1, 3)
    assert [number for number, stage, _ in network.asked if stage] == [1, 1, 1, 3]


def test_nothing_is_admitted_but_number_0() -> None:
    assert narrow("bisect", 30, STAGES, Network(1e9).admits) == [(0, STAGES)]
    assert narrow("bisect", 0, STAGES, Network(1e9).admits) == [(0, STAGES)]


def test_what_needs_no_time_is_not_trained_on() -> None:
    network = Network(0.5)
    assert narrow("bisect", 6, STAGES, network.admits)[0] == (6, 0)
    assert all(stage == 0 for _, stage, _ in network.asked)


@pytest.mark.parametrize("need", [1.1, 1.3, 1.6, 2.2, 3.0])
def test_what_was_admitted_is_never_trained_again(need: float) -> None:
    """Its file would hold other weights than those that were judged."""
    network, admitted = Network(need), set[int]()

    def admits(number: int, stage: int, longest: int | None) -> bool:
        assert number not in admitted
        found = network.admits(number, stage, longest)
        admitted.update([number] if found else [])
        return found

    found = narrow("bisect", 30, STAGES, admits)
    assert {number for number, _ in found} == {0, *admitted}
    assert [number for number, _ in found] == sorted({0, *admitted}, reverse=True)


def test_with_more_stages_the_walk_goes_on_where_it_ended() -> None:
    once, twice = Network(1.35), Network(1.35)
    twice.seconds |= dict.fromkeys(range(STAGES + 1, 2 * STAGES + 1), 8.0)
    found, further = narrow("bisect", 60, STAGES, once.admits), narrow("bisect", 60, 2 * STAGES, twice.admits)
    assert twice.asked[: len(once.asked)] == once.asked and len(twice.asked) == len(once.asked) + STAGES
    assert further[0] > found[0]
