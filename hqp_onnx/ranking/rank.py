"""Saliency of filters and units, as every step that removes units takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.archives import read_arrays
from hqp_onnx.arrays import FloatArray
from hqp_onnx.channels.channel_map import ChannelMap
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.errors import DataError, ModelError, UsageError
from hqp_onnx.files import make_folder, write_arrays
from hqp_onnx.graphs import model_io
from hqp_onnx.ranking.saliencies import Execution, FilterScores, Samples, Scoring
from hqp_onnx.statistics.moment_halves import Halves, halved_moments

_DEFAULT = Execution()


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
        """What ``save`` wrote; ``DataError`` where the file is damaged or another."""
        arrays = read_arrays(path)
        if "unit" not in arrays:
            raise DataError(f"{path}: not a file of scores: 'unit' is missing")
        units = arrays.pop("unit")
        return cls({name.removeprefix("filter/"): values for name, values in arrays.items()}, units)


def rank(
    graph: gs.Graph,
    channels: ChannelMap,
    scoring: Scoring | str,
    data: Dataset | None = None,
    execution: Execution = _DEFAULT,
    *,
    halves: Halves | None = None,
    min_width: float = 0.0,
    gains: FloatArray | None = None,
) -> Ranking:
    """Saliency of every filter and unit, see ``filter_scores`` and ``rank_units``; a name gives its ``Scoring``."""
    scoring = Scoring(scoring) if isinstance(scoring, str) else scoring
    filters = filter_scores(model_io.to_proto(graph), scoring, data, execution)
    return rank_units(
        graph, channels, scoring, filters, data, execution, halves=halves, min_width=min_width, gains=gains
    )


def filter_scores(
    model: onnx.ModelProto, scoring: Scoring, data: Samples | None = None, execution: Execution = _DEFAULT
) -> FilterScores:
    """Weight -> float64 [filters].

    Args:
        model: canonical.
        scoring: the saliency, and how it is computed.
        data: samples, where the saliency needs some.
        execution: threads, progress and checkpoint.

    Raises:
        UsageError: no ``data`` where they are needed.
        ModelError: a score is NaN.
    """
    if scoring.method.needs_data and data is None:
        raise UsageError(f"{{--saliency}} {scoring.name} needs {{--data}}: give some, or take l2")
    scores = scoring.method.filters(model, data, scoring, execution)
    if bad := [weight for weight, values in scores.items() if np.isnan(values).any()]:
        count = f"{np.isnan(scores[bad[0]]).sum()} of {len(scores[bad[0]])} filters"
        raise ModelError(
            f"saliency '{scoring.name}' of '{bad[0]}' is NaN for {count}: look for NaN in weights and data"
        )
    return scores


def rank_units(
    graph: gs.Graph,
    channels: ChannelMap,
    scoring: Scoring,
    filters: Mapping[str, FloatArray],
    data: Dataset | None,
    execution: Execution = _DEFAULT,
    *,
    halves: Halves | None = None,
    min_width: float = 0.0,
    gains: FloatArray | None = None,
) -> Ranking:
    """Units in the order that the saliency gives them, see ``Saliency.units``.

    ``halves`` are moments of the inputs of the weights, measured on ``data`` if the saliency needs them and they are
    not given; ``min_width`` is the share of every tensor's units that stays, or is removed as one where a branch ends.
    With ``gains`` [units], units are ranked by saliency per gain.

    Raises:
        UsageError: no ``data`` where they are needed.
    """
    if scoring.method.needs_moments and halves is None:
        if data is None:
            raise UsageError(f"{{--saliency}} {scoring.name} needs {{--data}}")
        progress = partial(execution.progress, "input moments")
        halves = halved_moments(
            model_io.to_proto(graph),
            data,
            threads=execution.threads,
            progress=progress,
            user=f"{{--saliency}} {scoring.name}",
        )
    return Ranking(filters, scoring.method.units(graph, channels, filters, halves, min_width, gains))
