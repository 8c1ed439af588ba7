"""Every bundled task at a budget: what ships, its metric by a program of its own, its speed, the time taken.

    python tools/bench_tasks.py                      the table of docs/tasks.md
    python tools/bench_tasks.py words tags --budget 0.01

For each task, data are made by `models/task_data.py` and given to `hqp optimize --data`, as docs/tasks.md says; the two
bundled classifiers have data in parts of their own. The original and what ships then run in onnxruntime on the test
part of the split (`split.json`), and the metric is computed here, in numpy and pycocotools: images, masks and tables
are read here, and nothing of `hqp_onnx` is imported, so that an error there cannot hide itself. Speed is that of
report.json: one sample at a time, each model on its best threads.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

ROOT = Path(__file__).parents[1]
HQP = "import sys; from hqp_onnx.__main__ import main; sys.argv[0] = 'hqp'; main()"
Array = np.ndarray
Feeds = dict[str, Array]


def pictures(folder: Path) -> Array:
    """Grey images in the order of their names, float32 [n, 1, height, width] in 0..1."""
    return np.stack([np.asarray(Image.open(f), np.float32)[None] / 255 for f in sorted(folder.glob("*.png"))])


def masks(folder: Path) -> Array:
    return np.stack([np.asarray(Image.open(file), np.int64) for file in sorted(folder.glob("*.png"))])


def mean_iou(outputs: Feeds, wanted: Array, rows: Array) -> float:
    found = next(iter(outputs.values())).argmax(1)
    number = int(max(found.max(), wanted.max())) + 1
    both = [np.sum((found == c) & (wanted == c)) for c in range(number)]
    either = [np.sum((found == c) | (wanted == c)) for c in range(number)]
    return float(np.mean([b / e for b, e in zip(both, either, strict=True) if e]))


def macro_f1(outputs: Feeds, wanted: Array, rows: Array) -> float:
    found, wanted = next(iter(outputs.values())) > 0, wanted > 0
    scores = [2 * np.sum(f & w) / (np.sum(f) + np.sum(w)) for f, w in zip(found.T, wanted.T, strict=True) if w.any()]
    return float(np.mean(scores))


def root_mean_square(outputs: Feeds, wanted: Array, rows: Array) -> float:
    return float(np.sqrt(np.mean(np.square(next(iter(outputs.values())).astype(np.float64) - wanted))))


def nearest_is_right(outputs: Feeds, wanted: Array, rows: Array) -> float:
    vectors = next(iter(outputs.values())).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    right = 0
    for row, vector in enumerate(vectors):
        likeness = vectors @ vector
        likeness[row] = -2
        right += wanted[likeness.argmax()] == wanted[row]
    return right / len(vectors)


def accuracy(outputs: Feeds, wanted: Array, rows: Array) -> float:
    return float(np.mean(next(iter(outputs.values())).argmax(1) == wanted))


def token_accuracy(outputs: Feeds, wanted: Array, rows: Array) -> float:
    found = next(iter(outputs.values())).argmax(-1)
    return float(np.mean((found == wanted)[wanted >= 0]))


def character_errors(outputs: Feeds, wanted: Array, rows: Array) -> float:
    """Edits of all lines over their symbols: the likeliest of each step, repetitions once, without blanks (0)."""
    edits = 0
    for best, line in zip(next(iter(outputs.values())).argmax(-1), wanted, strict=True):
        read = [a for a, before in zip(best, [-1, *best], strict=False) if a != before and a != 0]
        edits += distance(read, [symbol for symbol in line if symbol >= 0])
    return edits / int((wanted >= 0).sum())


def distance(found: list[int], wanted: list[int]) -> int:
    """Of Levenshtein."""
    row = list(range(len(wanted) + 1))
    for number, a in enumerate(found, 1):
        last = row
        row = [number]
        for at, b in enumerate(wanted):
            row.append(min(last[at + 1] + 1, row[at] + 1, last[at] + (a != b)))
    return row[-1]


def detections(outputs: Feeds, rows: Array) -> list[dict[str, object]]:
    """As COCO has them, of [n, 4 + classes, anchors]: boxes of one class overlap by 0.7 at most, 300 an image."""
    found: list[dict[str, object]] = []
    for image, values in zip(rows, next(iter(outputs.values())), strict=True):
        mine: list[dict[str, object]] = []
        for number, shares in enumerate(values[4:], 1):
            most = values[4:].argmax(0) == number - 1
            mine += [
                {"image_id": int(image), "category_id": number, "bbox": box, "score": score}
                for box, score in suppressed(values[:4, most].T, shares[most])
            ]
        found += sorted(mine, key=lambda one: -float(str(one["score"])))[:300]
    return found


def average_precision(outputs: Feeds, file: Path, rows: Array) -> float:
    """By pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        judge = COCOeval(truth, truth.loadRes(detections(outputs, rows)), "bbox")
        judge.params.imgIds = [int(image) for image in rows]
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return float(judge.stats[0])


