"""What a report advises, in words: a simpler model where it is as good, and what to try where little was gained.

A simpler model is the quantized input (``q8_only``), whose structure is as it was, and what was pruned alone
(``pruned``), which is all in float32. It is as good if it is inside the budget, takes at most ``_MORE`` more time than
what ships, and loses no more.
"""

from __future__ import annotations

from collections.abc import Iterator

from hqp_onnx.job.results import Report, Row, title_of
from hqp_onnx.job.time_limit import OVER

_MORE = 0.10  # of the time of what ships
_LITTLE = 1.1  # times as fast
_SIMPLER = {
    "q8_only": "your network as it was, in INT8",
    "pruned": "all in float32, it runs the same everywhere",
}


def advice(report: Report) -> tuple[str, ...]:
    """Sentences; none where there is nothing to say."""
    return (*_simpler(report), *_what_would_help(report))


def _simpler(report: Report) -> Iterator[str]:
    if report.counted:
        return
    ships = report.rows[report.ships]
    for name, why in _SIMPLER.items():
        row = report.rows.get(name)
        if row is None or name == report.ships or name not in report.files or ships.speedup <= _LITTLE:
            continue
        if row.speedup * (1 + _MORE) >= ships.speedup and row.drop <= ships.drop:
            yield f"Consider {report.files[name]} ({title_of(name)}): {why}. It {_beside(report, row, ships)}."


def _beside(report: Report, row: Row, ships: Row) -> str:
    q, slower = report.metric, ships.speedup / row.speedup - 1
    times = f"takes {100 * abs(slower):.0f} % {'more' if slower > 0 else 'less'} time than"
    times = times if abs(slower) > 0.01 else "is as fast as"
    less = ships.drop - row.drop
    shown = less > 0 and q.change(less) != q.change(0.0)
    return f"{times} what ships" + (f" and loses {q.change(less)} less" if shown else "")


def _what_would_help(report: Report) -> Iterator[str]:
    ships = report.rows[report.ships]
    gain = report.baseline.macs / max(ships.macs, 1) if report.counted else ships.speedup
    if gain > _LITTLE or report.request.speed:
        return
    units = report.units
    if not units.prunable:
        yield "No channels can be removed: the table of channels that stay says why, see troubleshooting.md."
    elif not report.budget_met:
        yield "A larger budget, or --calibration percentile:99.99, may let a quantized model in."
    elif any(note.startswith(OVER) for note in report.notes):
        yield "Little was gained before the time limit. More may be with a longer one, or none: --resume goes on."
    else:
        yield "Little was gained. More may be with a larger budget, with --recover auto, or on another --target."
