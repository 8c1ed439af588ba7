"""Targets from a table: a CSV file with a row for each sample, whose first column names image files.

The other columns are numbers, and together the target 'labels': [samples] where there is one, else [samples, columns];
int64 where all of them are whole numbers without a point, else float64. For samples that are no files the rows are in
their order, and a first column that holds no numbers is passed over. A first row without numbers is a title.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hqp_onnx.arrays import Array
from hqp_onnx.counts import counted
from hqp_onnx.data.batch import LABELS
from hqp_onnx.data.images import PlainTargets
from hqp_onnx.errors import DataError
from hqp_onnx.files import read_text, sha256


def file_values(file: Path, images: Sequence[Path], root: Path) -> PlainTargets:
    """The values of ``images``, which lie under ``root``; a name is a path under it, or a bare file name.

    Raises:
        DataError: not a table of names and numbers, or without a row for some image.
    """
    rows = _rows(file)
    names = {row[0]: number for number, row in enumerate(rows)}
    if len(names) != len(rows):
        raise DataError(f"{file}: names {counted(len(rows) - len(names), 'file')} twice")
    values = _numbers(file, [row[1:] for row in rows])
    order = []
    for image in images:
        place = names.get(image.relative_to(root).as_posix(), names.get(image.name, names.get(image.stem)))
        if place is None:
            raise DataError(f"{file}: no row for '{image.name}' of {root}: expected its name in the first column")
        order.append(place)
    return PlainTargets({LABELS: values[order]}, sha256(file))


def row_values(file: Path) -> Array:
    """The values of all rows, in order."""
    rows = _rows(file)
    named = len(rows[0]) > 1 and not any(_is_number(row[0]) for row in rows)
    return _numbers(file, [row[1:] for row in rows] if named else rows)


def _rows(file: Path) -> list[list[str]]:
    rows = [
        [cell.strip() for cell in row]
        for row in csv.reader(read_text(file).removeprefix("\ufeff").splitlines())
        if any(row)
    ]
    if len(rows) > 1 and not any(map(_is_number, rows[0][1:] or rows[0])):
        rows = rows[1:]
    if not rows:
        raise DataError(f"{file}: no rows; expected a table: a file name and numbers in each")
    if wrong := next((number for number, row in enumerate(rows) if len(row) != len(rows[0])), None):
        raise DataError(
            f"{file}: row {wrong} has {counted(len(rows[wrong]), 'column')}, and the first has {len(rows[0])}"
        )
    return rows


def _numbers(file: Path, rows: Sequence[Sequence[str]]) -> Array:
    if not rows[0]:
        raise DataError(f"{file}: one column; expected names and at least one column of numbers")
    for number, row in enumerate(rows):
        if wrong := next((cell for cell in row if not _is_number(cell)), None):
            raise DataError(f"{file}: '{wrong}' of row {number} is not a number")
        if "" in row:
            raise DataError(f"{file}: a cell of row {number} is empty")
    try:
        values = np.array([[int(cell) for cell in row] for row in rows], np.int64)
    except (ValueError, OverflowError):
        values = np.array([[float(cell) for cell in row] for row in rows], np.float64)
    if not np.isfinite(values).all():
        raise DataError(f"{file}: holds NaN or infinity")
    return values[:, 0] if values.shape[1] == 1 else values


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
