"""GPUs that an engine is compiled for ahead of time: compute capabilities, generations, or names where these are plain.

    --for-gpu 8.6,12.0      compute capabilities
    --for-gpu ada           a generation
    --for-gpu "RTX 4070"    a GPU: the number says its generation

Names are NVIDIA's (https://developer.nvidia.com/cuda-gpus); what is not plain is asked for as a number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from hqp_onnx.engine.device import Compute
from hqp_onnx.errors import UsageError

_ADA, _BLACKWELL = (8, 9), (12, 0)
_GPUS: tuple[tuple[str, Compute], ...] = (
    (r"turing|(geforce )?(gtx 16|rtx 20)\d\d.*|t4|t(400|600|1000)|quadro rtx.*", (7, 5)),
    (r"a100.*|a30", (8, 0)),
    (r"ampere|(geforce )?rtx 30\d\d.*|a(2|10|16|40)|rtx a\d+", (8, 6)),
    (r"ada( lovelace)?|(geforce )?rtx 40\d\d.*|l(4|40|40s)|rtx \d+ ada.*", _ADA),
    (r"blackwell|(geforce )?rtx 50\d\d.*|rtx pro \d+.*", _BLACKWELL),
    (r"gb10|dgx spark", (12, 1)),
)


def compute_capabilities(names: Sequence[str]) -> tuple[Compute, ...]:
    """What ``names`` stand for, each once, in ascending order.

    Raises:
        UsageError: a name that is not plain.
    """
    return tuple(sorted({_of(name.strip()) for text in names for name in text.split(",") if name.strip()}))


def _of(name: str) -> Compute:
    if match := re.fullmatch(r"(\d+)\.(\d)", name):
        return int(match[1]), int(match[2])
    plain = re.sub(r"^nvidia\s+", "", " ".join(name.lower().split()))
    found = next((compute for pattern, compute in _GPUS if re.fullmatch(pattern, plain)), None)
    if found is None:
        raise UsageError(
            f"{{--for_gpu}} {name}: expected compute capabilities as 8.6,12.0, or GPUs as 'RTX 4090', ada or blackwell"
        )
    return found
