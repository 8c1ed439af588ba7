"""What --dry-run says of six jobs, beside what each then takes: the clock, the processor, memory.

    python tools/check_estimates.py [--only NAME ...]

Jobs run one after another. Where the machine has other work, the clock measures that as well; seconds of the processor
tell what the estimate itself is worth. The exit status is 1 where one is off by more than a factor of 1.5.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODELS, FACTOR = ROOT / "models", 1.5
_CALIB, _VAL = MODELS / "fashion_mnist_calib.npz", MODELS / "fashion_mnist_val.npz"
_SMALL, _LARGE = MODELS / "mobilenet_v3_small.onnx", MODELS / "resnet18.onnx"
STUDENT = Path("student.onnx")  # _SMALL without a third of its units, in the folder of its job
_DATA = ("--calib", _CALIB, "--val", _VAL, "--no-build", "--precision", "fp32")
JOBS = {
    "score": ("score", _SMALL, "--data", _CALIB),
    "prune": ("prune", _LARGE, "--sparsity", "0.3", "--data", _CALIB),
    "quantize": ("quantize", _SMALL, "--data", _CALIB),
    "recover": ("recover", STUDENT, "--teacher", _SMALL, "--data", _CALIB, "--epochs", "1"),
    "optimize, units": ("optimize", _SMALL, *_DATA, "--objective", "sparsity", "--saliency", "fisher"),
    "optimize, widths": ("optimize", _LARGE, *_DATA),
}


@dataclass(frozen=True)
class Taken:
    """Seconds by the clock and of the processor, and bytes of memory."""

    seconds: float
    work: float
    bytes: float


def run(*words: object) -> tuple[Taken, str]:
    """What a command takes, and what it says."""
    environment, began = {**os.environ, "PYTHONPATH": str(ROOT)}, time.perf_counter()
    command = [sys.executable, "-m", "hqp_onnx", *map(str, words)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ends with {process.returncode}")
    return Taken(time.perf_counter() - began, used.ru_utime + used.ru_stime, 1024 * used.ru_maxrss), said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=sorted(JOBS))
    chosen = parser.parse_args().only or list(JOBS)
    columns = ("estimate s", "took s", "ratio", "processor: estimate s", "took s", "ratio", "memory: estimate MB")
    print(f"| job | {' | '.join((*columns, 'took MB', 'dry run s'))} |\n|---|{9 * '--:|'}")
    start, _ = run("--version")
    worst = 1.0
    for name in chosen:
        with tempfile.TemporaryDirectory(prefix="hqp-") as folder:
            output = ("-o", Path(folder) / ("o.npz" if name == "score" else "out.onnx"))
            student = Path(folder) / STUDENT
            job = [student if word is STUDENT else word for word in JOBS[name]]
            if student in job:
                run("prune", _SMALL, "--sparsity", "0.3", "-o", student)
            dry, said = run(*job, *output, "--dry-run", "--json", "-")
            real, _ = run(*job, *output, "--quiet")
        found = json.loads(said)
        pairs = [
            (found["seconds"] + start.seconds, real.seconds),
            (found["work"] + start.work, real.work),
            (found["bytes"] / 1e6, real.bytes / 1e6),
        ]
        worst = max(worst, *(max(a / b, b / a) for a, b in pairs[1:]))
        cells = [f"{a:.0f} | {b:.0f} | {a / b:.2f}" for a, b in pairs[:2]]
        cells += [f"{pairs[2][0]:.0f} | {pairs[2][1]:.0f} | {dry.seconds:.0f}"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return 0 if worst <= FACTOR else 1


if __name__ == "__main__":
    raise SystemExit(main())
