"""The original with slices set to zero, and the comparison with what was pruned.

Shares no code with the product: it reads the ledger, the exported file and, where the ledger's tensors do not exist
in that file, the canonical model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx.reference import ReferenceEvaluator
from zoo_models import BATCH

Feeds = dict[str, np.ndarray]
Ledger = dict[str, dict[int, np.ndarray]]
FLOAT = onnx.TensorProto.FLOAT
TOLERANCE = 1e-4  # of float32, relative
TOLERANCE_DOUBLE = 1e-6


class WrongResultError(Exception):
    """Pruned and masked original differ."""


class UnclearError(Exception):
    """The model is too ill-conditioned for float32, and does not run in float64."""


class Oracle:
    """The original with slices set to zero: of the exported file where that holds the ledger's tensors."""

    def __init__(self, path: Path, canonical: onnx.ModelProto, seen: dict[str, Any] | None = None) -> None:
        self.file, self.canonical = onnx.load(path), canonical
        self.names = constants(self.file).keys()
        self.before: dict[tuple[Any, ...], list[np.ndarray]] = {}  # outputs of the file by input sizes
        self.seen = seen if seen is not None else {"plans": 0, "canonical": 0, "error": 0.0, "effect": np.inf}

    def masked(self, ledger: Ledger) -> onnx.ModelProto:
        """A model whose slices in ``ledger`` are zero."""
        missing = ledger.keys() - self.names
        self.seen["canonical"] += bool(missing)
        copy = onnx.ModelProto()
        copy.CopyFrom(self.canonical if missing else self.file)
        tensors = constants(copy)
        for name, axes in ledger.items():
            values = onnx.numpy_helper.to_array(tensors[name]).copy()
            for axis, gone in axes.items():
                values[(slice(None),) * axis + (gone,)] = 0
            tensors[name].CopyFrom(onnx.numpy_helper.from_array(values, name))
        return copy

    def compare(self, pruned: onnx.ModelProto, ledger: Ledger, feeds: Feeds, note: Any) -> None:
        """Check and run ``pruned``; raise where it is not what zeroing the ledger's slices gives."""
        onnx.checker.check_model(pruned)
        have, masked = run(pruned, feeds), self.masked(ledger)
        want = run(masked, feeds, optimize=False)
        error = difference(want, have)
        self.seen["plans"] += 1
        self.seen["error"] = max(self.seen["error"], error)
        if ledger:
            size = tuple(x.shape for x in feeds.values())
            if size not in self.before:
                self.before[size] = run(self.file, feeds, optimize=False)
            self.seen["effect"] = min(self.seen["effect"], difference(self.before[size], want))
        note(**self.seen)
        if error > TOLERANCE:
            self.settle(masked, pruned, feeds, note)

    def unpruned(self, feeds: list[Feeds], note: Any) -> None:
        """The canonical model computes what the file does; where float32 is too rough to tell, in float64."""
        for sized in feeds:
            error = difference(run(self.file, sized, optimize=False), run(self.canonical, sized, optimize=False))
            if not error <= TOLERANCE:
                try:
                    self.settle(self.file, self.canonical, sized, note)
                except WrongResultError as e:
                    shapes = ", ".join(str(list(x.shape)) for x in sized.values())
                    raise WrongResultError(f"canonicalising changes outputs for inputs {shapes}: {e}") from e

    def settle(self, masked: onnx.ModelProto, pruned: onnx.ModelProto, feeds: Feeds, note: Any) -> None:
        """Rounding or error? Compare in float64, by onnx's reference implementation."""
        noise = difference(run(masked, feeds, optimize=False), run(masked, feeds))
        note(noise=noise)
        try:
            exact = difference(run_in_double(masked, feeds), run_in_double(pruned, feeds))
        except Exception as e:
            raise UnclearError(f"rounding alone gives {noise:.1e}, and in float64: {type(e).__name__} {e}"[:200]) from e
        note(double=max(exact, self.seen.get("double", 0.0)))
        if not exact <= TOLERANCE_DOUBLE:
            raise WrongResultError(f"error {exact:.1e} in float64; rounding in float32 {noise:.1e}")


def constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Initializers and Constant nodes' values by name, those in the graphs of nodes included."""
    return _constants(model.graph)


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found |= _constants(attribute.g)
    return found


def run(model: onnx.ModelProto, feeds: Feeds, optimize: bool = True) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"]).run(None, feeds)


def run_in_double(model: onnx.ModelProto, feeds: Feeds) -> list[np.ndarray]:
    """Outputs in float64, by ``onnx.reference``."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    attributes = [(node, attribute) for node in copy.graph.node for attribute in node.attribute]
    for tensor in [*copy.graph.initializer, *(a.t for _, a in attributes if a.HasField("t"))]:
        if tensor.data_type == FLOAT:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    for node, attribute in attributes:
        if node.op_type == "Cast" and attribute.i == FLOAT:
            attribute.i = onnx.TensorProto.DOUBLE
    for value in [*copy.graph.input, *copy.graph.output]:
        if value.type.tensor_type.elem_type == FLOAT:
            value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    wide = {name: x.astype(np.float64) if x.dtype == np.float32 else x for name, x in feeds.items()}
    results: list[np.ndarray] = ReferenceEvaluator(copy).run(None, wide)
    return results


def usable_feeds(model: onnx.ModelProto, feeds: Feeds) -> list[Feeds]:
    """``feeds`` as exported, and at other batches and (where dynamic) doubled sizes, where the original runs."""
    inputs = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}
    usable: list[Feeds] = []
    for batch, times in ((BATCH, 1), (1, 1), (3, 1), (BATCH, 2)):
        sized = {}
        for name, dims in inputs.items():
            shape = [n * times if dim.dim_param else n for n, dim in zip(feeds[name].shape, dims, strict=True)]
            sized[name] = np.resize(feeds[name], (batch, *shape[1:]))
        if any(all(np.array_equal(sized[name], seen[name]) for name in inputs) for seen in usable):
            continue
        try:
            run(model, sized)
        except Exception:  # a size baked in by the exporter
            if not usable:
                raise
        else:
            usable.append(sized)
    return usable


def difference(want: list[np.ndarray], have: list[np.ndarray]) -> float:
    """The largest difference of any value, relative to the largest finite one of its output."""
    worst = 0.0
    for a, b in zip(want, have, strict=True):
        finite = np.isfinite(a)
        if a.shape != b.shape or not np.array_equal(finite, np.isfinite(b)):
            return float("inf")
        if finite.any():
            a, b = a[finite].astype(np.float64), b[finite].astype(np.float64)
            worst = max(worst, float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-6)))
    return worst
