"""A model in LiteRT's interpreter: ONNX, written as .tflite for each set of sizes that it meets, or such a file.

Files hold one sample where the model leaves the number of samples open: more are run one by one, as on a device.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.boundary import silenced
from hqp_onnx.errors import ModelError, one_line
from hqp_onnx.runtimes.external_data import loaded
from hqp_onnx.runtimes.litert.convert import LAYOUT, convert
from hqp_onnx.runtimes.litert.emitter import to_first, to_last
from hqp_onnx.runtimes.litert.held import difference
from hqp_onnx.runtimes.litert.library import interpreter_module, schema
from hqp_onnx.runtimes.session import Session, TensorSpec, fixed_batch, run_padded, with_outputs

SUFFIX = ".tflite"
_KEPT = 4  # sets of sizes


class TfliteFile:
    """A .tflite file in its interpreter.

    Args:
        content: of the file.
        threads: 0 lets the interpreter choose.

    Raises:
        ModelError: the interpreter refuses it.
        MissingRuntimeError: ai-edge-litert is not installed.
    """

    def __init__(self, content: bytes, threads: int = 0) -> None:
        module = interpreter_module()
        try:
            with silenced():  # its kernels say that they are there
                self._interpreter = module.Interpreter(model_content=content, num_threads=threads or None)
                self._interpreter.allocate_tensors()
            model = schema().ModelT.InitFromPackedBuf(content)
        except (ValueError, RuntimeError) as e:
            raise ModelError(f"LiteRT cannot load the model: {one_line(e)}") from e
        self._last = _channels_last(model)
        named = {entry.tensorIndex: _text(entry.name) for entry in _signed(model)}
        self._inputs, self._outputs = (
            {named.get(one["index"], one["name"]): one for one in details}
            for details in (self._interpreter.get_input_details(), self._interpreter.get_output_details())
        )
        self.inputs, self.outputs = map(self._specs, (self._inputs, self._outputs))

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name, of inputs of the file's sizes, both as ONNX has them."""
        self.feed(feeds)
        self.invoke()
        found = {}
        for name, detail in self._outputs.items():
            x = self._interpreter.get_tensor(detail["index"])
            found[name] = x.transpose(to_first(x.ndim)) if name in self._last else x
        return found

    def feed(self, feeds: Mapping[str, Array]) -> None:
        """Set the inputs."""
        for name, detail in self._inputs.items():
            if name not in feeds:
                raise ModelError(f"LiteRT cannot run the model: input '{name}' is missing")
            x = np.asarray(feeds[name])
            x = x.transpose(to_last(x.ndim)) if name in self._last else x
            if x.shape != tuple(detail["shape"]):
                raise ModelError(
                    f"LiteRT cannot run the model: input '{name}' is {list(x.shape)}, expected {list(detail['shape'])}"
                )
            self._interpreter.set_tensor(detail["index"], np.asarray(x, detail["dtype"], order="C"))

    def invoke(self) -> None:
        """Run on what was fed."""
        try:
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as e:
            raise ModelError(f"LiteRT cannot run the model: {one_line(e)}") from e

    def _specs(self, details: Mapping[str, Any]) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(
                name,
                np.dtype(one["dtype"]),
                tuple(int(one["shape"][n]) for n in to_first(len(one["shape"])))
                if name in self._last
                else tuple(map(int, one["shape"])),
            )
            for name, one in details.items()
        )


