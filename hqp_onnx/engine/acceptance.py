"""Whether a TensorRT takes what was written for it: asked on the spot, where one is installed.

    parsed      every node that the parser refuses, with its reason
    built       where engines are compiled ahead of time, which takes seconds and no GPU

Another TensorRT than the target's own is asked where only that one is here: they share the parser.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.counts import counted
from hqp_onnx.engine import builder
from hqp_onnx.engine.capability import Capability, detect
from hqp_onnx.engine.library import installed, library
from hqp_onnx.engine.parsing import refusals
from hqp_onnx.engine.plan import Plan
from hqp_onnx.engine.profiles import Profile
from hqp_onnx.errors import HqpError, ModelError
from hqp_onnx.evaluation.verification import Source, Verified
from hqp_onnx.graphs import model_io
from hqp_onnx.runtimes.targets import Target

LISTED = 3
_AS_STATED = Plan("fp32", None, None, True, (), False, False, ())


def present(target: Target) -> Capability | None:
    """The TensorRT that can be asked about models for ``target``: its own or another; None where none is usable."""
    if not target.engines:
        return None
    own = library(target.engines)
    asked = own if own.installed else installed()
    try:
        return None if asked is None else detect(asked)
    except HqpError:
        return None


def heard(found: Verified, model: onnx.ModelProto, name: str | Path, source: Source, goal: Target | None) -> Verified:
    """``found``, with a warning for all that the TensorRT that is here has against ``model``; arguments as there."""
    if goal is None or not goal.engines:
        return found
    said = objections(model, goal, next(iter(source.feeds), {}))
    return replace(found, warnings=(*found.warnings, *(f"{name}: {words}" for words in said)))


def objections(model: onnx.ModelProto, target: Target, feeds: Mapping[str, Array]) -> tuple[str, ...]:
    """What the TensorRT that is here has against ``model``, a line each; nothing where it takes it or none is here.

    Args:
        model: as it is written.
        target: what it is for.
        feeds: a sample, for its shapes; empty if there is none.
    """
    able = present(target)
    if able is None:
        return ()
    try:
        refused = refusals(model, able.library)
    except ModelError as e:
        return (f"{able.name}: {e.template}",)
    listed = [f"{able.name} refuses {one}" for one in refused[:LISTED]]
    if len(refused) > LISTED:
        listed.append(
            f"{able.name} refuses {counted(len(refused) - LISTED, 'more node')}: 'hqp inspect --target' lists them"
        )
    return tuple(listed) if refused or not able.ahead else _unbuilt(model, able, feeds)


def _unbuilt(model: onnx.ModelProto, able: Capability, feeds: Mapping[str, Array]) -> tuple[str, ...]:
    """The error of building an engine, if there is one."""
    dynamic = [value.name for value in model.graph.input if _is_dynamic(value)]
    if any(name not in feeds for name in dynamic):
        return ()
    shapes = {name: Profile(*(tuple(feeds[name].shape),) * 3) for name in dynamic}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        model_io.save(model, file)
        try:
            builder.build(file, _AS_STATED, builder.Settings(shapes), None, able)
        except ModelError as e:
            return (e.template,)
    return ()


def _is_dynamic(value: onnx.ValueInfoProto) -> bool:
    return any(not dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)
