"""Whether reports tell the truth: 20 small optimizations, each shipped file judged again without hqp_onnx.

    python tools/check_reports.py               # the table of docs/trust.md, a few minutes
    python tools/check_reports.py --only mlp    # those whose names begin so

The models are made here, of kinds that differ (dense, convolutions, residual, depthwise with a gate, grouped,
attention, sequences, several inputs or outputs, fixed batches), and so are metrics, targets, precisions and searches.
What is shipped is then run by plain onnxruntime (plain OpenVINO for that target) on one thread, with metrics written
here in numpy, and held to report.json: the metric of the original and of the shipped model, the drop on the validation
data inside the budget, the bytes of the file, and whether it is faster, where the difference is clear.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort

from hqp_onnx import Options, optimize
from hqp_onnx.runtimes.machine import processor

Arrays = Mapping[str, np.ndarray]
Run = Callable[[Arrays], Arrays]
CLEAR = 1.3  # a ratio of times that noise does not turn round
ROWS = {"calib": 128, "val": 256, "test": 256}


@dataclass(frozen=True)
class Net:
    """A model: signature and body as onnx.parser takes them, shapes of weights, and of one sample of each input."""

    signature: str
    body: str
    shapes: Mapping[str, tuple[int, ...]]
    inputs: Mapping[str, tuple[int, ...]]
    batch: int | None = None


IMAGE = {"x": (3, 12, 12)}
TO_LOGITS = "p = GlobalAveragePool(z) f = Flatten(p) y = Gemm<transB=1>(f, wy, by)"
NETS = {
    "mlp": Net(
        "(float[n,20] x) => (float[n,6] y)",
        "a = Gemm<transB=1>(x, w1, b1) r = Relu(a) c = Gemm<transB=1>(r, w2, b2) f = Relu(c) "
        "y = Gemm<transB=1>(f, wy, by)",
        {"w1": (64, 20), "b1": (64,), "w2": (48, 64), "b2": (48,), "wy": (6, 48), "by": (6,)},
        {"x": (20,)},
    ),
    "conv": Net(
        "(float[n,3,12,12] x) => (float[n,5] y)",
        f"a = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(a) c = Conv<pads=[1,1,1,1]>(r, w2) z = Relu(c) {TO_LOGITS}",
        {"w1": (32, 3, 3, 3), "b1": (32,), "w2": (32, 32, 3, 3), "wy": (5, 32), "by": (5,)},
        IMAGE,
    ),
    "residual": Net(
        "(float[n,3,12,12] x) => (float[n,5] y)",
        "a = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(a) c = Conv<pads=[1,1,1,1]>(r, w2) g = Relu(c) "
        f"d = Conv<pads=[1,1,1,1]>(g, w3) s = Add(d, r) z = Relu(s) {TO_LOGITS}",
        {"w1": (24, 3, 3, 3), "b1": (24,), "w2": (40, 24, 3, 3), "w3": (24, 40, 3, 3), "wy": (5, 24), "by": (5,)},
        IMAGE,
    ),
    "gated": Net(
        "(float[n,3,12,12] x) => (float[n,8] y)",
        "a = Conv(x, w1, b1) h = HardSwish(a) c = Conv<group=32, pads=[1,1,1,1]>(h, w2) r = Relu(c) "
        "q = GlobalAveragePool(r) e = Conv(q, w3, b3) o = HardSigmoid(e) m = Mul(r, o) d = Conv(m, w4) "
        f"z = Relu(d) {TO_LOGITS}",
        {"w1": (32, 3, 1, 1), "b1": (32,), "w2": (32, 1, 3, 3), "w3": (32, 32, 1, 1), "b3": (32,),
         "w4": (24, 32, 1, 1), "wy": (8, 24), "by": (8,)},
        IMAGE,
    ),
    "grouped": Net(
        "(float[n,3,12,12] x) => (float[n,5] y)",
        "a = Conv(x, w1, b1) r = Relu(a) c = Conv<group=4, pads=[1,1,1,1], strides=[2,2]>(r, w2) l = LeakyRelu(c) "
        f"k = Concat<axis=1>(l, l) d = Conv(k, w3) z = Relu(d) {TO_LOGITS}",
        {"w1": (32, 3, 1, 1), "b1": (32,), "w2": (32, 8, 3, 3), "w3": (24, 64, 1, 1), "wy": (5, 24), "by": (5,)},
        IMAGE,
    ),
    "attention": Net(
        "(float[n,10,16] x) => (float[n,5] y)",
        "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) t = Transpose<perm=[0,2,1]>(k) s = MatMul(q, t) "
        "m = Softmax<axis=-1>(s) h = MatMul(m, v) o = MatMul(h, wo) u = Add(o, x) g = MatMul(u, w1) r = Relu(g) "
        "d = MatMul(r, w2) z = Add(d, u) f = ReduceMean<axes=[1], keepdims=0>(z) y = Gemm<transB=1>(f, wy, by)",
        {"wq": (16, 16), "wk": (16, 16), "wv": (16, 24), "wo": (24, 16), "w1": (16, 64), "w2": (64, 16),
         "wy": (5, 16), "by": (5,)},
        {"x": (10, 16)},
    ),
    "sequence": Net(
        "(float[n,8,l] x) => (float[n,5] y)",
        "a = Conv<pads=[2,2]>(x, w1, b1) r = Relu(a) c = Conv<strides=[2]>(r, w2) z = Relu(c) p = GlobalMaxPool(z) "
        "f = Flatten(p) y = Gemm<transB=1>(f, wy, by)",
        {"w1": (32, 8, 5), "b1": (32,), "w2": (32, 32, 3), "wy": (5, 32), "by": (5,)},
        {"x": (8, 30)},
    ),
    "twoinputs": Net(
        "(float[n,16] x, float[n,12] w) => (float[n,5] y)",
        "a = Gemm<transB=1>(x, w1, b1) r = Relu(a) c = Gemm<transB=1>(w, w2) g = Sigmoid(c) m = Mul(r, g) "
        "f = Concat<axis=1>(m, r) y = Gemm<transB=1>(f, wy, by)",
        {"w1": (48, 16), "b1": (48,), "w2": (48, 12), "wy": (5, 96), "by": (5,)},
        {"x": (16,), "w": (12,)},
    ),
    "twooutputs": Net(
        "(float[n,3,12,12] x) => (float[n,5] y, float[n,4,12,12] mask)",
        "a = Conv<pads=[1,1,1,1]>(x, w1, b1) z = Relu(a) c = Conv<pads=[1,1,1,1]>(z, w2) h = Relu(c) "
        f"mask = Conv(h, w3) {TO_LOGITS}",
        {"w1": (32, 3, 3, 3), "b1": (32,), "w2": (24, 32, 3, 3), "w3": (4, 24, 1, 1), "wy": (5, 32), "by": (5,)},
        IMAGE,
    ),
    "fixed": Net(
        "(float[8,3,12,12] x) => (float[8,5] y)",
        'a = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w1, b1) r = Clip(a, lo, hi) '
        f"c = Conv(r, w2) z = Relu(c) {TO_LOGITS}",
        {"w1": (32, 3, 3, 3), "b1": (32,), "w2": (40, 32, 1, 1), "wy": (5, 40), "by": (5,), "lo": (), "hi": ()},
        IMAGE,
        batch=8,
    ),
}  # fmt: skip

MASKS = '''
import numpy as np

def masks(outputs, labels):
    """Share of the pixels whose class is that of the sample's label, four in turn."""
    return (outputs["mask"].argmax(1) == (labels % 4)[:, None, None]).mean((1, 2))
