"""What the file of a candidate says of it."""

from __future__ import annotations

from hqp_onnx.graphs.record import Record
from hqp_onnx.job.candidate import Candidate
from hqp_onnx.job.goal import Goal
from hqp_onnx.job.judge import Judge
from hqp_onnx.job.setup import Setup


def record_of(setup: Setup, judge: Judge, candidate: Candidate) -> Record:
    """What was done, and what the candidate was held to; a speed that was asked for is no budget."""
    units = len(candidate.plan), len(setup.channels.prunable)
    quantity = setup.metric.quantity
    budget = quantity.limit(judge.budget.max_drop) if Goal.of(setup.options) is None else ""
    return Record(setup.model.digest, units, candidate.computes_in, quantity.name, budget)
