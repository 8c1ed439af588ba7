"""How a search shares the time of --recover-time."""

import pytest

from hqp_onnx.job.candidate import Precision
from hqp_onnx.job.ledger import Trial
from hqp_onnx.job.training_time import TrainingTime

FP32, INT8 = Precision.FP32, Precision.INT8


def trial(precision: Precision, seconds: float, trained: bool = True) -> Trial:
    return Trial(str(seconds), precision.value, 0, trained, 1, 0.1, 0.9, True, 1, 1, True, "", seconds)


def test_without_a_limit_there_is_none() -> None:
    assert TrainingTime(None, {}).share(FP32) is None


def test_a_search_is_over_in_its_time() -> None:
    """Of 8 candidates 3 are trained in float32, and one in INT8: a fifth each, and a third of the rest."""
    trials: dict[str, Trial] = {"a": trial(FP32, 500.0, trained=False)}
    time = TrainingTime(500.0, trials)
    time.expect(8, INT8)
    for number in range(3):
        assert time.share(FP32) == pytest.approx(100)
        trials[str(number)] = trial(FP32, 100.0)
    assert time.share(INT8) == pytest.approx(200 / 3)
    trials["int8"] = trial(INT8, 50.0)
    assert time.share(FP32) == time.share(INT8) == pytest.approx(50)


def test_what_one_does_not_need_others_have() -> None:
    trials: dict[str, Trial] = {}
    time = TrainingTime(400.0, trials)
    time.expect(8, FP32)
    assert time.share(FP32) == pytest.approx(400 / 3)
    trials["a"] = trial(FP32, 10.0)
    assert time.share(FP32) == pytest.approx(390 / 2)


def test_there_is_always_time_to_judge_the_start() -> None:
    time = TrainingTime(5.0, {"a": trial(FP32, 10.0)})
    time.expect(1, INT8)
    assert time.share(FP32) == time.share(INT8) == 1.0