'''


@dataclass(frozen=True)
class Case:
    """A model, a metric and what else is asked for."""

    net: str
    metric: str = "top1"
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """The options."""
        return ", ".join(f"{name} {value}" for name, value in self.options.items()) or "as usual"


CASES = [
    Case("mlp"),
    Case("mlp", "agreement", {"precision": "int8", "max_drop": 0.05}),
    Case("mlp", "top1", {"precision": "fp32", "objective": "macs", "max_drop": 0.0}),
    Case("conv", "top1", {"precision": "fp32", "search": "linear", "step": 0.1, "max_drop": 0.1}),
    Case("conv", "top1", {"target": "openvino", "max_drop": 0.05}),
    Case("conv", "top1", {"recover": 1, "precision": "int8", "max_drop": 0.05, "step": 0.1}),
    Case("residual", "top1", {"precision": "int8", "target": "tensorrt", "max_drop": 0.2}),
    Case("residual", "agreement", {"confidence": 0.95, "max_drop": 0.08}),
    Case("gated", "top1", {"saliency": "obs", "max_drop": 0.2}),
    Case("gated", "top5", {"precision": "int8", "calibration": "percentile:99.9"}),
    Case("grouped", "top1", {"saliency": "taylor", "precision": "int8", "max_drop": 0.1}),
    Case("grouped", "agreement", {"target": "openvino", "precision": "int8", "max_drop": 0.1}),
    Case("attention", "top1", {"refit": "in-order", "max_drop": 0.2}),
    Case("attention", "agreement", {"precision": "fp32", "saliency": "l2", "compensate": False, "max_drop": 0.3}),
    Case("sequence", "top1", {"precision": "fp16", "max_drop": 0.05}),
    Case("sequence", "agreement", {"precision": "int8", "calibration": "minmax", "max_drop": 0.1}),
    Case("twoinputs", "agreement", {"max_drop": 0.2, "multiple_of": 4}),
    Case("twooutputs", "masks", {"precision": "int8", "max_drop": 0.05}),
    Case("fixed", "top1", {"precision": "int8", "max_drop": 0.05, "branches": False}),
    Case("fixed", "top1", {"max_drop": 1.0, "min_width": 0.5}),
]


def made(net: Net, folder: Path, rng: np.random.Generator) -> None:
    """``model.onnx`` with seeded weights, and data whose labels are its answers, but for a tenth."""
    text = f'<ir_version: 8, opset_import: ["" : 17]> net {net.signature} {{ {net.body} }}'
    model = onnx.parser.parse_model(text)
    limits = {"lo": np.float32(0), "hi": np.float32(6)}
    for name, shape in net.shapes.items():
        values = limits.get(name, rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:]) / 2)))
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values, np.float32), name))
    feeds = {k: rng.standard_normal((sum(ROWS.values()), *s)).astype(np.float32) for k, s in net.inputs.items()}
    onnx.save(model, folder / "model.onnx")
    logits = plain(folder / "model.onnx", "onnxruntime", net.batch)(feeds)["y"]
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "by")
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) - logits.mean(0), "by"))
    onnx.save(model, folder / "model.onnx")
    labels = (logits - logits.mean(0)).argmax(1)
    labels = np.where(rng.random(len(labels)) < 0.1, rng.integers(0, logits.shape[1], len(labels)), labels)
    places = np.cumsum([0, *ROWS.values()])
    for part, start, stop in zip(ROWS, places, places[1:], strict=False):
        np.savez(folder / f"{part}.npz", **{k: v[start:stop] for k, v in feeds.items()}, labels=labels[start:stop])
    (folder / "quality.py").write_text(MASKS)


def plain(file: Path, target: str, batch: int | None) -> Run:
    """The model in its runtime, ``batch`` samples at a time, or all at once."""
    if target == "openvino":
        import openvino as ov

        settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1}
        compiled = ov.Core().compile_model(str(file), "CPU", settings)
        names = [output.name for output in onnx.load(file).graph.output]

        def run(feeds: Arrays) -> Arrays:
            results = compiled(dict(feeds))
            return {name: results[place] for place, name in enumerate(names)}
    else:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]

        def run(feeds: Arrays) -> Arrays:
            return dict(zip(names, session.run(None, dict(feeds)), strict=True))

    def whole(feeds: Arrays) -> Arrays:
        count = len(next(iter(feeds.values())))
        size = batch or count
        parts = [run({k: v[start : start + size] for k, v in feeds.items()}) for start in range(0, count, size)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return whole


def quality(metric: str, model: Run, original: Run, file: Path) -> float:
    """The metric of a model on a file of data."""
    with np.load(file) as arrays:
        feeds = {name: arrays[name] for name in arrays.files if name != "labels"}
        labels = arrays["labels"]
    outputs = model(feeds)
    if metric == "masks":
        return float((outputs["mask"].argmax(1) == (labels % 4)[:, None, None]).mean())
    if metric == "agreement":
        labels = original(feeds)["y"].argmax(1)
    best = outputs["y"].argsort(1)[:, -5 if metric == "top5" else -1 :]
    return float((best == labels[:, None]).any(1).mean())


def speedup(original: Run, shipped: Run, feeds: Arrays) -> float:
    """Median time of the original over that of the shipped, run in turn."""
    ratios = []
    for _ in range(15):
        times = []
        for model in (original, shipped):
            model(feeds)
            start = time.perf_counter()
            for _ in range(20):
                model(feeds)
            times.append(time.perf_counter() - start)
        ratios.append(times[0] / times[1])
    return float(np.median(ratios))


def checked(case: Case, folder: Path, seed: int) -> tuple[list[str], list[str]]:
    """The row of a case, and what its report says wrongly."""
    net, target = NETS[case.net], case.options.get("target", "onnxruntime")
    made(net, folder, np.random.default_rng(seed))
    files = {part: folder / f"{part}.npz" for part in ROWS}
    metric = f"{folder / 'quality.py'}:masks" if case.metric == "masks" else case.metric
    given = {"max_drop": 0.02, "multiple_of": 1, "step": 0.05, "threads": 1, **case.options}
    optimize(Options(folder / "model.onnx", output=folder / "out", metric=metric, **given, **files))
    report = json.loads((folder / "out" / "report.json").read_text())
    file = Path(report["shipped"])
    original, shipped = (plain(path, target, net.batch) for path in (folder / "model.onnx", file))
    row, base = report[report["ships"]], report["baseline"]
    found = {part: [quality(case.metric, m, original, files[part]) for m in (original, shipped)] for part in files}
    with np.load(files["test"]) as arrays:
        feeds = {name: arrays[name][: net.batch or 1] for name in arrays.files if name != "labels"}
    ratio, lost = speedup(original, shipped, feeds), found["val"][0] - found["val"][1]
    near = 1.5 / ROWS["test"]  # a sample whose two best answers are equal but for rounding
    wrong = [
        ("the metric of the original", abs(base["metric"] - found["test"][0]) > near),
        ("the metric", abs(row["metric"] - found["test"][1]) > near),
        ("the metric on the validation data", abs(row["val_metric"] - found["val"][1]) > near),
        ("the drop", abs(row["drop"] - (found["test"][0] - found["test"][1])) > 2 * near),
        ("the budget", lost > given["max_drop"] + near),
        ("the size", row["bytes"] != file.stat().st_size),
        ("the speed", max(row["speedup"], 1 / row["speedup"]) > CLEAR and (row["speedup"] > 1) != (ratio > 1)),
    ]
    metrics = f"{100 * row['metric']:.2f} | {100 * found['test'][1]:.2f}"
    words = [case.net, case.metric, case.words, file.name, metrics, f"{row['speedup']:.2f} | {ratio:.2f}"]
    return words, [name for name, is_wrong in wrong if is_wrong]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="START", help="Models whose names begin so.")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start, false = time.perf_counter(), 0
    print("| model | metric | options | ships | metric %: report | plain code | speedup: report | plain code |")
    print(f"|{'---|' * 8}")
    cases = [case for case in CASES if case.net.startswith(options.only)]
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            words, wrong = checked(case, Path(folder), options.seed)
        print(f"| {' | '.join(words)} |" + (f" wrong: {', '.join(wrong)}" if wrong else ""), flush=True)
        false += bool(wrong)
    print(
        f"\n{len(cases) - false} of {len(cases)} reports are right; {time.perf_counter() - start:.0f} s, {processor()}"
    )
    return false


if __name__ == "__main__":
    sys.exit(main())
