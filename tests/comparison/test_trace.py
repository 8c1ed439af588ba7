"""Own errors against closed forms on linear models, and damage found in a pruned and quantized chain."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from oracle import masked

from hqp_onnx.comparison.contenders import open_contenders
from hqp_onnx.comparison.lineage import find_lineage
from hqp_onnx.comparison.trace import Trace, trace
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.memory import ArraySource
from hqp_onnx.data.sources import open_dataset
from hqp_onnx.errors import ModelError
from hqp_onnx.steps.prune import Pruning, prune_file

LINEAR = '<ir_version: 8, opset_import: ["" : 17]> g (float[{n},6] x) => (float[{n},4] y) {{ {body} }}'
RNG = np.random.default_rng(0)
W1, W2 = RNG.standard_normal((6, 5)).astype(np.float32), RNG.standard_normal((5, 4)).astype(np.float32)
X = RNG.standard_normal((20, 6)).astype(np.float32)


def save(path: Path, n: str = "n", body: str = "h = MatMul(x, w1) y = MatMul(h, w2)", **weights: np.ndarray) -> str:
    model = onnx.parser.parse_model(LINEAR.format(n=n, body=body))
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in weights.items())
    onnx.save(model, path)
    return str(path)


def run(first: str, second: str, samples: int = 20, tolerance: float = 0.1) -> Trace:
    pair = open_contenders([first, second])
    data = Dataset(ArraySource("test", {"x": X}), pair[0].session.inputs)
    return trace(*pair, data, None, samples, tolerance)


def spread(values: np.ndarray) -> float:
    """Root of half the energy of the differences between neighbours, the last and the first too."""
    total = sum(np.sum((values[i] - values[i - 1]) ** 2) for i in range(len(values)))
    return float(np.sqrt(total / 2))


def test_own_errors_are_those_of_each_layer_on_the_others_inputs(tmp_path: Path) -> None:
    d1, d2 = (0.3 * RNG.standard_normal(w.shape).astype(np.float32) for w in (W1, W2))
    first = save(tmp_path / "a.onnx", w1=W1, w2=W2)
    second = save(tmp_path / "b.onnx", w1=W1 + d1, w2=W2 + d2)
    h, y = run(first, second, tolerance=0.2).tensors
    x = X.astype(np.float64)
    theirs = x @ (W1 + d1)
    assert h.own == h.error == pytest.approx(np.linalg.norm(x @ d1) / spread(x @ W1), rel=1e-5)
    assert y.own == pytest.approx(np.linalg.norm(theirs @ d2) / spread(theirs @ W2), rel=1e-5)
    whole = np.linalg.norm(theirs @ (W2 + d2) - x @ W1 @ W2)
    assert y.error == pytest.approx(whole / spread(theirs @ W2), rel=1e-5)
    assert (h.allowed, y.allowed) == (0.2, 0.2)
    assert (h.op, h.channels, h.of) == ("MatMul", 0, 0)


def test_errors_before_a_layer_cancel(tmp_path: Path) -> None:
    first, second = save(tmp_path / "a.onnx", w1=W1, w2=W2), save(tmp_path / "b.onnx", w1=-W1, w2=W2)
    found = run(first, second)
    h, y = found.tensors
    assert found.first == h
    assert y.error > 1
    assert y.own < 1e-6
    assert not y.divergent


def test_a_layer_that_reads_missing_channels_may_err_as_much_as_the_plain_cut(tmp_path: Path) -> None:
    """Channels 1 and 3 of h are removed without a refit, so the layer's own error is exactly what is allowed extra."""
    keep = [0, 2, 4]
    first = save(tmp_path / "a.onnx", w1=W1, w2=W2)
    second = save(tmp_path / "b.onnx", w1=W1[:, keep], w2=W2[keep])
    digest = hashlib.sha256(Path(first).read_bytes()).hexdigest()
    (tmp_path / "ledger.json").write_text(
        f'{{"model_sha256": "{digest}", "removed": {{"w1": {{"1": [1, 3]}}, "w2": {{"0": [1, 3]}}}}}}'
    )
    pair = open_contenders([first, second])
    data = Dataset(ArraySource("test", {"x": X}), pair[0].session.inputs)
    h, y = trace(*pair, data, find_lineage([Path(first), Path(second)], []), 20, 0.1).tensors
    x = X.astype(np.float64)
    assert (h.channels, h.of) == (3, 5)
    assert h.error < 1e-6
    cut = np.linalg.norm(x @ W1[:, [1, 3]] @ W2[[1, 3]]) / spread(x @ W1 @ W2)
    assert y.own == pytest.approx(cut, rel=1e-5)
    assert y.allowed == pytest.approx(0.1 + cut, rel=1e-5)


