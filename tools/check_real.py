"""Trained files of other people's packages: what can be pruned, what it costs, what INT8 gives.

    python tools/check_real.py --fetch FOLDER            download the packages of real_packages.py, unpack their .onnx
    python tools/check_real.py [--only PATTERN] [--quick] [--seconds N] [--json FILE] [--markdown FILE]
        FILE_OR_FOLDER...

For each file, in a process of its own: open and analyse; compare what removing 10, 30 and 60 % of the units by random
and L2 scores gives with the original whose removed slices are zero (zoo_oracle.py, from the ledger alone); rank by
Fisher; measure moments; quantize for onnxruntime and OpenVINO, and time that beside the original. Inputs are random
within what the file says (real_inputs.py), so SQNR is that of random inputs.

Columns: prunable, share of the units; of MACs, share of the multiply-accumulates in slices that a prunable unit owns;
error, the largest of any output and plan, relative to that output's largest value, and (f64) where float32 was too
coarse and float64 said that it is right; effect, the least change that removing made; largest, the largest pruned file
that was written over the input; Fisher and moments, seconds over those of plain inference of the same samples; SQNR of
all float outputs together, over samples that did not calibrate; speed, of batch 1, over the original's; peak, of the
process. Exit code 1 if a result is wrong, a file is larger than its input, or the product crashed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from real_inputs import Drawer, Feeds, UnfedError, open_batch
from real_packages import fetch
from real_report import LARGER, page
from zoo_oracle import Oracle, UnclearError, WrongResultError
from zoo_plans import SHARES, make_plan, make_scores
from zoo_report import describe

import hqp_onnx
from hqp_onnx.channels import cost
from hqp_onnx.data.reading import Reading
from hqp_onnx.errors import HqpError
from hqp_onnx.evaluation.latency import measure
from hqp_onnx.graphs.model_io import stored_bytes, to_file, to_proto
from hqp_onnx.model import Model, open_data, open_model, open_session
from hqp_onnx.passes.narrow_weights import narrow_weights
from hqp_onnx.passes.prune_channels import prune_channels
from hqp_onnx.ranking.rank import filter_scores
from hqp_onnx.ranking.saliencies import Scoring
from hqp_onnx.statistics.moments import input_moments

TARGETS = ("onnxruntime", "openvino")
SAMPLES, HELD_OUT, CALIBRATE, MOST = 8, 8, 64, 512
MOST_STEPS = 64  # of a model with states, which run one by one
SLOW = 0.1  # seconds of a sample, from which on few do
PLAIN_SECONDS = 0.5  # of plain inference, that Fisher and moments are held to
CPU_SECONDS, WALL = 240, 4  # for one file; and with what other jobs take of the machine, so many times that
SECONDS = 1.0  # of timing
Note = Callable[..., None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument(
        "--fetch", type=Path, metavar="FOLDER", help="download the packages into it, and take their files"
    )
    parser.add_argument("--only", default="", help="files whose path contains this")
    parser.add_argument("--quick", action="store_true", help="no gradients, moments and INT8")
    parser.add_argument("--seconds", type=int, default=CPU_SECONDS, help="of processor time, for one file")
    parser.add_argument("--threads", type=int, default=0, help="of onnxruntime, for everything; 0 is its own choice")
    parser.add_argument(
        "--json", type=Path, help="all results, kept from earlier runs for files that are not run again"
    )
    parser.add_argument("--markdown", type=Path, help="the page")
    options = parser.parse_args()
    _limit_threads(options.threads)
    roots = [*options.files, *([options.fetch] if options.fetch else [])]
    if options.fetch:
        fetch(options.fetch)
    chosen = [(root, path) for root in roots for path in _files(root) if options.only in str(path)]
    known = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    for root, path in chosen:
        name = str(path.relative_to(root)) if root.is_dir() else path.name
        known[name] = run_apart(path, options.quick, options.seconds)
        print(name, json.dumps(known[name]), flush=True)
        if options.json:
            options.json.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    if options.markdown:
        options.markdown.write_text(page(known, machine(options.threads)))
    sys.exit(any(bad(result) for result in known.values()))


def _files(root: Path) -> list[Path]:
    return sorted(root.rglob("*.onnx")) if root.is_dir() else [root]


def bad(result: Mapping[str, Any]) -> bool:
    """Whether the product failed."""
    return result["status"] in ("wrong", "crash") or result.get("largest", 0.0) > LARGER


def _limit_threads(count: int) -> None:
    """What onnxruntime takes where no number is asked for; by itself it takes all cores, also those it may not use."""

    class Options(ort.SessionOptions):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.intra_op_num_threads = count

    ort.SessionOptions = Options


def machine(threads: int) -> str:
    """Where figures come from, in words."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    used = f", {threads} thread{'s' * (threads > 1)} of it" if threads else ""
    return f"{cpu}, {multiprocessing.cpu_count()} cores, onnxruntime {ort.__version__}{used}"


