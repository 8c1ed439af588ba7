"""TensorRT engines. Nothing outside this package imports TensorRT, and here it is imported on use only.

library      which TensorRT: that of the machine's GPU, or the one for RTX GPUs
capability   what a TensorRT version and a device can do, by asking them
plan         which of TensorRT's ways to INT8 and FP16 is taken, and why: a pure function of the capability
profiles     --shapes: minimum, optimum and maximum of every dynamic input
gpus         --for-gpu: compute capabilities, and GPUs by name
options      what `hqp build` is asked for
build_report what it says of its result
cache        TensorRT's calibration cache as text
calibrator   Polygraphy's calibrator over checked batches
builder      Polygraphy's loaders composed: ONNX file -> engine, layers
trtexec      the same build as a command, for a machine that runs this program and no TensorRT
device, timing, energy   CUDA events, latency and layer times of an engine, joules
"""

from __future__ import annotations

from hqp_onnx.engine.build_report import BuildReport, BuiltOn
from hqp_onnx.engine.capability import Capability, detect
from hqp_onnx.engine.device import Device
from hqp_onnx.engine.library import LIBRARIES, Library, installed, library, of_engine
from hqp_onnx.engine.options import BuildOptions
from hqp_onnx.engine.plan import PATHS, PRECISIONS, SCALES, Plan, Request, choose
from hqp_onnx.engine.timing import EngineLatency, measure

__all__ = [
    "LIBRARIES",
    "PATHS",
    "PRECISIONS",
    "SCALES",
    "BuildOptions",
    "BuildReport",
    "BuiltOn",
    "Capability",
    "Device",
    "EngineLatency",
    "Library",
    "Plan",
    "Request",
    "choose",
    "detect",
    "installed",
    "library",
    "measure",
    "of_engine",
]
