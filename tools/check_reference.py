"""Reference accuracies: what models lose today, and whether they still lose no more.

    make reference
    python tools/check_reference.py --only "resnet18, INT8"
    python tools/check_reference.py --update        # writes what is measured; say in the commit why it changed

models/reference.json says for each row which ``hqp`` commands make a model, from which file and data, what judges it,
and

drop    of the metric against the float model, in points (hundredths), on data that no step saw
error   |y - y_float|^2 / |y_float|^2 of all outputs, the mean over samples: it moves where answers do not, yet

each with the half width of its 95 % interval when it was written (of the drop from paired samples; of the error at
least half of it, since machines round differently). A row fails where either is above by more than that. Data are a
file, or a task of models/task_data.py and its part, as "words train", and the number of samples; without "calib", steps
have no data. A row whose files are not here is skipped, and says so. Exit code 1 if any failed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import hqp_onnx

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "models"))
import task_data  # noqa: E402  of this checkout, beside the models

FILE = ROOT / "models/reference.json"
MACHINES = 0.5  # of the error: what may differ between machines


@dataclass(frozen=True)
class Figures:
    """Drop and error, each with the half width of its interval."""

    drop: float
    drop_within: float
    error: float
    error_within: float

    def verdict(self, now: Figures) -> str:
        """What is wrong with what is measured ``now``; "" if nothing is."""
        found = []
        if not now.drop <= self.drop + self.drop_within:  # NaN fails, too
            found.append(f"drop {now.drop:+.2f} points; expected {self.drop:+.2f}, within {self.drop_within:.2f}")
        if not now.error <= self.error + self.error_within:
            found.append(f"error {now.error:.3g}; expected {self.error:.3g}, within {self.error_within:.2g}")
        return "; ".join(found)


def is_task(name: str) -> bool:
    """Whether data are those of a task, and no file."""
    return not name.endswith(".npz")


def limited(given: Sequence[Any], folder: Path) -> Path:
    """A file of the first samples; ``given`` is a file or a task, and a number of samples."""
    if is_task(given[0]):
        task, part = given[0].split()
        arrays = task_data.TASKS[task](part, given[1])
        output = folder / f"{task}_{part}.npz"
        if "boxes" in arrays:
            np.savez(_targets_of(output), **corners(arrays.pop("boxes"), arrays.pop("classes")))
        np.savez(
            output, **{k: np.float32(x / 255) if k == "input" and x.dtype == np.uint8 else x for k, x in arrays.items()}
        )
        return output
    path, count = ROOT / given[0], given[1]
    output = folder / f"{path.stem}_{count}.npz"
    with np.load(path) as arrays:
        np.savez(output, **{name: arrays[name][:count] for name in arrays.files})
    return output


def corners(boxes: np.ndarray, classes: np.ndarray) -> dict[str, np.ndarray]:
    """Targets of the metric map: x1, y1, x2, y2, and classes from 0, of x, y, width, height and classes from 1."""
    ends = np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], -1)
    return {"boxes": ends.astype(np.float32), "classes": classes - 1}


def _targets_of(file: Path) -> Path:
    """Where the boxes of these samples are, if they have any."""
    return file.with_name(f"{file.stem}_targets.npz")


def made(row: Mapping[str, Any], calib: Path | None, folder: Path) -> Path:
    """The model behind the last step."""
    model = ROOT / row["model"]
    for number, step in enumerate(row["steps"]):
        output = folder / f"{number}.onnx"
        data = [] if calib is None else ["--data", str(calib)]
        command = [sys.executable, "-m", "hqp_onnx", *step.split(), str(model), *data, "-o", str(output)]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if run.returncode:
            raise SystemExit(f"{row['name']}: hqp {step}: {run.stderr.strip()}")
        model = output
    return model


def measured(row: Mapping[str, Any]) -> Figures:
    """Make the model of a row, and judge it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        calib, test = (limited(row[part], folder) if part in row else None for part in ("calib", "test"))
        assert test is not None
        model, target, boxes = made(row, calib, folder), row["target"], _targets_of(test)
        judged = hqp_onnx.Reading(str(test), targets=boxes if boxes.is_file() else None)
        original = ROOT / row["model"]
        base = hqp_onnx.evaluate(original, judged, metric=row["metric"], reference=original)
        scores = hqp_onnx.evaluate(model, judged, metric=row["metric"], reference=original, target=target)
        like = hqp_onnx.evaluate(model, str(test), metric="fidelity", reference=original, target=target).values
    scale, rows, errors = scores.scale, (base.values, scores.values), 1 - like
    error, spread = float(errors.mean()), 1.96 * float(errors.std()) / len(errors) ** 0.5
    low, high = scale.interval(*rows)
    points = 100 * scale.drop_of(*rows), 50 * (high - low)
    return Figures(*(float(f"{x:.3g}") for x in (*points, error, max(spread, MACHINES * error))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    parser.add_argument("--fast", action="store_true", help="the few that `make test` checks")
    parser.add_argument("--update", action="store_true", help="write what is measured")
    settings = parser.parse_args()
    rows = json.loads(FILE.read_text())
    chosen = [row for row in rows if settings.only in row["name"] and (row.get("fast") or not settings.fast)]
    if not chosen:
        parser.error(f"no row of {FILE.name} has {settings.only!r} in its name")
    failed = []
    for row in chosen:
        data = [row[part][0] for part in ("calib", "test") if part in row and not is_task(row[part][0])]
        if missing := [part for part in (row["model"], *data) if not (ROOT / part).is_file()]:
            print(f"{row['name']}: skipped, {missing[0]} is not here", flush=True)
            continue
        now = measured(row)
        verdict = "" if settings.update else Figures(**row["expected"]).verdict(now)
        print(f"{row['name']}: {verdict or 'ok'} ({now.drop:+.2f} points, error {now.error:.3g})", flush=True)
        failed += [row["name"]] if verdict else []
        if settings.update:
            row["expected"] = asdict(now)
            FILE.write_text("[\n" + ",\n".join(f"  {json.dumps(row)}" for row in rows) + "\n]\n")
    if failed:
        sys.exit(f"{len(failed)} of {len(chosen)} lose more than before")


if __name__ == "__main__":
    main()
