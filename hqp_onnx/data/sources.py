"""Readers of data: files of arrays, folders of images, scripts, arrays or feeds in memory; see ``Reading``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hqp_onnx.counts import article
from hqp_onnx.data.attached import Padded, WithTargets
from hqp_onnx.data.batch import LABELS
from hqp_onnx.data.boxes import open_boxes
from hqp_onnx.data.dataset import Dataset, Source
from hqp_onnx.data.fitting import shared_shapes
from hqp_onnx.data.images import FileTargets, ImageSource, by_shape, image_files, images_among, with_labels
from hqp_onnx.data.loaders import Shapes, as_array, open_items, open_script
from hqp_onnx.data.masks import open_masks
from hqp_onnx.data.memory import ArraySource
from hqp_onnx.data.preprocess import Preprocess, image_axes, read_preprocess
from hqp_onnx.data.reading import Data, Reading, reading
from hqp_onnx.data.split import read_part
from hqp_onnx.data.states import with_states
from hqp_onnx.data.stored import Rows, open_npy, open_npz
from hqp_onnx.data.stream import Stream
from hqp_onnx.data.values import file_values, row_values
from hqp_onnx.errors import DataError, UsageError
from hqp_onnx.files import require_regular
from hqp_onnx.runtimes.session import Runner, TensorSpec

_EXPECTED = "a .npz or .npy file, a folder of images or of .npy files, or script.py[:function]"


def open_source(data: Data, preprocess: str | Path | None = None, specs: Sequence[TensorSpec] = ()) -> Source:
    """The samples of ``data`` for a model with the inputs ``specs``.

    Args:
        data: see ``Reading``. Arrays of a .npz are named as the model's inputs; others are targets. A .npy file, and
            images, feed the one input that is no constant. A folder of images has one sub-folder per class, numbered in
            sorted order, or images and no labels; a folder of .npy files is read as a .npz. A script's function
            (``load_data`` unless named) yields feed dictionaries, or pairs (feeds, targets), as for Polygraphy.
        preprocess: of images, where ``data`` says none.
        specs: the model's inputs.

    Raises:
        DataError: the data cannot be read or contradict themselves.
        UsageError: ``preprocess`` is invalid, or is given for anything but a folder of images.
    """
    asked = reading(data, preprocess)
    source = _opened(asked, [spec for spec in specs if spec.name not in asked.constants], shared_shapes(specs))
    if asked.targets is not None and not isinstance(source, ImageSource):
        source = WithTargets(source, _rows_of_targets(asked.targets))
    if asked.pad:
        source = Padded(source, asked.pad, {spec.name: spec for spec in specs})
    return source if asked.part is None else read_part(source, asked.part)


def open_dataset(
    data: Data,
    specs: Sequence[TensorSpec],
    *,
    preprocess: str | Path | None = None,
    batch_size: int = 100,
    limit: int | None = None,
    original: Runner | None = None,
) -> Dataset:
    """The samples of ``data`` (see ``open_source``) as the inputs ``specs`` of a model.

    ``original`` is that model, where it has states that flow from output to input (``Reading.states``).

    Raises:
        DataError: see ``open_source`` and ``Dataset``; also images for a model of several inputs.
        UsageError: see ``open_source`` and ``Dataset``.
    """
    asked = reading(data, preprocess)
    source = open_source(asked, specs=[spec for spec in specs if spec.name not in asked.states])
    constants = {name: as_array(value, f"the constant '{name}'") for name, value in asked.constants.items()}
    if asked.states:
        if original is None:
            raise UsageError("{--state} is for commands that run the model on data: leave it out here")
        source = with_states(source, original, asked.states, constants)
    return Dataset(source, specs, batch_size, limit, constants=constants, states=asked.states)


def _opened(asked: Reading, specs: Sequence[TensorSpec], shared: Shapes) -> Source:
    data = asked.data
    if isinstance(data, (str, Path)):
        return _path(str(data), asked, specs, shared)
    if asked.preprocess is not None:
        raise UsageError("{--preprocess} is for a folder of images, not for data in memory")
    if isinstance(data, Mapping):
        arrays = {key: as_array(values, f"the data, '{key}'") for key, values in data.items()}
        return _named(arrays, "the data", shared, specs)
    if hasattr(data, "__array__"):
        return _named(
            {_only(specs, "the data", "an array").name: as_array(data, "the data")}, "the data", shared, specs
        )
    if not callable(data) and not isinstance(data, Iterable):
        raise DataError(f"the data are {article(type(data).__name__)}: expected a path, arrays by input name, or feeds")
    return _small(open_items(data, "the data", shared, _one(specs)))


def _path(path: str, asked: Reading, specs: Sequence[TensorSpec], shared: Shapes) -> Source:
    script, _, function = path.rpartition(":") if ".py:" in path else (path, "", "")
    file = Path(script)
    if file.is_dir():
        arrays = sorted(file.glob("*.npy"))
        if not arrays or images_among(file.iterdir()):
            return _images(file, asked, specs)
    if asked.preprocess is not None:
        raise UsageError(
            f"{{--preprocess}} is for a folder of images, not for {path}: preprocess its arrays beforehand"
        )
    if file.is_dir():
        return _named({each.stem: open_npy(each) for each in arrays}, path, shared, specs, file)
    require_regular(file, _EXPECTED)
    if file.suffix == ".py":
        return _small(open_script(file, function or "load_data", shared, _one(specs)))
    if file.suffix == ".npy":
        return _named({_only(specs, path, "an array").name: open_npy(file)}, path, shared, specs, file)
    return _named(open_npz(file), path, shared, specs, file)


def _one(specs: Sequence[TensorSpec]) -> str:
    """The name of the one input; empty where there are several."""
    return specs[0].name if len(specs) == 1 else ""


def _small(stream: Stream) -> Source:
    return stream.in_memory or stream


def _named(
    arrays: Mapping[str, Rows], name: str, shared: Shapes, specs: Sequence[TensorSpec], file: Path | None = None
) -> ArraySource:
    """Arrays as samples; of these, 'labels' is a target, unless an input of the model has that name."""
    targets = {LABELS: arrays[LABELS]} if LABELS in arrays and all(spec.name != LABELS for spec in specs) else {}
    constants = {k: x[:] if x.shape else np.asarray(x) for k, x in arrays.items() if x.shape == shared.get(k)}
    feeds = {key: values for key, values in arrays.items() if key not in constants and key not in targets}
    return ArraySource(name, feeds, targets, constants, () if file is None else (file,))


def _only(specs: Sequence[TensorSpec], path: str, what: str) -> TensorSpec:
    """The one input that is no constant."""
    if len(specs) > 1:
        names = ", ".join(spec.name for spec in specs)
        raise DataError(
            f"{path}: {what} feeds one input, but the model has {len(specs)} ({names}): use a .npz file or a script, "
            "or {--constant} for those that all samples share"
        )
    return specs[0] if specs else TensorSpec("input", np.dtype(np.float32), (None,))


def _images(folder: Path, asked: Reading, specs: Sequence[TensorSpec]) -> ImageSource:
    spec = _only(specs, str(folder), "a folder of images")
    axes = image_axes(spec) if specs else None
    if specs and axes is None:
        raise DataError(
            f"{folder}: images have height, width and channels, and the model wants {spec}: use a .npz file"
        )
    preprocess = read_preprocess({} if asked.preprocess is None else asked.preprocess, spec)
    files, numbers = image_files(folder)
    cuts: tuple[int, ...] = ()
    if axes is not None and None in axes[2:] and not _of_one_size(preprocess):
        order, cuts = by_shape(files, preprocess)
        files = [files[i] for i in order]
        numbers = None if numbers is None else [numbers[i] for i in order]
    targets = with_labels(numbers) if asked.targets is None else _of_files(asked.targets, files, folder)
    return ImageSource(folder, files, preprocess, spec.name, targets, cuts)


def _of_one_size(preprocess: Preprocess) -> bool:
    return preprocess.letterbox is not None or preprocess.crop is not None or isinstance(preprocess.size, Sequence)


def _of_files(targets: Any, files: Sequence[Path], root: Path) -> FileTargets:
    """What belongs to image files."""
    readers: dict[str, Callable[[Path, Sequence[Path], Path], FileTargets]] = {
        ".json": open_boxes,
        ".csv": file_values,
    }
    path = Path(targets) if isinstance(targets, (str, Path)) else None
    if path is not None and path.is_dir():
        return open_masks(path, files, root)
    if path is None or path.suffix.lower() not in readers:
        raise UsageError(
            f"{{--targets}} {path or 'in memory'}: expected a folder of masks, a .json file of boxes, or a .csv file "
            "of names and values, for images"
        )
    require_regular(path, "a file of targets")
    return readers[path.suffix.lower()](path, files, root)


def _rows_of_targets(targets: Any) -> ArraySource:
    """Targets in the order of the samples."""
    if isinstance(targets, Mapping):
        return ArraySource("the targets", {k: as_array(x, f"the targets, '{k}'") for k, x in targets.items()})
    if not isinstance(targets, (str, Path)):
        return ArraySource("the targets", {LABELS: as_array(targets, "the targets")})
    path = Path(targets)
    readers: dict[str, Callable[[Path], Mapping[str, Rows]]] = {
        ".csv": lambda file: {LABELS: row_values(file)},
        ".npy": lambda file: {LABELS: open_npy(file)},
        ".npz": open_npz,
    }
    if path.suffix.lower() not in readers:
        raise UsageError(
            f"{{--targets}} {path}: expected a .csv, .npy or .npz file with a row for each sample; masks and boxes are "
            "for folders of images"
        )
    require_regular(path, "a file of targets")
    return ArraySource(str(path), readers[path.suffix.lower()](path), files=(path,))
