"""Which of the measured models ships: the fastest that is inside the budget, the input and Q8-only included.

Two times that differ by less than ``NOISE`` are the same time; of models as fast as the fastest, the smallest file
ships. Where no time of the target is known, the fewest multiply-accumulates ship, and of as many the smallest file.
Where size is the objective, the smallest file ships; where a speed was asked for, the model that loses least of
those that reach it, or else the fastest.

``mixed`` and ``fp32`` leave the precision of what ships to the clock. ``int8``, ``int4``, ``dynamic`` and ``fp16`` ask
for one, so only models in it compete; where none of these is inside the budget, it is missed, and the best of the
others ships.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hqp_onnx.job.candidate import Precision
from hqp_onnx.job.results import Row, title_of

NOISE = 0.02  # of a ratio of latencies
_SAID = {"int8": "INT8", "int4": "INT4", "dynamic": "dynamic INT8", "fp16": "FP16", "fp32": "FP32"}
Rows = Mapping[str, Row]


@dataclass(frozen=True)
class Shipping:
    """The row that ships, why, and whether there is a model as it was asked for."""

    row: str
    why: str
    met: bool


def choose(
    rows: Rows,
    precisions: Mapping[str, Precision],
    asked: str,
    mixed: str = "int8",
    smallest: bool = False,
    reaches: Callable[[Row], bool] | None = None,
    counted: bool = False,
) -> Shipping:
    """What ships.

    Args:
        rows: of the models inside the budget, the input's among them.
        precisions: of the same.
        asked: mixed, int8, int4, dynamic, fp16 or fp32.
        mixed: what mixed takes beside float32.
        smallest: whether size counts, rather than speed.
        reaches: whether a row is as fast as was asked for; None where the budget is what was asked for.
        counted: whether multiply-accumulates count, rather than speed.
    """
    wanted = {"mixed": mixed}.get(asked, asked)
    allowed = {wanted, "dynamic"} if asked == "mixed" and mixed == "int8" else {wanted}
    found = any(precisions[name].value in allowed for name in rows)
    competing, kind, met = rows, "", found or asked == "mixed"
    if asked in ("int8", "int4", "dynamic", "fp16"):
        competing = {name: row for name, row in rows.items() if (precisions[name].value == asked) == met}
        kind = f"{_SAID[asked]} " * met
    if reaches is not None:
        return _reaching(competing, reaches, kind)
    pick = _smallest if smallest else _fewest if counted else _fastest
    row, why = pick(competing, kind)
    if not met:
        why = f"No {_SAID[wanted]} model is inside the budget; {why}"
    return Shipping(row, why if found or not met else f"{why}; none of them is {_SAID[wanted]}", met)


def _reaching(rows: Rows, reaches: Callable[[Row], bool], kind: str) -> Shipping:
    enough = {name: row for name, row in rows.items() if reaches(row)}
    if not enough:
        row = _fastest(rows, kind)[0]
        return Shipping(row, f"No {kind}model is as fast as was asked for; {title_of(row)} ships, the fastest", False)
    row = min(enough, key=lambda name: (rows[name].val_drop, -rows[name].speedup))
    return Shipping(row, f"{title_of(row)} ships: of {len(enough)} {kind}models as fast, it loses least", True)


def _smallest(rows: Rows, kind: str) -> tuple[str, str]:
    row = min(rows, key=lambda name: (rows[name].bytes, rows[name].latency_ms))
    return row, f"{title_of(row)} ships: {_first(rows, kind, 'smallest')}"


def _fewest(rows: Rows, kind: str) -> tuple[str, str]:
    row = min(rows, key=lambda name: (rows[name].macs, rows[name].bytes))
    return row, f"{title_of(row)} ships: {_first(rows, kind, 'fewest multiply-accumulates')}"


def _first(rows: Rows, kind: str, what: str) -> str:
    if len(rows) == 1:
        return f"the only {kind}model inside the budget"
    return f"the {what} of {len(rows)} {kind}models inside the budget"


def _fastest(rows: Rows, kind: str) -> tuple[str, str]:
    fastest = max(rows, key=lambda name: rows[name].speedup)
    as_fast = [name for name in rows if rows[name].speedup * (1 + NOISE) >= rows[fastest].speedup]
    chosen = min(as_fast, key=lambda name: (rows[name].bytes, rows[name].latency_ms))
    if chosen == fastest:
        return chosen, f"{title_of(chosen)} ships: {_first(rows, kind, 'fastest')}"
    inside = f"of {len(rows)} {kind}models inside the budget"
    tie = f"as fast as {title_of(fastest)}, within {100 * NOISE:g} %, and smaller"
    return chosen, f"{title_of(chosen)} ships: {inside}, {tie}"
