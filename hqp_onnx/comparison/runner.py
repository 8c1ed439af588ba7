"""Any session as a Polygraphy runner, and a compare function for Polygraphy's ``Comparator`` that adds up deviations.

The comparison runs batch by batch (``run_batches``), so memory holds the outputs of one batch only.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata
from polygraphy.comparator import Comparator
from polygraphy.exception import PolygraphyException
from polygraphy.logger import G_LOGGER

from hqp_onnx.arrays import Array
from hqp_onnx.data.batch import Batch
from hqp_onnx.engine.log import SILENT
from hqp_onnx.errors import ModelError, one_line
from hqp_onnx.evaluation.deviation import Deviation
from hqp_onnx.runtimes.session import Runner

_NUMBERS = "biufc"  # kinds of numpy's types


class SessionRunner(BaseRunner):  # type: ignore[misc]  # polygraphy has no type information
    """A Polygraphy runner over a session.

    Args:
        session: loaded, and kept loaded: activation costs nothing.
        name: of the runner.
    """

    def __init__(self, session: Runner, name: str | None = None) -> None:
        super().__init__(name=name, prefix="hqp-runner")
        self._session = session

    def get_input_metadata_impl(self) -> Any:
        """Names, types and shapes; any number of samples, since sessions pad to a fixed batch."""
        metadata = TensorMetadata()
        for spec in self._session.inputs:
            metadata.add(spec.name, spec.dtype, (None, *spec.shape[1:]) if spec.shape else ())
        return metadata

    def infer_impl(self, feed_dict: Mapping[str, Array]) -> OrderedDict[str, Array]:
        """Outputs that are tensors of numbers, by name; sets ``inference_time`` (seconds)."""
        start = time.perf_counter()
        outputs = self._session.run(feed_dict)
        self.inference_time = time.perf_counter() - start
        return OrderedDict(
            (name, y) for name, y in outputs.items() if isinstance(y, np.ndarray) and y.dtype.kind in _NUMBERS
        )


@dataclass
class Agreement:
    """Samples whose top-1 answers are finite and equal, of those that gave one."""

    equal: int = 0
    samples: int = 0

    @property
    def share(self) -> float | None:
        """0..1; None where the output is not [samples, classes]."""
        return self.equal / self.samples if self.samples else None


@dataclass
class Collector:
    """A compare function for ``Comparator.compare_accuracy``: (reference's, candidate's) results of one iteration.

    Attributes:
        deviations: runner name -> output -> deviation so far.
        agreement: runner name -> output -> top-1 agreement so far.
    """

    deviations: dict[str, dict[str, Deviation]] = field(default_factory=dict)
    agreement: dict[str, dict[str, Agreement]] = field(default_factory=dict)

    def __call__(self, reference: Any, candidate: Any) -> OrderedDict[str, Deviation]:
        """Deviation of every output that both have, as ``Comparator`` wants it."""
        deviations: OrderedDict[str, Deviation] = OrderedDict()
        sums = self.deviations.setdefault(candidate.runner_name, {})
        answers = self.agreement.setdefault(candidate.runner_name, {})
        for name in (name for name in reference if name in candidate):
            x, y = reference[name], candidate[name]
            if x.shape != y.shape:
                raise ModelError(
                    f"{candidate.runner_name}: output '{name}' has shape {list(y.shape)}, expected {list(x.shape)} "
                    f"as {reference.runner_name} gives: compare models of the same task"
                )
            deviations[name] = Deviation.between(x, y)
            sums[name] = sums.get(name, Deviation()) + deviations[name]
            if x.ndim > 1 and x[0].size == max(x.shape[1:]) > 1:
                x, y = x.reshape(len(x), -1), y.reshape(len(y), -1)
                same = (x.argmax(1) == y.argmax(1)) & np.isfinite(x).all(1) & np.isfinite(y).all(1)
                count = answers.setdefault(name, Agreement())
                count.equal, count.samples = count.equal + int(same.sum()), count.samples + len(same)
        return deviations


def run_batches(
    runners: Sequence[SessionRunner], batches: Iterable[Batch], collector: Collector
) -> Iterator[tuple[Batch, dict[str, Mapping[str, Array]]]]:
    """Run every runner on each batch through ``Comparator``; ``collector`` compares all with the first.

    Yields:
        each batch, and the outputs of every runner by its name.

    Raises:
        ModelError: a runner fails, or outputs cannot be compared.
    """
    pairs = [(0, index) for index in range(1, len(runners))]
    for batch in batches:
        try:
            with G_LOGGER.verbosity(SILENT):
                results = Comparator.run(list(runners), data_loader=[dict(batch.feeds)])
                Comparator.compare_accuracy(results, comparisons=pairs, compare_func=collector)
        except PolygraphyException as e:
            raise ModelError(f"Polygraphy cannot run the models: {one_line(e)}") from e
        yield batch, {name: iterations[0] for name, iterations in results.items()}
