"""What ships on LiteRT and on NPUs, beside onnxruntime: accuracy, size, times or cycles, and what was refused.

    python tools/check_targets.py FOLDER [--networks MODEL.onnx,DATA ...] [--targets litert ethos-u55-256 qnn rk3588]
                                  [--no-jobs] [--limit TARGET,CALIB,VAL,TEST ...] [--npu ethos-u55-256] [--htp qnn]
                                  [--images 500] [--tables 1 2 3 4] [--page FILE.md]

DATA is what the names of calib, val and test begin with: build/cifar10/cifar10 stands for
build/cifar10/cifar10_calib.npz and the others. The jobs are `hqp optimize` with its defaults, one after the other, into
FOLDER/MODEL/TARGET; those that are there already are taken as they are, and with --no-jobs nothing else is. With
--limit, those of a target, or of MODEL/TARGET, take the first images of the calibration, validation and test data.
Tables:

    1  the input, Q8-only and what ships, on each target, as the reports have them
    2  cycles of the NPU where widths were chosen by its cycles, by multiply-accumulates, by times of this processor
       (the pruned model of that job, quantized for the NPU)
    3  what ships for LiteRT beside what ships for onnxruntime, on one thread, in turn
    4  what has no counterpart in .tflite, and what Vela leaves to the CPU, of --files
    5  the first images of the test data on the HTP, emulated, beside onnxruntime: the input, Q8-only, what ships, and
       Q8-only laid out for others; how much of each is in the context
    6  Q8-only on --npus, by 256 calibration samples, without a job: the first images of the test data in each target's
       own runtime or simulator, and what its compiler says
    7  which nodes of Q8-only each of --npus leaves to the CPU, and why

Needs the extra `ethos-u`. Tables 5 to 7 are not among the defaults, and they and the targets need `qnn` and
`hqp setup rknn`.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from result_page import recorded, result_parser
from target_jobs import BUNDLED, BY_MACS, MODELS, NPU, Jobs, Network, limit_of, network_of

import hqp_onnx
from hqp_onnx.arrays import Array
from hqp_onnx.errors import HqpError
from hqp_onnx.evaluation.latency import measure
from hqp_onnx.files import make_folder, write_bytes
from hqp_onnx.graphs import model_io
from hqp_onnx.graphs.shapes import example_feeds
from hqp_onnx.job.results import Report, Row
from hqp_onnx.model import calibrated, open_data, open_model, open_session
from hqp_onnx.runtimes.ethos.runtime import EthosU
from hqp_onnx.runtimes.ethos.vela import Estimate, estimate
from hqp_onnx.runtimes.litert.session import compiled
from hqp_onnx.runtimes.machine import processor
from hqp_onnx.runtimes.qnn.context import compiled as context_of
from hqp_onnx.runtimes.qnn.runtime import Qnn
from hqp_onnx.runtimes.runtime import Compiling, Emulating, Placing
from hqp_onnx.runtimes.session import Runner
from hqp_onnx.runtimes.targets import Target, target

GOALS = {"resnet18": 6, "mobilenet_v3_small": 12}  # how many times fewer cycles of the NPU
_CLOCK = re.compile(r"cycles of the NPU at (?P<mhz>[\d.]+) MHz, as Vela")
_TENSOR = re.compile(r" \([^()]*\)$")  # of a reason: which tensor it is of


def first_table(jobs: Jobs, networks: Iterable[Network], ways: Iterable[str]) -> Iterator[str]:
    """Markdown."""
    yield "| model | target | row | images | top-1 % | drop | MB | takes | as the input | source | of the file |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for network in networks:
        for way in ways:
            report = jobs.report(network, way)
            if report is None:
                continue
            for name in dict.fromkeys(("baseline", "q8_only", report.ships)):
                if name not in report.rows:
                    continue
                row, ships = report.rows[name], name == report.ships
                yield (
                    f"| {network.name} | {way} | {name}{' (ships)' * ships} | {report.samples} | "
                    f"{100 * row.metric:.2f} | {100 * row.drop:+.2f} | {row.bytes / 1e6:.2f} | "
                    f"{' | '.join(taken(report, name))} | {made(report) if ships else ''} |"
                )


def made(report: Report) -> str:
    """What the report says of the file that was compiled of the model that ships, and of its emulation."""
    stem = Path(report.files[report.ships]).stem
    return "; ".join(note.partition(": ")[2] for note in report.notes if note.startswith(f"{stem}."))


def taken(report: Report, name: str) -> tuple[str, str, str]:
    """Time, cycles or multiply-accumulates of a row, how many times fewer than the input's, and who says so."""
    row, first = report.rows[name], report.rows["baseline"]
    if report.counted:
        return f"{row.macs / 1e6:.2f} M MACs", f"{first.macs / row.macs:.2f}x fewer", "counted"
    if found := cycles(report, row):
        return f"{found:,.0f} cycles", f"{row.speedup:.2f}x fewer", "estimated by Vela"
    return f"{row.latency_ms:.3f} ms", f"{row.speedup:.2f}x as fast", f"measured, {report.machine.runtime}"


