"""What code yields, as samples: a data-loader script, a function, an iterable. ``stream`` says how often it is called.

An item is a dictionary of arrays by input name, first axis = samples, or a pair of that and targets (an array for
'labels', or a dictionary). Of a model with one input, an array stands for such a dictionary. Items may hold any number
of samples. So the DataLoaders of PyTorch are data, if they do not shuffle: they yield pairs, or one array, as lists.
"""

from __future__ import annotations

import runpy
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hqp_onnx.arrays import Array, read_only
from hqp_onnx.data.batch import LABELS
from hqp_onnx.data.memory import ArraySource
from hqp_onnx.data.stream import Stream
from hqp_onnx.errors import INTERRUPTIONS, DataError, one_line
from hqp_onnx.registry import foreign, outside_code

Shapes = Mapping[str, tuple[int, ...]]
"""Of inputs that may have no axis of samples, see ``fitting.shared_shapes``."""


def open_script(file: Path, function: str, shared: Shapes, only: str = "") -> Stream:
    """What a function of a Python file yields; ``only`` is the name of the one input, if there is one.

    Raises:
        DataError: the file has no such function, or it raises something; see ``Stream``.
    """
    with _script_errors(file):
        load = runpy.run_path(str(file)).get(function)
    if not callable(load):
        raise DataError(f"{file}: no function '{function}'; expected one that yields feed dictionaries")
    name = f"{file}:{function}()"
    return Stream(lambda: _pieces(_of_script(file, load), name, shared, only), name)


def open_items(items: Iterable[Any] | Callable[[], Iterable[Any]], name: str, shared: Shapes, only: str = "") -> Stream:
    """What an iterable yields, or that which a function returns; ``only`` as of ``open_script``."""
    if callable(items):
        return Stream(lambda: _pieces(_yielded(_called(items), name), name, shared, only), name)
    with outside_code(name, DataError):
        once = iter(items) is items
    return Stream(lambda: _pieces(_yielded(items, name), name, shared, only), name, once)


def _called(function: Callable[[], Iterable[Any]]) -> Iterable[Any]:
    """What a user's function returns."""
    with outside_code("the data: their function fails", DataError):
        return function()


def _yielded(items: Iterable[Any], name: str) -> Iterator[Any]:
    """The items; what a user's generator raises is one line."""
    with outside_code(name, DataError):
        iterator, end = iter(items), object()
    while True:
        with outside_code(name, DataError):
            item = next(iterator, end)
        if item is end:
            return
        yield item


def _of_script(file: Path, load: Callable[[], Any]) -> Iterator[Any]:
    with _script_errors(file):
        iterator = iter(load())
    while True:
        with _script_errors(file):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


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


def _pieces(items: Iterable[Any], name: str, shared: Shapes, only: str) -> Iterator[ArraySource]:
    """The items that hold samples, each checked on its own."""
    pieces = (_piece(item, f"{name}, item {number}", shared, only) for number, item in enumerate(items))
    return (piece for piece in pieces if piece.count)


def _piece(item: Any, where: str, shared: Shapes, only: str) -> ArraySource:
    """One yielded item, copied: a loader may fill the same arrays again."""
    parts = item if isinstance(item, (tuple, list)) and len(item) in (1, 2) else (item,)
    feeds, targets = (*parts, {})[:2]
    feeds = {only: feeds} if only and hasattr(feeds, "__array__") else feeds
    if targets is None or not isinstance(targets, Mapping):
        targets = {} if targets is None else {LABELS: targets}
    for arrays, expected in ((feeds, "a dictionary of arrays by input name"), (targets, "targets by name")):
        if not isinstance(arrays, Mapping) or not all(isinstance(key, str) for key in arrays):
            raise DataError(f"{where} is {type(feeds).__name__}, expected {expected}")
    arrays, targets = (
        {key: as_array(x, f"{where}, '{key}'", copy=True) for key, x in part.items()} for part in (feeds, targets)
    )
    constants = {key: values for key, values in arrays.items() if values.shape == shared.get(key)}
    return ArraySource(where, {key: x for key, x in arrays.items() if key not in constants}, targets, constants)


def as_array(value: Any, where: str, copy: bool = False) -> Array:
    """``value`` as an array; ``DataError`` where it is none."""
    try:
        array = np.asarray(value)
        return np.array(array) if copy else read_only(array)
    except (TypeError, ValueError, RuntimeError) as e:
        raise DataError(f"{where}: not an array: {one_line(e)}") from e