def run_apart(path: Path, quick: bool, seconds: int = CPU_SECONDS) -> dict[str, Any]:
    """Check one file in a process of its own, of so many seconds of processor time."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_work, args=(path, queue, quick, seconds))
    start, result = time.perf_counter(), dict[str, Any](status="crash", stage="start")
    process.start()
    while process.is_alive() and time.perf_counter() - start < WALL * seconds:
        process.join(0.2)
        while not queue.empty():
            result |= queue.get()
    if process.is_alive():
        process.kill()
    process.join()
    while not queue.empty():
        result |= queue.get()
    if process.exitcode in (-signal.SIGXCPU, -signal.SIGKILL):
        result |= {"status": "slow", "reason": f"not done after {seconds} s of processor time"}
    return result | {"seconds": time.perf_counter() - start}


def _work(path: Path, queue: Any, quick: bool, seconds: int) -> None:
    def note(**values: Any) -> None:
        queue.put({**values, "peak": _peak()})

    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 10))
    try:
        check(path, note, quick)
        note(status="right")
    except WrongResultError as e:
        note(status="wrong", reason=str(e))
    except UnclearError as e:
        note(status="unclear", reason=str(e))
    except HqpError as e:
        note(status="refused", reason=_said(e, path))
    except UnfedError as e:
        note(status="no inputs found", reason=str(e))
    except Exception as e:
        where = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in traceback.extract_tb(e.__traceback__)[-3:]]
        note(status="crash", reason=f"{type(e).__name__}: {str(e)[:200]} at {' < '.join(reversed(where))}")


def _peak() -> float:
    """Largest resident set of this process so far, in GB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1e6


def check(path: Path, note: Note, quick: bool = False) -> None:
    """All checks of one file, or the ``quick`` ones; ``note`` takes what is found as it is found."""
    proto = onnx.load(path)
    note(stage="inputs", bytes=stored_bytes(path))
    plain = ort.InferenceSession(str(path), _quiet(), providers=["CPUExecutionProvider"])
    draw = Drawer(proto, lambda feeds: plain.run(None, feeds))
    feeds = draw(2)
    note(stage="open")
    start = time.perf_counter()
    model = open_model(path)
    channels = model.channels()
    graph = model.graph
    note(stage="analyse", open_seconds=time.perf_counter() - start, **describe(graph, channels))
    counts = cost.positions(graph, model.shapes)
    macs = cost.prunable(graph, channels, counts)[1] / max(cost.macs(graph, counts), 1)
    note(stage="unpruned", params_count=cost.params(graph), macs=macs)
    oracle = Oracle(path, to_proto(graph))
    oracle.unpruned([feeds], note)
    sizes = [0.0]
    if len(channels.prunable):
        for kind in ("random", "l2"):
            scores = make_scores(graph, channels, kind)
            for share in SHARES:
                note(stage=f"prune {kind} {share:.0%}")
                plan = make_plan(channels, scores, share)
                pruned = to_file(narrow_weights(prune_channels(graph, channels, plan).graph).graph)
                sizes.append(pruned.ByteSize() / stored_bytes(path))
                ledger = channels.of_file().removed_slices(plan)
                known = ledger.keys() <= oracle.names
                oracle.compare(pruned, ledger if known else channels.removed_slices(plan), feeds, note)
                note(largest=max(sizes), effect=None if oracle.seen["effect"] == np.inf else oracle.seen["effect"])
    if quick:
        return
    some, others = draw(SAMPLES if open_batch(proto) else 1), draw(HELD_OUT if open_batch(proto) else 1, seed=1)
    each = timed(lambda: plain.run(None, some)) / len(next(iter(some.values())))
    least = SAMPLES if each < SLOW else 2
    count = int(np.clip(PLAIN_SECONDS / each, least, MOST))
    data = reading(proto, draw, count)
    count = len(next(iter(data.data.values())))
    seconds = each * count
    note(stage="fisher", plain_seconds=seconds, samples=count)
    note(**_fisher(model, data, seconds))
    note(stage="moments")
    note(**_moments(model, data, seconds))
    for target in TARGETS:
        note(stage=f"int8 {target}")
        given = reading(proto, draw, min(count, CALIBRATE))
        note(**{target: _int8(path, proto, given, target, others)})
    note(stage="done")


