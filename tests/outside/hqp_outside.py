"""A package from outside: one extension of each kind, by public means only."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from onnx import numpy_helper

from hqp_onnx.channels.rules.lines import axis_labels
from hqp_onnx.gradients import PerSample, filter_weights
from hqp_onnx.runtimes.targets import target


def peak(model, data):
    """A saliency: the largest weight of each filter."""
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    axes = filter_weights(model)
    rows = {name: np.moveaxis(values[name], axis, 0) for name, axis in axes.items()}
    return {name: np.abs(found).reshape(len(found), -1).max(1).astype(np.float64) for name, found in rows.items()}


class Double(PerSample):
    """A gradient engine: twice what ours says."""

    def __call__(self, feeds, targets=None):
        return {name: 2 * values for name, values in super().__call__(feeds, targets).items()}


def near(outputs, labels):
    """A metric: how near each sample's first output is to nothing."""
    values = next(iter(outputs.values()))
    return np.exp(-np.abs(values).reshape(len(values), -1).mean(1))


def first(limit, step, admits):
    """A search that takes the first candidate or none."""
    count = min(step, limit)
    return count if count and admits(count) else 0


class Share:
    """A calibration method: a share of the largest magnitude."""

    def __init__(self, number=1.0):
        self.number = number

    def __call__(self, histogram):
        return histogram.top * self.number


chip = replace(target("onnxruntime"), name="outside-chip", symmetric=True, channel_multiple=4)


def channels(walk, node):
    """How labels flow through x sigmoid(x)."""
    walk.set(node.outputs[0], walk.labels(node.inputs[0]), walk.residue(node.inputs[0]))


def gradient(tape, node, grads, i):
    """s + x s (1 - s), times the gradient of the output."""
    x = node.input[0]
    s = tape.op("Sigmoid", x)
    slope = tape.mul(tape.mul(x, s), tape.op("Sub", tape.scalar(1, x), s))
    return tape.mul(grads[0], tape.add(s, slope))


def depthwise(walk, node):
    """How labels flow through a depthwise FusedConv."""
    labels = axis_labels(walk, node, node.inputs[0], 1)
    walk.tie(walk.param(node.inputs[1], 0), labels, "its kernels are fixed")
    walk.set(node.outputs[0], labels.reshape(1, -1, 1, 1), 0.0)


def groups(survivors, node):
    """The number of groups that are left."""
    kept = survivors.mask(node.inputs[0], 1)
    if kept is not None:
        node.attrs["group"] = int(kept.sum())


@dataclass(frozen=True)
class Folder:
    """A board that is a folder of this machine."""

    place: Path
    name: str = "a folder"

    def prepare(self):
        self.place.mkdir(exist_ok=True)

    def send(self, file):
        shutil.copyfile(file, self.place / file.name)

    def start(self, script, errors):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
        return subprocess.Popen([sys.executable, "-u", str(self.place / script)], **pipes)


def folder(device):
    """What --device outside-folder://PLACE names."""
    return Folder(Path(device.partition("://")[2]))


def threads(address):
    """What --workers outside-threads://NUMBER names."""
    return ThreadPoolExecutor(int(address.partition("://")[2]))
