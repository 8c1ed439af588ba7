"""Mistakes that people make with metrics and data, and the line that `hqp` prints for each.

    python tools/check_traps.py            # the table of docs/metrics.md, about a minute

The data are those of the bundled models. Each command runs as a user would run it; the line is the last that it says
in warning or error of what the row is about. Exit code 1 if one says nothing.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "models"
SMALL, RESIDUAL, TASKS = (MODELS / name for name in ("mobilenet_v3_small.onnx", "resnet18.onnx", "tasks"))
HQP = "import sys; from hqp_onnx.__main__ import main; sys.argv[0] = 'hqp'; main()"
QUICKLY = ("--objective", "sparsity", "--saliency", "l2", "--no-compensate", "--precision", "fp32", "--step", "0.5")


def make_data(at: Path) -> None:
    """Files of samples in ``at``, each wrong in one way."""
    with np.load(MODELS / "fashion_mnist_val.npz") as data:
        x, labels = data["input"][:600].astype(np.float32), data["labels"][:600].astype(np.int64)
    few = np.flatnonzero(labels < 3)
    for name, (inputs, targets) in {
        "good": (x, labels),
        "calib": (x[300:], labels[300:]),
        "val": (x[:300], labels[:300]),
        "eight": (x[300:308], labels[300:308]),
        "shuffled": (x, np.random.default_rng(0).permutation(labels)),
        "unscaled": (x / 255, labels),
        "same": (np.repeat(x[:2], 150, 0), np.repeat(labels[:2], 150)),
        "few": (x[few], labels[few]),
    }.items():
        np.savez(at / f"{name}.npz", input=inputs, labels=targets)
    np.savez(at / "unlabelled.npz", input=x / 255)
    np.savez(at / "zeros.npz", input=np.zeros_like(x))
    model = onnx.load(SMALL)
    model.graph.node.append(onnx.helper.make_node("ArgMax", [model.graph.output[0].name], ["answer"], axis=1))
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("answer", onnx.TensorProto.INT64, ["n"]))
    onnx.save(model, at / "argmax.onnx")
    for part, begin in {"calib": 0, "test": 40, "val": 80}.items():
        (at / "imgs" / part).mkdir(parents=True)
        for number, image in enumerate(x[begin : begin + 40]):
            Image.fromarray(image[0].astype(np.uint8)).save(at / "imgs" / part / f"{number}.png")
    for task in ("signals", "tags", "kinds", "segments"):
        made = ["models/task_data.py", task, str(at / task), "--samples", "100"]
        subprocess.run([sys.executable, *made], cwd=ROOT, check=True)
    masks = [(file, file.read_bytes()) for file in sorted((at / "segments" / "masks").glob("*.png"))]
    for (file, _), (_, other) in zip(masks, (*masks[1:], masks[0]), strict=True):
        file.write_bytes(other)


def traps(at: Path) -> Iterator[tuple[str, list[str | Path], str]]:
    """What is done wrong, the command, and what the line must speak of."""

    def agreement(task: str, *data: str) -> list[str | Path]:
        return [
            "evaluate",
            TASKS / f"{task}.onnx",
            "--reference",
            TASKS / f"{task}.onnx",
            "--metric",
            "agreement",
            *data,
        ]

    def job(calib: str, val: str, model: Path = SMALL) -> list[str | Path]:
        return ["optimize", model, "--calib", f"{calib}.npz", "--val", f"{val}.npz", *QUICKLY, "--force", "-o", "out"]

    signals = ("--data", "signals/signals.npy", "--targets", "signals/values.csv")
    yield "`agreement` of values", agreement("signals", *signals), "rmse"
    tags = ("--data", "tags/images", "--targets", "tags/tags.csv")
    yield "`agreement` of tags", agreement("tags", *tags), "f1"
    yield "`agreement` of an embedding", agreement("kinds", "--data", "kinds/data.npz"), "recall@1"
    yield "`top1` of values", ["evaluate", TASKS / "signals.onnx", *signals, "--metric", "top1"], "rmse"
    yield "targets, and no metric", ["evaluate", TASKS / "signals.onnx", *signals], "rmse"
    yield "the parent of the sets", ["evaluate", SMALL, "--data", "imgs", "--preprocess", '{"scale": 1}'], "sub-folders"
    yield "three classes for a model of ten", ["evaluate", SMALL, "--data", "few.npz"], "no sample"
    yield "shuffled labels", ["evaluate", SMALL, "--data", "shuffled.npz"], "chance"
    segments = ("--data", "segments/images", "--targets", "segments/masks", "--metric", "miou")
    yield "masks of other images", ["evaluate", TASKS / "segments.onnx", *segments], "targets of other samples"
    yield (
        "pixels of 0..1 for a model of 0..255",
        ["evaluate", SMALL, "--data", "unscaled.npz"],
        "not what the model expects",
    )
    yield "nearly all answers are one class", ["evaluate", SMALL, "--data", "unscaled.npz"], "original's answers"
    yield "the same in calibration data without labels", job("unlabelled", "val", RESIDUAL), "BatchNormalization"
    yield "calibration data of zeros", job("zeros", "val"), "everywhere"
    yield "calibration data that repeat two samples", job("same", "val"), "differ"
    yield "the same calibration and validation data", job("val", "val"), "drops on them are too small"
    yield "eight calibration samples", job("eight", "val"), "calibration samples are few"
    fisher = ["--saliency", "fisher", "--metric", "exact-match"]
    yield (
        "`--saliency fisher` of a model that ends in ArgMax",
        [*job("good", "good", Path("argmax.onnx")), *fisher],
        "ArgMax",
    )
    yield "a warning, and `--strict`", ["evaluate", SMALL, "--data", "shuffled.npz", "--strict"], "--strict was given"


def line_of(command: list[str | Path], about: str, at: Path) -> str:
    words = [sys.executable, "-c", HQP, *map(str, command), "--quiet"]
    done = subprocess.run(words, cwd=at, capture_output=True, text=True)
    said = [line for line in (done.stdout + done.stderr).splitlines() if re.match("warning: |error: ", line)]
    return next((line for line in reversed(said) if about in line), "")


def main() -> None:
    print("| what is wrong | what is printed |\n|---|---|")
    silent = 0
    with tempfile.TemporaryDirectory() as name:
        at = Path(name)
        make_data(at)
        for what, command, about in traps(at):
            line = line_of(command, about, at)
            silent += not line
            print(f"| {what} | {f'`{line}`' if line else 'nothing'} |", flush=True)
    sys.exit(silent > 0)


if __name__ == "__main__":
    main()
