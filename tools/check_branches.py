"""What becomes of the constants that removed branches leave.

    python tools/check_branches.py [MODEL ...] [--seconds 2]

Every gate and residual branch of each model is removed alone, without a refit. Its constant then stays as an operator
(an Add behind a residual branch), or moves into biases (``passes.absorb_shifts``), exactly or, where a window reaches
over an edge, up to the refit that follows. Printed: branches whose constant is added, how many of them move exactly and
with a refit, the worst relative error of the exact moves on random inputs, and the time with all of them removed at
once, the Adds in place and moved, on one thread in float32.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.evaluation.latency import measure
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.graphs.shapes import example_feeds
from hqp_onnx.model import Model, open_model
from hqp_onnx.passes.absorb_scales import absorb_scales
from hqp_onnx.passes.absorb_shifts import absorb_shifts, constants
from hqp_onnx.passes.fold_batchnorm import fold_batchnorm
from hqp_onnx.passes.prune_channels import prune_channels
from hqp_onnx.runtimes.machine import processor
from hqp_onnx.runtimes.session import Session
from hqp_onnx.statistics.moments_in_order import refittable

ROOT = Path(__file__).parents[1] / "models"


def added(graph: gs.Graph, known: set[str]) -> bool:
    """Whether a constant that was none before is added to an activation."""
    folded = graph.copy().fold_constants(fold_shapes=False).cleanup()
    return any(
        node.op == "Add" and any(isinstance(t, gs.Constant) and t.name not in known for t in node.inputs)
        for node in folded.nodes
    )


def check(model: Model, seconds: float) -> list[str]:
    """The cells of a model's row."""
    channels, known = model.channels(), constants(model.graph)
    feeds = example_feeds(model.graph, leading=model.session.batch or 4)
    found, exact, refitted, worst = [], 0, 0, 0.0
    for branch in channels.branches:
        graph = prune_channels(model.graph, channels, PruningPlan(branch)).graph
        if not added(graph, known):
            continue
        found.append(branch)
        moved = absorb_shifts(graph, known)
        refitted += not added(absorb_shifts(graph, known, refittable(graph)).graph, known)
        if not added(moved.graph, known):
            exact += 1
            want, got = (Session(to_proto(each)).run(feeds) for each in (graph, moved.graph))
            errors = [np.abs(want[name] - got[name]).max() / np.abs(want[name]).max() for name in want]
            worst = max(worst, *map(float, errors))
    cells = [str(len(found)), str(exact), str(refitted), f"{worst:.1g}"]
    if not found:
        return [*cells, "", ""]
    pruned = prune_channels(model.graph, channels, PruningPlan(np.concatenate(found))).graph
    moved = absorb_shifts(pruned, known, refittable(pruned)).graph
    graphs = {"added": pruned, "moved": moved}
    sessions = {
        name: Session(to_proto(fold_batchnorm(absorb_scales(graph).graph).graph), threads=1)
        for name, graph in graphs.items()
    }
    times = measure(sessions, example_feeds(model.graph, leading=model.session.batch or 1), seconds)
    return [*cells, f"{times['added'].median_ms:.3f}", f"{times['moved'].median_ms:.3f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, default=sorted(ROOT.glob("*.onnx")))
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing, for each model")
    chosen = parser.parse_args()
    print(f"{processor()}\n")
    print("| model | branches | exact | with a refit | worst error | ms, added | ms, moved |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for path in chosen.models:
        print(f"| {' | '.join([path.stem, *check(open_model(path), chosen.seconds)])} |", flush=True)


if __name__ == "__main__":
    main()
