"""Outputs with their samples first. Recurrent networks often give steps first, [steps, samples, ...].

Which it is follows from what the model states: where the batch is open, the axis that is open; where it is fixed, the
axis of its size. Where that leaves both, sizes tell, and if there are as many steps as samples, a run of one sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hqp_onnx.arrays import Array
from hqp_onnx.runtimes.around import Around
from hqp_onnx.runtimes.session import Runner, TensorSpec


class BySample(Around):
    """``session``, with samples along the first axis of every output of several axes."""

    def __init__(self, session: Runner) -> None:
        super().__init__(session)
        self._stated = {spec.name: _stated(spec, session.batch) for spec in session.outputs}

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name."""
        outputs, count = self._session.run(feeds), _count(feeds, self.inputs)
        behind = [name for name, y in outputs.items() if count and self._behind(name, y, feeds, count)]
        return outputs | {name: outputs[name].swapaxes(0, 1)[:count] for name in behind}

    def _behind(self, name: str, y: Any, feeds: Mapping[str, Array], count: int) -> bool:
        """Whether samples lie along the second axis."""
        size = self.batch or count
        if not isinstance(y, np.ndarray) or y.ndim < 2 or y.shape[1] != size:
            return False
        if (stated := self._stated.get(name)) is None and y.ndim > 2:
            stated = len(y) != size
            if not stated and size > 1 and self.batch is None:
                one = self._session.run(
                    {key: x[:1] if np.ndim(x) and len(x) == count else x for key, x in feeds.items()}
                )[name]
                stated = one.shape[:2] == (size, 1)
            self._stated[name] = stated if len(y) != size or self.batch is None else None
        return bool(stated)


def _stated(spec: TensorSpec, batch: int | None) -> bool | None:
    """What the sizes that a model states tell; None where they tell nothing."""
    first, second = spec.shape[:2] if len(spec.shape) > 1 else (batch, -1)
    if batch is None:
        return None if first is None and second is None else first is not None and second is None
    return None if first is None else first != batch and second in (batch, None)


def _count(feeds: Mapping[str, Array], inputs: tuple[TensorSpec, ...]) -> int:
    """Samples in a batch; 0 where the first input has no axis of them."""
    first = feeds.get(inputs[0].name) if inputs else None
    return len(first) if isinstance(first, np.ndarray) and first.ndim else 0
