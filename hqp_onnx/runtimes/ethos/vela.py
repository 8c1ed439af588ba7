"""Vela, Arm's compiler for Ethos-U, run as a process of its own: the compiled file, and the cycles that it estimates.

Vela places every operator on the NPU or on the CPU beside it, says why, and knows nothing of the time of the latter.
Its rows are checked against what cannot be: more multiply-accumulates in a cycle than the NPU has units for.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from hqp_onnx.errors import MissingRuntimeError, ModelError, UsageError

_INSTALL = "Vela is not installed: pip install 'hqp-onnx[ethos-u]'"
_SECONDS = 600
_CONFIGURATION = "Arm/vela.ini"
_WARNED = re.compile(r"^Warning .*operator: (?P<operator>\w+), ofm: '(?P<name>.*)'\nReason: (?P<why>.*)$", re.MULTILINE)
ETHOS = "ethos-u"
_FAMILIES = {
    "ethos-u55": (("32", "64", "128", "256"), "Ethos_U55_High_End_Embedded", "Shared_Sram"),
    "ethos-u65": (("256", "512"), "Ethos_U65_High_End", "Dedicated_Sram"),
    "ethos-u85": (("128", "256", "512", "1024", "2048"), "Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram"),
}


@dataclass(frozen=True)
class Chip:
    """What Vela compiles for.

    Attributes:
        accelerator: as "ethos-u55-256", whose number is that of its multiply-accumulates in a cycle.
        system: clocks and memories, a section of Vela's configuration, as "Ethos_U55_High_End_Embedded".
        memory: where weights and activations are, likewise, as "Shared_Sram".
    """

    accelerator: str
    system: str
    memory: str

    @property
    def macs(self) -> int:
        """Multiply-accumulates of int8 in a cycle."""
        return int(self.accelerator.rpartition("-")[2])


def chip_of(name: str) -> Chip:
    """The chip of a target: "ethos-u55-256", or "ethos-u85-512:Ethos_U85_SYS_DRAM_High:Dedicated_Sram".

    Raises:
        UsageError: no such accelerator, or one of system and memory without the other.
    """
    accelerator, *settings = name.split(":")
    family, _, macs = accelerator.rpartition("-")
    if family not in _FAMILIES or macs not in _FAMILIES[family][0]:
        known = ", ".join(f"{one}-{count}" for one, (counts, *_) in _FAMILIES.items() for count in counts)
        raise UsageError(f"{{--target}} {name}: expected one of {known}, and :SYSTEM:MEMORY of Vela's configuration")
    if len(settings) not in (0, 2):
        raise UsageError(f"{{--target}} {name}: expected SYSTEM and MEMORY, as {':'.join(_FAMILIES[family][1:])}")
    return Chip(accelerator, *(settings or _FAMILIES[family][1:]))


@dataclass(frozen=True)
class Row:
    """An operator, by the tensor that it writes; ``on_npu`` or else on the CPU, whose cycles are not known.

    ``reason`` is why it is left to the CPU, as Vela words it.
    """

    operator: str
    name: str
    on_npu: bool
    cycles: int
    macs: int
    reason: str = ""


@dataclass(frozen=True)
class Estimate:
    """What Vela makes of a file: the compiled one, its cycles, and the clock that they are counted by, in Hz."""

    content: bytes
    cycles: int
    clock: float
    rows: tuple[Row, ...]

    @property
    def seconds(self) -> float:
        """Of one inference on the NPU."""
        return self.cycles / self.clock

    def implausible(self, chip: Chip) -> tuple[str, ...]:
        """Rows that cannot be right, in words."""
        return tuple(
            f"{row.operator} '{row.name}': {row.macs} multiply-accumulates in {row.cycles} cycles, where "
            f"{chip.accelerator} needs {-(-row.macs // chip.macs)} at least"
            for row in self.rows
            if row.on_npu and row.cycles * chip.macs < row.macs
        )


def vela_version() -> str:
    """Of the package; ``MissingRuntimeError`` says how to install it."""
    if find_spec("ethosu") is None:
        raise MissingRuntimeError(_INSTALL)
    from importlib.metadata import version

    return version("ethos-u-vela")


@lru_cache(maxsize=64)
def estimate(content: bytes, chip: Chip) -> Estimate:
    """A .tflite file compiled for ``chip``.

    Raises:
        ModelError: Vela refuses it, or does not end.
        MissingRuntimeError: Vela is not installed.
    """
    vela_version()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.tflite"
        file.write_bytes(content)
        reasons = _reasons(_run([str(file), *_options(chip), "--output-dir", folder]))
        (summary,) = _table(Path(folder), "*_summary_*.csv")
        rows = tuple(_row(row, reasons) for row in _table(Path(folder), "*_per-layer.csv"))
        compiled = (Path(folder) / "model_vela.tflite").read_bytes()
    clock = float(summary["core_clock"])
    return Estimate(compiled, round(float(summary["inference_time"]) * clock), clock, rows)


def _options(chip: Chip) -> list[str]:
    of_chip = ["--accelerator-config", chip.accelerator, "--system-config", chip.system, "--memory-mode", chip.memory]
    return [*of_chip, "--config", _CONFIGURATION, "--verbose-performance"]


def _run(arguments: list[str]) -> str:
    """What Vela prints."""
    command = [sys.executable, "-m", "ethosu.vela", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except subprocess.TimeoutExpired as e:
        raise ModelError(f"Vela did not end within {_SECONDS} seconds") from e
    if done.returncode:
        said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        reason = next((line for line in said if line.startswith("Error")), said[-1] if said else "it gave no reason")
        raise ModelError(f"Vela cannot compile the model: {reason}")
    return done.stdout


def _reasons(said: str) -> dict[tuple[str, str], str]:
    """Why operators are left to the CPU, by operator and by the tensor that each writes."""
    return {(_plain(one["operator"]), one["name"]): one["why"].strip() for one in _WARNED.finditer(said)}


def _plain(operator: str) -> str:
    """BATCH_MATMUL, as warnings have it, and BatchMatMul, as tables have it."""
    return operator.replace("_", "").lower()


def _table(folder: Path, pattern: str) -> list[dict[str, str]]:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise ModelError(f"Vela wrote no {pattern}: it is of a version that is not known here")
    with found[0].open(newline="") as file:
        return [{key.strip(): value for key, value in row.items() if key} for row in csv.DictReader(file)]


def _row(row: dict[str, str], reasons: dict[tuple[str, str], str]) -> Row:
    operator, name, on_npu = row["Original Operator"], row["Name"], row["Target"].strip() == "NPU"
    reason = "" if on_npu else reasons.get((_plain(operator), name), "Vela gave no reason")
    return Row(operator, name, on_npu, int(float(row["Op Cycles"])), int(float(row["MAC Count"])), reason)