def suppressed(boxes: Array, scores: Array) -> list[tuple[list[float], float]]:
    """x, y, width and height of boxes given by centre and size: the better of two that overlap by more than 0.7."""
    centres, half = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64) / 2
    all_boxes, kept = np.concatenate([centres - half, centres + half], 1), []
    for number in np.argsort(-scores, kind="stable"):
        box = all_boxes[number]
        if scores[number] > 0.001 and not (overlaps(box, all_boxes[kept]) > 0.7).any():
            kept.append(number)
    sizes = [(box[:2].tolist(), (box[2:] - box[:2]).tolist()) for box in all_boxes[kept]]
    return [([*place, *size], float(score)) for (place, size), score in zip(sizes, scores[kept], strict=True)]


def overlaps(box: Array, others: Array) -> Array:
    sides = np.maximum(np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]), 0)
    both, areas = sides.prod(1), (others[:, 2:] - others[:, :2]).prod(1)
    return both / np.maximum((box[2:] - box[:2]).prod() + areas - both, 1e-12)


def archive(file: Path) -> Feeds:
    with np.load(file) as data:
        return dict(data)


@dataclass(frozen=True)
class Bench:
    """``data`` are words of the command, from the folder on; ``read`` gives feeds and what is wanted.

    ``step_first``: outputs are [steps, n, ...]. ``in_parts``: data are files of the repository, the last of which is
    the test part.
    """

    metric: str
    budget: str
    data: tuple[str, ...]
    read: Callable[[Path], tuple[Feeds, Array | Path]]
    judge: Callable[[Feeds, Array, Array], float] | Callable[[Feeds, Path, Array], float]
    step_first: bool = False
    in_parts: bool = False


FASHION = Bench(
    "top1",
    "0.015",
    tuple(word for part in ("calib", "val", "test") for word in (f"--{part}", f"models/fashion_mnist_{part}.npz")),
    lambda at: (
        {"": archive(at / "models" / "fashion_mnist_test.npz")["input"].astype(np.float32)},
        archive(at / "models" / "fashion_mnist_test.npz")["labels"],
    ),
    accuracy,
    in_parts=True,
)


TASKS = {
    "segments": Bench(
        "miou",
        "0.02",
        ("images", "--targets", "masks"),
        lambda at: ({"": pictures(at / "images")}, masks(at / "masks")),
        mean_iou,
    ),
    "objects": Bench(
        "map",
        "0.02",
        ("images", "--targets", "boxes.json"),
        lambda at: ({"": pictures(at / "images")}, at / "boxes.json"),
        average_precision,
    ),
    "tags": Bench(
        "f1",
        "0.02",
        ("images", "--targets", "tags.csv"),
        lambda at: (
            {"": pictures(at / "images")},
            np.loadtxt(at / "tags.csv", delimiter=",", usecols=range(1, 11)),
        ),
        macro_f1,
    ),
    "signals": Bench(
        "rmse",
        "5%",
        ("signals.npy", "--targets", "values.csv"),
        lambda at: ({"": np.load(at / "signals.npy")}, np.loadtxt(at / "values.csv", delimiter=",", skiprows=1)),
        root_mean_square,
    ),
    "kinds": Bench(
        "recall@1",
        "0.02",
        ("data.npz",),
        lambda at: ({"": archive(at / "data.npz")["input"]}, archive(at / "data.npz")["labels"]),
        nearest_is_right,
    ),
    "words": Bench(
        "top1",
        "0.02",
        ("data.npz",),
        lambda at: (archive(at / "data.npz"), archive(at / "data.npz")["labels"]),
        accuracy,
    ),
    "letters": Bench(
        "token-accuracy",
        "0.01",
        ("data.npz",),
        lambda at: (archive(at / "data.npz"), archive(at / "data.npz")["labels"]),
        token_accuracy,
    ),
    "lines": Bench(
        "cer",
        "0.02",
        ("data.npz",),
        lambda at: ({"": archive(at / "data.npz")["input"]}, archive(at / "data.npz")["labels"]),
        character_errors,
        step_first=True,
    ),
    "resnet18": FASHION,
    "mobilenet_v3_small": FASHION,
}


