"""Which TensorRT: two libraries with one interface, a Python module each.

    tensorrt        TensorRT: builds on the GPU that runs the engine, times kernels
    tensorrt_rtx    TensorRT for RTX: compiles ahead of time for compute capabilities, without a GPU, times nothing

What each can do is asked of its bindings (``capability``); this module only finds them. Polygraphy drives one of them
at a time: its modules name it when they are imported (``POLYGRAPHY_USE_TENSORRT_RTX``) and import it when it is first
used, so ``Library.load`` points those that are imported already at the one that is needed.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hqp_onnx.errors import MissingRuntimeError, UsageError


@dataclass(frozen=True)
class Library:
    """A TensorRT.

    Attributes:
        target: the name of its target.
        module: of its bindings.
        name: for messages.
        advice: how to install it.
        starts: how its engines begin.
    """

    target: str
    module: str
    name: str
    advice: str
    starts: tuple[bytes, ...]

    @property
    def installed(self) -> bool:
        """Whether its bindings are; nothing is imported."""
        return importlib.util.find_spec(self.module) is not None

    def load(self) -> Any:
        """Its module, for Polygraphy, too.

        Raises:
            MissingRuntimeError: it is not installed, or not for this Python; or Polygraphy is too old for it.
        """
        try:
            module = importlib.import_module(self.module)
        except (ImportError, OSError) as e:
            raise MissingRuntimeError(f"{self.name}'s Python bindings are not installed here: {self.advice}") from e
        _drive(self)
        return module


TENSORRT = Library(
    "tensorrt",
    "tensorrt",
    "TensorRT",
    "pip install 'hqp-onnx[tensorrt]' (on a Jetson: a venv with --system-site-packages), or prepare the build "
    "for another machine: hqp build --for VERSION",
    (b"ftrt", b"ptrt"),
)
TENSORRT_RTX = Library(
    "tensorrt-rtx",
    "tensorrt_rtx",
    "TensorRT for RTX",
    "pip install 'hqp-onnx[tensorrt-rtx]' (Linux and Windows on x86-64; no GPU is needed)",
    (b"vtrt",),
)
LIBRARIES = (TENSORRT, TENSORRT_RTX)


def library(name: str) -> Library:
    """The library of the target ``name``; ``UsageError`` if there is none."""
    found = next((one for one in LIBRARIES if one.target == name), None)
    if found is None:
        known = " or ".join(one.target for one in LIBRARIES)
        raise UsageError(f"{{--target}} {name}: engines are built for {known}")
    return found


def installed() -> Library | None:
    """The first library that is installed."""
    return next((one for one in LIBRARIES if one.installed), None)


def of_engine(path: Path) -> Library:
    """The library that built the engine ``path``, as its first bytes say; TensorRT for those of none."""
    with path.open("rb") as stream:
        start = stream.read(4)
    return next((one for one in LIBRARIES if start in one.starts), TENSORRT)


def is_engine(start: bytes) -> bool:
    """Whether a file that begins with ``start`` is an engine."""
    return any(start.startswith(known) for one in LIBRARIES for known in one.starts)


def _drive(library: Library) -> None:
    """Let Polygraphy use ``library``."""
    from polygraphy import config

    rtx = library is TENSORRT_RTX
    if not hasattr(config, "USE_TENSORRT_RTX"):
        if rtx:
            raise MissingRuntimeError("this Polygraphy knows no TensorRT for RTX: pip install 'polygraphy>=0.53'")
        return
    if rtx == config.USE_TENSORRT_RTX:
        return
    config.USE_TENSORRT_RTX = rtx
    from polygraphy.backend.trt import util
    from polygraphy.mod.trt_importer import lazy_import_trt

    for name, module in list(sys.modules.items()):
        if name.startswith("polygraphy.") and type(vars(module).get("trt")).__name__ == "LazyModule":
            vars(module)["trt"] = lazy_import_trt()
    util.TRT_LOGGER = None  # one of the other library
