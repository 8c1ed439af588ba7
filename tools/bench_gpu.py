"""What an NVIDIA GPU does with models and with the work on them, as one script of ten minutes (`make gpu`).

    python tools/bench_gpu.py [MODEL.onnx ...] [--data PREFIX] [--batch 1,32] [--seconds 540] [--json FILE]

Default models: the bundled two, and ResNet-18, MobileNetV3-Large and ViT-S/16 at 224 x 224 (random weights) where torch
is installed. Tables are printed as they are filled; what does not fit into the seconds is left out and counted.

    work         Fisher, moments and recovery on the provider against the CPU (tools/gpu_work.py)
    latency      FP32, FP16, Q8, and a half of the units removed (by L2, widths multiples of 32; which does not matter)
    allocation   `hqp optimize --target cuda` on the bundled models, or on those that are named, with the data that is
                 named (PREFIX_calib.npz, _val, _test), each ended when the seconds are over

Of latency, `run` has numpy arrays in and out, `bound` leaves them on the GPU, `graph` also replays a CUDA graph; joules
are those of the fastest. TensorRT, where it is installed: `hqp build`, CUDA events around one enqueue. Watts and
joules: NVML or tegrastats, over runs back to back. `--provider CPUExecutionProvider` tries the tool out elsewhere.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import gpu_work
import numpy as np

from hqp_onnx import engine, evaluate
from hqp_onnx.engine.energy import Sampler, open_meter
from hqp_onnx.engine.options import BuildOptions
from hqp_onnx.errors import HqpError
from hqp_onnx.graphs.model_io import load, save, to_graph
from hqp_onnx.job.options import Options
from hqp_onnx.model import open_session
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.convert_fp16 import convert_fp16
from hqp_onnx.passes.fold_batchnorm import fold_batchnorm
from hqp_onnx.runtimes import nvidia
from hqp_onnx.runtimes.session import CPU, Session, onnxruntime, require_provider, set_provider
from hqp_onnx.steps.build import build_file
from hqp_onnx.steps.optimize import optimize
from hqp_onnx.steps.prune import Pruning, prune_file
from hqp_onnx.steps.quantize import quantize_file

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "models"
BUNDLED = [MODELS / f"{name}.onnx" for name in ("mobilenet_v3_small", "resnet18")]
LARGE = ("resnet18_224", "mobilenet_v3_large_224", "vit_s16_224")
PLAIN = {"equalize": False, "correct_bias": False, "round_weights": False}  # nothing of it changes latency
MODES = ("run", "bound", "graph")
SAMPLES = (512, 16)  # of a model; of one for large images
RUN_SECONDS, POWER_SECONDS = 0.2, 0.4
HEAD = ("model", "batch", "variant", *(f"{mode} ms" for mode in MODES), "samples/s", "speed-up", "W", "mJ/sample")
JOBS = [(BUNDLED[place], batch) for place, batch in ((1, 32), (0, 1), (1, 1), (0, 32))]
PARTS = ("calib", "val", "test")


class Limit:
    """Seconds that are left, and what was left out for want of them."""

    def __init__(self, seconds: float) -> None:
        self.end, self.left_out = time.perf_counter() + seconds, list[str]()

    def allows(self, what: str, seconds: float = 0.0) -> bool:
        """Whether ``seconds`` are left; if not, ``what`` is left out."""
        fits = time.perf_counter() + seconds < self.end
        self.left_out += [] if fits else [what]
        return fits

    @contextmanager
    def alarm(self) -> Iterator[None]:
        """TimeoutError in this block when no seconds are left."""

        def over(*_: object) -> None:
            raise TimeoutError("not done when the seconds were over")

        before = signal.signal(signal.SIGALRM, over)
        signal.setitimer(signal.ITIMER_REAL, max(self.end - time.perf_counter(), 1.0))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


@dataclass(frozen=True)
class Row:
    """Milliseconds of one run by mode (TensorRT: of an enqueue, as ``graph``), or why there are none."""

    model: str
    batch: int
    variant: str
    milliseconds: dict[str, float]
    base: float | None = None
    watts: float | None = None
    joules: float | None = None
    reason: str = ""

    @property
    def best(self) -> float:
        """Milliseconds of the fastest mode."""
        return min(self.milliseconds.values())

    def cells(self) -> list[str]:
        """For the table."""
        times = [f"{self.milliseconds[mode]:.3f}" if mode in self.milliseconds else "" for mode in MODES]
        power = [
            "" if x is None else f"{x:.4g}" for x in (self.watts, None if self.joules is None else 1e3 * self.joules)
        ]
        ratio = "" if self.base is None else f"{self.base / self.best:.2f}"
        return [self.model, str(self.batch), self.variant, *times, f"{1e3 * self.batch / self.best:.0f}", ratio, *power]


@dataclass(frozen=True)
class Variants:
    """A model's files by variant, those of TensorRT's precisions, and samples."""

    name: str
    files: dict[str, Path]
    data: Path
    sample: np.ndarray


def variants(model: Path, folder: Path) -> Variants:
    session = open_session(model)
    (spec,) = session.inputs
    shape = [n or 224 for n in spec.shape[1:]]
    values = np.random.default_rng(0).uniform(0, 1, (SAMPLES[len(shape) and shape[-1] > 100], *shape))
    values = values.astype(spec.dtype)
    data, pruned, q8 = (folder / f"{model.stem}{end}" for end in (".npz", "-pruned.onnx", "-q8.onnx"))
    np.savez(data, **{spec.name: values})
    prune_file(model, pruned, Pruning(0.5, multiple_of=32))
    files = {"FP32": model, "FP16": half(model, folder), "pruned": pruned, "pruned FP16": half(pruned, folder)}
    try:
        quantize_file(model, q8, str(data), "cuda", "minmax", None, lambda *_: None, **PLAIN)
        files["Q8"] = q8
    except HqpError as e:
        print(f"{model.stem}: no Q8: {e}", flush=True)
    return Variants(model.stem, files, data, values)


def half(model: Path, folder: Path) -> Path:
    path = folder / f"{model.stem}-fp16.onnx"
    save(convert_fp16(fold_batchnorm(canonicalize(to_graph(load(model))).graph).graph).graph, path)
    return path


def runs(model: Path, feeds: dict[str, np.ndarray], provider: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """A run in every mode that the model and the provider take."""
    session = Session(model, provider=provider)
    yield "run", partial(session.run, feeds)
    if provider not in nvidia.NVIDIA:
        return
    ort, names = onnxruntime(), [spec.name for spec in session.outputs]
    for mode, settings, recording in (("bound", {}, None), ("graph", {"enable_cuda_graph": "1"}, 1)):
        options = ort.SessionOptions()
        options.log_severity_level = 4
        try:
            opened = ort.InferenceSession(str(model), options, providers=[(provider, settings), CPU])
            yield mode, nvidia.bind(ort, opened, feeds, names, recording)
        except Exception as e:
            print(f"{model.stem}: no {mode}: {str(e).splitlines()[0][:200]}", flush=True)


def milliseconds(run: Callable[[], object], seconds: float = RUN_SECONDS) -> float:
    """The median run; what comes first does not count."""
    for _ in range(5):
        run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times))


def power(run: Callable[[], object]) -> tuple[float | None, float | None]:
    """Watts, and joules of a run."""
    with open_meter() as meter:
        if meter is None:
            return None, None
        count, end = 0, time.perf_counter() + POWER_SECONDS
        with Sampler(meter) as sampler:
            while time.perf_counter() < end:
                run()
                count += 1
    return sampler.watts, sampler.joules / count


def time_onnx(of: Variants, variant: str, batch: int, provider: str, base: float | None) -> Row:
    require_provider(provider)
    model = of.files[variant]
    name = open_session(model).inputs[0].name
    feeds = {name: np.resize(of.sample, (batch, *of.sample.shape[1:]))}
    possible = dict(runs(model, feeds, provider))
    times = {mode: milliseconds(run) for mode, run in possible.items()}
    watts, joules = power(possible[min(times, key=lambda mode: times[mode])])
    energy = None if joules is None else joules / batch
    return Row(of.name, batch, variant, times, min(times.values()) if base is None else base, watts, energy)


def time_engine(of: Variants, variant: str, batch: int, folder: Path) -> Row:
    precision, pruned = variant.split()[-1].lower(), variant.split()[1] == "pruned"
    model = of.files["pruned" if pruned else "FP32"]
    spec = open_session(model).inputs[0]
    sizes = "x".join(str(n) for n in [batch, *of.sample.shape[1:]])
    path = folder / f"{model.stem}-{precision}-{batch}.engine"
    calibration = str(of.data) if precision == "int8" else None
    build_file(BuildOptions(model, path, calibration, precision=precision, shapes=(f"{spec.name}:{sizes}",)))
    found = engine.measure(path, seconds=RUN_SECONDS)
    return Row(of.name, batch, variant, {"graph": found.median_ms}, None, found.watts, found.joules)


def latency_rows(of: Variants, batches: Sequence[int], provider: str, folder: Path, limit: Limit) -> Iterator[Row]:
    """Every row of a model; one that fails has the reason."""
    built = [f"TensorRT{how} {kind}" for kind in ("FP32", "FP16", "INT8") for how in ("", " pruned")]
    for batch in batches:
        base: float | None = None
        for variant in (*of.files, *(built if tensorrt() else ())):
            if not limit.allows(f"{of.name} x{batch} {variant}"):
                continue
            try:
                on_engine = variant.startswith("TensorRT")
                row = (
                    time_engine(of, variant, batch, folder)
                    if on_engine
                    else time_onnx(of, variant, batch, provider, base)
                )
                base = row.best if base is None else base
            except HqpError as e:
                row = Row(of.name, batch, variant, {}, reason=str(e))
            yield row


def allocations(
    jobs: Iterable[tuple[Path, int]], prefix: str, provider: str, folder: Path, limit: Limit
) -> Iterator[dict[str, Any]]:
    """What `hqp optimize` ships of each model for a batch size, and all that it measured."""
    data = {part: f"{prefix}_{part}.npz" for part in PARTS}
    target = "cuda" if provider == nvidia.CUDA else "onnxruntime"
    for model, batch in jobs:
        what = f"optimize {model.stem} x{batch}"
        if not limit.allows(what, 60.0):
            continue
        start = time.perf_counter()
        options = Options(model, output=folder / f"{model.stem}-{batch}", target=target, batch=batch, **data)
        try:
            with limit.alarm():
                report = copy_context().run(lambda options=options: (set_provider(provider), optimize(options))[1])
        except (TimeoutError, HqpError) as e:
            limit.left_out.append(f"{what} ({e})")
            continue
        rows = {
            row: {"ms": x.latency_ms, "speedup": x.speedup, "drop": x.val_drop, "MB": x.bytes / 1e6, "macs": x.macs}
            for row, x in report.rows.items()
        }
        spent = {"seconds": time.perf_counter() - start, "stages": dict(report.seconds)}
        yield {
            "model": model.stem,
            "batch": batch,
            "ships": report.ships,
            "rows": rows,
            "notes": list(report.notes),
            **spent,
        }


def show_allocation(found: dict[str, Any]) -> None:
    print(f"\n{found['model']} x{found['batch']}: {found['ships']} ships, after {found['seconds']:.0f} s")
    for name, row in found["rows"].items():
        print(f"  {name:<16}{row['ms']:8.3f} ms {row['speedup']:6.2f}x  drop {100 * row['drop']:5.2f} points")
    for note in found["notes"]:
        print(f"  {note}")
    slowest = sorted(found["stages"].items(), key=lambda stage: -stage[1])[:6]
    print("  " + ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in slowest), flush=True)


def accuracies(provider: str) -> Iterator[str]:
    """Top-1 of the bundled models on the test data, on the CPU and on the provider."""
    data = str(MODELS / "fashion_mnist_test.npz")
    target = "cuda" if provider == nvidia.CUDA else "onnxruntime"
    for path in BUNDLED:
        found = []
        for name in ("onnxruntime", target):
            start = time.perf_counter()
            scores = evaluate(path, data, target=name)
            found.append(f"{100 * scores.metric:.2f} % in {time.perf_counter() - start:.1f} s")
        yield f"{path.stem}: top-1 on {scores.samples} samples, CPU {found[0]}, {target} {found[1]}"


def tensorrt() -> bool:
    return importlib.util.find_spec("tensorrt") is not None


def networks(folder: Path) -> list[Path]:
    """The 224 x 224 networks, where torch can export them."""
    if importlib.util.find_spec("torch") is None:
        print("Networks at 224 x 224 need torch: pip install torch")
        return []
    from bench_networks import export

    return list(export(folder, list(LARGE)))


def print_rows(head: Iterable[str], rows: Iterable[Any]) -> list[Any]:
    """A table that grows while it is measured."""
    names, kept = list(head), []
    print("\n| " + " | ".join(names) + " |\n|" + "---|" * len(names), flush=True)
    for row in rows:
        kept.append(row)
        reason = getattr(row, "reason", "")
        print(
            f"{row.model} x{row.batch} {row.variant}: {reason}" if reason else f"| {' | '.join(row.cells())} |",
            flush=True,
        )
    return kept


def machine(provider: str) -> dict[str, str]:
    """What this runs on, in words."""
    said = {"onnxruntime": onnxruntime().__version__, "provider": provider}
    try:
        import pynvml

        pynvml.nvmlInit()
        said["gpu"] = str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0)))
        said["driver"] = str(pynvml.nvmlSystemGetDriverVersion())
    except Exception as e:
        said["gpu"] = f"unknown: {e}"
    try:
        said["TensorRT"] = engine.detect().name
    except HqpError as e:
        said["TensorRT"] = str(e)
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument(
        "--data", default=str(MODELS / "fashion_mnist"), help="what the names of calib, val and test begin with"
    )
    parser.add_argument("--batch", default="1,32")
    parser.add_argument("--provider", default=nvidia.CUDA)
    parser.add_argument("--seconds", type=float, default=540.0)
    parser.add_argument("--jobs", type=int, default=2, help="optimizations of the bundled models")
    parser.add_argument("--sections", default="work,latency,allocation")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    limit, found = Limit(chosen.seconds), dict[str, Any]()
    batches = [int(batch) for batch in chosen.batch.split(",")]
    try:
        require_provider(chosen.provider)
    except HqpError as e:
        print(e)
        return 2
    found["machine"] = machine(chosen.provider)
    print("; ".join(f"{key} {value}" for key, value in found["machine"].items()), flush=True)

    def save_json() -> None:
        if chosen.json is not None:
            chosen.json.write_text(json.dumps({**found, "left out": limit.left_out}, indent=1, default=str))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sections = chosen.sections.split(",")
        models = chosen.models or ([*BUNDLED, *networks(folder)] if sections != ["allocation"] else [])
        of = cache(partial(variants, folder=folder))

        def work() -> None:
            def rows() -> Iterator[gpu_work.WorkRow]:
                for model in models:
                    if limit.allows(f"work of {model.stem}", 20.0):
                        yield from gpu_work.work_rows(model, of(model).files["pruned"], of(model).data, chosen.provider)

            found["work"] = [asdict(row) for row in print_rows(gpu_work.COLUMNS, rows())]
            found["accuracy"] = list(accuracies(chosen.provider))
            print("\n" + "\n".join(found["accuracy"]), flush=True)

        def allocation() -> None:
            found["allocation"] = []
            named = [(model, batch) for model in chosen.models for batch in batches]
            for job in allocations(named or JOBS[: chosen.jobs], chosen.data, chosen.provider, folder, limit):
                found["allocation"].append(job)
                show_allocation(job)
                save_json()

        def latency() -> None:
            def rows() -> Iterator[Row]:
                for model in models:
                    if limit.allows(f"latency of {model.stem}", 5.0):
                        yield from latency_rows(of(model), batches, chosen.provider, folder, limit)

            found["latency"] = [asdict(row) for row in print_rows(HEAD, rows())]

        measures = {"work": work, "allocation": allocation, "latency": latency}
        for section in sections:
            start = time.perf_counter()
            try:
                measures[section]()
            except Exception:
                traceback.print_exc()
            print(f"\n{section}: {time.perf_counter() - start:.0f} s", flush=True)
            save_json()
    if limit.left_out:
        print(f"Left out, {chosen.seconds:g} s were over: " + ", ".join(limit.left_out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
