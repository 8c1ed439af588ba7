"""What `hqp benchmark` says of models, beside each alone in a process of its own, and beside one run a turn.

    python tools/check_latency.py MODEL.onnx ... [--seconds 4]

alone         median of runs back to back in a process that has loaded nothing else
one run       median where all models are loaded, and run once each in turn, as onnxruntime's default threads have it
a turn
benchmark     what `hqp_onnx.evaluation.latency` gives

In brackets: the first model's time over the model's. Above the table: how long onnxruntime's threads go on computing
after a run of the first model, by default and as our sessions have them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort

from hqp_onnx.model import open_session
from hqp_onnx.runtimes.machine import processor
from hqp_onnx.steps.benchmark import benchmark_models

SLEEP = 0.3
WARM_UP = 20


def runner(model: Path) -> Callable[[], object]:
    """One run of a session with onnxruntime's defaults, on one seeded sample."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    shapes = {value.name: [n if isinstance(n, int) else 1 for n in value.shape] for value in session.get_inputs()}
    feeds = {name: rng.random(shape, np.float32) for name, shape in shapes.items()}
    return lambda: session.run(None, feeds)


def milliseconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def in_turn(runs: list[Callable[[], object]], seconds: float) -> list[float]:
    """Medians of one run each in turn."""
    for run in runs:
        for _ in range(WARM_UP):
            run()
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        times.append([milliseconds(run) for run in runs])
    return [float(value) for value in np.median(times, 0)]


def alone(model: Path, seconds: float) -> float:
    command = [sys.executable, __file__, str(model), "--seconds", str(seconds), "--alone"]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def spun(run: Callable[[], object]) -> float:
    """Milliseconds that this process computes after a run."""
    for _ in range(WARM_UP):
        run()
    start = time.process_time()
    time.sleep(SLEEP)
    return 1e3 * (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--alone", action="store_true", help="print the first model's median alone, and nothing else")
    chosen = parser.parse_args()
    if chosen.alone:
        print(in_turn([runner(chosen.models[0])], chosen.seconds)[0])
        return
    runs = [runner(model) for model in chosen.models]
    ours = open_session(chosen.models[0])
    feeds = {spec.name: np.zeros([n or 1 for n in spec.shape], spec.dtype) for spec in ours.inputs}
    print(f"{processor()}, onnxruntime {ort.__version__}")
    spins = (spun(runs[0]), spun(lambda: ours.run(feeds)))
    print("threads compute after a run: {:.1f} ms, ours {:.1f} ms\n".format(*spins))
    columns = {
        "alone": [alone(model, chosen.seconds) for model in chosen.models],
        "one run a turn": in_turn(runs, chosen.seconds),
    }
    runs.clear()
    columns["benchmark"] = [found.median_ms for found in benchmark_models(chosen.models, 1).values()]
    print(f"| ms | {' | '.join(columns)} |\n|---|{'--:|' * len(columns)}")
    for index, model in enumerate(chosen.models):
        cells = [f"{values[index]:.3f} ({values[0] / values[index]:.2f}x)" for values in columns.values()]
        print(f"| {model} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
