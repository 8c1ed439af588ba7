"""Models over the whole range of speeds, each a file: what is lost at twice, at four times the speed.

Plans all along the path of the search are made in the precision that was chosen, judged on all of the data and timed
in turn. A file is kept for each that no faster one beats in the metric.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import msgspec
import numpy as np

from hqp_onnx.files import json_text, write_text
from hqp_onnx.graphs import model_io
from hqp_onnx.job.candidate import Candidate
from hqp_onnx.job.ledger import Ledger
from hqp_onnx.job.records import record_of
from hqp_onnx.job.results import Point, Row
from hqp_onnx.job.rows import Measured, best_threads, latencies_once, make_rows, measured_file
from hqp_onnx.job.run import SearchResult
from hqp_onnx.job.setup import Setup
from hqp_onnx.runtimes.runners import thread_metadata

POINTS = 10  # at most
PARETO = "pareto.json"
FILES = tuple(f"pareto/{number}.onnx" for number in range(1, POINTS + 1))
"""Slowest first."""


def write_family(
    setup: Setup, ledger: Ledger, result: SearchResult, baseline: Measured, like: Candidate
) -> tuple[Point, ...]:
    """Write ``FILES`` and ``PARETO``, in the precision of ``like``; the points, slowest first."""
    folder = setup.options.folder
    with ledger.timed("pareto"):
        models = {"baseline": baseline}
        for number, candidate in enumerate(_candidates(result, like), 1):
            kept = ledger.cache / f"point-{number}.onnx"
            proto = model_io.to_proto(result.judge.models.graph(candidate))
            record_of(setup, result.judge, candidate).write(proto)
            model_io.save(proto, kept)
            models[str(number)] = measured_file(setup, result.judge, candidate, kept)
            setup.progress("pareto", number, POINTS)
        rows = make_rows(models, latencies := latencies_once(setup, ledger, models, "pareto"))
        front = [name for name in _front(rows) if name != "baseline"]
        points = []
        for file, name in zip(FILES, front, strict=False):
            threads = best_threads(latencies[name])
            metadata = thread_metadata(setup.target, threads) if threads else {}
            model_io.copy(ledger.cache / f"point-{name}.onnx", folder / file, metadata)
            points.append(Point(**{**vars(rows[name]), "bytes": model_io.stored_bytes(folder / file)}, file=file))
    for large in ledger.cache.glob("point-*.onnx*"):
        large.unlink(missing_ok=True)
    write_text(folder / PARETO, json_text(msgspec.to_builtins(points)))
    return tuple(points)


def _candidates(result: SearchResult, like: Candidate) -> list[Candidate]:
    """At most ``POINTS``, evenly along the path, slowest first."""
    plans = result.path.beyond(0)
    chosen = dict.fromkeys(np.linspace(0, len(plans) - 1, POINTS).round().astype(int).tolist())
    return [replace(like, plan=result.path.plan(plans[number]), trained=False) for number in chosen]


def _front(rows: Mapping[str, Row]) -> list[str]:
    """Slowest first, those that lose less than every one that is at least as fast; of equals, the first."""
    least, front = float("inf"), []
    for name in sorted(rows, key=lambda name: (-rows[name].speedup, rows[name].val_drop)):
        if rows[name].val_drop < least:
            least = rows[name].val_drop
            front.append(name)
    return front[::-1]
