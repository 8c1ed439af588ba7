"""Types of the arrays that everything here passes on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


def read_only(values: Array) -> Array:
    """The same values, for code of others: what would change them raises ``ValueError``."""
    view = values.view()
    view.flags.writeable = False
    return view


def real_numbers(values: Any) -> FloatArray:
    """``values`` as float64; ``TypeError`` where they are complex, which numpy would cut."""
    if np.iscomplexobj(array := np.asarray(values)):
        raise TypeError("complex numbers, where real ones are expected")
    return array.astype(np.float64)


def content(values: Any) -> bytes:
    """Bytes that tell values of one type and shape apart, text included."""
    array = np.asarray(values)
    return repr(array.tolist()).encode() if array.dtype == np.object_ else np.ascontiguousarray(array).tobytes()
