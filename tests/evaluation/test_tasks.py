"""Every metric against plain loops, for the layouts that outputs come in."""

from __future__ import annotations

import numpy as np
import pytest
from metric_oracles import greedy, judged, levenshtein, macro, miou, per_class

from hqp_onnx.errors import DataError
from hqp_onnx.evaluation.metrics import METRICS
from hqp_onnx.evaluation.metrics.neighbours import OF_ORIGINAL

RNG = np.random.default_rng(3)


def values(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


MASKS = RNG.integers(-1, 5, (23, 6, 4))
MASKS[RNG.random(MASKS.shape) < 0.1] = 255
MAPS = values(23, 5, 6, 4)


@pytest.mark.parametrize("form", ["logits", "class numbers", "classes last"])
def test_miou_is_of_all_positions_together(form: str) -> None:
    output = {"logits": MAPS, "class numbers": MAPS.argmax(1), "classes last": np.moveaxis(MAPS, 1, 3)}[form]
    found = judged("miou", {"y": output}, MASKS)
    assert found.metric == pytest.approx(miou(MAPS.argmax(1), MASKS), abs=1e-12)
    assert found.complete and found.samples == 23


def test_a_mask_of_one_channel_is_a_yes_or_no() -> None:
    masks, logits = RNG.integers(0, 2, (9, 4, 4)), values(9, 1, 4, 4)
    assert judged("miou", {"y": logits}, masks).metric == pytest.approx(miou(logits[:, 0] > 0, masks))


@pytest.mark.parametrize("kind", ["f1", "precision", "recall"])
@pytest.mark.parametrize("classes", [4, 100])  # statistics of 100 classes are stored sparsely
def test_macro_averages_over_the_classes_that_occur(kind: str, classes: int) -> None:
    labels, logits = RNG.integers(0, classes, 61), values(61, classes)
    rows = per_class(logits.argmax(1), labels, lambda w: False)
    assert judged(kind, {"y": logits}, labels).metric == pytest.approx(macro(kind, rows), abs=1e-12)


@pytest.mark.parametrize("kind", ["f1", "precision", "recall"])
@pytest.mark.parametrize("form", ["logits", "probabilities", "float targets", "one tag"])
def test_tags_are_decisions_of_their_own(kind: str, form: str) -> None:
    tags, logits = RNG.integers(0, 2, (53, 6)), values(53, 6)
    yes = logits > 0
    if form == "one tag":
        tags, logits, yes = tags[:, :1], logits[:, :1], yes[:, :1]
    output = 1 / (1 + np.exp(-logits)) if form == "probabilities" else logits
    wanted = tags.astype(np.float32) if form == "float targets" else tags
    rows = [(int((y & (t == 1)).sum()), int(y.sum()), int(t.sum())) for y, t in zip(yes.T, tags.T, strict=True)]
    assert judged(kind, {"y": output}, wanted, size=1).metric == pytest.approx(macro(kind, rows), abs=1e-12)


def test_values_of_several_columns_and_missing_targets() -> None:
    y, t = values(31, 3), values(31, 3)
    t[RNG.random(t.shape) < 0.2] = np.nan
    t[4] = np.nan
    error, known = (y - t).astype(np.float64), ~np.isnan(t)
    of_samples = [np.mean(error[i, known[i]] ** 2) for i in range(31) if known[i].any()]
    assert judged("rmse", {"y": y}, t).metric == pytest.approx(np.sqrt(np.mean(of_samples)))
    of_samples = [np.mean(np.abs(error[i, known[i]])) for i in range(31) if known[i].any()]
    assert judged("mae", {"y": y}, t).metric == pytest.approx(np.mean(of_samples))
    columns = [
        1 - np.sum(error[k, c] ** 2) / np.sum((t[k, c] - t[k, c].mean(dtype=np.float64)) ** 2)
        for c, k in enumerate(known.T)
    ]
    assert judged("r2", {"y": y}, t).metric == pytest.approx(np.mean(columns))


def test_a_column_of_one_value_fits_a_row_of_values() -> None:
    y, t = values(12, 1), values(12)
    assert judged("rmse", {"y": y}, t).metric == pytest.approx(np.sqrt(np.mean((y[:, 0] - t) ** 2)), rel=1e-6)
    with pytest.raises(DataError, match=r"output 'y' \[7, 2\] and target 'labels' \[7\]: expected the same shape"):
        judged("rmse", {"y": values(12, 2)}, t)


def test_cosine_and_fidelity_by_sample() -> None:
    y, t = values(15, 2, 4), values(15, 2, 4)
    pairs = list(zip(y.reshape(15, -1).astype(float), t.reshape(15, -1).astype(float), strict=True))
    wanted = [a @ b / np.sqrt(a @ a) / np.sqrt(b @ b) for a, b in pairs]
    assert judged("cosine", {"y": y}, t).values == pytest.approx(wanted)
    near = t + 0.3 * values(15, 2, 4)
    numbers = RNG.integers(0, 3, (15, 5))
    others = np.where(RNG.random((15, 5)) < 0.2, 0, numbers)
    found = judged("fidelity", {"a": near, "b": others}, {"a": t, "b": numbers})
    of_a = [max(0.0, 1 - np.sum((p - q) ** 2) / np.sum(q**2)) for p, q in zip(near, t, strict=True)]
    of_b = [(p == q).mean() for p, q in zip(others, numbers, strict=True)]
    assert found.values == pytest.approx((np.array(of_a) + of_b) / 2, abs=1e-6)
    assert found.parts == {"a": pytest.approx(np.mean(of_a), abs=1e-6), "b": pytest.approx(np.mean(of_b))}
    assert judged("fidelity", {"a": t}, {"a": t}).metric == 1
    assert judged("fidelity", {"a": -t}, {"a": t}).metric == 0


@pytest.mark.parametrize("form", ["classes last", "classes first", "class numbers"])
def test_tokens(form: str) -> None:
    wanted, logits = RNG.integers(-1, 3, (29, 5)), values(29, 5, 3)
    wanted[:6] = np.where(wanted[:6] < 0, -100, logits[:6].argmax(2))
    output = {"classes last": logits, "classes first": logits.swapaxes(1, 2), "class numbers": logits.argmax(2)}[form]
    right = [(f == w)[w >= 0] for f, w in zip(logits.argmax(2), wanted, strict=True)]
    assert judged("token-accuracy", {"y": output}, wanted).metric == pytest.approx(np.concatenate(right).mean())
    assert judged("exact-match", {"y": output}, wanted).metric == pytest.approx(np.mean([r.all() for r in right]))


@pytest.mark.parametrize(
    ("blank", "layout"), [(0, "samples first"), (4, "samples first"), (0, "steps first"), (4, "read")]
)
def test_cer_reads_greedily(blank: int, layout: str) -> None:
    steps = RNG.integers(0, 5, (17, 12))
    wanted = [[1 + int(s) for s in RNG.integers(0, 3, RNG.integers(1, 6))] for _ in range(17)]
    wanted = [[s - 1 if blank else s for s in word] for word in wanted]
    assert not blank or any(0 in word for word in wanted)
    target = np.array([word + [-1] * (6 - len(word)) for word in wanted])
    read = [greedy(row.tolist(), blank) for row in steps]
    logits = np.eye(5, dtype=np.float32)[steps]
    if layout == "read":
        logits = np.array([word + [-1] * (12 - len(word)) for word in read])
    if layout == "steps first":
        logits = logits.swapaxes(0, 1)
    found = judged("cer", {"y": logits}, target, size=17)
    distance = sum(levenshtein(a, b) for a, b in zip(read, wanted, strict=True))
    assert found.metric == pytest.approx(distance / sum(map(len, wanted)))
    assert not found.scale.higher


def test_the_nearest_neighbour_is_found_by_cosine() -> None:
    embeddings, labels = values(40, 8), RNG.integers(0, 4, 40)
    original = embeddings + 0.5 * values(40, 8)

    def nearest(rows: np.ndarray, i: int) -> int:
        similar = [
            -2.0 if i == j else float(rows[i] @ rows[j] / np.linalg.norm(rows[i]) / np.linalg.norm(rows[j]))
            for j in range(len(rows))
        ]
        return int(np.argmax(similar))

    near = [nearest(embeddings.astype(float), i) for i in range(40)]
    by_label = judged("recall@1", {"e": embeddings}, labels)
    assert by_label.values.tolist() == [float(labels[i] == labels[j]) for i, j in enumerate(near)]
    by_original = judged(OF_ORIGINAL, {"e": embeddings}, {"e": original})
    before = [nearest(original.astype(float), i) for i in range(40)]
    assert by_original.values.tolist() == [float(a == b) for a, b in zip(near, before, strict=True)]


def test_every_metric_is_tried_here() -> None:
    elsewhere = {"top1", "top5", "agreement", "map", "map50"}
    here = {"miou", "f1", "precision", "recall", "rmse", "mae", "r2", "cosine", "fidelity", "token-accuracy"}
    assert set(METRICS.own) == elsewhere | here | {"exact-match", "cer", "recall@1"}


@pytest.mark.parametrize(
    ("metric", "output", "target", "words"),
    [
        (
            "miou",
            values(4, 3, 2, 2),
            RNG.integers(0, 3, (4, 8, 8)),
            r"'y' \[4, 3, 2, 2\] and target 'labels' \[4, 8, 8\]",
        ),
        ("miou", values(4, 3, 2, 2), np.full((4, 2, 2), 7), "holds 7, which is no class"),
        ("token-accuracy", values(4, 5, 3), values(4, 5), "expected class numbers"),
        ("f1", values(4, 2), np.full((4, 2), 3), "expected 0 or 1"),
        ("cer", values(4, 5), RNG.integers(0, 3, (4, 3)), "cer needs"),
        ("recall@1", values(4, 5), np.arange(4), "no label is there twice"),
    ],
)
def test_what_does_not_fit_is_said(metric: str, output: np.ndarray, target: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=words):
        judged(metric, {"y": output}, target)


def test_samples_that_are_not_finite_are_left_out_of_sums() -> None:
    y, t = values(20, 2), values(20, 2)
    broken = y.copy()
    broken[[0, 1, 2, 3, 4, 5, 6, 11]] = np.nan  # all of the first batch
    found, clean = judged("rmse", {"y": broken}, t), [*range(7, 11), *range(12, 20)]
    assert found.nonfinite.samples == 8 and found.complete
    assert found.metric == pytest.approx(np.sqrt(np.mean((y[clean] - t[clean]) ** 2)))
    assert np.isnan(judged("rmse", {"y": np.full_like(y, np.nan)}, t).metric)
    assert judged("cosine", {"y": broken}, t).values[0] == -1
