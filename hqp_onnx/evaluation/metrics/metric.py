"""What a metric is: it turns a batch into one row of statistics per sample, and rows into a value (``scale``).

    def near(outputs, labels): ...              # scores in 0..1, float [samples]; labels are class numbers or None
    def error(outputs, targets, inputs): ...    # scores of any range; error.higher = False where less is better
    class Quality:                              # any value; made anew for every evaluation
        def update(self, outputs, targets, inputs): ...
        def value(self): ...

``outputs``, ``targets`` and ``inputs`` are arrays by name, first axis = samples, read-only. Each of these forms, or a
``Metric``, serves as an entry point of the group ``hqp_onnx.metrics``, as ``FILE.py:name``, and in Python. A sample
whose outputs hold NaN or infinities is not shown to any metric: it scores the least there is, or is left out of sums.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from scipy import sparse

from hqp_onnx.arrays import Array, BoolArray, FloatArray, read_only, real_numbers
from hqp_onnx.counts import article
from hqp_onnx.data.batch import Batch, class_numbers
from hqp_onnx.errors import UsageError
from hqp_onnx.evaluation.metrics.blocks import Blocks, OfBlocks
from hqp_onnx.evaluation.metrics.quantity import Quantity
from hqp_onnx.evaluation.metrics.scale import SHARES, Mean, OfSums, Scale, weighted_mean
from hqp_onnx.evaluation.metrics.scores import Scores
from hqp_onnx.evaluation.nonfinite import NONE, NonFinite, chosen_samples, finite_samples
from hqp_onnx.registry import Registry, outside_code

Named = Mapping[str, Array]
ScoreFunction = Callable[..., Any]
"""(outputs, labels) -> scores in 0..1; (outputs, targets, inputs) -> scores or rows; or a class, see above."""

Targets = Literal["data", "targets", "original", "outputs", "any"]
_SPARSE = 64  # statistics per sample from which most are zero


@dataclass(frozen=True)
class Metric:
    """A metric by name.

    Attributes:
        name: of the metric.
        function: see ``ScoreFunction``.
        labels: where targets come from. ``data``: class numbers, checked; ``targets``: the data, of any kind;
            ``original``: the original's top-1 answers as labels; ``outputs``: the original's outputs by name; ``any``:
            what the data have.
        scale: what rows mean.
        output: the only one that the function sees; "" shows all.
        finish: applied to all rows together, where a sample's score depends on others.
        whole: whether it reads all outputs, and not just the first.
        parts: scores by output, float64 [samples] each, whose means are shown beside the metric.
    """

    name: str
    function: ScoreFunction
    labels: Targets = "data"
    scale: Scale = SHARES
    output: str = ""
    finish: Callable[[Any], Any] | None = None
    whole: bool = False
    parts: Callable[[Named, Named], Mapping[str, FloatArray]] | None = None

    @property
    def quantity(self) -> Quantity:
        """What it is measured in."""
        return Quantity(self.name, self.scale.unit, self.scale.higher)

    @property
    def of_class(self) -> bool:
        """Whether the function is a class with ``update`` and ``value``."""
        return inspect.isclass(self.function)

    def of_output(self, output: str) -> Metric:
        """The same of another output."""
        return replace(self, output=output)

    def ordered(self, outputs: Named) -> Named:
        """The output that is judged; all of them where none was chosen."""
        if not self.output:
            return outputs
        if self.output not in outputs:
            raise UsageError(f"{{--metric_output}} {self.output}: no such output, there are {', '.join(outputs)}")
        return {self.output: outputs[self.output]}

    def tally(self, samples: int) -> Tally:
        """Of one evaluation."""
        return OfClass(self, samples) if self.of_class else Tally(self, samples)

    def scores(self, outputs: Named, batch: Batch) -> Scores:
        """Scores of one batch, as if there were no other.

        Raises:
            UsageError: the function fails, or does not return one score, or row, per sample.
        """
        tally = self.tally(len(batch))
        tally.add(outputs, batch)
        return tally.scores()


@dataclass(frozen=True, eq=False)
class Judged:
    """Rows of the samples of a batch whose outputs are ``finite``, None for no such sample; what they add up to."""

    finite: BoolArray
    nonfinite: NonFinite
    rows: Any
    total: Any = 0.0
    parts: Mapping[str, float] = field(default_factory=dict)


class Tally:
    """Rows of one evaluation so far.

    Args:
        metric: whose.
        samples: that there are in all.

    Attributes:
        seen: samples so far.
    """

    def __init__(self, metric: Metric, samples: int) -> None:
        self.metric, self.samples, self.seen = metric, samples, 0
        self._rows: list[tuple[Array, Any]] = []
        self._nonfinite = NONE
        self._total: Any = 0.0
        self._parts: dict[str, float] = {}

    @property
    def reach(self) -> float:
        """What can still be attained."""
        if self.metric.finish is not None:
            return float("inf")
        return self.metric.scale.reach(self._total, self.samples - self.seen)

    def add(self, outputs: Named, batch: Batch) -> None:
        """Judge a batch."""
        self.take(self.judged(outputs, batch))

    def judged(self, outputs: Named, batch: Batch) -> Judged:
        """A batch by itself."""
        finite, nonfinite = finite_samples(outputs, len(batch))
        outputs, targets, inputs = self.metric.ordered(outputs), batch.targets, batch.feeds
        if not finite.all():
            outputs, targets, inputs = (chosen_samples(x, finite) for x in (outputs, targets, inputs))
        return self._judge(shown(outputs), shown(targets), shown(inputs), finite, nonfinite)

    def take(self, batch: Judged) -> None:
        """Add a batch that was judged, here or elsewhere."""
        self._nonfinite += batch.nonfinite
        self.seen += len(batch.finite)
        for name, total in batch.parts.items():
            self._parts[name] = self._parts.get(name, 0.0) + total
        self._total = self._total + batch.total
        self._rows.append((batch.finite, batch.rows))

    def scores(self) -> Scores:
        """What was found."""
        known = [rows for _, rows in self._rows if rows is not None]
        like = known[0] if known else np.zeros((0, 0) if isinstance(self.metric.scale, OfSums) else 0)
        rows = _joined([self._filled(finite, rows, like) for finite, rows in self._rows])
        rows = rows if self.metric.finish is None else self.metric.finish(rows)
        parts = {name: total / self.seen for name, total in self._parts.items()}
        return Scores(rows, self.samples, self._nonfinite, self.metric.scale, parts)

    def _judge(self, outputs: Named, targets: Named, inputs: Named, finite: BoolArray, nonfinite: NonFinite) -> Judged:
        metric, count = self.metric, int(finite.sum())
        lost = metric.scale.low * (len(finite) - count) if isinstance(metric.scale, Mean) else 0.0
        if not count:
            return Judged(finite, nonfinite, None, lost)
        with outside_code(f"metric '{metric.name}' failed"):
            answer = self._called(outputs, targets, inputs)
        rows = self._checked(answer, count)
        parts = {} if metric.parts is None else metric.parts(outputs, targets)
        total = metric.scale.total(rows) + lost if metric.finish is None else lost
        wide = rows.ndim == 2 and rows.shape[1] > _SPARSE and metric.finish is None
        sums = {name: float(scores.sum()) for name, scores in parts.items()}
        return Judged(finite, nonfinite, sparse.csr_array(rows) if wide else rows, total, sums)

    def _filled(self, finite: Array, rows: Any, like: Any) -> Any:
        """Rows of all samples, of which only those that are ``finite`` were judged."""
        if finite.all():
            return rows
        scale = self.metric.scale
        left_out = np.nan if self.metric.finish else scale.low if isinstance(scale, Mean) else 0
        filled = np.full((len(finite), *like.shape[1:]), left_out, like.dtype)
        if rows is not None:
            filled[finite] = rows.toarray() if sparse.issparse(rows) else rows
        return sparse.csr_array(filled) if sparse.issparse(like) else filled

    def _called(self, outputs: Named, targets: Named, inputs: Named) -> Any:
        if arity(self.metric.function) == 3:
            return self.metric.function(outputs, targets, inputs)
        return self.metric.function(outputs, class_numbers(targets))

    def _checked(self, answer: Any, count: int) -> Array:
        name, scale = self.metric.name, self.metric.scale
        if not isinstance(scale, (Mean, OfSums)):  # rows of its own kind, as matches of boxes
            return np.asarray(answer)
        with outside_code(f"metric '{name}' failed"):
            rows = real_numbers(answer)
        if isinstance(scale, Mean):
            within = rows.shape == (count,) and ((rows >= scale.low) & (rows <= scale.high)).all()
            if not within and self.metric.finish is None:
                between = f"{scale.low:g}..{scale.high:g}"
                raise UsageError(f"metric '{name}' must return one score in {between} per sample of the batch")
        elif rows.shape == (count,):
            rows = np.stack([rows, np.ones(count)], 1)
        if rows.shape[:1] != (count,) or (not isinstance(scale, Mean) and rows.ndim != 2):
            raise UsageError(f"metric '{name}' must return one score per sample of the batch")
        if not np.isfinite(rows).all():
            raise UsageError(f"metric '{name}' returns NaN or infinities for outputs that are finite")
        return rows


class OfClass(Tally):
    """Of a class with ``update`` and ``value``; see ``blocks`` for its interval."""

    def __init__(self, metric: Metric, samples: int) -> None:
        super().__init__(metric, samples)
        with outside_code(f"metric '{metric.name}' cannot be made"):
            self._blocks = Blocks(metric.function, samples)

    def scores(self) -> Scores:
        """What was found."""
        with outside_code(f"metric '{self.metric.name}' failed"):
            values = self._blocks.values()
        if not np.isfinite(values.whole):
            raise UsageError(f"metric '{self.metric.name}': its value is {values.whole}, expected a finite number")
        return Scores(values, self.samples, self._nonfinite, self.metric.scale)

    def _judge(self, outputs: Named, targets: Named, inputs: Named, finite: BoolArray, nonfinite: NonFinite) -> Judged:
        with outside_code(f"metric '{self.metric.name}' failed"):
            self._blocks.add(outputs, targets, inputs, finite, self.seen)
        return Judged(finite, nonfinite, None)


def shown(values: Named) -> Named:
    """Arrays that code from outside cannot change."""
    return {name: read_only(x) if isinstance(x, np.ndarray) else x for name, x in values.items()}


def arity(function: Callable[..., Any]) -> int:
    """3 for a function of outputs, targets and inputs, else 2."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 2
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return 3 if sum(p.kind in kinds and p.default is p.empty for p in parameters) == 3 else 2


