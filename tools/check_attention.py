"""Random attention (``attention_graphs``), pruned against masked in float64: python tools/check_attention.py.

    python tools/check_attention.py [--cases 500] [--first 0] [--plans 3] [--fisher]

Each case is opened as a file is. Random plans are compared with the file itself, the slices that the ledger names set
to zero, by onnx's reference implementation in float64. Printed are cases that differ, and what was drawn in the cases
none of whose heads can lose anything. With --fisher, per-sample sensitivities of all filters are compared with those
of torch's autograd in float64, one sample at a time, instead. Exits with 1 if a case is wrong.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).parent))
from attention_graphs import attention_graph
from zoo_oracle import difference, run, run_in_double

from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.gradients import PerSample, filter_weights
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.model import open_model
from hqp_onnx.passes.prune_channels import prune_channels
from hqp_onnx.ranking.order import removal_order

TOLERANCE, TOLERANCE_SINGLE = 1e-9, 1e-4
DRAWN = ("projection", "linear", "products", "q, k norm", "rotary", "bias", "repeat", "reader", "gate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--plans", type=int, default=3)
    parser.add_argument("--fisher", action="store_true")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.cases)
    if options.fisher:
        errors = [fisher_error(seed) for seed in seeds]
        print(f"{len(errors)} cases: sensitivities differ by {max(errors):.1e} of the largest of a weight")
        sys.exit(max(errors) > TOLERANCE_SINGLE)
    wrong, frozen, unnamed = 0, Counter[str](), 0
    for seed in seeds:
        try:
            stays, missing = checked(seed, options.plans)
        except AssertionError as e:
            wrong += 1
            print(f"case {seed}: {e}", flush=True)
            continue
        unnamed += bool(missing)
        if missing:
            print(f"case {seed}: the ledger names {sorted(missing)}")
        if stays:
            frozen[stays] += 1
    for why, count in frozen.most_common():
        print(f"{count:5} {why}")
    print(f"{options.cases} cases: {wrong} wrong, {unnamed} with other names, {frozen.total()} frozen")
    sys.exit(wrong > 0)


def checked(seed: int, plans: int) -> tuple[str, set[str]]:
    """Why no head can lose anything, "" if some can; names of the ledger that the file does not have."""
    proto, drawn, feeds = attention_graph(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "attention.onnx"
        onnx.save(proto, path)
        model = open_model(path)
    channels, graph = model.channels(), model.graph
    assert difference(run(proto, feeds), run(to_proto(graph), feeds)) < 1e-4, f"canonical form differs: {drawn}"
    dice, missing = np.random.default_rng(seed), set()
    names = {tensor.name for tensor in proto.graph.initializer}
    for share in dice.uniform(0.05, 0.9, plans):
        order = removal_order(dice.random(channels.units), channels, 0.0, branches=True)
        plan = PruningPlan(order[: max(1, round(share * len(order)))])
        ledger = channels.of_file().removed_slices(plan)
        pruned = to_proto(prune_channels(graph, channels, plan).graph)
        missing |= ledger.keys() - names
        if ledger.keys() <= names:
            error = difference(run_in_double(masked(proto, ledger), feeds), run_in_double(pruned, feeds))
        else:
            own = channels.removed_slices(plan)
            error = difference(run_in_double(masked(to_proto(graph), own), feeds), run_in_double(pruned, feeds))
        assert error < TOLERANCE, f"error {error:.1e}: {drawn}"
    return why_frozen(proto, channels, drawn), missing


def fisher_error(seed: int) -> float:
    """The worst difference of a filter's squared gradient from torch's, relative to the largest of its weight.

    Where torch in float32 is as far from itself in float64, as behind a norm of two values, that is rounding: 0.
    """
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import torch
    from gradients.onnx_in_torch import filter_norms, sample_gradients

    proto, _, feeds = attention_graph(seed)
    proto.graph.node.append(onnx.helper.make_node("Flatten", [proto.graph.output[0].name], ["logits"], "flat"))
    proto.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None))
    model = to_proto(open_model(proto).graph)
    axes, labels = filter_weights(model), np.array([3, 7])
    double, single = (
        filter_norms(sample_gradients(model, feeds, labels, list(axes), kind), axes)
        for kind in (torch.float64, torch.float32)
    )
    have = PerSample(model, feeds)(feeds, labels)
    errors = [
        [float(np.abs(norms[name] - exact).max() / exact.max()) for norms in (have, single)]
        for name, exact in double.items()
    ]
    return max(error if rounding < TOLERANCE_SINGLE else 0.0 for error, rounding in errors)


def masked(proto: onnx.ModelProto, ledger: Any) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in copy.graph.initializer:
        if tensor.name in ledger:
            values = onnx.numpy_helper.to_array(tensor).copy()
            for axis, gone in ledger[tensor.name].items():
                values[(slice(None),) * axis + (gone,)] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return copy


def why_frozen(proto: onnx.ModelProto, channels: Any, drawn: Any) -> str:
    """Reasons of the units of what is multiplied by the first projection."""
    first = next(n for n in proto.graph.node if n.op_type in ("MatMul", "Gemm", "Einsum"))
    members = channels.of_file().members
    lines = [line for key, line in members.items() if key.tensor == first.input[1] and key.axis != _contracted(first)]
    units = {int(u) for line in lines for u in line if u >= 0}
    if units - channels.frozen.keys():
        return ""
    kinds = {" ".join(w for w in channels.frozen[u].split() if "'" not in w) for u in units} or {"no units"}
    return f"{'; '.join(sorted(kinds))}: {', '.join(f'{k} {drawn[k]}' for k in DRAWN if k in drawn)}"


def _contracted(node: onnx.NodeProto) -> int:
    turned = any(a.name == "transB" and a.i for a in node.attribute)
    return 1 if turned else 0


if __name__ == "__main__":
    main()