def test_small_batches_give_what_one_batch_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = save(tmp_path / "a.onnx", w1=W1, w2=W2)
    second = save(tmp_path / "b.onnx", w1=W1, w2=W2 + 0.1)
    whole = run(first, second)
    monkeypatch.setattr(
        "hqp_onnx.comparison.trace.MEMORY", 1
    )  # one sample at a time: the signal is the energy of the whole
    single = run(first, second)
    assert (whole.samples, single.samples) == (20, 20)
    y = X.astype(np.float64) @ W1 @ W2
    assert whole.tensors[1].own * spread(y) == pytest.approx(single.tensors[1].own * np.linalg.norm(y), rel=1e-5)


def test_not_a_number_diverges_and_names_the_layer(tmp_path: Path) -> None:
    body = "h = MatMul(x, w1) l = Log(h) y = MatMul(h, w2)"
    first = save(tmp_path / "a.onnx", body=body.replace("Log", "Abs"), w1=W1, w2=W2)
    found = run(first, save(tmp_path / "b.onnx", body=body, w1=W1, w2=W2))
    assert found.first is not None
    assert (found.first.tensor, found.first.own) == ("l", float("inf"))


def test_fixed_batches(tmp_path: Path) -> None:
    """20 samples in batches of 8: the last is filled up."""
    first, second = (
        save(tmp_path / f"{name}.onnx", w1=W1, w2=w2, n=n) for name, n, w2 in (("a", "n", W2), ("b", "8", -W2))
    )
    found = run(first, second)
    assert found.tensors[0].error < 1e-6
    assert found.first is not None
    assert found.first.tensor == "y"
    with pytest.raises(ModelError, match="different fixed batch sizes"):
        run(save(tmp_path / "c.onnx", n="4", w1=W1, w2=W2), second)


def test_nothing_shared_is_an_error(tmp_path: Path) -> None:
    first = save(tmp_path / "a.onnx", w1=W1, w2=W2)
    body = "k = MatMul(x, w1) z = MatMul(k, w2) y = Identity(z)"
    other = save(
        tmp_path / "b.onnx", body=body.replace("y = Identity(z)", "y = ReduceSum<keepdims=1>(z)"), w1=W1, w2=W2
    )
    with pytest.raises(ModelError, match="share no floating-point tensor"):
        run(first, other)


def test_pruned_channels_are_mapped_to_those_of_the_original(chain: dict[str, str], tmp_path: Path) -> None:
    """The original whose removed slices are zero computes what the plain cut computes, tensor by tensor."""
    plain, ledger = tmp_path / "plain.onnx", tmp_path / "l.json"
    prune_file(Path(chain["original"]), plain, Pruning(0.3), ledger=ledger)
    removed = json.loads(ledger.read_text())["removed"]
    slices = {name: {int(axis): np.array(gone) for axis, gone in axes.items()} for name, axes in removed.items()}
    zeroed = tmp_path / "zeroed.onnx"
    onnx.save(masked(onnx.load(chain["original"]), slices), zeroed)
    lineage = find_lineage([Path(chain["original"])], [ledger])
    pair = open_contenders([str(zeroed), str(plain)])
    found = trace(*pair, open_dataset(chain["data"], pair[0].session.inputs), lineage, 60, 0.1)
    assert not found.unmatched
    assert {t.tensor for t in found.tensors} == {"c1", "r1", "c2", "r2", "p", "f", "y"}
    assert max(t.error for t in found.tensors) < 1e-5
    assert any(0 < t.channels < t.of for t in found.tensors)


LAYERS = {"w1": "c1", "w2": "c2", "w3": "y"}


@pytest.mark.parametrize("weight", [None, *LAYERS])
@pytest.mark.parametrize("step", [("original", "pruned"), ("pruned", "int8"), ("original", "int8")], ids="-".join)
def test_a_damaged_layer_is_found(
    chain: dict[str, str], damaged: Callable[[str, str], str], step: tuple[str, str], weight: str | None
) -> None:
    first, second = (chain[name] for name in step)
    lineage = find_lineage([Path(chain[name]) for name in ("original", "pruned", "int8")], [])
    if weight is not None:
        stored = [t.name for t in onnx.load(second).graph.initializer]
        second = damaged(second, next(n for n in stored if n == weight or n == f"{weight}/axis0/quantized"))
    pair = open_contenders([first, second])
    found = trace(*pair, open_dataset(chain["data"], pair[0].session.inputs), lineage, 60, 0.1)
    names = [t.tensor for t in found.tensors]
    assert names == [t for t in ("c1", "r1", "c2", "r2", "p", "f", "y") if t in names]
    assert (found.first.tensor if found.first else None) == (LAYERS[weight] if weight else None)
