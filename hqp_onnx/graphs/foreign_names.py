"""Converters of other libraries, where a name that they take for free is not.

They name what they add after what is there (``x_intermediate``, ``x_cast_to_fp16``) or count, and few ask whether
something else has that name. Where that shows in the result, the conversion is done again on a model whose names are
tokens, which are no part of anybody's names, and afterwards tokens become names again, inside new names too; a new name
that the model has gets a number.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator

import onnx

from hqp_onnx.graphs.renaming import Rename, graphs_inside, rename
from hqp_onnx.graphs.unique_names import tensor_names, unused, unused_prefix

Converter = Callable[[onnx.ModelProto], onnx.ModelProto]


def names_apart(convert: Converter) -> Converter:
    """``convert``, which must not change its model, so that all names of what it gives are apart; its errors stay."""

    def apart(model: onnx.ModelProto) -> onnx.ModelProto:
        result = convert(model)
        return _by_tokens(model, convert) if _collide(result.graph) else result

    return apart


def _by_tokens(model: onnx.ModelProto, convert: Converter) -> onnx.ModelProto:
    """``convert(model)``, its names replaced by tokens for the while."""
    tensors, nodes = tensor_names(model.graph) - {""}, {node.name for node in _nodes(model.graph)} - {""}
    prefix = unused_prefix("hqp", [*tensors, *nodes])
    meanings = {f"{prefix}{n}.": name for n, name in enumerate([*sorted(tensors), *sorted(nodes)])}
    tokens = list(meanings)
    of_tensors = dict(zip(sorted(tensors), tokens[: len(tensors)], strict=True))
    of_nodes = dict(zip(sorted(nodes), tokens[len(tensors) :], strict=True))
    guarded = onnx.ModelProto()
    guarded.CopyFrom(model)
    rename(guarded.graph, lambda name: of_tensors.get(name, name), lambda name: of_nodes.get(name, name))
    result = convert(guarded)
    rename(result.graph, _back(meanings, tensors, prefix), _back(meanings, nodes, prefix))
    return result


def _back(meanings: dict[str, str], taken: set[str], prefix: str) -> Rename:
    """From tokens to names; what is no token alone is new, and takes no name of ``taken``."""
    pattern, granted, used = re.compile(re.escape(prefix) + r"\d+\."), dict[str, str](), set(taken)

    def name_of(name: str) -> str:
        if name in meanings or not name:
            return meanings.get(name, "")
        if name not in granted:
            granted[name] = unused(pattern.sub(lambda match: meanings[match[0]], name), used)
            used.add(granted[name])
        return granted[name]

    return name_of


def _collide(graph: onnx.GraphProto) -> bool:
    """Whether two tensors or two nodes of one graph, or of one inside it, have the same name."""
    made = [name for node in graph.node for name in node.output]
    counts = Counter([*made, *(tensor.name for tensor in graph.initializer)]), Counter(node.name for node in graph.node)
    twice = any(count > 1 for names in counts for name, count in names.items() if name)
    fed = not {value.name for value in graph.input}.isdisjoint(made)
    return twice or fed or any(_collide(inner) for node in graph.node for inner in graphs_inside(node))


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for inner in graphs_inside(node):
            yield from _nodes(inner)
