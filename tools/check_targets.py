"""What ships on LiteRT and on NPUs, beside onnxruntime: accuracy, size, times or cycles, and what was refused.

    python tools/check_targets.py FOLDER [--models resnet18 mobilenet_v3_small] [--targets litert ethos-u55-256 ...]
                                  [--npu ethos-u55-256] [--no-jobs]
                                  [--htp qnn] [--images 500] [--tables 1 2 3 4] [--page FILE.md]
                                  [--networks MODEL.onnx,CALIB.npz,TEST.npz ...] [--npus litert ethos-u55-256 rk3588]

The jobs are `hqp optimize` with its defaults on the bundled models and data, one after the other, into
FOLDER/MODEL/WAY; those that are there already are taken as they are, and with --no-jobs nothing else is. Tables:

    1  the input, Q8-only and what ships, on each target
    2  cycles of the NPU where widths were chosen by its cycles, by times of this processor, by multiply-accumulates;
       the pruned models of these jobs, quantized for the NPU
    3  what ships for LiteRT beside what ships for onnxruntime, on one thread, in turn
    4  what has no counterpart in .tflite, and what Vela leaves to the CPU
    5  the first images of the test data on the HTP, emulated, beside onnxruntime: the input, Q8-only, what ships, and
       Q8-only laid out for others; how much of each is in the context
    6  Q8-only of any networks on --npus, by 256 calibration samples, without a job: the first images of the test data
       in each target's own runtime or simulator, and what its compiler says

Needs the extra `ethos-u`. Tables 5 and 6 are not among the defaults, and need `qnn` and `hqp setup rknn`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from result_page import recorded, result_parser

import hqp_onnx
from hqp_onnx.arrays import Array
from hqp_onnx.errors import HqpError
from hqp_onnx.evaluation.latency import measure
from hqp_onnx.files import make_folder, write_bytes
from hqp_onnx.graphs import model_io
from hqp_onnx.graphs.shapes import example_feeds
from hqp_onnx.job.options import Options
from hqp_onnx.job.results import Report
from hqp_onnx.model import calibrated, open_data, open_model, open_session
from hqp_onnx.report.reading import read_report
from hqp_onnx.runtimes.ethos.runtime import EthosU
from hqp_onnx.runtimes.ethos.vela import Estimate, estimate
from hqp_onnx.runtimes.litert.session import compiled
from hqp_onnx.runtimes.machine import processor
from hqp_onnx.runtimes.qnn.context import compiled as context_of
from hqp_onnx.runtimes.qnn.runtime import Qnn
from hqp_onnx.runtimes.runtime import Compiling, Emulating
from hqp_onnx.runtimes.session import Runner
from hqp_onnx.runtimes.targets import Target, target
from hqp_onnx.steps.optimize import optimize

MODELS = Path(__file__).parents[1] / "models"
NPU = "ethos-u55-256"
ROWS = ("baseline", "q8_only")
GOALS = {"resnet18": 6, "mobilenet_v3_small": 12}  # how many times fewer cycles of the NPU
_DATA = [str(MODELS / f"fashion_mnist_{part}.npz") for part in ("calib", "test")]
_NETWORKS = [",".join([str(MODELS / f"{model}.onnx"), *_DATA]) for model in ("resnet18", "mobilenet_v3_small")]


def by_macs() -> Target:
    """The NPU, whose widths are chosen by multiply-accumulates."""
    return replace(target(NPU), name="macs", stand_in="widths are chosen by multiply-accumulates, to compare")


def way_of(name: str) -> str:
    """The target of a job."""
    return f"{__file__}:by_macs" if name == "macs" else name


def report_of(folder: Path, model: str, way: str, jobs: bool) -> Report | None:
    """Of a job, which is run if it is not there."""
    out = folder / model / way
    if not (out / "report.json").is_file():
        if not jobs:
            return None
        print(f"\n{model}, {way} ...", flush=True)
        data = {part: MODELS / f"fashion_mnist_{part}.npz" for part in ("calib", "val", "test")}
        optimize(Options(MODELS / f"{model}.onnx", output=out, target=way_of(way), resume=True, **data))
    return read_report(out)


def first_table(folder: Path, models: Iterable[str], ways: Iterable[str], jobs: bool) -> Iterator[str]:
    """Markdown."""
    yield "| model | target | row | top-1 % | drop | MB | ms | as fast as the input | source of times |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for model in models:
        for way in ways:
            report = report_of(folder, model, way, jobs)
            if report is None:
                continue
            for name in dict.fromkeys((*ROWS, report.ships)):
                row = report.rows.get(name)
                if row is None:
                    continue
                ships = " (ships)" * (name == report.ships)
                yield (
                    f"| {model} | {way} | {name}{ships} | {100 * row.metric:.2f} | {100 * row.drop:+.2f} | "
                    f"{row.bytes / 1e6:.2f} | {row.latency_ms:.3f} | {row.speedup:.2f} | {report.machine.runtime} |"
                )


def estimated(model: onnx.ModelProto, npu: str) -> Estimate:
    """Of a model in INT8."""
    runtime = target(npu).runtime
    assert isinstance(runtime, EthosU)
    feeds = example_feeds(model_io.to_graph(model))
    return estimate(compiled(model, feeds, lookups=True), runtime.chip)


def second_table(folder: Path, models: Iterable[str], npu: str, jobs: bool) -> Iterator[str]:
    """Markdown."""
    yield "| model | widths chosen by | top-1 %, INT8 in LiteRT | drop | MACs M | cycles | fewer than Q8-only |"
    yield "|---|---|---|---|---|---|---|"
    calib, test = MODELS / "fashion_mnist_calib.npz", MODELS / "fashion_mnist_test.npz"
    for model in models:
        whole = onnx.load(MODELS / f"{model}.onnx")
        full, first = hqp_onnx.evaluate(whole, test).metric, None
        ways = {
            "nothing (Q8-only)": "",
            f"{npu}'s cycles": npu,
            "times of this processor": "onnxruntime",
            "MACs": "macs",
        }
        for words, way in ways.items():
            report = report_of(folder, model, way, jobs) if way else None
            if way and report is None:
                continue
            pruned = onnx.load(folder / model / way / "pruned.onnx") if way else whole
            int8 = hqp_onnx.quantize(pruned, data=calib, target=npu)
            found = estimated(int8, npu)
            first = first or found.cycles
            top = hqp_onnx.evaluate(int8, test, target=npu).metric
            goal = f", goal {GOALS[model]}x" if way == npu and model in GOALS else ""
            macs = (report.rows["pruned"] if report else next(iter(reports(folder, model))).rows["baseline"]).macs
            yield (
                f"| {model} | {words} | {100 * top:.2f} | {100 * (full - top):+.2f} | {macs / 1e6:.2f} | "
                f"{found.cycles:,} | {first / found.cycles:.2f}x{goal} |"
            )


def reports(folder: Path, model: str) -> Iterator[Report]:
    """Of the jobs of a model that are there."""
    for file in sorted((folder / model).glob("*/report.json")):
        yield read_report(file.parent)


def third_table(folder: Path, models: Iterable[str], jobs: bool) -> Iterator[str]:
    """Markdown."""
    yield "| model | onnxruntime's, ms | LiteRT's, ms | LiteRT's takes | input: onnxruntime, ms | input: LiteRT, ms |"
    yield "|---|---|---|---|---|---|"
    for model in models:
        sessions = {}
        for way in ("onnxruntime", "litert"):
            report = report_of(folder, model, way, jobs)
            if report is None:
                break
            files = {"ships": folder / model / way / report.files[report.ships], "input": MODELS / f"{model}.onnx"}
            sessions |= {f"{kind} {way}": open_session(file, way, 1) for kind, file in files.items()}
        else:
            feeds = example_feeds(model_io.to_graph(onnx.load(MODELS / f"{model}.onnx")))
            found = measure(sessions, feeds, 6.0)
            ours, theirs = found["ships onnxruntime"], found["ships litert"]
            yield (
                f"| {model} | {ours.median_ms:.3f} | {theirs.median_ms:.3f} | {ours.speedup / theirs.speedup:.2f} of "
                f"onnxruntime's | {found['input onnxruntime'].median_ms:.3f} | {found['input litert'].median_ms:.3f} |"
            )


def fourth_table(files: Iterable[Path], npu: str) -> Iterator[str]:
    """Markdown."""
    yield "| model | in .tflite | left to the CPU by Vela, as if in INT8 |"
    yield "|---|---|---|"
    runtime = target(npu).runtime
    assert isinstance(runtime, EthosU)
    for file in files:
        model = onnx.load(file)
        feeds = example_feeds(model_io.to_graph(model))
        try:
            compiled(model, feeds)
            rows = estimate(compiled(model, feeds, lookups=True, assume=True), runtime.chip).rows
            left = [f"{row.operator} `{row.name}`" for row in rows if not row.on_npu and "uantize" not in row.operator]
            more = f" and {len(left) - 4} more" * (len(left) > 4)
            yield f"| {file.name} | all | {', '.join(left[:4]) or 'nothing'}{more} |"
        except HqpError as e:
            yield f"| {file.name} | refused: {e} | |"


def fifth_table(folder: Path, models: Iterable[str], htp: str, images: int, jobs: bool) -> Iterator[str]:
    """Markdown."""
    yield f"| model | row | top-1 % of {images} images, emulated | onnxruntime | MB | nodes in it | left to the CPU |"
    yield "|---|---|---|---|---|---|---|"
    calib, test = MODELS / "fashion_mnist_calib.npz", dict(np.load(MODELS / "fashion_mnist_test.npz"))
    some = {name: values[:images] for name, values in test.items()}
    runtime = target(htp).runtime
    assert isinstance(runtime, Qnn)
    for model in models:
        whole = onnx.load(MODELS / f"{model}.onnx")
        report = report_of(folder, model, htp, jobs)
        rows = {"the input, in float16": whole, "Q8-only": hqp_onnx.quantize(whole, data=calib, target=htp)}
        if report is not None:
            rows["ships"] = onnx.load(folder / model / htp / report.files[report.ships])
        for other in ("tensorrt", "onnxruntime"):
            rows[f"Q8-only as for {other}"] = hqp_onnx.quantize(whole, data=calib, target=other)
        feeds = example_feeds(model_io.to_graph(whole))
        for row, proto in rows.items():
            made = folder / f"{model}.ctx.onnx"
            try:
                found = context_of(proto, feeds, runtime.chip)
            except HqpError as e:
                yield f"| {model} | {row} | refused: {e} | | | | |"
                continue
            make_folder(folder)
            write_bytes(made, found.content)
            tops = [100 * hqp_onnx.evaluate(one, some, target=htp).metric for one in (made, proto)]
            left = [f"{node.operator} `{node.name}`" for node in found.left if not node.end]
            more = f" and {len(left) - 3} more" * (len(left) > 3)
            yield (
                f"| {model} | {row} | {tops[0]:.1f} | {tops[1]:.1f} | {len(found.content) / 1e6:.2f} | "
                f"{found.nodes - len(found.left)} of {found.nodes} | {', '.join(left[:3]) or 'the ends alone'}{more} |"
            )


def sixth_table(networks: Iterable[str], names: Iterable[str], images: int) -> Iterator[str]:
    """Markdown."""
    yield f"| model | target | top-1 % of {images} images | drop from the input's in onnxruntime | MB | its compiler |"
    yield "|---|---|---|---|---|---|"
    for network in networks:
        file, calib, test = map(Path, network.split(","))
        whole, few = onnx.load(file), {name: values[:256] for name, values in np.load(calib).items()}
        some = {name: values[:images] for name, values in np.load(test).items()}
        first = top1(open_session(whole, "onnxruntime", 1), some)
        for name in names:
            try:
                yield f"| {file.stem} | {name} | {q8_only(whole, name, few, some, first)} |"
            except HqpError as e:
                yield f"| {file.stem} | {name} | refused: {e} | | | |"


def q8_only(whole: onnx.ModelProto, name: str, calib: dict[str, Array], test: dict[str, Array], first: float) -> str:
    """The cells of a row."""
    opened = open_model(whole)
    place = calibrated(target(name), open_data(opened, calib))
    int8 = hqp_onnx.quantize(whole, data=calib, target=name)
    content, said, runner = b"", ("",), None
    if isinstance(place.runtime, Compiling):
        feeds = example_feeds(model_io.to_graph(whole))
        content, said = place.runtime.compile(int8, feeds), place.runtime.notes(int8, feeds)
        if isinstance(place.runtime, Emulating):
            runner = emulator(place.runtime, content)
    top = top1(runner or open_session(int8, place, 1), test)
    size = len(content) or int8.ByteSize()
    return f"{top:.2f} | {first - top:+.2f} | {size / 1e6:.2f} | {'; '.join(said)}"


def emulator(runtime: Emulating, content: bytes) -> Runner:
    """What was compiled, loaded."""
    with tempfile.TemporaryDirectory() as folder:
        (made := Path(folder) / "made.onnx").write_bytes(content)
        return runtime.emulator(made)


def top1(runner: Runner, test: dict[str, Array]) -> float:
    """Percent of the images that ``runner`` computes right."""
    (spec,) = runner.inputs
    images = test[spec.name]
    size = runner.batch or -(-len(images) // 10)
    parts = (images[start : start + size] for start in range(0, len(images), size))
    found = [runner.run({spec.name: x.astype(spec.dtype)}) for x in parts]
    answers = np.concatenate([next(iter(outputs.values())).argmax(-1) for outputs in found])
    return 100 * float((answers == test["labels"]).mean())


def main() -> None:
    parser = result_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=["resnet18", "mobilenet_v3_small"])
    parser.add_argument("--targets", nargs="+", default=["onnxruntime", "litert", NPU])
    parser.add_argument("--npu", default=NPU)
    parser.add_argument("--htp", default="qnn")
    parser.add_argument("--images", type=int, default=500, help="of tables 5 and 6")
    parser.add_argument("--networks", nargs="+", default=_NETWORKS, metavar="MODEL,CALIB,TEST", help="of table 6")
    parser.add_argument("--npus", nargs="+", default=["litert", NPU, "rk3588"], help="of table 6")
    parser.add_argument("--tables", nargs="+", type=int, default=[1, 2, 3, 4])
    parser.add_argument("--files", nargs="*", type=Path, default=sorted(MODELS.rglob("*.onnx")), help="of table 4")
    parser.add_argument("--no-jobs", action="store_true")
    given = parser.parse_args()
    with recorded(given.page, "Other accelerators"):
        print_tables(given)


def print_tables(given: argparse.Namespace) -> None:
    """Those that were asked for."""
    jobs = not given.no_jobs
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{processor()}; load of the last 1, 5, 15 minutes {load}; {', '.join(describe(given))}")
    tables = {
        1: first_table(given.folder, given.models, given.targets, jobs),
        2: second_table(given.folder, given.models, given.npu, jobs),
        3: third_table(given.folder, given.models, jobs),
        4: fourth_table(given.files, given.npu),
        5: fifth_table(given.folder, given.models, given.htp, given.images, jobs),
        6: sixth_table(given.networks, given.npus, given.images),
    }
    for number, lines in ((number, tables[number]) for number in given.tables):
        print(f"\nTable {number}\n", flush=True)
        for line in lines:
            print(line, flush=True)


def describe(given: argparse.Namespace) -> list[str]:
    """The runtimes."""
    names = [*given.targets] if {1, 2, 3, 4} & {*given.tables} else []
    names += [given.htp] * (5 in given.tables) + given.npus * (6 in given.tables)
    return [target(name).runtime.describe() for name in dict.fromkeys(names)]


if __name__ == "__main__":
    main()
