"""What looks wrong before the search: with the original on its data (``evaluation.suspicion``), and with the sets.

equal samples: more than one in a hundred samples of a set are in another one, by the digests of their inputs; or half
    of the samples of a set are others of it again.
few calibration samples: a weight reads more values than its calibration rows, samples times positions, so what it reads
    is not known in all directions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import combinations

from hqp_onnx.counts import counted
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.evaluation.metrics import Scores
from hqp_onnx.evaluation.suspicion import suspicions
from hqp_onnx.evaluation.suspicious_inputs import suspicious_inputs
from hqp_onnx.gradients.filters import weight_uses
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.job.setup import Setup

_COMMON = 0.01
_WORDS = {"calib": "calibration", "val": "validation", "test": "test"}


def suspect(setup: Setup, baseline: Scores) -> tuple[str, ...]:
    """What a user should know before trusting the result; ``baseline`` are the original's scores on D_val."""
    return (
        *suspicions(setup.model.session, setup.data["val"], setup.metric, baseline),
        *(line for part in ("calib", "val") for line in _inputs(setup, part)),
        *_equal_samples(setup.digests, {**setup.data, "calib": setup.lessons}),
        *_few_samples(setup),
    )


def _inputs(setup: Setup, part: str) -> Iterator[str]:
    yield from suspicious_inputs(to_proto(setup.model.graph), setup.model.session, setup.data[part])


def _equal_samples(digests: Mapping[str, frozenset[bytes]], data: Mapping[str, Dataset]) -> Iterator[str]:
    for part, found in digests.items():
        if len(found) <= len(data[part]) / 2:
            yield (
                f"only {len(found)} of the {counted(len(data[part]), 'sample')} of the {_WORDS[part]} data "
                f"{data[part].source.name} differ. Check how they were made"
            )
    for first, second in combinations(digests, 2):
        common, fewest = len(digests[first] & digests[second]), min(len(digests[first]), len(digests[second]))
        if common > max(1, _COMMON * fewest) or common == fewest:
            yield (
                f"{counted(common, 'sample')} of the {_WORDS[second]} data {data[second].source.name} "
                f"{'is' if common == 1 else 'are'} also in the {_WORDS[first]} data "
                f"{data[first].source.name}: drops on them are too small. Split the data anew"
            )


def _few_samples(setup: Setup) -> Iterator[str]:
    graph, samples = to_proto(setup.model.graph).graph, len(setup.data["calib"])
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    needed = {}
    for use in weight_uses(graph):
        reads = math.prod(shapes[use.weight]) // max(shapes[use.weight][use.axis], 1)
        needed[use.weight] = math.ceil(reads / max(setup.positions.get(use.node.name, 1), 1)), reads
    widest = max(needed, key=lambda weight: needed[weight], default="")
    if widest and samples < needed[widest][0]:
        fewest, reads = needed[widest]
        yield (
            f"{counted(samples, 'calibration sample is', 'calibration samples are')} few: weight '{widest}' reads "
            f"{reads} values, and {fewest} samples are needed before they can all be told apart. Give more; 1,000 are "
            "usual"
        )
