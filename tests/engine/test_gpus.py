from __future__ import annotations

import pytest

from hqp_onnx.engine.gpus import compute_capabilities
from hqp_onnx.errors import UsageError


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["8.6,12.0"], ((8, 6), (12, 0))),
        (["12.0", " 8.6 , 8.6"], ((8, 6), (12, 0))),
        (["NVIDIA GeForce RTX 4090", "rtx 4070 ti super"], ((8, 9),)),
        (["RTX 2080 Ti", "GTX 1660", "T4"], ((7, 5),)),
        (["RTX 3060", "A100", "A10"], ((8, 0), (8, 6))),
        (["RTX 5090", "RTX PRO 6000 Blackwell", "blackwell"], ((12, 0),)),
        (["RTX 6000 Ada Generation", "RTX A6000", "ada", "GB10"], ((8, 6), (8, 9), (12, 1))),
        ([], ()),
    ],
)
def test_names_and_numbers(names: list[str], expected: tuple[tuple[int, int], ...]) -> None:
    assert compute_capabilities(names) == expected


@pytest.mark.parametrize("name", ["H100x", "8", "8.6.1", "RTX", "sm_86", "GTX 1080"])
def test_what_is_not_plain_is_asked_for_as_a_number(name: str) -> None:
    with pytest.raises(UsageError, match="expected compute capabilities"):
        compute_capabilities([name])