def reading(proto: onnx.ModelProto, draw: Callable[..., Feeds], count: int) -> Reading:
    """``count`` samples; inputs whose first axis is no batch are shared by all, states go from output to input."""
    states = states_of(proto)
    batch = 1 if states or not open_batch(proto) else count
    first = draw(batch)
    size = len(next(iter(first.values())))
    shared = {name: x for name, x in first.items() if name not in states and (not x.ndim or len(x) != size)}
    rounds = [draw(batch, seed=seed) for seed in range(min(-(-count // size), MOST_STEPS if states else count))]
    feeds = [{n: x for n, x in each.items() if n not in shared and n not in states} for each in rounds]
    joined = {name: np.concatenate([each[name] for each in feeds]) for name in feeds[0]}
    return Reading(joined, constants=shared, states=states)


def states_of(proto: onnx.ModelProto) -> dict[str, str]:
    """Inputs that an output of the same name, with an ending, follows."""
    outputs = [value.name for value in proto.graph.output]
    floats = [value for value in proto.graph.input if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
    inputs = [value.name for value in floats if value.name != proto.graph.input[0].name]
    found = {name: next((o for o in outputs if o.startswith(name)), "") for name in inputs}
    return {name: output for name, output in found.items() if output}


def _fisher(model: Model, data: Reading, seconds: float) -> dict[str, Any]:
    try:
        dataset = open_data(model, data)
        start = time.perf_counter()
        filter_scores(to_proto(model.graph), Scoring("fisher"), dataset)
        return {"fisher": (time.perf_counter() - start) / seconds}
    except HqpError as e:
        return {"fisher_reason": _said(e, model.path)}


def _moments(model: Model, data: Reading, seconds: float) -> dict[str, Any]:
    try:
        dataset = open_data(model, data)
        start = time.perf_counter()
        input_moments(to_proto(model.graph), None, dataset)
        return {"moments": (time.perf_counter() - start) / seconds}
    except HqpError as e:
        return {"moments_reason": _said(e, model.path)}


def _int8(path: Path, proto: onnx.ModelProto, data: Reading, target: str, others: Feeds) -> dict[str, Any]:
    """Seconds, SQNR, size and speed of INT8 on a target, or why there is none."""
    try:
        open_session(proto, target).run(others)
    except HqpError as e:
        return {"reason": f"the original does not run there: {e}"}
    start = time.perf_counter()
    try:
        made = hqp_onnx.quantize(path, data, target=target)
        seconds = time.perf_counter() - start
        sessions = {"original": open_session(proto, target), "int8": open_session(made, target)}
        want, have = (list(session.run(others).values()) for session in sessions.values())
        one = Drawer(proto, lambda feeds: sessions["original"].run(feeds))(1)
        latency = measure(sessions, one, SECONDS)
    except HqpError as e:
        return {"reason": _said(e, path)}
    kinds = sum(node.op_type == "QuantizeLinear" for node in made.graph.node)
    return {
        "seconds": seconds,
        "sqnr": sqnr(want, have),
        "size": made.ByteSize() / stored_bytes(path),
        "speed": latency["int8"].speedup,
        "ms": latency["original"].median_ms,
        "quantizers": kinds,
    }


def _said(error: HqpError, path: Path) -> str:
    """The message, without the folder of the file."""
    return str(error).replace(str(path), path.name)


def sqnr(want: list[np.ndarray], have: list[np.ndarray]) -> float | None:
    """Decibels of all float outputs together; None where they are equal, or there are none."""
    pairs = [(a, b) for a, b in zip(want, have, strict=True) if np.issubdtype(a.dtype, np.floating)]
    signal = sum(float(np.square(a[np.isfinite(a)], dtype=np.float64).sum()) for a, _ in pairs)
    noise = sum(float(np.square((b - a)[np.isfinite(a)], dtype=np.float64).sum()) for a, b in pairs)
    return 10 * float(np.log10(signal / noise)) if signal and noise else None


def timed(work: Callable[[], object]) -> float:
    """Seconds of the fastest of three runs."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _quiet() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return options


if __name__ == "__main__":
    main()
