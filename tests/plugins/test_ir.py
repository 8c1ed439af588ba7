"""Passes of onnx_ir: in place, truthful, composable with onnx_ir's own."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from oracle import run
from small_model import small_data, small_model

import hqp_onnx
from hqp_onnx.errors import DataError, UsageError
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.fold_batchnorm import fold_batchnorm

ir = pytest.importorskip("onnx_ir")

from onnx_ir.passes import common  # noqa: E402

from hqp_onnx.plugins.ir import GraphPass, PrunePass, QuantizePass  # noqa: E402

FEEDS = {"input": small_data()["input"]}


def load() -> ir.Model:
    model = small_model()
    model.metadata_props.add(key="author", value="somebody")
    model.metadata_props.add(key="hqp.version", value="0")  # what says nothing of ours is left alone
    return ir.from_proto(model)


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_a_pruned_model_is_that_of_the_function() -> None:
    model = load()
    result = PrunePass(sparsity=0.3, multiple_of=2)(model)
    assert result.model is model and result.modified
    want = run(hqp_onnx.prune(small_model(), sparsity=0.3, multiple_of=2), FEEDS)[0]
    assert np.array_equal(run(ir.to_proto(model), FEEDS)[0], want)
    assert model.metadata_props["author"] == "somebody" and " of " in model.metadata_props["hqp.units_removed"]


def test_passes_compose_with_those_of_onnx_ir() -> None:
    model = load()
    passes = ir.passes.Sequential(
        GraphPass(canonicalize), GraphPass(fold_batchnorm), QuantizePass(small_data()), common.RemoveUnusedNodesPass()
    )
    assert passes.in_place
    assert passes(model).modified
    assert "BatchNormalization" not in ops(model) and "QuantizeLinear" in ops(model)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    want = run(small_model(), FEEDS)[0]
    assert np.abs(run(proto, FEEDS)[0] - want).max() <= 0.05 * np.abs(want).max()


def test_a_pass_that_finds_nothing_to_do_does_not_change_the_model() -> None:
    model = load()
    assert GraphPass(fold_batchnorm)(model).modified
    before = ir.to_proto(model).SerializeToString()
    assert not GraphPass(fold_batchnorm)(model).modified
    assert ir.to_proto(model).SerializeToString() == before


def test_manager_stops_where_nothing_changes() -> None:
    model = load()
    assert ir.passes.PassManager([GraphPass(canonicalize), GraphPass(fold_batchnorm)], steps=5)(model).modified
    want = run(small_model(), FEEDS)[0]
    assert np.abs(run(ir.to_proto(model), FEEDS)[0] - want).max() <= 1e-5 * np.abs(want).max()


def test_errors() -> None:
    with pytest.raises(UsageError, match="sparsity 2"):
        PrunePass(sparsity=2)
    with pytest.raises(UsageError, match="abacus"):
        QuantizePass(small_data(), target="abacus")
    with pytest.raises(DataError, match="no array for model input"):
        QuantizePass({"other": FEEDS["input"]})(load())
