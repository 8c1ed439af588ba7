"""Kill `hqp optimize` at random moments and resume: python tools/check_resume.py [--kills 20] [MODEL].

Runs once without interruption, then again with SIGKILL after random times, resuming until it ends, and compares
the written models byte for byte. In INT8 throughout: what mixed precision keeps in float is measured, so two
separate runs may differ.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = ("pruned.onnx", "int8.onnx", "ledger.json")


def command(model: Path, output: Path, *more: str) -> list[str]:
    data = ROOT / "models"
    parts = ["--calib", str(data / "fashion_mnist_calib.npz"), "--val", str(data / "fashion_mnist_val.npz")]
    return [
        sys.executable,
        "-m",
        "hqp_onnx",
        "optimize",
        str(model),
        *parts,
        "--precision",
        "int8",
        "--quiet",
        "-o",
        str(output),
        *more,
    ]


def digests(folder: Path) -> list[str]:
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=ROOT / "models" / "mobilenet_v3_small.onnx")
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        whole, broken = Path(folder) / "whole", Path(folder) / "broken"
        start = time.monotonic()
        subprocess.run(command(options.model, whole), check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - start
        print(f"uninterrupted: {seconds:.0f} s", flush=True)
        kills = attempts = 0
        while True:
            attempts += 1
            process = subprocess.Popen(command(options.model, broken, "--resume"), stdout=subprocess.DEVNULL)
            try:
                process.wait(timeout=rng.uniform(1, max(4, seconds / 4)) if kills < options.kills else None)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                continue
            if process.returncode:
                sys.exit(f"run {attempts} ended with code {process.returncode}")
            if digests(broken) != digests(whole):
                sys.exit(f"after {kills} kills the result differs")
            print(f"finished after {kills} kills: {', '.join(FILES)} are the same, byte for byte", flush=True)
            if kills >= options.kills:
                break
            subprocess.run(["rm", "-r", str(broken)], check=True)


if __name__ == "__main__":
    main()
