"""Saliency of filters and units, as every step that removes units takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import FloatArray
from hqp_onnx.channels.channel_map import ChannelMap, PruningPlan
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.errors import UsageError
from hqp_onnx.files import make_folder, write_arrays
from hqp_onnx.gradients.loss import LossName
from hqp_onnx.graphs import model_io
from hqp_onnx.progress import Progress, silent
from hqp_onnx.ranking.least_squares import held_out_ridges
from hqp_onnx.ranking.order import with_branches
from hqp_onnx.ranking.removal_costs import removal_costs
from hqp_onnx.ranking.saliency import LOSSES, filter_scores, filter_weights, unit_scores
from hqp_onnx.statistics.moment_halves import Halves, halved_moments, joined


@dataclass(frozen=True)
class Ranking:
    """Saliency by filter (weight tensor -> float64 [filters]) and by unit."""

    filters: Mapping[str, FloatArray]
    units: FloatArray

    def save(self, path: Path) -> None:
        """Write ``filter/<weight tensor>`` and ``unit``."""
        make_folder(path.parent)
        arrays = {f"filter/{name}": values for name, values in self.filters.items()}
        write_arrays(path, {"unit": self.units, **arrays})

    @classmethod
    def load(cls, path: Path) -> Ranking:
        """What ``save`` wrote."""
        with np.load(path) as arrays:
            filters = {name.removeprefix("filter/"): arrays[name] for name in arrays.files if name != "unit"}
            return cls(filters, arrays["unit"])


def rank(
    graph: gs.Graph,
    channels: ChannelMap,
    saliency: str,
    data: Dataset | None,
    *,
    seed: int = 0,
    threads: int = 0,
    progress: Progress = silent,
    checkpoint: Path | None = None,
    engine: str = "native",
    loss: str | None = None,
    draws: int = 1,
    halves: Halves | None = None,
    min_width: float = 0.0,
    gains: FloatArray | None = None,
) -> Ranking:
    """Saliency of every filter and unit; moments that ``obs`` needs are measured if they are not given.

    See ``filter_saliencies`` and ``rank_units`` for the arguments.
    """
    filters = filter_saliencies(
        graph,
        saliency,
        data,
        seed=seed,
        threads=threads,
        progress=progress,
        checkpoint=checkpoint,
        engine=engine,
        loss=loss,
        draws=draws,
    )
    given: dict[str, Any] = {"halves": halves, "min_width": min_width, "gains": gains}
    return rank_units(graph, channels, saliency, filters, data, threads=threads, progress=progress, **given)


def filter_saliencies(
    graph: gs.Graph,
    saliency: str,
    data: Dataset | None,
    *,
    seed: int = 0,
    threads: int = 0,
    progress: Progress = silent,
    checkpoint: Path | None = None,
    engine: str = "native",
    loss: str | None = None,
    draws: int = 1,
) -> dict[str, FloatArray]:
    """``saliency.filter_scores`` of a graph; ``loss`` is a name or a loss model's file."""
    return filter_scores(
        saliency,
        model_io.to_proto(graph),
        data,
        seed=seed,
        threads=threads,
        progress=partial(progress, f"{saliency} saliency"),
        checkpoint=checkpoint,
        engine=engine,
        loss=open_loss(loss),
        draws=draws,
    )


def rank_units(
    graph: gs.Graph,
    channels: ChannelMap,
    saliency: str,
    filters: Mapping[str, FloatArray],
    data: Dataset | None,
    *,
    threads: int = 0,
    progress: Progress = silent,
    halves: Halves | None = None,
    min_width: float = 0.0,
    gains: FloatArray | None = None,
) -> Ranking:
    """Units by the sum of their filters' saliency, or for ``obs`` by ``surgeon.removal_costs``.

    ``halves`` are moments of the inputs of the weights (None to measure them if obs needs them); ``min_width`` is the
    share of every tensor's units that stays, or leaves as one where a branch ends. With ``gains`` [units], units are
    ranked by saliency per gain.
    """
    proto = model_io.to_proto(graph)
    if saliency != "obs":
        units = unit_scores(filters, channels, filter_weights(proto))
        return Ranking(filters, with_branches(units, channels, min_width, gains))
    if halves is None:
        assert data is not None  # filter_scores has asked for it
        halves = halved_moments(proto, data, threads=threads, progress=partial(progress, "input moments"))
    ridges = held_out_ridges(graph, channels, PruningPlan(channels.prunable[::2]), halves)
    settings: dict[str, Any] = {"ridges": ridges, "min_width": min_width, "gains": gains}
    return Ranking(filters, removal_costs(graph, channels, joined(*halves), filters, **settings))


def open_loss(loss: str | None) -> LossName | onnx.ModelProto | None:
    """One of ``saliency.LOSSES``, or the loss model in a file.

    Raises:
        UsageError: neither.
        ModelError: the file is no model.
    """
    if loss is None:
        return None
    name = next((known for known in LOSSES if known == loss), None)
    if name is None and not loss.endswith(".onnx"):
        raise UsageError(f"--loss {loss}: expected one of {', '.join(LOSSES)}, or a loss model, FILE.onnx")
    return name or model_io.load(Path(loss))
