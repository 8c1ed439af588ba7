"""How people change the values of pixels before a model sees them: what may have been forgotten."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hqp_onnx.arrays import Array, FloatArray

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
CHANGES: Mapping[str, str] = {
    "scale": "divided by 255",
    "imagenet": "with ImageNet's mean and deviation",
    "symmetric": "brought to -1..1",
    "standard": "standardized",
    "pixels": "times 255",
    "reversed": "with channels in reverse order",
}


def changed(x: Array, change: str) -> Array:
    """Images [n, channels, height, width], or channels last, with other values, in their own type."""
    axis = 1 if x.shape[1] in (1, 3) else 3
    values: FloatArray = np.moveaxis(x.astype(np.float64), axis, -1)
    unit = values / 255 if values.max(initial=0) > 2 else values
    mean, std = (np.array(c if values.shape[-1] == 3 else [np.mean(c)]) for c in (_MEAN, _STD))
    result: FloatArray = {
        "scale": values / 255,
        "imagenet": (unit - mean) / std,
        "symmetric": 2 * unit - 1,
        "standard": (values - values.mean()) / max(values.std(), 1e-9),
        "pixels": values * 255,
        "reversed": values[..., ::-1],
    }[change]
    return np.asarray(np.moveaxis(result, -1, axis), x.dtype)


def is_image(x: Array) -> bool:
    """Whether it may hold images: floats [n, ., ., .] of one or three channels, first or last."""
    return x.ndim == 4 and x.dtype.kind == "f" and (x.shape[1] in (1, 3) or x.shape[3] in (1, 3))
