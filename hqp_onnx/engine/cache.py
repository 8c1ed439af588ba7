"""TensorRT's calibration cache, read (``Calibration.tensorrt_cache`` writes it).

    TRT-<version>-EntropyCalibration2          or MinMaxCalibration; 8.6.1 is 8601, 10.3.0 is 100300
    <tensor>: <float32, big-endian, hex>       scale = amax / 127, one line a tensor

TensorRT ignores a cache whose first line is not its own version and algorithm, and calibrates anew. Our ranges are
written as EntropyCalibration2 however they were found: the DLA compiler and trtexec read no other.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hqp_onnx.errors import DataError
from hqp_onnx.files import read_text

ALGORITHMS = {"entropy": "EntropyCalibration2", "minmax": "MinMaxCalibration"}


def version_number(version: tuple[int, int, int]) -> str:
    """NV_TENSORRT_VERSION: 8.6.3 is 8603; from 10 on there is room for minors, and 10.3.0 is 100300."""
    major, minor, patch = version
    return str(major * 1000 + minor * 100 + patch if major < 10 else major * 10000 + minor * 100 + patch)


def version_text(number: str) -> str:
    """The inverse, as 8.6.3; a number that is one already stays, without its build."""
    if "." in number:
        return ".".join(number.split(".")[:3])
    value, room = int(number), 10 if len(number) < 5 else 100
    return f"{value // (100 * room)}.{value // 100 % room}.{value % 100}"


@dataclass(frozen=True)
class CalibrationCache:
    """``scales`` by tensor, found by a TensorRT of number ``version`` with ``algorithm``."""

    version: str
    algorithm: str
    scales: Mapping[str, float]

    @property
    def method(self) -> str:
        """Entropy or minmax: the calibrator that may read it."""
        return next(method for method, name in ALGORITHMS.items() if name == self.algorithm)

    @classmethod
    def parse(cls, text: str, where: str = "calibration cache") -> CalibrationCache:
        """The cache in ``text``; ``DataError`` names the line that is not as TensorRT writes it."""
        first, *lines = text.splitlines() or [""]
        parts = first.strip().split("-")
        if len(parts) != 3 or parts[0] != "TRT" or parts[2] not in ALGORITHMS.values():
            raise DataError(
                f"{where}: not a TensorRT calibration cache. Expected TRT-<version>-EntropyCalibration2 first"
            )
        return cls(parts[1], parts[2], dict(_entry(line, where) for line in lines if line.strip()))


def _entry(line: str, where: str) -> tuple[str, float]:
    name, _, digits = line.strip().rpartition(": ")
    try:
        (scale,) = struct.unpack(">f", bytes.fromhex(digits))
    except (ValueError, struct.error) as e:
        raise DataError(f"{where}: '{line.strip()[:80]}' is not 'tensor: scale', a float32 of 8 hex digits") from e
    return name, scale


def read_cache(path: Path, version: tuple[int, int, int]) -> CalibrationCache | None:
    """The cache in ``path`` if it exists.

    Raises:
        DataError: it is not a cache, or one of another TensorRT, which this one would ignore.
    """
    if not path.is_file() or not path.stat().st_size:
        return None
    cache = CalibrationCache.parse(read_text(path), str(path))
    if cache.version != version_number(version):
        raise DataError(
            f"{path}: is of TRT-{cache.version}, and TRT-{version_number(version)} would ignore it. Delete it to "
            "calibrate anew, or name another file"
        )
    return cache
