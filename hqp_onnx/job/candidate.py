"""A candidate of an optimization: what is removed, in which precision, and whether it is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from hqp_onnx.channels.channel_map import PruningPlan


class Precision(str, Enum):
    """What the weights and most nodes of a candidate compute in.

    dynamic: INT8 whose scales are found at run time; int4: float32, by weights that are stored in 4 bits or 8.
    """

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    DYNAMIC = "dynamic"
    INT4 = "int4"


@dataclass(frozen=True, eq=False)
class Candidate:
    """One model that an optimization may ship.

    Attributes:
        plan: the units that are removed from the original.
        precision: of the model.
        floats: first outputs of nodes of an INT8 model, dynamic or not, that stay in float; of an INT4 model, weights
            that are in INT8; none in other precisions.
        trained: whether it is trained towards the original before it is judged.
        stage: of the search that shares the time of training (``narrowing``): how much of it this candidate has had.
    """

    plan: PruningPlan
    precision: Precision = Precision.FP32
    floats: tuple[str, ...] = ()
    trained: bool = False
    stage: int = 0

    @property
    def key(self) -> str:
        """The same for two candidates if and only if they are the same model."""
        floats = f"-{digest(sorted(self.floats))}" if self.floats else ""
        stage = f"-{self.stage}" if self.stage else ""
        return f"{plan_key(self.plan)}-{self.precision.value}{floats}{'-trained' * self.trained}{stage}"

    @property
    def computes_in(self) -> str:
        """The precision; ``mixed`` where some nodes of an INT8 model stay in float."""
        return "mixed" if self.floats and self.precision is not Precision.INT4 else self.precision.value

    @property
    def in_float32(self) -> Candidate:
        """The candidate that this one is made from."""
        return replace(self, precision=Precision.FP32, floats=())


ORIGINAL = Candidate(PruningPlan(np.zeros(0, np.int64)))
"""Nothing removed, in FP32."""


def plan_key(plan: PruningPlan) -> str:
    """The same for two plans if and only if they remove the same units of a model."""
    return digest(map(str, plan.removed.tolist()))


def digest(words: Iterable[str]) -> str:
    """Of words in their order, in a form that file names take."""
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]
