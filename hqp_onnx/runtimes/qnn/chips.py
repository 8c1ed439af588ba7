"""The Hexagon Tensor Processors that a model is compiled for, by architecture and by a chip that has it.

    v68  37  Snapdragon 8cx Gen 3    v75  57  Snapdragon 8 Gen 3
    v69  36  Snapdragon 8 Gen 1      v79  69  Snapdragon 8 Elite
    v73  43  Snapdragon 8 Gen 2      v81  87  Snapdragon 8 Elite Gen 5

The numbers are Qualcomm's ``soc_model``; those of other chips follow a colon (Snapdragon X Elite is ``qnn-v73:60``).
For some, such as 30, the compiler of 2.7.0 runs out of memory; of a number that it does not know, it takes no node.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hqp_onnx.errors import UsageError

QNN = "qnn"
_SOCS = {"68": "37", "69": "36", "73": "43", "75": "57", "79": "69", "81": "87"}
_DEFAULT = "75"
_NAME = re.compile(rf"{QNN}(?:-v(?P<arch>\d+)(?::(?P<soc>\d+))?)?")


@dataclass(frozen=True)
class Chip:
    """What a model is compiled for: ``htp_arch`` and ``soc_model`` of the provider's options, as digits."""

    arch: str
    soc: str

    def __str__(self) -> str:
        return f"HTP v{self.arch}, soc_model {self.soc}"


def is_chip(name: str) -> bool:
    """Whether a target is meant to be one."""
    return name == QNN or name.startswith(f"{QNN}-")


def chip_of(name: str) -> Chip:
    """The chip of a target: "qnn", "qnn-v73", or "qnn-v73:60".

    Raises:
        UsageError: no such architecture.
    """
    found = _NAME.fullmatch(name)
    arch = (found["arch"] or _DEFAULT) if found else ""
    if not found or arch not in _SOCS:
        known = ", ".join(f"{QNN}-v{one}" for one in _SOCS)
        raise UsageError(f"'{name}' is no HTP: expected {QNN} or one of {known}, and :SOC_MODEL of another chip")
    return Chip(arch, found["soc"] or _SOCS[arch])
