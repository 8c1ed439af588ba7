"""How long a recovery is, and in which steps."""

import pytest

from hqp_onnx.errors import UsageError
from hqp_onnx.recovery import Recovery
from hqp_onnx.recovery.samples import MOST_HELD, split
from hqp_onnx.recovery.schedule import FEWEST, MOST, Schedule


def test_a_number_of_epochs_is_taken_as_it_is():
    schedule = Schedule.of(Recovery(3), 1000)
    assert (schedule.batch, schedule.epoch, schedule.steps, schedule.round) == (16, 62, 186, 62)
    assert schedule.patience == 0
    assert schedule.epochs == 3


def test_a_batch_is_a_multiple_of_what_is_run_and_at_most_all():
    assert Schedule.of(Recovery(1, batch=16), 1000, 6).batch == 12
    assert Schedule.of(Recovery(1, batch=16), 1000, 24).batch == 24
    assert Schedule.of(Recovery(1, batch=16), 9).batch == 9


def test_auto_takes_fewer_epochs_of_more_samples():
    epochs = [Schedule.of(Recovery("auto"), count).epochs for count in (100, 1800, 9000, 40_000, 10**6)]
    assert epochs[0] == MOST
    assert epochs[-1] == FEWEST
    assert epochs == sorted(epochs, reverse=True)
    assert Schedule.of(Recovery("auto").quantized, 1800).epochs == epochs[1] // 2
    assert Schedule.of(Recovery("auto", seconds=60), 1800).epochs == 4 * epochs[1]


def test_auto_takes_larger_batches_of_more_samples_unless_one_is_asked_for():
    batches = [Schedule.of(Recovery("auto"), count).batch for count in (100, 3999, 4000, 20_000)]
    assert batches == [16, 16, 32, 32]
    assert Schedule.of(Recovery("auto", batch=8), 20_000).batch == 8


def test_rounds_of_many_samples_are_parts_of_an_epoch():
    for settings in (Recovery("auto"), Recovery(2, seconds=60)):
        schedule = Schedule.of(settings, 100_000)
        assert 5000 < schedule.round * schedule.batch <= 10_000
    assert Schedule.of(Recovery("auto"), 1000).round == 1000 // 16


def test_what_judges_is_bounded():
    auto, asked = (split(100_000, Recovery(epochs), 4)[1] for epochs in ("auto", 1))
    assert (len(auto), len(asked)) == (MOST_HELD, 10_000)
    assert len(split(200, Recovery("auto"), 1)[1]) == 20


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf")])
def test_a_time_is_above_zero(seconds):
    with pytest.raises(UsageError, match="expected a time above 0"):
        Recovery("auto", seconds=seconds)
