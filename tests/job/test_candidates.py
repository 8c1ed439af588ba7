"""What a candidate costs: data are read once, however often the nodes that stay in float change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper
from small_model import small_data, small_model

from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.job.candidates import Candidates
from hqp_onnx.model import open_data, open_model
from hqp_onnx.runtimes.session import Session
from hqp_onnx.runtimes.targets import target
from hqp_onnx.statistics.moments import input_moments


def candidates(cache: Path, stages: list[str], compensated: bool = False, in_order: bool = False) -> Candidates:
    model = open_model(small_model())
    channels = model.channels()
    data = open_data(model, small_data(), None)
    return Candidates(
        original=model.graph,
        channels=channels,
        order=channels.prunable,
        moments=input_moments(to_proto(model.graph), None, data) if compensated else None,
        ridges={},
        data=data,
        target=target("onnxruntime"),
        method="entropy",
        in_order=in_order,
        multiple=1,
        cache=cache,
        threads=1,
        progress=lambda stage, done, total: stages.append(stage),
    )


def test_data_are_read_once_for_all_choices_of_float_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages: list[str] = []
    made = candidates(tmp_path, stages)
    first = [made.quantized(4, floats) for floats in ((), made.quantizable(4)[:1])]
    calls = len(stages)
    monkeypatch.setattr(Session, "__init__", None)  # no model runs from here on
    again = [made.quantized(4, floats) for floats in ((), made.quantizable(4)[:1])]
    assert calls == len(stages) == 1
    assert [to_proto(graph) for graph in again] == [to_proto(graph) for graph in first]
    assert to_proto(first[0]) != to_proto(first[1])


def test_each_refit_brings_candidates_closer_to_the_original(tmp_path: Path) -> None:
    kinds = [(False, False), (True, False), (True, True)]
    graphs = [candidates(tmp_path, [], *kind).pruned(8) for kind in kinds]
    feeds = {"input": small_data()["input"]}
    want = Session(small_model()).run(feeds)["logits"]
    plain, once, in_order = (np.square(Session(to_proto(g)).run(feeds)["logits"] - want).sum() for g in graphs)
    assert in_order < 0.9 * once < 0.5 * plain


def test_a_resumed_run_makes_the_same_model_without_calibrating(tmp_path: Path) -> None:
    stages: list[str] = []
    first = to_proto(candidates(tmp_path, stages).quantized(4)).SerializeToString(deterministic=True)
    stages.clear()
    assert to_proto(candidates(tmp_path, stages).quantized(4)).SerializeToString(deterministic=True) == first
    assert not stages


def test_nodes_in_float_keep_their_rounded_weights_to_the_bit(tmp_path: Path) -> None:
    made = candidates(tmp_path, [])
    nodes, prepared = made.quantizable(0), made.prepared(0)
    proto = to_proto(made.quantized(0, nodes))
    stored = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    weights = {name for name, _ in prepared.scales}
    assert len(weights) == len(nodes) == 4
    for name in weights:
        restored = stored[f"{name}/int8"].astype(np.float32) * stored[f"{name}/scale"]
        np.testing.assert_array_equal(restored, prepared.graph.tensors()[name].values)
