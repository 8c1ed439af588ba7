"""onnxruntime on NVIDIA GPUs: its libraries, its settings, and runs that leave inputs and outputs on the GPU.

Numbers. By default float32 convolutions and products are computed in TF32, with 10 bits of mantissa. That is what users
get, so models are judged and timed so; statistics and gradients are exact: float32.

Time. A small layer takes longer to launch than to compute. A CUDA graph records the launches of one run, and replays
them as one. It needs all nodes on the GPU, and memory that stays where it is (IO binding). Ordinary runs of a session
that can record are not recorded (``gpu_graph_id`` -1). onnxruntime's profile times the launches alone, unless it was
built with CUPTI, as released packages are not, so the kernels of providers in ``LAUNCHES`` are not timed.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

from hqp_onnx.arrays import Array
from hqp_onnx.errors import ModelError, one_line

CUDA = "CUDAExecutionProvider"
NVIDIA = frozenset({CUDA, "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider"})
LAUNCHES = NVIDIA | {"DmlExecutionProvider", "MIGraphXExecutionProvider", "ROCMExecutionProvider"}
"""Providers whose kernels go on while the next is launched."""

_EXACT = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}  # a search costs seconds for every shape of a batch
_RECORDING = {"enable_cuda_graph": "1"}
_GRAPH_ID = "gpu_graph_id"
_UNRECORDED = "-1"


@cache
def load_libraries(ort: Any) -> None:
    """CUDA and cuDNN of NVIDIA's wheels, where they are installed; those of the system are found without."""
    if preload := getattr(ort, "preload_dlls", None):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find, and the session's error says
            preload()


def settings(provider: str, exact: bool) -> list[dict[str, str]]:
    """Options of ``provider`` to open a session with; the first that the model takes."""
    if provider != CUDA:
        return [{}]
    return [_EXACT] if exact else [_RECORDING, {}]


def unrecorded(ort: Any) -> Any:
    """RunOptions of an ordinary run."""
    options = ort.RunOptions()
    options.add_run_config_entry(_GRAPH_ID, _UNRECORDED)
    return options


@dataclass(frozen=True)
class BoundRun:
    """A run whose inputs and outputs stay on the GPU; ``values`` are the outputs there, by name."""

    run: Callable[[], object]
    values: Mapping[str, Any]

    def __call__(self) -> object:
        """Run, and wait for the end."""
        return self.run()

    def outputs(self) -> dict[str, Array]:
        """What the last run computed."""
        return {name: value.numpy() for name, value in self.values.items()}


def bind(ort: Any, session: Any, feeds: Mapping[str, Array], outputs: Sequence[str], recording: int | None) -> BoundRun:
    """A run of ``feeds`` whose inputs and outputs stay on the GPU.

    Args:
        ort: the module onnxruntime.
        session: its InferenceSession.
        feeds: copied to the GPU now.
        outputs: names of all that is computed.
        recording: the number of the CUDA graph to record and to replay; None launches every kernel in every run.

    Raises:
        ModelError: a type cannot be bound, or the run cannot be recorded.
    """
    try:
        return _bound(ort, session, feeds, outputs, recording)
    except Exception as e:  # onnxruntime's own exception types are many and undocumented
        how = "bound to the GPU" if recording is None else "recorded as a CUDA graph"
        raise ModelError(f"the run cannot be {how}: {one_line(str(e))}") from e


def _bound(
    ort: Any, session: Any, feeds: Mapping[str, Array], outputs: Sequence[str], recording: int | None
) -> BoundRun:
    binding = session.io_binding()
    for name, x in feeds.items():
        value = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(x), "cuda", 0)
        binding.bind_ortvalue_input(name, value)
    for name in outputs:
        binding.bind_output(name, "cuda")
    plain = unrecorded(ort)
    session.run_with_iobinding(binding, plain)  # finds the shapes of the outputs
    kept = binding.get_outputs()
    for name, value in zip(outputs, kept, strict=True):
        binding.bind_ortvalue_output(name, value)
    options = plain
    if recording is not None:
        options = ort.RunOptions()
        options.add_run_config_entry(_GRAPH_ID, str(recording))
    bound = BoundRun(partial(session.run_with_iobinding, binding, options), dict(zip(outputs, kept, strict=True)))
    bound()
    return bound
