"""Where onnxruntime-training is, and how it gets there.

Its import name is that of onnxruntime, and pip lets the last install overwrite the other: it has to live in a folder
of its own, which only the worker process (``ort_worker``) has on its path.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from hqp_onnx.errors import MissingRuntimeError
from hqp_onnx.files import make_folder
from hqp_onnx.runtimes.apart import user_folder

__all__ = ["find", "install", "install_directory"]

PACKAGE, VERSION = "onnxruntime-training-cpu", "1.19.2"
NEWEST_PYTHON = (3, 12)  # of its wheels


def install_directory() -> Path:
    """$HQP_TRAINING, else a folder of this user and this version of Python."""
    if chosen := os.environ.get("HQP_TRAINING"):
        return Path(chosen)
    return user_folder() / f"onnxruntime-training-{VERSION}-{sys.implementation.cache_tag}"


def find(directory: Path | None = None) -> Path | None:
    """``directory`` (``install_directory()`` if None) if onnxruntime-training is in it: the CPU or the CUDA build."""
    folder = directory or install_directory()
    installed = (folder / "onnxruntime").is_dir() and any(folder.glob("onnxruntime_training*.dist-info"))
    return folder.resolve() if installed else None


def install(directory: Path | None = None) -> Path:
    """Install onnxruntime-training-cpu 1.19.2 (9 MB to fetch, 32 MB on disk) into a folder of its own.

    Args:
        directory: ``install_directory()`` if None. Nothing happens if it is there already.

    Returns:
        The folder.

    Raises:
        MissingRuntimeError: no wheel for this version of Python, pip fails, or the folder holds something else.
    """
    folder = directory or install_directory()
    if python := find(folder):
        return python
    if sys.version_info[:2] > NEWEST_PYTHON:
        raise MissingRuntimeError(
            f"{PACKAGE} {VERSION} has no wheel for Python {sys.version_info[0]}.{sys.version_info[1]}: expected "
            f"{'.'.join(map(str, NEWEST_PYTHON))} or older. Use --gradients native, which needs nothing"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MissingRuntimeError(f"{folder}: holds something else: expected an empty or a new folder")
    make_folder(folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        partial = Path(temporary) / "packages"
        _pip_install(partial)
        if folder.exists():
            folder.rmdir()
        shutil.move(partial, folder)
    return folder.resolve()


def _pip_install(target: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-compile", "--disable-pip-version-check"]
    completed = subprocess.run(
        [*command, "--target", str(target), f"{PACKAGE}=={VERSION}"], capture_output=True, text=True, check=False
    )
    if completed.returncode or find(target) is None:
        lines = [line for line in completed.stderr.splitlines() if line.strip()] or ["pip gave no reason"]
        raise MissingRuntimeError(f"pip cannot install {PACKAGE}=={VERSION} for this machine: {lines[-1].strip()}")
