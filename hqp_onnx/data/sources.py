"""Readers of data: a .npz file, a folder of images (``images``), a data-loader script, arrays or feeds in memory."""

from __future__ import annotations

import runpy
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from hqp_onnx.archives import read_arrays
from hqp_onnx.arrays import Array
from hqp_onnx.data.batch import LABELS
from hqp_onnx.data.dataset import Dataset, Source
from hqp_onnx.data.images import Preprocess, open_folder, read_preprocess
from hqp_onnx.data.memory import ArraySource
from hqp_onnx.errors import INTERRUPTIONS, DataError, UsageError, one_line
from hqp_onnx.files import require_regular
from hqp_onnx.registry import foreign, outside_code
from hqp_onnx.runtimes.session import TensorSpec

Data: TypeAlias = str | Path | Mapping[str, Any] | Iterable[Any] | Callable[[], Iterable[Any]]
"""What ``open_source`` takes; arrays by name, as in a .npz file; what a data-loader script yields, or its function."""


def open_source(path: str, preprocess: Path | None = None, input_name: str = "input") -> Source:
    """The rows of ``path``: ``file.npz``, a folder of images, or ``file.py[:function]``.

    Args:
        path: the data. Arrays of a .npz are named as the model's inputs, plus optional ``labels``. A folder has
            one sub-folder per class, numbered in sorted order, or images and no labels. A script's function
            (``load_data`` unless named) yields feed dictionaries, or pairs (feeds, labels), as for Polygraphy.
        preprocess: JSON file of ``Preprocess`` fields, for images only.
        input_name: the input that images feed.

    Raises:
        DataError: the data cannot be read or contradict themselves.
        UsageError: ``preprocess`` is invalid, or is given for anything but a folder of images.
    """
    script, _, function = path.rpartition(":") if ".py:" in path else (path, "", "")
    file = Path(script)
    if file.is_dir():
        return open_folder(file, Preprocess() if preprocess is None else read_preprocess(preprocess), input_name)
    if preprocess is not None:
        raise UsageError(
            f"{{--preprocess}} is for a folder of images, not for {path}: preprocess its arrays beforehand"
        )
    require_regular(file, "a .npz file, a folder of images, or script.py[:function]")
    if file.suffix == ".py":
        return _open_script(file, function or "load_data")
    return _open_npz(file)


def open_dataset(
    data: Data,
    specs: Sequence[TensorSpec],
    *,
    preprocess: str | Path | None = None,
    batch_size: int = 100,
    limit: int | None = None,
) -> Dataset:
    """The rows of ``data`` (see ``open_source``) as the inputs ``specs`` of a model.

    Raises:
        DataError: see ``open_source`` and ``Dataset``; also a folder of images for a model of several inputs.
        UsageError: see ``open_source`` and ``Dataset``.
    """
    if not isinstance(data, (str, Path)):
        if preprocess is not None:
            raise UsageError("{--preprocess} is for a folder of images, not for data in memory")
        return Dataset(_in_memory(data), specs, batch_size, limit)
    path = str(data)
    if Path(path).is_dir() and len(specs) != 1:
        raise DataError(f"{path}: images feed one input, but the model has {len(specs)}: use a .npz file or a script")
    source = open_source(path, None if preprocess is None else Path(preprocess), specs[0].name if specs else "input")
    return Dataset(source, specs, batch_size, limit)


def _in_memory(data: Mapping[str, Any] | Iterable[Any] | Callable[[], Iterable[Any]]) -> ArraySource:
    if callable(data):
        return _in_memory(_called(data))
    if not isinstance(data, Iterable):
        raise DataError(f"the data are a {type(data).__name__}: expected a path, arrays by input name, or feeds")
    if not isinstance(data, Mapping):
        return _collected(data, "the data")
    return _named({key: _array(values, f"the data, '{key}'") for key, values in data.items()}, "the data")


def _called(function: Callable[[], Iterable[Any]]) -> Iterable[Any]:
    """What a user's function returns."""
    with outside_code("the data: their function fails", DataError):
        return function()


