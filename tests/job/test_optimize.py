"""The main job on a bundled model and few samples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import MODELS
from oracle import worst_error
from small_model import small_data, small_model
from steady import steady

import hqp_onnx
from hqp_onnx.errors import UsageError
from hqp_onnx.job import evidence, precision
from hqp_onnx.job.candidate import Candidate, Precision
from hqp_onnx.job.judge import Judge
from hqp_onnx.job.models import CandidateModels
from hqp_onnx.job.options import Options
from hqp_onnx.steps.optimize import budget_error, optimize

FILES = ("pruned.onnx", "int8.onnx", "ledger.json")


class Killed(KeyboardInterrupt):
    """Stands for SIGKILL: nothing handles it."""


@pytest.fixture(scope="module", autouse=True)
def without_a_clock() -> Iterator[None]:
    """No six seconds for the latencies of every report."""
    with pytest.MonkeyPatch.context() as patch:
        steady(patch)
        yield


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    folder = tmp_path_factory.mktemp("data")
    for part, count in (("calib", 200), ("val", 1000), ("test", 1000)):
        with np.load(MODELS / f"fashion_mnist_{part}.npz") as data:
            np.savez(folder / f"{part}.npz", input=data["input"][:count], labels=data["labels"][:count])
    calib, val, test = (str(folder / f"{part}.npz") for part in ("calib", "val", "test"))
    model = MODELS / "mobilenet_v3_small.onnx"
    return Options(
        model,
        calib,
        val,
        folder / "out",
        test=test,
        step=0.05,
        precision="int8",
        objective="sparsity",
        saliency="fisher",
    )


@pytest.fixture(scope="module")
def report(options: Options) -> dict[str, Any]:
    optimize(options)
    found: dict[str, Any] = json.loads((options.output / "report.json").read_text())
    return found


def accuracy(model: Path, data: str) -> float:
    session = ort.InferenceSession(str(model))
    with np.load(data) as arrays:
        logits = session.run(None, {"input": arrays["input"].astype(np.float32)})[0]
        return float((logits.argmax(1) == arrays["labels"]).mean())


def test_files_say_what_was_done(options: Options, report: dict[str, Any]) -> None:
    units, digest = report["units"], hashlib.sha256(options.model.read_bytes()).hexdigest()
    for file in report["files"].values():
        metadata = {entry.key: entry.value for entry in onnx.load(options.output / file).metadata_props}
        removed = 0 if file == "q8_only.onnx" else units["removed"]
        assert metadata.pop("hqp.precision") == ("fp32" if file == "pruned.onnx" else "int8")
        assert metadata == {
            "hqp.version": hqp_onnx.__version__,
            "hqp.original_sha256": digest,
            "hqp.units_removed": f"{removed} of {units['prunable']}",
            "hqp.metric": report["metric"]["name"],
            "hqp.budget": "1.5 points",
        }


def test_the_written_model_is_inside_the_budget(options: Options, report: dict[str, Any]) -> None:
    drop = accuracy(options.model, options.val) - accuracy(options.output / "int8.onnx", options.val)
    assert drop <= options.max_drop + 1e-9
    assert report["budget_met"]
    assert report["hqp"]["val_drop"] == pytest.approx(drop)


def test_a_confidence_keeps_the_upper_bound_of_the_drop_inside(options: Options, tmp_path: Path) -> None:
    sure = replace(options, output=tmp_path, precision="fp32", confidence=0.99)
    found = optimize(sure)
    with np.load(options.val) as arrays:
        pixels, labels = arrays["input"].astype(np.float32), arrays["labels"]
    right = [
        ort.InferenceSession(str(model)).run(None, {"input": pixels})[0].argmax(1) == labels
        for model in (options.model, tmp_path / "pruned.onnx")
    ]
    lost = right[0].astype(float) - right[1]
    normal = 2.326 * lost.std(ddof=1) / np.sqrt(len(lost))
    assert lost.mean() + found.budget_spent["uncertainty"] <= options.max_drop
    assert normal < found.budget_spent["uncertainty"] < 2 * normal + 0.005  # exact bounds are wider
    rejected = [trial for trial in found.trials if not trial.accepted and trial.complete]
    assert all("at 99 %" in trial.why for trial in rejected)
    assert any(found.rows["baseline"].val_metric - trial.metric <= options.max_drop for trial in rejected)


def test_gates_that_hardly_vary_are_removed(options: Options, report: dict[str, Any]) -> None:
    gates = [
        sum(node.op_type == "HardSigmoid" for node in onnx.load(file).graph.node)
        for file in (options.model, options.output / "pruned.onnx")
    ]
    assert gates[1] < gates[0]
    assert any("gates and residual branches were removed as a whole" in note for note in report["notes"])


def test_rows_are_what_a_plain_evaluation_gives(options: Options, report: dict[str, Any]) -> None:
    assert options.test is not None
    for row, file in (
        ("baseline", options.model),
        ("hqp", options.output / "int8.onnx"),
        ("pruned", options.output / "pruned.onnx"),
    ):
        assert report[row]["metric"] == pytest.approx(accuracy(file, options.test), abs=2e-3)  # batches differ
        assert report[row]["bytes"] == file.stat().st_size
    assert report["hqp"]["sparsity"] > 0.2
    assert report["q8_only"]["sparsity"] == 0
    assert report["hqp"]["macs"] < 0.7 * report["baseline"]["macs"]
    assert report["hqp"]["size_reduction"] > 0.8


def test_the_ledger_explains_the_pruned_model(options: Options, report: dict[str, Any]) -> None:
    """Same shapes as the original without the removed slices; values differ by compensation."""
    own = options.output / "pruned.ledger.json"  # there if INT8 took fewer units
    ledger = own if own.is_file() else options.output / "ledger.json"
    removed = json.loads(ledger.read_text())["removed"]
    assert own.is_file() == (report["pruned"]["sparsity"] != report["hqp"]["sparsity"])
    pruned = {t.name: tuple(t.dims) for t in onnx.load(options.output / "pruned.onnx").graph.initializer}
    original = onnx.load(options.model).graph
    expected = {}
    for tensor in original.initializer:
        shape = list(tensor.dims)
        for axis, indices in removed.get(tensor.name, {}).items():
            shape[int(axis)] -= len(indices)
        expected[tensor.name] = tuple(shape)
    empty = [node for node in original.node if any(0 in expected.get(name, ()) for name in node.input)]
    ended = {name for node in empty for name in node.input}  # parameters of a branch's ends
    assert expected.keys() - ended == expected.keys() & pruned.keys()
    assert all(pruned[name] == shape for name, shape in expected.items() if name in pruned)


def test_killed_anywhere_it_resumes_to_the_same_bytes(
    options: Options, report: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    broken = replace(options, output=tmp_path / "broken", resume=True)
    for attempt in range(60):
        left = int(rng.integers(1, 60 + 100 * attempt))

        def progress(stage: str, done: int, total: int) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed

        try:
            optimize(broken, progress)
            break
        except Killed:
            continue
    assert attempt >= 3
    for name in FILES:
        assert (broken.output / name).read_bytes() == (options.output / name).read_bytes(), name


def test_without_compensation_the_pruned_model_is_the_masked_one(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steady(monkeypatch)
    plain = replace(options, output=tmp_path, compensate=False, precision="fp32", saliency="l2", search="linear")
    found = optimize(plain)
    assert found.shipped == str(tmp_path / "pruned.onnx")
    assert "q8_only" not in found.rows
    assert not (tmp_path / "int8.onnx").exists()
    rejected = [trial for trial in found.trials if not trial.accepted]
    assert len(rejected) == 1
    assert rejected[0] is found.trials[-1]  # the first violation ends Algorithm 1
    removed = json.loads((tmp_path / "ledger.json").read_text())["removed"]
    images = {"input": np.load(options.val)["input"][:4].astype(np.float32)}
    assert worst_error(onnx.load(options.model), onnx.load(tmp_path / "pruned.onnx"), removed, images) <= 1e-5


@pytest.fixture
def small(tmp_path: Path) -> Options:
    """A small model without a budget: the search goes to the end."""
    onnx.save(small_model(), tmp_path / "small.onnx")
    np.savez(tmp_path / "data.npz", **small_data(60))
    data = str(tmp_path / "data.npz")
    return Options(
        tmp_path / "small.onnx",
        data,
        data,
        tmp_path / "out",
        max_drop=1.0,
        step=0.1,
        search="linear",
        precision="fp32",
        multiple_of=1,
        objective="sparsity",
        saliency="fisher",
    )


@pytest.mark.parametrize("saliency", ["l2", "obs"])
def test_a_refreshed_ranking_is_that_of_the_candidate(
    small: Options, monkeypatch: pytest.MonkeyPatch, saliency: str
) -> None:
    """Every second step: removed units stay out, and the others are ranked on the model that still has them."""
    ranked: list[tuple[int, int]] = []
    rank_units = evidence.rank_units

    def counted(graph: Any, channels: Any, *given: Any, **named: Any) -> Any:
        widths = [graph.tensors()[name].shape[0] for name in ("w1", "w2")]  # w3 shares its units with w1
        ranked.append((len(channels.prunable), sum(widths)))
        return rank_units(graph, channels, *given, **named)

    monkeypatch.setattr(evidence, "rank_units", counted)
    found = optimize(replace(small, saliency=saliency, refresh=2, branches=False))
    assert len(found.trials) == 9 and all(trial.accepted for trial in found.trials)
    assert ranked == [(width, width) for width in (40, 32, 24, 16, 8)]  # 10 % of 40 units a step


@pytest.mark.parametrize("saliency", ["l2", "obs"])
def test_the_end_of_a_branch_is_refreshed_as_one(small: Options, saliency: str) -> None:
    """Of 16 units, the minimum width lets 14 be removed; all 24 of the branch are."""
    found = optimize(replace(small, saliency=saliency, refresh=2))
    removed = json.loads((small.output / "ledger.json").read_text())["removed"]
    assert [len(removed[name]["0"]) for name in ("w1", "w2")] == [14, 24]
    assert found.trials[-1].removed == 14 + 24 and all(trial.accepted for trial in found.trials)
    names = {tensor.name for tensor in onnx.load(small.output / "pruned.onnx").graph.initializer}
    assert "w1" in names and names.isdisjoint(["w2", "w3"])


def test_what_alignment_makes_the_same_is_quantized_once(small: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    """All INT8 candidates are refused: of 40 steps, those on the way back that differ are tried."""
    judged = Judge._judged

    def refused(self: Judge, candidate: Candidate) -> Any:
        return replace(judged(self, candidate), accepted=candidate.precision is Precision.FP32)

    monkeypatch.setattr(Judge, "_judged", refused)
    found = optimize(replace(small, saliency="l2", precision="int8", step=0.025, multiple_of=8))
    tried = [trial.sparsity for trial in found.trials if trial.precision == "int8"]
    assert len(tried) == len(set(tried)) > 1
    assert min(tried) == 0 and not found.budget_met


def test_an_objective_changes_what_is_removed(small: Options) -> None:
    plain, chosen = (
        optimize(replace(small, output=small.output / name, saliency="l1", objective=name)).trials
        for name in ("sparsity", "macs")
    )
    assert [trial.removed for trial in plain] == [trial.removed for trial in chosen]
    assert [trial.macs for trial in plain] != [trial.macs for trial in chosen]
    assert chosen[2].macs < plain[2].macs


def test_options_that_exclude_each_other(options: Options) -> None:
    with pytest.raises(UsageError, match=r"^refit in-order: without compensate"):
        replace(options, refit="in-order", compensate=False)
    with pytest.raises(UsageError, match=r"^refresh 3: expected .* search linear"):
        replace(options, refresh=3)
    with pytest.raises(UsageError, match=r"^threads 99999: expected 0 to \d+, since this machine has"):
        replace(options, threads=99999)
    with pytest.raises(UsageError, match=r"^objective speed: expected one of latency, macs, size, sparsity"):
        replace(options, objective="speed")


@pytest.mark.slow
def test_a_budget_that_int8_cannot_meet(options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """INT8 that destroys the model: FP32 ships, and the error says so with exit code 3."""
    insert = CandidateModels._in_int8

    def ruined(self: CandidateModels, candidate: Candidate) -> Any:
        broken = insert(self, candidate)
        last = next(node for node in reversed(broken.nodes) if node.op == "Gemm")
        last.attrs["alpha"] = -1.0
        return broken

    monkeypatch.setattr(CandidateModels, "_in_int8", ruined)
    found = optimize(replace(options, output=tmp_path, step=0.2))
    assert not found.budget_met
    assert not (tmp_path / "int8.onnx").exists()
    assert (tmp_path / "pruned.onnx").exists()
    error = budget_error(found)
    assert error.exit_code == 3
    assert "pruned.onnx" in str(error)


@pytest.fixture
def mixed(options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    """Half of the nodes are faster in float, says the clock; asked twice, it would say something else."""
    answers = [slice(0, None, 2)]
    monkeypatch.setattr(precision, "faster_in_float", lambda nodes, *_: list(nodes[answers.pop()]))
    return replace(options, output=tmp_path, precision="mixed", step=0.2, branches=False, resume=True)


def integer_kernels(path: Path) -> int:
    """Products whose weights come from a DequantizeLinear."""
    graph = onnx.load(path).graph
    restored = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return sum(node.op_type in ("Conv", "Gemm") and node.input[1] in restored for node in graph.node)


@pytest.mark.slow
def test_nodes_that_are_faster_in_float_stay_there(mixed: Options) -> None:
    found = optimize(mixed)
    assert len(found.floats) == 27
    assert integer_kernels(mixed.output / "int8.onnx") == 54 - 27
    assert list(found.rows) == ["baseline", "q8_only", "pruned", "int8_everywhere", "hqp"]
    assert found.rows["hqp"].bytes < 1.1 * found.rows["int8_everywhere"].bytes  # their weights are stored as int8
    assert found.rows["hqp"].val_drop <= mixed.max_drop
    assert sum(found.budget_spent.values()) == pytest.approx(mixed.max_drop)
    shipped = found.rows[found.ships]
    assert found.budget_spent["pruning"] + found.budget_spent["precision"] == pytest.approx(shipped.val_drop)
    files = [(mixed.output / name).read_bytes() for name in FILES]
    optimize(mixed)  # resumed: the clock is not asked again
    assert [(mixed.output / name).read_bytes() for name in FILES] == files


@pytest.mark.slow
def test_nodes_that_harm_the_outputs_are_spared(mixed: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    """One node ruins the model when it is quantized: it alone joins those in float, and pruning is not undone."""
    insert, harmful = CandidateModels._in_int8, []

    def ruined(self: CandidateModels, candidate: Candidate) -> Any:
        harmful[:] = self.quantizable(candidate)[1:2]
        graph = insert(self, candidate)
        if harmful[0] not in candidate.floats and len(candidate.plan):
            last = next(node for node in reversed(graph.nodes) if node.op == "Gemm")
            last.attrs["alpha"] = -1.0
        return graph

    monkeypatch.setattr(CandidateModels, "_in_int8", ruined)
    monkeypatch.setattr(precision, "_fastest", lambda setup, models, candidates, threads: len(candidates) - 1)
    found = optimize(mixed)
    assert set(harmful) < set(found.floats)
    assert len(found.floats) == 27 + 1
    assert found.rows["hqp"].sparsity == found.rows["pruned"].sparsity > 0


def test_resume_with_other_options_is_refused(options: Options, report: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="cannot resume, 'max_drop'"):
        optimize(replace(options, max_drop=0.5, resume=True))
