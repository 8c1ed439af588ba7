"""The paper's tables and statements on the bundled models, and on those of build/cifar10 where they were trained.

    pip install -e '.[figures]'
    python tools/reproduce.py [--only tables layers curves ranges costs] [--targets onnxruntime openvino]
                              [-o build/reproduce]

tables    MobileNetV3 (Table I) and ResNet-18 (Table II): FP32, Q8-only, P50-only, HQP on each target that is here, and
          beside each the paper's value where our sources state one, and the ratio of the two
layers    the share of each layer that left, and the paper's three statements on it
curves    accuracy against θ: Fisher, Taylor, magnitude, BN-γ, random, with and without compensation (and an SVG)
ranges    the dynamic range of the weights before and after pruning
costs     C_HQP and C_QAT of the paper's model, predicted and measured

P50-only is half of the units by L2 norm, with no budget and no compensation. Energy is RAPL's or, without its counter,
the paper's E = P L with one P for all, so that its ratio is that of latency. All figures are of data that the search
never saw; searches that were paid for are resumed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from reproduce_costs import costs
from reproduce_curves import THETAS, Case, Curves, curves, draw, ranges

from hqp_onnx import cost, pruning, steps
from hqp_onnx.constraint import paired_drop
from hqp_onnx.dataset import Batch
from hqp_onnx.model_io import stored_bytes
from hqp_onnx.options import Options, Pruning
from hqp_onnx.pipeline import optimize
from hqp_onnx.progress import silent
from hqp_onnx.report.machine import processor
from hqp_onnx.report.results import Report
from hqp_onnx.runtime import Runner

ROOT = Path(__file__).parents[1]
RAPL = Path("/sys/class/powercap/intel-rapl:0/energy_uj")
ENERGY_SECONDS = 1.0
LINEAR = ("Gemm", "MatMul")
COLUMNS = ("latency ms", "speedup", "smaller", "θ", "drop (95 % interval)", "energy")
ROWS = {"baseline": "FP32", "q8_only": "Q8-only", "P50-only": "P50-only", "hqp": "HQP"}
PAPER = {
    "MobileNetV3": {"HQP": {"speedup": 3.12, "smaller": 0.55, "θ": 0.45}},
    "ResNet-18": {"Q8-only": {"drop": 0.019}, "HQP": {"speedup": 2.51, "smaller": 0.40, "θ": 0.35, "drop": 0.013}},
}
TABLE = {"MobileNetV3": "Table I", "ResNet-18": "Table II"}


def cases() -> list[Case]:
    """Bundled models, and trained ones that are not bundled."""
    found = []
    for folder, data in ((ROOT / "models", "fashion_mnist"), (ROOT / "build" / "cifar10", "cifar10")):
        parts = [folder / f"{data}_{part}.npz" for part in ("calib", "val", "test")]
        for model in sorted(folder.glob("*.onnx")):
            paper = next((name for name in PAPER if model.stem.startswith(name.lower().replace("-", "")[:9])), "")
            found.append(Case(f"{model.stem}-{data}", paper, model, *parts))
    return found


def targets() -> list[str]:
    """What can measure latency here."""
    return ["onnxruntime", *(["openvino"] if importlib.util.find_spec("openvino") else [])]


@cache
def optimized(case: Case, target: str, output: Path) -> Report:
    """The main job with its defaults, resumed if part of it was paid for."""
    data = (str(case.calib), str(case.val), output / case.name / target)
    return optimize(Options(case.model, *data, test=str(case.test), target=target, resume=True))


def joules(session: Runner, sample: Batch) -> float | None:
    """Energy of one run by RAPL; None without its counter."""
    if not RAPL.exists():
        return None
    runs, stop, first = 0, time.perf_counter() + ENERGY_SECONDS, int(RAPL.read_text())
    while time.perf_counter() < stop:
        session.run(sample.feeds)
        runs += 1
    return (int(RAPL.read_text()) - first) / 1e6 / runs


def half(case: Case, target: str, folder: Path) -> dict[str, float | tuple[float, ...]]:
    """The values of P50-only, beside the original in one run."""
    path = folder / "p50_only.onnx"
    pruned = pruning.prune(case.model, path, Pruning(0.5, "l2"))
    times = [latency.median_ms for latency in steps.benchmark([case.model, path], 1, target_name=target).values()]
    scores = [steps.evaluate_file(file, str(case.test), "top1", None, silent) for file in (case.model, path)]
    interval = paired_drop(scores[0].values, scores[1].values)
    return {
        "latency ms": times[1],
        "speedup": times[0] / times[1],
        "smaller": 1 - stored_bytes(path) / stored_bytes(case.model),
        "θ": pruned.units / pruned.prunable,
        "drop": (interval.drop, interval.low, interval.high),
    }


def tables(case: Case, chosen: Sequence[str], output: Path) -> list[str]:
    """The paper's table on each of the targets chosen."""
    lines: list[str] = []
    for target in chosen:
        report = optimized(case, target, output)
        values = {
            title: {
                "latency ms": row.latency_ms,
                "speedup": row.speedup,
                "smaller": row.size_reduction,
                "θ": row.sparsity,
                "drop": (row.drop, row.drop_low, row.drop_high),
            }
            for name, title in ROWS.items()
            if (row := report.rows.get(name)) is not None
        }
        values["P50-only"] = half(case, target, output / case.name / target)
        energy = energies(case, report, target)
        lines += [f"{report.machine['runtime']}, {report.samples} test samples, shipped {Path(report.shipped).name}:"]
        lines += ["", f"| | {' | '.join(COLUMNS)} |", f"|---|{'--:|' * len(COLUMNS)}"]
        for title in ROWS.values():
            lines.append(f"| {title} | {' | '.join(cells(values[title]))} | {energy[title](values[title])} |")
            lines += beside_the_paper(title, values[title], PAPER.get(case.paper, {}))
        lines += [f"- {note}" for note in report.notes] + [""]
    return lines


