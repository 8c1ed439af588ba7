"""Which channels a pruned model kept, from the ledger of its pruning and the channel map of its original.

The models compared often come from one original by different removals: none, one ledger's, another's. Each model is
assigned the removal that explains most of its tensors' sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hqp_onnx.arrays import BoolArray, IntArray
from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis
from hqp_onnx.channels.removals import LEDGER, PRUNED_LEDGER, read_removals
from hqp_onnx.channels.walk import analyze
from hqp_onnx.errors import DataError, UsageError
from hqp_onnx.files import sha256
from hqp_onnx.model import open_model


@dataclass(frozen=True)
class Match:
    """The channels of a tensor that two models share.

    Attributes:
        axis: of the tensor.
        in_first, in_second: their indices along it in each model.
        sizes: of the axis in the first model, in the second, and in the original.
    """

    axis: int
    in_first: IntArray
    in_second: IntArray
    sizes: tuple[int, int, int]

    @property
    def lacking(self) -> bool:
        """Whether the first model has channels that the second lacks."""
        return len(self.in_first) < self.sizes[0]


@dataclass(frozen=True)
class Lineage:
    """The units of an original, and the removals that are known.

    Attributes:
        channels: of the original.
        removals: masks over units, as ``ChannelMap.removed`` gives them.
    """

    channels: ChannelMap
    removals: tuple[BoolArray, ...]

    def removal(self, shapes: Mapping[str, tuple[int, ...]]) -> BoolArray:
        """The removal, none included, that explains most sizes of a model's tensors."""
        none = np.zeros(self.channels.units + 1, bool)
        return max((none, *self.removals), key=lambda removed: self._explained(removed, shapes))

    def _explained(self, removed: BoolArray, shapes: Mapping[str, tuple[int, ...]]) -> int:
        lines = ((name, self._line(name)) for name in self.channels.tensors if name in shapes)
        return sum(shapes[name][axis] == (~removed[units]).sum() for name, (axis, units) in lines if units.size)

    def match(self, name: str, first: BoolArray, second: BoolArray) -> Match | None:
        """Where the channels of a tensor that survive each of two removals are; None if none could be removed."""
        axis, units = self._line(name)
        if not units.size:
            return None
        stays, stays_too = ~first[units], ~second[units]
        both = stays & stays_too
        sizes = (int(stays.sum()), int(stays_too.sum()), len(units))
        return Match(axis, (np.cumsum(stays) - 1)[both], (np.cumsum(stays_too) - 1)[both], sizes)

    def _line(self, name: str) -> tuple[int, IntArray]:
        """The axis of a tensor along which units vary, and the unit of each index; empty if there is none."""
        labels = self.channels.tensors.get(name, np.zeros(0, np.int64))
        axes = [axis for axis, size in enumerate(labels.shape) if size > 1]
        return (axes[0], labels.ravel()) if len(axes) == 1 else (0, np.zeros(0, np.int64))


def find_lineage(models: Sequence[Path], ledgers: Sequence[Path]) -> Lineage | None:
    """What the ledgers say about the first model that any of them belongs to.

    Args:
        models: .onnx files, the original among them.
        ledgers: given by the user. ``ledger.json`` and ``pruned.ledger.json`` beside a model are read too, if they are
            of one of the models.

    Raises:
        DataError: a file that is not a ledger.
        UsageError: a ledger that the user gave belongs to none of the models.
    """
    places = (model.parent / name for model in models for name in (LEDGER, PRUNED_LEDGER))
    beside = [path for path in dict.fromkeys(places) if path.is_file()]
    read = {path: read_removals(path) for path in [*ledgers, *(path for path in beside if path not in ledgers)]}
    digests = {sha256(model): model for model in reversed(models)} if read else {}
    for path in ledgers:
        if read[path][0] not in digests:
            raise UsageError(f"{path}: not a ledger of any of the models: give the original that was pruned as well")
    related = {path: content for path, content in read.items() if content[0] in digests}
    if not related:
        return None
    digest = min((content[0] for content in related.values()), key=list(reversed(digests)).index)
    channels = analyze(open_model(digests[digest], quantized=True).graph)
    named = channels.of_file()
    masks = (_mask(named, path, removed) for path, (of, removed) in related.items() if of == digest)
    return Lineage(channels, tuple(masks))


def _mask(channels: ChannelMap, path: Path, removed: Mapping[str, Any]) -> BoolArray:
    mask = np.zeros(channels.units + 1, bool)
    try:
        for tensor, axes in removed.items():
            for axis, indices in axes.items():
                mask[channels.members[ParamAxis(tensor, int(axis))][np.asarray(indices, np.int64)]] = True
    except (KeyError, IndexError, AttributeError, ValueError, OverflowError) as e:
        raise DataError(f"{path}: names channels that its original does not have: {e}") from e
    mask[-1] = False
    return mask
