"""Recurrent networks: units, the invariant, and Fisher scores against torch, on the two of models/tasks/.

    python tools/check_recurrent.py [--samples 64]
    python tools/check_recurrent.py --refit [--samples 256]

The weights of tagger and CRNN are read from their files into torch's own modules (nn.LSTM), which autograd then
differentiates one sample at a time in float64: per-sample squared gradient norms of every row of every weight, for the
losses that the metrics call for. Printed are the worst difference relative to the largest score of a weight, what
the scores cost in plain inferences of the same batches, and the worst difference of random plans from the original
with zeros.

With --refit: what is left of a pruned network, for shares of its units by l2: cut alone, with what reads the
data and the states' readers refitted, and with R refitted as well. The figure is the squared difference of its outputs
(log-probabilities) from the original's, relative to their variance, on other samples than those of the moments.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional as F  # noqa: N812

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "models"), str(ROOT / "tests")]
import task_data  # noqa: E402
from oracle import worst_error  # noqa: E402
from train_tasks import Letters, Lines, as_feeds  # noqa: E402

from hqp_onnx.channels.channel_map import PruningPlan  # noqa: E402
from hqp_onnx.channels.walk import analyze  # noqa: E402
from hqp_onnx.data.batch import Batch  # noqa: E402
from hqp_onnx.errors import UsageError  # noqa: E402
from hqp_onnx.evaluation.metrics.task import Task  # noqa: E402
from hqp_onnx.gradients import PerSample, filter_weights  # noqa: E402
from hqp_onnx.gradients.loss import Draw  # noqa: E402
from hqp_onnx.graphs.model_io import to_graph, to_proto  # noqa: E402
from hqp_onnx.passes.canonicalize import canonicalize  # noqa: E402
from hqp_onnx.passes.compensate import compensate  # noqa: E402
from hqp_onnx.passes.prune_channels import prune_channels  # noqa: E402
from hqp_onnx.ranking.order import removal_order  # noqa: E402
from hqp_onnx.ranking.rank import rank  # noqa: E402
from hqp_onnx.runtimes.session import work_session  # noqa: E402
from hqp_onnx.statistics.moments import input_moments, recurrences  # noqa: E402

GATES = [0, 2, 3, 1]  # of torch (input, forget, cell, output) among ONNX's (input, output, forget, cell)
Arrays = Mapping[str, np.ndarray]


def blocks(rows: np.ndarray) -> np.ndarray:
    """Rows of an LSTM's gates, in torch's order."""
    return np.concatenate([np.split(rows, 4)[gate] for gate in GATES])


def with_weights(net: nn.Module, model: onnx.ModelProto) -> tuple[nn.Module, dict[str, list[str]]]:
    """``net`` with the weights of its file, and by weight of the file the parameters that it is made of."""
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    known, made = dict(net.named_parameters()), {}
    lstm = next(name for name, part in net.named_children() if isinstance(part, nn.LSTM))

    def put(name: str, value: np.ndarray) -> None:
        assert tuple(known[name].shape) == value.shape, name
        known[name].data.copy_(torch.from_numpy(value.copy()))

    layers = [node for node in model.graph.node if node.op_type == "LSTM"]
    for layer, node in enumerate(layers):
        for d, ending in enumerate(("", "_reverse")):
            w, r, b = (values[name][d] for name in node.input[1:4])
            names = [f"{lstm}.{kind}_l{layer}{ending}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            for name, value in zip(names, (w, r, *np.split(b, 2)), strict=True):
                put(name, blocks(value))
            for weight, name in zip(node.input[1:3], names, strict=False):
                made.setdefault(weight, []).append(name)
    convolutions = [name for name, part in net.named_modules() if isinstance(part, nn.Conv2d)]
    for name, node in zip(convolutions, (n for n in model.graph.node if n.op_type == "Conv"), strict=True):
        put(f"{name}.weight", values[node.input[1]])
        put(f"{name}.bias", values[node.input[2]])
        made[node.input[1]] = [f"{name}.weight"]
    last = next(node for node in reversed(model.graph.node) if node.op_type == "MatMul")
    bias = next(node for node in model.graph.node if last.output[0] in node.input)
    put("head.weight", values[last.input[1]].T)
    put("head.bias", next(values[name] for name in bias.input if name in values))
    made[last.input[1]] = ["head.weight"]
    for node in (n for n in model.graph.node if n.op_type == "Gather" and n.input[0] in values):
        put("table.weight", values[node.input[0]])
    return net.eval(), made


def norms(name: str, parameters: list[str], gradients: Mapping[str, torch.Tensor]) -> np.ndarray:
    """Squared norms of a weight's filters, of both directions together, in the order of its file."""
    parts = [gradients[parameter].numpy() for parameter in parameters]
    squares = sum(np.square(part).reshape(len(part), -1).sum(1) for part in parts)
    if len(parts) < 2:
        return squares
    return np.concatenate([np.split(squares, 4)[GATES.index(gate)] for gate in range(4)])


