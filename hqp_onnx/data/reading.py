"""Data, and how they are read: what they are held against, what all samples share, what is padded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, Union

from hqp_onnx.data.preprocess import PreprocessLike, is_file
from hqp_onnx.errors import UsageError
from hqp_onnx.files import Names

Plain: TypeAlias = str | Path | Mapping[str, Any] | Iterable[Any] | Callable[[], Iterable[Any]]
"""A .npz or .npy file, a folder of images or of .npy files, ``FILE.py:function``; or arrays by name, as in a .npz file,
an array for the only input, feeds as a data-loader script yields them, or its function."""


@dataclass(frozen=True)
class Reading:
    """Data, and how they are read; it stands wherever data are asked for.

    Attributes:
        data: a file, a folder, a script, arrays or feeds.
        targets: what belongs to the samples, where it is not in ``data``. Of image files: a folder of masks, COCO's
            JSON, or a CSV of file names and values. Of other data, row by row: a CSV of values, a .npy ('labels') or
            .npz file, or arrays by name.
        preprocess: of images: a name in ``preprocess.PRESETS``, JSON, its file, or a dictionary.
        constants: inputs that all samples share, by name, without an axis of samples.
        pad: value by the name of an array whose samples have different lengths.
        states: output by the input that takes it at the next time step; samples are steps, see ``data.states``.
        part: of a split, as ``split.json:test``: only these samples.
    """

    data: Plain
    targets: str | Path | Mapping[str, Any] | None = None
    preprocess: PreprocessLike | None = None
    constants: Mapping[str, Any] = field(default_factory=dict)
    pad: Mapping[str, float] = field(default_factory=dict)
    part: str | None = None
    states: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("constants", "pad", "states"):
            if not isinstance(value := getattr(self, name), Mapping):
                raise UsageError(
                    f"{name} of a Reading is of type {type(value).__name__}: expected a dictionary by name"
                )


Data: TypeAlias = Union[Plain, Reading]  # noqa: UP007 - read at run time, by Python 3.10 too
"""What a function takes as data."""


def reading(data: Data, preprocess: PreprocessLike | None = None) -> Reading:
    """``data`` as a ``Reading``; its own preprocessing goes before ``preprocess``."""
    if not isinstance(data, Reading):
        return Reading(data, preprocess=preprocess)
    return data if data.preprocess is not None or preprocess is None else replace(data, preprocess=preprocess)


def read_files(data: Data | None, preprocess: PreprocessLike | None) -> dict[str, Names]:
    """What is read, in words, as ``files.forbid_overlap`` takes it."""
    asked = preprocess if preprocess is not None and is_file(preprocess) else None
    own = data.preprocess if isinstance(data, Reading) and data.preprocess is not None else None
    files = [Path(str(each)) for each in (asked, own) if each is not None and is_file(each)]
    return {"the data": files_of(data), "the file of {--preprocess}": files}


def files_of(data: Data | None) -> list[str | Path]:
    """The files, folders and scripts that are read."""
    whole = [data] if not isinstance(data, Reading) else [data.data, data.targets]
    return [each for each in whole if isinstance(each, (str, Path))]
