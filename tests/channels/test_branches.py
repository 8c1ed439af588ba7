"""Which branches may be removed as a whole, and what remains of them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from oracle import run, worst_error

from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.channels.walk import analyze
from hqp_onnx.data.batch import Batch
from hqp_onnx.errors import UsageError
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.passes.absorb_scales import absorb_scales
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.compensate import compensate
from hqp_onnx.passes.prune_channels import prune_channels
from hqp_onnx.statistics.moments import input_moments

X = np.random.default_rng(0).normal(0.3, 1, (8, 3, 6, 6)).astype(np.float32)
STEM = "t = Conv<pads = [1,1,1,1]>(x, stem, stem_b)"
HEAD = "p = GlobalAveragePool(s) q = Flatten(p) y = Gemm<transB = 1>(q, head)"
SHAPES = {
    "stem": (8, 3, 3, 3),
    "stem_b": (8,),
    "down": (4, 8, 1, 1),
    "up": (8, 4, 1, 1),
    "up_b": (8,),
    "wide": (6, 8, 1, 1),
    "deep": (6, 1, 3, 3),
    "back": (8, 6, 3, 3),
    "back_b": (8,),
    "other": (8, 6, 3, 3),
    "shift": (8,),
    "inner": (3, 6, 1, 1),
    "outer": (6, 3, 1, 1),
    "cat": (8, 14, 1, 1),
    "m1": (8, 6),
    "m2": (6, 8),
    "head": (5, 8),
}
GATE = "g = GlobalAveragePool(t) d = Conv(g, down) r = Relu(d) u = Conv(r, up, up_b) h = HardSigmoid(u) s = Mul(t, h)"
BLOCK = (
    "a = Conv(t, wide) b = Relu(a) c = Conv<group = 6, pads = [1,1,1,1]>(b, deep) "
    "e = Conv<pads = [1,1,1,1]>(c, back, back_b)"
)
INSIDE = (
    "a = Conv(t, wide) g = GlobalAveragePool(a) d = Conv(g, inner) r = Relu(d) u = Conv(r, outer) h = Sigmoid(u) "
    "c = Mul(a, h) e = Conv<pads = [1,1,1,1]>(c, back) s = Add(t, e)"
)
TOKENS = (
    "k = Transpose<perm = [0, 2, 3, 1]>(t) a = MatMul(k, m1) b = Gelu(a) c = MatMul(b, m2) e = Add(c, shift) "
    "j = Add(k, e) s = Transpose<perm = [0, 3, 1, 2]>(j)"
)
ALLOWED = {
    "gate": (GATE, [4]),
    "residual block": (f"{BLOCK} s = Add(e, t)", [6]),
    "residual block behind an activation": (f"{BLOCK} n = Neg(e) m = HardSwish(n) s = Max(t, m)", [6]),
    "gate inside a block": (INSIDE, [3, 6]),
    "perceptron of tokens": (TOKENS, [6]),
    "read twice": (
        f"{BLOCK} i = Add(e, t) j = Conv<pads = [1,1,1,1]>(c, other) s = Add(i, j)",
        [6],
    ),
}
REFUSED = {
    "no full tensor": f"{BLOCK} s = Relu(e)",
    "both sides of a sum": f"{BLOCK} z = Conv<pads = [1,1,1,1]>(c, other) s = Add(e, z)",
    "a sum over positions": f"{BLOCK} i = Add(e, t) k = GlobalAveragePool(e) s = Add(i, k)",
    "concatenated": "a = Conv(t, wide) v = Concat<axis = 1>(a, t) e = Conv(v, cat) s = Add(e, t)",
    "a tensor of one position": f"{BLOCK} k = GlobalAveragePool(t) s = Add(e, k)",
}


def canonical(body: str):
    """The graph of STEM, ``body`` (t to s) and HEAD."""
    opset = 20 if "Gelu" in body else 17
    header = f'<ir_version: 9, opset_import: ["" : {opset}]> n (float[N,3,6,6] x) => (float[N,5] y)'
    model = onnx.parser.parse_model(f"{header} {{{STEM} {body} {HEAD}}}")
    rng = np.random.default_rng(1)
    values = {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in SHAPES.items()}
    used = {name for node in model.graph.node for name in node.input}
    values = {name: value for name, value in values.items() if name in used}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in values.items())
    return canonicalize(to_graph(model)).graph


@pytest.mark.parametrize("name", ALLOWED)
def test_a_branch_is_removed_and_its_bias_stays(name: str) -> None:
    body, sizes = ALLOWED[name]
    graph = canonical(body)
    channels = analyze(graph)
    assert sorted(len(units) for units in channels.branches) == sizes
    rng = np.random.default_rng(2)
    for units in channels.branches:
        others = channels.prunable[rng.random(len(channels.prunable)) < 0.3]
        for plan in (PruningPlan(units), PruningPlan(np.concatenate([units, others]))):
            pruned = prune_channels(graph, channels, plan).graph
            assert len(pruned.nodes) < len(graph.nodes) and channels.ended(plan)
            onnx.checker.check_model(to_proto(pruned), full_check=True)
            ledger = channels.removed_slices(plan)
            assert worst_error(to_proto(graph), to_proto(pruned), ledger, {"x": X}) <= 1e-5
            absorbed = absorb_scales(pruned).graph
            assert worst_error(to_proto(graph), to_proto(absorbed), ledger, {"x": X}) <= 1e-5


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_leave_no_full_tensor_stays(name: str) -> None:
    graph = canonical(REFUSED[name])
    channels = analyze(graph)
    assert all(channels.branch_of[line[0]] < 0 for line in channels.lines if len(line) == 6)


def test_a_sum_takes_one_constant() -> None:
    """Of two branches that meet in a sum, one may be removed."""
    first, second = BLOCK, "i = Conv(t, down) j = Relu(i) k = Conv(j, up)"
    channels = analyze(canonical(f"{first} {second} s = Add(e, k)"))
    assert len(channels.branches) == 1
    assert len(analyze(canonical(f"{first} {second} z = Add(e, t) s = Add(z, k)")).branches) == 2


def test_other_tensors_keep_one_channel_and_so_do_frozen_branches() -> None:
    graph = canonical(GATE)
    channels = analyze(graph)
    trunk = np.setdiff1d(channels.prunable, channels.branches[0])
    with pytest.raises(UsageError, match="every channel of a tensor"):
        prune_channels(graph, channels, PruningPlan(trunk))
    for kept in (channels.restricted(keep=["down"]), channels.restricted(branches=False)):
        assert kept.branches == ()
        with pytest.raises(UsageError, match=r"every channel of a tensor|cannot be removed"):
            prune_channels(graph, kept, PruningPlan(channels.branches[0]))


def test_without_a_part_of_a_branch_the_rest_is_one() -> None:
    channels = analyze(canonical(GATE))
    units = channels.branches[0]
    assert [rest.tolist() for rest in channels.without(PruningPlan(units[:1])).branches] == [units[1:].tolist()]
    assert channels.without(PruningPlan(units)).branches == ()


@pytest.mark.parametrize("name", ALLOWED)
def test_the_mean_of_what_a_branch_computed_stays(name: str) -> None:
    """The refit of a reader without inputs is a constant: the mean of its output over samples and positions."""
    body = ALLOWED[name][0]
    graph = canonical(body)
    channels = analyze(graph)
    plan = PruningPlan(channels.branches[-1])
    found = input_moments(to_proto(graph), None, [Batch({"x": X})])
    pruned = prune_channels(graph, channels, plan).graph
    fitted = compensate(graph, pruned, channels, plan, found).graph
    constants = {k: t.values for k, t in fitted.tensors().items() if k.endswith(".constant")}
    assert constants
    for key, values in constants.items():
        shown = graph.copy()
        shown.outputs = [shown.tensors()[key.removesuffix(".constant")]]
        seen = run(to_proto(shown), {"x": X})[0]
        channel = -1 if "MatMul" in body else 1
        mean = np.moveaxis(seen.astype(np.float64), channel, 0).reshape(values.size, -1).mean(1)
        np.testing.assert_allclose(values.ravel(), mean, atol=2e-5)
