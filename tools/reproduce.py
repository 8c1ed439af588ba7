"""The paper's tables and statements on the bundled models, and on those that models/ has built into build/.

    pip install -e '.[figures]'
    python tools/reproduce.py [--only tables layers curves ranges costs] [--targets onnxruntime openvino cuda]
                              [-o build/reproduce]

tables    MobileNetV3 (Table I) and ResNet-18 (Table II): FP32, Q8-only, P50-only, HQP on each target that is here, and
          beside each the paper's value where our sources state one, and the ratio of the two
layers    the share of each layer that was removed, and the paper's three statements on it
curves    accuracy against θ: Fisher, Taylor, magnitude, BN-γ, random, with and without compensation (and an SVG)
ranges    the dynamic range of the weights before and after pruning
costs     C_HQP and C_QAT of the paper's model, predicted and measured

P50-only is half of the units by L2 norm, with no budget and no compensation. Energy is RAPL's, the GPU's or, without
a counter, the paper's E = P L with one P for all, so its ratio is that of latency. All figures are of data that
the search never saw, but for EfficientNet-Lite0, which has too few images; searches that were paid for are resumed.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
from reproduce_costs import costs
from reproduce_curves import THETAS, Case, Curves, curves, draw, ranges

from hqp_onnx.channels import cost
from hqp_onnx.engine.energy import joules_per_run
from hqp_onnx.evaluation.paired import paired_drop
from hqp_onnx.graphs import model_io
from hqp_onnx.job.options import Options
from hqp_onnx.job.results import Report
from hqp_onnx.model import open_data, open_model, open_session
from hqp_onnx.progress import silent
from hqp_onnx.runtimes.machine import processor
from hqp_onnx.runtimes.targets import target
from hqp_onnx.steps.benchmark import benchmark_models
from hqp_onnx.steps.doctor import examine
from hqp_onnx.steps.evaluate import evaluate_model
from hqp_onnx.steps.optimize import optimize
from hqp_onnx.steps.prune import Pruning, prune_file
from hqp_onnx.steps.quantize import quantize_model

ROOT = Path(__file__).parents[1]
FOLDERS = {  # of models: the name of their data, and its calibration, validation and test part
    "models": ("fashion_mnist", "fashion_mnist_calib", "fashion_mnist_val", "fashion_mnist_test"),
    "build/cifar10": ("cifar10", "cifar10_calib", "cifar10_val", "cifar10_test"),
    "build/efficientnet_lite0": ("imagenet", "calib_0", "val_0", "val_0"),
}
RANKED = {"objective": "sparsity", "saliency": "fisher"}  # the paper's ranking
LINEAR = ("Gemm", "MatMul")
COLUMNS = ("latency ms", "speedup", "smaller", "θ", "drop (95 % interval)", "energy")
ROWS = {"baseline": "FP32", "q8_only": "Q8-only", "P50-only": "P50-only", "hqp": "HQP"}
PAPER = {
    "MobileNetV3": {"HQP": {"speedup": 3.12, "smaller": 0.55, "θ": 0.45}},
    "ResNet-18": {"Q8-only": {"drop": 0.019}, "HQP": {"speedup": 2.51, "smaller": 0.40, "θ": 0.35, "drop": 0.013}},
}
TABLE = {"MobileNetV3": "Table I", "ResNet-18": "Table II"}


def cases() -> list[Case]:
    """Every model that is here."""
    cases = []
    for folder, (data, *parts) in FOLDERS.items():
        data_files = [ROOT / folder / f"{part}.npz" for part in parts]
        for model in sorted((ROOT / folder).glob("*.onnx")):
            paper = next((name for name in PAPER if model.stem.startswith(name.lower().replace("-", "")[:9])), "")
            cases.append(Case(f"{model.stem}-{data}", paper, model, *data_files))
    return cases


def targets() -> list[str]:
    """What can measure latency here; no engine of TensorRT has a row beside the others."""
    return [state.name for state in examine().targets if state.ready and not target(state.name).engines]


@cache
def optimized(case: Case, on: str, output: Path, seed: int) -> Report:
    """The main job by the paper's ranking, resumed if part of it was paid for."""
    data = {"calib": str(case.calib), "val": str(case.val), "test": None if case.test == case.val else str(case.test)}
    return optimize(
        Options(case.model, **data, output=output / case.name / on, target=on, seed=seed, resume=True, **RANKED)
    )


