from __future__ import annotations

import numpy as np
import pytest

from hqp_onnx.engine.profiles import Profile, batch_of, profiles
from hqp_onnx.errors import UsageError
from hqp_onnx.runtimes.session import TensorSpec

FLOAT = np.dtype(np.float32)
IMAGE = TensorSpec("image:0", FLOAT, (None, 3, None, None))
FIXED = TensorSpec("mask", FLOAT, (1, 8))


def test_shapes_of_a_name_with_a_colon() -> None:
    found = profiles(["image:0:1x3x32x32,4x3x64x64,8x3x96x96"], [IMAGE, FIXED])
    assert found["image:0"] == Profile((1, 3, 32, 32), (4, 3, 64, 64), (8, 3, 96, 96))
    assert found["mask"] == Profile((1, 8), (1, 8), (1, 8))
    assert batch_of(found) == 4
    assert not found["image:0"].fixed and found["mask"].fixed


def test_one_shape_stands_for_three_and_a_batch_for_itself() -> None:
    assert profiles(["image:0:2x3x8x8"], [IMAGE])["image:0"].fixed
    batch = TensorSpec("x", FLOAT, (None, 4))
    assert profiles([], [batch])["x"] == Profile((1, 4), (1, 4), (1, 4))


@pytest.mark.parametrize(
    ("option", "part"),
    [
        ("x:1x3x8x8", "inputs are image:0"),
        ("image:0:1x3x8x8,2x3x8x8", "NAME:MIN,OPT,MAX"),
        ("image:0:1x3x8xeight", "NAME:MIN,OPT,MAX"),
        ("image:0:0x3x8x8", "NAME:MIN,OPT,MAX"),
        ("1x3x8x8", "NAME:MIN,OPT,MAX"),
        ("image:0:1x4x8x8", "does not fit"),
        ("image:0:1x3x8", "does not fit"),
        ("image:0:4x3x8x8,2x3x8x8,8x3x8x8", "MIN <= OPT <= MAX"),
    ],
)
def test_bad_shapes_name_the_option(option: str, part: str) -> None:
    with pytest.raises(UsageError, match=part) as e:
        profiles([option], [IMAGE])
    assert "shapes" in str(e.value)


def test_dynamic_sizes_must_be_given() -> None:
    with pytest.raises(UsageError, match="shapes image:0:"):
        profiles([], [IMAGE])
