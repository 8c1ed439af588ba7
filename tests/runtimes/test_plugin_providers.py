"""Providers of packages called onnxruntime_ep_*, with a stand-in for such a package."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx.parser
import pytest

from hqp_onnx.errors import MissingRuntimeError
from hqp_onnx.runtimes import plugin_providers
from hqp_onnx.runtimes.runners import open_runner
from hqp_onnx.runtimes.session import CPU, Session, onnxruntime, require_provider
from hqp_onnx.runtimes.targets import target
from hqp_onnx.steps.doctor import examine

MODEL = onnx.parser.parse_model(
    '<ir_version: 8, opset_import: ["" : 17]> g (float[n,2] x) => (float[n,2] y) { y = Relu(x) }'
)
PACKAGE = """
def get_ep_names(): return ["WarpExecutionProvider"]
def get_library_path(): return {library!r}
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "onnxruntime_ep_broken.py").write_text("raise ImportError('not for this Python')")
    (tmp_path / "onnxruntime_ep_warp.py").write_text(PACKAGE.format(library=str(tmp_path / "libwarp.so")))
    monkeypatch.delitem(sys.modules, "onnxruntime_ep_warp", raising=False)
    return tmp_path


def test_a_library_that_does_not_load_is_one_line(package: Path) -> None:
    warp = target("onnxruntime:WarpExecutionProvider")
    with pytest.raises(MissingRuntimeError, match="WarpExecutionProvider is installed and does not load: ") as e:
        open_runner(MODEL, warp)
    assert "\n" not in str(e.value) and "libwarp.so" in str(e.value) and "NVIDIA" not in str(e.value)
    with pytest.raises(MissingRuntimeError, match="install a build that has it"):
        open_runner(MODEL, target("onnxruntime:OtherExecutionProvider"))


def test_doctor_lists_it(package: Path) -> None:
    state = next(state for state in examine().targets if state.name == "onnxruntime:WarpExecutionProvider")
    assert not state.ready and "WarpExecutionProvider is installed and does not load: " in state.needs


def test_a_library_without_a_device_is_one_line(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin_providers, "_register", lambda ort, provider, library: None)
    with pytest.raises(MissingRuntimeError, match="onnxruntime_ep_warp finds no device here"):
        open_runner(MODEL, target("onnxruntime:WarpExecutionProvider"))


def test_sessions_run_on_the_devices_that_are_found(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor's own devices stand in for the plug-in's."""
    devices = [device for device in onnxruntime().get_ep_devices() if device.ep_name == CPU]
    monkeypatch.setattr(plugin_providers, "_devices", lambda ort, provider: devices)
    monkeypatch.setattr(Session, "_started_on", lambda session, provider: True)
    session = Session(MODEL, provider="WarpExecutionProvider")
    x = np.array([[-1, 2]], np.float32)
    np.testing.assert_array_equal(session.run({"x": x})["y"], np.maximum(x, 0))


def test_a_provider_that_was_registered_stays_a_plug_in(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime lists it among its own from then on, though sessions do not get it by name."""
    found, listed = [], onnxruntime().get_available_providers()
    devices = [device for device in onnxruntime().get_ep_devices() if device.ep_name == CPU]
    monkeypatch.setattr(plugin_providers, "_registered", set())
    monkeypatch.setattr(plugin_providers, "_devices", lambda ort, provider: found)
    monkeypatch.setattr(plugin_providers, "_register", lambda ort, provider, library: found.extend(devices))
    monkeypatch.setattr(
        onnxruntime(), "get_available_providers", lambda: [*listed, *["WarpExecutionProvider"] * bool(found)]
    )
    assert [require_provider("WarpExecutionProvider") for _ in range(2)] == [devices, devices]


def test_what_a_library_of_cuda_needs_is_said(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str, library: str) -> None:
        raise RuntimeError(f"{library} with error: libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(onnxruntime(), "register_execution_provider_library", fails)
    with pytest.raises(MissingRuntimeError, match=r"libcuda.* It needs NVIDIA's driver"):
        require_provider("WarpExecutionProvider")


def test_the_provider_of_rtx_gpus_is_laid_out_as_tensorrt_for_rtx() -> None:
    provider, engine = target("onnxruntime:NvTensorRTRTXExecutionProvider"), target("tensorrt-rtx")
    assert (provider.mixes, provider.group_channels, provider.engines) == ("fp16", 4, "")
    assert provider.symmetric == engine.symmetric and engine.engines == "tensorrt-rtx"
