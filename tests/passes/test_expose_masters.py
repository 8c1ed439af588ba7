"""Integers become floats that compute the same, and come back."""

import numpy as np
import pytest
from onnx import numpy_helper
from small_model import small_data, small_model

from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.model import open_data, open_model
from hqp_onnx.passes.expose_masters import expose_masters, store_masters
from hqp_onnx.passes.quantize import prepare, quantize_prepared
from hqp_onnx.runtimes.session import Session
from hqp_onnx.runtimes.targets import target

X = small_data(8)["input"]


@pytest.fixture(scope="module", params=["onnxruntime", "tensorrt"])
def graph(request):
    """Quantized but for one node, whose weight is stored as int8 behind Cast and Mul where constants fold."""
    model, wanted = open_model(small_model()), target(request.param)
    prepared = prepare(model.graph, open_data(model, small_data()), wanted)
    return quantize_prepared(prepared, wanted, ["r2"] if request.param == "tensorrt" else ["c3"]).graph


def run(graph):
    return Session(to_proto(graph), integer_kernels=False).run({"input": X})["logits"]


def test_it_computes_the_same(graph):
    exposed = expose_masters(graph)
    np.testing.assert_allclose(run(exposed.graph), run(graph), rtol=1e-5, atol=1e-5)
    floats = [t for t in exposed.graph.tensors().values() if t.name in exposed.masters]
    assert len(floats) == len(exposed.masters) >= 4
    assert all(t.dtype == np.float32 for t in floats)


def test_every_integer_has_a_float(graph):
    stored = {
        t.name for t in to_proto(graph).graph.initializer if numpy_helper.to_array(t).dtype in (np.int8, np.int32)
    }
    zeros = {name for name in stored if name.endswith("/zero_point")}
    assert {master.stored for master in expose_masters(graph).masters.values()} == stored - zeros


def test_there_and_back(graph):
    exposed = expose_masters(graph)
    tensors = exposed.graph.tensors()
    same = store_masters(graph, exposed.masters, {name: tensors[name].values for name in exposed.masters})
    assert not same.modified
    assert to_proto(same.graph) == to_proto(graph)


def test_what_is_stored_is_what_was_trained(graph):
    exposed = expose_masters(graph)
    tensors, rng = exposed.graph.tensors(), np.random.default_rng(0)
    moved = {}
    for name, master in exposed.masters.items():
        values = tensors[name].values * rng.uniform(0.7, 1.4, tensors[name].shape).astype(np.float32)
        low, high = master.bounds
        tensors[name].values = moved[name] = np.clip(values, low, high)
    done = store_masters(graph, exposed.masters, moved)
    assert done.modified
    np.testing.assert_allclose(run(done.graph), run(exposed.graph), rtol=1e-4, atol=1e-4)
    before, after = (g.tensors() for g in (graph, done.graph))
    for master in exposed.masters.values():
        old, new = (t[master.stored].values for t in (before, after))
        assert new.dtype == old.dtype
        if old.dtype == np.int8:
            assert np.abs(new.astype(int)).max() <= np.abs(old.astype(int)).max()


def test_a_float_graph_is_not_changed(graph):
    plain = open_model(small_model()).graph
    exposed = expose_masters(plain)
    assert not exposed.modified
    assert not exposed.masters
    assert to_proto(exposed.graph) == to_proto(plain)
