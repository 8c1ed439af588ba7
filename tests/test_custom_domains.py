"""Operators of other domains: rules of an installed package let units behind them be pruned and scored.

com.microsoft's QuickGelu, x sigmoid(x), and FusedConv stand for anyone's operators: onnxruntime runs them. The rules
of the former are those that docs/operators.md shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import pytest
from command import hqp
from onnx import numpy_helper
from oracle import run, worst_error

from hqp_onnx.channels.channel_map import ChannelMap, PruningPlan
from hqp_onnx.channels.rules import REWRITES, RULES
from hqp_onnx.channels.walk import analyze
from hqp_onnx.errors import GradientError
from hqp_onnx.gradients import PerSample
from hqp_onnx.gradients.tape import RULES as GRADIENT_RULES
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.prune_channels import prune_channels

ROOT = Path(__file__).parents[1]
DOCUMENTED = (ROOT / "docs" / "operators.md").read_text().split("```python\n")[1].split("```")[0]
PACKAGE = f"""{DOCUMENTED}
from hqp_onnx.channels.rules.lines import axis_labels

def depthwise(walk, node):
    labels = axis_labels(walk, node, node.inputs[0], 1)
    walk.tie(walk.param(node.inputs[1], 0), labels, "its kernels are fixed")
    walk.set(node.outputs[0], labels.reshape(1, -1, 1, 1), 0.0)

def groups(survivors, node):
    kept = survivors.mask(node.inputs[0], 1)
    if kept is not None:
        node.attrs["group"] = int(kept.sum())
"""
ENTRY_POINTS = """
[hqp_onnx.channel_rules]
com.microsoft::QuickGelu = rules_of_tests:channels
com.microsoft::FusedConv = rules_of_tests:depthwise

[hqp_onnx.channel_rewrites]
com.microsoft::FusedConv = rules_of_tests:groups

[hqp_onnx.gradient_rules]
com.microsoft::QuickGelu = rules_of_tests:gradient
"""
GELU = "a = com.microsoft.QuickGelu <alpha = 1.0> (c)"
SAME_AS_GELU = "s = Sigmoid (c) a = Mul (c, s)"
DEPTHWISE = 'a = com.microsoft.FusedConv <group = 8, kernel_shape = [3, 3], activation = "Relu"> (c, each)'
RNG = np.random.default_rng(0)
CONSTANTS = {
    "w": RNG.standard_normal((8, 3, 3, 3)).astype(np.float32),
    "each": RNG.standard_normal((8, 1, 3, 3)).astype(np.float32),
    "v": RNG.standard_normal((5, 8, 1, 1)).astype(np.float32),
}
X = RNG.standard_normal((4, 3, 8, 8)).astype(np.float32)


def build(middle: str) -> onnx.ModelProto:
    text = f"""<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> g (float[N,3,8,8] x) => (float[N,5] y)
        {{ c = Conv (x, w) {middle} d = Conv (a, v) p = GlobalAveragePool (d) y = Flatten (p) }}"""
    model = onnx.parser.parse_model(text)
    model.graph.node[1].name = "middle"
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(x), name) for name, x in CONSTANTS.items() if name in read
    )
    return model


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with rules, installed as far as Python can tell."""
    metadata = tmp_path / "site" / "rules_of_tests-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: rules-of-tests\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    (tmp_path / "site" / "rules_of_tests.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(metadata.parent)
    for registry in (RULES, REWRITES, GRADIENT_RULES):
        monkeypatch.setattr(registry, "_loaded", {})
        monkeypatch.delitem(registry.__dict__, "_installed", raising=False)
    yield
    for registry in (RULES, REWRITES, GRADIENT_RULES):
        registry.__dict__.pop("_installed", None)


def channels_of(model: onnx.ModelProto) -> tuple[gs.Graph, ChannelMap]:
    graph = canonicalize(to_graph(model)).graph
    return graph, analyze(graph)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("middle", [GELU, DEPTHWISE])
def test_units_behind_an_operator_with_a_rule_are_pruned(middle: str) -> None:
    graph, channels = channels_of(build(middle))
    assert len(channels.prunable) == 8
    plan = PruningPlan(channels.prunable[[0, 3, 4]])
    pruned = to_proto(prune_channels(graph, channels, plan).graph)
    assert worst_error(to_proto(graph), pruned, channels.removed_slices(plan), {"x": X}) < 1e-5
    assert next(t.dims for t in pruned.graph.initializer if t.name == "v") == [5, 5, 1, 1]


@pytest.mark.parametrize(
    ("middle", "name"), [("a = com.microsoft.Inverse (c)", "Inverse"), ("a = com.microsoft.Trilu (c)", "Trilu")]
)
def test_units_at_an_operator_without_a_rule_are_frozen_by_its_full_name(middle: str, name: str) -> None:
    _, channels = channels_of(build(middle))
    assert not channels.prunable.size
    assert f"no rule for com.microsoft::{name} node 'middle'" in channels.frozen.values()


@pytest.mark.usefixtures("package")
def test_a_gradient_rule_gives_the_fisher_information_of_the_same_function_in_standard_operators() -> None:
    labels = np.array([0, 1, 2, 3])
    found, want = (PerSample(build(middle), {"x": X})({"x": X}, labels) for middle in (GELU, SAME_AS_GELU))
    assert found.keys() == want.keys() == {"w", "v"}
    for name, values in want.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5 * values.max())


def test_an_operator_without_a_gradient_rule_is_refused_by_its_full_name() -> None:
    with pytest.raises(GradientError, match=r"com\.microsoft::QuickGelu node 'middle' has no gradient rule"):
        PerSample(build(GELU), {"x": X})


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("opset", [12, 17])
def test_the_command_line_prunes_by_fisher_information(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opset: int
) -> None:
    model, path = build(GELU), tmp_path / "model.onnx"
    next(entry for entry in model.opset_import if not entry.domain).version = opset
    onnx.save(model, path)
    np.savez(tmp_path / "data.npz", x=X)
    out = tmp_path / "pruned.onnx"
    arguments = "--data", tmp_path / "data.npz", "--sparsity", 0.5, "--saliency", "fisher", "-o", out
    assert hqp(monkeypatch, "prune", path, *arguments) == 0
    pruned = onnx.load(out)
    assert next(t.dims[0] for t in pruned.graph.initializer if t.name == "w") == 4
    assert run(pruned, {"x": X})[0].shape == (4, 5)


def test_a_second_rule_for_an_operator_is_an_error() -> None:
    for registry in (RULES, REWRITES, GRADIENT_RULES):
        with pytest.raises(ValueError, match=f"a second {registry.noun} 'Conv'"):
            registry.register("Conv")(lambda *_: None)
