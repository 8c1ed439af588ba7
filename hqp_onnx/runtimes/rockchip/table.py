"""What the compiler's log says of operators: where each runs, and cycles of some.

A row of its table is of an operator on the chip, by the tensors that it reads and writes:

    ID  OpType  DataType  Target  InputShape  OutputShape  Cycles(DDR/NPU/Total)  RW(KB)  FullName

(rk3576 has one column more, SparseRatio).
Poolings, sums and products have 0 cycles there, so a total is a lower bound, and no time.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

_ROW = re.compile(
    r"^D RKNN: \[[\d:.]+\] \d+ +(?P<kind>\S+) +\S+ +(?P<place>NPU|CPU|GPU) "
    r".*? \d+/\d+/(?P<cycles>\d+) +(?:\d+% +)?\d+ *(?P<name>\S*)$"
)
_ENDS = ("InputOperator", "OutputOperator")
_NAMED = 5


@dataclass(frozen=True)
class Row:
    """An operator; ``cycles`` 0 where they are not known."""

    kind: str
    name: str
    place: str
    cycles: int


def rows_of(log: str) -> tuple[Row, ...]:
    """The rows in a log, none where it has no such table."""
    found = (_ROW.match(line.rstrip()) for line in log.splitlines())
    rows = (Row(m["kind"], m["name"].partition(":")[2], m["place"], int(m["cycles"])) for m in found if m)
    return tuple(row for row in rows if row.kind not in _ENDS)


def notes_of(rows: tuple[Row, ...], chip: str) -> tuple[str, ...]:
    """What they say, in words."""
    on_npu = [row for row in rows if row.place == "NPU"]
    known = [row for row in on_npu if row.cycles]
    if not known:
        said = f"the compiler says no cycles for {chip}"
    else:
        unknown = Counter(row.kind for row in on_npu if not row.cycles)
        without = ", ".join(f"{count} {kind}" for kind, count in sorted(unknown.items()))
        said = f"at least {sum(row.cycles for row in known)} cycles of the NPU, as its compiler estimates"
        said += f", those of {without} not counted" if without else ""
    left = [row for row in rows if row.place != "NPU"]
    if not left:
        return (said,)
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(row.kind for row in left).items()))
    listed = ", ".join(f"'{row.name}'" for row in left[:_NAMED]) + (", ..." if len(left) > _NAMED else "")
    return said, f"left to the CPU of the chip: {counts} ({listed})"
