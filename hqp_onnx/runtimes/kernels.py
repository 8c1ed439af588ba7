"""What each kernel of a runtime takes: a runtime's own profile, in terms of the model that it was given.

Runtimes fuse nodes, insert conversions between layouts, and name what they made as they like. A ``Kernel`` therefore
says which nodes or tensors of the model its name stands for, if any, and the shapes of what it reads and writes.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.errors import ModelError
from hqp_onnx.runtimes.bench import CPU, profiled
from hqp_onnx.runtimes.session import failure, loadable, onnxruntime

Shape = tuple[int, ...]
_SUFFIX = re.compile(r"(_nchwc|_token_\d+|/duplicated)+$")
_UNDISTURBED = 0.6  # share of the runs, the fastest, whose mean counts: profilers' clocks tick in microseconds


@dataclass(frozen=True)
class Kernel:
    """One kernel of a loaded model.

    Attributes:
        names: of nodes or tensors of the model that it may stand for, most likely first.
        shapes: of its inputs and outputs.
        seconds: per run.
    """

    names: tuple[str, ...]
    shapes: tuple[Shape, ...]
    seconds: float


def undisturbed(times: Sequence[float]) -> float:
    """What something takes that was timed again and again, in the unit of ``times``."""
    return float(np.mean(sorted(times)[: max(1, round(_UNDISTURBED * len(times)))]))


def onnxruntime_kernels(
    model: onnx.ModelProto, feeds: Mapping[str, Array], provider: str = CPU, threads: int = 0, runs: int = 30
) -> list[Kernel]:
    """The kernels in the order in which they run, as onnxruntime's profiler times them.

    Raises:
        ModelError: onnxruntime cannot run the model.
    """
    ort = onnxruntime()
    with tempfile.TemporaryDirectory() as folder:
        try:
            source = loadable(model, None, Path(folder))
            found = profiled(ort, source, dict(feeds), list(dict.fromkeys((provider, CPU))), threads, runs)
        except Exception as e:  # as in Session
            raise ModelError(f"onnxruntime cannot run the model: {failure(e)}") from e
    return kernels_of(found, runs)


def kernels_of(found: Mapping[str, tuple[Sequence[float], Sequence[Sequence[int]]]], runs: int) -> list[Kernel]:
    """What ``bench.profiled`` found in so many runs."""
    return [
        Kernel((_SUFFIX.sub("", name),), tuple(map(tuple, shapes)), _per_run(times, runs))
        for name, (times, shapes) in found.items()
    ]


def _per_run(times: Sequence[float], runs: int) -> float:
    """A kernel inside a Loop runs several times in one run."""
    return undisturbed(times[1:] or times) * max(1, round(len(times) / runs))
