"""Speed against drop over the whole range: widths by measured time, beside one order of the units, timed in one run.

    python tools/bench_pareto.py [MODEL ...] [--data DATA] [--ways allocation macs ...] [--threads N] [-o FOLDER]
        [--page FILE.md]

For each model and way one `hqp optimize --pareto`, whose budget only says where its search ends; its family of models
covers the range. Then all models of all ways are timed in turn, each on the threads that it is fastest on, or all on
``--threads``. Drops are on the test data. The curves are drawn beside the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from result_page import recorded, result_parser

from hqp_onnx.evaluation.latency import measure
from hqp_onnx.graphs.shapes import example_feeds
from hqp_onnx.job.options import Options
from hqp_onnx.job.results import Report
from hqp_onnx.model import open_model
from hqp_onnx.runtimes.machine import thread_counts
from hqp_onnx.runtimes.session import Session
from hqp_onnx.steps.optimize import optimize

ROOT = Path(__file__).parents[1] / "models"
WAYS = {
    "allocation": {"objective": "latency"},
    "macs": {"objective": "macs"},
    "sparsity": {"objective": "sparsity"},
    "fisher": {"objective": "sparsity", "saliency": "fisher"},
}
WORDS = {
    "allocation": "widths by measured time (default)",
    "macs": "one order, obs per MAC",
    "sparsity": "one order, obs",
    "fisher": "one order, Fisher sensitivity",
}
SECONDS = 60.0
DROPS = (0.5, 1.0, 1.5, 2.0, 3.0, 5.0)  # points at which curves are read


@dataclass(frozen=True)
class Found:
    """A model of a family."""

    speedup: float
    drop: float


def families(reports: Mapping[str, Report], model: Path, folder: Path, counts: Sequence[int]) -> dict[str, list[Found]]:
    """By way, its models by speed at the best number of threads, all timed in turn in one run."""
    files = {f"{way} {point.file}": folder / way / point.file for way, r in reports.items() for point in r.pareto}
    sessions = {f"{n} {name}": Session(file, threads=n) for name, file in {"": model, **files}.items() for n in counts}
    found = measure(sessions, example_feeds(open_model(model).graph), SECONDS)
    speed = {name: max(found[f"{n} {name}"].speedup for n in counts) for name in ("", *files)}
    return {
        way: sorted(
            (Found(speed[f"{way} {p.file}"] / speed[""], 100 * p.drop) for p in report.pareto),
            key=lambda one: one.speedup,
        )
        for way, report in reports.items()
    }


def fastest_within(family: list[Found], drop: float) -> float:
    """The largest speed-up of a model that loses no more; 1 where there is none."""
    return max((one.speedup for one in family if one.drop <= drop), default=1.0)


def print_table(model: Path, found: Mapping[str, list[Found]]) -> None:
    print(f"\n## {model.stem}\n\nTimes as fast as the input, at no more than so many points less on the test data:\n")
    print(f"| | {' | '.join(f'{drop:g}' for drop in DROPS)} |\n|---|{'--:|' * len(DROPS)}")
    for way, family in found.items():
        print(f"| {WORDS[way]} | {' | '.join(f'{fastest_within(family, drop):.2f}x' for drop in DROPS)} |")
    for way, family in found.items():
        points = ", ".join(f"{one.speedup:.2f}x at {one.drop:+.2f}" for one in family)
        print(f"\n{WORDS[way].capitalize()}: {points}.", flush=True)


def draw(found: Mapping[str, list[Found]], title: str, file: Path) -> None:
    """The curves as an SVG file."""
    from matplotlib.figure import Figure

    axes = (figure := Figure(figsize=(7, 4), layout="constrained")).subplots()
    for way, family in found.items():
        axes.plot([p.speedup for p in family], [p.drop for p in family], marker=".", label=WORDS[way])
    axes.set(title=title, xlabel="times as fast as the input", ylabel="points lost on the test data", ylim=(-0.5, 10))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    parser = result_parser(__doc__)
    parser.add_argument("models", nargs="*", type=Path, help="none: the bundled ones")
    parser.add_argument(
        "--data", default=ROOT / "fashion_mnist", help="what the names of calib, val and test begin with"
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--threads", type=int, default=0, help="of all; default: as many as are fastest for each")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/pareto"))
    options = parser.parse_args()
    if options.page:
        import matplotlib  # noqa: F401, what draws: missing, it is missed before the hours, not after
    calib, val, test = (f"{options.data}_{part}.npz" for part in ("calib", "val", "test"))
    with recorded(options.page, "Speed against drop"):
        for model in options.models or sorted(ROOT.glob("*.onnx")):
            folder = options.output / model.stem
            common = Options(model, calib, val, folder, test=test, threads=options.threads, pareto=True, resume=True)
            reports = {way: optimize(replace(common, output=folder / way, **WAYS[way])) for way in options.ways}
            counts = [options.threads] if options.threads else thread_counts()
            print_table(model, found := families(reports, model, folder, counts))
            if options.page:
                draw(found, model.stem, picture := options.page.with_name(f"pareto_{model.stem}.svg"))
                print(f"\n![Speed against drop of {model.stem}]({picture.name})")


if __name__ == "__main__":
    main()
