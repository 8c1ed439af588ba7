"""Bad inputs of ``hqp build``; see bad_inputs.py."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx.parser
from conftest import MODELS

GOOD = MODELS / "mobilenet_v3_small.onnx"


def bad_builds(folder: Path) -> Iterator[tuple[str, list[str], str]]:
    """(what is wrong, arguments of hqp, a part of the error); files are made in ``folder``."""
    out = ["-o", str(folder / "out" / "model.engine")]
    good = str(folder / "build.npz")
    np.savez(good, input=np.zeros((4, 1, 28, 28), np.uint8))

    def build(*more: str, model: object = GOOD, version: str = "10.3.0") -> list[str]:
        return ["build", str(model), "--for", version, *out, *more]

    engine, disguised = folder / "model.engine", folder / "disguised.onnx"
    for file in (engine, disguised):
        file.write_bytes(b"ftrt" + bytes(100))
    yield "an engine as the model", build(model=engine), "engine already"
    yield "an engine called .onnx", build(model=disguised), "engine already"
    yield "no such model to build", build(model=folder / "none.onnx"), "no such file"
    asymmetric = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[n, 3] x) => (float[n, 3] y)
         <float s = {0.1}, uint8 z = {7}> { q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }"""
    )
    onnx.save(asymmetric, folder / "uint8.onnx")
    yield "Q/DQ of another runtime", build(model=folder / "uint8.onnx"), "--target tensorrt"
    yield "INT8 without data", build("--precision", "int8"), "--data"
    yield "calibration data that do not fit", build("--data", str(folder / "none.npz")), "none.npz"
    yield "a shape of an unknown input", build("--shapes", "image:1x1x28x28"), "--shapes image"
    yield "a shape that does not fit", build("--shapes", "input:1x3x28x28"), "--shapes input"
    yield "a shape that cannot be read", build("--shapes", "input=1x1x28x28"), "NAME:MIN,OPT,MAX"
    yield "no TensorRT version", build(version="newest"), "newest"
    yield "a TensorRT version that is too old", build(version="7.1.3"), "8.0"
    yield "implicit INT8 on TensorRT 11", build("--data", good, "--path", "implicit", version="11.4.0"), "no implicit"
    yield "strong typing on TensorRT 8", build("--strongly-typed", version="8.6.2"), "--strongly-typed"
    yield (
        "a DLA with a range of shapes",
        build("--dla", "0", "--shapes", "input:1x1x28x28,2x1x28x28,4x1x28x28"),
        "--dla",
    )
    yield "a folder as the engine", [*build()[:-1], str(folder)], "is a folder"
    yield "a model and an engine to time", ["benchmark", str(GOOD), str(engine)], "not both"
    yield "a GPU for a TensorRT that builds on its own", build("--for-gpu", "8.6"), "Use --target tensorrt-rtx"
    yield "a GPU of no plain name", build("--for-gpu", "RTX"), "--for-gpu RTX"
    yield "engines for RTX elsewhere", build("--target", "tensorrt-rtx"), "Use --for-gpu"
    yield "an engine for no TensorRT", ["inspect", str(GOOD), "--target", "openvino"], "tensorrt-rtx"
    yield "a workspace of nothing", build("--workspace", "0"), "--workspace"
    cache = folder / "old.cache"
    cache.write_text("TRT-8502-EntropyCalibration2\ninput: 3c008912\n")
    yield "a cache of another version", build("--calibration-cache", str(cache)), "TRT-8502"
    cache_text = folder / "text.cache"
    cache_text.write_text("something else\n")
    yield "a cache that is none", build("--calibration-cache", str(cache_text)), "not a TensorRT calibration cache"
    if importlib.util.find_spec("tensorrt") is None:
        yield "no TensorRT to build with", ["build", str(GOOD), "--target", "tensorrt", *out], "TensorRT"
        (folder / "built.engine").write_bytes(b"ftrt")
        yield "no TensorRT to time an engine with", ["benchmark", str(folder / "built.engine")], "TensorRT"