def _joined(rows: list[Any]) -> Any:
    return sparse.vstack(rows, "csr") if sparse.issparse(rows[0]) else np.concatenate(rows)


def _is_metric(candidate: Any) -> bool:
    if inspect.isclass(candidate):
        return all(callable(getattr(candidate, name, None)) for name in ("update", "value"))
    return callable(candidate) or isinstance(candidate, Metric)


METRICS: Registry[Metric | ScoreFunction] = Registry("metric", "hqp_onnx.metrics", _is_metric)


def load_metric(metric: str | Metric | ScoreFunction) -> Metric:
    """A metric by its name in ``METRICS`` or ``FILE.py:name``, or of a function or class.

    Raises:
        UsageError: an unknown name, or what is no metric.
    """
    entry = METRICS.get(metric) if isinstance(metric, str) else metric
    if isinstance(entry, Metric):
        return entry
    if not _is_metric(entry):
        what = "class without update and value" if inspect.isclass(entry) else type(entry).__name__
        raise UsageError(f"'{entry}' is no metric: it is {article(what)}")
    name = metric if isinstance(metric, str) else getattr(entry, "__name__", "of a function")
    unit, higher = str(getattr(entry, "unit", "")), bool(getattr(entry, "higher", True))
    if inspect.isclass(entry):
        return Metric(name, entry, "any", OfBlocks(unit, higher))
    scale = weighted_mean(unit, higher) if arity(entry) == 3 else SHARES
    return Metric(name, entry, "any", scale)
