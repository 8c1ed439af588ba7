"""``hqp inspect``: the units of a model, which cannot be pruned, and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hqp_onnx.channels import cost
from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis
from hqp_onnx.model import open_model


def inspect(path: Path) -> dict[str, Any]:
    """Units, groups, frozen channels with reasons, MACs and parameters, as JSON values."""
    model = open_model(path)
    channels = model.channels()
    counts = cost.positions(model.graph, model.shapes)
    prunable_params, prunable_macs = cost.prunable(model.graph, channels, counts)
    return {
        "model": str(path),
        "units": channels.units,
        "prunable": len(channels.prunable),
        "params": cost.params(model.graph),
        "macs": cost.macs(model.graph, counts),
        "prunable_params": prunable_params,
        "prunable_macs": prunable_macs,
        "groups": [_group(channels, axes) for axes in channels.groups()],
    }


def _group(channels: ChannelMap, axes: Sequence[ParamAxis]) -> dict[str, Any]:
    units = np.unique(np.concatenate([channels.members[axis] for axis in axes]))
    units = units[units >= 0].tolist()
    frozen = {str(unit): channels.frozen[unit] for unit in units if unit in channels.frozen}
    members = [{"tensor": axis.tensor, "axis": axis.axis} for axis in axes]
    counts = {"units": len(units), "prunable": len(units) - len(frozen)}
    branch = bool(units) and bool(channels.branch_of[units[0]] >= 0)
    return {**counts, "branch": branch, "members": members, "frozen": frozen}
