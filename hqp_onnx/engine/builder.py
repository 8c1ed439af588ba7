"""An ONNX file to a serialized engine, by Polygraphy's loaders.

EngineBytesFromNetwork(NetworkFromOnnxPath(file), CreateConfig(profiles, flags, calibrator, timing cache, pools))
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hqp_onnx.engine.capability import tensorrt
from hqp_onnx.engine.log import tensorrt_errors
from hqp_onnx.engine.plan import Plan
from hqp_onnx.engine.profiles import Profile
from hqp_onnx.files import make_folder

MIB = 1 << 20


@dataclass(frozen=True)
class Settings:
    """How to build, beside the plan.

    Attributes:
        shapes: profiles of the inputs that have dynamic dimensions.
        timing_cache: tactic timings, read if it exists and extended.
        workspace: limit of TensorRT's scratch memory, MiB.
        dla: DLA core; layers that it cannot run go to the GPU.
        version_compatible: the engine loads in later TensorRT versions.
        hardware_compatible: the engine loads on Ampere GPUs and later ones, not only on this one.
    """

    shapes: Mapping[str, Profile]
    timing_cache: Path | None = None
    workspace: int | None = None
    dla: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False


@dataclass(frozen=True)
class Engine:
    """Serialized ``plan``, and the ``layers`` as TensorRT's inspector has them: name, tactic, formats."""

    plan: bytes
    layers: list[Any]


def build(model: Path, plan: Plan, settings: Settings, calibrator: Any | None) -> Engine:
    """The engine of the prepared ONNX file ``model``.

    Raises:
        ModelError: TensorRT refuses the model or cannot build it; the message is TensorRT's first.
    """
    from polygraphy.backend.trt import EngineBytesFromNetwork, NetworkFromOnnxPath

    network = NetworkFromOnnxPath(str(model), strongly_typed=plan.strongly_typed)
    timings = None if settings.timing_cache is None else str(settings.timing_cache)
    if settings.timing_cache is not None:
        make_folder(settings.timing_cache.parent)
    with tensorrt_errors(f"{model.name}: TensorRT cannot build the engine"):
        loader = EngineBytesFromNetwork(network, config(plan, settings, calibrator), save_timing_cache=timings)
        serialized = bytes(loader())
        return Engine(serialized, layers(serialized))


def config(plan: Plan, settings: Settings, calibrator: Any | None) -> Any:
    """Polygraphy's builder configuration."""
    from polygraphy.backend.trt import CreateConfig, PostprocessConfig
    from polygraphy.backend.trt import Profile as TrtProfile

    trt = tensorrt()
    profile = TrtProfile()
    for name, shapes in settings.shapes.items():
        profile.add(name, shapes.low, shapes.best, shapes.high)
    options: dict[str, Any] = {"profiles": [profile]} if settings.shapes else {}
    if settings.timing_cache is not None and settings.timing_cache.is_file():
        options["load_timing_cache"] = str(settings.timing_cache)
    if settings.workspace is not None:
        options["memory_pool_limits"] = {trt.MemoryPoolType.WORKSPACE: settings.workspace * MIB}
    if settings.hardware_compatible:
        options["hardware_compatibility_level"] = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if settings.version_compatible:
        options["version_compatible"] = True
    if settings.dla is not None:
        options |= {"use_dla": True, "allow_gpu_fallback": True}
    options |= {flag.lower(): True for flag in plan.flags}
    created = CreateConfig(calibrator=calibrator, **options)
    return PostprocessConfig(created, lambda builder, network, config: _set_dla(config, settings.dla))


def _set_dla(config: Any, core: int | None) -> None:
    if core is not None:
        config.DLA_core = core


def layers(serialized: bytes) -> list[Any]:
    """The layers of an engine, in TensorRT's own words: dictionaries, or names where it keeps no detail."""
    trt = tensorrt()
    engine = load(serialized)
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    layers: list[Any] = json.loads(text)["Layers"]
    return layers


def load(serialized: bytes) -> Any:
    """A deserialized engine; ``ModelError`` where this TensorRT or this GPU cannot load it."""
    from polygraphy.backend.trt import EngineFromBytes

    with tensorrt_errors("TensorRT cannot load the engine: it fits one version and GPU; build it here again"):
        return EngineFromBytes(serialized)()
