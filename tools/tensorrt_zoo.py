"""Many models in TensorRT for RTX: exports of the zoo, the tasks' examples and other people's files, pruned, in INT8.

    python tools/tensorrt_zoo.py FOLDER [--only PATTERN] [--minutes N] [--real FOLDER] [--page FILE.md]

FOLDER keeps exports and results.json, and the run goes on where it stopped; ``--minutes 0`` prints what is known. The
zoo (zoo_models.py), by both exporters, needs torch and its libraries; ``check_real.py --fetch`` fills a folder for
``--real``. Models of all kinds take turns, so a run that is stopped has tried as large a share of each.

Of each model, in a process of its own: the parser is asked about it; it is pruned by 30 % by L2 norms to widths as the
target takes them, quantized as ``hqp quantize --target tensorrt-rtx --precision int8`` (weights rounded to nearest),
parsed and built. Where that is refused, the original is built as well: "worse" are models whose original was taken.
"file" are the bytes of all weights and scales of the INT8 file, "weights" the builder's "Total Weights
Memory". Ranges are those of one random batch: they say nothing of accuracy, and change no sizes.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import zoo_models
from check_tensorrt import QUICK, ROOT, build
from real_inputs import Drawer
from result_page import recorded, result_parser
from zoo_export import export

from hqp_onnx.engine.library import TENSORRT_RTX
from hqp_onnx.engine.parsing import refusals
from hqp_onnx.errors import HqpError, ModelError
from hqp_onnx.graphs import model_io
from hqp_onnx.model import open_data, open_model
from hqp_onnx.passes.quantize import quantize
from hqp_onnx.runtimes.targets import target
from hqp_onnx.steps.prune import Pruning, prune_model

SECONDS, BYTES = 600, 8 << 30  # for one model
SPARSITY, BATCH, STEPS = 0.3, 2, 128
LISTED = 3  # refusals of one model
Note = Callable[..., None]


@dataclass(frozen=True)
class Job:
    """One model: where it comes from, and what writes its file, unless that is there."""

    name: str
    path: Path
    entry: zoo_models.Entry | None = None
    exporter: str = ""


def main() -> None:
    parser = result_parser(__doc__)
    parser.add_argument("folder", type=Path, help="exports and results are kept there")
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no model after that")
    parser.add_argument("--real", type=Path, help="a folder of .onnx files")
    options = parser.parse_args()
    file, end = options.folder / "results.json", time.monotonic() + 60 * options.minutes
    options.folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    chosen = jobs(options.folder, options.real)
    waiting = [job for job in chosen if options.only in job.name and job.name not in found]
    if options.minutes and waiting:
        _preload()
    for job in waiting:
        if time.monotonic() > end:
            break
        found[job.name] = run_apart(job)
        print(line(job.name, found[job.name]), flush=True)
        file.write_text(json.dumps(found, indent=1) + "\n")
    with recorded(options.page, "The zoo in TensorRT for RTX"):
        summary({job.name: found[job.name] for job in chosen if job.name in found}, len(chosen))


def jobs(folder: Path, real: Path | None) -> list[Job]:
    """All models, those of each kind spread evenly."""
    kinds: dict[str, list[Job]] = {"torchscript": [], "dynamo": []}
    for entry in zoo_models.entries():
        for exporter in ("torchscript", "dynamo") if entry.dynamo else ("torchscript",):
            path = folder / f"{entry.name.replace('/', '.')}.{exporter}.onnx"
            kinds[exporter].append(Job(f"{entry.name} ({exporter})", path, entry, exporter))
    kinds["own"] = [Job(f"{path.parent.name}/{path.stem}", path) for path in sorted((ROOT / "models").rglob("*.onnx"))]
    if real is not None:
        kinds["real"] = [Job(f"{path.parent.name}/{path.stem} (real)", path) for path in sorted(real.rglob("*.onnx"))]
    placed = [((place + 0.5) / len(line), job) for line in kinds.values() for place, job in enumerate(line)]
    return [job for _, job in sorted(placed, key=lambda one: one[0])]


def _preload() -> None:
    """Import once what the process of every model needs."""
    with suppress(ImportError):
        import torch

        torch.set_num_threads(1)
        zoo_models.declare_torchvision()
        import timm  # noqa: F401
        import torchvision  # noqa: F401
        import transformers  # noqa: F401
    TENSORRT_RTX.load()


def run_apart(job: Job) -> dict[str, Any]:
    """Check one model in a process of its own."""
    result, start = dict[str, Any](status="crash", stage="start"), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        process = multiprocessing.get_context("fork").Process(target=_work, args=(job, Path(folder)))
        process.start()
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
            result["reason"] = f"no result after {SECONDS} s"
        elif process.exitcode:
            result["reason"] = f"the process ended with code {process.exitcode}"
        if (state := Path(folder) / "state.json").exists():
            result |= json.loads(state.read_text())
    if result["stage"] == "export":
        result["status"] = "not exported"
    return result | {"seconds": time.perf_counter() - start}


def _work(job: Job, folder: Path) -> None:
    """Runs in the child; state.json always holds what is known so far."""
    result: dict[str, Any] = {}

    def note(**values: Any) -> None:
        result.update(values)
        (folder / "state.json").write_text(json.dumps(result))

    resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))
    sink = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # exporters print whole graphs when they fail
        os.dup2(sink, stream)
    try:
        note(stage="export")
        if job.entry is not None and not job.path.exists():
            export(job.entry, job.exporter, job.path)
        check(job.path, folder, note)
    except HqpError as e:
        note(status="not made", reason=str(e))
    except Exception as e:
        where = traceback.extract_tb(e.__traceback__)[-1]
        note(status="crash", reason=f"{type(e).__name__}: {str(e)[:200]} at {Path(where.filename).name}:{where.lineno}")


def check(path: Path, folder: Path, note: Note) -> None:
    """All that is asked of one model; ``note`` takes what is found as it is found."""
    note(stage="parse the original")
    original = onnx.load(path)
    try:
        before = [str(one) for one in refusals(original, TENSORRT_RTX)]
    except ModelError as e:  # it names no node
        before = [str(e)]
    note(stage="open", original=before)
    model = open_model(path, threads=1, quantized=True)
    inputs = path.with_suffix(".npz")
    feeds = dict(np.load(inputs)) if inputs.exists() else Drawer(original, model.session.run)(_rows(original))
    few = open_data(model, feeds)
    note(stage="prune")
    layout = target("tensorrt-rtx", reduced_range=False)
    pruned = prune_model(model, Pruning(SPARSITY, saliency="l2", multiple_of=layout.channel_multiple))
    note(stage="quantize", units=pruned.units)
    made = model_io.to_proto(quantize(pruned.graph, few, layout, "minmax", recipe=QUICK).graph)
    note(stage="build", convolutional=_convolutional(made))
    batch = model.session.batch or 1  # of the zoo, whose first axis is one
    shapes = {name: tuple((value[:batch] if inputs.exists() else value).shape) for name, value in feeds.items()}
    model_io.save(made, folder / "int8.onnx")
    built = _built(folder / "int8.onnx", shapes)
    note(**built)
    if not built["refused"]:
        return note(status="mended" if before else "taken", stage="done")
    note(stage="build the original")
    before = before or _built(path, shapes)["refused"]
    return note(status="original refused" if before else "worse", stage="done", original=before)


def _built(file: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    try:
        return build(file, shapes)
    except ModelError as e:
        return {"refused": [str(e)]}


def _rows(model: onnx.ModelProto) -> int:
    """Rows of a sample: many where they are lines of floats, which may be steps of time that are pooled over."""
    kinds = [value.type.tensor_type for value in model.graph.input]
    lines = all(kind.elem_type == onnx.TensorProto.FLOAT and len(kind.shape.dim) == 2 for kind in kinds)
    return STEPS if lines else BATCH


def _convolutional(model: onnx.ModelProto) -> bool:
    """Whether most of the weights are those of convolutions."""
    sizes = {t.name: int(np.prod(t.dims)) for t in model.graph.initializer}
    behind = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    share = {"Conv": 0, "other": 0}
    for node in model.graph.node:
        size = max((sizes.get(behind.get(name, name), 0) for name in node.input[1:2]), default=0)
        share["Conv" if "Conv" in node.op_type else "other"] += size
    return share["Conv"] > share["other"]


def line(name: str, result: dict[str, Any]) -> str:
    """One row of the table."""
    if result["status"] not in _BUILT:
        return f"| {name} | {'; '.join(_reasons(result))} |"
    ratio = result["weights"] / result["stored"]
    kind = "yes" if result["convolutional"] else ""
    sizes = " | ".join(f"{result[key] / 1e3:,.0f}" for key in ("stored", "weights"))
    return f"| {name} | {kind} | {sizes} | {ratio:.2f} | {result['engine'] / 1e3:,.0f} | {result['build_s']:.1f} |"


def _reasons(result: dict[str, Any]) -> Iterator[str]:
    yield result["status"]
    reason = [result["reason"]] if "reason" in result else []
    refused = result.get("refused") or reason or result.get("original") or [f"at '{result['stage']}'"]
    yield from (one.replace("|", "/") for one in refused[:LISTED])
    if len(refused) > LISTED:
        yield f"and {len(refused) - LISTED} more nodes"


def summary(found: dict[str, Any], count: int) -> None:
    """Counts, what is off the goals, the table."""
    of = {status: [name for name, one in found.items() if one["status"] == status] for status in _STATUS}
    print(f"TensorRT for RTX {TENSORRT_RTX.load().__version__}. {len(found)} of {count} models were tried:\n")
    for status, words in _STATUS.items():
        if of[status]:
            print(f"- {words}: {len(of[status])}")
    taken = {name: one for name, one in found.items() if one["status"] in _BUILT}
    ratios = {name: one["weights"] / one["stored"] for name, one in taken.items()}
    print("\n| of these | models | within 5 % of the file | within 10 % | more, but by less than 100 kB | more |")
    print("|---|---|---|---|---|---|")
    for words, wanted in (("convolutional (most weights are those of Conv)", True), ("others", False)):
        print(_shares(words, [name for name in taken if taken[name]["convolutional"] is wanted], ratios, taken))
    for status, words in list(_STATUS.items())[1:]:
        if of[status]:
            print(f"\nModels that {words}:\n")
            print("\n".join(f"- {name}: {'; '.join(list(_reasons(found[name]))[1:])}" for name in of[status]))
    print("\n| model | convolutional | INT8 bytes of the file, kB | weights, kB | ratio | engine, kB | build s |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(line(name, one) for name, one in taken.items()))


_BUILT = ("taken", "mended")
_STATUS = {
    "taken": "were taken, as they are and pruned in INT8",
    "mended": "are refused as they are, and were taken pruned in INT8",
    "worse": "were refused pruned in INT8, though their original was taken",
    "original refused": "are refused as they are",
    "not made": "are refused by hqp",
    "not exported": "could not be exported",
    "crash": "ended in an error",
}


def _shares(words: str, names: Sequence[str], ratios: dict[str, float], taken: dict[str, Any]) -> str:
    close, near = ([name for name in names if ratios[name] <= most] for most in (1.05, 1.1))
    beyond = [name for name in names if ratios[name] > 1.1]
    small = [name for name in beyond if taken[name]["weights"] - taken[name]["stored"] < 1e5]
    return f"| {words} | {len(names)} | {len(close)} | {len(near)} | {len(small)} | {len(beyond) - len(small)} |"


if __name__ == "__main__":
    sys.exit(main())
