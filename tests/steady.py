"""Latency without a clock: what ships of small models is else a matter of chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from hqp_onnx.evaluation.latency import Latency
from hqp_onnx.job import rows
from hqp_onnx.job.rows import Measured


def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """A smaller file is a faster model."""
    monkeypatch.setattr(rows, "latencies_of", by_size)


def by_size(models: Mapping[str, Measured], threads: Sequence[int], _: Any) -> dict[str, dict[int, Latency]]:
    first = next(iter(models.values())).bytes
    times = {name: Latency(x := model.bytes / 1e6, x, x, 9, first / model.bytes) for name, model in models.items()}
    return {name: dict.fromkeys(threads, time) for name, time in times.items()}