def cycles(report: Report, row: Row) -> float:
    """Of the NPU, by its clock; 0 where times are no estimates of Vela's."""
    clock = _CLOCK.search(" ".join(report.notes))
    return row.latency_ms * 1e3 * float(clock["mhz"]) if clock else 0.0


def int8_of(network: Network, way: str, most: int | None = None) -> onnx.ModelProto:
    """Q8-only, by the first ``most`` calibration samples."""
    return hqp_onnx.quantize(network.model(), data=network.part("calib", most), target=way)


def placed(network: Network, way: str) -> Target:
    """A target, with calibration data where it quantizes by itself."""
    return calibrated(target(way), open_data(open_model(network.model()), network.part("calib", 256)))


def estimated(model: onnx.ModelProto, npu: Target) -> Estimate:
    """Of a model in INT8."""
    assert isinstance(npu.runtime, EthosU)
    feeds = example_feeds(model_io.to_graph(model))
    return estimate(compiled(model, feeds, lookups=True), npu.runtime.chip)


def second_table(jobs: Jobs, networks: Iterable[Network], npu: str) -> Iterator[str]:
    """Markdown."""
    yield "| model | widths chosen by | top-1 %, INT8 in LiteRT | drop | MACs M | cycles | fewer than Q8-only |"
    yield "|---|---|---|---|---|---|---|"
    for network in networks:
        by_cycles = jobs.report(network, npu)
        if by_cycles is None or by_cycles.q8_only is None:
            continue
        first = cycles(by_cycles, by_cycles.q8_only)
        for words, way in (("nothing (Q8-only)", ""), (f"{npu}'s cycles", npu), ("MACs", BY_MACS)):
            report = jobs.report(network, way) if way else by_cycles
            if report is not None:
                row = report.hqp if way else report.q8_only
                goal = f", goal {GOALS[network.name]}x" if way == npu and network.name in GOALS else ""
                yield second_row(network, words, row, cycles(report, row), first, goal)
        elsewhere = jobs.report(network, "onnxruntime")
        if elsewhere is not None:
            pruned = onnx.load(jobs.out(network, "onnxruntime") / "pruned.onnx")
            int8 = hqp_onnx.quantize(pruned, data=network.part("calib"), target=npu)
            top = hqp_onnx.evaluate(int8, network.part("test"), target=npu).metric
            row = replace(elsewhere.pruned, metric=top, drop=elsewhere.baseline.metric - top)
            yield second_row(network, "times of this processor", row, estimated(int8, target(npu)).cycles, first)


def second_row(network: Network, words: str, row: Row, taken: float, first: float, goal: str = "") -> str:
    """Markdown."""
    return (
        f"| {network.name} | {words} | {100 * row.metric:.2f} | {100 * row.drop:+.2f} | {row.macs / 1e6:.2f} | "
        f"{taken:,.0f} | {first / taken:.2f}x{goal} |"
    )


