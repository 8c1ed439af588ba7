"""How a model is trained to recover."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from hqp_onnx.errors import UsageError
from hqp_onnx.evaluation.metrics.task import ANY, Task

AUGMENTATIONS = ("flip", "crop")
LOSSES = ("kl", "mse")


@dataclass(frozen=True)
class Recovery:
    """Settings of ``passes.recover``.

    Attributes:
        epochs: passes over the training share of the data; 0 leaves the model as it is.
        rate: peak of the learning rate, as a share of the size of each weight tensor, for a student as bad as one
            that knows nothing; others take less (``trainer.peak_rate``).
        batch: samples per step; a model of fixed batch size takes a multiple of it.
        held_out: share of the samples that judge and do not train.
        loss: of the judged outputs: ``kl``, of softened distributions; ``mse``, relative to their variance; None takes
            what follows from ``task``, see ``goals``.
        temperature: of kl.
        features: intermediate tensors to match, at most.
        beta: weight of these.
        augment: some of ``AUGMENTATIONS``, for images only: ``flip`` mirrors, ``crop`` moves by up to 1/8 of the size.
        seed: of the split, the order and the augmentation.
        task: what the output says that the metric reads; of any kind where nothing is known.

    Raises:
        UsageError: a value that makes no sense.
    """

    epochs: int
    rate: float = 0.01
    batch: int = 16
    held_out: float = 0.1
    loss: Literal["kl", "mse"] | None = None
    temperature: float = 1.0
    features: int = 4
    beta: float = 1.0
    augment: tuple[str, ...] = ()
    seed: int = 0
    task: Task = ANY

    @property
    def quantized(self) -> Recovery:
        """For a quantized model whose float model has recovered: half the epochs."""
        return replace(self, epochs=(self.epochs + 1) // 2)

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise UsageError(f"{{--epochs}} {self.epochs}: expected a number of epochs, 0 or more")
        if self.seed < 0:
            raise UsageError(f"{{--seed}} {self.seed}: expected a whole number, 0 or more")
        if self.batch < 1 or self.features < 0 or self.beta < 0:
            raise UsageError("recovery: batch must be at least 1, features and beta at least 0")
        if not (self.rate > 0 and self.temperature > 0 and 0 < self.held_out < 1):
            raise UsageError("recovery: rate and temperature must be above 0, held_out between 0 and 1")
        if self.loss is not None and self.loss not in LOSSES:
            raise UsageError(f"recovery loss {self.loss}: expected one of {', '.join(LOSSES)}")
        if unknown := sorted(set(self.augment) - set(AUGMENTATIONS)):
            raise UsageError(f"{{--augment}} {unknown[0]}: expected {' or '.join(AUGMENTATIONS)}")