def cells(row: Mapping) -> list[str]:
    """A row but for its energy."""
    drop, low, high = (100 * x for x in row["drop"])
    shares = [f"{100 * row[name]:.0f} %" for name in ("smaller", "θ")]
    return [f"{row['latency ms']:.3f}", f"{row['speedup']:.2f}x", *shares, f"{drop:+.2f} ({low:+.2f} to {high:+.2f})"]


def beside_the_paper(title: str, row: Mapping, paper: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The paper's row, and ours as a multiple of it."""
    stated = paper.get(title)
    if not stated:
        return []
    ours = {**row, "drop": row["drop"][0]}
    names = ("speedup", "smaller", "θ", "drop")
    text = {
        "speedup": "{:.2f}x".format,
        "smaller": "{:.0%}".format,
        "θ": "{:.0%}".format,
        "drop": lambda x: f"{100 * x:+.1f}",
    }
    theirs = [text[name](stated[name]) if name in stated else "not stated" for name in names]
    ratios = [f"{ours[name] / stated[name]:.2f}" if name in stated else "" for name in names]
    return [f"| the paper | | {' | '.join(theirs)} | |", f"| ours / the paper's | | {' | '.join(ratios)} | |"]


def energies(case: Case, report: Report, target: str) -> dict[str, Callable[[Mapping], str]]:
    """By title: a row's energy from its values; measured where there is a counter."""
    sample = next(iter(steps.open_data(steps.open_model(case.model), str(case.test)).in_batches(1)))
    folder = Path(report.shipped).parent
    files = {"FP32": case.model, "P50-only": folder / "p50_only.onnx", "HQP": Path(report.shipped)}

    def measured(title: str) -> Callable[[Mapping], str]:
        value = joules(steps.open_session(files[title], target), sample) if title in files else None
        if value is not None:
            return lambda row: f"{1e3 * value:.3f} mJ"
        return lambda row: f"{1 / row['speedup']:.2f} of FP32's (P L)"

    return {title: measured(title) for title in ROWS.values()}


def layers(case: Case, report: Report) -> list[str]:
    """Shares that left by layer, and the paper's statements on them."""
    removed = json.loads((Path(report.shipped).parent / "ledger.json").read_text())["removed"]
    found = []
    model = steps.open_model(case.model)
    positions = cost.positions(model.graph, model.shapes)
    for node in model.graph.nodes:
        if node.op not in ("Conv", *LINEAR) or not hasattr(node.inputs[1], "values"):
            continue
        weight = node.inputs[1]
        axis = int(node.op in LINEAR and not node.attrs.get("transB", 0))
        width = weight.shape[axis]
        inputs = weight.shape[1 - axis] * node.attrs.get("group", 1)
        gone = len(removed.get(weight.name, {}).get(str(axis), []))
        found.append((weight.name, kind(node, width, inputs, positions[node.name]), width, gone / width))
    lines = ["| layer | kind | outputs | θ of the layer |", "|---|---|--:|--:|"]
    lines += [f"| {name} | {what} | {width} | {100 * share:.0f} % |" for name, what, width, share in found]
    shares = np.array([share for *_, share in found])
    kinds = np.array([what for _, what, *_ in found])
    edge = max(1, len(shares) // 4)
    means = {"first quarter": shares[:edge], "middle half": shares[edge:-edge], "last quarter": shares[-edge:]}
    means |= {what: shares[kinds == what] for what in sorted(set(kinds))}
    lines += ["", "Mean θ: " + ", ".join(f"{name} {100 * part.mean():.0f} %" for name, part in means.items())]
    for statement, part in (("shallow layers are kept", "first quarter"), ("last layers are kept", "last quarter")):
        lines.append(f"- {statement} (below the mean of {100 * shares.mean():.0f} %): {yes(part, means, shares)}")
    if "projection" in means:
        most = max((name for name in means if name in set(kinds)), key=lambda name: means[name].mean())
        lines.append(f"- bottleneck projections are pruned most: {'yes' if most == 'projection' else f'no, {most}'}")
    return lines


def yes(part: str, means: Mapping[str, np.ndarray], shares: np.ndarray) -> str:
    """Whether less than on average left of a part."""
    return "yes" if means[part].mean() < shares.mean() else "no"


def kind(node, outputs: int, inputs: int, positions: int) -> str:
    """What a layer is in its block; a convolution of one position is part of a gate."""
    if node.op in LINEAR:
        return "linear"
    if positions == 1:
        return "gate"
    if node.attrs.get("group", 1) > 1:
        return "depthwise"
    if any(size > 1 for size in node.inputs[1].shape[2:]):
        return "convolution"
    return "projection" if outputs < inputs else "expansion"


def main() -> None:
    """Print the sections asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--models", nargs="+", help="names, as the headings have them")
    parser.add_argument("--targets", nargs="+", choices=targets(), default=targets(), help="of the tables")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("build/reproduce"))
    options = parser.parse_args()
    print(f"{processor()}, {platform.platform(terse=True)}, seed {options.seed}")
    for case in cases():
        if options.models and case.name not in options.models:
            continue
        start = time.perf_counter()
        print(f"\n## {case.name}{f' ({TABLE[case.paper]})' if case.paper else ''}", flush=True)
        for section in options.only:
            print(f"\n### {section}\n")
            print("\n".join(SECTIONS[section](case, options)), flush=True)
        print(f"\n{time.perf_counter() - start:.0f} s", flush=True)


def drawn_curves(case: Case, options: argparse.Namespace) -> list[str]:
    """The curves as a table and as a drawing."""
    lines, rows = curves(Curves(case, options.seed))
    file = options.output / f"{case.name}.svg"
    draw(rows, case.name, file)
    return [*lines, "", f"Drawn in {file}"]


SECTIONS: dict[str, Callable[[Case, argparse.Namespace], list[str]]] = {
    "tables": lambda case, options: tables(case, options.targets, options.output),
    "layers": lambda case, options: layers(case, optimized(case, "onnxruntime", options.output)),
    "curves": drawn_curves,
    "ranges": lambda case, options: ranges(Curves(case, options.seed), THETAS[4]),
    "costs": lambda case, options: costs(optimized(case, "onnxruntime", options.output), case.calib),
}


if __name__ == "__main__":
    main()
