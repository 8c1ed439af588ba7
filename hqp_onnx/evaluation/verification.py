"""Written means verified: a model is checked before its file appears, and compared with the one that it was made from.

It must be valid (onnx's checker), have the original's inputs and outputs, load in the runtime that it is for, and run
on a few samples; else it is not written. What it computes is compared output by output:

    SQNR = 10 log10(sum y^2 / sum (y' - y)^2) dB of float outputs, the share of equal values of all others

Below 10 dB the noise is more than a tenth of the signal. That, outputs that are no longer finite, a file larger than
its input and a precision that changed nothing are warnings: the file is written, and they are said. An output that a
metric has judged, and found inside the budget, may be at 0 dB: the answers of a classifier survive much noise.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.counts import counted
from hqp_onnx.errors import MissingRuntimeError, ModelError, one_line
from hqp_onnx.evaluation.deviation import Deviation, finite
from hqp_onnx.graphs import model_io
from hqp_onnx.graphs.interface import Interface
from hqp_onnx.runtimes.external_data import weight_bytes
from hqp_onnx.runtimes.runners import open_runner, runtime_name
from hqp_onnx.runtimes.session import Runner
from hqp_onnx.runtimes.targets import Target, target

SAMPLES, SECONDS = 16, 10.0  # that a comparison takes at most
LEAST_DB, LEAST_EQUAL, LEAST_JUDGED_DB = 10.0, 0.9, 0.0
_LARGER = 1.02  # names of nodes take a little
_CHECKED_BYTES = 1_900_000_000  # the checker takes no larger models in memory
_INT4 = (onnx.TensorProto.INT4, onnx.TensorProto.UINT4)
_INT8 = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8, *_INT4)


@dataclass(frozen=True)
class Source:
    """What written models are held to.

    Attributes:
        session: the original.
        interface: its inputs and outputs.
        bytes: its size.
        feeds: batches of samples; none if it runs on none that could be made.
        data: what these are, in words.
    """

    session: Runner
    interface: Interface
    bytes: int
    feeds: Iterable[Mapping[str, Array]]
    data: str


@dataclass(frozen=True)
class Output:
    """One output of a written model beside the original's.

    Attributes:
        sqnr_db: of floats; None where all are equal, or nothing can be compared.
        equal: share of equal values, 0..1; None where nothing can be compared.
        broken: values that are NaN or infinite, where the original's are not.
        other_shape: whether its shape was another, on any sample.
    """

    sqnr_db: float | None
    equal: float | None
    broken: int = 0
    other_shape: bool = False

    @property
    def difference(self) -> float | None:
        """How far it is from the original's, as a share: of its size, or of the values where these are no floats."""
        if self.equal is None or self.equal == 1 or self.sqnr_db is None:
            return None if self.equal is None else 1 - self.equal
        return float(10 ** (-self.sqnr_db / 20))

    @property
    def words(self) -> str:
        """As "31.4 dB"."""
        if self.equal is None:
            return "not comparable"
        if self.equal == 1:
            return "equal"
        return f"{100 * self.equal:.1f} % equal" if self.sqnr_db is None else f"{self.sqnr_db:.1f} dB"


@dataclass(frozen=True)
class Verified:
    """A model that loads and runs.

    Attributes:
        runtime: that it was run by.
        data: what it was run on, in words.
        samples: how many of these.
        bytes, original_bytes: sizes of the files.
        outputs: by name.
        warnings: what its user should not miss, a line each.
    """

    runtime: str
    data: str
    samples: int
    bytes: int
    original_bytes: int
    outputs: Mapping[str, Output]
    warnings: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """In one line."""
        if not self.samples:
            return f"loaded by {self.runtime}, not run: the original does not run on {self.data}"
        found = ", ".join(f"{name} {output.words}" for name, output in self.outputs.items())
        return f"verified by {self.runtime} on {self.data}, beside the original: {found}"


def together(files: Mapping[str, Verified]) -> str:
    """What is known of one or more models, in one plain line."""
    run = {name: found for name, found in files.items() if found.samples}
    if len(run) < len(files):
        lacking = sorted(files.keys() - run.keys())
        why = f"the original does not run on {files[lacking[0]].data}"
        return f"{', '.join(lacking)}: loaded as written, not run: {why}"
    found = [(output.difference, name) for name, each in run.items() for output in each.outputs.values()]
    most, name = max(((share, name) for share, name in found if share is not None), default=(None, ""))
    which = f" ({name})" * (len(run) > 1)
    differ = {None: "cannot be compared with the original's", 0.0: "are the original's"}.get(
        most, f"differ from the original's by at most {100 * (most or 0):.3g} % of their size{which}"
    )
    return f"All files were run again as written, and their outputs {differ}"


def verify(
    model: onnx.ModelProto,
    name: str | Path,
    source: Source,
    goal: Target | None = None,
    precision: str = "fp32",
    judged: Collection[str] = (),
) -> Verified:
    """Check ``model``, run it and compare it with its source.

    Args:
        model: what is to be written.
        name: its file, for messages.
        source: what it was made from.
        goal: what it is for; onnxruntime stands in for a runtime that is not installed.
        precision: what was asked for: fp32, int8, mixed, dynamic, fp8, fp16 or int4.
        judged: outputs that a metric has judged.

    Raises:
        ModelError: it is not valid, has other inputs or outputs, does not load or does not run.
    """
    try:
        _check(model, source)
        session, runtime = _opened(model, goal or target("onnxruntime"))
        outputs, samples = _compared(source, session)
    except ModelError as e:
        raise ModelError(f"{name}: is not written, since it would be of no use: {e}") from e
    size = weight_bytes(model) if weight_bytes(model) >= _CHECKED_BYTES else model.ByteSize()
    found = Verified(runtime, source.data, samples, size, source.bytes, outputs)
    said = list(_doubts(found, judged))
    if not _changed(model, precision):
        said.append(
            f"nothing was brought to {'int8' if precision == 'mixed' else precision}: it computes in float as before"
        )
    return replace(found, warnings=tuple(f"{name}: {words}" for words in said))


