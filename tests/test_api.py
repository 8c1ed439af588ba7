"""The ModelProto functions do what the command line does, on models and data in memory."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from oracle import run, worst_error
from small_model import small_data, small_model

import hqp_onnx
from hqp_onnx.errors import DataError, HqpError, ModelError, UsageError
from hqp_onnx.steps.prune import Pruning, prune_file

DATA = small_data()


def test_pruned_computes_the_original_with_zeroed_slices(tmp_path: Path) -> None:
    model = small_model()
    before = model.SerializeToString()
    pruned = hqp_onnx.prune(model, sparsity=0.4, multiple_of=4)
    assert model.SerializeToString() == before
    onnx.save(model, tmp_path / "m.onnx")
    prune_file(tmp_path / "m.onnx", tmp_path / "p.onnx", Pruning(0.4, multiple_of=4), ledger=tmp_path / "ledger.json")
    removed = json.loads((tmp_path / "ledger.json").read_text())["removed"]
    assert worst_error(model, pruned, removed, {"input": DATA["input"]}) <= 1e-5
    assert pruned.ByteSize() < 0.8 * model.ByteSize()
    assert pruned.SerializeToString(deterministic=True) == (tmp_path / "p.onnx").read_bytes()


def test_data_may_be_arrays_feeds_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "few.npz"
    np.savez(path, **DATA)
    images, labels = DATA["input"], DATA["labels"]
    feeds = [({"input": images[i : i + 10]}, labels[i : i + 10]) for i in (0, 10, 20)]
    forms: list[Any] = [path, str(path), DATA, feeds, iter(feeds)]
    options: dict[str, Any] = {"sparsity": 0.2, "saliency": "fisher", "compensate": True}
    results = {hqp_onnx.prune(small_model(), data=form, **options).SerializeToString() for form in forms}
    assert len(results) == 1


def test_quantized_agrees_with_the_original() -> None:
    model, feeds = small_model(), {"input": DATA["input"]}
    int8 = hqp_onnx.quantize(model, data=DATA, calibration="minmax")
    assert {t.data_type for t in int8.graph.initializer if len(t.dims) == 4} == {onnx.TensorProto.INT8}
    want, have = run(model, feeds)[0], run(int8, feeds)[0]
    assert np.abs(want - have).max() <= 0.05 * np.abs(want).max()


def bad_calls() -> list[tuple[type[HqpError], str, Any]]:
    model = small_model()
    small = {"input": DATA["input"][:, :, :4]}
    return [
        (UsageError, "sparsity 1.0", lambda: hqp_onnx.prune(model, sparsity=1.0)),
        (UsageError, "magic", lambda: hqp_onnx.prune(model, sparsity=0.1, saliency="magic")),
        (UsageError, "min_width 2", lambda: hqp_onnx.prune(model, sparsity=0.1, min_width=2.0)),
        (UsageError, "multiple_of 0", lambda: hqp_onnx.prune(model, sparsity=0.1, multiple_of=0)),
        (UsageError, "compensate needs", lambda: hqp_onnx.prune(model, sparsity=0.1, compensate=True)),
        (UsageError, "nothing*", lambda: hqp_onnx.prune(model, sparsity=0.1, keep=("nothing*",))),
        (UsageError, "abacus", lambda: hqp_onnx.quantize(model, data=DATA, target="abacus")),
        (UsageError, "guess", lambda: hqp_onnx.quantize(model, data=DATA, calibration="guess")),
        (UsageError, "preprocess is for", lambda: hqp_onnx.quantize(model, data=DATA, preprocess="p.json")),
        (DataError, "shape", lambda: hqp_onnx.quantize(model, data=small)),
        (DataError, "no array for model input", lambda: hqp_onnx.quantize(model, data={"image": DATA["input"]})),
        (DataError, "yields nothing", lambda: hqp_onnx.quantize(model, data=[])),
        (DataError, "item 1", lambda: hqp_onnx.quantize(model, data=[{"input": DATA["input"]}, 7])),
        (DataError, "no such file", lambda: hqp_onnx.quantize(model, data="none.npz")),
        (ModelError, "not an ONNX model", lambda: hqp_onnx.prune(onnx.ModelProto(), sparsity=0.1)),
    ]


def test_bad_input_is_one_line() -> None:
    for kind, part, call in bad_calls():
        with pytest.raises(kind) as caught:
            call()
        assert part in str(caught.value) and "\n" not in str(caught.value), part


def test_a_model_without_its_external_data_is_refused(tmp_path: Path) -> None:
    options: dict[str, Any] = {"save_as_external_data": True, "location": "m.data", "size_threshold": 0}
    onnx.save_model(small_model(), tmp_path / "m.onnx", **options)
    whole, bare = (onnx.load(tmp_path / "m.onnx", load_external_data=load) for load in (True, False))
    have, want = (run(hqp_onnx.prune(m, sparsity=0.2), {"input": DATA["input"]})[0] for m in (whole, small_model()))
    assert np.array_equal(have, want)
    with pytest.raises(ModelError, match="external data of 'w1' are not loaded"):
        hqp_onnx.prune(bare, sparsity=0.2)


def test_a_quantized_model_is_refused() -> None:
    int8 = hqp_onnx.quantize(small_model(), data=DATA, calibration="minmax")
    with pytest.raises(ModelError, match="already quantized"):
        hqp_onnx.quantize(int8, data=DATA)


def test_recovered_is_closer_to_the_original_and_keeps_its_form() -> None:
    model, images = small_model(), small_data(120)["input"]
    pruned = hqp_onnx.prune(model, sparsity=0.5)
    before = [m.SerializeToString() for m in (model, pruned)]
    for student in (pruned, hqp_onnx.quantize(pruned, data={"input": images}, calibration="minmax")):
        found = hqp_onnx.recover(student, model, {"input": images[:80]}, epochs=3, batch=8)
        want, old, new = (run(m, {"input": images[80:]})[0] for m in (model, student, found))
        assert np.square(new - want).sum() < 0.5 * np.square(old - want).sum()
        assert {t.name: (t.data_type, *t.dims) for t in found.graph.initializer} == {
            t.name: (t.data_type, *t.dims) for t in student.graph.initializer
        }
    assert [m.SerializeToString() for m in (model, pruned)] == before


@pytest.mark.parametrize("wrong", [None, 5, b"model"])
def test_what_is_no_model_is_refused(wrong: Any) -> None:
    for call in (hqp_onnx.inspect, lambda m: hqp_onnx.prune(m, 0.1), lambda m: hqp_onnx.evaluate(m, DATA)):
        with pytest.raises(UsageError, match=r"the model is an? .*: expected a path or a ModelProto"):
            call(wrong)


@pytest.mark.parametrize("wrong", [None, 5, lambda: None, lambda: 1 / 0])
def test_what_is_no_data_is_refused(wrong: Any) -> None:
    with pytest.raises(DataError, match=r"the data"):
        hqp_onnx.evaluate(small_model(), wrong)


def test_data_may_be_a_function() -> None:
    found = hqp_onnx.evaluate(small_model(), lambda: iter([({"input": DATA["input"]}, DATA["labels"])]))
    assert found.metric == hqp_onnx.evaluate(small_model(), DATA).metric


def test_one_name_is_a_list_of_one(tmp_path: Path) -> None:
    model, options = small_model(), {"sparsity": 0.4, "saliency": "l2"}
    one, several = (hqp_onnx.prune(model, keep=keep, **options) for keep in ("w1", ["w1"]))
    assert one == several != hqp_onnx.prune(model, **options)
    onnx.save(model, tmp_path / "m.onnx")
    assert list(hqp_onnx.benchmark(str(tmp_path / "m.onnx"))) == [str(tmp_path / "m.onnx")]


@pytest.mark.parametrize("seed", [-1, 1.5])
def test_seeds_are_whole_numbers(seed: Any) -> None:
    with pytest.raises(UsageError, match=r"^seed "):
        hqp_onnx.prune(small_model(), 0.2, saliency="random", seed=seed)


def test_every_argument_is_documented() -> None:
    """In the functions of the facade, and in the two classes of options."""
    for name in (
        "benchmark",
        "compare",
        "evaluate",
        "prune",
        "quantize",
        "recover",
        "score",
        "Options",
        "BuildOptions",
    ):
        documented = getattr(hqp_onnx, name)
        words = inspect.getdoc(documented) or ""
        for argument in inspect.signature(documented).parameters:
            assert re.search(rf"^\s+([a-z_0-9]+, )*{argument}(, [a-z_0-9]+)*:", words, re.M), (name, argument)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hqp_onnx.Options(3, data={}, output="out"), "model is of type int: expected a path or a ModelProto"),
        (lambda: hqp_onnx.Options("m.onnx", data={}, output="out", shares="0.4,0.3,0.3"), "expected three numbers"),
        (lambda: hqp_onnx.Reading({}, constants=["a=1"]), "constants of a Reading is of type list"),
        (lambda: hqp_onnx.Reading({}, pad="a=0"), "pad of a Reading is of type str"),
        (lambda: hqp_onnx.optimize({"model": "m.onnx"}), "the options are of type dict: expected hqp_onnx.Options"),
    ],
)
def test_values_of_another_type_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()


def test_an_array_is_data_of_a_model_with_one_input() -> None:
    model, x = small_model(), DATA["input"]
    wanted = hqp_onnx.quantize(model, {"input": x}, calibration="minmax")
    for data in (x, [[x[:10]], (x[10:],)]):
        assert hqp_onnx.quantize(model, data, calibration="minmax") == wanted
    with pytest.raises(UsageError, match="progress is None: expected a function"):
        hqp_onnx.quantize(model, x, progress=None)  # type: ignore[arg-type]
