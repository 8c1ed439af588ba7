"""One inference session over onnxruntime: model in, numpy in, numpy out.

The only module that imports onnxruntime. A session built with ``outputs`` fetches those tensors, whether or
not they are outputs of the graph. ``Runner`` is what other modules may ask of a session of any runtime.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from hqp_onnx.arrays import Array
from hqp_onnx.errors import LimitError, MissingRuntimeError, ModelError, one_line
from hqp_onnx.limits import deadline, probing
from hqp_onnx.runtimes import nvidia
from hqp_onnx.runtimes.bench import CPU, quiet_options
from hqp_onnx.runtimes.external_data import weight_bytes, write_apart
from hqp_onnx.runtimes.plugin_providers import is_registered, plugin_devices

EXTRAS = {
    nvidia.CUDA: "onnxruntime-gpu",
    "TensorrtExecutionProvider": "onnxruntime-gpu",
    "NvTensorRTRTXExecutionProvider": "onnxruntime-rtx",
    "OpenVINOExecutionProvider": "onnxruntime-openvino",
}
_NUMPY_OF = {
    "float": np.float32,
    "double": np.float64,
    "float16": np.float16,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint8": np.uint8,
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "bool": np.bool_,
}
_SOURCE = re.compile(r"\S+\.(cc|h):\d+ .*?\) ")
_UNALLOCATED = re.compile(r"Failed to allocate memory for requested buffer of size (\d+)")
BYTES_LIMIT = 2_000_000_000  # protobuf serialises less than 2 GiB
VARIABLE = "HQP_PROVIDER"
_FATAL_IN_HALF = ("MatmulTransposeFusion",)  # 1.32 on the CPU: the process dies where a transposed batch is multiplied
_WORK: ContextVar[str | None] = ContextVar("provider", default=None)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, numpy dtype and shape of a model input or output; ``None`` marks a dynamic dimension."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        return f"{self.dtype.name}[{', '.join('?' if n is None else str(n) for n in self.shape)}]"


class Runner(Protocol):
    """A loaded model, in whatever runtime."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The model's inputs."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What ``run`` gives, in this order."""

    @property
    def batch(self) -> int | None:
        """The fixed batch size, or None where the first dimension is dynamic."""

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name; ``ModelError`` where the runtime fails."""


