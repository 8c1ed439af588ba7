"""A TensorRT whose classes are the real bindings' own, with a recorder in place of builder, parser and engine.

A recorder of an ``IBuilderConfig`` takes exactly the calls and attributes that the real class has; anything else is
an AttributeError, as it would be on a machine. The builder drives a calibrator as TensorRT does: the cache first;
without one, batches until there are none, then the cache is written.
"""

from __future__ import annotations

import ctypes
import json
from typing import Any, ClassVar

import numpy as np
import onnx
import tensorrt as trt

SHAPE = (-1, 3, 4, 4)
PLAN = b"ftrt: a serialized engine"
NATIVE_CACHE = b"TRT-%s-EntropyCalibration2\nx: 3c010204\n"


class Spec:
    """Records calls and attributes; refuses those that ``real`` lacks."""

    def __init__(self, real: type, log: list[Any], **values: Any) -> None:
        self.__dict__.update(_real=real, _log=log, **{k: v for k, v in values.items() if hasattr(real, k)})

    def __getattr__(self, name: str) -> Any:
        if not hasattr(self._real, name):
            raise AttributeError(f"{self._real.__name__} has no {name}")
        if name.startswith("get_"):
            return lambda *_: 0
        return lambda *args, **kwargs: self._log.append([name, *map(show, (*args, *kwargs.values()))])

    def __setattr__(self, name: str, value: Any) -> None:
        if not hasattr(self._real, name):
            raise AttributeError(f"{self._real.__name__} has no {name}")
        self.__dict__[name] = value
        self._log.append([name, show(value)])


def show(value: Any) -> Any:
    """As JSON: names of enumeration members, lists of sizes."""
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, (tuple, list)):
        return [show(item) for item in value]
    return getattr(value, "name", type(value).__name__)


class Tensor:
    name, shape, is_shape_tensor, dtype = "x", SHAPE, False, trt.float32


class Layer:
    precision_is_set, name = False, "q"

    def __init__(self, kind: Any) -> None:
        self.type = kind


class Network:
    """One input; Q/DQ layers if the parsed model has them."""

    num_inputs = 1

    def __init__(self, log: list[Any], flags: int) -> None:
        self.log, self.layers = log, []
        log.append(
            [
                "create_network",
                [n for n, f in trt.NetworkDefinitionCreationFlag.__members__.items() if flags >> int(f) & 1],
            ]
        )

    def get_input(self, _: int) -> Tensor:
        return Tensor()

    def __iter__(self) -> Any:
        return iter(self.layers)


class Parser:
    num_errors = 0

    def __init__(self, network: Network, _: Any) -> None:
        self.network = network

    def parse_from_file(self, path: str) -> bool:
        model = onnx.load(path)
        ops = [node.op_type for node in model.graph.node]
        if "QuantizeLinear" in ops:
            self.network.layers.append(Layer(trt.LayerType.QUANTIZE))
        types = [[t.name, onnx.TensorProto.DataType.Name(t.data_type)] for t in model.graph.initializer]
        self.network.log.append(["parse", ops, types])
        return True


class Builder:
    """Records; what is built is ``PLAN``."""

    log: ClassVar[list[Any]] = []
    num_DLA_cores = 2  # noqa: N815
    platform_has_fast_int8 = True

    def __init__(self, _: Any) -> None:
        self.config: Any = None

    def create_network(self, flags: int) -> Network:
        return Network(self.log, flags)

    def create_builder_config(self) -> Spec:
        self.config = Spec(
            trt.IBuilderConfig,
            self.log,
            DLA_core=-1,
            default_device_type=trt.DeviceType.GPU,
            num_optimization_profiles=1,
            int8_calibrator=None,
            get_calibration_profile=self.create_optimization_profile,
            create_timing_cache=lambda data: TimingCache(self.log, data),
            get_timing_cache=lambda: TimingCache(self.log, b""),
        )
        return self.config

    def create_optimization_profile(self) -> Spec:
        def last(_: str) -> Any:
            return next(call[2:] for call in reversed(self.log) if call[0] == "set_shape")

        return Spec(trt.IOptimizationProfile, self.log, get_shape=last)

    def build_serialized_network(self, network: Network, config: Spec) -> bytes:
        calibrator = config.__dict__.get("int8_calibrator")
        if calibrator is not None:
            drive(calibrator, self.log)
        return PLAN


class TimingCache:
    def __init__(self, log: list[Any], data: bytes) -> None:
        log.append(["create_timing_cache", len(data)])

    def combine(self, other: Any, ignore_mismatch: bool) -> bool:
        return True

    def serialize(self) -> Any:
        return self

    def __enter__(self) -> bytes:
        return b"timings"

    def __exit__(self, *_: object) -> None:
        pass


def drive(calibrator: Any, log: list[Any]) -> None:
    """What TensorRT does with a calibrator."""
    log.append(["calibrator", [base.__name__ for base in type(calibrator).__mro__], calibrator.get_batch_size()])
    if (cache := calibrator.read_calibration_cache()) is not None:
        log.append(["cache", bytes(cache).decode()])
        return
    sums = []
    size = 4 * int(np.prod([4, *SHAPE[1:]]))
    while (pointers := calibrator.get_batch(["x"])) is not None:
        values = np.frombuffer(ctypes.string_at(pointers[0], size), np.float32)
        sums.append([int(values[0]), int(values[-1])])
    log.append(["batches", sums])
    calibrator.write_calibration_cache(memoryview(NATIVE_CACHE % b"8601"))


class Context:
    """y = 2 x, in the memory that the addresses point to."""

    profiler = None

    def __init__(self) -> None:
        self.addresses: dict[str, int] = {}
        self.shape = (1, *SHAPE[1:])

    def set_input_shape(self, _: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return True

    def get_tensor_shape(self, _: str) -> tuple[int, ...]:
        return self.shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        count = int(np.prod(self.shape))
        x, y = ((ctypes.c_float * count).from_address(self.addresses[name]) for name in ("x", "y"))
        np.multiply(np.frombuffer(x, np.float32), 2, out=np.frombuffer(y, np.float32))
        if self.profiler is not None:
            self.profiler.report_layer_time("double", 0.25)
        return stream != 0


class CudaEngine:
    num_io_tensors = 2

    def create_engine_inspector(self) -> Any:
        return self

    def get_engine_information(self, kind: Any) -> str:
        return json.dumps({"Layers": [{"Name": "double", "TacticName": "sm80", "asked": kind.name}]})

    def create_execution_context(self) -> Context:
        return Context()

    def get_tensor_name(self, index: int) -> str:
        return "xy"[index]

    def get_tensor_mode(self, name: str) -> Any:
        return trt.TensorIOMode.INPUT if name == "x" else trt.TensorIOMode.OUTPUT

    def get_tensor_shape(self, _: str) -> tuple[int, ...]:
        return SHAPE

    def get_tensor_profile_shape(self, _name: str, _profile: int) -> list[tuple[int, ...]]:
        return [(n, *SHAPE[1:]) for n in (1, 4, 8)]

    def get_tensor_dtype(self, _: str) -> Any:
        return trt.float32


class Runtime:
    def __init__(self, _: Any) -> None:
        pass

    def deserialize_cuda_engine(self, plan: bytes) -> CudaEngine | None:
        return CudaEngine() if plan == PLAN else None


def install() -> list[Any]:
    """Put the recorders into the tensorrt module; the log."""
    trt.Builder, trt.OnnxParser, trt.Runtime = Builder, Parser, Runtime
    trt.init_libnvinfer_plugins = lambda *_: True
    return Builder.log
