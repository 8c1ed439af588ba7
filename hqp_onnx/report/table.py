"""Tables of words, whatever draws them: the page as HTML, the terminal as text, tools as Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from hqp_onnx.evaluation.metrics import Quantity
from hqp_onnx.job.results import EngineRow, Report, Row, title_of


@dataclass(frozen=True)
class Table:
    """A caption, the titles of the columns, and rows of as many cells; the first cell of a row is its name."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if any(len(row) != len(self.head) for row in self.rows):
            raise ValueError(f"a row of '{self.caption}' has not {len(self.head)} cells")

    def without(self, column: str) -> Table:
        """The table with one column less."""
        kept = [place for place, title in enumerate(self.head) if title != column]
        head, *rows = (tuple(row[place] for place in kept) for row in (self.head, *self.rows))
        return Table(self.caption, head, tuple(rows))


PARAMETERS, THREADS, ONE_THREAD, REMOVED = "parameters M", "threads", "one thread", "removed %"


def models_table(report: Report) -> Table:
    """The paper's table: a row per model."""
    q = report.metric
    times = ("model", "latency ms", THREADS, "speedup", ONE_THREAD)
    change = f"{q.fall} (95 % interval)"
    head = (*times, "size MB", "smaller", q.head, change, REMOVED, "MACs M", PARAMETERS)
    where = f"{report.machine.runtime} on {report.machine.processor}"
    rows = tuple(_model(q, title_of(name), row) for name, row in report.all_rows.items())
    table = Table(f"{report.samples} samples of {report.data}; {where}", head, rows)
    compared = any(row.one_thread_speedup is not None for row in report.rows.values())
    return table if compared and not report.settings.get("threads") else table.without(THREADS).without(ONE_THREAD)


def _model(q: Quantity, title: str, row: Row | EngineRow) -> tuple[str, ...]:
    return (
        title,
        f"{row.latency_ms:.3f}",
        str(row.threads or "all") if isinstance(row, Row) else "–",
        f"{row.speedup:.2f}×" if isinstance(row, Row) else "–",
        "–" if isinstance(row, EngineRow) or row.one_thread_speedup is None else f"{row.one_thread_speedup:.2f}×",
        f"{row.bytes / 1e6:.2f}",
        f"{100 * row.size_reduction:.0f} %",
        q.value(row.metric),
        f"{q.worse(row.drop, '+')} ({interval_words(q, row, '+')})",
        f"{100 * row.sparsity:.1f}",
        f"{row.macs / 1e6:.2f}",
        f"{row.params / 1e6:.3f}",
    )


def interval_words(q: Quantity, row: Row | EngineRow, sign: str = "") -> str:
    """The 95 % interval of a row's drop."""
    if row.drop_low is None or row.drop_high is None:
        return "interval not known"
    return f"{q.worse(row.drop_low, sign)} to {q.worse(row.drop_high, sign)}"
