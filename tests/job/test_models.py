"""What a candidate costs: data are read once, however often the nodes that stay in float change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from small_model import small_data, small_model

from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.job.candidate import ORIGINAL, Candidate, Precision
from hqp_onnx.job.models import CandidateModels
from hqp_onnx.job.options import Options
from hqp_onnx.job.setup import Setup, open_setup
from hqp_onnx.passes.cut import Refit, cut
from hqp_onnx.runtimes.session import Session
from hqp_onnx.statistics.moments import input_moments


def setup(folder: Path, stages: list[str], **options: Any) -> Setup:
    onnx.save(small_model(), folder / "model.onnx")
    np.savez(folder / "data.npz", **small_data())
    data = str(folder / "data.npz")
    chosen = Options(folder / "model.onnx", data, data, folder / "out", threads=1, **options)
    return open_setup(chosen, lambda stage, done, total: stages.append(stage))


def first_units(given: Setup, count: int) -> PruningPlan:
    return PruningPlan(given.channels.prunable[:count])


def test_keys_tell_models_apart() -> None:
    plans = [PruningPlan(np.array(units)) for units in ([1, 2], [2, 1], [1, 12], [11, 2])]
    keys = [Candidate(plan).key for plan in plans]
    assert keys[0] == keys[1] and len(set(keys)) == 3
    one = Candidate(plans[0], Precision.INT8, ("a", "b"))
    assert one.key == replace(one, floats=("b", "a")).key
    others = [
        replace(one, floats=()),
        replace(one, floats=("a",)),
        replace(one, trained=True),
        replace(one, precision=Precision.FP16),
    ]
    assert len({one.key, *(other.key for other in others)}) == 5
    assert one.in_float32.key == Candidate(plans[0]).key
    assert replace(one, trained=True).in_float32.trained


def test_data_are_read_once_for_all_choices_of_float_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages: list[str] = []
    given = setup(tmp_path, stages)
    stages.clear()
    models = CandidateModels(given, None, tmp_path)
    plain = Candidate(first_units(given, 4), Precision.INT8)
    kinds = [plain, replace(plain, floats=tuple(models.quantizable(plain)[:1]))]
    first = [to_proto(models.graph(kind)) for kind in kinds]
    calls = len(stages)
    monkeypatch.setattr(Session, "__init__", None)  # no model runs from here on
    again = [to_proto(models.graph(kind)) for kind in kinds]
    assert calls == len(stages) and stages.count("calibration") == 1
    assert again == first
    assert first[0] != first[1]


def test_each_refit_brings_candidates_closer_to_the_original(tmp_path: Path) -> None:
    given = setup(tmp_path, [])
    graph, data = given.model.graph, given.data["calib"]
    once = Refit(input_moments(to_proto(graph), None, data), {})
    refits = [None, once, replace(once, data=data, threads=1)]
    graphs = [cut(graph, given.channels, first_units(given, 8), refit).graph for refit in refits]
    feeds = {"input": small_data()["input"]}
    want = Session(small_model()).run(feeds)["logits"]
    plain, refitted, in_order = (np.square(Session(to_proto(g)).run(feeds)["logits"] - want).sum() for g in graphs)
    assert in_order < 0.9 * refitted < 0.5 * plain


def test_a_resumed_run_makes_the_same_model_without_calibrating(tmp_path: Path) -> None:
    stages: list[str] = []
    given = setup(tmp_path, stages)
    candidate = Candidate(first_units(given, 4), Precision.INT8)
    first = to_proto(CandidateModels(given, None, tmp_path).graph(candidate))
    stages.clear()
    assert to_proto(CandidateModels(given, None, tmp_path).graph(candidate)) == first
    assert "calibration" not in stages


def test_nodes_in_float_keep_their_rounded_weights_to_the_bit(tmp_path: Path) -> None:
    models = CandidateModels(setup(tmp_path, []), None, tmp_path)
    in_int8 = replace(ORIGINAL, precision=Precision.INT8)
    nodes = models.quantizable(in_int8)
    integers, floats = (to_proto(models.graph(replace(in_int8, floats=some))) for some in ((), tuple(nodes)))
    stored = [{t.name: numpy_helper.to_array(t) for t in proto.graph.initializer} for proto in (integers, floats)]
    names = [name.removesuffix("/int8") for name in stored[1] if name.endswith("/int8")]
    assert len(names) == len(nodes) == 4
    assert not any(node.op_type == "DequantizeLinear" for node in floats.graph.node)
    for name in names:
        for mine, theirs in (("int8", "quantized"), ("scale", "scale")):
            other = stored[0][f"{name}/axis0/{theirs}"]
            np.testing.assert_array_equal(stored[1][f"{name}/{mine}"].ravel(), other.ravel())