def compare(name: str, net: nn.Module, loss: str | Task, torch_loss: Callable[..., torch.Tensor], samples: int) -> str:
    """A line of the table."""
    model = to_proto(canonicalize(to_graph(onnx.load(ROOT / "models" / "tasks" / f"{name}.onnx"))).graph)
    for path, part in [*net.named_modules()]:
        if isinstance(part, nn.BatchNorm2d):  # which the exporter folded
            parent, _, child = path.rpartition(".")
            setattr(net.get_submodule(parent), child, nn.Identity())
    net, made = with_weights(net, model)
    net = net.double()
    data = task_data.TASKS[name]("val", samples)
    tensors = as_feeds(name, data)
    feeds = {key: x.numpy() for key, x in tensors.items()}
    opened = PerSample(model, feeds, loss=loss, threads=1)
    (targets,) = opened.loss.rounds(range(samples), data["labels"], Draw(1, samples, 0))
    found, seconds = timed(opened, feeds, targets)
    session, plain = work_session(model, threads=1), []
    for _ in range(3):
        start = time.perf_counter()
        for part in parts_of(samples, opened.batch):
            session.run({key: x[part] for key, x in feeds.items()})
        plain.append(time.perf_counter() - start)
    wanted: dict[str, list[np.ndarray]] = {weight: [] for weight in made}
    leaves = dict(net.named_parameters())
    for i in range(samples):
        one = [x[i : i + 1].double() if x.is_floating_point() else x[i : i + 1] for x in tensors.values()]
        value = torch_loss(net(*one), data, targets, i)
        gradients = dict(zip(leaves, torch.autograd.grad(value, list(leaves.values()), allow_unused=True), strict=True))
        for weight, parameters in made.items():
            wanted[weight].append(norms(weight, parameters, gradients))
    missing = filter_weights(model).keys() - made.keys()
    assert not missing, missing
    mean = {weight: np.mean(rows, 0) for weight, rows in wanted.items()}
    worst = max(np.abs(found[weight].mean(0) - x).max() / x.max() for weight, x in mean.items())
    channels = analyze(to_graph(model))
    cells = f"{len(channels.prunable)} of {channels.units} | {invariant(model, feeds):.1e} | {worst:.1e}"
    return f"| {name} | {cells} | {seconds / min(plain):.1f}x |"


def refits(name: str, samples: int) -> None:
    """Lines of the table of --refit."""
    graph = canonicalize(to_graph(onnx.load(ROOT / "models" / "tasks" / f"{name}.onnx"))).graph
    model, channels = to_proto(graph), analyze(graph)
    feeds = {key: x.numpy() for key, x in as_feeds(name, task_data.TASKS[name]("val", 2 * samples)).items()}
    known, other = ({key: x[part] for key, x in feeds.items()} for part in (slice(samples), slice(samples, None)))
    moments = input_moments(
        model, None, [Batch({k: x[part] for k, x in known.items()}) for part in parts_of(samples, 32)]
    )
    states = recurrences(graph, 2)
    without = {weight: x for weight, x in moments.items() if weight not in states}
    order = removal_order(rank(graph, channels, "l2").units, channels, 0.05)
    for share in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6):
        plan = PruningPlan(order[: int(share * len(order))])
        pruned = prune_channels(graph, channels, plan).graph
        made = [pruned, *(compensate(graph, pruned, channels, plan, each).graph for each in (without, moments))]
        want, *have = (outputs_of(to_proto(each), other) for each in (graph, *made))
        errors = [float(np.square(x - want).mean() / want.var()) for x in have]
        print(f"| {name} | {share:.0%} | " + " | ".join(f"{error:.4f}" for error in errors) + " |", flush=True)


def outputs_of(model: onnx.ModelProto, feeds: Arrays) -> np.ndarray:
    """Log-probabilities."""
    (logits,) = work_session(model, threads=1).run(feeds).values()
    return F.log_softmax(torch.from_numpy(logits), -1).numpy()


def timed(opened: PerSample, feeds: Arrays, targets: np.ndarray) -> tuple[dict[str, np.ndarray], float]:
    """Values of all samples, and the fastest of some runs."""
    every, runs = parts_of(len(targets), opened.batch), []
    for _ in range(3):
        start = time.perf_counter()
        batches = [opened({key: x[part] for key, x in feeds.items()}, targets[part]) for part in every]
        runs.append(time.perf_counter() - start)
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}, min(runs)


def parts_of(samples: int, batch: int) -> list[slice]:
    """Batches."""
    return [slice(start, start + batch) for start in range(0, samples, batch)]


def invariant(model: onnx.ModelProto, feeds: Arrays) -> float:
    """Of six random plans."""
    graph = to_graph(model)
    channels, rng, errors = analyze(graph), np.random.default_rng(0), []
    while len(errors) < 6:
        plan = PruningPlan(rng.permutation(channels.prunable)[: rng.integers(1, len(channels.prunable))])
        try:
            pruned = to_proto(prune_channels(graph, channels, plan).graph)
        except UsageError:
            continue  # it would empty a tensor
        few = {key: x[:4] for key, x in feeds.items()}
        errors.append(worst_error(model, pruned, channels.removed_slices(plan), few))
    return max(errors)


def of_letters(logits: torch.Tensor, data: Arrays, targets: np.ndarray, i: int) -> torch.Tensor:
    """Mean cross-entropy of the letters that count."""
    return F.cross_entropy(logits[0], torch.from_numpy(data["labels"][i]), ignore_index=-1)


def of_lines(logs: torch.Tensor, data: Arrays, targets: np.ndarray, i: int) -> torch.Tensor:
    """The outputs along one random direction."""
    return (logs.flatten() * torch.from_numpy(targets[i]).double()).sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--refit", action="store_true")
    options = parser.parse_args()
    count = options.samples
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, one thread, onnxruntime {onnxruntime.__version__}\n")
    if options.refit:
        print("| network | units removed | cut | W and readers refitted | R, too |\n|---|--:|--:|--:|--:|")
        for name in ("letters", "lines"):
            refits(name, count)
        return
    print("| network | prunable units | pruned to masked | Fisher to torch float64 | Fisher, in plain inferences |")
    print("|---|--:|--:|--:|--:|")
    print(compare("letters", Letters(), Task("classes", "logits", 2, "labels"), of_letters, count), flush=True)
    print(compare("lines", Lines(), "gauss-newton", of_lines, count), flush=True)


if __name__ == "__main__":
    main()
