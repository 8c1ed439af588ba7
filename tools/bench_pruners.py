"""Speed at equal drop, beside other structural pruners without training: what each makes inside the budget, timed.

    python -m venv build/pruners && build/pruners/bin/pip install torch==2.13.0 torch-pruning==1.6.1 onnxsim==0.8.1 \
        onnx onnxruntime pillow
    python tools/bench_pruners.py --peers build/pruners/bin/python

Peers are asked for more and more channels, of each group or ("global") of all, by `tools/recovery_peers.py`; "+ BN"
renews the statistics of batch normalization. Torch-Pruning keeps multiples of ``--round-to`` channels, one after the
other: odd widths compute slowly, and multiples of many channels leave little choice. Of each, the largest share whose
drop on VAL is inside the budget counts. Their models are also quantized by `hqp quantize
--precision mixed`, so that pruning alone is compared. Ours are those of `hqp optimize`. All are timed in turn in one
run, batch 1, on all threads and on one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
from recovery_peers import METHODS
from result_page import recorded, result_parser

import hqp_onnx
from hqp_onnx.evaluation.latency import measure
from hqp_onnx.graphs.shapes import example_feeds
from hqp_onnx.model import open_model
from hqp_onnx.runtimes.session import Session

ROOT = Path(__file__).parents[1] / "models"
TOOL = Path(__file__).with_name("recovery_peers.py")
SHARES = [[0.05], [0.1, 0.15, 0.2], [0.25, 0.3, 0.4, 0.5, 0.6, 0.7]]
"""Of channels, asked for at a time; the next ones while anything is inside the budget."""
SECONDS = 30.0


def of_peer(command: list[str], method: str) -> dict[str, list[Path]]:
    """Files that a command of ``TOOL`` writes, by variant, narrower and narrower."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = (done.stdout.strip().splitlines() or [""])[-1]
    entries = json.loads(last) if last.startswith("[") else []
    if not any("file" in entry for entry in entries):
        errors = [entry["error"] for entry in entries] or done.stderr.strip().splitlines() or ["no output"]
        print(f"| {method} | fails: {errors[-1][:90]} |", flush=True)
    found: dict[str, list[Path]] = {}
    for entry in entries:
        if "file" in entry:
            found.setdefault(entry["variant"], []).append(Path(entry["file"]))
    return found


def last_inside(command: list[str], method: str, inside: Callable[[Path], bool]) -> dict[str, Path | None]:
    """Of each variant the last model before the first that loses too much; None where that is the first."""
    kept: dict[str, Path | None] = {}
    over: set[str] = set()
    for shares in SHARES:
        for variant, files in of_peer([*command, *map(str, shares)], method).items():
            kept.setdefault(variant, None)
            for file in files if variant not in over else ():
                if not inside(file):
                    over.add(variant)
                    break
                kept[variant] = file
        if over >= kept.keys():
            break
    return kept


def main() -> None:
    parser = result_parser(__doc__)
    parser.add_argument("models", nargs="*", type=Path, help="none: the bundled ones")
    parser.add_argument(
        "--data", default=ROOT / "fashion_mnist", help="what the names of calib, val and test begin with"
    )
    parser.add_argument("--peers", required=True, help="an interpreter that has torch-pruning and onnxsim")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--round-to", nargs="+", type=int, default=[1, 8, 16], help="channels; 1: any number")
    parser.add_argument("--max-drop", type=float, default=0.015)
    parser.add_argument(
        "--threads", type=int, help="of all; default: as many as are fastest for ours, all and one timed"
    )
    options = parser.parse_args()
    with recorded(options.page, "Beside other structural pruners"):
        print_all(options)


def print_all(options: argparse.Namespace) -> None:
    """The table of every model."""
    calib, val, test = (f"{options.data}_{part}.npz" for part in ("calib", "val", "test"))
    print(
        f"At most {100 * options.max_drop:g} points on {Path(val).name}; onnxruntime {onnxruntime.__version__}",
        flush=True,
    )
    for model in options.models or sorted(ROOT.glob("*.onnx")):
        with tempfile.TemporaryDirectory() as name:
            print_table(model, (calib, val, test), Path(name), options)


def print_table(model: Path, data: tuple[str, str, str], folder: Path, options: argparse.Namespace) -> None:
    calib, val, test = data
    before = {part: hqp_onnx.evaluate(model, part).metric for part in (val, test)}
    counts = [options.threads] if options.threads else [0, 1]
    on = {0: "all threads", 1: "one thread"}
    words = [f"{kind}, {on.get(n, f'{n} threads')}" for kind in ("float", "INT8 where faster") for n in counts]
    print(f"\n| {model.stem} | drop, val | drop, test | {' | '.join(words)} |")
    print(f"|---|{'--:|' * (2 + len(words))}", flush=True)
    rows: dict[str, tuple[Path, Path]] = {}
    report = hqp_onnx.optimize(
        hqp_onnx.Options(
            model, calib, val, folder / "ours", test=test, max_drop=options.max_drop, threads=options.threads or 0
        )
    )
    rows["hqp_onnx"] = folder / "ours" / "pruned.onnx", Path(report.shipped)

    def inside(file: Path) -> bool:
        return hqp_onnx.evaluate(file, val).metric >= before[val] - options.max_drop

    asked = [(m, n) for m in options.methods for n in (options.round_to if m.startswith("Torch") else [1])]
    for method, round_to in asked:
        out = folder / f"{method.replace(' ', '_')}-{round_to}"
        command = [options.peers, str(TOOL), "--round-to", str(round_to), method, str(model), calib, str(out)]
        for done, kept in last_inside(command, method, inside).items():
            variant = f"{method}{done}" + (f", multiples of {round_to}" if round_to > 1 else "")
            if kept is None:
                print(f"| {variant} | more than the budget at {100 * SHARES[0][0]:g} % of the channels |", flush=True)
                continue
            int8 = kept.with_name(f"{kept.stem}_int8.onnx")
            onnx.save(hqp_onnx.quantize(kept, data=calib, precision="mixed"), int8)
            rows[variant] = kept, int8
    files = [model, *(file for pair in rows.values() for file in pair)]
    feeds = example_feeds(open_model(model).graph)
    times = [
        measure({str(number): Session(file, threads=threads) for number, file in enumerate(files)}, feeds, SECONDS)
        for threads in counts
    ]
    for number, (name, pair) in enumerate(rows.items()):
        drops = [100 * (before[part] - hqp_onnx.evaluate(pair[1], part).metric) for part in (val, test)]
        cells = [f"{each[str(2 * number + 1 + place)].speedup:.2f}x" for place in (0, 1) for each in times]
        print(f"| {name} | {drops[0]:.2f} | {drops[1]:.2f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
