"""Models in a real TensorRT that needs no GPU: what it refuses, what becomes of INT8 weights, build times and memory.

    python tools/check_tensorrt.py                       the bundled models, and the layouts of single operators
    python tools/check_tensorrt.py MODELS --data FILE    files and folders of .onnx; DATA for all whose inputs they fit
    python tools/check_tensorrt.py --layouts             the layouts alone

tools/tensorrt_zoo.py asks the same of many models.

A model is built by TensorRT for RTX as it is, in float16, in INT8 as ``hqp quantize --target tensorrt-rtx --precision
int8`` lays it out (weights rounded to nearest, which is quick), and pruned by 30 %, to widths as that target takes
them, and in INT8. Each build is a process of its own, whose peak memory is that of the process. "weights" is the
builder's "Total Weights Memory"; "file" are the bytes of all weights and scales of the built model. Models without data
that fit are calibrated on random inputs, which says nothing of their accuracy.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import hqp_onnx
from hqp_onnx.engine import builder, detect
from hqp_onnx.engine.library import TENSORRT_RTX
from hqp_onnx.engine.parsing import refusals
from hqp_onnx.engine.plan import Plan
from hqp_onnx.engine.profiles import Profile
from hqp_onnx.errors import HqpError
from hqp_onnx.graphs import model_io
from hqp_onnx.graphs.shapes import example_feeds
from hqp_onnx.model import open_data, open_model
from hqp_onnx.passes.convert_fp16 import in_float16
from hqp_onnx.passes.quantize import Recipe
from hqp_onnx.runtimes.targets import Target, target
from hqp_onnx.steps.quantize import quantize_model

ROOT = Path(__file__).parents[1]
AS_STATED = Plan("fp32", None, None, True, (), False, False, ())
BUNDLED = ("mobilenet_v3_small", "resnet18")
SAMPLES = 16
QUICK = Recipe(equalize=False, correct_bias=False, round_weights=False)


def everywhere(ours: Target) -> Target:
    """Pairs wherever a tensor is float, as a quantizer without rules for TensorRT lays them."""
    more = frozenset(
        {"Relu", "Add", "Mul", "Concat", "HardSwish", "Sigmoid", "HardSigmoid", "GlobalAveragePool", "Softmax"}
    )
    moves = frozenset({"Reshape", "Transpose", "MaxPool", "Flatten"})
    return replace(ours, fuses_sum=False, outputs=ours.weighted, follows=more, same_range=moves, group_channels=1)


def stored(model: onnx.ModelProto) -> int:
    """Bytes of weights and scales; a zero of symmetric Q/DQ is none that an engine keeps."""
    zeros = {node.input[2] for node in model.graph.node if "Quantize" in node.op_type and len(node.input) > 2}
    zeros |= {node.input[2] for node in model.graph.node if "Dequantize" in node.op_type and len(node.input) > 2}
    sizes = {t.name: onnx.numpy_helper.to_array(t).nbytes for t in model.graph.initializer if t.name not in zeros}
    return sum(sizes.values())


def build(file: Path, feeds: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Parse and build ``file`` in this process."""
    able, start = detect(TENSORRT_RTX), time.perf_counter()
    model = onnx.load(file)
    refused = refusals(model, TENSORRT_RTX)
    parsed = time.perf_counter()
    found: dict[str, Any] = {"refused": [str(one) for one in refused], "stored": stored(model)}
    if refused:
        return found
    dynamic = [
        v.name for v in model.graph.input if any(not d.HasField("dim_value") for d in v.type.tensor_type.shape.dim)
    ]
    shapes = {name: Profile(feeds[name], feeds[name], feeds[name]) for name in dynamic}
    del model
    try:
        engine = builder.build(file, AS_STATED, builder.Settings(shapes), None, able)
    except HqpError as e:
        return found | {"refused": [str(e)]}
    times = {"parse_s": parsed - start, "build_s": time.perf_counter() - parsed}
    peak = int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) / 1024  # Linux
    return found | times | {"weights": engine.weights_bytes, "engine": len(engine.plan), "peak_mb": peak}


