"""What files say of what was done to them, read with plain onnx."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_model import small_data, small_model

import hqp_onnx
from hqp_onnx.cli import cli
from hqp_onnx.graphs.record import Record
from hqp_onnx.version import __version__


def said(model: Path | onnx.ModelProto) -> dict[str, str]:
    proto = onnx.load(model) if isinstance(model, Path) else model
    return {entry.key: entry.value for entry in proto.metadata_props}


@pytest.fixture
def original(tmp_path: Path) -> Path:
    model = small_model()
    model.metadata_props.add(key="names", value="{0: 'cat'}")
    model.metadata_props.add(key="hqp.version", value="0")  # what says nothing of ours is left alone
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    np.savez(tmp_path / "data.npz", **small_data())
    return tmp_path / "model.onnx"


def run(*words: str | Path) -> None:
    cli.main([str(word) for word in words], standalone_mode=False)


def test_what_is_pruned_quantized_and_recovered_says_so(original: Path) -> None:
    folder, data = original.parent, ("--data", original.parent / "data.npz")
    pruned, int8, trained, back = (folder / f"{name}.onnx" for name in ("pruned", "int8", "trained", "back"))
    run(
        "prune", original, "--sparsity", "0.3", "-o", pruned, "--ledger", folder / "ledger.json", "--json", folder / "p"
    )
    counts = json.loads((folder / "p").read_text())
    digest = hashlib.sha256(original.read_bytes()).hexdigest()
    assert json.loads((folder / "ledger.json").read_text())["model_sha256"] == digest
    about = {
        "names": "{0: 'cat'}",
        "hqp.version": __version__,
        "hqp.original_sha256": digest,
        "hqp.units_removed": f"{counts['removed']} of {counts['prunable']}",
    }
    assert said(pruned) == about and 0 < counts["removed"] < counts["prunable"]
    run("quantize", pruned, *data, "-o", int8)
    assert said(int8) == {**about, "hqp.precision": "int8"}  # units of the original, which is still named
    run("recover", int8, "--teacher", original, *data, "--epochs", "1", "-o", trained)
    assert said(trained) == said(int8)
    run("dequantize", int8, "-o", back)
    assert said(back) == {**about, "hqp.precision": "fp32"}


def test_the_same_command_writes_the_same_bytes_anywhere(original: Path, tmp_path: Path) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (elsewhere / "other.onnx").write_bytes(original.read_bytes())
    for model in (original, elsewhere / "other.onnx"):
        run("prune", model, "--sparsity", "0.3", "-o", model.with_name("pruned.onnx"))
    assert (elsewhere / "pruned.onnx").read_bytes() == (tmp_path / "pruned.onnx").read_bytes()


def test_a_second_pruning_counts_its_own_units(original: Path) -> None:
    once = hqp_onnx.prune(original, 0.3)
    twice = hqp_onnx.prune(once, 0.3)
    digest = hashlib.sha256(once.SerializeToString(deterministic=True)).hexdigest()
    assert said(twice)["hqp.original_sha256"] == digest != said(once)["hqp.original_sha256"]
    assert said(twice)["hqp.units_removed"] != said(once)["hqp.units_removed"]


def test_what_a_model_was_held_to_is_said_by_who_measured_it() -> None:
    model = onnx.ModelProto()
    Record("a", (1, 2), "int8", "folder/mine.py:score", "1.5 points").write(model)
    assert said(model) == {
        "hqp.version": __version__,
        "hqp.original_sha256": "a",
        "hqp.units_removed": "1 of 2",
        "hqp.precision": "int8",
        "hqp.metric": "mine.py:score",
        "hqp.budget": "1.5 points",
    }
    Record("b").write(model)
    assert said(model) == {
        "hqp.version": __version__,
        "hqp.original_sha256": "a",
        "hqp.units_removed": "1 of 2",
        "hqp.precision": "int8",
    }


THREADS = json.dumps({"session_options": {"intra_op_num_threads": 1}})


def test_what_the_owner_says_stays() -> None:
    mine = {"hqp.board": "left", "ort_config": THREADS, "names": "a b"}
    model = small_model()
    onnx.helper.set_model_props(model, mine)
    once = hqp_onnx.prune(model, 0.3)
    assert mine.items() <= said(once).items()
    onnx.helper.set_model_props(once, {**said(once), "ort_config": '{"session_options": {"use_env_allocators": 1}}'})
    assert {**mine, "ort_config": '{"session_options": {"use_env_allocators": 1}}'}.items() <= said(
        hqp_onnx.prune(once, 0.3)
    ).items()


@pytest.mark.parametrize(("before", "after"), [("", None), ("fp16", "fp16"), ("mixed", "fp32"), ("int4", "fp32")])
def test_a_pruned_file_says_no_more_what_it_was(before: str, after: str | None) -> None:
    model = small_model()
    Record("a", precision=before, metric="top1").write(model)
    model.metadata_props.add(key="ort_config", value=THREADS)  # as `hqp optimize` adds it
    pruned = said(hqp_onnx.prune(model, 0.3))
    assert pruned.get("hqp.precision") == after and "ort_config" not in pruned


def test_single_steps_leave_the_metadata_of_others_alone() -> None:
    model = small_model()
    model.metadata_props.add(key="names", value="{0: 'cat'}")
    Record("a", (1, 2), "int8").write(model)
    assert said(model) == {"names": "{0: 'cat'}"}
