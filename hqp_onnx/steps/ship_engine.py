"""The engine of the model that ships, held to the same budget.

    int8.onnx (or what ships) ─► steps.build ─► engine ─► its own scores on D_val ─► Budget.admits ─► ships, or not

TensorRT fuses, rounds and accumulates in its own way, so the verdict on the ONNX model does not carry over to the
engine. The engine is judged by its own outputs, as every candidate is. Outside the budget it stays in OUT/.cache, where
``hqp compare`` can look at it, and the ONNX model is what ships.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hqp_onnx.arrays import Array
from hqp_onnx.engine import BuildOptions, BuildReport, measure
from hqp_onnx.engine.library import library
from hqp_onnx.engine.session import EngineSession
from hqp_onnx.files import move
from hqp_onnx.graphs import model_io
from hqp_onnx.job.candidate import Precision
from hqp_onnx.job.ledger import Ledger
from hqp_onnx.job.options import Options
from hqp_onnx.job.results import EngineRow, Report
from hqp_onnx.job.rows import Measured, engine_row
from hqp_onnx.job.run import SearchResult
from hqp_onnx.job.setup import Setup
from hqp_onnx.runtimes.session import Runner
from hqp_onnx.runtimes.targets import target
from hqp_onnx.steps.build import build_file, require_build

ENGINE = "model.engine"
ENGINE_FILES = (ENGINE, f"{ENGINE}.json")
_FLOATS = ("fp16", "fp32")


def require_engine(options: Options) -> None:
    """Raise, before any work, if an engine of the result could not be built here.

    Raises:
        MissingRuntimeError: no TensorRT, or no GPU.
        UsageError: the device has no INT8, or this TensorRT is too old.
    """
    require_build(options.precision if options.precision in _FLOATS else None, library(target(options.target).engines))


def add_engine(
    setup: Setup, ledger: Ledger, result: SearchResult, report: Report, models: Mapping[str, Measured]
) -> Report:
    """``report`` with the engine of its shipped model, which ships in its place if it is inside the budget.

    Args:
        setup: what the optimization was given.
        ledger: of the optimization.
        result: of its search.
        report: of the ONNX models.
        models: of the rows, as measured.

    Raises:
        ModelError: TensorRT cannot build or run the engine.
    """
    with ledger.timed("engine"):
        report = _with_engine(setup, ledger, result, report, models)
    return replace(report, seconds=dict(ledger.seconds))


def _with_engine(
    setup: Setup, ledger: Ledger, result: SearchResult, report: Report, models: Mapping[str, Measured]
) -> Report:
    path, budget = ledger.cache / ENGINE, result.judge.budget
    shipped = models[report.ships]
    built = build_file(_build_options(setup, ledger, result, report, shipped, path), setup.progress)
    session = EngineSession(path)
    val = setup.scores(session, "val")
    final = setup.scores(session, "test") if "test" in setup.data else val
    engine = replace(shipped, session=session, scores=final, val=val, bytes=path.stat().st_size)
    row = engine_row(models["baseline"], engine, measure(path), budget.admits(val))
    notes = (*report.notes, *built.notes, _where(built, row))
    if not row.admitted:
        outside = f"the engine is outside the budget, so {report.shipped} ships; it stays in {path}"
        return replace(report, engine=row, budget_met=False, notes=(*notes, outside))
    for name in ENGINE_FILES:
        move(path.with_name(name), setup.options.folder / name)
    spent = budget.spent(report.budget_spent["pruning"], val)
    return replace(report, engine=row, shipped=str(setup.options.folder / ENGINE), budget_spent=spent, notes=notes)


def _build_options(
    setup: Setup, ledger: Ledger, result: SearchResult, report: Report, shipped: Measured, path: Path
) -> BuildOptions:
    """An engine in float16 is built from float32."""
    source, precision = Path(report.shipped), shipped.candidate.precision
    if precision is Precision.FP16:
        source = ledger.cache / "engine.onnx"
        model_io.save(result.judge.models.graph(shipped.candidate.in_float32), source)
    kind = precision.value if precision.value in _FLOATS else None
    return BuildOptions(source, path, precision=kind, shapes=_shapes(shipped.session, setup.sample))


def _shapes(session: Runner, feeds: Mapping[str, Array]) -> tuple[str, ...]:
    """Those of ``feeds`` for the inputs that have no shape of their own."""
    dynamic = [spec.name for spec in session.inputs if None in spec.shape]
    return tuple(f"{name}:{'x'.join(map(str, feeds[name].shape))}" for name in dynamic)


def _where(built: BuildReport, row: EngineRow) -> str:
    device = "" if built.device is None else f" on {built.device.name}"
    return f"the engine's row is TensorRT {built.tensorrt}{device}, between CUDA events at batch {row.batch}"
