"""Rockchip's NPUs as targets: models in INT8 are judged by the toolkit's simulator, without the chip.

Where samples of the calibration data are at hand (``Calibrating``), the toolkit quantizes a model itself, whose pairs
only say that it is to be in INT8. Otherwise it takes the pairs as they are, and what it makes of them is held to
onnxruntime on the first samples that it runs, since of some it computes something else, and says nothing. Times are not
known without a chip: those of onnxruntime stand in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.errors import ModelError
from hqp_onnx.runtimes.around import Around
from hqp_onnx.runtimes.bench import timed
from hqp_onnx.runtimes.external_data import loaded
from hqp_onnx.runtimes.litert.held import difference
from hqp_onnx.runtimes.rockchip.floats import has_pairs, without_pairs
from hqp_onnx.runtimes.rockchip.install import TOOLKIT, VERSION, require
from hqp_onnx.runtimes.rockchip.process import Simulator
from hqp_onnx.runtimes.rockchip.table import Row, notes_of, rows_of
from hqp_onnx.runtimes.session import Runner, Session, TensorSpec, run_padded, timed_run, with_outputs
from hqp_onnx.runtimes.stopwatch import Stopwatch

T = TypeVar("T")
_COMPILED: dict[tuple[bytes, str, Samples | None], tuple[bytes, tuple[Row, ...]]] = {}
CHIPS = (
    "rk3588",
    "rk3576",
    "rk3568",
    "rk3566",
    "rk3562",
    "rv1126b",
    "rv1106b",
    "rv1106",
    "rv1103b",
    "rv1103",
)
_SUFFIX = ".rknn"
_NEWEST_IR = 10  # of the toolkit's onnx
_SAMPLES = 16  # that are simulated together: a third of the time of one by one
_KEPT = 2  # built models


@dataclass(frozen=True, eq=False)  # a key of what was compiled
class Samples:
    """Of the calibration data, by input."""

    feeds: Mapping[str, Array]

    def runs(self, sizes: Mapping[str, tuple[int, ...]]) -> list[list[Array]]:
        """Inputs of whole runs of a model of these sizes: the last samples are left out, or some are taken twice."""
        batched = [name for name, size in sizes.items() if size]
        count = max(1, min((len(self.feeds[name]) // sizes[name][0] for name in batched), default=1))
        return [
            [_rows(self.feeds[name], k, size[0]) if size else self.feeds[name] for name, size in sizes.items()]
            for k in range(count)
        ]


def _rows(values: Array, number: int, size: int) -> Array:
    """Part ``number`` of so many rows, from the start again behind the last one."""
    found: Array = values[np.arange(number * size, (number + 1) * size) % len(values)]
    return found


class RknnRunner(Around):
    """A model that the simulator runs where it has pairs, and onnxruntime where it has none.

    Args:
        model: with the outputs that are asked for.
        chip: that it is built for.
        here: onnxruntime, whose times stand in.
        samples: by which the toolkit quantizes; None for the pairs that there are.
    """

    def __init__(self, model: onnx.ModelProto, chip: str, here: Session, samples: Samples | None) -> None:
        super().__init__(here)
        self._model, self._chip, self._samples = model, chip, samples
        self._built: dict[tuple[tuple[int, ...], ...], Simulator] = {}

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name; ``ModelError`` where the toolkit refuses the model, or computes something else."""
        if not has_pairs(self._model):
            return self._session.run(feeds)
        along = _along(self.inputs, feeds)
        if self.batch is not None or not along:
            return run_padded(self._simulated, feeds, self.batch)
        shared = {name: x for name, x in feeds.items() if name not in along}
        parts = []
        for start in range(0, len(feeds[along[0]]), _SAMPLES):
            part = {name: feeds[name][start : start + _SAMPLES] for name in along} | shared
            parts.append(run_padded(self._simulated, part, _SAMPLES))
        return {name: _joined(name, [part[name] for part in parts]) for name in parts[0]}

    def stopwatch(self, feeds: Mapping[str, Array]) -> Stopwatch:
        """Of onnxruntime, here."""
        return partial(timed, timed_run(self._session, feeds))

    def remembered(self, beside: Sequence[Runner], feeds: Mapping[str, Array], what: str, make: Callable[[], T]) -> T:
        """See ``stopwatch.Away``; what is measured here is measured anew."""
        return make()

    def _simulated(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs for inputs of the sizes that a model is built for."""
        fed = {spec.name: np.asarray(feeds[spec.name]) for spec in self.inputs if spec.name in feeds}
        sizes = tuple(x.shape for x in fed.values())
        if sizes in self._built:
            return self._outputs(self._built[sizes], fed)
        exact = Session(self._model, integer_kernels=False).run(fed)
        simulator = _simulator(self._model, fed, exact, self._chip, self._samples)
        found = self._outputs(simulator, fed)
        if self._samples is None and (why := difference(exact, found, True, {})):
            raise ModelError(f"rknn-toolkit2's simulator computes something else than onnxruntime: {why}")
        if len(self._built) == _KEPT:
            self._built.pop(next(iter(self._built))).close()
        self._built[sizes] = simulator
        return found

    def _outputs(self, simulator: Simulator, feeds: Mapping[str, Array]) -> dict[str, Array]:
        found = simulator.run(list(feeds.values()))
        return {spec.name: x.astype(spec.dtype, copy=False) for spec, x in zip(self.outputs, found, strict=True)}


@dataclass(frozen=True)
class Rockchip:
    """rknn-toolkit2 for one chip."""

    chip: str
    suffix: str = _SUFFIX
    samples: Samples | None = None

    def calibrated(self, samples: Mapping[str, Array]) -> Rockchip:
        """See ``runtime.Calibrating``."""
        return replace(self, samples=Samples(samples))

    def open(
        self, model: onnx.ModelProto | bytes | Path, outputs: Sequence[str] | None, threads: int, spin: bool
    ) -> Runner:
        """An ``RknnRunner``."""
        require()
        here = Session(model, outputs, threads=threads, spin=spin)
        proto = loaded(model, TOOLKIT)
        return RknnRunner(proto if outputs is None else with_outputs(proto, outputs), self.chip, here, self.samples)

    def compile(self, model: onnx.ModelProto | bytes | Path, feeds: Mapping[str, Array]) -> bytes:
        """The .rknn file, for one sample where the model leaves their number open; see ``runtime.Compiling``."""
        return self._compiled(model, feeds)[0]

    def notes(self, model: onnx.ModelProto | bytes | Path, feeds: Mapping[str, Array]) -> tuple[str, ...]:
        """Who quantized, cycles so far as they are known, and what is left to the CPU; see ``runtime.Compiling``."""
        words = "by the pairs of the .onnx" if self.samples is None else "by the toolkit, of the calibration data"
        return f"quantized {words}", *notes_of(self._compiled(model, feeds)[1], self.chip)

    def placed(
        self, model: onnx.ModelProto, feeds: Mapping[str, Array]
    ) -> tuple[int, tuple[tuple[str, str, str], ...]]:
        """Rows of the compiler's log, which gives no reasons; see ``runtime.Placing``."""
        rows = self._compiled(model, feeds)[1]
        left = (row for row in rows if row.place != "NPU")
        return len(rows), tuple((row.name, row.kind, "its compiler gives no reason") for row in left)

    def describe(self) -> str:
        """Version and chip."""
        require()
        return f"the simulator of {TOOLKIT} {VERSION} for {self.chip}"

    def remarks(self, precision: str) -> tuple[str, ...]:
        """None."""
        return ()

    def _compiled(
        self, model: onnx.ModelProto | bytes | Path, feeds: Mapping[str, Array]
    ) -> tuple[bytes, tuple[Row, ...]]:
        proto = loaded(model, TOOLKIT)
        session = Session(proto)
        along = [] if session.batch is not None else _along(session.inputs, feeds)
        fed = {spec.name: feeds[spec.name] for spec in session.inputs if spec.name in feeds}
        one = {name: x[:1] if name in along else x for name, x in fed.items()}
        outputs = session.run(one)
        key = stated(proto, one, outputs), self.chip, self.samples
        if key not in _COMPILED:
            if len(_COMPILED) == _KEPT:
                _COMPILED.clear()
            simulator = _simulator(proto, one, outputs, self.chip, self.samples)
            _COMPILED[key] = simulator.content, rows_of(simulator.log)
            simulator.close()
        return _COMPILED[key]


def _simulator(
    model: onnx.ModelProto,
    feeds: Mapping[str, Array],
    outputs: Mapping[str, Array],
    chip: str,
    samples: Samples | None,
) -> Simulator:
    """``model`` built for the sizes of these inputs and outputs."""
    if samples is None:
        return Simulator(stated(model, feeds, outputs), chip)
    runs = samples.runs({name: x.shape for name, x in feeds.items()})
    return Simulator(stated(without_pairs(model), feeds, outputs), chip, runs)


def stated(model: onnx.ModelProto, feeds: Mapping[str, Array], outputs: Mapping[str, Array]) -> bytes:
    """``model`` with the sizes of these inputs and outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = min(copy.ir_version, _NEWEST_IR)
    del copy.graph.value_info[:]
    for values, arrays in ((copy.graph.input, feeds), (copy.graph.output, outputs)):
        for value in values:
            if value.name in arrays:
                x = arrays[value.name]
                kind = onnx.helper.np_dtype_to_tensor_dtype(x.dtype)
                value.type.CopyFrom(onnx.helper.make_tensor_type_proto(kind, x.shape))
    serialized: bytes = copy.SerializeToString()
    return serialized


def _along(inputs: Sequence[TensorSpec], feeds: Mapping[str, Array]) -> list[str]:
    """The inputs that have an axis of samples."""
    return [spec.name for spec in inputs if spec.shape and spec.shape[0] is None and spec.name in feeds]


def _joined(name: str, parts: Sequence[Array]) -> Array:
    if len(parts) == 1:
        return parts[0]
    if not parts[0].ndim:
        raise ModelError(f"output '{name}' has no axis of samples, and {_SAMPLES} of them are simulated together")
    return np.concatenate(parts)
