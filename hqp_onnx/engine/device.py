"""A GPU through the CUDA runtime: memory, one stream, events.

Polygraphy's wrapper of libcudart by default, which needs no build; pycuda where it is installed and asked for. Both
give the same few calls. Pointers and streams are integers, as TensorRT takes them; events time the GPU itself:

    elapsed(start, end) = milliseconds between two events on one stream, resolution about 0.5 us
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hqp_onnx.arrays import Array
from hqp_onnx.errors import MissingRuntimeError, UsageError

_MAJOR, _MINOR = 75, 76  # cudaDevAttrComputeCapabilityMajor, ...Minor
_TO_DEVICE, _TO_HOST = 1, 2  # cudaMemcpyKind
Compute = tuple[int, int]
"""A compute capability: (8, 7)."""


@dataclass(frozen=True)
class Device:
    """A GPU: ``name`` and compute capability."""

    name: str
    compute: Compute

    @property
    def capability(self) -> str:
        """The compute capability in words: ``8.7``."""
        return compute_text(self.compute)

    @property
    def int8(self) -> bool:
        """Whether it multiplies int8: dp4a came with 6.1, and 6.2 (TX2) lacks it."""
        return self.compute >= (6, 1) and self.compute != (6, 2)

    @property
    def fp16(self) -> bool:
        """Whether float16 is faster than float32: not on the consumer chips 6.1, nor before 5.3."""
        return self.compute >= (5, 3) and self.compute != (6, 1)


def compute_text(compute: Compute) -> str:
    """As NVIDIA writes it: ``8.7``."""
    return ".".join(map(str, compute))


class Cuda(Protocol):
    """One GPU and one stream; ``close`` gives everything back."""

    @property
    def stream(self) -> int:
        """The stream's handle."""

    def upload(self, values: Array) -> int:
        """Device memory with a copy of ``values``: its address."""

    def download(self, address: int, into: Array) -> None:
        """Copy device memory into an array."""

    def event(self) -> Any:
        """A new event."""

    def record(self, event: Any) -> None:
        """Put ``event`` on the stream."""

    def elapsed(self, start: Any, end: Any) -> float:
        """Milliseconds from ``start`` to ``end``, once that has passed."""

    def close(self) -> None:
        """Give memory, events and stream back."""


class PolygraphyCuda:
    """``Cuda`` over the library that Polygraphy loads."""

    def __init__(self) -> None:
        self._call = cuda_call()
        self._memory: list[ctypes.c_void_p] = []
        self._events: list[ctypes.c_void_p] = []
        self._stream = ctypes.c_void_p()
        self._call("cudaStreamCreate", ctypes.byref(self._stream))

    @property
    def stream(self) -> int:
        """See ``Cuda``."""
        return self._stream.value or 0

    def upload(self, values: Array) -> int:
        """See ``Cuda``."""
        address = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(address), ctypes.c_size_t(max(values.nbytes, 1)))
        self._memory.append(address)
        source = np.ascontiguousarray(values)
        self._copy(address, ctypes.c_void_p(source.ctypes.data), source.nbytes, _TO_DEVICE)
        return address.value or 0

    def download(self, address: int, into: Array) -> None:
        """See ``Cuda``."""
        self._call("cudaStreamSynchronize", self._stream)
        self._copy(ctypes.c_void_p(into.ctypes.data), ctypes.c_void_p(address), into.nbytes, _TO_HOST)

    def _copy(self, to: ctypes.c_void_p, source: ctypes.c_void_p, nbytes: int, kind: int) -> None:
        self._call("cudaMemcpy", to, source, ctypes.c_size_t(nbytes), ctypes.c_int(kind))

    def event(self) -> Any:
        """See ``Cuda``."""
        event = ctypes.c_void_p()
        self._call("cudaEventCreate", ctypes.byref(event))
        self._events.append(event)
        return event

    def record(self, event: Any) -> None:
        """See ``Cuda``."""
        self._call("cudaEventRecord", event, self._stream)

    def elapsed(self, start: Any, end: Any) -> float:
        """See ``Cuda``."""
        milliseconds = ctypes.c_float()
        self._call("cudaEventSynchronize", end)
        self._call("cudaEventElapsedTime", ctypes.byref(milliseconds), start, end)
        return milliseconds.value

    def close(self) -> None:
        """See ``Cuda``."""
        for event in self._events:
            self._call("cudaEventDestroy", event)
        for address in self._memory:
            self._call("cudaFree", address)
        self._call("cudaStreamDestroy", self._stream)
        self._events, self._memory = [], []


