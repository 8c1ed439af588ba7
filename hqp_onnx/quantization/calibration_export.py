"""Write a calibration as the files that runtimes read: its own JSON, TensorRT's cache, onnxruntime's table.

    calibration.json          Calibration.from_json reads it back
    tensorrt.cache            TensorRT's native calibration cache
    onnxruntime.flatbuffers   table of onnxruntime's TensorRT provider (``trt_int8_calibration_table_name``)

The table holds the largest magnitude of each tensor, which onnxruntime's tool takes to be the larger of its two limits.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from hqp_onnx.engine.cache import version_number
from hqp_onnx.errors import UsageError
from hqp_onnx.files import make_folder, write_bytes
from hqp_onnx.runtimes.session import calibration_tools
from hqp_onnx.statistics.calibration import Calibration

FILES = ("calibration.json", "tensorrt.cache", "onnxruntime.flatbuffers")
TENSORRT_VERSION = "10.3.0"  # of JetPack 6.1 and 6.2


def write_calibration(calibration: Calibration, folder: Path, tensorrt_version: str) -> None:
    """Write the three files into ``folder``; ``tensorrt_version`` as ``8.6.3``.

    Raises:
        UsageError: not a version.
        MissingRuntimeError: onnxruntime is not installed.
        FileError: see ``files.replacing``.
    """
    cache, table = calibration.tensorrt_cache(tensorrt_number(tensorrt_version)), onnxruntime_table(calibration)
    make_folder(folder)
    for file, content in zip(FILES, (calibration.to_json().encode(), cache.encode(), table), strict=True):
        write_bytes(folder / file, content)


def calibration_files(folder: Path | None) -> list[Path] | None:
    """What ``write_calibration`` writes into ``folder``."""
    return None if folder is None else [folder / file for file in FILES]


def tensorrt_number(version: str) -> str:
    """NV_TENSORRT_VERSION of a dotted version, see ``engine.cache.version_number``."""
    parts = version.split(".")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise UsageError(f"{{--tensorrt_version}} {version}: expected three numbers, as 10.3.0")
    major, minor, patch = map(int, parts)
    return version_number((major, minor, patch))


def onnxruntime_table(calibration: Calibration) -> bytes:
    """The table as onnxruntime's own tool writes it, in float32.

    Raises:
        MissingRuntimeError: onnxruntime is not installed.
    """
    calibrate, writer = calibration_tools()
    limits = {name: np.array(covered.threshold, np.float32) for name, covered in calibration.ranges.items()}
    ranges = {name: calibrate.TensorData(highest=limit) for name, limit in limits.items()}
    with tempfile.TemporaryDirectory() as folder, _silence():
        writer.write_calibration_table(calibrate.TensorsData(calibrate.CalibrationMethod.MinMax, ranges), folder)
        return Path(folder, "calibration.flatbuffers").read_bytes()


@contextmanager
def _silence() -> Iterator[None]:
    """Without what onnxruntime's tool says to the root logger, as a program does and no library."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