@runtime_checkable
class Bindable(Protocol):
    """A runner that can leave inputs and outputs where it computes."""

    def bound(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """A run of ``feeds``, to be called again and again; ``ModelError`` where the runtime fails."""


def timed_run(runner: Runner, feeds: Mapping[str, Array]) -> Callable[[], object]:
    """A run of ``feeds`` to be timed, without copies to and from a device where ``runner`` can do without."""
    return runner.bound(feeds) if isinstance(runner, Bindable) else partial(runner.run, feeds)


def onnxruntime() -> Any:
    """The onnxruntime module, silent; ``MissingRuntimeError`` names the extra where it is not installed."""
    try:
        import onnxruntime as ort
    except ImportError as e:
        raise MissingRuntimeError("onnxruntime is not installed: pip install 'hqp-onnx[onnxruntime]'") from e
    ort.disable_telemetry_events()  # which its builds for Windows send
    return ort


def float16_converter() -> Any:
    """The converter that comes with onnxruntime, ``convert_float_to_float16``: a ModelProto in, a ModelProto out."""
    onnxruntime()
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16


def calibration_tools() -> tuple[Any, Any]:
    """Modules that come with onnxruntime: types of calibration results, and what writes them."""
    onnxruntime()
    from onnxruntime.quantization import calibrate, quant_utils

    return calibrate, quant_utils


def require_provider(provider: str) -> Sequence[Any]:
    """The devices of a ``provider`` that a package adds to onnxruntime, none where onnxruntime has it itself.

    Raises:
        MissingRuntimeError: neither has it; the message says what is there.
    """
    has = [name for name in onnxruntime().get_available_providers() if not is_registered(name)]
    devices = () if provider in has else plugin_devices(onnxruntime(), provider)
    if provider not in has and not devices:
        extra = EXTRAS.get(provider)
        advice = f"pip install 'hqp-onnx[{extra}]'" if extra else "install a build that has it"
        advice += " in place of onnxruntime" if extra == "onnxruntime-gpu" else ""
        raise MissingRuntimeError(f"onnxruntime has no {provider} here, only {', '.join(has)}: {advice}")
    if provider in nvidia.NVIDIA:
        nvidia.load_libraries(onnxruntime())
    return devices


def set_provider(provider: str | None) -> None:
    """Let statistics, gradients, ranges and training be computed on ``provider``, from here on in this context.

    None takes what ``HQP_PROVIDER`` says, else the CPU. Models are judged and timed by their target's own runtime.

    Raises:
        MissingRuntimeError: the installed onnxruntime does not have it.
    """
    if provider is not None:
        require_provider(provider)
    _WORK.set(provider)


def work_provider() -> str:
    """As set by ``set_provider``, else what ``HQP_PROVIDER`` says, else the CPU's."""
    return _WORK.get() or os.environ.get(VARIABLE) or CPU


def work_session(
    model: onnx.ModelProto | bytes | str | Path,
    outputs: Sequence[str] | None = None,
    threads: int = 0,
    integer_kernels: bool = True,
) -> Session:
    """A ``Session`` on ``work_provider()``, in full precision."""
    return Session(model, outputs, work_provider(), threads, integer_kernels=integer_kernels, exact=True)


class Session:
    """A loaded model.

    Args:
        model: a ModelProto, serialised bytes, or a path (external data are found beside it).
        outputs: tensors to fetch; the graph's own outputs if None.
        provider: onnxruntime's execution provider; what it does not take runs on the CPU's.
        threads: intra-op threads; 0 lets onnxruntime choose.
        optimize: apply onnxruntime's graph optimizations.
        integer_kernels: compute what stands between Q/DQ pairs in integers.
        spin: threads wait for the next run awake for 1 ms (by onnxruntime's default, and in versions that know no
            other, for some 40 ms), which is faster if it comes soon, but slows other sessions; else they sleep at once.
        exact: compute float32 in float32 where the provider would not (``nvidia``); such a session is not for timing.

    Raises:
        ModelError: onnxruntime cannot load or prepare the model.
        MissingRuntimeError: onnxruntime, or its provider, is not installed or does not start.
    """

    def __init__(
        self,
        model: onnx.ModelProto | bytes | str | Path,
        outputs: Sequence[str] | None = None,
        provider: str = CPU,
        threads: int = 0,
        optimize: bool = True,
        integer_kernels: bool = True,
        spin: bool = True,
        exact: bool = False,
    ) -> None:
        ort = onnxruntime()
        model = Path(model) if isinstance(model, str) else model
        devices = require_provider(provider)
        options = quiet_options(ort, threads, spin)
        if not integer_kernels:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        stored = _stored(model)
        if not optimize or {onnx.TensorProto.FLOAT8E4M3FN, onnx.TensorProto.FLOAT16} <= stored:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        elif onnx.TensorProto.FLOAT8E4M3FN in stored:  # at a higher level, 1.32 computes these wrongly
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        without = _FATAL_IN_HALF if provider == CPU and onnx.TensorProto.FLOAT16 in stored else ()
        try:
            with tempfile.TemporaryDirectory() as spill:
                source = loadable(model, outputs, Path(spill))
                try:
                    self._session, self._graphs = _opened(source, options, provider, devices, exact, without)
                except Exception:
                    if outputs is None or not optimize or devices:
                        raise
                    # onnxruntime's last level may fuse the Conv that makes a fetched tensor into the Add that reads it
                    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
                    self._session, self._graphs = _opened(source, options, provider, devices, exact, without)
        except Exception as e:  # onnxruntime's own exception types are many and undocumented
            place = "" if provider == CPU else f" on {provider}"
            raise ModelError(f"onnxruntime cannot load the model{place}: {failure(e)}") from e
        if not self._started_on(provider):
            raise MissingRuntimeError(
                f"onnxruntime's {provider} does not start: a driver or library is missing, onnxruntime's log names it"
            )
        self.inputs = tuple(_spec(value) for value in self._session.get_inputs())
        self.outputs = tuple(_spec(value) for value in self._session.get_outputs())
        self._names = list(outputs) if outputs is not None else [spec.name for spec in self.outputs]
        self._provider = provider

    def _started_on(self, provider: str) -> bool:
        return provider in self._session.get_providers()

    @property
    def batch(self) -> int | None:
        """The fixed batch size, or None where the first dimension is dynamic."""
        return fixed_batch(self.inputs)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name. A batch shorter than a fixed batch size is padded, and its outputs cut to length."""
        return run_padded(self._infer, feeds, self.batch)

    @property
    def records(self) -> bool:
        """Whether runs to be timed are recorded as CUDA graphs."""
        return self._graphs is not None

    def bound(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """See ``Bindable``: on an NVIDIA GPU inputs and outputs stay there, in a CUDA graph where the model allows."""
        if self._provider not in nvidia.NVIDIA or self.batch not in (None, _rows(feeds)):
            return partial(self.run, feeds)
        for recording in (*((next(self._graphs),) if self._graphs else ()), None):
            with suppress(ModelError):
                return nvidia.bind(onnxruntime(), self._session, feeds, self._names, recording)
        return partial(self.run, feeds)

    def _infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        options = nvidia.unrecorded(onnxruntime()) if self._graphs else onnxruntime().RunOptions()
        options.log_severity_level = 4  # as in __init__
        try:
            with deadline(lambda: setattr(options, "terminate", True)):
                results = self._session.run(self._names, dict(feeds), options)
        except LimitError:
            raise
        except Exception as e:
            if (wanted := _UNALLOCATED.search(str(e))) is not None:
                what = f"out of memory: onnxruntime cannot allocate {int(wanted[1]) / 1e9:.2f} GB for a tensor"
                raise ModelError(f"{what}. Give smaller batches, or free memory") from e
            raise ModelError(f"onnxruntime cannot run the model: {failure(e)}") from e
        return dict(zip(self._names, results, strict=True))


def _stored(model: onnx.ModelProto | bytes | Path) -> set[int]:
    """Types of weights; none of what is no ONNX, which onnxruntime may know."""
    try:
        if isinstance(model, Path):
            model = onnx.load(model, load_external_data=False)
        proto = onnx.ModelProto.FromString(model) if isinstance(model, bytes) else model
    except (DecodeError, OSError):
        return set()
    return {tensor.data_type for tensor in proto.graph.initializer}


def _opened(
    source: bytes | str, options: Any, provider: str, devices: Sequence[Any], exact: bool, without: Sequence[str] = ()
) -> tuple[Any, Iterator[int] | None]:
    """An InferenceSession, and numbers of the CUDA graphs that it can record; None where it records none."""
    ort = onnxruntime()
    if devices:
        options.add_provider_for_devices(devices, {})
        return ort.InferenceSession(source, options, enable_fallback=0), None
    *recording, last = [
        [(provider, settings), CPU] if settings else list(dict.fromkeys((provider, CPU)))
        for settings in nvidia.settings(provider, exact)
    ]
    for providers in recording:
        with suppress(Exception):  # some nodes are not on the GPU
            return ort.InferenceSession(source, options, providers=providers, enable_fallback=0), count(1)
    left_out = {"disabled_optimizers": list(without)} if without else {}
    return ort.InferenceSession(source, options, providers=last, enable_fallback=0, **left_out), None


def try_run(session: Runner, feeds: Mapping[str, Array], name: object = "") -> dict[str, Array]:
    """One run of a model that nobody has run yet, held to ``limits.probe_seconds()`` by onnxruntime.

    Args:
        session: to be tried.
        feeds: few samples.
        name: what errors call it, if anything.

    Raises:
        ModelError, LimitError: it does not run, or does not end.
    """
    try:
        with probing():
            return session.run(feeds)
    except (ModelError, LimitError) as e:
        raise type(e)(f"{name}: {e.template}") if name else e from e


def fixed_batch(inputs: Sequence[TensorSpec]) -> int | None:
    """The first size of the first input that has one, or None where that of any is dynamic.

    Inputs of another first size have no axis of samples: all samples share them.
    """
    sizes = [spec.shape[0] for spec in inputs if spec.shape]
    return sizes[0] if sizes and None not in sizes else None


def run_padded(
    infer: Callable[[Mapping[str, Array]], dict[str, Array]], feeds: Mapping[str, Array], fixed: int | None
) -> dict[str, Array]:
    """``infer(feeds)``; a batch shorter than ``fixed`` is padded, and its outputs cut to length."""
    rows = _rows(feeds)
    short = 0 if fixed is None else max(fixed - rows, 0)
    if not short:
        return infer(feeds)
    values = infer(
        {
            name: np.concatenate([x, np.repeat(x[-1:], short, 0)]) if np.ndim(x) and len(x) == rows else x
            for name, x in feeds.items()
        }
    )
    return {k: v[:rows] if np.ndim(v) and len(v) == fixed else v for k, v in values.items()}


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy of ``model`` whose outputs are the named tensors, in that order, of unstated type."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return copy


def loadable(model: onnx.ModelProto | bytes | Path, outputs: Sequence[str] | None, spill: Path) -> bytes | str:
    """Bytes or a path that a runtime loads; a model of 2 GiB or more is written to the folder ``spill``."""
    if isinstance(model, (bytes, Path)):
        if outputs is None:
            return model if isinstance(model, bytes) else str(model)
        model = onnx.load(model) if isinstance(model, Path) else onnx.ModelProto.FromString(model)
    if outputs is not None:
        model = with_outputs(model, outputs)
    if weight_bytes(model) < BYTES_LIMIT:
        serialized: bytes = model.SerializeToString()
        return serialized
    path = spill / "model.onnx"
    write_apart(model, path, spill / "model.data")
    return str(path)


def failure(error: Exception) -> str:
    """The first line of onnxruntime's message, without the place in its own source."""
    return one_line(_SOURCE.sub("", str(error)))


def _spec(value: Any) -> TensorSpec:
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(n if isinstance(n, int) and n >= 0 else None for n in value.shape)
    return TensorSpec(value.name, np.dtype(_NUMPY_OF.get(kind, np.object_)), shape)


def _rows(feeds: Mapping[str, Array]) -> int:
    return next((len(x) for x in feeds.values() if np.ndim(x)), 0)
