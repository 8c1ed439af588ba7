"""Channel analysis: every channel carries an integer label, and labels flow through the graph as the data does.

A tensor carries an int64 array that broadcasts against its shape: the label of each position, size 1 on axes
along which labels do not vary, -1 where there is no channel. Rules (``rules``, one per operator) apply data
movement to the labels themselves, tie labels that must stay together, and freeze those that must stay.
Labels connected by ties are one unit. An axis of an initializer that some node reads without labelling it
must stay whole.
Operators without a rule freeze what they touch: nothing is assumed. ``control`` follows If, Loop and Scan.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import IntArray
from hqp_onnx.channels.branches import find_branches
from hqp_onnx.channels.channel_map import ChannelMap
from hqp_onnx.channels.control import enter
from hqp_onnx.channels.heads import find_attentions
from hqp_onnx.channels.rules import RULES, pass_counts
from hqp_onnx.channels.rules.attention import head_products
from hqp_onnx.channels.walk_state import Walk
from hqp_onnx.errors import ModelError, one_line
from hqp_onnx.graphs.bodies import bodies
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
    walk = Walk(shapes, find_attentions(graph))
    _visit_nodes(walk, graph)
    for tensor in graph.outputs:
        for labels in [walk.labels(tensor), *walk.counts(tensor)]:
            walk.freeze(labels, f"graph output '{tensor.name}'")
    walk.keep_unclaimed(graph.outputs, "it is a graph output")
    channels = replace(walk.resolve(), products=head_products(walk))
    branches = tuple(
        units for units in find_branches(graph, channels, shapes) if not _is_inside(units, channels, graph)
    )
    return replace(channels, branches=branches, homes=homes_of(graph))


def _is_inside(units: IntArray, channels: ChannelMap, graph: gs.Graph) -> bool:
    """Whether graphs inside nodes hold or read some of these units."""
    names = {t.name for body in graph.subgraphs(recursive=True) for node in body.nodes for t in node.inputs}
    own = [line for name, line in channels.tensors.items() if name in names]
    own += [line for key, line in channels.members.items() if key.tensor in names]
    return any(np.isin(units, line).any() for line in own)


def _visit_nodes(walk: Walk, graph: gs.Graph) -> None:
    for node in graph.nodes:
        _visit(walk, node)
        walk.keep_unclaimed(node.inputs, f"{operator(node)} '{node.name}' reads it whole")


def _visit_body(walk: Walk, body: gs.Graph) -> None:
    _visit_nodes(walk, body)
    for tensor in body.outputs:
        for labels in walk.counts(tensor):
            walk.freeze(labels, f"'{tensor.name}' hands on the number of channels")
    walk.keep_unclaimed(body.outputs, "it is a result of a graph inside a node")


def _visit(walk: Walk, node: gs.Node) -> None:
    if bodies(node):
        enter(walk, node, partial(_visit_body, walk))
        return pass_counts(walk, node)
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
    return None
