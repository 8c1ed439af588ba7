"""Random plans against the zero-masked original: python tools/check_pruning.py [--plans 200] [MODEL ...].

For each model and plan (5 to 70 % of the units): prune, load in onnxruntime, compare with the original whose
removed slices are zero. The masking reads only the ledger.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.model import open_model
from hqp_onnx.passes.prune_channels import prune_channels
from hqp_onnx.ranking.order import removal_order

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from oracle import worst_error  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path, default=sorted((ROOT / "models").glob("*.onnx")))
    parser.add_argument("--plans", type=int, default=200)
    options = parser.parse_args()
    images = np.load(ROOT / "models" / "fashion_mnist_test.npz")["input"][:4].astype(np.float32)
    for path in options.models:
        model = open_model(path)
        graph, channels = model.graph, model.channels()
        original = to_proto(graph)
        rng = np.random.default_rng(0)
        start, worst = time.perf_counter(), 0.0
        for _ in range(options.plans):
            order = removal_order(rng.random(channels.units), channels, 0.0, branches=True)
            plan = PruningPlan(order[: round(rng.uniform(0.05, 0.7) * len(channels.prunable))])
            pruned = prune_channels(graph, channels, plan).graph
            error = worst_error(original, to_proto(pruned), channels.removed_slices(plan), {"input": images})
            worst = max(worst, error)
        seconds = (time.perf_counter() - start) / options.plans
        print(f"{path.name}: {options.plans} plans, worst relative error {worst:.1e}, {1e3 * seconds:.0f} ms a plan")
        if worst > 1e-4:
            sys.exit(1)


if __name__ == "__main__":
    main()
