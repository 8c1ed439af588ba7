"""What was removed from a model, as a file: ``ledger.json`` beside the pruned model.

{"model_sha256": digest of the original, "removed": {tensor: {axis: [indices in the original]}}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from hqp_onnx.channels.channel_map import ChannelMap, PruningPlan
from hqp_onnx.errors import DataError, FileError
from hqp_onnx.files import read_text

LEDGER = "ledger.json"
"""What was removed from the model beside it (int8.onnx, fp16.onnx, else pruned.onnx)."""
PRUNED_LEDGER = "pruned.ledger.json"
"""What was removed from pruned.onnx, where that is something else."""


class _Removals(msgspec.Struct):
    model_sha256: str
    removed: dict[str, dict[str, list[Annotated[int, msgspec.Meta(ge=0)]]]]


def removals_json(digest: str, channels: ChannelMap, plan: PruningPlan) -> str:
    """The text of the ledger of ``plan`` on the original of that ``digest``."""
    slices = channels.removed_slices(plan)
    removed = {name: {str(axis): gone.tolist() for axis, gone in axes.items()} for name, axes in slices.items()}
    return json.dumps({"model_sha256": digest, "removed": removed})


def read_removals(path: Path) -> tuple[str, Mapping[str, Any]]:
    """Digest of the original, and what was removed.

    Raises:
        DataError: not such a file.
    """
    try:
        content = msgspec.json.decode(read_text(path), type=_Removals)
    except (FileError, msgspec.MsgspecError, RecursionError) as e:
        raise DataError(f"{path}: not a ledger: expected JSON with 'model_sha256' and 'removed' ({e})") from e
    return content.model_sha256, content.removed
