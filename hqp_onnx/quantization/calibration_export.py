"""Write a calibration as the files that runtimes read: its own JSON, TensorRT's cache, onnxruntime's table.

    calibration.json          Calibration.from_json reads it back
    tensorrt.cache            TensorRT's native calibration cache
    onnxruntime.flatbuffers   table of onnxruntime's TensorRT provider (``trt_int8_calibration_table_name``)

The table is a flatbuffer: ``table KeyValue { key: string; value: string; }  table TrtTable { dict: [KeyValue]; }``,
each value the largest magnitude of a tensor, as decimal text.
"""

from __future__ import annotations

from pathlib import Path

from hqp_onnx.errors import MissingRuntimeError, UsageError
from hqp_onnx.files import write_bytes, write_text
from hqp_onnx.statistics.calibration import Calibration

JSON, TENSORRT, ONNXRUNTIME = "calibration.json", "tensorrt.cache", "onnxruntime.flatbuffers"
TENSORRT_VERSION = "10.3.0"  # of JetPack 6.1 and 6.2


def write_calibration(calibration: Calibration, folder: Path, tensorrt_version: str) -> None:
    """Write the three files into ``folder``; ``tensorrt_version`` as ``8.6.3``.

    Raises:
        UsageError: not a version.
        MissingRuntimeError: flatbuffers, which onnxruntime brings along, is not installed.
    """
    cache, table = calibration.tensorrt_cache(tensorrt_number(tensorrt_version)), onnxruntime_table(calibration)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / JSON, calibration.to_json())
    write_text(folder / TENSORRT, cache)
    write_bytes(folder / ONNXRUNTIME, table)


def tensorrt_number(version: str) -> str:
    """NV_TENSORRT_VERSION of a dotted version: 8.6.3 is 8603; from 10 on there is room for minors: 10.3.0 is 100300."""
    parts = version.split(".")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise UsageError(f"--tensorrt-version {version}: expected three numbers, as 10.3.0")
    major, minor, patch = map(int, parts)
    return str(major * (10_000 if major >= 10 else 1000) + minor * 100 + patch)


def onnxruntime_table(calibration: Calibration) -> bytes:
    """The table, tensors in the order of their names."""
    try:
        import flatbuffers
    except ImportError as e:
        raise MissingRuntimeError("flatbuffers is not installed: pip install 'hqp-onnx[onnxruntime]'") from e
    builder = flatbuffers.Builder(1024)
    entries = []
    for name, found in sorted(calibration.ranges.items()):
        strings = [builder.CreateString(name), builder.CreateString(str(found.threshold))]
        builder.StartObject(2)
        for slot, string in enumerate(strings):
            builder.PrependUOffsetTRelativeSlot(slot, string, 0)
        entries.append(builder.EndObject())
    builder.StartVector(4, len(entries), 4)
    for entry in entries:
        builder.PrependUOffsetTRelative(entry)
    items = builder.EndVector()
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, items, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())
