"""What an optimization was given, opened and checked once."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import Array
from hqp_onnx.boards.board import target_on
from hqp_onnx.channels import cost
from hqp_onnx.channels.channel_map import ChannelMap
from hqp_onnx.data.attached import Subset
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.sampled import capped, taken, whole
from hqp_onnx.data.split import MOST_CALIBRATION, PARTS, Split, split, subset
from hqp_onnx.evaluation.budget import check_budget, check_samples
from hqp_onnx.evaluation.metrics import METRICS, Metric, References, Scores, evaluate
from hqp_onnx.evaluation.metrics.choice import Choice, choose
from hqp_onnx.evaluation.metrics.task import Task
from hqp_onnx.graphs.ends import ends_of
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.job.options import Options
from hqp_onnx.model import Model, calibrated, judged_data, open_data, open_model
from hqp_onnx.passes.fold_batchnorm import fold_batchnorm
from hqp_onnx.passes.quantize_dynamic import dynamic_nodes
from hqp_onnx.passes.recover import check_recoverable
from hqp_onnx.passes.widen_float16 import widen_float16
from hqp_onnx.progress import Progress
from hqp_onnx.quantization.placement import quantized_tensors
from hqp_onnx.ranking.saliencies import Scoring
from hqp_onnx.recovery import Recovery
from hqp_onnx.runtimes.runners import open_runner
from hqp_onnx.runtimes.session import Runner
from hqp_onnx.runtimes.targets import Target
from hqp_onnx.statistics.calibration import Range, calibrate

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setup:
    """The model, its units, the data and how quality is measured.

    Attributes:
        options: as asked for.
        model: the original.
        channels: its units; those that must stay are frozen.
        positions: how often each weight is used per sample (``cost.positions``).
        data: ``calib``, ``val`` and, if given, ``test``.
        metric: of quality.
        task: what the judged output says.
        references: the original's outputs by part of the data, where the metric is held to them.
        digests: of the inputs of each sample, by part of the data.
        scoring: how units are ranked.
        recovery: how recovered candidates are trained.
        lessons: what they are trained on.
        taught: what they are trained towards, and how, in words; "" if none are.
        target: what the result is for.
        sample: feeds of one batch, for latency: ``options.batch`` samples.
        progress: called as work goes on.
        split: how one source became ``data``, if it did.
    """

    options: Options
    model: Model
    channels: ChannelMap
    positions: Mapping[str, int]
    data: Mapping[str, Dataset]
    metric: Metric
    task: Task
    references: Mapping[str, References]
    digests: Mapping[str, frozenset[bytes]]
    scoring: Scoring
    recovery: Recovery
    lessons: Dataset
    taught: str
    target: Target
    sample: Mapping[str, Array]
    progress: Progress
    split: Split | None = None

    def load(self, model: onnx.ModelProto | Path, spin: bool = True, threads: int | None = None) -> Runner:
        """A session of the target's runtime; ``threads`` None takes the option."""
        return open_runner(model, self.target, threads=self.options.threads if threads is None else threads, spin=spin)

    def scores(self, session: Runner, part: str, required: float = -math.inf) -> Scores:
        """Scores on ``part`` of the data; stops where ``required`` is out of reach."""
        total = len(self.data[part])

        def report(done: int, _: int) -> None:
            self.progress("evaluation", done, total)

        return evaluate(session, self.data[part], self.metric, required, report, self.references.get(part))

    def size(self, graph: gs.Graph) -> dict[str, int]:
        """MACs per sample and parameters of a graph that was pruned from the original, in float32."""
        return {"macs": cost.macs(graph, self.positions), "params": cost.params(graph)}

    @cached_property
    def ranges(self) -> Mapping[str, Range]:
        """Least and largest values of the original's activations on one batch, by name; finite ones."""
        graph = fold_batchnorm(widen_float16(self.model.graph).graph).graph
        batch = next(iter(self.data["calib"].in_batches(self.model.session.batch or self.options.batch)))
        return calibrate(to_proto(graph), quantized_tensors(graph, self.target), (batch,), method="minmax").ranges

    @property
    def may_be_dynamic(self) -> bool:
        """Whether dynamic INT8 is tried beside static: where it has fast kernels for most of the arithmetic."""
        if self.options.precision != "mixed" or self.target.mixes != "int8" or not self.target.dynamic:
            return False
        costs, names = cost.node_macs(self.model.graph, self.positions), set(dynamic_nodes(self.model.graph))
        own = {node.name for node in self.model.graph.nodes if node.outputs and node.outputs[0].name in names}
        return sum(costs[name] for name in own & costs.keys()) >= sum(costs.values()) / 2 > 0


