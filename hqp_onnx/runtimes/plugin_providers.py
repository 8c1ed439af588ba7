"""Execution providers that are no part of onnxruntime: packages called onnxruntime_ep_*, with a library to register.

    get_ep_names()        providers that it has
    get_library_path()    what onnxruntime loads

They are found and registered when one of their providers is asked for. What lies beside the library and is called
libcudart is loaded first: the linker would not look there.
"""

from __future__ import annotations

import ctypes
import importlib
import pkgutil
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hqp_onnx.errors import MissingRuntimeError, one_line

PREFIX = "onnxruntime_ep_"
_CUDA = re.compile(r"lib(cuda|nvidia|nvrtc|nvinfer|tensorrt)|nvcuda", re.IGNORECASE)
_registered: set[str] = set()  # in this process: onnxruntime then lists them among its own providers


def is_registered(provider: str) -> bool:
    """Whether a provider that onnxruntime lists is one that a package brought."""
    return provider in _registered


def plugin_providers() -> tuple[str, ...]:
    """The providers that installed packages bring."""
    return tuple(name for package in _packages() for name in getattr(package, "get_ep_names", list)())


def plugin_devices(ort: Any, provider: str) -> Sequence[Any]:
    """The devices of a provider that an installed package brings; none if no package does.

    Raises:
        MissingRuntimeError: its library does not load here, or finds no device.
    """
    package = _package(provider)
    if package is None:
        return ()
    if not (found := _devices(ort, provider)):
        _register(ort, provider, Path(package.get_library_path()))
        found = _devices(ort, provider)
        _registered.add(provider)
    if not found:
        raise MissingRuntimeError(
            f"{provider} of {package.__name__} finds no device here: it needs its own, and a driver"
        )
    return found


def _package(provider: str) -> Any | None:
    return next((one for one in _packages() if provider in getattr(one, "get_ep_names", list)()), None)


def _packages() -> Iterator[Any | None]:
    names = [module.name for module in pkgutil.iter_modules() if module.name.startswith(PREFIX)]
    return (_imported(name) for name in sorted(names))


def _imported(name: str) -> Any | None:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError):
        return None


def _register(ort: Any, provider: str, library: Path) -> None:
    try:
        for beside in sorted(library.parent.glob("libcudart.so*")):
            ctypes.CDLL(str(beside), mode=ctypes.RTLD_GLOBAL)
        ort.register_execution_provider_library(provider, str(library))
    except Exception as e:  # onnxruntime's own exception types are many and undocumented
        reason = one_line(e).rpartition("with error: ")[2]
        needs = ". It needs NVIDIA's driver" if _CUDA.search(reason) else ""
        raise MissingRuntimeError(f"{provider} is installed and does not load: {reason}{needs}") from e


def _devices(ort: Any, provider: str) -> list[Any]:
    return [device for device in ort.get_ep_devices() if device.ep_name == provider]
