"""The whole comparison: outputs, answers, accuracy, latency, and where each model departs from the one before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from hqp_onnx.comparison.contenders import Contender, open_contenders
from hqp_onnx.comparison.found import NOTHING, Compared, Comparison, Step
from hqp_onnx.comparison.lineage import find_lineage
from hqp_onnx.comparison.runner import Agreement, Collector, SessionRunner, run_batches
from hqp_onnx.comparison.trace import Trace, trace
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.reading import Data
from hqp_onnx.data.sources import open_dataset
from hqp_onnx.errors import ModelError, UsageError
from hqp_onnx.evaluation.latency import measure
from hqp_onnx.evaluation.metrics import Metric, load_metric
from hqp_onnx.evaluation.metrics.choice import choose, prepared
from hqp_onnx.evaluation.metrics.metric import Tally
from hqp_onnx.evaluation.metrics.sample_axis import BySample
from hqp_onnx.evaluation.nonfinite import NONE, NonFinite, finite_samples
from hqp_onnx.graphs.model_io import stored_bytes
from hqp_onnx.limits import check_threads
from hqp_onnx.progress import Progress, silent
from hqp_onnx.runtimes.session import try_run

BATCH = 100


def compare(
    models: Sequence[str],
    data: Data,
    *,
    preprocess: str | Path | None = None,
    metric: str | None = None,
    metric_output: str = "",
    ledgers: Sequence[Path] = (),
    tolerance: float = 0.1,
    samples: int = 64,
    threads: int = 0,
    seconds: float = 4.0,
    progress: Progress = silent,
) -> Comparison:
    """Compare models with the first, and each with the one before it layer by layer.

    Args:
        models: FILE or FILE@TARGET, see ``contenders``; as a chain: original, pruned, INT8, engine.
        data: see ``sources.open_source``.
        preprocess: of images, see ``Reading``.
        metric: see ``load_metric``; None takes top1 if data have labels and the output classes.
        metric_output: the output that is judged; "" for the first, or all, as the metric reads.
        ledgers: of pruned models; a ledger.json beside a model is found automatically.
        tolerance: own error that any layer may have, as a share of its signal; see ``trace``.
        samples: to trace layers with.
        threads: of the runtimes; 0 takes their choice.
        seconds: of latency measurement.
        progress: called as the work goes on.

    Raises:
        ModelError, DataError, UsageError, MissingRuntimeError: the models, data or options do not fit together.
    """
    if not 0 < tolerance < math.inf or samples < 1:
        raise UsageError(
            f"{{--tolerance}} {tolerance} must be above 0 and finite, and {{--samples}} {samples} at least 1"
        )
    check_threads(threads)
    asked = _asked(metric)
    contenders = open_contenders(models, threads)
    batch = _batch(contenders)
    dataset = open_dataset(
        data,
        contenders[0].session.inputs,
        preprocess=preprocess,
        batch_size=batch or BATCH,
        original=contenders[0].session,
    )
    for contender in contenders:
        try_run(contender.session, dataset.rows(0, 1).feeds, contender.name)
    lineage = find_lineage([c.path for c in contenders if c.opener is not None], ledgers)
    chosen = _metric(asked, contenders[0], dataset, metric_output)
    collector, scores, nonfinite = _outputs(contenders, dataset, chosen, progress)
    rows = dataset.rows(0, min(batch or 1, len(dataset)))
    latency = measure({c.name: c.session for c in contenders}, rows.feeds, seconds)
    compared = tuple(
        Compared(
            name=c.name,
            runtime=c.runtime,
            bytes=stored_bytes(c.path) if c.opener else c.path.stat().st_size,
            accuracy=scores.get(c.name),
            latency=latency[c.name],
            outputs=collector.deviations.get(c.name, {}),
            agreement=_shares(collector.agreement.get(c.name, {})),
            nonfinite=nonfinite[c.name],
        )
        for c in contenders
    )
    steps: list[Step] = []
    for first, second in pairwise(contenders):
        progress(f"layers of {second.name}", len(steps), len(contenders) - 1)
        steps.append(_step(first, second, lambda a, b: trace(a, b, dataset, lineage, samples, tolerance)))
    quantity = chosen.quantity if chosen else NOTHING
    described = (dataset.source.name, len(dataset), quantity.name, batch or 1, tolerance)
    return Comparison(*described, compared, tuple(steps), quantity)


def _asked(name: str | None) -> Metric | None:
    metric = None if name is None else load_metric(name)
    if metric is not None and metric.labels == "original":
        raise UsageError(
            f"metric '{metric.name}': agreement with the first model is always given; name another or none"
        )
    return metric


def _batch(contenders: Sequence[Contender]) -> int | None:
    """The smallest fixed batch size; None if no model has one."""
    return min((c.session.batch for c in contenders if c.session.batch is not None), default=None)


def _metric(asked: Metric | None, reference: Contender, data: Dataset, output: str) -> Metric | None:
    """The metric asked for, or top1 where it makes sense."""
    metric = choose(asked, reference.session, data, output).metric
    if asked is None and metric.name != "top1":  # deviations are shown in any case
        return None
    prepared(metric, reference.session, data)
    return metric


def _outputs(
    contenders: Sequence[Contender], data: Dataset, metric: Metric | None, progress: Progress
) -> tuple[Collector, dict[str, float], dict[str, NonFinite]]:
    """Deviations and agreement of all models, their metrics, and their samples that are not finite."""
    collector, seen = Collector(), 0
    nonfinite = dict.fromkeys((c.name for c in contenders), NONE)
    tallies: dict[str, Tally] = {} if metric is None else {c.name: metric.tally(len(data)) for c in contenders}
    for batch, outputs in run_batches(
        [SessionRunner(BySample(c.session), c.name) for c in contenders], data, collector
    ):
        seen += len(batch)
        progress("comparison", seen, len(data))
        first = outputs[contenders[0].name]
        for name, values in outputs.items():
            nonfinite[name] += finite_samples(values, len(batch))[1]
            if metric is not None:
                tallies[name].add(values, replace(batch, targets=first) if metric.labels == "outputs" else batch)
    if empty := [name for name, sums in collector.deviations.items() if not sums]:
        raise ModelError(f"{empty[0]} has no output of numbers of the same name as one of {contenders[0].name}")
    found = {name: tally.scores().metric for name, tally in tallies.items()}
    return collector, {name: value for name, value in found.items() if math.isfinite(value)}, nonfinite


def _shares(agreement: Mapping[str, Agreement]) -> dict[str, float]:
    return {name: count.share for name, count in agreement.items() if count.share is not None}


def _step(first: Contender, second: Contender, run: Callable[[Contender, Contender], Trace]) -> Step:
    if first.opener is None:
        return Step(first.name, second.name, None, f"the inside of {first.name} cannot be run on other inputs")
    try:
        return Step(first.name, second.name, run(first, second))
    except ModelError as e:
        return Step(first.name, second.name, None, str(e))
