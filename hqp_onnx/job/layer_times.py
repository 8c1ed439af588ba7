"""What each step of the network takes: in the input and in what ships, as the runtime says, and as predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import onnx

from hqp_onnx.allocation.times import COUNTED
from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.errors import HqpError
from hqp_onnx.files import sha256
from hqp_onnx.graphs import model_io
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.job.allocation import AGAIN, groups_of
from hqp_onnx.job.evidence import Evidence
from hqp_onnx.job.ledger import Ledger
from hqp_onnx.job.network import Places
from hqp_onnx.job.results import Row, Step
from hqp_onnx.job.setup import Setup
from hqp_onnx.runtimes.runtime import Profiling
from hqp_onnx.timing.kernel_times import by_key
from hqp_onnx.timing.table import TimeTable

_SECONDS, _FEWEST, _MOST = 1.0, 5, 30  # runs of each model


def with_times(
    steps: Sequence[Step], places: Places, setup: Setup, ledger: Ledger, file: Path, rows: Sequence[Row]
) -> tuple[Step, ...]:
    """The steps with what they take in the input and in the model of ``file``, which ships; ``rows`` are theirs."""
    models = to_proto(setup.model.graph), model_io.load(file, quantized=True)

    def profiles() -> list[dict[str, float]]:
        pairs = [*zip(models, rows, strict=True)][bool(setup.model.quantized) :]  # its nodes are not those of the graph
        return [{str(step): ms for step, ms in _profiled(model, row, setup, places).items()} for model, row in pairs]

    *earlier, after = ledger.once(f"profiles-{sha256(file)[:16]}", profiles)
    before = earlier[0] if earlier else {}
    return tuple(
        replace(step, ms_before=before.get(str(number)), ms_after=after.get(str(number)))
        for number, step in enumerate(steps)
    )


def _profiled(model: onnx.ModelProto, row: Row, setup: Setup, places: Places) -> dict[int, float]:
    runtime = setup.target.runtime
    if not isinstance(runtime, Profiling) or setup.target.stand_in:
        return {}
    runs = int(min(max(_SECONDS / (row.latency_ms / 1e3), _FEWEST), _MOST))
    try:
        kernels = runtime.kernels(model, setup.sample, row.threads, runs)
    except HqpError:  # a report is none the worse without them
        return {}
    return _by_step({key: time.seconds for key, time in by_key(kernels, places).items()}, places)


def with_predictions(
    steps: Sequence[Step], places: Places, setup: Setup, ledger: Ledger, evidence: Evidence, plan: PruningPlan
) -> tuple[Step, ...]:
    """The steps with what the search took for their times, where widths were chosen by times."""
    files = (ledger.cache / f"tables{suffix}.json" for suffix in (AGAIN, ""))
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return tuple(steps)
    table = msgspec.json.decode(file.read_bytes(), type=list[TimeTable])[0]
    if table.source == COUNTED:
        return tuple(steps)
    widths = groups_of(setup, evidence).widths_of(plan)
    found = _by_step({key: kernel.seconds(widths) for key, kernel in table.kernels.items()}, places)
    return tuple(replace(step, ms_predicted=found.get(number)) for number, step in enumerate(steps))


def _by_step(seconds: Mapping[str, float], places: Places) -> dict[int, float]:
    times: dict[int, float] = {}
    for key, value in seconds.items():
        if key in places:
            times[places[key]] = times.get(places[key], 0.0) + 1e3 * value
    return times