def apart(model: onnx.ModelProto, feeds: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """``build`` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        model_io.save(model, file)
        words = [sys.executable, __file__, "--build", str(file), "--feeds", json.dumps(feeds)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=900)
        if done.returncode:
            return {"refused": [f"the process ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"]}
        lines = done.stdout.strip().splitlines()
        found: dict[str, Any] = json.loads(lines[-1]) if lines else {"refused": ["the process ended without a word"]}
        return found


def variants(
    file: Path, data: str | None
) -> Iterator[tuple[str, Callable[[], onnx.ModelProto], dict[str, tuple[int, ...]]]]:
    """What is built of a model: a name, what makes it, the shapes of its inputs."""
    opened = open_model(file)
    feeds = example_feeds(opened.graph, leading=opened.session.batch or 1)
    shapes = {name: tuple(value.shape) for name, value in feeds.items()}
    samples: Any = data
    try:
        dataset = open_data(opened, samples)
    except (HqpError, TypeError):
        rng = np.random.default_rng(0)
        dataset = open_data(opened, {name: noise(rng, value, SAMPLES) for name, value in feeds.items()})
    few = dataset.first(SAMPLES)
    layout = target("tensorrt-rtx", reduced_range=False)
    yield "as it is", lambda: onnx.load(file), shapes
    yield "float16", lambda: model_io.to_proto(in_float16(opened.graph).graph), shapes
    yield "INT8", lambda: model_io.to_proto(quantize_model(opened, few, layout, "minmax", recipe=QUICK).graph), shapes

    def pruned() -> onnx.ModelProto:
        smaller = open_model(hqp_onnx.prune(onnx.load(file), 0.3, multiple_of=layout.channel_multiple))
        return model_io.to_proto(quantize_model(smaller, few, layout, "minmax", recipe=QUICK).graph)

    yield "pruned, INT8", pruned, shapes


def noise(rng: np.random.Generator, like: np.ndarray, count: int) -> np.ndarray:
    """Random samples of the type and shape of ``like``; integers are small, as indices must be."""
    shape = (count * (len(like) if like.ndim else 1), *like.shape[1:])
    if like.dtype.kind == "f":
        return rng.uniform(0, 1, shape).astype(like.dtype)
    return rng.integers(0, 2, shape).astype(like.dtype)


def check(file: Path, data: str | None) -> list[dict[str, Any]]:
    """A row of every variant."""
    rows, taken = [], True
    try:
        for name, make, shapes in variants(file, data):
            try:
                row = apart(make(), shapes)
            except HqpError as e:
                row = {"refused": [f"not made: {e}"], "made": False}
            rows.append({"model": file.stem, "variant": name, **row})
            print(line(rows[-1]), flush=True)
    except HqpError as e:
        print(f"| {file.stem} | not opened: {e} |", flush=True)
    taken = bool(rows) and not rows[0]["refused"]
    for row in rows:
        row["worse"] = taken and bool(row["refused"])
    return rows


def line(row: dict[str, Any]) -> str:
    if row["refused"]:
        return f"| {row['model']} | {row['variant']} | refused: {'; '.join(row['refused'][:3])} |"
    ratio = row["weights"] / row["stored"]
    return (
        f"| {row['model']} | {row['variant']} | {row['stored'] / 1e6:.2f} | {row['weights'] / 1e6:.2f} | {ratio:.2f} "
        f"| {row['engine'] / 1e6:.2f} | {row['parse_s']:.2f} | {row['build_s']:.2f} | {row['peak_mb']:.0f} |"
    )


def layout_table() -> list[dict[str, Any]]:
    """Weights and engines of the small models: float32, float16, INT8 by our rules, INT8 with pairs everywhere."""
    sys.path.insert(0, str(ROOT / "tests" / "engine"))
    from layouts import layouts

    print("\n| layout | float16 | INT8 bytes | INT8, our rules | pairs everywhere | engine, fp16 | ours | everywhere |")
    print("|---|---|---|---|---|---|---|---|")
    rng, rows = np.random.default_rng(0), []
    ours = target("tensorrt-rtx", reduced_range=False)
    for name, proto in layouts().items():
        opened = open_model(proto)
        shape = opened.session.inputs[0].shape
        data = open_data(opened, {"x": rng.normal(0, 1, (SAMPLES * shape[0], *shape[1:])).astype(np.float32)})
        half = apart(model_io.to_proto(in_float16(opened.graph).graph), {})
        naive, placed = (
            apart(
                model_io.to_proto(in_float16(quantize_model(opened, data, layout, "minmax", recipe=QUICK).graph).graph),
                {},
            )
            for layout in (everywhere(ours), ours)
        )
        least = sum(onnx.numpy_helper.to_array(t).size for t in proto.graph.initializer if len(t.dims) > 1)
        row = {"layout": name, "int8_bytes": least, "float16": half, "ours": placed, "everywhere": naive}
        rows.append(row)
        said = [f"{x['weights'] / 1e3:.1f}" if "weights" in x else "refused" for x in (half, placed, naive)]
        sizes = [f"{x['engine'] / 1e3:.0f}" if "engine" in x else "" for x in (half, placed, naive)]
        print(f"| {name} | {said[0]} | {least / 1e3:.1f} | {said[1]} | {said[2]} | {' | '.join(sizes)} |", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, help="files and folders of .onnx")
    parser.add_argument("--data", help="as hqp takes them; random inputs for models that they do not fit")
    parser.add_argument("--layouts", action="store_true", help="the layouts alone")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--feeds", default="{}", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build is not None:
        print(json.dumps(build(options.build, {k: tuple(v) for k, v in json.loads(options.feeds).items()})))
        return
    rows: list[dict[str, Any]] = []
    if not options.layouts:
        files = [f for path in options.models for f in (sorted(path.glob("**/*.onnx")) if path.is_dir() else [path])]
        data = options.data
        if not files:
            files, data = (
                [ROOT / "models" / f"{name}.onnx" for name in BUNDLED],
                str(ROOT / "models/fashion_mnist_calib.npz"),
            )
        print("| model | variant | file MB | weights MB | ratio | engine MB | parse s | build s | peak MB |")
        print("|---|---|---|---|---|---|---|---|---|")
        rows = [row for file in files for row in check(file, data)]
        worse = [row for row in rows if row["worse"]]
        print(
            f"\n{len(files)} models, {len(rows)} built or refused; refused though the original was taken: {len(worse)}"
        )
    found = layout_table() if options.layouts or not options.models else []
    if options.json is not None:
        options.json.write_text(json.dumps({"models": rows, "layouts": found}, indent=1))


if __name__ == "__main__":
    main()
