"""Paths of the bundled models and data."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

MODELS = Path(__file__).parents[1] / "models"
BUNDLED = ("mobilenet_v3_small", "resnet18")


@pytest.fixture(params=BUNDLED)
def bundled(request: pytest.FixtureRequest) -> Path:
    """Each bundled model in turn."""
    return MODELS / f"{request.param}.onnx"


@pytest.fixture(autouse=True)
def polygraphy_of_tensorrt() -> Iterator[None]:
    """After each test, Polygraphy drives the TensorRT that it drives by itself."""
    yield
    if getattr(sys.modules.get("polygraphy.config"), "USE_TENSORRT_RTX", False):
        from hqp_onnx.engine.library import TENSORRT, _drive

        _drive(TENSORRT)


@pytest.fixture(autouse=True)
def no_engines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ships is handed to a TensorRT that is installed in tests marked ``engines`` alone: it takes a second."""
    if "engines" not in request.keywords:
        monkeypatch.setattr("hqp_onnx.steps.ship_engine.installed", lambda: None)


@pytest.fixture(autouse=True)
def few_rounds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies are of five rounds: no test asserts what the clock says, but for those of the clock itself."""
    if request.path.name != "test_latency.py":
        monkeypatch.setattr("hqp_onnx.evaluation.latency._MOST_ROUNDS", 5)
        monkeypatch.setattr("hqp_onnx.allocation.times._RUN_SECONDS", 0.002)
        monkeypatch.setattr("hqp_onnx.job.layer_times._SECONDS", 0.01)
