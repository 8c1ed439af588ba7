"""What unlabelled images are worth: a pruned network's accuracy against their number and the time of training.

    python tools/bench_unlabelled.py MODEL --source FILE [--theta 0.85] [--counts 500 2000 ...] [--seconds 60 ...]

MODEL is a network of ``models/train.py --data cifar10``, FILE what it was trained on (``models/cifar10.py``). A share
theta of its units is removed by obs, and refitted, on the 2,000 calibration images. What remains is trained on the
first images of the training split, so many and so long: by ``Recovery("auto", seconds=...)``, which sees no labels, and
in torch, which sees them all (Adam from 1e-3 on a cosine to 0, batches of 64, flips and crops; the same graph, run by
tests/gradients/onnx_in_torch.py). Accuracy is top-1 in % on TEST images that nothing else sees.

Seconds are the processor's, on one thread each, so what else the machine does hardly matters. One seed.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import onnx

from hqp_onnx.evaluation.metrics import evaluate, load_metric
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.model import open_data, open_model
from hqp_onnx.passes import recover as recovery_pass
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.recovery import Recovery, trainer
from hqp_onnx.recovery.points import kept_positions
from hqp_onnx.runtimes.session import Session
from hqp_onnx.steps.prune import Pruning, prune_model

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "models")]
CALIBRATION, BATCH, RATE, SHIFT = 2000, 64, 1e-3, 4


def supervised(
    model: onnx.ModelProto, x: np.ndarray, labels: np.ndarray, seconds: float
) -> tuple[onnx.ModelProto, float]:
    """``model`` trained on labels by torch, and epochs."""
    import torch
    from gradients.onnx_in_torch import TorchModel
    from train import augment

    torch.manual_seed(0)
    torch.set_num_threads(1)
    net, name = TorchModel(model), model.graph.input[0].name
    statistics = {y for node in model.graph.node if node.op_type == "BatchNormalization" for y in node.input[3:]}
    free = [w for key, w in net.weights.items() if w.is_floating_point() and w.ndim and key not in statistics]
    optimizer = torch.optim.Adam(free)
    began, seen, order = time.process_time(), 0, torch.randperm(len(x))
    while (share := (time.process_time() - began) / seconds) < 1:
        if seen % len(x) + BATCH > len(x):
            order = torch.randperm(len(x))
        rows = order[seen % len(x) :][:BATCH].numpy()
        images = augment(torch.from_numpy(x[rows]), SHIFT).float()
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 + np.cos(np.pi * share)) / 2
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net({name: images.numpy()}), torch.from_numpy(labels[rows]).long())
        loss.backward()
        optimizer.step()
        seen += len(rows)
    trained = onnx.ModelProto()
    trained.CopyFrom(model)
    for tensor in trained.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(net.weights[tensor.name].detach().numpy(), tensor.name))
    return trained, seen / len(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--theta", type=float, default=0.85)
    parser.add_argument("--counts", type=int, nargs="+", default=[500, 2000, 10_000, 45_000])
    parser.add_argument("--seconds", type=float, nargs="+", default=[60.0])
    parser.add_argument("--test-samples", type=int, default=10_000)
    args = parser.parse_args()
    import cifar10

    parts = cifar10.split(args.source)
    (x, labels), (images, classes) = parts["train"], parts["test"]
    model = open_model(args.model, threads=1)
    name = model.graph.inputs[0].name
    test = open_data(model, {name: images, "labels": classes}).first(args.test_samples)
    calib = open_data(model, {name: x[:CALIBRATION]})
    pruned = prune_model(model, Pruning(args.theta, "obs", branches=False, multiple_of=8), calib)
    kept = kept_positions(pruned.channels, pruned.channels.removed(pruned.plan))
    student = canonicalize(to_graph(to_proto(pruned.graph))).graph
    trainer.perf_counter = recovery_pass.perf_counter = time.process_time

    def accuracy(proto: onnx.ModelProto) -> str:
        return f"{100 * evaluate(Session(proto), test, load_metric('top1')).metric:.2f}"

    whole, cut = accuracy(to_proto(model.graph)), accuracy(to_proto(student))
    gone = f"{100 * args.theta:g} % of the units removed"
    print(f"{args.model.stem}: {whole} % on {len(test)} test images; {cut} % with {gone}\n")
    print("| images | s | without labels, auto | epochs, held-out loss | with labels, torch | epochs |")
    print("|--:|--:|--:|--|--:|--:|")
    for seconds in args.seconds:
        for count in args.counts:
            data = open_data(model, {name: x[:count]})
            settings = Recovery("auto", seconds=seconds)
            found = recovery_pass.recover(student, model.graph, data, settings, kept=kept, threads=1)
            words = found.notes[0].partition("loss ")[2].partition(";")[0]
            other, epochs = supervised(to_proto(student), x[:count], labels[:count], seconds)
            cells = count, f"{seconds:g}", accuracy(to_proto(found.graph)), words, accuracy(other), f"{epochs:.1f}"
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
