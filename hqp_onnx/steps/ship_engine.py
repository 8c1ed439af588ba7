"""The engine of the model that ships, by the TensorRT that is installed.

    what ships ─► steps.build ─► engine ─► its own scores on D_val ─► Budget.admits ─► ships, or not

TensorRT fuses, rounds and accumulates in its own way, so the verdict on the ONNX model does not carry over to the
engine. Where the target is a TensorRT and its GPU is here, the engine is judged by its own outputs, as every candidate
is. Outside the budget it stays in OUT/.cache, where ``hqp compare`` can look at it, and the ONNX model is what ships.

An engine that nobody here can run is written all the same, beside the ONNX model, which ships; the report says that it
was not judged. So is one for a GPU where the target is another runtime: it is built from the float model of what ships,
in the precision that TensorRT computes fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hqp_onnx.arrays import Array
from hqp_onnx.engine import BuildOptions, BuildReport, Capability, Library, detect, installed, library, measure
from hqp_onnx.engine.session import EngineSession
from hqp_onnx.errors import HqpError
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


def builder_of(options: Options) -> Library | None:
    """The TensorRT that builds an engine of the result: the target's own, or the one that is installed, if any."""
    named = target(options.target).engines
    own = library(named) if named else None
    if options.build is None:
        return own if own is not None and own.installed else installed()
    return own if options.build else None


def require_engine(options: Options) -> None:
    """Raise, before any work, if an engine of the result could not be built here.

    Raises:
        MissingRuntimeError: no TensorRT, or no GPU.
        UsageError: the device has no INT8, or this TensorRT is too old.
    """
    if (builds := builder_of(options)) is not None:
        require_build(options.narrow if options.narrow in _FLOATS else None, builds)


def add_engine(
    setup: Setup, ledger: Ledger, result: SearchResult, report: Report, models: Mapping[str, Measured], builds: Library
) -> Report:
    """``report`` with the engine of its shipped model, which ships in its place if it is inside the budget.

    Args:
        setup: what the optimization was given.
        ledger: of the optimization.
        result: of its search.
        report: of the ONNX models.
        models: of the rows, as measured.
        builds: the TensorRT.

    Raises:
        HqpError: an engine was asked for, and TensorRT cannot build or run it.
    """
    try:
        with ledger.timed("engine"):
            report = _with_engine(setup, ledger, result, report, models, detect(builds))
    except HqpError as e:
        if setup.options.build:
            raise
        return replace(report, notes=(*report.notes, f"no engine by {builds.name}: {e}"))
    return replace(report, seconds=dict(ledger.seconds))


def _with_engine(
    setup: Setup, ledger: Ledger, result: SearchResult, report: Report, models: Mapping[str, Measured], able: Capability
) -> Report:
    path, budget, shipped = ledger.cache / ENGINE, result.judge.budget, models[report.ships]
    own = setup.target.engines == able.library.target
    built = build_file(_build_options(setup, result, report, shipped, path, able), setup.progress)
    if not own or able.device is None:
        _place(setup, path)
        return replace(report, notes=(*report.notes, _unjudged(built)))
    session = EngineSession(path)
    val = setup.scores(session, "val")
    final = setup.scores(session, "test") if "test" in setup.data else val
    engine = replace(shipped, session=session, scores=final, val=val, bytes=path.stat().st_size)
    row = engine_row(models["baseline"], engine, measure(path), budget.admits(val))
    notes = (*report.notes, *built.notes, _where(built, row))
    if not row.admitted:
        outside = f"the engine is outside the budget, so {report.shipped} ships; it stays in {path}"
        return replace(report, engine=row, budget_met=False, notes=(*notes, outside))
    _place(setup, path)
    spent = budget.spent(report.budget_spent["pruning"], val)
    return replace(report, engine=row, shipped=str(setup.options.folder / ENGINE), budget_spent=spent, notes=notes)


def _place(setup: Setup, path: Path) -> None:
    """Move engine and report into OUT."""
    for name in ENGINE_FILES:
        move(path.with_name(name), setup.options.folder / name)


def _build_options(
    setup: Setup, result: SearchResult, report: Report, shipped: Measured, path: Path, able: Capability
) -> BuildOptions:
    """For TensorRT's own target the model that ships, as it is laid out, or in float32 if it computes in float alone.

    For other targets its float32 model, in INT8 if TensorRT computes in that and no float was asked for.
    """
    options, own = setup.options, setup.target.engines == able.library.target
    asked = shipped.candidate.precision.value if own else options.precision
    source, data = Path(report.shipped), None
    if not own or shipped.candidate.precision is Precision.FP16:
        source = path.with_name("engine.onnx")
        model_io.save(result.judge.models.graph(shipped.candidate.in_float32), source)
    if not own and not able.weight_only and asked not in _FLOATS:
        data = options.calib
    return BuildOptions(
        source,
        path,
        data=data,
        preprocess=None if data is None else options.preprocess,
        precision=asked if asked in _FLOATS else None,
        calibration=options.calibration,
        shapes=_shapes(shipped.session, setup.sample),
        target=able.library.target,
    )


def _shapes(session: Runner, feeds: Mapping[str, Array]) -> tuple[str, ...]:
    """Those of ``feeds`` for the inputs that have no shape of their own."""
    dynamic = [spec.name for spec in session.inputs if None in spec.shape]
    return tuple(f"{name}:{'x'.join(map(str, feeds[name].shape))}" for name in dynamic)


def _unjudged(built: BuildReport) -> str:
    weights = "" if built.weights_bytes is None else f", weights {built.weights_bytes / 1e6:.2f} MB"
    return (
        f"{ENGINE}: {built.precision.upper()}{weights}, by {built.library} {built.tensorrt}; it was neither judged nor "
        "timed here, so the ONNX model is what ships"
    )


def _where(built: BuildReport, row: EngineRow) -> str:
    device = "" if built.device is None else f" on {built.device.name}"
    return f"the engine's row is {built.library} {built.tensorrt}{device}, between CUDA events at batch {row.batch}"
