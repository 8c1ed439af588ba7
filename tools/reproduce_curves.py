"""Accuracy against θ for every saliency, and the range of the weights before and after pruning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.evaluation.metrics import evaluate, load_metric
from hqp_onnx.graphs import model_io
from hqp_onnx.model import open_data, open_model
from hqp_onnx.passes.cut import Refit, cut
from hqp_onnx.passes.fold_batchnorm import fold_batchnorm
from hqp_onnx.ranking.order import removal_order
from hqp_onnx.ranking.rank import rank
from hqp_onnx.ranking.saliencies import Scoring
from hqp_onnx.runtimes.session import Session
from hqp_onnx.runtimes.targets import target
from hqp_onnx.statistics.moments import contractions, input_moments
from hqp_onnx.steps.quantize import quantize_model

SALIENCIES = ("fisher", "taylor", "l2", "bn-gamma", "random")
NAMES = {"fisher": "Fisher (S)", "taylor": "Taylor", "l2": "magnitude", "bn-gamma": "BN-γ", "random": "random"}
THETAS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
MIN_WIDTH = 0.1


@dataclass(frozen=True)
class Case:
    """A model, its data, and which of the paper's networks it stands for ("" for none)."""

    name: str
    paper: str
    model: Path
    calib: Path
    val: Path
    test: Path


class Curves:
    """Candidates of one model at any θ, and what they reach on the test data."""

    def __init__(self, case: Case, seed: int) -> None:
        self.case, self.seed = case, seed
        self.model = open_model(case.model)
        self.channels = self.model.channels().restricted(branches=False)
        self.metric = load_metric("top1")
        self.calib = open_data(self.model, str(case.calib))
        self.test = open_data(self.model, str(case.test), metric=self.metric)
        self.has_batch_norm = any(node.op == "BatchNormalization" for node in self.model.graph.nodes)

    @cached_property
    def moments(self) -> dict:
        """Of the original's weights."""
        return input_moments(model_io.to_proto(self.model.graph), None, self.calib)

    def order(self, saliency: str) -> np.ndarray:
        """Units in the order in which they are removed."""
        ranking = rank(self.model.graph, self.channels, Scoring(saliency, seed=self.seed), self.calib)
        return removal_order(ranking.units, self.channels, MIN_WIDTH)

    def pruned(self, order: np.ndarray, theta: float, compensated: bool) -> gs.Graph:
        """Without the first ``theta`` of the units."""
        plan = PruningPlan(np.sort(order[: round(theta * len(self.channels.prunable))]))
        return cut(self.model.graph, self.channels, plan, Refit(self.moments, {}) if compensated else None).graph

    def accuracy(self, graph: gs.Graph) -> float:
        """Top-1 on the test data."""
        return evaluate(Session(model_io.to_proto(graph)), self.test, self.metric).metric

    def int8_accuracy(self, graph: gs.Graph) -> float:
        """The same of the graph in INT8."""
        model = open_model(model_io.to_proto(graph))
        return self.accuracy(quantize_model(model, self.calib, target("onnxruntime"), "entropy").graph)

    def rows(self) -> Iterator[tuple[str, list[float]]]:
        """A title and the accuracy at each θ."""
        for saliency in SALIENCIES:
            if saliency == "bn-gamma" and not self.has_batch_norm:
                continue
            order = self.order(saliency)
            for compensated in (False, True):
                graphs = [self.pruned(order, theta, compensated) for theta in THETAS]
                title = NAMES[saliency] + ", compensated" * compensated
                yield title, [self.accuracy(graph) for graph in graphs]
                if saliency == "fisher":
                    yield f"{title}, INT8", [self.int8_accuracy(graph) for graph in graphs]


def curves(bench: Curves) -> tuple[list[str], dict[str, list[float]]]:
    """The table, and its rows."""
    base = bench.accuracy(bench.model.graph)
    drop = 100 * (base - bench.int8_accuracy(bench.model.graph))
    rows = dict(bench.rows())
    lines = [
        f"FP32 {100 * base:.2f} %, Q8-only {-drop:+.2f} points. Points lost on the test data at θ =",
        "",
        f"| | {' | '.join(f'{100 * theta:.0f} %' for theta in THETAS)} |",
        f"|---|{'--:|' * len(THETAS)}",
    ]
    for title, values in rows.items():
        lines.append(f"| {title} | {' | '.join(f'{100 * (base - value):+.1f}' for value in values)} |")
    return lines, {"FP32": [base] * len(THETAS), **rows}


def draw(rows: dict[str, list[float]], title: str, file: Path) -> None:
    """The curves as an SVG file."""
    from matplotlib.figure import Figure

    axes = (figure := Figure(figsize=(8, 5), layout="constrained")).subplots()
    for name, values in rows.items():
        style = "--" if "compensated" in name else ":" if name == "FP32" else "-"
        colour = f"C{next((n for n, word in enumerate(NAMES.values()) if name.startswith(word)), 7)}"
        axes.plot(
            [100 * theta for theta in THETAS],
            [100 * value for value in values],
            style,
            color=colour,
            marker="s" if name.endswith("INT8") else ".",
            label=name,
        )
    axes.set(title=title, xlabel="θ: prunable units removed, %", ylabel="top-1 on the test data, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(file)


def ranges(bench: Curves, theta: float) -> list[str]:
    """R = max W - min W of every weight (BatchNormalization folded) before and after pruning by S."""
    order = bench.order("fisher")
    before = _ranges(bench.model.graph)
    lines = [f"R = max W - min W of {len(before)} weights, θ = {100 * theta:.0f} %:", ""]
    for title, compensated in (("pruned", False), ("pruned and compensated", True)):
        after = _ranges(bench.pruned(order, theta, compensated))
        ratios = np.array([after[name] / before[name] for name in before if before[name] > 0 and name in after])
        lines.append(
            f"- {title}: narrower in {np.mean(ratios < 0.999):.0%} of them, wider in {np.mean(ratios > 1.001):.0%}; "
            f"median ratio {np.median(ratios):.2f}, smallest {ratios.min():.2f}, largest {ratios.max():.2f}"
        )
    return lines


def _ranges(graph: gs.Graph) -> dict[str, float]:
    folded = fold_batchnorm(graph).graph
    tensors = folded.tensors()
    return {name: float(np.ptp(tensors[name].values)) for name in contractions(folded)}