def half(case: Case, on: str, folder: Path) -> dict[str, float | tuple[float, ...]]:
    """The values of P50-only, beside the original in one run."""
    path = folder / "p50_only.onnx"
    pruned = prune_file(case.model, path, Pruning(0.5, "l2"))
    latency = benchmark_models([case.model, path], 1, target=on)[str(path)]
    scores = [evaluate_model(file, str(case.test), "top1", None, silent).scores for file in (case.model, path)]
    interval = paired_drop(scores[0].values, scores[1].values)
    return {
        "latency ms": latency.median_ms,
        "speedup": latency.speedup,
        "smaller": 1 - model_io.stored_bytes(path) / model_io.stored_bytes(case.model),
        "θ": pruned.units / pruned.prunable,
        "drop": (interval.drop, interval.low, interval.high),
    }


def tables(case: Case, chosen: Sequence[str], output: Path, seed: int) -> list[str]:
    """The paper's table on each of the targets chosen."""
    lines: list[str] = []
    for on in chosen:
        report = optimized(case, on, output, seed)
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
        values["P50-only"] = half(case, on, output / case.name / on)
        spent = joules(case, report, on)
        part = "validation" if case.test == case.val else "test"
        shipped = Path(report.shipped).name
        lines += [f"{report.machine.runtime}, {report.samples} {part} samples, shipped {shipped}:"]
        lines += ["", f"| | {' | '.join(COLUMNS)} |", f"|---|{'--:|' * len(COLUMNS)}"]
        for title in ROWS.values():
            energy = f"{1e3 * spent[title]:.3f} mJ" if spent else f"{1 / values[title]['speedup']:.2f} of FP32's (P L)"
            lines.append(f"| {title} | {' | '.join(cells(values[title]))} | {energy} |")
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


def joules(case: Case, report: Report, on: str) -> dict[str, float]:
    """Measured energy of one run by the title of its row; empty without a counter."""
    sample = next(iter(open_data(open_model(case.model), str(case.test)).in_batches(1)))
    joules: dict[str, float] = {}
    for title, path in files(case, report, on):
        session = open_session(path, on)
        spent = joules_per_run(partial(session.run, sample.feeds), on == "cuda")
        if spent is None:
            return {}
        joules[title] = spent
    return joules


def files(case: Case, report: Report, on: str) -> Iterator[tuple[str, Path]]:
    """The model of each row; Q8-only is made again where it was outside the budget, so that no file of it was kept."""
    folder = Path(report.shipped).parent
    hqp = folder / report.files.get("hqp", report.files["pruned"])
    yield from (("FP32", case.model), ("P50-only", folder / "p50_only.onnx"), ("HQP", hqp))
    path = folder / "q8_only.onnx"
    if "q8_only" not in report.files:
        model = open_model(case.model)
        quantized = quantize_model(model, open_data(model, str(case.calib)), target(on), "entropy")
        model_io.save(quantized.graph, path)
    yield "Q8-only", path


def layers(case: Case, report: Report) -> list[str]:
    """Removed shares by layer, and the paper's statements on them."""
    removed = json.loads((Path(report.shipped).parent / "ledger.json").read_text())["removed"]
    by_layer = []
    model = open_model(case.model)
    positions = cost.positions(model.graph, model.shapes)
    for node in model.graph.nodes:
        if node.op not in ("Conv", *LINEAR) or not hasattr(node.inputs[1], "values"):
            continue
        weight = node.inputs[1]
        axis = int(node.op in LINEAR and not node.attrs.get("transB", 0))
        width = weight.shape[axis]
        inputs = weight.shape[1 - axis] * node.attrs.get("group", 1)
        gone = len(removed.get(weight.name, {}).get(str(axis), []))
        by_layer.append((weight.name, kind(node, width, inputs, positions[node.name]), width, gone / width))
    lines = ["| layer | kind | outputs | θ of the layer |", "|---|---|--:|--:|"]
    lines += [f"| {name} | {what} | {width} | {100 * share:.0f} % |" for name, what, width, share in by_layer]
    shares = np.array([share for *_, share in by_layer])
    kinds = np.array([what for _, what, *_ in by_layer])
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
    """Whether less than the average was removed from a part."""
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
    "tables": lambda case, options: tables(case, options.targets, options.output, options.seed),
    "layers": lambda case, options: layers(case, optimized(case, "onnxruntime", options.output, options.seed)),
    "curves": drawn_curves,
    "ranges": lambda case, options: ranges(Curves(case, options.seed), THETAS[4]),
    "costs": lambda case, options: costs(optimized(case, "onnxruntime", options.output, options.seed), case.calib),
}


if __name__ == "__main__":
    main()
