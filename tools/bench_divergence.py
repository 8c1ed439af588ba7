"""What divergence says of the drop of a plan: measured after one refit, and closely, with the refit that ships.

    python tools/bench_divergence.py [MODEL ...] [--data PREFIX] [--target T] [-o FOLDER] [--page FILE.md]

Widths are chosen by divergence, and candidates are judged by their drop on the validation data. For plans of three
kinds (all groups equally narrow; the path by times of kernels; the path by times of whole models), both divergences and
the drop on all of the validation data, and how well the order by either divergence is the order by drop (Spearman's
rho). Plans that lose less than 0.2 points, or more than 6, tell little and are left out.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from result_page import recorded, result_parser
from scipy.stats import spearmanr

from hqp_onnx.arrays import IntArray
from hqp_onnx.job.allocation import Choosing, choosing
from hqp_onnx.job.candidate import Candidate
from hqp_onnx.job.evidence import gather
from hqp_onnx.job.ledger import Ledger
from hqp_onnx.job.models import CandidateModels
from hqp_onnx.job.options import Options
from hqp_onnx.job.settings import owner, settings_of
from hqp_onnx.job.setup import open_setup
from hqp_onnx.out_folder import OutFolder

ROOT = Path(__file__).parents[1] / "models"
LEAST, MOST = 0.002, 0.06  # drops


def kinds(chosen: Choosing) -> dict[str, list[IntArray]]:
    """Choices to look at."""
    allocation = chosen.allocation
    least = allocation.groups.least
    even = [np.round(share * least).astype(np.int64) for share in np.arange(0.1, 0.8, 0.05)]
    found = {"evenly narrow": [*{choice.tobytes(): choice for choice in even}.values()]}
    for program in allocation.programs:
        found[f"times of {program.source}"] = replace(allocation, programs=[program]).path()[2::2]
    return found


def show(options: Options) -> None:
    setup = open_setup(options, lambda stage, done, total: None)
    folder = OutFolder(options.folder, *owner(options.model), (), False)
    with folder.opened():
        ledger = Ledger(folder, settings_of(setup), False)
        evidence = gather(setup, ledger)
        chosen, models = choosing(setup, ledger, evidence), CandidateModels(setup, evidence.refit, ledger.cache)
        allocation, whole = chosen.allocation, setup.scores(setup.model.session, "val").metric
        print("| plans | units removed % | divergence | closely | drop |\n|---|--:|--:|--:|--:|")
        rows, seconds = [], np.zeros(2)
        for kind, choices in kinds(chosen).items():
            for choice in choices:
                plan = allocation.groups.plan(choice)
                drop = whole - setup.scores(models.session(Candidate(plan)), "val").metric
                if drop > MOST:
                    break
                if drop < LEAST:
                    continue
                began = time.perf_counter()
                once = allocation.measure(choice)
                between = time.perf_counter()
                closely = allocation.closely(choice)
                seconds += (between - began, time.perf_counter() - between)
                rows.append((once, closely, drop))
                share = 100 * len(plan) / len(setup.channels.prunable)
                print(f"| {kind} | {share:.1f} | {once:.4f} | {closely:.4f} | {100 * drop:+.2f} |", flush=True)
        table = np.array(rows)
        by_once, by_closely = (spearmanr(table[:, column], table[:, 2])[0] for column in (0, 1))
        print(f"\n{len(rows)} plans: rho {by_once:.3f} after one refit, {by_closely:.3f} closely;")
        print("{:.2f} and {:.2f} s each".format(*seconds / len(rows)), flush=True)


def main() -> None:
    parser = result_parser(__doc__)
    parser.add_argument("models", nargs="*", type=Path, help="none: the bundled ones")
    parser.add_argument("--data", default=ROOT / "fashion_mnist", help="what the names of calib and val begin with")
    parser.add_argument("--target", default="onnxruntime")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/divergence"))
    args = parser.parse_args()
    with recorded(args.page, "Divergence and drop"):
        for model in args.models or sorted(ROOT.glob("*.onnx")):
            print(f"\n## {model.stem}, {args.target}\n")
            calib, val = (Path(f"{args.data}_{part}.npz") for part in ("calib", "val"))
            show(Options(model, calib, val, args.output / model.stem, target=args.target, threads=1, force=True))


if __name__ == "__main__":
    main()
