"""What an optimization found: the rows and columns of the paper's table, and what was removed where.

``report.json`` holds these values field by field, and is decoded into these types again (``report.reading``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from hqp_onnx.counts import counted
from hqp_onnx.evaluation.metrics import Quantity
from hqp_onnx.evaluation.verification import Verified
from hqp_onnx.job.cost_model import CostModel
from hqp_onnx.job.ledger import Trial
from hqp_onnx.job.table import TIMES, models_table
from hqp_onnx.job.table import TITLES as TITLES
from hqp_onnx.job.table import EngineRow as EngineRow
from hqp_onnx.job.table import Judged as Judged
from hqp_onnx.job.table import Point as Point
from hqp_onnx.job.table import Row as Row
from hqp_onnx.job.table import title_of as title_of
from hqp_onnx.markup import Table, table, tag
from hqp_onnx.runtimes.machine import Machine

SCHEMA = 3  # of report.json; raised when a reader of the one before would go wrong
SPENT = {"pruning", "precision", "left"}
Setting = str | int | float | bool | list[str] | None


@dataclass(frozen=True)
class Layer:
    """One weight of Conv, ConvTranspose, Gemm or MatMul, in graph order; its θ is ``removed / channels``.

    Attributes:
        weight: its name.
        op: the operator.
        shape: in the original.
        channels: of its output axis.
        prunable: how many of these may be removed.
        removed: how many were.
    """

    weight: str
    op: str
    shape: tuple[int, ...]
    channels: int
    prunable: int
    removed: int

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise ValueError(f"layer '{self.weight}' has {self.channels} channels")

    @property
    def theta(self) -> float:
        """Percentage of the output channels that were removed."""
        return 100 * self.removed / self.channels


@dataclass(frozen=True)
class SaliencyHistogram:
    """Prunable units by log10 of their saliency.

    Attributes:
        edges: of the bins, one more than these.
        kept, removed: units in each bin.
        not_positive: units (kept, removed) whose saliency has no logarithm.
        unknown: units (kept, removed) without a scored filter.
    """

    edges: tuple[float, ...]
    kept: tuple[int, ...]
    removed: tuple[int, ...]
    not_positive: tuple[int, int]
    unknown: tuple[int, int]

    def __post_init__(self) -> None:
        if not len(self.edges) - 1 == len(self.kept) == len(self.removed) >= 1:
            raise ValueError("a histogram has one edge more than bins, and a bin at least")


@dataclass(frozen=True)
class Frozen:
    """Units that stay for one reason, and the initializers that they are slices of."""

    reason: str
    units: int
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """An input, a layer, a node where ways meet, or an output, as the network is drawn.

    Attributes:
        name: of the node, or of the tensor.
        op: its operator; ``input`` or ``output``.
        reads: the steps whose results it takes, by number; nodes of one input between them belong to the first.
        weight: of a layer (``Layer.weight``).
        precision: of what ships: ``int8``, ``fp16``, ``float``; ``removed`` where the node is gone; "" of no node.
        group: layers of one number share their output channels; None of a layer that shares them with no other.
        stays: why output channels had to stay, and how many, by reason.
        ms_before: measured in the input; None where the runtime does not say.
        ms_after: the same in what ships.
        ms_predicted: what the search took for ``ms_after``; None where widths were not chosen by times.
    """

    name: str
    op: str
    reads: tuple[int, ...] = ()
    weight: str = ""
    precision: str = ""
    group: int | None = None
    stays: Mapping[str, int] = field(default_factory=dict)
    ms_before: float | None = None
    ms_after: float | None = None
    ms_predicted: float | None = None


@dataclass(frozen=True)
class Change:
    """A sample on which what ships scores otherwise than the input.

    Attributes:
        sample: its number.
        before: its score by the input.
        after: its score by what ships.
        answers: the classes that both chose; None where no class is chosen.
        target: its class; None likewise.
        picture: PNG of an image in base64; "" of other data.
    """

    sample: int
    before: float
    after: float
    answers: tuple[int, int] | None = None
    target: int | None = None
    picture: str = ""


@dataclass(frozen=True)
class Changes:
    """How many samples score worse and better than before, and those that lost most."""

    worse: int
    better: int
    shown: tuple[Change, ...]


@dataclass(frozen=True)
class ModelInput:
    """An input of the model.

    Attributes:
        name: its name.
        dtype: of its values.
        shape: of a batch; None for a size that the model leaves open.
        sample: the shape of one sample.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    sample: tuple[int, ...]


@dataclass(frozen=True)
class Details:
    """What was removed where, what stays and why, and what the model takes."""

    layers: tuple[Layer, ...]
    saliency_histogram: SaliencyHistogram
    frozen: tuple[Frozen, ...]
    inputs: tuple[ModelInput, ...]


@dataclass(frozen=True)
class Units:
    """Counts of units.

    Attributes:
        all: of the model.
        prunable: those that may be removed.
        removed: those that were.
    """

    all: int
    prunable: int
    removed: int