def open_setup(options: Options, progress: Progress) -> Setup:
    """Read and check everything; nothing is written.

    Raises:
        HqpError: bad input.
    """
    target = target_on(options.target, options.device)
    model = open_model(options.model, options.threads, target, quantized=True)
    data, found = _opened_data(options, model)
    choice = _choice(options, model, data["val"])
    metric = choice.metric
    data = {name: _judged(name, part, model, metric) for name, part in data.items()}
    check_budget(options.chosen_drop, options.confidence, metric.quantity)
    check_samples(len(data["val"]), options.chosen_drop, options.confidence, metric)
    digests = {name: frozenset(_checked(name, part, progress)) for name, part in data.items()}
    lessons = data["calib"]
    if options.recover == "auto":
        data["calib"] = _measured_on(lessons, options.seed)
    own, task = metric.name in METRICS.own, choice.task
    recovery = replace(options.recovery, task=replace(task, kind="values") if own and task.kind == "any" else task)
    limit = options.recover_time
    taught = check_recoverable(model.graph, lessons, replace(recovery, seconds=limit)) if options.recover else ""
    if taught:
        taught += "" if limit is None else f"; {limit:g} s for all trainings together"
        log.info("recovery: %s", taught)
    return Setup(
        options,
        model,
        channels=model.channels().restricted(options.keep, options.only, options.branches),
        positions=cost.positions(model.graph, model.shapes),
        data=data,
        metric=metric,
        task=task,
        digests=digests,
        references=_references(model, data, metric),
        scoring=replace(options.scoring, task=task if own else None),
        recovery=recovery,
        lessons=lessons,
        taught=taught,
        target=calibrated(target, data["calib"]),
        sample=next(iter(data["val"].in_batches(model.session.batch or options.batch))).feeds,
        progress=progress,
        split=found,
    )


def _judged(name: str, part: Dataset, model: Model, metric: Metric) -> Dataset:
    """With labels as the metric needs them; calibration needs none, but those that there are, are checked."""
    unlabelled = name == "calib" and metric.labels == "data" and not part.targets
    return part if unlabelled else judged_data(model.session, part, metric)


def _checked(name: str, part: Dataset, progress: Progress) -> Iterator[bytes]:
    """Read all samples once; a digest of the inputs of each."""
    done = 0
    for batch in part:
        done += len(batch)
        yield from batch.digests()
        progress(f"checking {name}", done, len(part))


def _measured_on(data: Dataset, seed: int) -> Dataset:
    """Of more samples than calibration takes, as ``split`` says, so many at random; trainings take all."""
    if whole(data, "calib") <= MOST_CALIBRATION:
        return data
    capped("calib", MOST_CALIBRATION)
    if len(data) <= MOST_CALIBRATION:
        return data
    numbers = np.sort(np.random.default_rng((seed, 4)).permutation(len(data))[:MOST_CALIBRATION])
    log.info("%d of %d samples calibrate; recovery takes all", MOST_CALIBRATION, len(data))
    some = data.only(Subset(data.source, numbers, "calib"))
    return some if data.relabeled is None else some.labeled_with(data.relabeled[numbers])


def _opened_data(options: Options, model: Model) -> tuple[dict[str, Dataset], Split | None]:
    """The data by part, and how they were split, if they were."""
    if options.data is None:
        named = {part: getattr(options, part) for part in PARTS}
        given = {part: source for part, source in named.items() if source is not None}
        return {p: open_data(model, source, options.preprocess, part=p) for p, source in given.items()}, None
    whole = open_data(model, options.data, options.preprocess)
    found = split(whole.source, options.seed, tuple(map(float, options.shares)))
    return {part: taken(whole.only(subset(whole.source, found, part)), part) for part in PARTS}, found


def _choice(options: Options, model: Model, data: Dataset) -> Choice:
    choice = choose(options.metric, model.session, data, options.metric_output, ends_of(to_proto(model.graph).graph))
    log.info("%s", choice.words)
    return choice


def _references(model: Model, data: Mapping[str, Dataset], metric: Metric) -> dict[str, References]:
    if metric.labels != "outputs":
        return {}
    return {name: References(model.session, part.source.name) for name, part in data.items() if name != "calib"}
