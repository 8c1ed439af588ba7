"""One rule per operator: how labels flow through it, and what it must restate when channels have been removed.

    @rule("Conv")                                    @rewrite("Conv")
    def f(walk: Walk, node: gs.Node) -> None         def f(survivors: Survivors, node: gs.Node) -> None

A rule is called once per node, in topological order, and only where the shapes of all the node's tensors are known. It
reads the labels of the inputs (``walk.labels``) and of parameters (``walk.param``), ties and freezes, and sets those of
the outputs (``walk.set``); an output that it does not set has no channels. What a rule does not understand it refuses
(``walk.refuse``). It promises that without any units it did not freeze, the node computes what it computed with
zeros in their parameters. ``rules.lines`` has what many rules share.

A rewrite is called for every node of the pruned graph before parameters are cut. It changes attributes and constants
that name a channel count or channels, which ``survivors`` knows; operators without one have none.

Names are ``Op`` in the standard domain, ``domain::Op`` in others. An installed package supplies either by an entry
point of that name in the group ``hqp_onnx.channel_rules`` or ``hqp_onnx.channel_rewrites``.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_graphsurgeon as gs

from hqp_onnx.channels.survivors import Survivors
from hqp_onnx.channels.walk_state import Walk
from hqp_onnx.registry import Registry

Rule = Callable[[Walk, gs.Node], None]
Rewrite = Callable[[Survivors, gs.Node], None]

RULES: Registry[Rule] = Registry("channel rule", "hqp_onnx.channel_rules", files=False)
REWRITES: Registry[Rewrite] = Registry("channel rewrite", "hqp_onnx.channel_rewrites", files=False)
rule, rewrite = RULES.register, REWRITES.register
