"""ONNX in, .tflite out, at fixed sizes.

The nodes are written in their order, each by its rule (``rules``). Pairs Q/DQ are no operators there: what stands
between them is computed in int8 where LiteRT has a kernel for it (``pairs``), and what a rule does not take in integers
is computed in float, behind a DEQUANTIZE. Images go in and come out with
channels last, as is usual there; other tensors stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.errors import ModelError
from hqp_onnx.runtimes.litert.assumed import assume_int8
from hqp_onnx.runtimes.litert.batch_norm import fold_norms
from hqp_onnx.runtimes.litert.emitter import FIRST, LAST, Emitter
from hqp_onnx.runtimes.litert.facts import Facts, find_facts
from hqp_onnx.runtimes.litert.gelu import join_gelus
from hqp_onnx.runtimes.litert.pairs import PAIR, find_pairs, output_axis
from hqp_onnx.runtimes.litert.rules import RULES, Step
from hqp_onnx.runtimes.litert.rules.registry import Rule

_DESCRIPTION = "written by hqp_onnx"
LAYOUT = "hqp_onnx.channels_last"
"""Metadata: a JSON list of the inputs and outputs with channels last, where ONNX has them first."""
_SAME = frozenset({"Identity", "Dropout"})
_WITH_PARAMETERS = frozenset({"Clip", "ReduceMean"})  # constants that they read are no operands
_ROOM = 2.0**30  # of an int32, for a bias
_ACTIVATIONS = {(0.0, float(np.inf)): "RELU", (0.0, 6.0): "RELU6"}
_SPATIAL = frozenset(
    {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize", "DepthToSpace"}
)


@dataclass(frozen=True)
class Converted:
    """A .tflite file.

    Attributes:
        content: of the file.
        outputs: what onnxruntime computes of the inputs that it was written for; none of a file that is assumed.
        rounded: whether floats are rounded to integers on the way.
        steps: of the outputs that are multiples of one.
    """

    content: bytes
    outputs: Mapping[str, Array]
    rounded: bool
    steps: Mapping[str, float]


def convert(
    model: onnx.ModelProto, feeds: Mapping[str, Array], lookups: bool = False, assume: bool = False
) -> Converted:
    """``model`` at the sizes of ``feeds``, its nodes sorted.

    Args:
        model: ONNX.
        feeds: inputs.
        lookups: whether the chip has tables for activations of int8; else those that XNNPACK lacks are written out.
        assume: write a float model as if it were in INT8, of any scales; such a file is for estimates of time alone.

    Raises:
        ModelError: an operator, or what it is asked to do, has no counterpart; all such operators are named.
    """
    return _Conversion(model, find_facts(model, feeds), lookups, assume).run()


class _Conversion:
    """The nodes of a model on their way."""

    def __init__(self, model: onnx.ModelProto, facts: Facts, lookups: bool, assume: bool) -> None:
        self.graph, self.facts = model.graph, facts
        self.opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
        self.outputs = [value.name for value in model.graph.output]
        self.all = fold_norms(join_gelus(model.graph.node, facts.values), facts, self.outputs)
        self.assumed = assume and not any(node.op_type in PAIR for node in model.graph.node)
        if self.assumed:
            self.all = assume_int8(self._alive(), facts, self.outputs)
        self.nodes = self._alive()
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in filter(None, node.input):
                self.readers.setdefault(name, []).append(node)
        self.written: set[str] = set()
        self._refuse()
        self.emitter = Emitter(facts, find_pairs(self.nodes, self.all, facts), lookups)

    def run(self) -> Converted:
        """The file."""
        e = self.emitter
        stored = {tensor.name for tensor in self.graph.initializer}
        given = [value.name for value in self.graph.input if value.name not in stored]
        layouts = {name: self._layout(name) for name in given}
        inputs = {name: self._taken(name, layouts[name]) for name in given}
        for node in self.nodes:
            if node.output[0] not in self.written and node.op_type not in PAIR:
                self._write(node)
        outputs: dict[str, int] = {}
        for name in self.outputs:
            layouts[name] = e.layout(name) if len(e.shape(name)) > 3 else FIRST
            outputs[name] = self._given(name, layouts[name], set(inputs.values()) | set(outputs.values()))
        last = sorted(name for name, layout in layouts.items() if layout == LAST)
        content = e.file.content(inputs, outputs, _DESCRIPTION, {LAYOUT: json.dumps(last).encode()})
        wanted = {} if self.assumed else {name: self.facts.results[name] for name in self.outputs}
        integers = {name: e.integers(name) for name in self.outputs}
        steps = {name: e.scales[own].scale[0] for name, own in integers.items() if own is not None}
        return Converted(content, wanted, any(node.op_type == "QuantizeLinear" for node in self.nodes), steps)

    def _taken(self, name: str, layout: str) -> int:
        """The tensor of an input; uint8 becomes int8 behind it."""
        e = self.emitter
        if not self._is_unsigned(name):
            return e.put(name, layout)
        number = e.unsigned(name, layout)
        e.file.operator("QUANTIZE", [number], [e.put(name, layout)])
        return number

    def _given(self, name: str, layout: str, taken: set[int]) -> int:
        """The tensor of an output; a copy where that is an input, a constant or another output."""
        e = self.emitter
        number = e.get(name, layout)
        if self._is_unsigned(name):
            unsigned = e.unsigned(name, layout)
            e.file.operator("QUANTIZE", [number], [unsigned])
            return unsigned
        if number not in taken and not e.is_constant(name):
            return number
        copy = e.new(name, e.laid_out(name, layout))
        e.reshape(number, copy, e.laid_out(name, layout))
        return copy

    def _is_unsigned(self, name: str) -> bool:
        """Whether these integers are uint8 in the model."""
        return name in self.emitter.scales and self.facts.types[name] == np.uint8

    def _alive(self) -> list[onnx.NodeProto]:
        """The nodes that outputs depend on and that are not constant, in order."""
        needed, alive = set(self.outputs), list[onnx.NodeProto]()
        for node in reversed(self.all):
            if any(name in needed and name not in self.facts.values for name in node.output if name):
                needed.update(filter(None, node.input))
                alive.append(node)
        return alive[::-1]

    def _refuse(self) -> None:
        """Raise ``ModelError`` that names the operators without a rule."""
        known = RULES.keys() | PAIR | _SAME
        lacking = [node for node in self.nodes if node.domain not in ("", "ai.onnx") or node.op_type not in known]
        if lacking:
            named = ", ".join(f"{node.op_type} '{node.name or node.output[0]}'" for node in lacking[:5])
            more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
            raise ModelError(f"no .tflite has these operators here: {named}{more}")

    def _layout(self, name: str) -> str:
        """LAST for an input of images: what convolutions and poolings read, or what is made of it in its shape."""
        shape, left, seen = self.facts.shapes[name], [name], {name}
        if len(shape) != 4:
            return FIRST
        while left:
            for node in self.readers.get(left.pop(), ()):
                if node.op_type in _SPATIAL and node.input[0] in seen:
                    return LAST
                after = [out for out in node.output if out in self.facts.shapes and out not in seen]
                after = [out for out in after if self.facts.shapes[out] == shape and node.op_type != "Reshape"]
                seen.update(after)
                left.extend(after)
        return FIRST

    def _write(self, node: onnx.NodeProto) -> None:
        e = self.emitter
        if node.op_type in _SAME or self._keeps(node):
            e.alias(node.output[0], node.input[0])
            return
        rule = RULES[node.op_type]
        try:
            step, after = self._in_int8(node, rule) or self._in_float(node, rule)
            rule.write(e, step)
        except ModelError as error:
            raise ModelError(f"{node.op_type} '{node.name or node.output[0]}': {error}") from error
        self.written.update(step.joined)
        for name, integers in after:
            e.restore(name, integers)

    def _keeps(self, node: onnx.NodeProto) -> bool:
        """Whether a Cast, or a reduction over no axes, changes nothing."""
        types = self.facts.types
        if node.op_type.startswith("Reduce"):
            given = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
            axes = given.get("axes", ())
            if node.input[1:] and node.input[1]:
                axes = self.facts.values.get(node.input[1], (0,))
            return bool(given.get("noop_with_empty_axes", 0)) and not len(axes)
        return node.op_type == "Cast" and types[node.input[0]] == types[node.output[0]]

    def _in_float(self, node: onnx.NodeProto, rule: Rule) -> tuple[Step, list[tuple[str, str]]]:
        """The step in float."""
        step = self._step(node)
        if rule.adds:
            step = self._with_bias(step)
        if rule.fuses:
            step = self._with_activation(step)
        if step.activation in ("RELU", "RELU6") or step.op in ("Relu", "Sigmoid", "Softmax", "HardSigmoid"):
            self.emitter.positive.update(step.outputs)
        if step.op in ("MaxPool", "Reshape") and self.emitter.never_negative(step.inputs[0]):
            self.emitter.positive.update(step.outputs)
        return step, []

    def _in_int8(self, node: onnx.NodeProto, rule: Rule) -> tuple[Step, list[tuple[str, str]]] | None:
        """The step in integers, and what is to be restored from what it writes; None where it is one in float."""
        e = self.emitter
        if rule.int8 == "never" or not self._reads_integers(node, rule):
            return None
        step = self._step(node)
        data = e.integers(step.inputs[0])
        assert data is not None
        step = replace(step, inputs=tuple(e.integers(name) or name if name else "" for name in step.inputs))
        if rule.adds:
            step = self._with_bias(step, e.scales[data].scale[0])
        if rule.fuses:
            step = self._with_activation(step, integers=True)
        outputs, after = [], []
        for name in step.outputs:
            asked = self._integers_of(name)
            scales = e.scales[data] if rule.int8 == "same" else rule.fixed
            if asked is None and rule.int8 != "same":
                return None
            if scales is None or (asked is not None and e.scales[asked] == scales):
                assert asked is not None
                outputs.append(asked)
                continue
            between = e.between(name, scales)
            outputs.append(between)
            after.append((asked or name, between))
        return replace(step, outputs=tuple(outputs)), after

    def _reads_integers(self, node: onnx.NodeProto, rule: Rule) -> bool:
        """Whether all that a node reads is integers, so far as its rule wants them."""
        e, read = self.emitter, [name for name in node.input if name]
        floats = [name for name in read if not e.is_constant(name)]
        if not floats or any(e.integers(name) is None for name in floats):
            return False
        if node.op_type == "Clip" and _limits(node, self.facts.values) not in _ACTIVATIONS:
            return False
        if rule.int8 == "weighted":
            return len(floats) == 1 and self._has_int8_weight(node)
        return rule.int8 == "same" or len(floats) == len(read) or node.op_type in _WITH_PARAMETERS

    def _has_int8_weight(self, node: onnx.NodeProto) -> bool:
        """Whether the kernels take its weight as it is stored: one scale, or one for each output channel."""
        stored = self.emitter.stored.get(node.input[1])
        if stored is None or (node.op_type in ("Gemm", "MatMul") and stored.values.ndim != 2):
            return False
        return stored.axis in (None, output_axis(node, stored.values.ndim))

    def _integers_of(self, name: str) -> str | None:
        """What quantizes a tensor, if all that read it do, and alike."""
        readers = self.readers.get(name, [])
        if name in self.outputs or not readers or any(node.op_type != "QuantizeLinear" for node in readers):
            return None
        first, *others = [str(node.output[0]) for node in readers]
        if any(self.emitter.scales[other] != self.emitter.scales[first] for other in others):
            return None
        for other in others:
            self.emitter.alias(other, first)
        return first

    def _step(self, node: onnx.NodeProto) -> Step:
        given = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        outputs = tuple(name for name in node.output if name)
        return Step(node.op_type, given, tuple(node.input), outputs, opset=self.opset)

    def _with_bias(self, step: Step, scale: float = 0.0) -> Step:
        """With the constant that alone is added to what a product by a constant gives.

        Where it is added to integers, ``scale`` is that of the activation, and the sum must fit into int32.
        """
        reader, e = self._only_reader(step.output), self.emitter
        if reader is None or reader.op_type != "Add" or not e.is_constant(step.inputs[1]):
            return step
        added = [name for name in reader.input if name != step.output]
        shape = self.facts.shapes
        if len(added) != 1 or not e.is_constant(added[0]) or shape[added[0]] != shape[step.output][-1:]:
            return step
        if len(shape[step.inputs[1]]) != 2 or shape[reader.output[0]] != shape[step.output]:
            return step
        steps = e.stored[step.inputs[1]].scale if scale else None
        if steps is not None and (np.abs(self.facts.values[added[0]]) >= _ROOM * scale * steps).any():
            return step
        return replace(step, bias=added[0], outputs=(reader.output[0],), joined=(reader.output[0],))

    def _with_activation(self, step: Step, integers: bool = False) -> Step:
        """With the activation that alone reads what it gives; the limits of integers are an activation, too."""
        reader = self._only_reader(step.output)
        if reader is None or reader.op_type not in ("Relu", "Clip"):
            return step
        low, high = _limits(reader, self.facts.values)
        name, kind = reader.output[0], _ACTIVATIONS.get((low, high))
        if integers and (asked := self._integers_of(name)) is not None:
            scales = self.emitter.scales[asked]
            least, most = (scales.scale[0] * (q - scales.zero) for q in (-128, 127))
            if kind is None and least >= low - scales.scale[0] and most <= high + scales.scale[0]:
                kind = "NONE"
        if kind is None or (integers and self._integers_of(name) is None):
            return step
        return replace(step, activation=kind, outputs=(name,), joined=(*step.joined, name))

    def _only_reader(self, name: str) -> onnx.NodeProto | None:
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None


def _limits(node: onnx.NodeProto, values: Mapping[str, Array]) -> tuple[float, float]:
    """Of a Relu or a Clip; NaN where they are not constant."""
    if node.op_type == "Relu":
        return 0.0, float(np.inf)
    old, found = {entry.name: entry.f for entry in node.attribute}, []  # up to opset 10
    for index, default in ((1, old.get("min", -np.inf)), (2, old.get("max", np.inf))):
        name = node.input[index] if index < len(node.input) else ""
        found.append(float(values[name]) if name in values else default if not name else np.nan)
    return found[0], found[1]
