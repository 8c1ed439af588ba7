"""What a caller sees of a model: inputs and outputs by name, type and sizes, in order, and what it says of itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest

import onnx

from hqp_onnx.graphs.model_io import stated_defaults
from hqp_onnx.graphs.record import foreign
from hqp_onnx.runtimes.runtime import CONFIGURATION

_SAID = ("producer_name", "producer_version", "domain", "model_version", "doc_string")


@dataclass(frozen=True)
class Interface:
    """Types are words, as ``float[N, 3, 8, 8]``; ``optional`` are inputs that a caller may leave out."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    optional: frozenset[str]
    said: Mapping[str, str]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Interface:
        """That of ``model``; initializers that are listed as inputs only because they must be are none."""
        optional = stated_defaults(model).keys()
        constants = {tensor.name for tensor in model.graph.initializer} - optional
        said = {name: str(getattr(model, name)) for name in _SAID if getattr(model, name)}
        return cls(
            {value.name: _words(value.type) for value in model.graph.input if value.name not in constants},
            {value.name: _words(value.type) for value in model.graph.output},
            frozenset(optional),
            said | {key: value for key, value in foreign(model).items() if key != CONFIGURATION},  # which is restated
        )

    def changes(self, other: Interface) -> Iterator[str]:
        """Where ``other`` is not this one, in words; empty if no caller can tell them apart."""
        for kind, mine, its in (("input", self.inputs, other.inputs), ("output", self.outputs, other.outputs)):
            if list(mine) != list(its):
                yield f"its {kind}s are {', '.join(its) or 'none'}, not {', '.join(mine) or 'none'}"
            changed = (name for name, words in mine.items() if not _fits(words, its.get(name, words)))
            yield from (f"{kind} '{name}' is {its[name]}, not {mine[name]}" for name in changed)
        if self.optional != other.optional:
            yield f"input '{min(self.optional ^ other.optional)}' has lost or gained its default value"
        lost = [name for name, words in self.said.items() if other.said.get(name) != words]
        yield from (f"its metadata '{name}' is not that of the original" for name in lost)


def _fits(mine: str, its: str) -> bool:
    """Whether ``its`` is a type as ``mine`` states it; sizes and their names may be added where none are."""
    kind, stated, sizes = mine.partition("[")
    other, _, others = its.partition("[")
    if not stated or kind != other:
        return kind in ("", other)
    pairs = list(zip_longest(sizes.split(", "), others.split(", "), fillvalue=""))
    return all(a == b or (a.strip("]") == "?" and b and not b.strip("]").isdigit()) for a, b in pairs)


def _words(kind: onnx.TypeProto) -> str:
    """A type in words; empty where none is stated."""
    form = kind.WhichOneof("value")
    if form is None:
        return ""
    inner = getattr(kind, form)
    if form in ("sequence_type", "optional_type"):
        return f"{form.removesuffix('_type')} of {_words(inner.elem_type)}"
    if form == "map_type":
        return f"map of {_element(inner.key_type)} to {_words(inner.value_type)}"
    sizes = [str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in inner.shape.dim]
    return _element(inner.elem_type) + (f"[{', '.join(sizes)}]" if inner.HasField("shape") else "")


def _element(number: int) -> str:
    return str(onnx.TensorProto.DataType.Name(number)).lower()
