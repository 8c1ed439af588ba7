"""The loss that a student is trained by, and its gradient, as ONNX operators; both are sums over samples.

    kl    classes:    T^2 sum_c p_c (log p_c - log q_c),  p = softmax(z_teacher / T), q = softmax(z / T)
          decisions:  T^2 (p (log p - log q) + (1 - p) (log(1 - p) - log(1 - q))),  p, q = sigmoid(z / T)
                      = T^2 (p (a - b) - softplus(a) + softplus(b)),  a = z_teacher / T, b = z / T
          the mean over a sample's P positions; of decisions, the sum along axis 1;  dL/dz = T (q - p) / P
    mse   f |y - y_teacher|^2 for a factor f;  dL/dy = 2 f (y - y_teacher)

(Hinton et al. 2015, arXiv:1503.02531.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod

import onnx
from onnx import helper

from hqp_onnx.errors import GradientError
from hqp_onnx.gradients.reverse import backward
from hqp_onnx.gradients.tape import Tape
from hqp_onnx.gradients.trace import Trace, reachable
from hqp_onnx.runtimes.session import with_outputs


@dataclass(frozen=True)
class Objective:
    """A model whose inputs are samples, weights and targets, and whose outputs are the loss and its gradients.

    Attributes:
        model: for onnxruntime.
        loss: scalar output.
        gradients: dL/dW by weight; weights that the loss does not depend on are absent.
        targets: input for the teacher's values of each tensor.
    """

    model: onnx.ModelProto
    loss: str
    gradients: Mapping[str, str]
    targets: Mapping[str, str]

    @property
    def outputs(self) -> list[str]:
        """Loss, then gradients."""
        return [self.loss, *self.gradients.values()]


@dataclass(frozen=True)
class Logits:
    """A tensor whose divergence counts; ``axis`` is that of its classes, None where each value is a decision."""

    tensor: str
    axis: int | None = 1


@dataclass
class _Terms:
    """Loss terms, their seeds, and inputs added so far."""

    losses: list[str] = field(default_factory=list)
    seeds: dict[str, str] = field(default_factory=dict)
    targets: dict[str, str] = field(default_factory=dict)


def objective(
    ready: onnx.ModelProto,
    traced: Trace,
    trained: list[str],
    *,
    logits: Logits | None,
    temperature: float,
    squares: Mapping[str, float],
) -> Objective:
    """Build it.

    Args:
        ready: the student, as ``prepare_for_gradients`` returns it.
        traced: its trace.
        trained: initializers that become inputs.
        logits: what the divergence is of; None without.
        temperature: T.
        squares: tensor -> factor of its summed squared difference from the teacher's.

    Raises:
        GradientError: an operator between the weights and the loss has no gradient rule.
    """
    flowing = reachable(ready.graph, trained, traced.types)
    free = replace(traced, values={name: x for name, x in traced.values.items() if name not in flowing})
    t = Tape(_opened(ready, trained, traced), free)
    terms = _Terms()
    if logits is not None:
        _divergence(t, logits, temperature, terms)
    for name, factor in squares.items():
        _squares(t, name, factor, terms)
    loss = terms.losses[0] if len(terms.losses) == 1 else t.op("Sum", *terms.losses)
    by_name = backward(t, terms.seeds, trained)
    gradients = {name: by_name[name] for name in trained if name in by_name}
    if not gradients:
        raise GradientError("no weight reaches the outputs: there is nothing to train")
    return Objective(with_outputs(t.model, [loss, *gradients.values()]), loss, gradients, terms.targets)


def _opened(ready: onnx.ModelProto, trained: list[str], traced: Trace) -> onnx.ModelProto:
    """``ready`` with the trained initializers as inputs."""
    model = onnx.ModelProto()
    model.CopyFrom(ready)
    names = set(trained)
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in names]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    inputs = [value for value in model.graph.input if value.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    for name in trained:
        element = helper.np_dtype_to_tensor_dtype(traced.types[name])
        model.graph.input.append(helper.make_tensor_value_info(name, element, traced.dims[name]))
    return model


def _target(t: Tape, name: str, terms: _Terms) -> str:
    terms.targets[name] = target = f"{t.prefix}target.{len(terms.targets)}"
    element = helper.np_dtype_to_tensor_dtype(t.traced.types[name])
    t.model.graph.input.append(helper.make_tensor_value_info(target, element, [None] * len(t.dims(name))))
    return target


def _divergence(t: Tape, logits: Logits, temperature: float, terms: _Terms) -> None:
    z, dims = logits.tensor, t.dims(logits.tensor)
    cooled = t.scalar(1 / temperature, z)
    target, own = (t.mul(x, cooled) for x in (_target(t, z, terms), z))
    each, p, q = _of_decisions(t, target, own) if logits.axis is None else _of_classes(t, target, own, logits.axis)
    positions = prod(n or 1 for n in dims[1:]) // (dims[logits.axis or 1] or 1) if len(dims) > 1 else 1
    total = t.reduce("ReduceSum", each, range(len(dims)))
    terms.losses.append(t.mul(total, t.scalar(temperature**2 / positions, z)))
    terms.seeds[z] = t.mul(t.op("Sub", q, p), t.scalar(temperature / positions, z))


def _of_classes(t: Tape, target: str, own: str, axis: int) -> tuple[str, str, str]:
    """Terms of the divergence, and both distributions."""
    log_p, log_q = (t.op("LogSoftmax", x, axis=axis) for x in (target, own))
    p = t.op("Exp", log_p)
    return t.mul(p, t.op("Sub", log_p, log_q)), p, t.op("Exp", log_q)


def _of_decisions(t: Tape, target: str, own: str) -> tuple[str, str, str]:
    """Likewise; no logarithm of a probability is taken."""
    p = t.op("Sigmoid", target)
    lost = t.mul(p, t.op("Sub", target, own))
    return t.add(lost, t.op("Sub", t.op("Softplus", own), t.op("Softplus", target))), p, t.op("Sigmoid", own)


def _squares(t: Tape, name: str, factor: float, terms: _Terms) -> None:
    difference = t.op("Sub", name, _target(t, name, terms))
    total = t.reduce("ReduceSumSquare", difference, range(len(t.dims(name))))
    terms.losses.append(t.mul(total, t.scalar(factor, name)))
    terms.seeds[name] = t.mul(difference, t.scalar(2 * factor, name))
