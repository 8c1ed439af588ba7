"""Channel analysis: every channel carries an integer label, and labels flow through the graph as the data does.

A tensor carries an int64 array that broadcasts against its shape: the label of each position, size 1 on axes
along which labels do not vary, -1 where there is no channel. Rules (``rules``, one per operator) apply data
movement to the labels themselves, tie labels that must stay together, and freeze those that must stay.
Labels connected by ties are one unit. An axis of an initializer that some node reads without labelling it
must stay whole.
Operators without a rule freeze what they touch: nothing is assumed.
"""

from __future__ import annotations

from dataclasses import replace

import onnx_graphsurgeon as gs

from hqp_onnx.channels.branches import find_branches
from hqp_onnx.channels.channel_map import ChannelMap
from hqp_onnx.channels.heads import find_attentions
from hqp_onnx.channels.rules import RULES, pass_counts
from hqp_onnx.channels.rules.attention import head_products
from hqp_onnx.channels.walk_state import Walk
from hqp_onnx.errors import ModelError, one_line
from hqp_onnx.graphs.nodes import operator
from hqp_onnx.graphs.origin import homes_of
from hqp_onnx.graphs.shapes import Shapes, probe


def analyze(graph: gs.Graph, shapes: Shapes | None = None) -> ChannelMap:
    """The units of a canonical graph.

    Args:
        graph: canonical (``passes.canonicalize``), nodes in topological order.
        shapes: its shapes, if known already.
    """
    shapes = shapes or probe(graph)
    walk = Walk(shapes, frozenset(graph.tensors()), find_attentions(graph))
    for node in graph.nodes:
        _visit(walk, node)
        walk.keep_unclaimed(node.inputs, f"{operator(node)} '{node.name}' reads it whole")
    for tensor in graph.outputs:
        for labels in [walk.labels(tensor), *walk.counts(tensor)]:
            walk.freeze(labels, f"graph output '{tensor.name}'")
    walk.keep_unclaimed(graph.outputs, "it is a graph output")
    channels = replace(walk.resolve(), products=head_products(walk))
    return replace(channels, branches=find_branches(graph, channels, shapes), homes=homes_of(graph))


def _visit(walk: Walk, node: gs.Node) -> None:
    rule = RULES.find(operator(node))
    unknown = [t.name for t in [*node.inputs, *node.outputs] if t.name and walk.shape(t) is None]
    if rule is None or unknown:
        where = f"{operator(node)} node '{node.name}'"
        walk.refuse(node, f"no rule for {where}" if rule is None else f"unknown shape of '{unknown[0]}' at {where}")
    else:
        try:
            rule(walk, node)
        except (ValueError, IndexError) as e:  # arrays of labels that do not fit: a bias of another width, say
            where = f"{operator(node)} node '{node.name}'"
            raise ModelError(f"the sizes of what {where} reads contradict one another: {one_line(e)}") from e
        pass_counts(walk, node)