class PyCuda:
    """``Cuda`` over pycuda."""

    def __init__(self) -> None:
        try:
            import pycuda.driver as driver
        except ImportError as e:
            raise MissingRuntimeError("pycuda is not installed: pip install 'hqp-onnx[pycuda]'") from e
        driver.init()
        self._driver = driver
        self._context = driver.Device(0).retain_primary_context()  # the one that TensorRT uses
        self._context.push()
        self._stream = driver.Stream()
        self._memory: list[Any] = []

    @property
    def stream(self) -> int:
        """See ``Cuda``."""
        return int(self._stream.handle)

    def upload(self, values: Array) -> int:
        """See ``Cuda``."""
        allocation = self._driver.mem_alloc(max(values.nbytes, 1))
        self._memory.append(allocation)
        self._driver.memcpy_htod(allocation, np.ascontiguousarray(values))
        return int(allocation)

    def download(self, address: int, into: Array) -> None:
        """See ``Cuda``."""
        self._stream.synchronize()
        self._driver.memcpy_dtoh(into, address)

    def event(self) -> Any:
        """See ``Cuda``."""
        return self._driver.Event()

    def record(self, event: Any) -> None:
        """See ``Cuda``."""
        event.record(self._stream)

    def elapsed(self, start: Any, end: Any) -> float:
        """See ``Cuda``."""
        end.synchronize()
        return float(start.time_till(end))

    def close(self) -> None:
        """See ``Cuda``."""
        for allocation in self._memory:
            allocation.free()
        self._memory = []
        self._context.pop()


WRAPPERS: dict[str, Callable[[], Cuda]] = {"polygraphy": PolygraphyCuda, "pycuda": PyCuda}


def open_cuda(name: str = "polygraphy") -> Cuda:
    """The first GPU.

    Raises:
        UsageError: an unknown wrapper.
        MissingRuntimeError: it is not installed, or there is no usable GPU.
    """
    if name not in WRAPPERS:
        raise UsageError(f"unknown CUDA wrapper '{name}': expected one of {', '.join(WRAPPERS)}")
    return WRAPPERS[name]()


def current_device() -> Device:
    """Name and compute capability of the first GPU.

    Raises:
        MissingRuntimeError: no CUDA runtime library, or no usable GPU.
    """
    call = cuda_call()
    number = ctypes.c_int()

    def attribute(which: int) -> int:
        call("cudaDeviceGetAttribute", ctypes.byref(number), which, 0)
        return number.value

    compute = attribute(_MAJOR), attribute(_MINOR)
    properties = ctypes.create_string_buffer(1 << 14)  # the struct grows with CUDA; its first member is the name
    call("cudaGetDeviceProperties", properties, 0)
    return Device(properties.value.decode(errors="replace"), compute)


def device_if_any() -> Device | None:
    """The first GPU; None where there is none that can be used."""
    try:
        return current_device()
    except MissingRuntimeError:
        return None


def cuda_call() -> Callable[..., None]:
    """Call functions of the CUDA runtime by name.

    Raises:
        MissingRuntimeError: the library is missing; as does a call that fails.
    """
    from polygraphy import cuda
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    try:
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1):
            library = cuda.wrapper().handle
    except (OSError, PolygraphyException) as e:
        raise MissingRuntimeError("no CUDA runtime library (libcudart.so): this needs a machine with a GPU") from e

    def call(name: str, *arguments: Any) -> None:
        if status := getattr(library, name)(*arguments):
            raise MissingRuntimeError(f"{name}: CUDA error {status}; no usable GPU, or its memory is used up")

    return call