@dataclass(frozen=True)
class Request:
    """The settings that a report speaks of; ``job.options`` describes them."""

    precision: str
    narrow: str
    saliency: str
    target: str
    confidence: float = 0.5
    speedup: float | None = None
    target_latency: float | None = None
    device: str | None = None

    @property
    def speed(self) -> str:
        """The speed that was asked for in place of a budget, in words; else ""."""
        if self.speedup is not None:
            return f"{self.speedup:g} times as fast"
        return "" if self.target_latency is None else f"{self.target_latency:g} ms"


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that one ``optimize`` run found.

    Attributes:
        schema_version: of this type, as JSON.
        model: its path.
        baseline: the input.
        q8_only: quantized, nothing removed.
        pruned: pruned, in float32.
        int8_everywhere: pruned, with every node in INT8 that can be.
        hqp: pruned, in the precision that was asked for: by default INT8 where that is faster.
        recovered: pruned and trained.
        engine: None unless one was built and judged.
        ships: the row of the ONNX model that ships; an engine of it ships in its place if it was admitted.
        why: why that row ships.
        files: the models inside the budget, by row, relative to the folder.
        verified: how near each file is to the original, by row.
        warnings: of data that look wrong, and of the files.
        data: what the rows were measured on: the test data, or the validation data if there are no others.
        samples: how many of these.
        budget_met: whether a model as asked for is inside the budget.
        shipped: path of the model that ships.
        metric: what was measured, and in what.
        max_drop: the budget, in the units of a row's ``drop``: of a metric that is a share, 0.015 is 1.5 points.
        settings: what decided the result, by option; digests of model and data.
        budget_spent: where the budget went, on the validation data and in its units: ``pruning``, the lower
            ``precision``, ``uncertainty`` if ``--confidence`` asks for some, and what is ``left``; they add up to it.
        floats: the nodes of the row ``hqp`` that could be in INT8 and stay in float, by their first outputs.
        cost_model: what the search cost, and what a training would.
        seconds: by stage.
        units: how many there are, and how many were removed.
        machine: what measurements were made on.
        notes: what a reader of the table should not miss.
        trials: every candidate, in the order of the search.
        layers: what was removed of each.
        saliency_histogram: how important the units were that were kept, and those that were removed.
        frozen: what had to stay, by reason.
        inputs: of the model.
        pareto: models over the whole range of speeds, slowest first, if they were asked for.
        network: what is drawn of it, in the order of the graph.
        changes: None where the metric has no scores of single samples.
        why_stopped: why the search found no faster model.
        counted: true where no time of the target is known: what ships has the fewest multiply-accumulates, and the
            rows' latencies are those of what stands in for it.
    """

    schema_version: int = SCHEMA
    model: str
    baseline: Row
    q8_only: Row | None = None
    pruned: Row
    int8_everywhere: Row | None = None
    hqp: Row
    recovered: Row | None = None
    engine: EngineRow | None = None
    ships: str
    why: str
    files: Mapping[str, str]
    verified: Mapping[str, Verified]
    warnings: tuple[str, ...]
    data: str
    samples: int
    budget_met: bool
    shipped: str
    metric: Quantity
    max_drop: float
    settings: Mapping[str, Setting]
    budget_spent: Mapping[str, float]
    floats: tuple[str, ...]
    cost_model: CostModel
    seconds: Mapping[str, float]
    units: Units
    machine: Machine
    notes: tuple[str, ...]
    trials: tuple[Trial, ...]
    layers: tuple[Layer, ...]
    saliency_histogram: SaliencyHistogram
    frozen: tuple[Frozen, ...]
    inputs: tuple[ModelInput, ...]
    pareto: tuple[Point, ...] | None = None
    network: tuple[Step, ...] = ()
    changes: Changes | None = None
    why_stopped: str = ""
    counted: bool = False

    def __post_init__(self) -> None:
        _ = self.request  # has what it needs
        if lacking := sorted(SPENT - self.budget_spent.keys()):
            raise ValueError(f"budget_spent has no '{lacking[0]}'")
        if self.ships not in self.rows or self.ships not in self.files:
            raise ValueError(f"what ships, '{self.ships}', has no row or no file")

    @property
    def request(self) -> Request:
        """What was asked for."""
        return msgspec.convert(self.settings, Request)

    @property
    def rows(self) -> dict[str, Row]:
        """The models that were measured beside each other, by name."""
        return {name: row for name, row in vars(self).items() if isinstance(row, Row)}

    @property
    def all_rows(self) -> dict[str, Row | EngineRow]:
        """``rows``, and that of the engine where there is one."""
        return {**self.rows, **({} if self.engine is None else {"engine": self.engine})}

    @property
    def shipped_row(self) -> str:
        """The name of the row of the model that ships."""
        if self.engine is not None and self.engine.admitted:
            return "engine"
        return self.ships

    @property
    def table(self) -> Table:
        """A row per model."""
        rows = {} if self.settings.get("threads") else self.rows
        threads = {name: row.one_thread_speedup for name, row in rows.items()}
        where = f"{self.machine.runtime} on {self.machine.processor}"
        found = models_table(
            self.all_rows, self.metric, f"{counted(self.samples, 'sample')} of {self.data}; {where}", threads
        )
        for column in TIMES if self.counted else ():
            found = found.without(column)
        return found

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return tag("div", tag("p", tag("strong", Path(self.shipped).name), ": ", self.why), table(self.table))

    def json(self) -> dict[str, Any]:
        """JSON values: the fields, without those of its own that are None, and what follows from the cost model."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        values["cost_model"] |= self.cost_model.derived()
        return {name: value for name, value in values.items() if value is not None}
