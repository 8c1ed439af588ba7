"""The result in one line of plain words: how fast, how small, how good, beside the original."""

from __future__ import annotations

from hqp_onnx.evaluation.metrics import Quantity
from hqp_onnx.job.results import EngineRow, Report, Row

_SAME = 0.02  # of a ratio
_ACCURACIES = ("top1", "top5", "agreement", "token-accuracy")


def result(report: Report) -> str:
    """As "3.3 times as fast, 43 times smaller, 1.2 points less accurate (0.8 to 1.6)", of what ships."""
    row = report.all_rows[report.shipped_row]
    fast = f"{row.latency_ms:.3f} ms on the GPU" if isinstance(row, EngineRow) else speed(report, row)
    return f"{fast}, {_smaller(report.baseline.bytes, row.bytes)}, {_worse(report.metric, row)}"


def speed(report: Report, row: Row) -> str:
    """Of a row beside the original; of its multiply-accumulates where no times are known."""
    if not report.counted:
        return _faster(row)
    fewer = report.baseline.macs / max(row.macs, 1)
    return "As many multiply-accumulates" if fewer - 1 < _SAME else f"{_times(fewer)} times fewer multiply-accumulates"


def _faster(row: Row) -> str:
    return "As fast as the original" if abs(row.speedup - 1) < _SAME else f"{_times(row.speedup)} times as fast"


def _smaller(before: int, after: int) -> str:
    ratio = before / after
    if abs(ratio - 1) < _SAME:
        return "as large"
    return f"{_times(ratio)} times smaller" if ratio > 1 else f"{_times(1 / ratio)} times larger"


def _times(ratio: float) -> str:
    """Two digits are enough, and more are not known."""
    return f"{ratio:.0f}" if ratio >= 9.95 else f"{ratio:.1f}" if ratio >= 0.95 else f"{ratio:.2f}"


def _worse(q: Quantity, row: Row | EngineRow) -> str:
    accurate = q.name in _ACCURACIES
    better, worse = ("more accurate", "less accurate") if accurate else (f"better in {q.name}", f"worse in {q.name}")
    if row.drop == 0 and not row.drop_low and not row.drop_high:
        return "as accurate" if accurate else f"the same in {q.name}"
    gains = row.drop < 0
    ends = [-end if gains else end for end in (row.drop_low, row.drop_high) if end is not None]
    interval = f" ({_amount(q, min(ends))} to {_amount(q, max(ends))})" if len(ends) == 2 else ""
    return f"{_amount(q, abs(row.drop))}{f' {q.unit}' if q.unit else ''} {better if gains else worse}{interval}"


def _amount(q: Quantity, amount: float) -> str:
    """In points to one digit where that shows something, else to two."""
    if not q.shares:
        return q.worse(amount)
    return f"{100 * amount:.1f}" if abs(amount) >= 0.00095 or not amount else f"{100 * amount:.2f}"
