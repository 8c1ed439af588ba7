"""Run a model over data and judge it; what a model gives beside a metric: its answers, its number of classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from hqp_onnx.arrays import Array, IntArray
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.shards import Numbered, each_batch, summed
from hqp_onnx.data.states import carried
from hqp_onnx.errors import ModelError
from hqp_onnx.evaluation.metrics.metric import Judged, Metric, Tally
from hqp_onnx.evaluation.metrics.outputs import logits_of
from hqp_onnx.evaluation.metrics.references import References
from hqp_onnx.evaluation.metrics.sample_axis import BySample
from hqp_onnx.evaluation.metrics.scores import Scores
from hqp_onnx.evaluation.nonfinite import NONE, NonFinite, finite_samples
from hqp_onnx.progress import StageProgress
from hqp_onnx.runtimes.runners import Opening
from hqp_onnx.runtimes.session import Runner, TensorSpec


def evaluate(
    session: Runner,
    data: Dataset,
    metric: Metric,
    required: float = -math.inf,
    progress: StageProgress | None = None,
    references: References | None = None,
) -> Scores:
    """Scores of a model on ``data``, stopping once ``required`` (see ``Scale``) is out of reach.

    Args:
        session: the model.
        data: samples, in batches.
        metric: what is measured.
        required: 0 for no limit, where the metric is a mean of shares.
        progress: called with samples done and their number.
        references: the original's outputs, for metrics of them.
    """
    tally, opening = metric.tally(len(data)), Opening.of(session)
    asked = None if references is None else Opening.of(references.session)
    apart = opening is not None and not (data.states or metric.of_class) and (asked is None) == (references is None)
    parts = each_batch(data) if apart else [data.ranges]
    here = partial(_judged, by_sample(session, data), tally, references)
    for batch in summed(_Judging(opening, asked, metric), data, parts, opened=here):
        tally.take(batch)
        if progress is not None:
            progress(tally.seen, len(data))
        if tally.reach < required:
            break
    return tally.scores()


@dataclass(frozen=True, eq=False)
class _Judging:
    """``Summing``: each batch, judged by itself; held to what ``original`` gives, where that is asked for."""

    model: Opening | None
    original: Opening | None
    metric: Metric

    def opened(self, threads: int) -> Callable[[Iterable[Numbered]], Iterator[Judged]]:
        assert self.model is not None  # else it is not sent
        references = None if self.original is None else References(self.original(threads), "the data")
        return partial(_judged, BySample(self.model(threads)), self.metric.tally(0), references)


def _judged(
    session: Runner, tally: Tally, references: References | None, batches: Iterable[Numbered]
) -> Iterator[Judged]:
    for start, batch in batches:
        outputs = session.run(batch.feeds)
        yield tally.judged(outputs, batch if references is None else references.targeted(start, batch))


def predictions(session: Runner, data: Dataset, metric: Metric | None = None) -> IntArray:
    """The model's top-1 answers, int64 [samples], of the output that ``metric`` judges.

    Raises:
        ModelError: some outputs are not finite.
    """
    answers, nonfinite, session = [], NONE, by_sample(session, data)
    for batch in data:
        outputs = session.run(batch.feeds)
        nonfinite += finite_samples(outputs, len(batch))[1]
        answers.append(logits_of(outputs if metric is None else metric.ordered(outputs)).argmax(1))
    require_finite(nonfinite, len(data))
    return np.concatenate(answers)


def require_finite(nonfinite: NonFinite, samples: int) -> None:
    """Raise ``ModelError`` where outputs of the model that others are held against are not finite."""
    if nonfinite:
        raise ModelError(
            f"the original model gives no answer everywhere: {nonfinite.words(samples)}. Mend it, or leave these "
            "samples out"
        )


def classes(outputs: tuple[TensorSpec, ...], name: str = "") -> int | None:
    """Number of classes of a classifier's output, [N, C] or [N, C, 1, 1]; None where it is dynamic.

    Args:
        outputs: of the model.
        name: of the output; "" for the first.
    """
    chosen = next((spec for spec in outputs if spec.name == name), outputs[0] if outputs else None)
    if chosen is None or not chosen.shape:
        return None
    several = [size for size in chosen.shape[1:] if size != 1]
    return several[0] if len(several) == 1 else chosen.shape[-1]


def first_outputs(session: Runner, data: Dataset) -> dict[str, Array]:
    """What a model gives for the first batch."""
    return BySample(session).run(next(iter(data)).feeds)


def by_sample(session: Runner, data: Dataset) -> Runner:
    """``session`` as it is judged: with samples first, or with the state that it carries through ``data``."""
    return carried(session, data) if data.states else BySample(session)
