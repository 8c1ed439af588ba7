"""Prune many exported architectures and compare with the zero-masked originals.

    python tools/zoo.py [--only PATTERN] [--exporter torchscript|dynamo|both] [--limit N] [--skip N] [--jobs N]
                        [--json FILE] [--cache DIR]
    python tools/zoo.py --scaling

For each exported model: load and analyse; for random and L2 scores at 10, 30 and 60 % of the prunable units: prune,
check, load in onnxruntime, and compare all outputs with the original whose removed slices are zero. The
comparison reads only the ledger, and the file as exported wherever the ledger's tensors exist in it, else the
canonical model. Then a second prune of the pruned model, and its round trip through onnxsim (onnxslim where that
fails).

Error: the largest difference of any output value, relative to the largest value of that output. 1e-4 is allowed; a
larger one is settled in float64, where 1e-6 is allowed. Effect: the least change that removing slices made to the
outputs; near zero, the comparison would show nothing. Lost: prunable units that a second analysis does not find,
though they are not the last of a tensor.

Each model runs in a process of its own: what crashes there does not stop the run. Exit code 1 if a result is wrong
or the product crashed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import zoo_models
from zoo_export import export
from zoo_oracle import TOLERANCE, Feeds, Oracle, UnclearError, WrongResultError, difference, run, usable_feeds
from zoo_plans import SHARES, make_plan, make_scores
from zoo_report import describe, print_row, print_summary

from hqp_onnx.channels.channel_map import ChannelMap, PruningPlan
from hqp_onnx.errors import HqpError
from hqp_onnx.graphs.model_io import save, to_proto
from hqp_onnx.model import open_model
from hqp_onnx.passes.prune_channels import prune_channels

TIMEOUT = 900  # seconds for one model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--exporter", choices=("torchscript", "dynamo", "both"), default="both")
    parser.add_argument("--limit", type=int, help="architectures")
    parser.add_argument("--skip", type=int, default=0, help="exported models, the first ones")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time")
    parser.add_argument("--json", type=Path, help="all results, rewritten after each model")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "zoo_cache")
    parser.add_argument("--scaling", action="store_true", help="seconds by size of the graph")
    options = parser.parse_args()
    if options.scaling:
        from zoo_scaling import scaling

        return scaling()
    exporters = ("torchscript", "dynamo") if options.exporter == "both" else (options.exporter,)
    entries = [entry for entry in zoo_models.entries() if options.only in entry.name][: options.limit]
    chosen = [(entry, exporter) for entry in entries for exporter in exporters]
    chosen = [(entry, exporter) for entry, exporter in chosen if exporter == "torchscript" or entry.dynamo]
    chosen = chosen[options.skip :]
    results: list[dict[str, Any]] = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for result in pool.map(lambda job: run_apart(*job, options.cache), chosen):
            results.append(result)
            print_row(result, first=len(results) == 1)
            if options.json:
                options.json.write_text(json.dumps(results, indent=1) + "\n")
    print_summary(results)
    sys.exit(any(result["status"] in ("wrong", "crash") for result in results))


def run_apart(entry: zoo_models.Entry, exporter: str, cache: Path) -> dict[str, Any]:
    """Export (unless in ``cache``) and check one model in a process of its own."""
    stem = f"{entry.name.replace('/', '.')}.{exporter}"
    result: dict[str, Any] = {"model": f"{entry.name} ({exporter})", "status": "crash", "stage": "start"}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state.json"
        process = multiprocessing.get_context("fork").Process(target=_work, args=(entry, exporter, cache, stem, state))
        process.start()
        process.join(TIMEOUT)
        if process.is_alive():
            process.kill()
            process.join()
            result["reason"] = f"no result after {TIMEOUT} s"
        elif process.exitcode:
            result["reason"] = f"the process ended with code {process.exitcode}"
        if state.exists():
            result |= json.loads(state.read_text())
        if result["stage"] == "done":  # what exporters leave behind may end otherwise
            result.pop("reason", None)
    result["seconds"] = time.perf_counter() - start
    if result["stage"] == "export" and result["status"] == "crash":
        (cache / f"{stem}.failed").write_text(result.get("reason", "") + "\n")
        result["status"] = "not exported"
    return result


def _work(entry: zoo_models.Entry, exporter: str, cache: Path, stem: str, state: Path) -> None:
    """Runs in the child; ``state`` always holds what is known so far."""
    result: dict[str, Any] = {}

    def note(**values: Any) -> None:
        result.update(values)
        state.write_text(json.dumps(result))

    sink = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # exporters print whole graphs when they fail
        os.dup2(sink, stream)
    note(stage="export")
    path = cache / f"{stem}.onnx"
    try:
        if (failed := cache / f"{stem}.failed").exists():
            return note(status="not exported", reason=failed.read_text().strip())
        if not path.exists():
            export(entry, exporter, path)
        check(path, note)
    except WrongResultError as e:
        note(status="wrong", reason=str(e))
    except UnclearError as e:
        note(status="unclear", reason=str(e))
    except HqpError as e:
        note(status="refused", reason=str(e))
    except Exception as e:
        where = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in traceback.extract_tb(e.__traceback__)[-3:]]
        note(status="crash", reason=f"{type(e).__name__}: {str(e)[:200]} at {' < '.join(reversed(where))}")
    return None


def check(path: Path, note: Any) -> None:
    """All checks of one exported model; ``note`` takes what is found as it is found."""
    note(stage="export")  # a file that onnxruntime cannot run is no export
    with np.load(path.with_suffix(".npz")) as stored:
        feeds = usable_feeds(onnx.load(path), dict(stored))
    note(stage="open")
    start = time.perf_counter()
    model = open_model(path, threads=1)
    graph = model.graph
    opened = time.perf_counter()
    note(stage="analyze", open_seconds=opened - start)
    channels = model.channels()
    note(analysis_seconds=time.perf_counter() - opened, **describe(graph, channels))
    note(stage="compare unpruned")
    oracle = Oracle(path, to_proto(graph))
    oracle.unpruned(feeds, note)
    if not len(channels.prunable):
        return note(status="nothing to prune")
    note(stage="scores")
    scores = {kind: make_scores(graph, channels, kind) for kind in ("random", "l2")}
    seconds = []
    for index, (kind, share) in enumerate((kind, share) for kind in scores for share in SHARES):
        plan = make_plan(channels, scores[kind], share)
        note(stage=f"prune {kind} {share:.0%}")
        start = time.perf_counter()
        pruned = prune_channels(graph, channels, plan).graph
        seconds.append(time.perf_counter() - start)
        note(surgery_seconds=max(seconds))
        oracle.compare(to_proto(pruned), channels.removed_slices(plan), feeds[index % len(feeds)], note)
    return again(graph, channels, feeds[0], oracle, note)


def again(graph: gs.Graph, channels: ChannelMap, feeds: Feeds, oracle: Oracle, note: Any) -> None:
    """Prune the pruned model once more, and simplify it with other tools."""
    plan = make_plan(channels, make_scores(graph, channels, "random"), 0.3)
    first = prune_channels(graph, channels, plan).graph
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pruned.onnx"
        save(first, path)
        note(stage="open again")
        reopened = open_model(path, threads=1)
        second, units = reopened.graph, reopened.channels()
        note(stage="prune again", lost=len(still_prunable(channels, plan, first)) - len(units.prunable))
        more = make_plan(units, make_scores(second, units, "random", seed=1), 0.3)
        twice = to_proto(prune_channels(second, units, more).graph)
        Oracle(path, to_proto(second), oracle.seen).compare(twice, units.removed_slices(more), feeds, note)
    note(stage="round trip")
    note(round_trip=round_trip(to_proto(first), feeds))
    note(stage="done", status="right")


def still_prunable(channels: ChannelMap, plan: PruningPlan, pruned: gs.Graph) -> set[int]:
    """Prunable units that remain in ``pruned``, less those that are now the only one of a tensor and so must stay."""
    names = pruned.tensors()  # parameters inside a removed branch are gone
    there = np.concatenate([line for key, line in channels.members.items() if key.tensor in names])
    present = set(there.tolist()) - set(plan.removed.tolist()) - {-1}
    last = [units for line in channels.lines if len(units := present.intersection(line.tolist())) == 1]
    return present.intersection(channels.prunable.tolist()).difference(*last)


def round_trip(model: onnx.ModelProto, feeds: Feeds) -> str:
    """The first tool that simplifies the model to one with the same outputs, or what went wrong with both."""
    want, failures = run(model, feeds), []
    for tool in (_onnxsim, _onnxslim):
        try:
            error = difference(want, run(tool(model), feeds))
        except Exception as e:
            failures.append(f"{tool.__name__[1:]}: {type(e).__name__} {str(e)[:80]}")
            continue
        if error <= TOLERANCE:
            return tool.__name__[1:]
        failures.append(f"{tool.__name__[1:]}: differs by {error:.1e}")
    return "neither: " + "; ".join(failures)


def _onnxsim(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxsim

    return onnxsim.simplify(model)[0]


def _onnxslim(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxslim

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return onnxslim.slim(copy)


if __name__ == "__main__":
    main()
