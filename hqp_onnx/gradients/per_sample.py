"""One graph for everything: forward, loss, backward, per-sample norms."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.errors import DataError, GradientError
from hqp_onnx.evaluation.metrics.task import Task
from hqp_onnx.gradients.filters import Use, filter_axes, made_by, weight_uses
from hqp_onnx.gradients.loss import Loss, LossName, append_loss, append_user_loss
from hqp_onnx.gradients.norms import inner_products, output_norms, squared_norms
from hqp_onnx.gradients.recurrent_norms import recurrent_values
from hqp_onnx.gradients.reverse import backward
from hqp_onnx.gradients.tape import Tape, refuse
from hqp_onnx.gradients.trace import close, fixed_batch, reachable, rolled, trace
from hqp_onnx.graphs.model_io import nodes
from hqp_onnx.graphs.nodes import attribute, operator, reads
from hqp_onnx.graphs.recurrent import GATES
from hqp_onnx.graphs.weight_axes import weight_axes
from hqp_onnx.passes.lowering.absorb_pads import absorb_pads
from hqp_onnx.passes.lowering.join_loss import join_loss
from hqp_onnx.passes.lowering.open_branches import open_branches
from hqp_onnx.passes.lowering.prepare_for_gradients import prepare_for_gradients
from hqp_onnx.passes.lowering.unroll_loops import unroll_loops
from hqp_onnx.runtimes.session import work_session

Kind = Literal["fisher", "taylor", "output"]
LARGEST_BATCH = 64


class PerSample:
    """Per-sample filter gradients of a model, computed in batches by onnxruntime.

    Args:
        model: an ONNX model. For the losses of a classifier, its first output is [N, classes]: logits, or their
            Softmax or LogSoftmax.
        sample: feeds of at least one sample.
        kind: "fisher", ||dL_i/dW_f||^2; "taylor", <W_f, dL_i/dW_f>^2; or "output", ||dL_i/dy_f||^2, y_f being what
            the filter computes.
        loss: one of ``LOSSES`` that needs no task; a task, see ``task_loss``; a model (see
            ``passes.lowering.join_loss``); or None, one that needs no labels.
        form: "direct" or "gram" instead of the cheaper of both (for tests).
        memory: bytes that a batch may need; it sets ``batch``. More is slower: batches then leave the caches.
        threads: of onnxruntime; 0 is its own choice.

    Attributes:
        filters: number of filters of each weight.
        batch: samples per call.
        loss: the loss that was taken; its ``rounds`` give what a call needs beside the feeds.
        model: the whole graph, an ordinary ONNX model.

    Raises:
        GradientError: an operator between a weight and the loss has no gradient rule, or samples are not separate.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("fisher", "taylor", "output")

    def __init__(
        self,
        model: onnx.ModelProto,
        sample: Mapping[str, Array],
        *,
        kind: Kind = "fisher",
        loss: LossName | Task | onnx.ModelProto | None = "cross-entropy",
        form: str | None = None,
        memory: int = 1 << 26,
        threads: int = 0,
    ) -> None:
        ready = absorb_pads(prepare_for_gradients(_flat(model, sample)))
        fixed = fixed_batch(ready)
        weights = {use.weight for use in weight_uses(ready.graph)}
        output = targets = ""
        if isinstance(loss, onnx.ModelProto):
            count = len(ready.graph.input)
            ready = join_loss(ready, loss)
            output = ready.graph.output[-1].name
            targets = next((value.name for value in ready.graph.input[count:]), "")
            sample = {**sample, targets: np.zeros(1, np.int64)} if targets else sample
        tape = Tape(ready, trace(ready, sample, fixed))
        uses = _weight_uses(tape, weights)
        made = [name for use in uses for name in made_by(use)]
        reached = reachable(tape.model.graph, made, tape.traced.types)
        _refuse_quantized(tape, reached)
        if isinstance(loss, onnx.ModelProto):
            self.loss = append_user_loss(tape, output, targets)
        else:
            self.loss = append_loss(tape, loss, reached)
        self.filters, self._outputs, work = _append(tape, uses, self.loss, kind, form)
        self.model = _with_outputs(tape.model, list(self._outputs.values()))
        bytes_per_sample = 4 * (2 * tape.traced.size + work + self.loss.width)
        self.batch = fixed or max(1, min(LARGEST_BATCH, memory // bytes_per_sample))
        self._session = work_session(self.model, list(self._outputs.values()), threads) if self._outputs else None
        if isinstance(loss, onnx.ModelProto):
            self._require_sum(sample, fixed)

    def __call__(self, feeds: Mapping[str, Array], targets: Array | None = None) -> dict[str, Array]:
        """Values [n, filters] by weight, for at most ``batch`` samples.

        Args:
            feeds: the model's inputs.
            targets: what ``loss.rounds`` gives for these samples; int64 classes [n] for cross-entropy.

        Raises:
            DataError: a label is not a class.
        """
        if self.loss.name == "cross-entropy" and self.loss.task is None and targets is not None and len(targets):
            low, high = targets.min(), targets.max()
            if not 0 <= low <= high < self.loss.classes:
                raise DataError(f"labels {low} .. {high} are not all classes: expected 0 .. {self.loss.classes - 1}")
        count = len(next(iter(feeds.values())))
        if targets is not None and self.loss.targets:
            feeds = {**feeds, self.loss.targets: targets}
        outputs = {} if self._session is None else self._session.run(feeds)
        return {
            weight: outputs[self._outputs[weight]] if weight in self._outputs else np.zeros((count, n), np.float32)
            for weight, n in self.filters.items()
        }

    def _require_sum(self, sample: Mapping[str, Array], fixed: int | None) -> None:
        """Refuse a loss in which the gradient of one sample depends on how many others there are, or which."""
        counts = (2, 3) if fixed is None else (fixed, fixed)
        first, second = (
            self({name: rolled(x[:1], count, shift) for name, x in sample.items()})
            for shift, count in enumerate(counts)
        )
        for name, values in first.items():
            if not close(values[0], second[name][0], float(values[0][np.isfinite(values[0])].max(initial=0.0))):
                raise GradientError(
                    f"the loss mixes samples (seen at weight '{name}'): expected one number per sample, or their sum"
                )


def _flat(model: onnx.ModelProto, sample: Mapping[str, Array]) -> onnx.ModelProto:
    """``model`` with what is inside If, Scan and Loop outside, as far as that is exact."""
    batch = fixed_batch(model) if any(operator(node) in ("Scan", "Loop") for node in nodes(model.graph)) else None
    opened = open_branches(model)
    while (unrolled := unroll_loops(opened, sample, batch)) is not opened:
        opened = open_branches(unrolled)
    return opened


def _append(
    t: Tape, uses: list[Use], loss: Loss, kind: Kind, form: str | None
) -> tuple[dict[str, int], dict[str, str], int]:
    """Grow the graph; returns filters per weight, norms by weight, and working memory in elements per sample."""
    grads = backward(t, loss.seeds, [name for use in uses for name in made_by(use)])
    filters, outputs, work = {}, {}, 0
    for weight in dict.fromkeys(use.weight for use in uses):
        mine = [use for use in uses if use.weight == weight]
        own = next(use for use in mine if not use.turned)
        filters[weight] = t.traced.values[weight].shape[own.axis]
        if operator(mine[0].node) in GATES:
            outer = [(use, [grads.get(name) for name in use.node.output]) for use in mine]
            flowing = [(use, given) for use, given in outer if any(given)]
            if flowing:
                outputs[weight], needed = recurrent_values(t, kind, flowing, form)
                work = max(work, needed)
            continue
        counted = [use for use in mine if kind != "output" or not use.turned]
        live = [(use, grads[use.node.output[0]]) for use in counted if use.node.output[0] in grads]
        if not live:
            continue
        if kind == "taylor":
            inner = inner_products(t, live)
            outputs[weight] = t.mul(inner, inner)
            continue
        if kind == "output":
            outputs[weight] = output_norms(t, live)
            continue
        outputs[weight], needed = squared_norms(t, live, form)
        work = max(work, needed)
    return filters, outputs, work


def _weight_uses(t: Tape, weights: Collection[str]) -> list[Use]:
    """Every node that reads a weight that has filters, also turned, and one that gathers rows of it.

    Raises:
        GradientError: there is no weight, or one is read in another way.
    """
    uses = [use for use in weight_uses(t.model.graph) if use.weight in weights]
    axes = filter_axes(uses)
    if not uses:
        raise GradientError("the model has no Conv, Gemm, MatMul, LSTM or the like with a constant weight to score")
    uses = [replace(use, turned=use.axis != axes[use.weight]) for use in uses]
    through = _through_transpose(t, axes)
    uses += [use for readers in through.values() for use in readers]
    known = {(use.node.output[0], use.index) for use in uses} | {(name, 0) for name in through}
    for node in t.model.graph.node:
        if node.op_type in ("Shape", "Size"):
            continue
        for i, name in enumerate(reads(node)):
            if name not in weights or (node.output[0], i) in known:
                continue
            if i or node.op_type != "Gather" or t.axis(node, 0):
                raise refuse(node, f"reads weight '{name}' other than as a weight, so its gradient has another part")
            uses.append(Use(node, name, axes[name]))
    first = {use.weight: use for use in reversed(uses)}
    if other := next((use for use in uses if _part(use) != _part(first[use.weight])), None):
        raise refuse(other.node, f"reads weight '{other.weight}' in another part than other nodes do")
    return uses


def _through_transpose(t: Tape, axes: Mapping[str, int]) -> dict[str, list[Use]]:
    """By what a Transpose of a matrix with filters gives: the nodes that read it, if all do so as a weight."""
    found = {}
    for turn in t.model.graph.node:
        if turn.op_type != "Transpose" or turn.input[0] not in axes or len(t.dims(turn.input[0])) != 2:
            continue
        weight, name = turn.input[0], turn.output[0]
        readers = [node for node in t.model.graph.node if name in reads(node)]
        places = {
            (node.op_type in ("Gemm", "MatMul"), *(i for i, read in enumerate(reads(node)) if read == name))
            for node in readers
        }
        if places == {(True, 1)} and attribute(turn, "perm", [1, 0]) == [1, 0]:
            outputs = [weight_axes(node, 2).output for node in readers]
            found[name] = [
                Use(node, weight, axis, turned=1 - axis != axes[weight])
                for node, axis in zip(readers, outputs, strict=True)
            ]
    return found


def _part(use: Use) -> tuple[str, int]:
    """As W or R of a recurrent operator, or as the weight of any other: only one of them can be summed."""
    recurrent = operator(use.node) in GATES
    return (operator(use.node), use.index) if recurrent else ("", 0)


def _refuse_quantized(t: Tape, reached: Collection[str]) -> None:
    """Integers have no gradient, so whatever lies before them would score zero."""
    for node in t.model.graph.node:
        if node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear") and node.input[0] in reached:
            raise refuse(node, "stops the gradient: score the model before it is quantized")


def _with_outputs(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    return model
