"""Models that are too large for one file: their weights lie in a second one beside it.

A model's file says where its data lie, and may be anybody's: it must not make this program read what its user did not
name. onnx reads regular files below the model's folder, and no links. Caches of downloads, as Hugging Face's, hold
links only, to ``blobs/DIGEST``: data may be links to files in the folder where the model really lies. A link to
anywhere else stays an error, as do absolute names and those that lead upwards.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePath
from typing import Any

import onnx
from onnx.external_data_helper import load_external_data_for_tensor

from hqp_onnx.errors import ModelError, one_line
from hqp_onnx.files import replacing

EXTERNAL = onnx.TensorProto.EXTERNAL
_SMALL, _PAGE = 1024, 4096  # bytes: weights that stay in the model, what ONNX aligns the others to


def loaded(model: onnx.ModelProto | bytes | Path, by: str) -> onnx.ModelProto:
    """An ONNX model, weights included; ``ModelError`` says that whoever it is read for cannot load it."""
    try:
        if isinstance(model, Path):
            return onnx.load(model)
        return onnx.ModelProto.FromString(model) if isinstance(model, bytes) else model
    except Exception as e:  # protobuf's own types
        raise ModelError(f"{by} cannot load the model: {one_line(e)}") from e


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of the initializers, as stored in memory."""
    return sum(len(t.raw_data) or 8 * len(t.float_data) + 8 * len(t.int64_data) for t in model.graph.initializer)


def read_apart(model: onnx.ModelProto, path: Path) -> None:
    """Read the external data of the model in ``path`` into ``model``.

    Raises:
        ValidationError, OSError, ValueError: by onnx: data are missing, too short, or elsewhere.
    """
    for tensor in model.graph.initializer:
        place = next((e for e in tensor.external_data if e.key == "location"), None)
        if tensor.data_location != EXTERNAL or place is None or not (path.parent / place.value).is_symlink():
            continue
        name, target = PurePath(place.value), (path.parent / place.value).resolve()
        if not name.is_absolute() and ".." not in name.parts and target.parent == path.resolve().parent:
            place.value = target.name
            load_external_data_for_tensor(tensor, str(target.parent))
    onnx.load_external_data_for_model(model, str(path.parent))


def check_large(model: onnx.ModelProto) -> None:
    """``onnx.checker.check_model`` of a model of any size, all but the values of large weights."""
    onnx.checker.check_model(_without_weights(model))


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which initializers with raw data are inputs of the same type and shape."""
    copy = onnx.ModelProto()
    _copy(model, copy, "graph")
    _copy(model.graph, copy.graph, "initializer")
    known = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if not tensor.HasField("raw_data"):
            copy.graph.initializer.add().CopyFrom(tensor)
        elif tensor.name not in known:
            copy.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return copy


def write_apart(model: onnx.ModelProto, path: Path, data: Path) -> None:
    """Write ``model`` as ``path`` and, first, its large initializers as ``data``, a file in the same folder.

    Beside ``model``, which is not changed, memory holds one initializer at a time. Both are on the disk before either
    has its name.

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
            kept.data_location = EXTERNAL
            place = {"location": data.name, "offset": str(weights.tell()), "length": str(len(content))}
            kept.external_data.extend(onnx.StringStringEntryProto(key=key, value=value) for key, value in place.items())
            weights.write(content)
        whole.write(written.SerializeToString(deterministic=True))
        whole.flush()
        os.fsync(whole.fileno())


def _copy(source: Any, target: Any, without: str) -> None:
    """The fields of a message, less one."""
    for field, value in source.ListFields():
        if field.name == without:
            continue
        if isinstance(value, (str, bytes, int, float)):
            setattr(target, field.name, value)
        else:
            getattr(target, field.name).MergeFrom(value)
