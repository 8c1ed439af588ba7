"""One graph for everything: forward, loss, backward, per-sample norms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from hqp_onnx.errors import DataError, GradientError
from hqp_onnx.gradients.loss import append_loss, classes, logits_of
from hqp_onnx.gradients.norms import inner_products, squared_norms
from hqp_onnx.gradients.prepare import Use, prepare, weight_uses
from hqp_onnx.gradients.reverse import backward
from hqp_onnx.gradients.tape import Tape, refuse
from hqp_onnx.gradients.trace import fixed_batch, trace
from hqp_onnx.runtime import Array, Session

Kind = Literal["fisher", "taylor"]
LARGEST_BATCH = 64


class PerSample:
    """Per-sample filter gradients of a classifier, computed in batches by onnxruntime.

    Args:
        model: an ONNX model whose first output is [N, classes]: logits, or their Softmax or LogSoftmax.
        sample: feeds of at least one sample.
        kind: "fisher", ||dL_i/dW_f||^2, or "taylor", <W_f, dL_i/dW_f>^2.
        labeled: labels are given; otherwise each is drawn from the model's own distribution.
        form: "direct" or "gram" instead of the cheaper of both (for tests).
        memory: bytes that a batch may need; it sets ``batch``.
        threads: of onnxruntime; 0 is its own choice.

    Attributes:
        filters: number of filters of each weight.
        batch: samples per call.
        model: the whole graph, an ordinary ONNX model.

    Raises:
        GradientError: an operator between a weight and the loss has no gradient rule, or samples are not separate.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        sample: Mapping[str, Array],
        *,
        kind: Kind = "fisher",
        labeled: bool = True,
        form: str | None = None,
        memory: int = 1 << 28,
        threads: int = 0,
    ) -> None:
        ready = prepare(model)
        fixed = fixed_batch(ready)
        tape = Tape(ready, trace(ready, sample, fixed))
        self.filters, outputs, work = self._append(tape, kind, labeled, form)
        self._outputs = outputs
        self.model = _with_outputs(tape.model, list(outputs.values()))
        bytes_per_sample = 4 * (2 * tape.traced.size + work)
        self.batch = fixed or max(1, min(LARGEST_BATCH, memory // bytes_per_sample))
        self._labeled = labeled
        self._session = Session(self.model, list(outputs.values()), threads=threads) if outputs else None

    def _append(
        self, t: Tape, kind: Kind, labeled: bool, form: str | None
    ) -> tuple[dict[str, int], dict[str, str], int]:
        """Grow the graph; returns filters per weight, norms by weight, and working memory in elements per sample."""
        uses = weight_uses(t.model.graph)
        _require_only_weights(t, uses)
        logits = logits_of(t)
        self._classes = classes(t, logits)
        self._extra, seed = append_loss(t, logits, labeled)
        grads = backward(t, logits, seed, [use.node.output[0] for use in uses])
        filters, outputs, work = {}, {}, 0
        for weight in dict.fromkeys(use.weight for use in uses):
            mine = [use for use in uses if use.weight == weight]
            filters[weight] = t.traced.values[weight].shape[mine[0].axis]
            live = [(use, grads[use.node.output[0]]) for use in mine if use.node.output[0] in grads]
            if not live:
                continue
            if len({(use.node.op_type, use.axis) for use in mine}) > 1:
                raise refuse(mine[1].node, f"reads weight '{weight}' in another way than '{mine[0].node.name}'")
            if kind == "taylor":
                inner = inner_products(t, live)
                outputs[weight] = t.mul(inner, inner)
                continue
            outputs[weight], needed = squared_norms(t, live, form)
            work = max(work, needed)
        return filters, outputs, work

    def __call__(self, feeds: Mapping[str, Array], labels: NDArray[np.int64] | NDArray[np.float32]) -> dict[str, Array]:
        """Values [n, filters] by weight, for at most ``batch`` samples.

        Args:
            feeds: the model's inputs.
            labels: int64 classes [n] if ``labeled``, else float32 numbers in [0, 1) [n].

        Raises:
            DataError: a label is not a class.
        """
        if self._labeled and len(labels) and not 0 <= labels.min() <= labels.max() < self._classes:
            raise DataError(
                f"labels {labels.min()} .. {labels.max()} are not all classes: expected 0 .. {self._classes - 1}"
            )
        count = len(labels)
        found = {} if self._session is None else self._session.run({**feeds, self._extra: labels})
        return {
            weight: found[self._outputs[weight]] if weight in self._outputs else np.zeros((count, n), np.float32)
            for weight, n in self.filters.items()
        }


def _require_only_weights(t: Tape, uses: list[Use]) -> None:
    """Refuse a weight that is read by a node which is none of its uses, and a model without weights."""
    if not uses:
        raise GradientError("the model has no Conv, ConvTranspose, Gemm or MatMul with a constant weight to score")
    weights = {use.weight for use in uses}
    known = {use.node.output[0] for use in uses}
    for node in t.model.graph.node:
        if node.op_type in ("Shape", "Size"):
            continue
        for i, name in enumerate(node.input):
            if name in weights and (i != 1 or node.output[0] not in known):
                raise refuse(node, f"reads weight '{name}' other than as a weight, so its gradient has another part")


def _with_outputs(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    return model
