"""``hqp inspect``: the units of a model, which cannot be removed, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hqp_onnx.channels import cost
from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis
from hqp_onnx.model import ModelSource, open_model


@dataclass(frozen=True)
class Group:
    """Units that share the same axes of the same weights.

    Attributes:
        units: their number.
        prunable: how many of them can be removed.
        branch: whether all of them can, as a whole.
        members: the axes of parameters that they are slices of.
        frozen: why a unit must stay, by its number.
    """

    units: int
    prunable: int
    branch: bool
    members: tuple[ParamAxis, ...]
    frozen: Mapping[int, str]


@dataclass(frozen=True)
class Inspection:
    """What can be removed from a model.

    Attributes:
        model: its path.
        units, prunable: their number, and how many of them can be removed.
        params: floating-point values in initializers.
        macs: multiply-accumulates per sample.
        prunable_params, prunable_macs: those in slices that some prunable unit owns.
        groups: of the units.
    """

    model: str
    units: int
    prunable: int
    params: int
    macs: int
    prunable_params: int
    prunable_macs: int
    groups: tuple[Group, ...]


def inspect_model(source: ModelSource) -> Inspection:
    """See ``hqp_onnx.inspect``."""
    model = open_model(source)
    channels = model.channels()
    counts = cost.positions(model.graph, model.shapes)
    return Inspection(
        str(model.path),
        channels.units,
        len(channels.prunable),
        cost.params(model.graph),
        cost.macs(model.graph, counts),
        *cost.prunable(model.graph, channels, counts),
        groups=tuple(_group(channels, axes) for axes in channels.groups()),
    )


def _group(channels: ChannelMap, axes: Sequence[ParamAxis]) -> Group:
    units = np.unique(np.concatenate([channels.members[axis] for axis in axes]))
    units = units[units >= 0].tolist()
    frozen = {unit: channels.frozen[unit] for unit in units if unit in channels.frozen}
    branch = bool(units) and bool(channels.branch_of[units[0]] >= 0)
    return Group(len(units), len(units) - len(frozen), branch, tuple(axes), frozen)
