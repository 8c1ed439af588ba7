"""One inference session over OpenVINO: model in, numpy in, numpy out.

The only module that imports openvino. It differs from ``runtime.Session`` inside in two ways:

Shapes. OpenVINO fuses more where every size is known, so the model is compiled once for each set of input shapes that
it meets; the latest few stay compiled.

Precision. OpenVINO computes float32 in bfloat16 where the processor has it. Here it computes what the model says.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.errors import MissingRuntimeError, ModelError, one_line
from hqp_onnx.runtimes.kernels import Kernel, undisturbed
from hqp_onnx.runtimes.session import TensorSpec, fixed_batch, loadable, run_padded

DEVICE = "CPU"
_COMPILED = 4  # kept: full batches, a shorter last one, single samples
_MACHINERY = ("Exception from", "Check '", "FrontEnd API failed", "Model wasn't fully converted", "Summary:")


def openvino() -> Any:
    """The openvino module; ``MissingRuntimeError`` names the extra where it is not installed."""
    try:
        import openvino as ov
    except ImportError as e:
        raise MissingRuntimeError("openvino is not installed: pip install 'hqp-onnx[openvino]'") from e
    return ov


class OpenVinoSession:
    """A loaded model on the processor.

    Args:
        model: a ModelProto, serialised bytes, or a path (external data are found beside it).
        outputs: tensors to fetch; the graph's own outputs if None.
        threads: 0 lets OpenVINO choose.
        profile: time every kernel, for ``kernels``.

    Raises:
        ModelError: OpenVINO cannot load the model.
        MissingRuntimeError: openvino is not installed.
    """

    def __init__(
        self,
        model: onnx.ModelProto | bytes | Path,
        outputs: Sequence[str] | None = None,
        threads: int = 0,
        profile: bool = False,
    ) -> None:
        self._core = openvino().Core()
        self._settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        self._settings |= {"PERF_COUNT": True} if profile else {}
        if threads:
            self._settings["INFERENCE_NUM_THREADS"] = threads
        try:
            graph = _graph(model)
            with tempfile.TemporaryDirectory() as spill:
                self._model = self._core.read_model(loadable(model, outputs, Path(spill)))
        except Exception as e:  # openvino raises bare RuntimeError, protobuf its own types
            raise ModelError(f"OpenVINO cannot load the model: {_reason(e)}") from e
        names = list(outputs) if outputs is not None else [value.name for value in graph.output]
        stored = {tensor.name for tensor in graph.initializer}
        self.inputs = tuple(_input(value) for value in graph.input if value.name not in stored)
        self.outputs = tuple(_output(n, port) for n, port in zip(names, self._model.outputs, strict=True))
        self._read = {name: port.partial_shape for port in self._model.inputs for name in port.get_names()}
        self._requests: dict[tuple[tuple[int, ...], ...], Any] = {}

    @property
    def batch(self) -> int | None:
        """The fixed batch size, or None where the first dimension is dynamic."""
        return fixed_batch(self.inputs)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name. A batch shorter than a fixed batch size is padded, and its outputs cut to length."""
        return run_padded(self._infer, feeds, self.batch)

    def executed(self, feeds: Mapping[str, Array]) -> list[tuple[str, str, str]]:
        """Name, kind and precision of each layer that OpenVINO made of the model for inputs of these shapes."""
        layers = self._request(self._used(feeds)).get_compiled_model().get_runtime_model().get_ordered_ops()
        facts = [(layer.friendly_name, layer.get_rt_info()) for layer in layers]
        return [(name, *(info[k].astype(str) for k in ("layerType", "runtimePrecision"))) for name, info in facts]

    def kernels(self, feeds: Mapping[str, Array], runs: int) -> list[Kernel]:
        """The kernels in the order in which they run, and what each takes; the first run, a cold one, does not count.

        Raises:
            ModelError: OpenVINO cannot run the model.
        """
        self._infer(feeds)
        request = self._request(self._used(feeds))
        ordered = request.get_compiled_model().get_runtime_model().get_ordered_ops()
        layers = {layer.friendly_name: layer for layer in ordered}
        seconds: dict[str, list[float]] = {}
        for _ in range(runs):
            self._infer(feeds)
            for kernel in request.get_profiling_info():
                if str(kernel.status).endswith("EXECUTED") and kernel.node_name in layers:
                    seconds.setdefault(kernel.node_name, []).append(kernel.real_time.total_seconds())
        return [
            Kernel(_originals(layers[name]), _shapes(layers[name]), undisturbed(times))
            for name, times in seconds.items()
        ]

    def _infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        used = self._used(feeds)
        try:
            results = self._request(used).infer(used, share_inputs=True)
        except Exception as e:  # as above
            raise ModelError(f"OpenVINO cannot run the model: {_reason(e)}") from e
        return {spec.name: results[i] for i, spec in enumerate(self.outputs)}

    def _used(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The feeds that the model reads, checked: OpenVINO computes something from others, and from none."""
        used = {}
        for spec in self.inputs:
            if (shape := self._read.get(spec.name)) is None:  # OpenVINO has dropped what nothing reads
                continue
            value = feeds.get(spec.name)
            if value is None or value.dtype != spec.dtype or not shape.compatible(type(shape)(list(value.shape))):
                fed = "missing" if value is None else TensorSpec(spec.name, value.dtype, value.shape)
                raise ModelError(f"OpenVINO cannot run the model: input '{spec.name}' is {fed}, expected {spec}")
            used[spec.name] = np.ascontiguousarray(value)
        return used

    def _request(self, feeds: Mapping[str, Array]) -> Any:
        """The model compiled for the shapes of ``feeds``."""
        shapes = tuple(x.shape for x in feeds.values())
        if shapes not in self._requests:
            if len(self._requests) == _COMPILED:
                del self._requests[next(iter(self._requests))]
            model = self._model.clone()
            model.reshape({name: list(x.shape) for name, x in feeds.items()})
            self._requests[shapes] = self._core.compile_model(model, DEVICE, self._settings).create_infer_request()
        return self._requests[shapes]


def _originals(layer: Any) -> tuple[str, ...]:
    """The nodes of the model that a layer computes, last first."""
    info = layer.get_rt_info()
    names = info["originalLayersNames"].astype(str).split(",") if "originalLayersNames" in info else []
    return tuple(name for name in (*reversed(names), layer.friendly_name) if name)


def _shapes(layer: Any) -> tuple[tuple[int, ...], ...]:
    ports = (port.get_partial_shape() for port in (*layer.inputs(), *layer.outputs()))
    return tuple(tuple(size.get_length() for size in shape) for shape in ports if shape.is_static)


def _graph(model: onnx.ModelProto | bytes | Path) -> onnx.GraphProto:
    if isinstance(model, Path):
        model = onnx.load(model, load_external_data=False)
    return (onnx.ModelProto.FromString(model) if isinstance(model, bytes) else model).graph


def _input(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
    return TensorSpec(value.name, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type), shape)


def _output(name: str, port: Any) -> TensorSpec:
    shape = port.partial_shape
    sizes = () if shape.rank.is_dynamic else tuple(None if d.is_dynamic else d.get_length() for d in shape)
    return TensorSpec(name, np.dtype(port.element_type.to_dtype()), sizes)


def _reason(error: Exception) -> str:
    """The line of OpenVINO's message that is not about its own source files."""
    lines = [line.lstrip("- ") for line in str(error).splitlines() if not line.startswith(_MACHINERY)]
    return one_line("\n".join(lines).strip() or error)
