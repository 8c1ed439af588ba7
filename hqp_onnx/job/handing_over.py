"""The files that targets take in place of ONNX: written beside the .onnx files, of the same names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hqp_onnx.files import write_bytes
from hqp_onnx.graphs import model_io
from hqp_onnx.job.setup import Setup
from hqp_onnx.runtimes.runtime import Compiling
from hqp_onnx.runtimes.targets import Target


def handed(setup: Setup, file: Path) -> Path:
    """What the target takes in place of ``file``, an .onnx; itself where it takes that."""
    runtime = setup.target.runtime
    return file.with_suffix(runtime.suffix) if isinstance(runtime, Compiling) else file


def hand_over(setup: Setup, file: Path) -> Path:
    """Write ``handed``, if there is anything to write; it."""
    runtime, made = setup.target.runtime, handed(setup, file)
    if isinstance(runtime, Compiling):
        write_bytes(made, runtime.compile(file, setup.sample))
    return made


def notes_on(setup: Setup, file: Path) -> tuple[str, ...]:
    """What who ships ``file``, or what was made of it, should not miss."""
    runtime = setup.target.runtime
    if not isinstance(runtime, Compiling):
        return ()
    return tuple(f"{handed(setup, file).name}: {words}" for words in runtime.notes(file, setup.sample))


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