def _open_npz(file: Path) -> ArraySource:
    return _named(read_arrays(file), str(file))


def _named(arrays: dict[str, Array], name: str) -> ArraySource:
    targets = {} if LABELS not in arrays else {LABELS: arrays.pop(LABELS)}
    return ArraySource(name, arrays, targets)


@contextmanager
def _script_errors(file: Path) -> Iterator[None]:
    """Whatever a user's script raises, as one line; its folder is importable meanwhile."""
    foreign(file)
    sys.path.insert(0, str(file.parent.resolve()))
    try:
        yield
    except INTERRUPTIONS:
        raise
    except BaseException as e:
        lines = [frame.lineno for frame in traceback.extract_tb(e.__traceback__) if frame.filename == str(file)]
        line = e.lineno if isinstance(e, SyntaxError) and e.filename == str(file) else lines[-1] if lines else None
        raise DataError(f"{file}, line {line or '?'}: {type(e).__name__}: {one_line(e)}") from e
    finally:
        sys.path.remove(str(file.parent.resolve()))


def _open_script(file: Path, function: str) -> ArraySource:
    with _script_errors(file):
        load = runpy.run_path(str(file)).get(function)
    if not callable(load):
        raise DataError(f"{file}: no function '{function}'; expected one that yields feed dictionaries")
    return _collected(_items(file, load), f"{file}:{function}()")


def _collected(items: Iterable[Any], name: str) -> ArraySource:
    """What ``items`` yields, as one source called ``name``."""
    pieces = [_piece(item, f"{name}, item {n}") for n, item in enumerate(_yielded(items, name))]
    if not pieces:
        raise DataError(f"{name} yields nothing; expected feed dictionaries")
    return _concatenated(pieces, name)


def _yielded(items: Iterable[Any], name: str) -> Iterator[Any]:
    """The items; what a user's generator raises is one line."""
    iterator, end = iter(items), object()
    while True:
        with outside_code(name, DataError):
            item = next(iterator, end)
        if item is end:
            return
        yield item


def _items(file: Path, load: Callable[[], Any]) -> Iterator[Any]:
    with _script_errors(file):
        iterator = iter(load())
    while True:
        with _script_errors(file):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


def _piece(item: Any, where: str) -> ArraySource:
    """One yielded item, checked on its own, and copied: a loader may fill the same arrays again."""
    feeds, targets = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
    if targets is not None and not isinstance(targets, Mapping):
        targets = {LABELS: targets}
    for arrays, what in ((feeds, "a dictionary of arrays by input name"), (targets or {}, "targets by name")):
        if not isinstance(arrays, Mapping) or not all(isinstance(key, str) for key in arrays):
            raise DataError(f"{where} is {type(feeds).__name__}, expected {what}")
    return ArraySource(
        where,
        *({k: _array(x, f"{where}, '{k}'", copy=True) for k, x in part.items()} for part in (feeds, targets or {})),
    )


def _array(value: Any, where: str, copy: bool = False) -> Array:
    try:
        return np.array(value) if copy else np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as e:
        raise DataError(f"{where}: not an array: {one_line(e)}") from e


def _concatenated(pieces: Sequence[ArraySource], name: str) -> ArraySource:
    first = pieces[0]
    for piece in pieces:
        if piece.arrays.keys() != first.arrays.keys() or piece.targets.keys() != first.targets.keys():
            raise DataError(f"{piece.name} has other arrays than the first item, or targets where that has none")
        for key, values in (*piece.arrays.items(), *piece.targets.items()):
            known = first.arrays[key] if key in piece.arrays else first.targets[key]
            if values.shape[1:] != known.shape[1:] or values.dtype != known.dtype:
                raise DataError(
                    f"{piece.name}: '{key}' is {values.dtype}{list(values.shape)}, expected "
                    f"{known.dtype}{list(known.shape)} except for the first axis"
                )
    arrays = {key: np.concatenate([piece.arrays[key] for piece in pieces]) for key in first.arrays}
    return ArraySource(
        name, arrays, {key: np.concatenate([piece.targets[key] for piece in pieces]) for key in first.targets}
    )
