"""What an optimization was given, opened and checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import Array
from hqp_onnx.channels import cost
from hqp_onnx.channels.channel_map import ChannelMap
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.evaluation.budget import check_samples
from hqp_onnx.evaluation.metrics import Metric, Scores, evaluate, load_metric
from hqp_onnx.job.options import Options
from hqp_onnx.model import Model, open_data, open_model
from hqp_onnx.passes.recover import check_recoverable
from hqp_onnx.progress import Progress
from hqp_onnx.ranking.saliencies import Scoring
from hqp_onnx.runtimes.runners import open_runner
from hqp_onnx.runtimes.session import Runner
from hqp_onnx.runtimes.targets import Target, target


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
        scoring: how units are ranked.
        target: what the result is for.
        sample: feeds of one batch, for latency: ``options.batch`` samples.
        progress: called as work goes on.
    """

    options: Options
    model: Model
    channels: ChannelMap
    positions: Mapping[str, int]
    data: Mapping[str, Dataset]
    metric: Metric
    scoring: Scoring
    target: Target
    sample: Mapping[str, Array]
    progress: Progress

    def load(self, model: onnx.ModelProto | Path, spin: bool = True) -> Runner:
        """A session of the target's runtime."""
        return open_runner(model, self.target, threads=self.options.threads, spin=spin)

    def scores(self, session: Runner, part: str, required: float = 0.0) -> Scores:
        """Scores on ``part`` of the data; stops where ``required`` is out of reach."""
        total = len(self.data[part])

        def report(done: int, _: int) -> None:
            self.progress("evaluation", done, total)

        return evaluate(session, self.data[part], self.metric, required, report)

    def size(self, graph: gs.Graph) -> dict[str, int]:
        """MACs per sample and parameters of a graph that was pruned from the original, in float32."""
        return {"macs": cost.macs(graph, self.positions), "params": cost.params(graph)}


def open_setup(options: Options, progress: Progress) -> Setup:
    """Read and check everything; nothing is written.

    Raises:
        HqpError: bad input.
    """
    metric = load_metric(options.metric)
    model = open_model(options.model, options.threads, options.target)
    named = {"calib": options.calib, "val": options.val, "test": options.test}
    data = {
        name: open_data(model, source, options.preprocess, metric)
        for name, source in named.items()
        if source is not None
    }
    check_samples(len(data["val"]), options.max_drop, options.confidence)
    for name, part in data.items():
        for number, _ in enumerate(part, 1):
            progress(f"checking {name}", min(number * part.batch_size, len(part)), len(part))
    if options.recover:
        check_recoverable(model.graph, data["calib"], options.recovery)
    return Setup(
        options,
        model,
        channels=model.channels().restricted(options.keep, options.only, options.branches),
        positions=cost.positions(model.graph, model.shapes),
        data=data,
        metric=metric,
        scoring=options.scoring,
        target=target(options.target),
        sample=next(iter(data["val"].in_batches(model.session.batch or options.batch))).feeds,
        progress=progress,
    )
