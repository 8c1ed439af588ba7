"""Where rknn-toolkit2 is, and how it gets there: a virtual environment of its own, since its pins fit nobody else's.

All packages are named here, and none brings others. torch is the build for processors alone, by its version, so nothing
of CUDA is fetched.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from hqp_onnx.errors import MissingRuntimeError
from hqp_onnx.files import make_folder
from hqp_onnx.runtimes.apart import user_folder

TOOLKIT, VERSION = "rknn-toolkit2", "2.5.0"
PACKAGES = (
    "numpy==1.26.4",
    "onnx==1.18.0",
    "protobuf==4.25.4",
    "typing-extensions>=4.7",
    "onnxruntime==1.23.2",
    "scipy>=1.13,<1.18",
    "psutil>=5.9",
    "ruamel.yaml>=0.17.21",
    "tqdm>=4.64.1",
    "opencv-python-headless==4.10.0.84",
    "fast-histogram==0.14",
    "setuptools<80",
)
TORCH = ("torch==2.13.0+cpu", "--extra-index-url", "https://download.pytorch.org/whl/cpu")
_PYTHONS = ((3, 10), (3, 12))  # oldest and newest that all of these have wheels for
_MACHINES = ("x86_64", "aarch64")


def environment() -> Path:
    """$HQP_RKNN, else a folder of this user and this version of Python."""
    if chosen := os.environ.get("HQP_RKNN"):
        return Path(chosen)
    return user_folder() / f"{TOOLKIT}-{VERSION}-{sys.implementation.cache_tag}"


def find(folder: Path | None = None) -> Path | None:
    """The Python of ``folder`` (``environment()`` if None), if the toolkit is there."""
    place = folder or environment()
    python = place / "bin" / "python"
    installed = any(place.glob(f"lib/python*/site-packages/{TOOLKIT.replace('-', '_')}-*.dist-info"))
    return python.absolute() if installed and python.exists() else None


def require() -> Path:
    """``find``; ``MissingRuntimeError`` says how to install it."""
    if python := find():
        return python
    raise MissingRuntimeError(f"{TOOLKIT} is not installed: run `hqp setup rknn`")


def install(folder: Path | None = None) -> Path:
    """Install it, some 330 MB to fetch and 1.4 GB on disk.

    Args:
        folder: ``environment()`` if None. Nothing happens if it is there already.

    Returns:
        The folder.

    Raises:
        MissingRuntimeError: no wheel for this machine, pip fails, or the folder holds something else.
    """
    place = folder or environment()
    if find(place):
        return place
    _check_machine()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise MissingRuntimeError(f"{place}: holds something else: expected an empty or a new folder")
    make_folder(place.parent)
    try:
        _run([sys.executable, "-m", "venv", str(place)])
        python = [str(place / "bin" / "python"), "-m", "pip", "install", "--no-deps", "--disable-pip-version-check"]
        _run([*python, *PACKAGES])
        _run([*python, *TORCH])
        _run([*python, f"{TOOLKIT}=={VERSION}"])  # the last one: where it is, all are
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    return place


def _check_machine() -> None:
    oldest, newest = _PYTHONS
    if sys.platform == "linux" and platform.machine() in _MACHINES and oldest <= sys.version_info[:2] <= newest:
        return
    raise MissingRuntimeError(
        f"{TOOLKIT} {VERSION} has no wheel for Python {sys.version_info[0]}.{sys.version_info[1]} on {sys.platform} "
        f"{platform.machine()}: expected {'.'.join(map(str, oldest))} to {'.'.join(map(str, newest))} on Linux, "
        f"{' or '.join(_MACHINES)}"
    )


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        reason = next((line for line in said if line.startswith("ERROR")), said[-1] if said else "no reason was given")
        raise MissingRuntimeError(f"{TOOLKIT} cannot be installed on this machine: {reason}")
