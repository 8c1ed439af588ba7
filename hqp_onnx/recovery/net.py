"""A model in the form that gradients work on, and what its runs show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.gradients.tape import Tape
from hqp_onnx.gradients.trace import Trace, fixed_batch, trace
from hqp_onnx.passes.lowering.absorb_pads import absorb_pads
from hqp_onnx.passes.lowering.depthwise_as_products import depthwise_as_products
from hqp_onnx.passes.lowering.prepare_for_gradients import prepare_for_gradients

MEMORY = 1 << 29  # bytes of one run forward and back
BYTES = 16  # of it, per value of the forward run


@dataclass(frozen=True)
class Net:
    """``batch`` is the batch size where the model fixes it."""

    model: onnx.ModelProto
    traced: Trace
    batch: int | None

    @classmethod
    def of(cls, model: onnx.ModelProto, sample: Mapping[str, Array], *, trained: bool = False) -> Net:
        """Prepare and trace ``model`` on one sample at least; ``trained`` if its weights will change.

        Raises:
            GradientError: see ``prepare_for_gradients`` and ``fixed_batch``.
        """
        ready = absorb_pads(prepare_for_gradients(model))
        fixed = fixed_batch(ready)
        traced = trace(ready, sample, fixed)
        changed = depthwise_as_products(ready, traced.dims, traced.types) if trained else ready
        return cls(changed, traced if changed is ready else trace(changed, sample, fixed), fixed)

    @property
    def tape(self) -> Tape:
        """A fresh copy to write on."""
        return Tape(self.model, self.traced)

    def part(self, batch: int) -> int:
        """Samples per run: an even share of ``batch`` that ``MEMORY`` allows, or the model's own batch."""
        if self.batch is not None:
            return self.batch
        growing = (dims for dims in self.traced.dims.values() if None in dims)
        values = sum(prod(1 if n is None else n for n in dims) for dims in growing)
        runs = -(-batch * BYTES * values // MEMORY)
        return max(1, batch // max(runs, 1))
