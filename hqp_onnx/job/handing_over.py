"""The files that targets take in place of ONNX: written beside the .onnx files, of the same names.

What computes in integers alone takes no model in float32: that stays the .onnx that it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hqp_onnx.files import write_bytes
from hqp_onnx.graphs import model_io
from hqp_onnx.job.candidate import Precision
from hqp_onnx.job.setup import Setup
from hqp_onnx.runtimes.runtime import Compiling
from hqp_onnx.runtimes.targets import Target


def handed(setup: Setup, file: Path, precision: Precision) -> Path:
    """What the target takes in place of ``file``, an .onnx of that precision; itself where it takes that."""
    runtime = _compiler(setup, precision)
    return file if runtime is None else file.with_suffix(runtime.suffix)


def hand_over(setup: Setup, file: Path, precision: Precision) -> Path:
    """Write ``handed``, if there is anything to write; it."""
    runtime, made = _compiler(setup, precision), handed(setup, file, precision)
    if runtime is not None:
        write_bytes(made, runtime.compile(file, setup.sample))
    return made


def notes_on(setup: Setup, file: Path, precision: Precision) -> tuple[str, ...]:
    """What who ships ``file``, or what was made of it, should not miss."""
    runtime = _compiler(setup, precision)
    if runtime is None:
        return ()
    return tuple(f"{handed(setup, file, precision).name}: {words}" for words in runtime.notes(file, setup.sample))


def runs_there(setup: Setup, precision: Precision) -> bool:
    """Whether the target computes in that precision at all."""
    return not (setup.target.integers_only and precision is Precision.FP32)


def handed_bytes(made: Path) -> int:
    """Size of what was handed over."""
    return model_io.stored_bytes(made) if made.suffix == ".onnx" else made.stat().st_size


def with_handed(names: Iterable[str], target: Target) -> tuple[str, ...]:
    """Names of files, and of all that a target takes in place of the .onnx files among them."""
    listed, runtime = list(names), target.runtime
    if not isinstance(runtime, Compiling):
        return tuple(listed)
    stems = [name.removesuffix(".onnx") for name in listed if name.endswith(".onnx")]
    return (*listed, *(f"{stem}{runtime.suffix}" for stem in stems))


def _compiler(setup: Setup, precision: Precision) -> Compiling | None:
    runtime = setup.target.runtime
    return runtime if isinstance(runtime, Compiling) and runs_there(setup, precision) else None
