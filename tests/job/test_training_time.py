"""How a search shares the time of --recover-time."""

import numpy as np
import pytest

from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.job.candidate import Candidate, Precision
from hqp_onnx.job.ledger import Trial
from hqp_onnx.job.training_time import PROBES, STAGES, TrainingTime

FP32, INT8 = Precision.FP32, Precision.INT8


def trial(precision: Precision, seconds: float, trained: bool = True, key: str = "") -> Trial:
    return Trial(key or str(seconds), precision.value, 0, trained, 1, 0.1, 0.9, True, 1, 1, True, "", seconds)


def candidate(precision: Precision, stage: int = 0) -> Candidate:
    return Candidate(PruningPlan(np.zeros(0, np.int64)), precision, trained=True, stage=stage)


def test_without_a_limit_there_is_none() -> None:
    assert TrainingTime((), {}).share(candidate(FP32)) is None


def test_a_search_is_over_in_its_time() -> None:
    """Three quarters for the floats: probes, then four equal parts; half of the rest for each INT8 model."""
    trials: dict[str, Trial] = {"a": trial(FP32, 500.0, trained=False)}
    time = TrainingTime((640.0,), trials)
    time.expect(INT8)
    for number in range(5):
        assert time.share(candidate(FP32)) == pytest.approx(480 / PROBES)
        trials[f"probe {number}"] = trial(FP32, 16.0)
    for stage in range(1, STAGES + 1):
        assert time.share(candidate(FP32, stage)) == pytest.approx(100)
        trials[f"stage {stage}"] = trial(FP32, 100.0)
    assert time.share(candidate(INT8, STAGES)) == pytest.approx(80)
    trials["int8"] = trial(INT8, 80.0)
    assert time.share(candidate(INT8, STAGES)) == pytest.approx(40)


def test_what_one_does_not_need_others_have() -> None:
    trials: dict[str, Trial] = {}
    time = TrainingTime((400.0,), trials)
    time.expect(FP32)
    assert time.share(candidate(FP32, 1)) == pytest.approx(100)
    trials["a"] = trial(FP32, 10.0)
    assert time.share(candidate(FP32, 2)) == pytest.approx(390 / 3)
    assert time.share(candidate(FP32, STAGES)) == pytest.approx(390)


def test_there_is_always_time_to_judge_the_start() -> None:
    time = TrainingTime((5.0,), {"a": trial(FP32, 10.0)})
    time.expect(INT8)
    assert time.share(candidate(FP32)) == time.share(candidate(INT8)) == 1.0


def test_a_verdict_ends_a_training() -> None:
    """More time is another stage, with a verdict of its own."""
    time = TrainingTime((5.0,), {candidate(FP32, 1).key: trial(FP32, 1.0)})
    assert time.judged(candidate(FP32, 1))
    assert not time.judged(candidate(FP32, 2))
    assert not time.judged(candidate(FP32))


def test_more_time_is_as_many_stages_again() -> None:
    """What the first run did not use is there as well; probes are those of the first run."""
    trials = {"all of the first run": trial(FP32, 70.0)}
    time = TrainingTime((100.0, 470.0), trials)
    time.expect(FP32)
    assert time.last == 2 * STAGES and TrainingTime((), {}).last == STAGES
    assert time.share(candidate(FP32)) == pytest.approx(100 / PROBES)
    assert time.share(candidate(FP32, STAGES)) == pytest.approx(30)
    assert time.share(candidate(FP32, STAGES + 1)) == pytest.approx(100)
    trials["another"] = trial(FP32, 100.0)
    assert time.share(candidate(FP32, STAGES + 2)) == pytest.approx(100)
    assert time.share(candidate(FP32, 2 * STAGES)) == pytest.approx(300)
