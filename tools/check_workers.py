"""One job by one process, by workers of every kind, and by workers that are killed: its files are the same bytes.

    python tools/check_workers.py [--scaling] [--no-bytes]

The job: a small residual network with random weights on 1,200 images of 192 x 192 (two shards, of the second refit as
well), hqp optimize --precision int8 --refit in-order with a recovery.
Dask (a scheduler and two processes) and Ray are started on this machine where they are installed. With --scaling, what
one worker takes for ResNet-50 at 224 (random weights) is measured, in seconds of one core, and 50,000 images are
simulated on up to 128 workers: first come, first served; results pass through the link of the process that adds them
up, one after the other; models go to each worker once; images are read by the workers themselves; where that stops
scaling, and why. On the cores that there are, sessions open already, one process is timed with one thread and with all,
and beside it one worker a core. On two idle cores, --scaling --no-bytes takes about 3 minutes.

The exit status is 1 where bytes differ.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from zoo_scaling import resnet50

from hqp_onnx.data import shards
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.memory import ArraySource
from hqp_onnx.evaluation.metrics import evaluate, load_metric
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.ranking.saliencies import Execution, Scoring
from hqp_onnx.runtimes.machine import processor
from hqp_onnx.runtimes.runners import open_runner
from hqp_onnx.runtimes.targets import target
from hqp_onnx.statistics.calibration import calibrate
from hqp_onnx.statistics.moments import input_moments
from hqp_onnx.workers import using

SAMPLES, SIZE, PORT, KILL_SECONDS = 1200, 192, 28786, 1.5
FILES = ("int8.onnx", "ledger.json")
IMAGES, SIDE, FEW, ITEMS = 50_000, 224, 4, 4
GAIN = 1.5
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128)
LINKS = {"1 Gbit/s": 1e9 / 8, "10 Gbit/s": 1e10 / 8}
_TEXT = """
<ir_version: 8, opset_import: ["" : 17]> small (float[n,1,192,192] input) => (float[n,4] logits) {
  c1 = Conv<strides=[16,16]>(input, w1) r1 = Relu(c1)
  c2 = Conv<pads=[1,1,1,1]>(r1, w2) r2 = Relu(c2)
  c3 = Conv<pads=[1,1,1,1]>(r2, w3) sum = Add(c3, r1)
  mean = GlobalAveragePool(sum) flat = Flatten(mean)
  logits = Gemm<transB=1>(flat, w4)
}
"""


def write_job(folder: Path) -> None:
    """model.onnx and data.npz."""
    rng, model = np.random.default_rng(0), onnx.parser.parse_model(_TEXT)
    for name, shape in {"w1": (16, 1, 16, 16), "w2": (24, 16, 3, 3), "w3": (16, 24, 3, 3), "w4": (4, 16)}.items():
        values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        model.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
    onnx.save(model, folder / "model.onnx")
    np.savez(folder / "data.npz", input=rng.standard_normal((SAMPLES, 1, SIZE, SIZE), np.float32))


def run_job(
    folder: Path, workers: str, during: Callable[[int], None] = lambda process: None
) -> tuple[list[str], float]:
    """Digests of ``FILES``, and the seconds it took."""
    options = ["--calib", "data.npz", "--val", "data.npz", "--max-drop", "30%", "--precision", "int8", "--recover", "1"]
    options += [
        "--refit",
        "in-order",
        "--objective",
        "sparsity",
        "--step",
        "0.1",
        "--metric",
        "agreement",
        "--threads",
        "1",
        "--quiet",
    ]
    shutil.rmtree(folder / "out", ignore_errors=True)
    words = [sys.executable, "-m", "hqp_onnx", "optimize", "model.onnx", *options, "-o", "out", "--workers", workers]
    began = time.perf_counter()
    process = subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    during(process.pid)
    _, said = process.communicate()
    if process.returncode not in (0, 3):
        raise SystemExit(f"--workers {workers}: {said}")
    digests = [hashlib.sha256((folder / "out" / name).read_bytes()).hexdigest()[:16] for name in FILES]
    return digests, time.perf_counter() - began


def kill_one(process: int) -> None:
    """SIGKILL a worker of ``process`` in the middle of its work."""
    while Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        found = subprocess.run(["pgrep", "-P", str(process), "-f", "spawn_main"], capture_output=True, text=True)
        busy = [int(child) for child in found.stdout.split() if cpu_seconds(int(child)) > KILL_SECONDS]
        if busy:
            os.kill(busy[0], signal.SIGKILL)
            return
        time.sleep(0.02)
    raise SystemExit("the job ended before a worker was killed")


def cpu_seconds(process: int) -> float:
    """That it has computed."""
    with suppress(OSError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


@contextmanager
def dask() -> Iterator[str]:
    """The address of a scheduler with two processes."""
    address = f"tcp://127.0.0.1:{PORT}"
    scheduler = [sys.executable, "-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", str(PORT)]
    worker = [sys.executable, "-m", "dask", "worker", address, "--nworkers", "2", "--nthreads", "1"]
    started = [subprocess.Popen([*scheduler, "--no-dashboard"], stderr=subprocess.DEVNULL)]
    try:
        time.sleep(5)
        started.append(subprocess.Popen([*worker, "--no-dashboard"], stderr=subprocess.DEVNULL))
        time.sleep(8)
        yield address
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


def check_bytes(folder: Path) -> bool:
    """Print the table; whether all rows are the same."""
    write_job(folder)
    found = []

    def row(name: str, workers: str, during: Callable[[int], None] = lambda process: None) -> None:
        digests, seconds = run_job(folder, workers, during)
        found.append(digests)
        print(f"| {name} | {' | '.join(digests)} | {seconds:.0f} |", flush=True)

    print(f"| {SAMPLES} samples | int8.onnx | ledger.json | s |\n|---|---|---|---|")
    row("one process", "1")
    row("2 workers", "2")
    row("4 workers", "4")
    row("2 workers, one killed", "2", kill_one)
    if find_spec("distributed"):
        with dask() as address:
            row("Dask, two processes", address)
    if find_spec("ray"):
        ray = [sys.executable, "-m", "ray.scripts.scripts"]
        subprocess.run(
            [*ray, "start", "--head", "--num-cpus", "2", "--include-dashboard", "false"], capture_output=True
        )
        row("Ray, two processes", "ray")
        subprocess.run([*ray, "stop"], capture_output=True)
    return all(digests == found[0] for digests in found)


@dataclass
class Measured(Executor):
    """One worker, in this process, that notes what each item takes: seconds of one core, bytes of its result."""

    seconds: list[float] = field(default_factory=list)
    returned: list[int] = field(default_factory=list)
    adding: list[float] = field(default_factory=list)
    sent: int = 0
    threads: int = 1

    def submit(self, function: Callable[..., object], /, *arguments: object, **options: object) -> Future:
        """Do it at once."""
        future: Future = Future()
        began = time.process_time()
        answer = function(*arguments)
        if answer.kind == "missing":  # a part that goes to each worker once
            self.sent += sum(len(part) for part in arguments[2].values() if part)
            future.set_result(answer)
            return future
        self.seconds.append(time.process_time() - began)
        self.returned.append(len(answer.value))
        began = time.process_time()
        for values in _arrays(pickle.loads(answer.value)):
            values + values
        self.adding.append(time.process_time() - began)
        self.sent = max(self.sent, sum(len(part) for part in arguments[2].values() if part))
        future.set_result(answer)
        return future


def _arrays(value: object) -> Iterator[np.ndarray]:
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _arrays(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _arrays(each)
    elif hasattr(value, "gram"):
        yield from (value.gram, value.total)


@dataclass(frozen=True)
class Cost:
    """Of one statistic: opening it, seconds an image, passes, and what one result takes to send and to add."""

    name: str
    opening: float
    image: float
    passes: int
    items: int
    bytes: float
    adding: float
    model: int


def statistics(items: int, few: int) -> dict[str, tuple[int, Callable[[], object]]]:
    """Of ResNet-50 on ``items`` batches of ``few`` images: how many items ``IMAGES`` are, and what to call."""
    proto = to_proto(canonicalize(to_graph(resnet50(SIDE))).graph)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((items * few, 3, SIDE, SIDE)).astype(np.float32)
    runner = open_runner(proto, target("onnxruntime"), threads=1)
    source = ArraySource("images", {runner.inputs[0].name: images}, {"labels": np.arange(items * few) % 10})
    data = Dataset(source, runner.inputs, few)
    shards.SAMPLES = 1  # an item a batch
    tensors = [node.output[0] for node in proto.graph.node if node.op_type in ("Conv", "Relu", "Add")]
    whole, fisher = -(-IMAGES // 27), Scoring("fisher")  # batches of 16 MB
    return {
        "saliency (fisher)": (whole, lambda: fisher.method.filters(proto, data, fisher, Execution())),
        "moments": (shards.MOST, lambda: input_moments(proto, None, data)),
        "ranges": (shards.MOST, lambda: calibrate(proto, tensors, data)),
        "evaluation": (
            whole,
            lambda: evaluate(open_runner(proto, target("onnxruntime")), data, load_metric("top1")),
        ),
    }


def on_these_cores() -> None:
    """Print what statistics take here, sessions open already."""
    cores, stages = os.cpu_count() or 1, statistics(ITEMS, FEW // 2)
    print(f"\n{ITEMS * FEW // 2} images, by the clock; load of the machine {os.getloadavg()[0]:.1f}\n")
    print(f"| statistic | one process, 1 thread | one process, {cores} threads | {cores} workers |\n|---|---|---|---|")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores, context) as processes:
        for name in ("saliency (fisher)", "ranges"):
            cells = []
            for executor in (Measured(), Measured(threads=cores), processes):
                with using(executor):
                    stages[name][1]()
                    began = time.perf_counter()
                    stages[name][1]()
                    cells.append(time.perf_counter() - began)
            print(f"| {name} | {' | '.join(f'{x:.1f} s ({cells[0] / x:.2f}x)' for x in cells)} |", flush=True)


def costs() -> list[Cost]:
    """Measured on ``FEW`` images an item, two items a pass."""
    found = []
    for name, (items, run) in statistics(2, FEW).items():
        whole = -(-IMAGES // 27)
        measured = Measured()
        with using(measured):
            run()
        first, second = measured.seconds[::2], measured.seconds[1::2]
        image, passes = sum(second) / FEW, len(second)
        opening = max(0.0, sum(first) - sum(second))
        size, adding = sum(measured.returned[1::2]), sum(measured.adding[1::2])
        per = IMAGES / items / FEW if items == whole else 1  # small results: one for each run
        found.append(Cost(name, opening, image, passes, items, size * per, adding * per, measured.sent))
    return found


def simulated(cost: Cost, workers: int, link: float) -> float:
    """Seconds of one statistic over ``IMAGES``, for so many workers of one core each."""
    work, moving = cost.image * IMAGES / cost.items, cost.bytes / link
    free = [number * cost.model / link + cost.opening for number in range(1, workers + 1)]  # models, one by one
    heapq.heapify(free)
    wire = added = 0.0
    ends = sorted(heapq.heappushpop(free, free[0] + work) + work for _ in range(cost.items))
    for end in ends:
        wire = max(wire, end) + moving
        added = max(added, wire) + cost.adding
    return added


def limit(cost: Cost, link: float) -> tuple[int, str]:
    """Workers from which on twice as many are less than ``GAIN`` times as fast, and what holds them up then."""
    workers = 1
    while simulated(cost, workers, link) >= GAIN * simulated(cost, 2 * workers, link):
        workers *= 2
    why = {
        f"{cost.items} shards are no more": cost.image * IMAGES / cost.items if 2 * workers > cost.items else 0.0,
        "sessions open": cost.opening,
        "models arrive": 2 * workers * cost.model / link,
        "results arrive": cost.items * cost.bytes / link,
        "results are added": cost.items * cost.adding,
    }
    reason = max(why, key=lambda name: why[name])
    seconds = simulated(cost, 2 * workers, link)
    return workers, f"{reason}: {min(why[reason], seconds):.0f} s of {seconds:.0f} s with {2 * workers}"


def scaling() -> None:
    """Print what was measured and simulated."""
    began = time.perf_counter()
    on_these_cores()
    found = costs()
    print(f"\nResNet-50 at {SIDE}, random weights, {processor()}: measured on {2 * FEW} images, one core\n")
    print("| statistic | s an image | opening s | passes | items | MB a result | adding it s |")
    print("|---|---|---|---|---|---|---|")
    for c in found:
        cells = f"{c.image:.2f} | {c.opening:.1f} | {c.passes} | {c.items} | {c.bytes / 1e6:.2f} | {c.adding:.3f}"
        print(f"| {c.name} | {cells} |")
    for name, link in LINKS.items():
        print(f"\n{IMAGES} images, {name}: hours, and how many times as fast as one worker\n")
        print(f"| workers | {' | '.join(c.name for c in found)} | all |\n|---|{'---|' * (len(found) + 1)}")
        alone = [simulated(c, 1, link) for c in found]
        for workers in WORKERS:
            each = [simulated(c, workers, link) for c in found]
            cells = [
                f"{t / 3600:.2f} ({a / t:.1f}x)" for t, a in zip((*each, sum(each)), (*alone, sum(alone)), strict=True)
            ]
            print(f"| {workers} | {' | '.join(cells)} |")
    print(f"\nTwice as many workers are less than {GAIN} times as fast from here on, since\n")
    print("| statistic | link | workers | why |\n|---|---|---|---|")
    for c in found:
        for name, link in LINKS.items():
            print(f"| {c.name} | {name} | {' | '.join(map(str, limit(c, link)))} |")
    print(f"\nmeasured in {time.perf_counter() - began:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--no-bytes", action="store_true")
    asked = parser.parse_args()
    print(f"{processor()}\n")
    same = True
    if not asked.no_bytes:
        with tempfile.TemporaryDirectory() as folder:
            same = check_bytes(Path(folder))
        print("\nall the same bytes" if same else "\nDIFFERENT BYTES")
    if asked.scaling:
        scaling()
    sys.exit(not same)


if __name__ == "__main__":
    main()
