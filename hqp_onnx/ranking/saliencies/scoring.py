"""How sensitivities are scored: the choice (``Scoring``), and what a saliency is (``Saliency``).

    def magnitude(model, data):                     # the least: scores of filters, from the canonical model
        return {weight: float64 [filters], ...}

    class Magnitude(Saliency):                      # the same, and what it needs; or scores of units of its own
        needs_data = True
        def filters(self, model, data, scoring, execution): ...

Either serves as an entry point of the group ``hqp_onnx.saliencies``, as ``FILE.py:name``, and in ``Scoring``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import FloatArray, real_numbers
from hqp_onnx.channels.channel_map import ChannelMap
from hqp_onnx.data.batch import Batch
from hqp_onnx.errors import UsageError
from hqp_onnx.evaluation.metrics.task import Task
from hqp_onnx.gradients import filter_weights
from hqp_onnx.gradients.engines import ENGINES
from hqp_onnx.gradients.filters import stored
from hqp_onnx.gradients.loss import LOSSES, LossName
from hqp_onnx.gradients.per_sample import Kind
from hqp_onnx.graphs import model_io
from hqp_onnx.passes.lowering.inline_constants import inline_constants
from hqp_onnx.progress import Progress, silent
from hqp_onnx.ranking.order import unit_scores, with_branches
from hqp_onnx.registry import Registry, outside_code
from hqp_onnx.statistics.moment_halves import Halves

_MOST_DRAWS = 10_000
FilterScores = dict[str, FloatArray]


class Samples(Protocol):
    """A re-iterable sequence of batches; ``len`` counts samples. ``Dataset`` is one."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Batch]: ...


FilterFunction = Callable[[onnx.ModelProto, Samples | None], Mapping[str, FloatArray]]


@dataclass(frozen=True)
class Execution:
    """How the work runs; none of it changes a score.

    Attributes:
        threads: of the runtime; 0 is its own choice.
        progress: called as the work goes on.
        checkpoint: file for partial sums, written every few seconds and when interrupted, removed at the end. The
            same work resumes from it, to the same bits; one of another model, data, batch size or scoring is ignored.
    """

    threads: int = 0
    progress: Progress = silent
    checkpoint: Path | None = None


class Saliency(ABC):
    """How much the loss would suffer without each filter, and without each unit.

    Attributes:
        needs_data: whether ``filters`` needs samples.
        needs_moments: whether ``units`` needs second moments of what each weight reads.
        cumulative: whether ``units`` gives what the loss has grown by once a unit is removed, after those before it,
            and not what each unit costs alone.
        gradients: what it takes from the gradient engine, see ``PerSample``; None for nothing.
    """

    needs_data: ClassVar[bool] = False
    needs_moments: ClassVar[bool] = False
    cumulative: ClassVar[bool] = False
    gradients: Kind | None = None

    @abstractmethod
    def filters(
        self, model: onnx.ModelProto, data: Samples | None, scoring: Scoring, execution: Execution
    ) -> FilterScores:
        """Weight -> float64 [filters] of a canonical ``model``; see ``filter_weights`` for the weights and axes."""

    def check(self, model: onnx.ModelProto, data: Samples | None, scoring: Scoring, execution: Execution) -> None:  # noqa: B027
        """Raise, before anything is paid for, what ``filters`` would raise."""

    def units(
        self,
        graph: gs.Graph,
        channels: ChannelMap,
        filters: Mapping[str, FloatArray],
        halves: Halves | None,
        min_width: float,
        gains: FloatArray | None,
    ) -> FloatArray:
        """Ascending in the order of removal, float64 [units]: here, the sum of each unit's filters per gain.

        Args:
            graph: canonical.
            channels: its units.
            filters: what the method ``filters`` gave.
            halves: moments of two halves of the data, where ``needs_moments``.
            min_width: share of every tensor's units that stays, or is removed as one where a branch ends.
            gains: what a unit's removal saves, float64 [units], above 0; None for 1.
        """
        units = unit_scores(filters, channels, filter_weights(model_io.to_proto(graph)))
        return with_branches(units, channels, min_width, gains)


