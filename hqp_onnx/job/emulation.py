"""What ships, judged by the emulator of a target that has one, on as many samples as there is time for."""

from __future__ import annotations

import time
from pathlib import Path

from hqp_onnx.counts import counted
from hqp_onnx.evaluation.metrics import evaluate
from hqp_onnx.job.setup import Setup
from hqp_onnx.runtimes.runtime import Emulating

SECONDS, MOST = 120.0, 500  # samples at most
_TIMED = 3  # samples


def emulated(setup: Setup, file: Path, made: Path) -> tuple[str, ...]:
    """What the emulator gives of ``made``, beside what the search's runtime gives of ``file`` on the same samples.

    Nothing where the target has no emulator, or takes the .onnx as it is.
    """
    runtime, part = setup.target.runtime, "test" if "test" in setup.data else "val"
    if not isinstance(runtime, Emulating) or made == file:
        return ()
    runner, references, q = runtime.emulator(made), setup.references.get(part), setup.metric.quantity
    data = setup.data[part].in_batches(runner.batch or 1)
    start = time.perf_counter()
    timed = data.first(_TIMED * data.batch_size)
    evaluate(runner, timed, setup.metric, references=references)
    each = (time.perf_counter() - start) / len(timed)
    some = data.first(max(len(timed), min(MOST, int(SECONDS / each))))

    def report(done: int, total: int) -> None:
        setup.progress("emulation", done, total)

    found = evaluate(runner, some, setup.metric, progress=report, references=references)
    beside = evaluate(setup.load(file), some, setup.metric, references=references)
    worse = ", which is more than chance" * (beside.drop_to(found).low > 0)
    first = f"the first {len(some)} of {counted(len(data), 'sample')} of {data.source.name}"
    return (
        f"{made.name}: emulated on {first}, {q.name} is {q.said(found.metric)}; it is {q.said(beside.metric)} as "
        f"onnxruntime computes the quantized model on the same{worse}",
    )
