from __future__ import annotations

import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from hqp_onnx.engine import energy
from hqp_onnx.engine.energy import Sampler, joules_per_run, open_meter
from hqp_onnx.engine.timing import EngineLatency
from hqp_onnx.runtimes.bench import module_watts

LINES = {
    "Nano": (
        "RAM 1403/3964MB (lfb 2x1MB) SWAP 0/1982MB CPU [5%@102,off] GR3D_FREQ 0% POM_5V_IN 2532/2500 POM_5V_GPU 0/0",
        2.532,
    ),
    "Xavier NX": (
        "RAM 2/7MB (lfb 4x4MB) CPU [1%@1190] cv0@-256C VDD_IN 4025mW/4025mW VDD_CPU_GPU_CV 650mW/650mW",
        4.025,
    ),
    "Orin Nano": (
        "05-15-2025 18:30:28 RAM 6982/7620MB GR3D_FREQ 84%@[713] VDD_IN 17946mW/15710mW VDD_SOC 3923mW/3515mW",
        17.946,
    ),
    "AGX Orin": (
        "VDD_GPU_SOC 2412mW/2412mW VDD_CPU_CV 804mW/804mW VIN_SYS_5V0 3024mW/3024mW VDDQ_VDD2_1V8AO 302mW/302mW",
        6.24,
    ),
    "Thor": (
        "RAM 9/125GB VDD_GPU 2400mW/2400mW VDD_CPU_SOC_MSS 5159mW/5159mW VIN_SYS_5V0 6520mW/6520mW VIN 23000mW/23000mW",
        23.0,
    ),
}


@pytest.mark.parametrize("board", LINES)
def test_power_of_the_module(board: str) -> None:
    line, watts = LINES[board]
    assert module_watts(line) == pytest.approx(watts, abs=1e-9)


def test_a_line_without_rails_is_no_power() -> None:
    assert module_watts("RAM 1403/3964MB (lfb 2x1MB) IRAM 0/252kB(lfb 252kB) SWAP 0/1982MB") is None


def test_energy_of_a_ramp() -> None:
    """P = 100 t integrates to 50 T^2, and the trapezoidal rule is exact on it, whenever the samples fall."""
    start = time.perf_counter()
    ends: list[float] = []

    def meter() -> float:
        ends.append(time.perf_counter() - start)
        return 100 * ends[-1]

    with Sampler(meter, 0.005) as sampler:
        time.sleep(0.1)
    exact = 50 * (ends[-1] ** 2 - ends[0] ** 2)
    assert len(ends) > 5
    assert sampler.joules == pytest.approx(exact, rel=0.01)
    assert sampler.watts == pytest.approx(50 * (ends[-1] + ends[0]), rel=0.01)


def test_energy_of_the_paper_and_throughput() -> None:
    latency = EngineLatency(batch=4, runs=10, median_ms=2.0, p99_ms=3.0, watts=10.0, joules=0.006)
    assert latency.throughput == 2000
    assert latency.paper_joules == pytest.approx(10 * 2e-3 / 4)
    assert EngineLatency(1, 10, 2.0, 3.0).paper_joules is None


class Nvml(ModuleType):
    """pynvml, as far as it is called."""

    class NVMLError(Exception):
        pass

    def __init__(self, milliwatts: int | None) -> None:
        super().__init__("pynvml")
        self.milliwatts, self.open = milliwatts, 0

    def nvmlInit(self) -> None:  # noqa: N802
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:  # noqa: N802
        if self.milliwatts is None:
            raise self.NVMLError
        return self.milliwatts


def test_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for module, watts in ((Nvml(71_500), 71.5), (Nvml(None), None), (None, None)):
        monkeypatch.setitem(sys.modules, "pynvml", module)
        with open_meter() as meter:
            assert (None if meter is None else meter()) == watts
        assert module is None or module.milliwatts is None or module.open == 0


def test_tegrastats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "tegrastats"
    line = LINES["Xavier NX"][0]
    script.write_text(f"#!/bin/sh\nwhile :; do echo '{line}'; sleep 0.01; done\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with open_meter() as meter:
        assert meter is not None and meter() == 4.025
        with Sampler(meter) as sampler:
            time.sleep(0.05)
    assert np.isclose(sampler.watts, 4.025)


def test_energy_of_a_run_by_a_counter_that_wraps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run adds 7 J to a counter of microjoules that starts again at 50 J, as a processor's does."""
    counter, spent = tmp_path / "energy_uj", 44_000_000
    (tmp_path / "max_energy_range_uj").write_text("50000000\n")
    monkeypatch.setattr(energy, "RAPL", tmp_path)
    assert joules_per_run(lambda: None, on_gpu=False) is None

    def run() -> None:
        nonlocal spent
        spent += 7_000_000
        counter.write_text(f"{spent % 50_000_000}\n")
        time.sleep(0.02)

    counter.write_text(f"{spent}\n")
    assert joules_per_run(run, on_gpu=False, seconds=0.05) == pytest.approx(7)


def test_energy_of_a_run_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(71_500))
    runs, start = [0.0], time.perf_counter()

    def run() -> None:
        time.sleep(0.01)
        runs.append(time.perf_counter() - start)

    assert joules_per_run(run, on_gpu=True, seconds=0.1) == pytest.approx(71.5 * runs[-1] / (len(runs) - 1), rel=0.1)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert joules_per_run(lambda: None, on_gpu=True) is None
