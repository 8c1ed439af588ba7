"""What was done to a model, in the metadata of its file: Netron and others show it, and it moves with the file.

    hqp.version            of this program
    hqp.original_sha256    the file that units and quality are compared with, as in ledger.json
    hqp.units_removed      as "696 of 1080": of the units that could be removed
    hqp.precision          of what was asked for: fp32, int8, mixed, dynamic, fp8, fp16, int4
    hqp.metric, hqp.budget what the model was held to, and how much of it might be lost

A model that was pruned and is then quantized says both, and names the original that was pruned. What it was held to is
said only by the command that measured it. There are no times, dates or paths: the same command writes the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from hqp_onnx.version import __version__

PREFIX = "hqp."


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
        stated = {entry.key: entry.value for entry in model.metadata_props}
        earlier = {key.removeprefix(PREFIX): value for key, value in stated.items() if key.startswith(PREFIX)}
        pruned = "" if self.units is None else "{} of {}".format(*self.units)
        original = earlier.get("original_sha256", self.original) if self.units is None else self.original
        said = {
            "version": __version__,
            "original_sha256": original,
            "units_removed": pruned or earlier.get("units_removed", ""),
            "precision": earlier.get("precision", "") if self.precision is None else self.precision,
            "metric": Path(self.metric).name,  # of FILE.py:name, without its folder
            "budget": self.budget,
        }
        others = {key: value for key, value in stated.items() if not key.startswith(PREFIX)}
        onnx.helper.set_model_props(model, {**others, **{PREFIX + key: value for key, value in said.items() if value}})