def _check(model: onnx.ModelProto, source: Source) -> None:
    if change := next(source.interface.changes(Interface.of(model)), None):
        raise ModelError(f"{change}. This is a fault of hqp_onnx: please report it")
    if weight_bytes(model) >= _CHECKED_BYTES:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as e:
        raise ModelError(f"it is not a valid ONNX model: {one_line(e)}") from e


def _opened(model: onnx.ModelProto, goal: Target) -> tuple[Runner, str]:
    """The model in its runtime, or in onnxruntime where that is not installed; and who runs it, in words."""
    try:
        return open_runner(model, goal, spin=False), runtime_name(goal)
    except MissingRuntimeError:
        here = target("onnxruntime")
        return open_runner(model, here, spin=False), f"{runtime_name(here)}, since that of {goal.name} is not installed"


def _compared(source: Source, session: Runner) -> tuple[dict[str, Output], int]:
    """Every output, and the number of samples."""
    sums, samples = {name: _Sums() for name in source.interface.outputs}, 0
    end = time.perf_counter() + SECONDS
    for feeds in source.feeds:
        try:
            wanted = source.session.run(feeds)
        except ModelError:  # nor need the new model run where the original does not
            continue
        got = session.run(feeds)
        for name, output in sums.items():
            output.add(wanted[name], got[name])
        samples += max((len(x) for x in feeds.values() if np.ndim(x)), default=1)
        if time.perf_counter() > end:
            break
    return ({name: output.result() for name, output in sums.items()} if samples else {}), samples


class _Sums:
    """Of one output, over batches."""

    def __init__(self) -> None:
        self.deviation, self.equal, self.count, self.other_shape, self.floats = Deviation(), 0, 0, False, False

    def add(self, wanted: Any, got: Any) -> None:
        pairs = list(zip(*(list(_arrays(value)) for value in (wanted, got)), strict=False))
        self.other_shape |= len(list(_arrays(wanted))) != len(list(_arrays(got)))
        for x, y in pairs:
            if x.shape != y.shape:
                self.other_shape = True
                continue
            self.count += x.size
            floats = x.dtype.kind == "f"
            self.equal += int(((x == y) | (np.isnan(x) & np.isnan(y)) if floats else x == y).sum())
            if floats:
                self.floats, self.deviation = True, self.deviation + Deviation.between(x, y)

    def result(self) -> Output:
        equal = self.equal / self.count if self.count else None
        sqnr = finite(self.deviation.sqnr_db) if self.floats and self.deviation.count else None
        return Output(sqnr, equal, self.deviation.broken, self.other_shape)


def _arrays(value: Any) -> Iterable[Array]:
    """The arrays in a tensor, a sequence, a map, or an optional value that is not there."""
    if isinstance(value, Mapping):
        yield np.array(list(value))
        value = list(value.values())
        yield np.array(value)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from _arrays(item)
    elif value is not None:
        array = np.asarray(value)
        yield array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _doubts(found: Verified, judged: Collection[str]) -> Iterable[str]:
    """What a user should not miss."""
    if found.bytes > _LARGER * found.original_bytes:
        yield f"{found.bytes} bytes, larger than its input of {found.original_bytes}"
    if not found.samples:
        yield f"loads, but was not run: the original does not run on {found.data}"
    for name, output in found.outputs.items():
        if output.broken:
            of = f"of output '{name}'"
            values = counted(output.broken, f"value {of} is", f"values {of} are")
            yield f"{values} NaN or infinite, and the original's are not"
        if output.other_shape:
            yield f"output '{name}' has another shape than the original's on some samples, which were not compared"
        if output.sqnr_db is not None and output.sqnr_db < (LEAST_JUDGED_DB if name in judged else LEAST_DB):
            share = "" if name in judged else "a tenth of "
            yield f"output '{name}' is at {output.sqnr_db:.1f} dB: more noise than {share}the original's signal"
        if output.equal is not None and output.sqnr_db is None and output.equal < LEAST_EQUAL and not output.broken:
            yield f"only {100 * output.equal:.1f} % of output '{name}' equal the original's"


def _changed(model: onnx.ModelProto, precision: str) -> bool:
    """Whether a lower precision is anywhere in a model that is to have it."""
    stored = {tensor.data_type for tensor in model.graph.initializer}
    quantized = any(model_io.is_quantized(node.op_type) for node in model_io.nodes(model.graph))
    return {
        "int8": quantized,
        "dynamic": quantized,
        "mixed": quantized or bool(stored & set(_INT8)),
        "int4": bool(stored & set(_INT4)),
        "fp8": onnx.TensorProto.FLOAT8E4M3FN in stored,
        "fp16": onnx.TensorProto.FLOAT16 in stored or any(_casts_to_half(n) for n in model_io.nodes(model.graph)),
    }.get(precision, True)


def _casts_to_half(node: onnx.NodeProto) -> bool:
    return node.op_type == "Cast" and any(
        entry.name == "to" and entry.i == onnx.TensorProto.FLOAT16 for entry in node.attribute
    )