class LiteRtSession:
    """A model.

    Args:
        model: ONNX, a ModelProto, serialised bytes, or a path; or the path of a .tflite file.
        outputs: tensors to fetch; the graph's own outputs if None.
        threads: 0 lets the interpreter choose.
        lookups: see ``convert.convert``.

    Raises:
        ModelError: the model cannot be loaded; where an operator has no counterpart, that is said when it is first run.
        MissingRuntimeError: ai-edge-litert is not installed.
    """

    def __init__(
        self,
        model: onnx.ModelProto | bytes | Path,
        outputs: Sequence[str] | None = None,
        threads: int = 0,
        lookups: bool = False,
    ) -> None:
        interpreter_module()
        self._apart = False  # whether samples are known not to be mixed
        self._threads, self._lookups, self._files = threads, lookups, dict[tuple[tuple[int, ...], ...], TfliteFile]()
        if isinstance(model, Path) and model.suffix == SUFFIX:
            file = TfliteFile(_read(model), threads)
            self._model, self._fixed = None, file
            self.inputs, self.outputs = file.inputs, file.outputs
            return
        proto = loaded(model, "LiteRT")
        self._model = proto if outputs is None else with_outputs(proto, outputs)
        stored = {tensor.name for tensor in proto.graph.initializer}
        self.inputs = tuple(_spec(value) for value in proto.graph.input if value.name not in stored)
        self.outputs = tuple(_spec(value) for value in self._model.graph.output)

    @property
    def batch(self) -> int | None:
        """The fixed batch size, or None where the first dimension is dynamic."""
        return fixed_batch(self.inputs)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name. A batch shorter than a fixed batch size is padded, and its outputs cut to length."""
        if self.batch is not None:
            return run_padded(lambda fed: self._file(fed).run(fed), feeds, self.batch)
        parts = self._rows(feeds)
        rows = [self._file(row).run(row) for row in parts]
        if len(parts) > 1 and not self._apart and self._model is not None:
            _require_apart(self._model, parts, {n: x[:2] if n in self._along(feeds) else x for n, x in feeds.items()})
            self._apart = True
        if len(rows) == 1:
            return rows[0]
        return {name: _joined(name, [row[name] for row in rows]) for name in rows[0]}

    def bound(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """See ``session.Bindable``: a run without the change of layout, which a device has no need of."""
        parts = [feeds] if self.batch is not None else self._rows(feeds)
        if len(parts) > 1 or (self.batch is not None and np.shape(next(iter(feeds.values())))[:1] != (self.batch,)):
            return lambda: self.run(feeds)
        file = self._file(parts[0])
        file.feed(parts[0])
        return file.invoke

    def _rows(self, feeds: Mapping[str, Array]) -> list[dict[str, Array]]:
        """Each sample alone; inputs whose first size is fixed have no axis of samples."""
        along = self._along(feeds)
        count = len(feeds[along[0]]) if along else 1
        return [{n: x[row : row + 1] if n in along else x for n, x in feeds.items()} for row in range(count)]

    def _along(self, feeds: Mapping[str, Array]) -> list[str]:
        return [spec.name for spec in self.inputs if spec.shape and spec.shape[0] is None and spec.name in feeds]

    def _file(self, feeds: Mapping[str, Array]) -> TfliteFile:
        """The model written for the sizes of ``feeds``."""
        if self._model is None:
            return self._fixed
        sizes = tuple(np.shape(feeds[spec.name]) for spec in self.inputs if spec.name in feeds)
        if sizes not in self._files:
            if len(self._files) == _KEPT:
                del self._files[next(iter(self._files))]
            self._files[sizes] = TfliteFile(_written(self._model, feeds, self._lookups), self._threads)
        return self._files[sizes]


def compiled(
    model: onnx.ModelProto | bytes | Path, feeds: Mapping[str, Array], lookups: bool = False, assume: bool = False
) -> bytes:
    """The .tflite file of a model for inputs of the sizes of ``feeds``, one sample where it leaves their number open.

    ``lookups`` and ``assume``: see ``convert.convert``.

    Raises:
        ModelError: an operator has no counterpart, or LiteRT computes something else than onnxruntime.
    """
    proto = loaded(model, "LiteRT")
    return _written(proto, _one_sample(proto, feeds), lookups, assume)


def _written(model: onnx.ModelProto, feeds: Mapping[str, Array], lookups: bool = False, assume: bool = False) -> bytes:
    """``convert``, and what it gives held to onnxruntime's results.

    Raises:
        ModelError: as ``convert``; or LiteRT computes something else.
    """
    converted = convert(model, feeds, lookups, assume)
    if converted.outputs:
        got = TfliteFile(converted.content).run(feeds)
        if why := difference(converted.outputs, got, converted.rounded, converted.steps):
            raise ModelError(f"LiteRT computes something else than onnxruntime: {why}")
    return converted.content


def _require_apart(model: onnx.ModelProto, parts: Sequence[Mapping[str, Array]], two: Mapping[str, Array]) -> None:
    """Raise ``ModelError`` where onnxruntime gives for ``two`` samples what it does not give for each, ``parts[:2]``.

    A model that takes one sample alone, whatever it declares, mixes none.
    """
    session = Session(model, optimize=False)
    alone = [session.run(part) for part in parts[:2]]
    try:
        together = session.run(two)
    except ModelError:
        return
    joined = {name: _joined(name, [one[name] for one in alone]) for name in together}
    rounded = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    if why := difference(together, joined, rounded, {}):
        raise ModelError(f"samples depend on those beside them, and LiteRT runs each alone: {why}")


def _one_sample(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The first sample of ``feeds``, as files that leave the number of samples open to ONNX hold."""
    inputs = {value.name: _spec(value) for value in model.graph.input}
    if fixed_batch([spec for name, spec in inputs.items() if name in feeds]) is not None:
        return dict(feeds)
    return {n: x[:1] if inputs[n].shape and inputs[n].shape[0] is None else x for n, x in feeds.items()}


def _joined(name: str, rows: Sequence[Array]) -> Array:
    """Of all samples; what is the same for each, and no axis of samples could be in, is none of theirs."""
    if len(rows[0].shape[:1]) and len(rows[0]) == 1:
        return np.concatenate(rows)
    if all(np.array_equal(row, rows[0]) for row in rows[1:]):
        return rows[0]
    if not rows[0].ndim:
        raise ModelError(f"output '{name}' has no axis of samples, and LiteRT runs samples one by one")
    return np.concatenate(rows)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as e:
        raise ModelError(f"{file}: {one_line(e)}") from e


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
    element = kind.elem_type or onnx.TensorProto.FLOAT
    return TensorSpec(value.name, onnx.helper.tensor_dtype_to_np_dtype(element), shape)


def _signed(model: Any) -> list[Any]:
    signatures = model.signatureDefs or []
    return [entry for one in signatures[:1] for entry in (*(one.inputs or ()), *(one.outputs or ()))]


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _channels_last(model: Any) -> frozenset[str]:
    """What the file says of itself; nothing where another program wrote it."""
    for note in model.metadata or ():
        if _text(note.name) == LAYOUT:
            return frozenset(json.loads(bytes(np.asarray(model.buffers[note.buffer].data, np.uint8)).decode()))
    return frozenset()
