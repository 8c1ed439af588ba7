"""An ONNX file to a serialized engine, by Polygraphy's loaders.

EngineBytesFromNetwork(NetworkFromOnnxPath(file), CreateConfig(profiles, flags, calibrator, timing cache, pools))

Where TensorRT compiles ahead of time, CreateConfigRTX takes compute capabilities in place of flags and calibrator.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hqp_onnx.engine.capability import Capability
from hqp_onnx.engine.device import Compute
from hqp_onnx.engine.library import Library
from hqp_onnx.engine.log import tensorrt_log
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
        refit: its weights can be replaced.
        weight_streaming: they may stay in host memory.
        for_gpu: compute capabilities to compile for; none for what TensorRT takes by itself.
    """

    shapes: Mapping[str, Profile]
    timing_cache: Path | None = None
    workspace: int | None = None
    dla: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    refit: bool = False
    weight_streaming: bool = False
    for_gpu: tuple[Compute, ...] = ()


@dataclass(frozen=True)
class Engine:
    """Serialized ``plan``, the bytes of its weights if the log says, and its layers.

    ``layers`` are as TensorRT's inspector has them (name, tactic, formats), None where no GPU can load the engine.
    """

    plan: bytes
    layers: list[Any] | None
    weights_bytes: int | None = None


def build(model: Path, plan: Plan, settings: Settings, calibrator: Any | None, able: Capability) -> Engine:
    """The engine of the prepared ONNX file ``model``, by the TensorRT that is ``able``.

    Raises:
        ModelError: TensorRT refuses the model or cannot build it; the message is TensorRT's first.
    """
    from polygraphy.backend.trt import EngineBytesFromNetwork, NetworkFromOnnxPath

    able.library.load()
    network = NetworkFromOnnxPath(str(model), strongly_typed=plan.strongly_typed)
    timings = None if settings.timing_cache is None else str(settings.timing_cache)
    if settings.timing_cache is not None:
        make_folder(settings.timing_cache.parent)
    with tensorrt_log(f"{model.name}: {able.library.name} cannot build the engine") as log:
        configured = config(plan, settings, calibrator, able)
        serialized = bytes(EngineBytesFromNetwork(network, configured, save_timing_cache=timings)())
        here = able.device is not None
        return Engine(serialized, layers(serialized, able.library) if here else None, log.weights_bytes)


def config(plan: Plan, settings: Settings, calibrator: Any | None, able: Capability) -> Any:
    """Polygraphy's builder configuration."""
    from polygraphy.backend.trt import Profile as TrtProfile

    trt = able.library.load()
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
    options |= {"refittable": True} if settings.refit else {}
    options |= {"weight_streaming": True} if settings.weight_streaming else {}
    if able.ahead:
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

        return CreateConfigRTX(compute_capabilities=list(settings.for_gpu) or None, **options)
    from polygraphy.backend.trt import CreateConfig, PostprocessConfig

    if settings.dla is not None:
        options |= {"use_dla": True, "allow_gpu_fallback": True}
    options |= {flag.lower(): True for flag in plan.flags}
    created = CreateConfig(calibrator=calibrator, **options)
    return PostprocessConfig(created, lambda builder, network, config: _set_dla(config, settings.dla))


def _set_dla(config: Any, core: int | None) -> None:
    if core is not None:
        config.DLA_core = core


def layers(serialized: bytes, library: Library) -> list[Any]:
    """The layers of an engine, in TensorRT's own words: dictionaries, or names where it keeps no detail."""
    trt = library.load()
    engine = load(serialized, library)
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    layers: list[Any] = json.loads(text)["Layers"]
    return layers


def load(serialized: bytes, library: Library) -> Any:
    """A deserialized engine; ``ModelError`` where this TensorRT or this GPU cannot load it."""
    from polygraphy.backend.trt import EngineFromBytes

    library.load()
    with tensorrt_log(f"{library.name} cannot load the engine: it fits one version and GPU; build it here again"):
        return EngineFromBytes(serialized)()
