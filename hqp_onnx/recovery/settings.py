"""How a model is trained to recover."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from hqp_onnx.durations import Duration
from hqp_onnx.errors import UsageError
from hqp_onnx.evaluation.metrics.task import ANY, Task
from hqp_onnx.shares import Share

AUGMENTATIONS = ("flip", "crop")
LOSSES = ("kl", "mse")
BATCH = 16
Epochs = int | Literal["auto"]


@dataclass(frozen=True)
class Recovery:
    """Settings of ``passes.recover``.

    Attributes:
        epochs: passes over the training share of the data; 0 leaves the model as it is. ``auto``: as many as the data
            and ``seconds`` allow, until the loss stops falling, see ``schedule``; images are then varied where that is
            harmless, see ``augment``.
        rate: peak of the learning rate, as a share of the size of each weight tensor, for a student as bad as one
            that knows nothing; others take less (``trainer.peak_rate``).
        batch: samples per step; a model of fixed batch size takes a multiple of it. None: 16, or what ``auto`` chooses.
        held_out: share of the samples that judge and do not train; of ``auto``, ``samples.MOST_HELD`` at most.
        loss: of the judged outputs: ``kl``, of softened distributions; ``mse``, relative to their variance; None takes
            what follows from ``task``, see ``goals``.
        temperature: of kl.
        features: intermediate tensors to match, at most.
        beta: weight of these.
        augment: some of ``AUGMENTATIONS``, for images only: ``flip`` mirrors, ``crop`` moves by up to 1/8 of the size.
        seed: of the split, the order and the augmentation.
        task: what the output says that the metric reads; of any kind where nothing is known.
        seconds: that it may take; the learning rate then follows the clock, so no two runs are the same to the bit.
        share: of the epochs and the time of ``auto``.

    Raises:
        UsageError: a value that makes no sense.
    """

    epochs: Epochs
    rate: float = 0.01
    batch: int | None = None
    held_out: Share = Share(0.1)
    loss: Literal["kl", "mse"] | None = None
    temperature: float = 1.0
    features: int = 4
    beta: float = 1.0
    augment: tuple[str, ...] = ()
    seed: int = 0
    task: Task = ANY
    seconds: Duration = Duration("time_limit")
    share: float = 1.0

    @property
    def quantized(self) -> Recovery:
        """For a quantized model whose float model has recovered: half the epochs."""
        if self.epochs == "auto":
            return replace(self, share=self.share / 2)
        return replace(self, epochs=(self.epochs + 1) // 2)

    def __post_init__(self) -> None:
        if self.epochs != "auto" and (isinstance(self.epochs, str) or self.epochs < 0):
            raise UsageError(f"{{--epochs}} {self.epochs}: expected a number of epochs, 0 or more, or auto")
        if self.seed < 0:
            raise UsageError(f"{{--seed}} {self.seed}: expected a whole number, 0 or more")
        if (self.batch is not None and self.batch < 1) or self.features < 0 or self.beta < 0:
            raise UsageError("recovery: batch must be at least 1, features and beta at least 0")
        if not (0 < self.rate < math.inf and 0 < self.temperature < math.inf and 0 < self.held_out < 1):
            raise UsageError("recovery: rate and temperature must be above 0 and finite, held_out between 0 and 1")
        if self.loss is not None and self.loss not in LOSSES:
            raise UsageError(f"recovery loss {self.loss}: expected one of {', '.join(LOSSES)}")
        if unknown := sorted(set(self.augment) - set(AUGMENTATIONS)):
            raise UsageError(f"{{--augment}} {unknown[0]}: expected {' or '.join(AUGMENTATIONS)}")
