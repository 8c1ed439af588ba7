"""Which GPU each process of our own computes on: they are dealt out in turn, by CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from contextlib import suppress

VISIBLE = "CUDA_VISIBLE_DEVICES"
_SECONDS = 20.0
_LINE = re.compile(r"^( *)(?:GPU|MIG) .*\(UUID: ([^)\s]+)\)", re.MULTILINE)


def gpus() -> list[str]:
    """Names of NVIDIA's GPUs, or of the parts that they are cut into, as CUDA_VISIBLE_DEVICES takes them."""
    if VISIBLE in os.environ:
        return [name.strip() for name in os.environ[VISIBLE].split(",") if name.strip()]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_SECONDS, check=True)
        found: list[str] = []
        whole = False
        for indent, name in _LINE.findall(done.stdout):
            if indent and whole:
                found.pop()  # a GPU in parts takes work by these alone
            whole = not indent
            found.append(name)
        return found
    return []


def take(number: int, names: Sequence[str]) -> None:
    """Have this process, the one with that number, see one GPU alone."""
    if len(names) > 1:
        os.environ[VISIBLE] = names[number % len(names)]
