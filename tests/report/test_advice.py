"""What a report advises: a simpler model where it is as good, and only there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hqp_onnx.job.results import Report
from hqp_onnx.report.advice import advice


@pytest.mark.parametrize(
    ("speedup", "drop", "advised"),
    [
        (4.0, 0.010, "is as fast as what ships"),
        (4.0, 0.009999999, "It is as fast as what ships."),  # which loses 0.00 points less
        (3.8, 0.002, "takes 5 % more time than what ships and loses 0.80 points less"),
        (5.0, 0.010, "takes 20 % less time than what ships"),  # in another precision than was asked for
        (3.0, 0.000, ""),  # slower
        (4.0, 0.011, ""),  # loses more
    ],
)
def test_a_simpler_model_is_named_where_it_is_as_good(
    returned: Report, speedup: float, drop: float, advised: str
) -> None:
    assert returned.q8_only is not None
    ships = replace(returned.hqp, speedup=4.0, drop=0.010)
    simple = replace(returned.q8_only, speedup=speedup, drop=drop)
    slow = replace(returned.pruned, speedup=1.0)
    files = {"hqp": "int8.onnx", "q8_only": "q8_only.onnx", "pruned": "pruned.onnx"}
    report = replace(returned, hqp=ships, q8_only=simple, pruned=slow, ships="hqp", files=files)
    said = " ".join(advice(report))
    assert (advised in said and "q8_only.onnx" in said) if advised else not said
    outside = replace(report, files={"hqp": "int8.onnx"})
    assert not advice(outside)  # it is no file of the budget


def test_where_little_was_gained_it_says_what_may_help(returned: Report) -> None:
    slow = replace(returned.hqp, speedup=1.02)
    report = replace(returned, hqp=slow, ships="hqp")
    assert "larger budget" in " ".join(advice(report))
    ended = (*report.notes, "the time limit of 240 s ended the search at 'times', with 1 candidate judged")
    assert "--resume goes on" in " ".join(advice(replace(report, notes=ended)))
    stuck = replace(report, units=replace(report.units, prunable=0))
    assert "No channels can be removed" in " ".join(advice(stuck))
