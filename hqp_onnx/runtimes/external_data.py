"""Models that are too large for one file: their weights lie in a second one beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from hqp_onnx.files import replacing

_SMALL, _PAGE = 1024, 4096  # bytes: weights that stay in the model, what ONNX aligns the others to


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of the initializers, as stored in memory."""
    return sum(len(t.raw_data) or 8 * len(t.float_data) + 8 * len(t.int64_data) for t in model.graph.initializer)


def write_apart(model: onnx.ModelProto, path: Path, data: Path) -> None:
    """Write ``model`` as ``path`` and, first, its large initializers as ``data``, a file in the same folder.

    Beside ``model``, which is not changed, memory holds one initializer at a time.

    Raises:
        UsageError, FileError: see ``files.replacing``.
    """
    written = onnx.ModelProto()
    _copy(model, written, "graph")
    _copy(model.graph, written.graph, "initializer")
    with replacing(path) as whole, replacing(data) as weights:
        for tensor in model.graph.initializer:
            content, kept = tensor.raw_data, written.graph.initializer.add()
            _copy(tensor, kept, "raw_data")
            if len(content) < _SMALL:
                kept.CopyFrom(tensor)
                continue
            weights.write(bytes(-weights.tell() % _PAGE))
            kept.data_location = onnx.TensorProto.EXTERNAL
            place = {"location": data.name, "offset": str(weights.tell()), "length": str(len(content))}
            kept.external_data.extend(onnx.StringStringEntryProto(key=key, value=value) for key, value in place.items())
            weights.write(content)
        whole.write(written.SerializeToString(deterministic=True))


def _copy(source: Any, target: Any, without: str) -> None:
    """The fields of a message, less one."""
    for field, value in source.ListFields():
        if field.name == without:
            continue
        if isinstance(value, (str, bytes, int, float)):
            setattr(target, field.name, value)
        else:
            getattr(target, field.name).MergeFrom(value)
