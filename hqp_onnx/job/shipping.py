"""Which of the measured models ships: the fastest that is inside the budget, the input and Q8-only included.

Two times that differ by less than ``NOISE`` are the same time; of models as fast as the fastest, the smallest file
ships. ``mixed`` and ``fp32`` leave the precision of what ships to the clock. ``int8`` and ``fp16`` ask for a precision,
so only models in it compete; where none of these is inside the budget, it is missed, and the best of the others ships.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hqp_onnx.job.candidate import Precision
from hqp_onnx.job.results import Row, title_of

NOISE = 0.02  # of a ratio of latencies


@dataclass(frozen=True)
class Shipping:
    """The row that ships, why, and whether a model as asked for is inside the budget."""

    row: str
    why: str
    met: bool


def choose(rows: Mapping[str, Row], precisions: Mapping[str, Precision], asked: str, mixed: str = "int8") -> Shipping:
    """What ships.

    Args:
        rows: of the models inside the budget, the input's among them.
        precisions: of the same.
        asked: mixed, int8, fp16 or fp32.
        mixed: what mixed takes beside float32.
    """
    wanted = {"mixed": mixed}.get(asked, asked)
    met = any(precisions[name].value == wanted for name in rows)
    competing, kind = rows, ""
    if asked in ("int8", "fp16"):
        competing = {name: row for name, row in rows.items() if (precisions[name].value == asked) == met}
        kind = f"{asked.upper()} " * met
    row, why = _fastest(competing, kind)
    return Shipping(row, why if met else f"No {wanted.upper()} model is inside the budget; {why}", met)


def _fastest(rows: Mapping[str, Row], kind: str) -> tuple[str, str]:
    fastest = max(rows, key=lambda name: rows[name].speedup)
    as_fast = [name for name in rows if rows[name].speedup * (1 + NOISE) >= rows[fastest].speedup]
    chosen = min(as_fast, key=lambda name: (rows[name].bytes, rows[name].latency_ms))
    if len(rows) == 1:
        return chosen, f"{title_of(chosen)} ships: the only {kind}model inside the budget"
    inside = f"of {len(rows)} {kind}models inside the budget"
    if chosen == fastest:
        return chosen, f"{title_of(chosen)} ships: the fastest {inside}"
    tie = f"as fast as {title_of(fastest)}, within {100 * NOISE:g} %, and smaller"
    return chosen, f"{title_of(chosen)} ships: {inside}, {tie}"
