"""Fixtures of tests that need a GPU."""

from __future__ import annotations

import pytest

from hqp_onnx.engine import Capability, Device, detect
from hqp_onnx.engine.device import current_device
from hqp_onnx.engine.library import TENSORRT_RTX
from hqp_onnx.errors import MissingRuntimeError


@pytest.fixture(scope="session")
def gpu() -> Device:
    """The GPU; without one the test is skipped."""
    try:
        return current_device()
    except MissingRuntimeError as e:
        pytest.skip(str(e))


@pytest.fixture(scope="session")
def rtx() -> Capability:
    """TensorRT for RTX, with or without a GPU; where it is not installed the test is skipped."""
    if not TENSORRT_RTX.installed:
        pytest.skip("TensorRT for RTX is not installed")
    return detect(TENSORRT_RTX)


@pytest.fixture(scope="session")
def tensorrt(gpu: Device) -> Capability:
    """TensorRT on the GPU; without it the test is skipped."""
    try:
        return detect()
    except MissingRuntimeError as e:
        pytest.skip(str(e))
