"""What was removed from a model, as a file: ``ledger.json`` beside the pruned model.

{"schema_version": 1, "model_sha256": digest of the original, "removed": {tensor: {axis: [indices in the original]}}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis, PruningPlan
from hqp_onnx.errors import DataError, FileError
from hqp_onnx.files import read_text

LEDGER = "ledger.json"
"""What was removed from the model beside it (int8.onnx, fp16.onnx, else pruned.onnx)."""
PRUNED_LEDGER = "pruned.ledger.json"
"""What was removed from pruned.onnx, where that is something else."""


SCHEMA = 1  # of the file; files of earlier versions of this program, which state none, are the same
_SAME = "Give the ledger of another export of the same network, of the same names"


class _Removals(msgspec.Struct):
    """The original, what was removed of its tensors, and the version of this form, which old files do not state."""

    model_sha256: str
    removed: dict[str, dict[str, list[Annotated[int, msgspec.Meta(ge=0)]]]]
    schema_version: int = SCHEMA


def removals_json(digest: str, channels: ChannelMap, plan: PruningPlan) -> str:
    """The text of the ledger of ``plan`` on the original of that ``digest``, by the names of its file."""
    slices = channels.of_file().removed_slices(plan)
    removed = {name: {str(axis): gone.tolist() for axis, gone in axes.items()} for name, axes in slices.items()}
    return json.dumps({"schema_version": SCHEMA, "model_sha256": digest, "removed": removed})


def read_removals(path: Path) -> tuple[str, Mapping[str, Any]]:
    """Digest of the original, and what was removed.

    Raises:
        DataError: not such a file, or a version with another form wrote it.
    """
    try:
        content = msgspec.json.decode(read_text(path), type=_Removals)
    except (FileError, msgspec.MsgspecError, RecursionError) as e:
        raise DataError(f"{path}: not a ledger: expected JSON with 'model_sha256' and 'removed' ({e})") from e
    if content.schema_version != SCHEMA:
        raise DataError(
            f"{path}: has schema {content.schema_version}, this version reads {SCHEMA}. Use the version that wrote it"
        )
    return content.model_sha256, content.removed


def plan_of(path: Path, channels: ChannelMap) -> PruningPlan:
    """The plan of a ledger on a model of the same network, such as one that was trained again and exported anew.

    Raises:
        DataError: not a ledger; or this model has other tensors, channels that depend on others, or that must stay.
    """
    _, removed = read_removals(path)
    channels = channels.of_file()
    units: list[int] = []
    for name, axes in removed.items():
        for axis, indices in axes.items():
            labels = channels.members.get(ParamAxis(name, int(axis) if axis.isdecimal() else -1))
            if labels is None or max(indices, default=-1) >= len(labels):
                raise DataError(f"{path}: the model has no such channels of '{name}' along axis {axis}. {_SAME}")
            units += labels[indices].tolist()
    plan = PruningPlan(np.array(units, np.int64))
    reason = next((f"of '{name}' axis {axis}" for name, axis in _differing(channels, plan, removed)), None)
    if -1 in units or reason is not None:
        raise DataError(f"{path}: the channels {reason or 'that it removes'} do not go together here. {_SAME}")
    if kept := [channels.frozen[unit] for unit in plan.removed.tolist() if unit in channels.frozen]:
        raise DataError(f"{path}: it removes channels that must stay in this model: {kept[0]}")
    return plan


def _differing(channels: ChannelMap, plan: PruningPlan, removed: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Axes of which the plan removes something else than the ledger says."""
    here = channels.removed_slices(PruningPlan(plan.removed[plan.removed >= 0]))
    slices = {(name, str(axis)): gone.tolist() for name, axes in here.items() for axis, gone in axes.items()}
    wanted = {(name, axis): sorted(set(gone)) for name, axes in removed.items() for axis, gone in axes.items() if gone}
    return [key for key in sorted({*slices, *wanted}) if slices.get(key) != wanted.get(key)]
