"""Values as a model's input takes them: cast where nothing is lost, or one line of what they look like instead."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np

from hqp_onnx.arrays import Array
from hqp_onnx.errors import DataError
from hqp_onnx.runtimes.session import TensorSpec

_COLOURS = (1, 3, 4)


def fitted(values: Array, spec: TensorSpec, source: str, start: int, count: int) -> Array:
    """``values`` as ``spec`` wants them; for errors, ``start`` is the first sample, ``count`` all of them.

    Raises:
        DataError: another shape, a cast that would lose something, or numbers that are not finite.
    """
    where = f"{source}: array '{spec.name}'"
    if not _fits(values.shape, spec):
        hint = looks_like((count, *values.shape[1:]), spec)
        hint = f": {hint}" if hint else ""
        raise DataError(f"{where} has shape {list(values.shape)}, the model wants {spec} (first axis = samples){hint}")
    if not _castable(values.dtype, spec.dtype):
        raise DataError(f"{where} is {values.dtype}, the model wants {spec.dtype}: {_advice(values, spec)}")
    with np.errstate(over="ignore"):  # said below
        converted = values.astype(spec.dtype, copy=False)
    if np.issubdtype(converted.dtype, np.floating):
        finite = np.isfinite(converted.reshape(len(converted), -1)).all(axis=1)
        if not finite.all():
            row = int(np.argmin(finite))
            what = f"numbers beyond {spec.dtype}" if np.isfinite(values[row]).all() else "NaN or infinity"
            raise DataError(f"{where} holds {what} in sample {start + row}")
    return converted


def constant(value: Array, spec: TensorSpec, source: str) -> Array:
    """A value that all samples share as ``spec`` wants it.

    Raises:
        DataError: another shape, or a cast that would lose something.
    """
    where = f"{source}: the constant '{spec.name}'"
    if value.dtype.kind not in "biuf" or not np.isfinite(value).all():
        raise DataError(f"{where} is {value.tolist()}, expected finite numbers")
    shaped = value.reshape(spec.shape) if value.size == 1 and all(size == 1 for size in spec.shape) else value  # type: ignore[arg-type]
    if len(spec.shape) != shaped.ndim or any(
        want is not None and want != have for want, have in zip(spec.shape, shaped.shape, strict=True)
    ):
        raise DataError(f"{where} has shape {list(value.shape)}, the model wants {spec}")
    same = shaped.astype(spec.dtype)
    if not _castable(value.dtype, spec.dtype) and not np.array_equal(same, shaped):
        raise DataError(f"{where} is {value}, which {spec.dtype} cannot hold")
    return same


def shared_shapes(specs: Sequence[TensorSpec]) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs that may have no axis of samples.

    These are scalars, and inputs of a fixed shape whose first size is not that of the first input that has one.
    """
    leading = next((spec.shape[0] for spec in specs if spec.shape), None)
    fixed = ((spec, tuple(size for size in spec.shape if size is not None)) for spec in specs)
    return {s.name: sizes for s, sizes in fixed if sizes == s.shape and (not sizes or sizes[0] != leading)}


def looks_like(shape: tuple[int, ...], spec: TensorSpec) -> str:
    """What values of a wrong shape look like, and what to do; empty where nobody knows."""
    if not spec.shape:
        return f"looks like an input that all samples share: {{--constant}} {spec.name}=VALUE"
    sample, want = shape[1:], spec.shape[1:]
    if len(shape) + 1 == len(spec.shape):
        axis = next((i for i, size in enumerate(want) if size == 1 and _agree(_with(sample, i), want)), None)
        if axis is not None:
            return f"looks like samples without axis {axis + 1}: numpy.expand_dims(values, {axis + 1})"
        return "looks like a single sample: add the axis of samples, values[None]" if _agree(shape, want) else ""
    if len(shape) == len(spec.shape) + 1 and 1 in sample:
        axis = next((i for i, size in enumerate(sample) if size == 1 and _agree(sample[:i] + sample[i + 1 :], want)), 9)
        return "" if axis == 9 else f"looks like an axis too much: numpy.squeeze(values, {axis + 1})"
    if len(shape) != len(spec.shape):
        return ""
    if len(shape) == 4 and (hint := _of_images(sample, want)):
        return hint
    orders = [order for order in permutations(range(len(sample))) if _agree(tuple(sample[i] for i in order), want)]
    if orders and len(sample) > 1:
        axes = (0, *(i + 1 for i in orders[0]))
        return f"looks like axes in another order: values.transpose{axes}"
    return ""


def _of_images(have: tuple[int, ...], want: tuple[int | None, ...]) -> str:
    first, last = have[0], have[-1]
    if want[0] in _COLOURS and last == want[0] and first != want[0]:
        where = 'looks like channels last: values.transpose(0, 3, 1, 2), or "layout": "NCHW" for image files'
        return where if _agree((last, *have[:2]), want) else f"{where}; and {_size(have[:2], want[1:])}"
    if want[-1] in _COLOURS and first == want[-1] and last != want[-1]:
        where = 'looks like channels first: values.transpose(0, 2, 3, 1), or "layout": "NHWC" for image files'
        return where if _agree((*have[1:], first), want) else f"{where}; and {_size(have[1:], want[:2])}"
    for axis, pixels in ((0, slice(1, 3)), (2, slice(0, 2))):
        wanted = want[axis]
        if wanted in _COLOURS and have[axis] != wanted and have[axis] in _COLOURS:
            kind = {1: "grey", 3: "colour", 4: "colour and transparency"}
            return (
                f'looks like {kind[have[axis]]} images for a model of {kind[wanted]} ones: "color" of {{--preprocess}}'
            )
        if wanted in _COLOURS and have[axis] == wanted:
            return _size(have[pixels], want[pixels])
    return ""


def _size(have: tuple[int, ...], want: tuple[int | None, ...]) -> str:
    need = "x".join("?" if size is None else str(size) for size in want)
    return (
        f"looks like images of {'x'.join(map(str, have))} for a model of {need}: resize them, as {{--preprocess}} does"
    )


def _fits(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    return len(shape) == len(spec.shape) > 0 and _agree(shape[1:], spec.shape[1:])


def _agree(have: tuple[int, ...], want: tuple[int | None, ...]) -> bool:
    return len(have) == len(want) and all(w is None or w == h for w, h in zip(want, have, strict=True))


def _with(sample: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*sample[:axis], 1, *sample[axis:])


def _advice(values: Array, spec: TensorSpec) -> str:
    if values.dtype.kind == "f" and spec.dtype == np.uint8:
        return "looks like pixels that were scaled already; this model takes them as they are stored, 0..255"
    if values.dtype.kind == "f" and spec.dtype.kind in "iu":
        return "looks like numbers where indices belong: values.astype, if they are whole"
    return "convert it first"


def _castable(have: np.dtype[Any], want: np.dtype[Any]) -> bool:
    if want == np.object_:  # text
        return have.kind == "U"
    if have.kind not in "biuf":
        return False
    if np.issubdtype(want, np.floating):
        return bool(np.issubdtype(have, np.floating) or np.can_cast(have, np.int16) or np.can_cast(have, want))
    return bool(np.can_cast(have, want))
