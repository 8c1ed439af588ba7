"""What computes per-sample gradients: engines by name, ours and those of packages and files.

An engine is opened on a model and one sample, ``engine(model, sample, kind=..., loss=..., threads=...)``, and gives
values [n, filters] by weight for up to ``batch`` samples at a time. Others come as entry points of the group
``hqp_onnx.gradient_engines``, or as ``FILE.py:name``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.evaluation.metrics.task import Task
from hqp_onnx.gradients.loss import Loss, LossName
from hqp_onnx.gradients.per_sample import Kind, PerSample
from hqp_onnx.gradients.training.engine import TrainingPerSample
from hqp_onnx.registry import Registry


class OpenEngine(Protocol):
    """An engine on a model; ``PerSample`` describes the attributes and the call."""

    filters: dict[str, int]
    batch: int
    loss: Loss

    def __call__(self, feeds: Mapping[str, Array], targets: Array | None = None) -> Mapping[str, Array]:
        """Values [n, filters] by weight."""


class Engine(Protocol):
    """Opens a model; ``kinds`` are what it computes, see ``PerSample``."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Some of "fisher", "taylor" and "output"."""

    def __call__(
        self,
        model: onnx.ModelProto,
        sample: Mapping[str, Array],
        *,
        kind: Kind,
        loss: LossName | Task | onnx.ModelProto | None,
        threads: int,
    ) -> OpenEngine:
        """The engine on ``model``; the arguments are those of ``PerSample``."""


def _is_engine(candidate: Any) -> bool:
    return callable(candidate) and hasattr(candidate, "kinds")


ENGINES: Registry[Engine] = Registry("gradient engine", "hqp_onnx.gradient_engines", _is_engine)
ENGINES.register("native")(PerSample)
ENGINES.register("ort-training")(TrainingPerSample)
