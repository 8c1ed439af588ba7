"""OUT of an optimization: what is foreign stays, what is damaged is found, and what was rejected does not ship."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from PIL import Image
from small_model import small_data, small_model

from hqp_onnx.errors import BudgetError, UsageError
from hqp_onnx.job import ledger as ledgers
from hqp_onnx.job.options import Options
from hqp_onnx.job.settings import settings_of
from hqp_onnx.job.setup import open_setup
from hqp_onnx.out_folder import MANIFEST
from hqp_onnx.steps.optimize import optimize


@pytest.fixture
def options(tmp_path: Path) -> Options:
    """A job that takes a second. Labels are what the model says, evenly, so pruning costs something."""
    model, arrays = small_model(), small_data(100)
    logits = ort.InferenceSession(model.SerializeToString()).run(None, {"input": arrays["input"]})[0]
    arrays["labels"] = (logits - logits.mean(0)).argmax(1)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "d4")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) - logits.mean(0), "d4"))
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    np.savez(tmp_path / "data.npz", **arrays)
    data = str(tmp_path / "data.npz")
    return Options(
        tmp_path / "m.onnx",
        data,
        data,
        tmp_path / "out",
        precision="int8",
        step=0.1,
        threads=1,
        max_drop=0.1,
        multiple_of=1,
        objective="sparsity",
        saliency="fisher",
    )


def results(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (*folder.glob("*.onnx"), folder / "ledger.json")}


def state(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST}


@pytest.mark.parametrize("name", ["int8.onnx", "fp16.onnx", "model.engine", ".cache/mine", "report.json"])
def test_files_of_the_user_stay_and_no_work_is_done(name: str, options: Options) -> None:
    (options.folder / name).parent.mkdir(parents=True)
    (options.folder / name).write_text("mine")
    before = state(options.folder.parent)
    with pytest.raises(UsageError, match=f"{name}: was not written by this program"):
        optimize(options, lambda *_: pytest.fail("work was done"))
    assert state(options.folder.parent) == before


def test_the_input_is_no_output_even_if_it_was_written_here(options: Options) -> None:
    optimize(replace(options, precision="fp32"))
    again = replace(options, model=options.folder / "pruned.onnx", force=True)
    before = state(options.folder.parent)
    with pytest.raises(UsageError, match=r"pruned\.onnx is the input model: choose another file"):
        optimize(again)
    with pytest.raises(UsageError, match=r"holds the results of another model .*m\.onnx"):
        other = onnx.load(options.folder / "pruned.onnx")
        optimize(replace(options, model=other, precision="fp32"))
    assert state(options.folder.parent) == before


def test_out_is_not_among_the_images(options: Options, tmp_path: Path) -> None:
    (tmp_path / "images" / "a").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "images" / "a" / "1.png")
    with pytest.raises(UsageError, match="out lies in the calibration data, a folder: choose another"):
        optimize(replace(options, calib=str(tmp_path / "images"), output=tmp_path / "images" / "out"))


@pytest.mark.parametrize("what", ["m.data", "data.npz"])
def test_what_decides_the_result_is_compared(what: str, options: Options) -> None:
    optimize(options)
    before = state(options.folder)
    if what == "m.data":
        content = bytearray((options.folder.parent / what).read_bytes())
        content[3] ^= 1
        (options.folder.parent / what).write_bytes(content)
    else:
        arrays = small_data(100)
        np.savez(options.folder.parent / what, **arrays)
    with pytest.raises(UsageError, match=r"cannot resume, '(weights|calib)' was"):
        optimize(replace(options, resume=True))
    assert state(options.folder) == before


DAMAGES: tuple[Callable[[bytes], bytes], ...] = (
    lambda content: b"",
    lambda content: content[: len(content) // 2],
    lambda content: bytes(len(content)),
    lambda content: content.replace(b"0", b"1").replace(b"true", b"null"),
)


@pytest.mark.parametrize("first", [0, 2])
def test_whatever_is_damaged_is_made_again_or_refused(first: int, options: Options) -> None:
    """Results are somebody's from then on, and stay as they are."""
    optimize(options)
    want, whole, damaged = results(options.folder), state(options.folder), []
    for number, (path, content) in enumerate(whole.items(), first):
        path.write_bytes(DAMAGES[number % len(DAMAGES)](content))
        if path.name == "ledger.jsonl" or path.parent.name == ".cache":
            damaged.append(path.name)
        elif path.read_bytes() != content:
            with pytest.raises(UsageError, match=f"{path.name}: was not written by this program, or has changed since"):
                optimize(replace(options, resume=True))
            path.write_bytes(content)
    assert {"ledger.jsonl", "scores.npz", "ridges.json"} <= set(damaged)
    optimize(replace(options, resume=True))
    assert results(options.folder) == want


def test_an_edited_ledger_ships_nothing_that_was_rejected(options: Options) -> None:
    """Edited lines are judged again; where their digests are new as well, what ships is judged as it is written."""
    strict = replace(options, max_drop=0.0, precision="fp32")
    found = optimize(strict)
    assert any(not trial.accepted for trial in found.trials)
    want, path = results(strict.folder), strict.folder / "ledger.jsonl"
    edited = path.read_bytes().replace(b'"accepted": false', b'"accepted": true')
    path.write_bytes(edited)
    again = optimize(replace(strict, resume=True))
    assert {trial.key: trial.accepted for trial in again.trials} == {t.key: t.accepted for t in found.trials}
    assert results(strict.folder) == want
    job = ledgers._digest("", settings_of(open_setup(strict, lambda *_: None)))
    first, *lines = edited.decode().splitlines()
    values = [{k: v for k, v in json.loads(line).items() if k != "digest"} for line in lines]
    path.write_text("\n".join([first, *(ledgers._line(job, value) for value in values), ""]))
    with pytest.raises(BudgetError, match="does not repeat its trial, so it was removed"):
        optimize(replace(strict, resume=True))
    assert not list(strict.folder.glob("*.onnx")) and not (strict.folder / "report.json").exists()
    optimize(strict)
    assert results(strict.folder) == want
