"""The result in one line, as a reader would say it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hqp_onnx.evaluation.metrics import Quantity
from hqp_onnx.job.results import EngineRow, Report
from hqp_onnx.report.words import result

TOP1, MAE, MIOU = Quantity("top1"), Quantity("mae", "px", higher=False), Quantity("miou")


@pytest.mark.parametrize(
    ("q", "speedup", "size", "drop", "said"),
    [
        (
            TOP1,
            3.31,
            43,
            (0.012, 0.008, 0.016),
            "3.3 times as fast, 43 times smaller, 1.2 points less accurate (0.8 to 1.6)",
        ),
        (
            TOP1,
            12.4,
            1.0,
            (-0.002, -0.004, 0.001),
            "12 times as fast, as large, 0.2 points more accurate (-0.1 to 0.4)",
        ),
        (TOP1, 1.01, 3.96, (0.0, 0.0, 0.0), "As fast as the original, 4.0 times smaller, as accurate"),
        (TOP1, 0.8, 0.5, (0.0004, None, None), "0.80 times as fast, 2.0 times larger, 0.04 points less accurate"),
        (MAE, 2.0, 2.0, (0.31, 0.2, 0.4), "2.0 times as fast, 2.0 times smaller, 0.31 px worse in mae (0.2 to 0.4)"),
        (
            MIOU,
            2.0,
            2.0,
            (0.02, 0.01, 0.03),
            "2.0 times as fast, 2.0 times smaller, 2.0 points worse in miou (1.0 to 3.0)",
        ),
    ],
)
def test_the_result_in_words(
    returned: Report, q: Quantity, speedup: float, size: float, drop: tuple[float, float, float], said: str
) -> None:
    amount, low, high = drop
    row = replace(returned.hqp, speedup=speedup, bytes=1000, drop=amount, drop_low=low, drop_high=high)
    base = replace(returned.baseline, bytes=round(1000 * size))
    assert result(replace(returned, baseline=base, hqp=row, ships="hqp", metric=q)) == said


def test_an_engine_has_no_ratio_of_times(returned: Report) -> None:
    judged = {
        name: getattr(returned.hqp, name) for name in EngineRow.__dataclass_fields__ if hasattr(returned.hqp, name)
    }
    engine = EngineRow(**{**judged, "latency_ms": 1.5}, admitted=True, latency_p99_ms=2.0, batch=1)
    assert result(replace(returned, engine=engine)).startswith("1.500 ms on the GPU, ")
