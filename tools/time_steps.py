"""What the steps of optimizations took, beside a pass of the original over all data: for hqp_onnx/job/duration.py.

    python tools/time_steps.py MODEL,CALIB,VAL ... [-o FOLDER] [--threads N] [--page FILE.md]

Defaults otherwise. The table has for each step the line, seconds + passes * the time of a pass, that is nearest to all
jobs; errors count by their share of what the step took.
"""

from __future__ import annotations

import logging
from pathlib import Path
from time import perf_counter

import numpy as np
from result_page import recorded, result_parser
from scipy.optimize import nnls

from hqp_onnx.job.duration import duration
from hqp_onnx.job.options import Options
from hqp_onnx.job.setup import open_setup
from hqp_onnx.progress import silent
from hqp_onnx.steps.optimize import optimize, pass_seconds


class Clock(logging.Handler):
    """Seconds of each step, by what is said as it begins."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}
        self.last = "", 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Take what is said of a step."""
        if (said := record.getMessage()).startswith("step "):
            self.turn(said.partition(": ")[2].partition(", about ")[0])

    def turn(self, step: str) -> None:
        """The step in hand ends, and another begins."""
        name, began = self.last
        now = perf_counter()
        if name:
            self.seconds[name] = now - began
        self.last = step, now


def timed(options: Options) -> tuple[float, dict[str, float]]:
    """Seconds of a pass, and of each step."""
    one, clock, log = pass_seconds(open_setup(options, silent)), Clock(), logging.getLogger("hqp_onnx")
    log.setLevel(logging.INFO)
    log.addHandler(clock)
    optimize(options, lambda *_: None)
    clock.turn("")
    log.removeHandler(clock)
    return one, clock.seconds


def lines(passes: list[float], jobs: list[dict[str, float]]) -> dict[str, tuple[float, float]]:
    """Of each step its seconds, and its passes."""
    found = {}
    for name in jobs[0]:
        took = np.array([job.get(name, 0.0) for job in jobs])
        weights = 1 / np.maximum(took, 0.5)
        seconds, times = nnls(np.stack([weights, weights * np.array(passes)], 1), weights * took)[0]
        found[name] = float(seconds), float(times)
    return found


def main() -> None:
    parser = result_parser(__doc__)
    parser.add_argument("jobs", nargs="+", metavar="MODEL,CALIB,VAL")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("build/steps"))
    chosen = parser.parse_args()
    with recorded(chosen.page, "What the steps of an optimization take"):
        passes, jobs = [], []
        for job in chosen.jobs:
            model, calib, val = job.split(",")
            output = chosen.output / Path(model).stem
            options = Options(model, calib, val, output, threads=chosen.threads, force=True, build=False)
            one, took = timed(options)
            passes.append(one)
            jobs.append(took)
            foretold = sum(duration(options, one).values())
            print(
                f"{Path(model).stem}: {sum(took.values()):.0f} s, foretold {foretold:.0f} s; a pass takes {one:.2f} s"
            )
        print(f"\n| step | {' | '.join(Path(job.split(',')[0]).stem for job in chosen.jobs)} | seconds | passes |")
        print(f"|---|{'--:|' * (len(jobs) + 2)}")
        for name, (seconds, times) in lines(passes, jobs).items():
            cells = [f"{job.get(name, 0.0):.1f}" for job in jobs]
            print(f"| {name} | {' | '.join(cells)} | {seconds:.1f} | {times:.1f} |")


if __name__ == "__main__":
    main()
