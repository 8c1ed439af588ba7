"""How each ONNX operator is written, by operator.

A rule writes a step with the tensors that it asks the emitter for. Which of them are integers is settled before: the
step names integers in place of floats where the operator is to be computed in INT8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hqp_onnx.runtimes.litert.emitter import Emitter
from hqp_onnx.runtimes.litert.file import Scales

Int8 = Literal["never", "weighted", "values", "same"]


@dataclass(frozen=True)
class Step:
    """A node, and what it reads and writes.

    Attributes:
        op: the operator.
        attributes: of the node.
        inputs: names; "" for one that is left out. Weights keep those of their floats.
        outputs: names of what is to be written.
        activation: of the schema's fused ones, as "RELU".
        bias: a constant that is added to what a product gives, "" for none.
        opset: of the model.
        joined: what the nodes behind it give, that it takes in.
    """

    op: str
    attributes: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    activation: str = "NONE"
    bias: str = ""
    opset: int = 17
    joined: tuple[str, ...] = ()

    @property
    def output(self) -> str:
        """The first."""
        return self.outputs[0]

    def input(self, index: int) -> str:
        """The name of an input; "" where there is none."""
        return self.inputs[index] if index < len(self.inputs) else ""


@dataclass(frozen=True)
class Rule:
    """How an operator is written.

    Attributes:
        write: writes it.
        int8: never; weighted: where its weights are integers, too; values: where all that it reads are integers, of any
            scales; same: likewise, and what it gives has the scales of what it reads.
        fuses: whether an activation behind it may become part of it.
        fixed: the only scales that its integers may have.
        adds: whether a constant that is added behind it may become its bias.
    """

    write: Callable[[Emitter, Step], None]
    int8: Int8 = "never"
    fuses: bool = False
    fixed: Scales | None = None
    adds: bool = False


RULES: dict[str, Rule] = {}


def rule(
    *ops: str, int8: Int8 = "never", fuses: bool = False, fixed: Scales | None = None, adds: bool = False
) -> Callable[[Callable[[Emitter, Step], None]], Callable[[Emitter, Step], None]]:
    """A decorator that registers a rule; a second one for an operator raises ``ValueError``."""

    def decorate(write: Callable[[Emitter, Step], None]) -> Callable[[Emitter, Step], None]:
        for op in ops:
            if op in RULES:
                raise ValueError(f"a second rule for {op}")
            RULES[op] = Rule(write, int8, fuses, fixed, adds)
        return write

    return decorate
