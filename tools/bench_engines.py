"""The engines that tools/bench_gradients.py compares.

An engine is a context manager of (case, batch, threads) that gives run(feeds, labels) -> squared norms [n, filters] by
weight; ``plain`` gives the model's outputs.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from hqp_onnx.gradients import PerSample, filter_weights
from hqp_onnx.gradients.training.engine import TrainingPerSample, find
from hqp_onnx.runtimes.session import Session

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

Arrays = dict[str, np.ndarray]
Run = Callable[[Arrays, np.ndarray], Arrays]


@dataclass(frozen=True)
class Case:
    """A model file, and samples of it."""

    path: Path
    feeds: Arrays
    labels: np.ndarray

    def first(self, count: int) -> Case:
        """Fewer samples."""
        return Case(self.path, {name: x[:count] for name, x in self.feeds.items()}, self.labels[:count])


@contextmanager
def plain(case: Case, batch: int, threads: int) -> Iterator[Run]:
    session = Session(case.path, threads=threads)
    yield in_batches(lambda feeds, labels: session.run(feeds), batch)


@contextmanager
def native(case: Case, batch: int, threads: int) -> Iterator[Run]:
    yield in_batches(PerSample(onnx.load(case.path), case.feeds, threads=threads), batch)


@contextmanager
def training(case: Case, batch: int, threads: int) -> Iterator[Run]:
    with TrainingPerSample(onnx.load(case.path), case.feeds, threads=threads) as net:
        yield net


def complete() -> None:
    """Operators that the tests' interpreter may lack."""
    import torch
    from gradients.onnx_in_torch import OPS

    def pad(x, pads, value=None, mode=b"constant"):
        rank = len(pads) // 2
        widths = [int(n) for axis in reversed(range(rank)) for n in (pads[axis], pads[rank + axis])]
        return torch.nn.functional.pad(x, widths, value=0.0 if value is None else value.detach().item())

    OPS.setdefault("Pad", pad)


@contextmanager
def autograd(case: Case, batch: int, threads: int) -> Iterator[Run]:
    import torch
    from gradients.onnx_in_torch import filter_norms, sample_gradients

    torch.set_num_threads(threads or torch.get_num_threads())
    model = onnx.load(case.path)
    axes = filter_weights(model)
    complete()
    yield lambda feeds, labels: filter_norms(sample_gradients(model, feeds, labels, list(axes)), axes)


@contextmanager
def vmap(case: Case, batch: int, threads: int) -> Iterator[Run]:
    import torch
    from gradients.onnx_in_torch import TorchModel
    from torch.func import grad
    from torch.func import vmap as over_samples

    torch.set_num_threads(threads or torch.get_num_threads())

    class Traced(TorchModel):
        def _cast(self, x):
            return x if torch.is_tensor(x) else super()._cast(x)

    complete()
    net, axes = Traced(onnx.load(case.path)), filter_weights(onnx.load(case.path))
    fixed = {name: weight.detach() for name, weight in net.weights.items()}

    def loss(weights, feeds, label):
        net.weights = {**fixed, **weights}
        logits = net({name: x[None] for name, x in feeds.items()})
        return torch.nn.functional.cross_entropy(logits.reshape(1, -1), label[None])

    def run(feeds: Arrays, labels: np.ndarray) -> Arrays:
        tensors = {name: torch.from_numpy(x) for name, x in feeds.items()}
        one = over_samples(grad(loss), in_dims=(None, 0, 0))
        found = one({name: fixed[name] for name in axes}, tensors, torch.from_numpy(labels))
        return {
            name: (g.movedim(1 + axes[name], 1).flatten(2) if g.ndim > 2 else g[..., None]).square().sum(-1).numpy()
            for name, g in found.items()
        }

    yield in_batches(run, batch)


ENGINES = {"plain": plain, "native": native, "ort-training": training, "torch batch 1": autograd, "torch vmap": vmap}
SLOW = ("ort-training", "torch batch 1", "torch vmap")


def available() -> list[str]:
    """Engines that are installed."""
    missing = {"ort-training"} if find() is None else set()
    if importlib.util.find_spec("torch") is None:
        missing |= {"torch batch 1", "torch vmap"}
    return [name for name in ENGINES if name not in missing]


def in_batches(run: Run, batch: int) -> Run:
    """``run`` on at most ``batch`` samples at a time."""

    def all_of(feeds: Arrays, labels: np.ndarray) -> Arrays:
        parts = [slice(start, start + batch) for start in range(0, len(labels), batch)]
        results = [run({name: x[part] for name, x in feeds.items()}, labels[part]) for part in parts]
        return {name: np.concatenate([result[name] for result in results]) for name in results[0]}

    return all_of