def outputs_of(model: Path, feeds: Feeds, rows: Array, step_first: bool = False) -> Feeds:
    """Of each sample, samples first."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    inputs = [x.name for x in session.get_inputs()]
    given = {name: feeds.get(name, feeds.get(""))[rows] for name in inputs}
    parts = [session.run(None, {name: x[at : at + 50] for name, x in given.items()}) for at in range(0, len(rows), 50)]
    whole = [np.concatenate(part, 1 if step_first else 0) for part in zip(*parts, strict=True)]
    return {x.name: y.swapaxes(0, 1) if step_first else y for x, y in zip(session.get_outputs(), whole, strict=True)}


def prepared(name: str, folder: Path, samples: int) -> tuple[Path, Path, list[str]]:
    """Model, where data are, and the words of the command that name them."""
    bench = TASKS[name]
    if bench.in_parts:
        return ROOT / "models" / f"{name}.onnx", ROOT, list(bench.data)
    at = folder / name
    made = ["models/task_data.py", name, str(at), "--samples", str(samples)]
    subprocess.run([sys.executable, *made], cwd=ROOT, check=True)
    words = [str(at / word) if not word.startswith("--") else word for word in bench.data]
    return ROOT / "models" / "tasks" / f"{name}.onnx", at, ["--data", *words]


def measured(name: str, folder: Path, samples: int, budget: str | None) -> str:
    """A line of the table."""
    bench, out = TASKS[name], folder / f"out_{name}"
    model, at, data = prepared(name, folder, samples)
    allowed = budget or bench.budget
    words = [str(model), *data, "--metric", bench.metric, "--max-drop", allowed, "--quiet", "-o", str(out)]
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", HQP, "optimize", *words], cwd=ROOT, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    report = json.loads((out / "report.json").read_text())
    feeds, wanted = bench.read(at)
    rows = np.arange(len(wanted)) if bench.in_parts else np.array(json.loads((out / "split.json").read_text())["test"])
    wanted = wanted if isinstance(wanted, Path) else wanted[rows]
    shipped = Path(report["shipped"])
    values = [bench.judge(outputs_of(path, feeds, rows, bench.step_first), wanted, rows) for path in (model, shipped)]
    row = report[report["ships"]]
    said = [report["baseline"]["metric"], row["metric"]]
    worst = max(abs(a - b) for a, b in zip(values, said, strict=True))
    speed = report["baseline"]["latency_ms"] / row["latency_ms"]
    sizes = [path.stat().st_size / 1e3 for path in (model, shipped)]
    return (
        f"| {name} | {bench.metric} | {allowed} | {values[0]:.4f} | {values[1]:.4f} | {worst:.0e} | {speed:.2f} | "
        f"{sizes[0]:.0f} | {sizes[1]:.0f} | {seconds:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", choices=[*TASKS, []], help="all, if none is named")
    parser.add_argument("--samples", type=int, default=1500)
    parser.add_argument("--budget", help="instead of the task's own")
    options = parser.parse_args()
    where = f"{os.cpu_count()} cores {platform.machine()}"
    print(f"{options.samples} samples; onnxruntime {onnxruntime.__version__}, {where}\n")
    print("| task | metric | budget | original | ships | beside hqp's | times as fast | kB | ships, kB | seconds |")
    print(f"|{'---|' * 10}")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.tasks or TASKS:
            print(measured(name, Path(folder), options.samples, options.budget), flush=True)


if __name__ == "__main__":
    main()
