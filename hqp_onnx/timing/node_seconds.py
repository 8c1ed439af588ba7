"""What each node costs on the target, as the runtime's own profiler says."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.errors import ModelError
from hqp_onnx.runtimes.session import CPU, failure, loadable, onnxruntime

_KERNEL = "_kernel_time"


def node_seconds(
    model: onnx.ModelProto, feeds: Mapping[str, Array], runs: int = 50, threads: int = 0
) -> dict[str, float]:
    """Median kernel time of each node by name, as onnxruntime's profiler gives it on the CPU, without its fusions.

    Raises:
        ModelError: onnxruntime cannot run the model.
    """
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads, options.enable_profiling = 4, threads, True
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # which rename and merge nodes
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        try:
            session = ort.InferenceSession(loadable(model, None, Path(folder)), options, providers=[CPU])
            for _ in range(runs):
                session.run(None, dict(feeds))
        except Exception as e:  # as in Session
            raise ModelError(f"onnxruntime cannot run the model: {failure(e)}") from e
        events = json.loads(Path(session.end_profiling()).read_text())
    times: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            times.setdefault(event["name"].removesuffix(_KERNEL), []).append(event["dur"] / 1e6)
    return {name: float(np.median(values)) for name, values in times.items()}
