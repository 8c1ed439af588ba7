"""The same build as a trtexec command, for machines that run TensorRT and not this program (JetPack 4 and 5)."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from hqp_onnx.engine.builder import Settings
from hqp_onnx.engine.capability import Capability
from hqp_onnx.engine.plan import Plan
from hqp_onnx.engine.profiles import Profile, Shape

_FLAGS = {"INT8": "--int8", "FP16": "--fp16"}
_COMPUTE = re.compile(r"GPU Compute Time: .*?median = ([\d.]+) ms.*?percentile\(99%\) = ([\d.]+) ms")
_THROUGHPUT = re.compile(r"Throughput: ([\d.]+) qps")


@dataclass(frozen=True)
class Summary:
    """What trtexec measured: milliseconds of a batch on the GPU, and batches per second."""

    median_ms: float
    p99_ms: float
    per_second: float


def summary(log: str) -> Summary | None:
    """The performance summary in what trtexec said; None where there is none."""
    compute, throughput = _COMPUTE.search(log), _THROUGHPUT.search(log)
    if compute is None or throughput is None:
        return None
    return Summary(float(compute[1]), float(compute[2]), float(throughput[1]))


def command(model: Path, engine: str, plan: Plan, settings: Settings, able: Capability, cache: Path | None) -> str:
    """A shell script that builds ``engine`` from the prepared ``model`` beside it and prints its latency."""
    words = ["${TRTEXEC:-/usr/src/tensorrt/bin/trtexec}", f"--onnx={model.name}", f"--saveEngine={engine}"]
    words += [_FLAGS[flag] for flag in plan.flags]
    words += ["--stronglyTyped"] if plan.strongly_typed and able.weak else []
    words += [] if cache is None else [f"--calib={cache.name}"]
    words += _shapes(settings)
    words += [] if settings.timing_cache is None else [f"--timingCacheFile={settings.timing_cache.name}"]
    words += _workspace(settings.workspace, able)
    words += [] if settings.dla is None else [f"--useDLACore={settings.dla}", "--allowGPUFallback"]
    words += ["--versionCompatible"] if settings.version_compatible else []
    words += ["--hardwareCompatibilityLevel=ampere+"] if settings.hardware_compatible else []
    words += ["--useSpinWait", "--useCudaGraph", "--noDataTransfers"] if settings.dla is None else ["--useSpinWait"]
    line = " \\\n  ".join([words[0], *(shlex.quote(word) for word in words[1:])])
    return f'#!/bin/sh\nset -eu\ncd "$(dirname "$0")"\n{line}\n'


def _shapes(settings: Settings) -> list[str]:
    if not settings.shapes:
        return []
    return [
        f"--{option}Shapes=" + ",".join(f"{name}:{shape_text(_pick(p, option))}" for name, p in settings.shapes.items())
        for option in ("min", "opt", "max")
    ]


def _pick(profile: Profile, option: str) -> Shape:
    return {"min": profile.low, "opt": profile.best, "max": profile.high}[option]


def shape_text(shape: Shape) -> str:
    """A shape as trtexec takes it: ``1x3x224x224``."""
    return "x".join(map(str, shape))


def _workspace(mib: int | None, able: Capability) -> list[str]:
    if mib is None:
        return []
    return [f"--memPoolSize=workspace:{mib}" if able.memory_pools else f"--workspace={mib}"]
