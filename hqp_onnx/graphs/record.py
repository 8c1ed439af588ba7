"""What was done to a model, in the metadata of its file: Netron and others show it, and it moves with the file.

    hqp.version            of this program
    hqp.original_sha256    the file that units and quality are compared with, as in ledger.json
    hqp.units_removed      as "696 of 1080": of the units that could be removed
    hqp.precision          of what was asked for: fp32, int8, mixed, dynamic, fp8, fp16, int4
    hqp.metric, hqp.budget what the model was held to, and how much of it might be lost

`hqp optimize` writes it; single steps keep it true where it is there, and leave the metadata of other files alone.
A model that was optimized and is then quantized says both, and names the original that was pruned. Pruning leaves
floats, so a precision that was said before is said no more. What it was held to is said only by the command that
measured it; so is the number of threads that it is fastest on, in the entry of its runtime. There are no times,
dates or paths: the same command writes the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from hqp_onnx.runtimes.runtime import CONFIGURATION, says_threads
from hqp_onnx.version import __version__

PREFIX = "hqp."
KEYS = frozenset(
    PREFIX + key for key in ("version", "original_sha256", "units_removed", "precision", "metric", "budget")
)


def foreign(model: onnx.ModelProto) -> dict[str, str]:
    """The metadata of ``model`` that is none of ours; threads are ours where ``hqp optimize`` said a metric, too."""
    stated = {entry.key: entry.value for entry in model.metadata_props}
    threads = {CONFIGURATION} if PREFIX + "metric" in stated and says_threads(stated.get(CONFIGURATION, "")) else set()
    return {key: value for key, value in stated.items() if key not in KEYS | threads}


@dataclass(frozen=True)
class Record:
    """What one command did.

    Attributes:
        original: SHA-256 of what it was given.
        units: removed, and those that could be; None where it removes none, so those of an earlier command count.
        precision: that the model is in; None where it stays what it was.
        metric, budget: what the model was held to; "" for nothing.
    """

    original: str
    units: tuple[int, int] | None = None
    precision: str | None = None
    metric: str = ""
    budget: str = ""

    def write(self, model: onnx.ModelProto) -> None:
        """Put it into ``model``, in place of what earlier commands said and is no longer so."""
        earlier = {e.key.removeprefix(PREFIX): e.value for e in model.metadata_props if e.key in KEYS}
        if not (self.metric or earlier):
            return  # a single step leaves the metadata of a file as they are, unless they are ours
        pruned = "" if self.units is None else "{} of {}".format(*self.units)
        original = earlier.get("original_sha256", self.original) if self.units is None else self.original
        before = earlier.get("precision", "")
        if self.units is not None and before not in ("", "fp16"):
            before = "fp32"
        said = {
            "version": __version__,
            "original_sha256": original,
            "units_removed": pruned or earlier.get("units_removed", ""),
            "precision": before if self.precision is None else self.precision,
            "metric": Path(self.metric).name,  # of FILE.py:name, without its folder
            "budget": self.budget,
        }
        ours = {PREFIX + key: value for key, value in said.items() if value}
        onnx.helper.set_model_props(model, {**foreign(model), **ours})
