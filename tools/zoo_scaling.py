"""How analysis and surgery grow with the graph: ``python tools/zoo.py --scaling``.

A ResNet-50 (bottlenecks 3-4-6-3, 25 million parameters) and residual chains of growing length, each pruned by 30 %
of its units. Beside it, in the same run and on the same model, onnxsim's ``apply_structured_pruning`` at 30 %, which
prunes convolutions only once ``simplify`` has folded the BatchNormalizations, so that is counted; what it raises is
shown. Medians of three, in turn, one thread.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.model import open_model
from hqp_onnx.passes.prune_channels import prune_channels
from hqp_onnx.ranking.order import removal_order

CHAINS = (250, 500, 1000, 2000, 4000)
REPEATS = 3


class Layers:
    """Nodes and initializers of a model in the making."""

    def __init__(self, side: int) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.side = side

    def add(self, op: str, inputs: list[str], **attributes: Any) -> str:
        """A node; its output's name."""
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def weight(self, *shape: int) -> str:
        """A random initializer; its name."""
        name = f"w{len(self.weights)}"
        values = self.rng.standard_normal(shape) * (2 / max(np.prod(shape[1:]), 1)) ** 0.5
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def conv(self, x: str, channels: tuple[int, int], kernel: int = 3, stride: int = 1, relu: bool = True) -> str:
        """Conv, BatchNormalization and perhaps Relu."""
        inside, outside = channels
        weight = self.weight(outside, inside, kernel, kernel)
        x = self.add("Conv", [x, weight], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4)
        params = [self.weight(outside) for _ in range(3)]
        self.weights.append(numpy_helper.from_array(np.ones(outside, np.float32), f"v{len(self.weights)}"))
        x = self.add("BatchNormalization", [x, *params, self.weights[-1].name])
        return self.add("Relu", [x]) if relu else x

    def model(self, x: str, width: int, classes: int = 10) -> onnx.ModelProto:
        """The model, with a classifier on ``x``."""
        x = self.add("Flatten", [self.add("GlobalAveragePool", [x])])
        self.nodes.append(helper.make_node("Gemm", [x, self.weight(width, classes)], ["logits"], name="head"))
        graph = helper.make_graph(
            self.nodes,
            "zoo",
            [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["batch", 3, self.side, self.side])],
            [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", classes])],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def resnet50(side: int = 64) -> onnx.ModelProto:
    """Bottlenecks 3-4-6-3 of width 64 to 512."""
    layers = Layers(side)
    x, width = layers.conv("input", (3, 64), 7, 2), 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner = 64 << stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            y = layers.conv(layers.conv(x, (width, inner), 1), (inner, inner), 3, stride)
            y = layers.conv(y, (inner, 4 * inner), 1, relu=False)
            shortcut = x if block else layers.conv(x, (width, 4 * inner), 1, stride, relu=False)
            x, width = layers.add("Relu", [layers.add("Add", [y, shortcut])]), 4 * inner
    return layers.model(x, width)


def chain(nodes: int, width: int = 16) -> onnx.ModelProto:
    """Residual blocks of 7 nodes, one after the other."""
    layers = Layers(16)
    x = layers.conv("input", (3, width))
    while len(layers.nodes) < nodes - 3:
        y = layers.conv(layers.conv(x, (width, width)), (width, width), relu=False)
        x = layers.add("Relu", [layers.add("Add", [y, x])])
    return layers.model(x, width)


def scaling() -> None:
    """Print the table."""
    print("| model | nodes | parameters | open s | analysis s | surgery s | onnxsim simplify + prune s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    cases = [("ResNet-50", resnet50())] + [(f"chain of {nodes}", chain(nodes)) for nodes in CHAINS]
    with tempfile.TemporaryDirectory() as folder:
        for name, model in cases:
            path = Path(folder) / "model.onnx"
            onnx.save(model, path)
            runs = [(*_ours(path), _onnxsim(model)) for _ in range(REPEATS)]
            *ours, theirs = zip(*runs, strict=True)
            seconds = " | ".join(f"{statistics.median(times):.2f}" for times in ours)
            failures = [t for t in theirs if isinstance(t, str)]
            peer = failures[0] if failures else f"{statistics.median(theirs):.2f}"
            count = sum(int(np.prod(t.dims)) for t in model.graph.initializer)
            print(f"| {name} | {len(model.graph.node)} | {count:,} | {seconds} | {peer} |", flush=True)


def _ours(path: Path) -> tuple[float, float, float]:
    """Seconds to open, to analyse, to prune; the result must load."""
    times = [time.perf_counter()]
    model = open_model(path, threads=1)
    times.append(time.perf_counter())
    channels = model.channels()
    times.append(time.perf_counter())
    order = removal_order(np.random.default_rng(0).random(channels.units), channels, 0.0)
    plan = PruningPlan(order[: round(0.3 * len(channels.prunable))])
    start = time.perf_counter()
    pruned = prune_channels(model.graph, channels, plan).graph
    surgery = time.perf_counter() - start
    _load(to_proto(pruned))
    return times[1] - times[0], times[2] - times[1], surgery


def _onnxsim(model: onnx.ModelProto) -> float | str:
    """Seconds of onnxsim's structured pruning, or what it raised."""
    try:
        import onnxsim
        from onnxsim.pruning import apply_structured_pruning

        start = time.perf_counter()
        simplified = onnxsim.simplify(model)[0]
        pruned = apply_structured_pruning(simplified, 0.3)
        seconds = time.perf_counter() - start
        _load(pruned)
    except Exception as e:
        return f"{type(e).__name__}: {str(e)[:60]}"
    before, after = (sum(int(np.prod(t.dims)) for t in m.graph.initializer) for m in (simplified, pruned))
    return seconds if after < before else f"changed nothing in {seconds:.2f} s"


def _load(model: onnx.ModelProto) -> None:
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
