"""The engine of the model that ships, held to the same budget.

    int8.onnx (or what ships) ─► steps.build ─► engine ─► its own scores on D_val ─► Budget.admits ─► ships, or not

TensorRT fuses, rounds and accumulates in its own way, so the verdict on the ONNX model says nothing certain of the
engine. The engine is judged by its own outputs, as every candidate is. Outside the budget it stays in OUT/.cache, where
``hqp compare`` can look at it, and the ONNX model is what ships.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from hqp_onnx.arrays import Array
from hqp_onnx.comparison import EngineSession
from hqp_onnx.engine import BuildOptions, BuildReport, measure
from hqp_onnx.evaluation.budget import Budget
from hqp_onnx.evaluation.metrics import Scores
from hqp_onnx.job.options import Options
from hqp_onnx.job.results import EngineRow, Report
from hqp_onnx.job.rows import Measured, engine_row
from hqp_onnx.progress import Progress
from hqp_onnx.runtimes.session import Runner
from hqp_onnx.steps.build import build_file, require_build

ENGINE = "model.engine"
FILES = (ENGINE, f"{ENGINE}.json")
_FLOATS = ("fp16", "fp32")


def require_engine(options: Options) -> None:
    """Raise, before any work, what would keep an engine of the result from being built here.

    Raises:
        MissingRuntimeError: no TensorRT, or no GPU.
        UsageError: the device has no INT8, or this TensorRT is too old.
    """
    require_build(options.precision if options.precision in _FLOATS else None)


def add_engine(
    report: Report,
    source: Path,
    precision: str,
    options: Options,
    models: Mapping[str, Measured],
    budget: Budget,
    scores: Callable[[Runner, str], Scores],
    feeds: Mapping[str, Array],
    progress: Progress,
) -> Report:
    """``report`` with the engine of its shipped model, which ships in its place if it is inside ``budget``.

    Args:
        report: of the ONNX models.
        source: what the engine is built from.
        precision: of that model.
        options: of the job.
        models: as measured; ``baseline`` and ``hqp`` are asked for.
        budget: to hold the engine to.
        scores: scores of a session on ``val`` or ``test``.
        feeds: a sample, for the sizes that the model leaves open.
        progress: called as the build goes on.

    Raises:
        ModelError: TensorRT cannot build or run the engine.
    """
    path = options.output / ".cache" / ENGINE
    kind = precision if precision in _FLOATS else None
    shapes = _shapes(models["hqp"].session, feeds)
    built = build_file(BuildOptions(source, path, precision=kind, shapes=shapes), progress)
    session = EngineSession(path)
    val = scores(session, "val")
    final = val if options.test is None else scores(session, "test")
    engine = replace(models["hqp"], session=session, scores=final, val=val, bytes=path.stat().st_size)
    row = engine_row(models["baseline"], engine, measure(path), budget.admits(val))
    notes = (*report.notes, *built.notes, _where(built, row))
    if not row.admitted:
        outside = f"the engine is outside the budget, so that {report.shipped} ships; it stays in {path}"
        return replace(report, engine=row, budget_met=False, notes=(*notes, outside))
    for name in FILES:
        path.with_name(name).replace(options.output / name)
    spent = budget.spent(report.budget_spent["pruning"], val)
    return replace(report, engine=row, shipped=str(options.output / ENGINE), budget_spent=spent, notes=notes)


def _shapes(session: Runner, feeds: Mapping[str, Array]) -> tuple[str, ...]:
    """Those of ``feeds`` for the inputs that have no shape of their own."""
    dynamic = [spec.name for spec in session.inputs if None in spec.shape]
    return tuple(f"{name}:{'x'.join(map(str, feeds[name].shape))}" for name in dynamic)


def _where(built: BuildReport, row: EngineRow) -> str:
    device = "" if built.device is None else f" on {built.device.name}"
    return f"the engine's row is TensorRT {built.tensorrt}{device}, between CUDA events at batch {row.batch}"
