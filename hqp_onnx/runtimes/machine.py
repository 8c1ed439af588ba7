"""What measurements were made on."""

from __future__ import annotations

import os
import platform
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from hqp_onnx.runtimes.session import onnxruntime


@dataclass(frozen=True)
class Machine:
    """What measurements were made on, in words and versions; ``runtime`` ran the models on ``threads`` threads."""

    system: str
    processor: str
    runtime: str
    threads: str
    onnxruntime: str
    python: str


def machine(threads: Sequence[int], runtime: str) -> Machine:
    """The machine that this runs on; models were tried on each number of ``threads``, 0 for the runtime's choice."""
    return Machine(
        system=platform.platform(terse=True),
        processor=processor(),
        runtime=runtime,
        threads=named_threads(threads),
        onnxruntime=onnxruntime().__version__,
        python=platform.python_version(),
    )


def named_threads(threads: Sequence[int]) -> str:
    """Numbers of threads that models were tried on, in words."""
    tried = ", ".join(str(count or "the runtime's choice") for count in threads)
    return tried if len(threads) == 1 else f"each model's best of {tried}"


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_counts() -> tuple[int, ...]:
    """Numbers of threads that are worth trying here."""
    return counts_below(cores())


def counts_below(count: int) -> tuple[int, ...]:
    """Numbers of threads: 1, 2, 4, ... below a number of cores, and 0, the runtime's choice."""
    return (*(2**power for power in range(12) if 2**power < count), 0)


def processor() -> str:
    """The processor and its cores, in words."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()


CPUINFO = Path("/proc/cpuinfo")


def saturates(machine: str | None = None, cpuinfo: Path = CPUINFO) -> bool:
    """Whether u8*s8 kernels may saturate on a processor, this one's if ``machine`` is None; see ``saturates_with``."""
    try:
        flags = cpuinfo.read_text(errors="replace").split()
    except OSError:
        flags = []
    return saturates_with(machine or platform.machine(), flags)


def saturates_with(machine: str, flags: Collection[str]) -> bool:
    """Whether u8*s8 kernels may saturate: an x86 processor whose flags are not known to have VNNI."""
    if machine.lower() not in {"x86_64", "amd64", "i686", "i386"}:
        return False
    return not {"avx512_vnni", "avx_vnni"} & set(flags)
