"""What this machine can run: packages, processor, GPU, and what every target needs.

A target is ready if its runtime loads and runs a small model here: nothing is concluded from what is installed.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser

from hqp_onnx import engine
from hqp_onnx.engine.device import Device, compute_text, current_device
from hqp_onnx.engine.energy import open_meter, package_joules
from hqp_onnx.errors import HqpError, MissingRuntimeError
from hqp_onnx.gradients.training.install import find
from hqp_onnx.runtimes.machine import CPUINFO, processor, saturates
from hqp_onnx.runtimes.plugin_providers import plugin_providers
from hqp_onnx.runtimes.runners import open_runner, runtime_name
from hqp_onnx.runtimes.runtime import Compiling, Emulating
from hqp_onnx.runtimes.session import onnxruntime
from hqp_onnx.runtimes.targets import TARGETS
from hqp_onnx.runtimes.targets import target as target_named
from hqp_onnx.version import __version__

PACKAGES = ("numpy", "onnx", "onnx-graphsurgeon", "polygraphy", "click", "rich", "pillow", "svg.py", "msgspec")
ONNXRUNTIMES = tuple(f"onnxruntime{kind}" for kind in ("", "-gpu", "-openvino", "-training", "-training-cpu"))
OPTIONAL = (
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu12",
    "tensorrt-rtx-cu13",
    "nvidia-ml-py",
    "pycuda",
    "onnx-ir",
    "olive-ai",
    "onnxruntime-qnn",
)
INTEGER = {
    "avx2": "256-bit integers: u8s8 by three instructions, which may saturate",
    "avx512bw": "512-bit integers, likewise",
    "avx_vnni": "u8s8 dot products in one instruction",
    "avx512_vnni": "u8s8 dot products in one instruction, 512 bits",
    "amx_int8": "int8 matrix tiles",
    "asimddp": "int8 dot products (Arm)",
    "i8mm": "int8 matrix products (Arm)",
}
TRTEXEC = (Path("/usr/src/tensorrt/bin/trtexec"),)
_MODEL = '<ir_version: 8, opset_import: ["" : 13]> g (float[1, 2] x) => (float[1, 2] y) { y = Relu(x) }'


@dataclass(frozen=True)
class TargetState:
    """Whether ``--target name`` works here; if not, ``needs`` says what to do. ``note`` is a further remark."""

    name: str
    ready: bool
    runtime: str
    needs: str = ""
    note: str = ""


@dataclass(frozen=True)
class Findings:
    """What was found.

    Attributes:
        versions: of hqp_onnx, Python and the packages that are installed.
        system, processor: in words.
        int8: instructions of the processor that matter to INT8, and what they do.
        weight_bits: of weights quantized here for u8s8 kernels.
        providers: execution providers of the installed onnxruntime.
        gpu: name and compute capability, or why there is none.
        trtexec: its path, or None.
        training: the folder of onnxruntime-training, or None.
        energy: counters that can be read.
        targets: one for each, and for each provider that an installed package brings.
        warnings: what is likely to go wrong.
    """

    versions: dict[str, str]
    system: str
    processor: str
    int8: dict[str, str]
    weight_bits: int
    providers: tuple[str, ...]
    gpu: str
    trtexec: str | None
    training: str | None
    energy: tuple[str, ...]
    targets: tuple[TargetState, ...]
    warnings: tuple[str, ...]

    def json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def examine() -> Findings:
    """Look at this machine; nothing is changed."""
    training, trtexec = find(), next((str(p) for p in TRTEXEC if p.is_file()), shutil.which("trtexec"))
    return Findings(
        versions=_versions(),
        system=platform.platform(terse=True),
        processor=processor(),
        int8=instructions(),
        weight_bits=7 if saturates() else 8,
        providers=_providers(),
        gpu=_answer(lambda: _gpu(current_device())),
        trtexec=trtexec,
        training=None if training is None else str(training),
        energy=_energy(),
        targets=tuple(map(_state, (*TARGETS.names, *(f"onnxruntime:{name}" for name in plugin_providers())))),
        warnings=_warnings(),
    )


def instructions(cpuinfo: Path = CPUINFO) -> dict[str, str]:
    """Instruction sets of the processor that matter to INT8; empty where /proc/cpuinfo does not say."""
    flags = set(cpuinfo.read_text(errors="replace").split()) if cpuinfo.is_file() else set()
    return {name: words for name, words in INTEGER.items() if name in flags}


def _versions() -> dict[str, str]:
    versions = {"hqp_onnx": __version__, "python": platform.python_version()}
    for name in (*PACKAGES, *ONNXRUNTIMES, *OPTIONAL):
        installed = _version(name)
        if installed is not None:
            versions[name] = installed
    return versions


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _providers() -> tuple[str, ...]:
    try:
        return tuple(onnxruntime().get_available_providers())
    except MissingRuntimeError:
        return ()


def _gpu(device: Device) -> str:
    kinds = [name for name, has in (("INT8", device.int8), ("FP16", device.fp16)) if has]
    return f"{device.name}, compute capability {device.capability}, {' and '.join(kinds) or 'neither INT8 nor FP16'}"


def _answer(ask: Callable[[], str]) -> str:
    try:
        return ask()
    except HqpError as e:
        return f"none: {e}"


def _energy() -> tuple[str, ...]:
    with open_meter() as meter:
        meters = ["GPU power (NVML or tegrastats)"] if meter is not None else []
    if package_joules() is not None:
        meters.append("processor energy (RAPL)")
    return tuple(meters)


def _state(name: str) -> TargetState:
    try:
        target = target_named(name)
        if target.engines:
            return _engines(name, target.engines)
        model, feeds = onnx.parser.parse_model(_MODEL), {"x": np.ones((1, 2), np.float32)}
        open_runner(model, target).run(feeds)
        if isinstance(target.runtime, Compiling) and isinstance(target.runtime, Emulating):
            target.runtime.compile(model, feeds)  # what is emulated may have another library than what runs models here
        return TargetState(name, True, runtime_name(target))
    except HqpError as e:
        return TargetState(name, False, "", str(e))


def _engines(name: str, library: str) -> TargetState:
    note = "models for it are written and judged on onnxruntime anyway; engines for elsewhere: hqp build --for VERSION"
    try:
        able = engine.detect(engine.library(library))
    except HqpError as e:
        return TargetState(name, False, "", f"to build engines here: {e}", note)
    if able.ahead:
        gpus = ", ".join(map(compute_text, able.ahead))
        runs = f"run on {able.device.name}" if able.device else "run elsewhere: there is no GPU here"
        return TargetState(name, True, able.name, "", f"engines are built for compute capability {gpus}, and {runs}")
    return TargetState(name, True, able.name, "", f"{able.dla_cores or 0} DLA cores")


def _warnings() -> tuple[str, ...]:
    several = [name for name in ONNXRUNTIMES if _version(name) is not None]
    warnings = []
    if len(several) > 1:
        warnings.append(
            f"{' and '.join(several)} share an import name, and the last installed overwrote the others: keep one"
        )
    if saturates():
        warnings.append(
            "this processor is not known to have VNNI: u8 by s8 products may saturate, so weights take 7 bits"
        )
    return tuple(warnings)
