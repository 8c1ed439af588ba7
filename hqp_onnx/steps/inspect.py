"""``hqp inspect``: the units of a model, which cannot be removed, and why; or the nodes that a target refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hqp_onnx.channels import cost
from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis
from hqp_onnx.counts import counted
from hqp_onnx.engine import library
from hqp_onnx.engine.acceptance import present
from hqp_onnx.engine.parsing import Refusal, refusals
from hqp_onnx.errors import MissingRuntimeError, UsageError
from hqp_onnx.graphs import model_io
from hqp_onnx.graphs.shapes import example_feeds
from hqp_onnx.markup import Table, table
from hqp_onnx.model import ModelSource, open_model, read_model
from hqp_onnx.runtimes.runtime import Placing
from hqp_onnx.runtimes.targets import target


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
        inner_params: those of ``params`` that only graphs inside a node hold, by the node.
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
    inner_params: Mapping[str, int]

    @property
    def table(self) -> Table:
        """Groups of parameter axes that share units, and what is frozen; "(all)" marks branches, which can go whole."""
        caption = (
            f"{counted(self.units, 'unit')}, {self.prunable} prunable; of {self.params / 1e6:.2f} M parameters and "
            f"{self.macs / 1e6:.2f} M MACs per sample, {self.prunable_params / max(self.params, 1):.1%} and "
            f"{self.prunable_macs / max(self.macs, 1):.1%} belong to units that can be removed, though not all at once"
        )
        head = ("units", "prunable", "members (tensor: axis)", "frozen because")
        return Table(caption, head, tuple(map(_cells, self.groups)))

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return table(self.table)


def _cells(group: Group) -> tuple[str, ...]:
    members = ", ".join(f"{member.tensor}: {member.axis}" for member in group.members)
    why = "; ".join(f"{reason} ({count})" for reason, count in Counter(group.frozen.values()).items())
    return str(group.units), f"{group.prunable}{' (all)' * group.branch}", members, why


@dataclass(frozen=True)
class Acceptance:
    """What a target's compiler says of a model, quantized or not: its ``nodes``, and those that it refuses.

    ``tensorrt`` is what was asked: a TensorRT, or the compiler of another target.
    """

    model: str
    target: str
    tensorrt: str
    nodes: int
    refused: tuple[Refusal, ...]


def ask_target(source: ModelSource, target_name: str) -> Acceptance:
    """Let the TensorRT of a target parse a model, or its compiler place the nodes.

    Another TensorRT that is installed stands in for that of a target.

    Raises:
        ModelError: not an ONNX model, or none that the parser can read.
        MissingRuntimeError: what would be asked is not installed.
        UsageError: a target of which nothing can be asked.
    """
    asked = target(target_name)
    if not asked.engines and not isinstance(asked.runtime, Placing):
        raise UsageError(
            f"{{--target}} {target_name}: only tensorrt-rtx, ethos-u, qnn and Rockchip's say which nodes they take"
        )
    path, proto = read_model(source, quantized=True)
    if isinstance(asked.runtime, Placing):
        nodes, left = asked.runtime.placed(proto, example_feeds(model_io.to_graph(proto)))
        return Acceptance(str(path), target_name, asked.runtime.describe(), nodes, tuple(Refusal(*one) for one in left))
    able = present(asked)
    if able is None:
        library(asked.engines).load()
        raise MissingRuntimeError(f"{{--target}} {target_name}: its TensorRT needs a GPU, and there is none here")
    return Acceptance(str(path), target_name, able.name, len(proto.graph.node), refusals(proto, able.library))


def inspect_model(source: ModelSource) -> Inspection:
    """See ``hqp_onnx.inspect``."""
    model = open_model(source)
    channels = model.channels()
    named, counts = channels.of_file(), cost.positions(model.graph, model.shapes)
    return Inspection(
        str(model.path),
        channels.units,
        len(channels.prunable),
        cost.params(model.graph),
        cost.macs(model.graph, counts),
        *cost.prunable(model.graph, channels, counts),
        groups=tuple(_group(named, axes) for axes in named.groups()),
        inner_params=cost.inner_params(model.graph),
    )


def _group(channels: ChannelMap, axes: Sequence[ParamAxis]) -> Group:
    units = np.unique(np.concatenate([channels.members[axis] for axis in axes]))
    units = units[units >= 0].tolist()
    frozen = {unit: channels.frozen[unit] for unit in units if unit in channels.frozen}
    branch = bool(units) and bool(channels.branch_of[units[0]] >= 0)
    return Group(len(units), len(units) - len(frozen), branch, tuple(axes), frozen)