def third_table(jobs: Jobs, networks: Iterable[Network]) -> Iterator[str]:
    """Markdown."""
    yield "| model | onnxruntime's, ms | LiteRT's, ms | LiteRT's takes | input: onnxruntime, ms | input: LiteRT, ms |"
    yield "|---|---|---|---|---|---|"
    for network in networks:
        shipped = {way: jobs.ships(network, way) for way in ("onnxruntime", "litert")}
        if None in shipped.values():
            continue
        sessions = {
            f"{kind} {way}": open_session(file, way, 1)
            for way, ships in shipped.items()
            for kind, file in (("ships", ships), ("input", network.file))
        }
        found = measure(sessions, network.feeds(), 6.0)
        ours, theirs = found["ships onnxruntime"], found["ships litert"]
        yield (
            f"| {network.name} | {ours.median_ms:.3f} | {theirs.median_ms:.3f} | {ours.speedup / theirs.speedup:.2f} "
            f"of onnxruntime's | {found['input onnxruntime'].median_ms:.3f} | {found['input litert'].median_ms:.3f} |"
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


def fifth_table(jobs: Jobs, networks: Iterable[Network], htp: str, images: int) -> Iterator[str]:
    """Markdown."""
    yield f"| model | row | top-1 % of {images} images, emulated | onnxruntime | MB | nodes in it | left to the CPU |"
    yield "|---|---|---|---|---|---|---|"
    runtime = target(htp).runtime
    assert isinstance(runtime, Qnn)
    for network in networks:
        calib, some, feeds = network.part("calib"), network.part("test", images), network.feeds()
        whole, ships = network.model(), jobs.ships(network, htp)
        rows = {"the input, in float16": whole, "Q8-only": hqp_onnx.quantize(whole, data=calib, target=htp)}
        if ships is not None:
            rows["ships"] = onnx.load(ships)
        for other in ("tensorrt", "onnxruntime"):
            rows[f"Q8-only as for {other}"] = hqp_onnx.quantize(whole, data=calib, target=other)
        for row, proto in rows.items():
            made = jobs.folder / f"{network.name}.ctx.onnx"
            try:
                found = context_of(proto, feeds, runtime.chip)
            except HqpError as e:
                yield f"| {network.name} | {row} | refused: {e} | | | | |"
                continue
            make_folder(jobs.folder)
            write_bytes(made, found.content)
            tops = [100 * hqp_onnx.evaluate(one, some, target=htp).metric for one in (made, proto)]
            left = [f"{node.operator} `{node.name}`" for node in found.left if not node.end]
            more = f" and {len(left) - 3} more" * (len(left) > 3)
            yield (
                f"| {network.name} | {row} | {tops[0]:.1f} | {tops[1]:.1f} | {len(found.content) / 1e6:.2f} | "
                f"{found.nodes - len(found.left)} of {found.nodes} | {', '.join(left[:3]) or 'the ends alone'}{more} |"
            )


def sixth_table(networks: Iterable[Network], names: Iterable[str], images: int) -> Iterator[str]:
    """Markdown."""
    yield f"| model | target | top-1 % of {images} images | drop from the input's in onnxruntime | MB | its compiler |"
    yield "|---|---|---|---|---|---|"
    for network in networks:
        first = top1(open_session(network.model(), "onnxruntime", 1), network.part("test", images))
        for name in names:
            try:
                yield f"| {network.name} | {name} | {q8_only(network, name, images, first)} |"
            except HqpError as e:
                yield f"| {network.name} | {name} | refused: {e} | | | |"


def q8_only(network: Network, name: str, images: int, first: float) -> str:
    """The cells of a row."""
    place, feeds = placed(network, name), network.feeds()
    int8 = int8_of(network, name, 256)
    content, runner = b"", None
    if isinstance(place.runtime, Compiling):
        content = place.runtime.compile(int8, feeds)
        if isinstance(place.runtime, Emulating):
            runner = emulator(place.runtime, content)
    top = top1(runner or open_session(int8, place, 1), network.part("test", images))
    size = len(content) or int8.ByteSize()
    said = place.runtime.notes(int8, feeds) if isinstance(place.runtime, Compiling) else ()
    return f"{top:.2f} | {first - top:+.2f} | {size / 1e6:.2f} | {'; '.join(said)}"


def seventh_table(networks: Iterable[Network], names: Iterable[str]) -> Iterator[str]:
    """Markdown."""
    yield "| model | target | operators | left to the CPU | why | which |"
    yield "|---|---|---|---|---|---|"
    for network in networks:
        for name in names:
            place = placed(network, name)
            if not isinstance(place.runtime, Placing):
                continue
            int8 = int8_of(network, name, 256)
            try:
                total, left = place.runtime.placed(int8, network.feeds())
            except HqpError as e:
                yield f"| {network.name} | {name} | refused: {e} | | | |"
                continue
            for cells in refusals(left) or [("nothing", "", "")]:
                yield f"| {network.name} | {name} | {total} | {' | '.join(cells)} |"


def refusals(left: Iterable[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """How many of each operator are left for each reason, the reason, and the first names."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, operator, reason in left:
        found[operator, _TENSOR.sub("", reason)].append(name)
    return [
        (f"{len(names)} {operator}", reason, ", ".join(f"`{name}`" for name in names[:3]) + ", ..." * (len(names) > 3))
        for (operator, reason), names in found.items()
    ]


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
    parser.add_argument("--networks", nargs="+", type=network_of, metavar="MODEL.onnx,DATA")
    parser.add_argument("--targets", nargs="+", default=["onnxruntime", "litert", NPU], help="of table 1")
    parser.add_argument(
        "--limit", nargs="+", type=limit_of, default=[], metavar="TARGET,CALIB,VAL,TEST", help="of jobs"
    )
    parser.add_argument("--npu", default=NPU)
    parser.add_argument("--htp", default="qnn")
    parser.add_argument("--images", type=int, default=500, help="of tables 5 and 6")
    parser.add_argument("--npus", nargs="+", default=["litert", NPU, "rk3588"], help="of tables 6 and 7")
    parser.add_argument("--tables", nargs="+", type=int, default=[1, 2, 3, 4])
    parser.add_argument("--files", nargs="*", type=Path, default=sorted(MODELS.rglob("*.onnx")), help="of table 4")
    parser.add_argument("--no-jobs", action="store_true")
    given = parser.parse_args()
    with recorded(given.page, "Other accelerators"):
        print_tables(given)


def print_tables(given: argparse.Namespace) -> None:
    """Those that were asked for."""
    jobs, networks = Jobs(given.folder, not given.no_jobs, tuple(given.limit)), given.networks or bundled()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{processor()}; load of the last 1, 5, 15 minutes {load}; {', '.join(describe(given))}")
    tables = {
        1: first_table(jobs, networks, given.targets),
        2: second_table(jobs, networks, given.npu),
        3: third_table(jobs, networks),
        4: fourth_table(given.files, given.npu),
        5: fifth_table(jobs, networks, given.htp, given.images),
        6: sixth_table(networks, given.npus, given.images),
        7: seventh_table(networks, given.npus),
    }
    for number, lines in ((number, tables[number]) for number in given.tables):
        print(f"\nTable {number}\n", flush=True)
        for line in lines:
            print(line, flush=True)


def bundled() -> Sequence[Network]:
    """With their data."""
    return [network_of(words) for words in BUNDLED]


def describe(given: argparse.Namespace) -> list[str]:
    """The runtimes."""
    names = [*given.targets] if {1, 2, 3, 4} & {*given.tables} else []
    names += [given.htp] * (5 in given.tables) + given.npus * bool({6, 7} & {*given.tables})
    return [target(name).runtime.describe() for name in dict.fromkeys(names)]


if __name__ == "__main__":
    main()
