"""What each kernel of a runtime takes: a runtime's own profile, in terms of the model that it was given.

Runtimes fuse nodes, insert conversions between layouts, and name what they made as they like. A ``Kernel`` therefore
says which nodes or tensors of the model its name stands for, if any, and the shapes of what it reads and writes.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.errors import ModelError
from hqp_onnx.runtimes.session import CPU, failure, loadable, onnxruntime

Shape = tuple[int, ...]
_KERNEL = "_kernel_time"
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
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads, options.enable_profiling = 4, threads, True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        try:
            source = loadable(model, None, Path(folder))
            session = ort.InferenceSession(source, options, providers=list(dict.fromkeys((provider, CPU))))
            for _ in range(runs):
                session.run(None, dict(feeds))
        except Exception as e:  # as in Session
            raise ModelError(f"onnxruntime cannot run the model: {failure(e)}") from e
        events = json.loads(Path(session.end_profiling()).read_text())
    times: dict[str, list[float]] = {}
    shapes: dict[str, tuple[Shape, ...]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            name, said = event["name"].removesuffix(_KERNEL), event.get("args", {})
            times.setdefault(name, []).append(event["dur"] / 1e6)
            listed = (*said.get("input_type_shape", ()), *said.get("output_type_shape", ()))
            shapes[name] = tuple(tuple(shape) for one in listed for shape in one.values())
    return [Kernel((_SUFFIX.sub("", name),), shapes[name], _per_run(values, runs)) for name, values in times.items()]


def _per_run(times: Sequence[float], runs: int) -> float:
    """A kernel inside a Loop runs several times in one run."""
    return undisturbed(times[1:] or times) * max(1, round(len(times) / runs))
