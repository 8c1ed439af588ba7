"""The paper's tables on the bundled models, or on others.

    python tools/bench_optimize.py [--variants default confidence ...] [--max-drop 0.015] [-o FOLDER] [--page FILE.md]
    python models/cifar10.py --source cifar10_jpeg.npz
    python tools/bench_optimize.py vit.onnx resnet56.onnx --data build/cifar10/cifar10 --variants default openvino
    python models/efficientnet_lite0.py imagenet1k_sample.npz
    python tools/bench_optimize.py build/efficientnet_lite0/efficientnet_lite0.onnx --metric agreement \
        --data build/efficientnet_lite0/quarter --variants default

For each model: the default (widths by measured time), the same on one thread, the same with the upper 95 % bound of the
drop inside the budget; units in one order, by what the loss suffers per MAC, per parameter (the smallest file ships;
the same with weights in INT4), and by Fisher sensitivity; Algorithm 1 to the letter, with the paper's settings; two
epochs of recovery; OpenVINO. One run; within a row group latencies are measured in turn. Under each table, the kernels
that what ships spends most of its time in, by the runtime's profile, which costs time itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from result_page import recorded, result_parser

from hqp_onnx.cli.tables.optimization import cost_lines
from hqp_onnx.job.options import PAPER, Options
from hqp_onnx.job.results import Report
from hqp_onnx.steps.optimize import optimize

ROOT = Path(__file__).parents[1] / "models"
KERNELS = 8  # that are listed
VARIANTS = {
    "default": {},
    "one-thread": {"threads": 1},
    "confidence": {"confidence": 0.95},
    "macs": {"objective": "macs"},
    "size": {"objective": "size", "threads": 1},
    "size-int4": {"objective": "size", "precision": "int4", "threads": 1},
    "sparsity": {"objective": "sparsity", "saliency": "fisher"},
    "paper": dict(PAPER),
    "recovery": {"recover": 2},
    "recovery-one-thread": {"recover": 2, "threads": 1},
    "openvino": {"target": "openvino"},
    "openvino-one-thread": {"target": "openvino", "threads": 1},
}


def print_rows(report: Report) -> None:
    table = report.table
    print(f"| {' | '.join(table.head)} |\n|---|{'---|' * (len(table.head) - 1)}")
    for row in table.rows:
        print(f"| {' | '.join(row)} |")


def kernel_lines(report: Report) -> Iterator[str]:
    """Where the time of what ships goes: its slowest kernels, beside what they took in the input."""
    timed = sorted((step for step in report.network if step.ms_after), key=lambda step: -(step.ms_after or 0.0))
    whole = sum(step.ms_after or 0.0 for step in timed)
    if not whole:
        return
    yield f"| kernel ({len(timed)} take {whole:.3f} ms) | precision | ms before | ms after | share |"
    yield "|---|---|--:|--:|--:|"
    for step in timed[:KERNELS]:
        before, after = step.ms_before or 0.0, step.ms_after or 0.0
        name = f"{step.op} `{step.weight or step.name}`"
        yield f"| {name} | {step.precision} | {before:.4f} | {after:.4f} | {after / whole:.0%} |"


def main() -> None:
    parser = result_parser(__doc__)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("models", nargs="*", type=Path, help="none: the bundled ones")
    parser.add_argument(
        "--data",
        default=ROOT / "fashion_mnist",
        help="what the names of calib, val and test begin with; test may be missing",
    )
    parser.add_argument("--metric", help="default: what the data and the outputs say")
    parser.add_argument("--max-drop", type=float, default=0.015)
    parser.add_argument("-o", "--output", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    with recorded(options.page, "Optimized models"):
        print_all(options)


def print_all(options: argparse.Namespace) -> None:
    """The table of every model and variant."""
    calib, val, test = (Path(f"{options.data}_{part}.npz") for part in ("calib", "val", "test"))
    common = {"test": test if test.exists() else None, "metric": options.metric, "max_drop": options.max_drop}
    for model in options.models or sorted(ROOT.glob("*.onnx")):
        for variant in options.variants:
            output, chosen = options.output / model.stem / variant, VARIANTS[variant]
            report = optimize(Options(model, calib, val, output, resume=True, **{**common, **chosen}))
            budget = f"Δ = {100 * options.max_drop:g} points"
            print(f"\n## {model.stem}, {variant} ({budget}, {report.machine.processor})\n")
            print_rows(report)
            print()
            for line in kernel_lines(report):
                print(line)
            print()
            for line in (*cost_lines(report.cost_model), *report.notes):
                print(f"- {line}")
            print(f"- seconds: {', '.join(f'{k} {v:.1f}' for k, v in report.seconds.items())}", flush=True)


if __name__ == "__main__":
    main()
