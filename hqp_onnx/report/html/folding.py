"""The rows of a drawing of the network: steps that repeat are drawn once, and long lines of layers as one row.

Two steps are alike if they have one operator, one kernel and as many channels in the original, and read the steps at
the same distances before them. Where p steps come k times in a row, p rows stand for k p steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hqp_onnx.job.results import Layer, Step

_LONGEST = 48  # steps that repeat
_MANY = 60  # rows from which lines of layers become one


@dataclass(frozen=True)
class Drawn:
    """A row of the drawing.

    Attributes:
        steps: that it stands for, by number, in the order of the graph.
        reads: rows above it.
        block: rows of one number repeat together; None for a row that does not.
        times: how often.
    """

    steps: tuple[int, ...]
    reads: tuple[int, ...]
    block: int | None = None
    times: int = 1


def folded(steps: Sequence[Step], layers: Mapping[str, Layer], many: int = _MANY) -> tuple[Drawn, ...]:
    """The rows of a network; ``many`` are too many to draw each layer of a line."""
    kinds = [_kind(number, step, steps, layers.get(step.weight)) for number, step in enumerate(steps)]
    members: list[tuple[tuple[int, ...], int | None, int]] = []
    start = blocks = 0
    while start < len(steps):
        period, times = _repeated(kinds, start)
        block = blocks if times > 1 else None
        blocks += times > 1
        end = start + period * times
        members += [(tuple(range(place, end, period)), block, times) for place in range(start, start + period)]
        start = end
    row_of = {step: row for row, (own, _, _) in enumerate(members) for step in own}
    rows = [
        Drawn(own, tuple(sorted({row_of[n] for n in steps[own[0]].reads} - {row})), block, times)
        for row, (own, block, times) in enumerate(members)
    ]
    return tuple(rows if len(rows) <= many else _in_lines(rows, steps))


def _kind(number: int, step: Step, steps: Sequence[Step], layer: Layer | None) -> tuple[object, ...]:
    """What is equal for steps that are alike. What reads an input reads the same one, however far it is."""
    distances = tuple(read - number if steps[read].reads else read for read in step.reads)
    return step.op, distances, None if layer is None else (layer.channels, layer.shape[2:])


def _repeated(kinds: Sequence[tuple[object, ...]], start: int) -> tuple[int, int]:
    """The period from ``start`` on, and how often it comes, that saves most rows; (1, 1) where nothing repeats."""
    best, saved = (1, 1), 0
    for period in range(1, min(_LONGEST, (len(kinds) - start) // 2) + 1):
        times, pattern = 1, kinds[start : start + period]
        while kinds[start + times * period : start + (times + 1) * period] == pattern:
            times += 1
        if (times - 1) * period > max(saved, 1):  # a single row is not worth it
            best, saved = (period, times), (times - 1) * period
    return best


def _in_lines(rows: Sequence[Drawn], steps: Sequence[Step]) -> list[Drawn]:
    """Layers that follow each other with no way out between them are one row."""
    readers = [0] * len(rows)
    for row in rows:
        for read in row.reads:
            readers[read] += 1
    joined: list[Drawn] = []
    place: dict[int, int] = {}
    for number, row in enumerate(rows):
        alone = row.reads == (number - 1,) and readers[number - 1] == 1 and row.block == rows[number - 1].block
        if alone and all(steps[n].weight for n in (*row.steps, *rows[number - 1].steps)):
            joined[-1] = replace(joined[-1], steps=tuple(sorted((*joined[-1].steps, *row.steps))))
        else:
            joined.append(replace(row, reads=tuple(sorted({place[read] for read in row.reads}))))
        place[number] = len(joined) - 1
    return joined
