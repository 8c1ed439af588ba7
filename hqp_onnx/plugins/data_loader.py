"""DATA as a data-loader script for Polygraphy: ``load_data()`` gives the batches that a model takes, checked.

Polygraphy hands what it is given to the runtime, and its TensorRT calibrator ends at the first batch that does not
fit, without a word. So the script reads DATA as every ``hqp`` command does, against the inputs of the model that it was
written for, and gives whole batches only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from hqp_onnx.arrays import Array
from hqp_onnx.counts import counted
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.preprocess import is_file
from hqp_onnx.data.reading import Data, Reading, read_files, reading
from hqp_onnx.data.sources import open_dataset
from hqp_onnx.errors import DataError, UsageError
from hqp_onnx.files import Names, forbid_overlap, make_folder, write_text
from hqp_onnx.graphs.model_io import parts
from hqp_onnx.model import open_session
from hqp_onnx.runtimes.session import TensorSpec

_SCRIPT = '''"""A data-loader script for Polygraphy, written by `hqp data-loader`. Needs hqp_onnx."""

from hqp_onnx.plugins.data_loader import batches


def load_data():
    """Feed dictionaries, as often as they are asked for."""
    return batches(
        data={data!r},
        inputs={inputs!r},
        batch={batch!r},
        limit={limit!r},
        preprocess={preprocess!r},
        constants={constants!r},
        pad={pad!r},
        part={part!r},
    )
'''


@dataclass(frozen=True)
class Feeds:
    """The whole batches of ``dataset`` as feed dictionaries."""

    dataset: Dataset

    def __len__(self) -> int:
        return len(self.dataset) // self.dataset.batch_size

    def __iter__(self) -> Iterator[dict[str, Array]]:
        size = self.dataset.batch_size
        return (dict(self.dataset.rows(n * size, (n + 1) * size).feeds) for n in range(len(self)))


def batches(
    data: str,
    inputs: Mapping[str, tuple[str, Sequence[int | None]]],
    batch: int = 1,
    limit: int | None = None,
    preprocess: str | Path | None = None,
    constants: Mapping[str, Any] = MappingProxyType({}),
    pad: Mapping[str, float] = MappingProxyType({}),
    part: str | None = None,
) -> Feeds:
    """The samples of ``data`` in batches of ``batch``; those that fill no batch are left out.

    Args:
        data: DATA, see ``sources.open_source``.
        inputs: numpy type and shape (None: any size) of each input of the model.
        batch: samples per batch.
        limit: use only this many samples, the first ones.
        preprocess: of images: imagenet, clip, tf, yolo, JSON, or its file.
        constants: inputs that all samples share.
        pad: what fills up arrays of different lengths, by name.
        part: of a split, as ``split.json:test``.

    Raises:
        DataError: the data do not fit the inputs, or are fewer than one batch.
        UsageError: ``batch`` or ``limit`` below 1; see ``sources.open_source``.
    """
    specs = [TensorSpec(name, np.dtype(kind), tuple(shape)) for name, (kind, shape) in inputs.items()]
    asked = Reading(data, preprocess=preprocess, constants=constants, pad=pad, part=part)
    dataset = open_dataset(asked, specs, batch_size=batch, limit=limit)
    if len(dataset) < batch:
        raise DataError(
            f"{data}: {counted(len(dataset), 'sample')}, fewer than one batch of {batch}: give more, or smaller batches"
        )
    return Feeds(dataset)


def write_script(
    data: Data,
    model: Path,
    output: Path,
    *,
    batch: int | None = None,
    limit: int | None = None,
    preprocess: str | Path | None = None,
) -> Feeds:
    """Write a script whose ``load_data()`` gives ``data`` as the inputs of ``model``; returns what it will give.

    Args:
        data: DATA, see ``sources.open_source``; the script names it by its absolute path.
        model: any model that onnxruntime runs.
        output: the script.
        batch: samples per batch; None for the model's own, or 1 where that is dynamic.
        limit: use only this many samples, the first ones.
        preprocess: of images: imagenet, clip, tf, yolo, JSON, or its file.

    Raises:
        ModelError: the model cannot be loaded.
        DataError, UsageError: see ``batches``; also a ``batch`` that is not the model's own.
    """
    asked = reading(data, preprocess)
    if asked.states:
        raise UsageError("{--state}: a script cannot run the model: leave it out")
    read: dict[str, Names] = {"the model": parts(model), **read_files(asked, None)}
    forbid_overlap({"output": output}, read)
    session = open_session(model)
    if batch is not None and session.batch not in (None, batch):
        raise UsageError(f"{{--batch}} {batch}: {model} takes batches of {session.batch} only")
    chosen: dict[str, Any] = {
        "data": str(Path(str(asked.data)).resolve()),
        "inputs": {spec.name: (spec.dtype.name, spec.shape) for spec in session.inputs},
        "batch": batch if batch is not None else session.batch or 1,
        "limit": limit,
        "preprocess": str(Path(preprocess).resolve()) if preprocess and is_file(preprocess) else preprocess,
        "constants": dict(asked.constants),
        "pad": dict(asked.pad),
        "part": None if asked.part is None else str(Path(asked.part).resolve()),
    }
    feeds = batches(**chosen)
    make_folder(output.parent)
    write_text(output, _SCRIPT.format(**chosen))
    return feeds