@dataclass(frozen=True)
class OfFunction(Saliency):
    """A plain function of model and data; ``name`` appears in errors."""

    name: str
    function: FilterFunction

    def filters(
        self, model: onnx.ModelProto, data: Samples | None, scoring: Scoring, execution: Execution
    ) -> FilterScores:
        """What the function returns.

        Raises:
            UsageError: it fails, or does not return scores of filters.
        """
        with outside_code(f"saliency '{self.name}' failed"):
            answer = self.function(model, data)
            scores = {weight: real_numbers(values) for weight, values in answer.items()}
        self._check(scores, model)
        return scores

    def _check(self, scores: FilterScores, model: onnx.ModelProto) -> None:
        shapes = {tensor.name: tensor.dims for tensor in stored(inline_constants(model).graph)}
        axes = filter_weights(model)
        for weight, values in scores.items():
            if weight not in axes:
                raise UsageError(f"saliency '{self.name}' scores '{weight}', which is no weight with filters")
            expected = shapes[weight][axes[weight]]
            if values.shape != (expected,):
                shape = f"{list(values.shape)}, expected [{expected}]"
                raise UsageError(f"saliency '{self.name}': the scores of '{weight}' have shape {shape}")


def _is_saliency(candidate: Any) -> bool:
    return callable(candidate) or isinstance(candidate, Saliency)


SALIENCIES: Registry[Saliency | type[Saliency] | FilterFunction] = Registry(
    "saliency", "hqp_onnx.saliencies", _is_saliency
)


@dataclass(frozen=True)
class Scoring:
    """How sensitivities are scored, checked when it is made.

    Attributes:
        saliency: a name in ``SALIENCIES``, ``FILE.py:name``, a ``Saliency``, or a function of (model, data).
        engine: what differentiates, where gradients are taken: a name in ``ENGINES`` or ``FILE.py:name``.
        loss: a name in ``LOSSES``, a loss model, or its file. None takes what follows from task and targets:
            cross-entropy, binary-cross-entropy or squared-error; without targets, labels sampled from a classifier's
            own distribution, else Gauss-Newton by random projections of the outputs.
        draws: labels sampled, or projections, per sample; each costs one pass. Other losses draw nothing.
        seed: of the draws, and of the random saliency.
        task: what the judged output says; None where only the data tell.
        method: ``saliency`` itself.
        loss_model: ``loss``, its file read.

    Raises:
        UsageError: an unknown name.
        UsageError: another value that makes no sense, or an engine that lacks what the saliency needs.
        ModelError: the loss model's file is not a model.
    """

    saliency: str | Saliency | FilterFunction = "fisher"
    engine: str = "native"
    loss: str | onnx.ModelProto | None = None
    draws: int = 1
    seed: int = 0
    task: Task | None = None
    method: Saliency = field(init=False, repr=False, compare=False)
    loss_model: LossName | onnx.ModelProto | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", _method(self.saliency, self.name))
        object.__setattr__(self, "loss_model", _opened(self.loss))
        if not isinstance(self.seed, Integral) or self.seed < 0:
            raise UsageError(f"{{--seed}} {self.seed}: expected a whole number, 0 or more")
        if not 1 <= self.draws <= _MOST_DRAWS:
            raise UsageError(
                f"{{--draws}} {self.draws}: expected 1 to {_MOST_DRAWS}, since each is a pass over the data"
            )
        kinds, kind = ENGINES.get(self.engine).kinds, self.method.gradients
        if kind is not None and kind not in kinds:
            raise UsageError(f"{{--engine}} {self.engine}: {{--saliency}} {self.name} needs another, such as native")

    @property
    def name(self) -> str:
        """Of the saliency."""
        if isinstance(self.saliency, str):
            return self.saliency
        return str(getattr(self.saliency, "__name__", type(self.saliency).__name__))


def _method(saliency: str | Saliency | FilterFunction, name: str) -> Saliency:
    entry = SALIENCIES.get(saliency) if isinstance(saliency, str) else saliency
    if isinstance(entry, Saliency):
        return entry
    if not (isinstance(entry, type) and issubclass(entry, Saliency)):
        return OfFunction(name, cast(FilterFunction, entry))
    with outside_code(f"saliency '{name}' cannot be made"):
        return entry()


def _opened(loss: str | onnx.ModelProto | None) -> LossName | onnx.ModelProto | None:
    if not isinstance(loss, str):
        return loss
    name = next((known for known in LOSSES if known == loss), None)
    if name is None and not loss.endswith(".onnx"):
        raise UsageError(f"{{--loss}} {loss}: expected one of {', '.join(LOSSES)}, or a loss model, FILE.onnx")
    return name or model_io.load(Path(loss))
