"""The pycuda wrapper, over a pycuda whose device memory is host memory."""

from __future__ import annotations

import sys
import time
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from hqp_onnx.engine.device import open_cuda
from hqp_onnx.errors import MissingRuntimeError, UsageError


class Driver(ModuleType):
    """pycuda.driver, as far as it is called."""

    def __init__(self) -> None:
        super().__init__("pycuda.driver")
        self.calls: list[str] = []
        self.memory: dict[int, bytearray] = {}

    def init(self) -> None:
        self.calls.append("init")

    def Device(self, index: int) -> SimpleNamespace:  # noqa: N802
        context = SimpleNamespace(push=lambda: self.calls.append("push"), pop=lambda: self.calls.append("pop"))
        return SimpleNamespace(retain_primary_context=lambda: context)

    def Stream(self) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(handle=77, synchronize=lambda: self.calls.append("synchronize"))

    def Event(self) -> Event:  # noqa: N802
        return Event()

    def mem_alloc(self, size: int) -> Allocation:
        address = 4096 * (len(self.memory) + 1)
        self.memory[address] = bytearray(size)
        return Allocation(address, self)

    def memcpy_htod(self, to: int, source: np.ndarray) -> None:
        self.memory[int(to)][: source.nbytes] = source.tobytes()

    def memcpy_dtoh(self, to: np.ndarray, source: int) -> None:
        to[...] = np.frombuffer(self.memory[source], to.dtype).reshape(to.shape)


class Allocation(int):
    driver: Driver

    def __new__(cls, address: int, driver: Driver) -> Allocation:
        made = super().__new__(cls, address)
        made.driver = driver
        return made

    def free(self) -> None:
        del self.driver.memory[int(self)]


class Event:
    def record(self, stream: SimpleNamespace) -> None:
        self.time = time.perf_counter()

    def synchronize(self) -> None:
        self.synchronized = True

    def time_till(self, other: Event) -> float:
        assert other.synchronized
        return 1e3 * (other.time - self.time)


def test_pycuda(monkeypatch: pytest.MonkeyPatch) -> None:
    driver, package = Driver(), ModuleType("pycuda")
    package.driver = driver
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    cuda = open_cuda("pycuda")
    assert cuda.stream == 77
    values, back = np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros((3, 2), np.float32)
    cuda.download(cuda.upload(values.T), back)
    np.testing.assert_array_equal(back, values.T)
    start, end = cuda.event(), cuda.event()
    cuda.record(start)
    time.sleep(0.01)
    cuda.record(end)
    assert 10 <= cuda.elapsed(start, end) < 1000
    cuda.close()
    assert driver.memory == {} and driver.calls == ["init", "push", "synchronize", "pop"]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    with pytest.raises(MissingRuntimeError, match=r"hqp-onnx\[pycuda\]"):
        open_cuda("pycuda")
    with pytest.raises(UsageError, match="polygraphy, pycuda"):
        open_cuda("cupy")
