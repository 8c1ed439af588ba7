"""What looks wrong with a model on its data, before anything is made of it: one line each, with what to do.

chance: the original is not surely better than always giving the most common label, or right less than twice as often
    as chance (of ten classes or more, where labels are shuffled, in another order, or inputs are not as in training).
    Of other metrics: on some samples, the original is not surely better than on the targets of others among them.
one answer: most answers are one class that most labels are not.
inputs: on a few samples, with their values scaled or their channels reversed as people do, the original is surely
    right more often, by ten points or more. Without labels: ``suspicious_inputs``. Nothing is concluded from the values
    alone: a model may take pixels.
classes: more classes are missing from the labels than chance leaves out.
splits: sub-folders named as sets are taken for classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from hqp_onnx.arrays import IntArray
from hqp_onnx.counts import counted
from hqp_onnx.data.batch import Batch
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.errors import HqpError
from hqp_onnx.evaluation.metrics import Metric, Scores, classes
from hqp_onnx.evaluation.metrics.outputs import logits_of
from hqp_onnx.evaluation.paired import upper_bound, upper_bound_of_counts
from hqp_onnx.evaluation.pixels import CHANGES, changed, is_image
from hqp_onnx.evaluation.suspicious_inputs import spread
from hqp_onnx.runtimes.session import Runner

_SURE = 0.975
_BETTER, _SURELY_BETTER = 0.1, 0.999
_GOOD = 0.9  # an original that is right as often as that is not suspected of wrong inputs
_MANY = 10  # classes
_LEAST, _ALIKE = 30, 0.98  # samples, and the share of a target that others may have in common
_SETS = ("train", "training", "val", "valid", "validation", "test", "testing", "calib", "calibration", "dev")


def suspicions(session: Runner, data: Dataset, metric: Metric, scores: Scores) -> Iterator[str]:
    """What looks wrong, by the ``scores`` of the original on ``data``."""
    name = data.source.name
    yield from _splits(name)
    if metric.name == "r2" and scores.metric <= 0:
        yield (
            f"the original's r2 on {name} is {scores.metric:.3g}: the mean of the targets would be no worse. Check "
            "that inputs are preprocessed as in training, and that targets belong to these samples, in the same units"
        )
    if metric.labels in ("targets", "any") and not data.states:
        yield from _own_targets(session, list(spread(data)), metric, name)
    labels = data.labels
    if labels is None or metric.name not in ("top1", "agreement"):
        return
    count = classes(session.outputs, metric.output) or int(labels.max()) + 1
    few = list(spread(data))
    try:
        answers = _answers(session, few, metric)
    except HqpError:
        return  # outputs that are no answers are said elsewhere
    if metric.name == "agreement":
        yield from _one_answer(labels, None, count, name)
        return
    yield from _missing(labels, count, name)
    yield from _chance(scores, labels, count, name)
    yield from _one_answer(answers, labels, count, name)
    if scores.metric < _GOOD:
        yield from _inputs(session, few, metric, answers, name)


def _own_targets(session: Runner, few: list[Batch], metric: Metric, name: str) -> Iterator[str]:
    """Whether targets that are dealt anew are as good."""
    said = metric.quantity.said
    try:
        targets = {target: np.concatenate([batch.targets[target] for batch in few]) for target in few[0].targets}
        dealt = np.random.default_rng(0).permutation(sum(map(len, few)))
        moved = {target: values[dealt] for target, values in targets.items()}
        if len(dealt) < _LEAST or all((moved[x] == targets[x]).mean() > _ALIKE for x in targets):
            return
        tallies, start = (metric.tally(len(dealt)), metric.tally(len(dealt))), 0
        for batch in few:
            outputs, rows = session.run(batch.feeds), slice(start, start := start + len(batch))
            tallies[0].add(outputs, batch)
            tallies[1].add(outputs, replace(batch, targets={target: x[rows] for target, x in moved.items()}))
        own, others = (tally.scores() for tally in tallies)
        surely = own.drop_to(others).low
    except (HqpError, ValueError):  # ValueError: of several shapes
        return
    if not surely > 0:
        yield (
            f"the original's {metric.name} is {said(own.metric)} on {counted(len(dealt), 'sample')} of {name}, and "
            f"{said(others.metric)} with the targets of other samples, so it is not surely better with its own. Check "
            "that inputs are preprocessed as in training (--preprocess), and that targets belong to these samples"
        )


def _splits(name: str) -> Iterator[str]:
    folder = Path(name)
    if folder.is_dir() and (sets := sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name.lower() in _SETS)):
        yield (
            f"{name}: the sub-folders {', '.join(sets)} are taken for classes. If they are sets of data, give one of "
            f"them, as {folder / sets[0]}"
        )


def _missing(labels: IntArray, count: int, name: str) -> Iterator[str]:
    missing = sorted(set(range(count)) - set(np.unique(labels).tolist()))
    expected = count * (1 - 1 / count) ** len(labels)
    if len(missing) > expected + 3 * np.sqrt(expected) + 0.5:
        of = f"of the model's {count} classes"
        folders = _folders(name, count)
        which = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        yield (
            f"{name}: {counted(len(missing), f'{of} has', f'{of} have')} no sample ({which}), so nothing is known of "
            f"them. Take samples of all classes, and check that labels are the model's class numbers{folders}"
        )


def _folders(name: str, count: int) -> str:
    """What a class that has no folder does to the others."""
    folders = sum(path.is_dir() for path in Path(name).iterdir()) if Path(name).is_dir() else 0
    if not 0 < folders < count:
        return ""
    order = f"Sub-folders are classes 0 to {folders - 1} in the order of their names"
    return f". {order}: one that is missing shifts those behind it"


def _chance(scores: Scores, labels: IntArray, count: int, name: str) -> Iterator[str]:
    samples, right = scores.samples, round(scores.metric * scores.samples)
    common = float(np.bincount(labels).max() / len(labels))
    if common == 1:  # which is said as missing classes
        return
    surely = 1 - upper_bound_of_counts(samples - right, 0, samples, _SURE)
    floor, what = (common, "one answer to all") if common > 1.5 / count else (1 / count, "chance")
    if surely > floor and (count < _MANY or scores.metric >= 2 / count):
        return
    yield (
        f"the original is right on {100 * scores.metric:.1f} % of {name}, and {what} on {100 * floor:.1f} %. Check "
        "that inputs are preprocessed as in training (--preprocess), and that labels belong to these samples and are "
        "the model's class numbers"
    )


def _one_answer(answers: IntArray, labels: IntArray | None, count: int, name: str) -> Iterator[str]:
    numbers = np.bincount(answers)
    most, share = int(numbers.argmax()), float(numbers.max() / len(answers))
    usual = 0.5 if labels is None else float((labels == most).mean())
    if share < 0.5 or share < (1.5 * usual if labels is not None else 0.6 if count > 2 else 0.99):
        return
    advice = (
        "Check that inputs are preprocessed as in training"
        if labels is not None
        else "Of an embedding, use --metric recall@1 or fidelity; else check the preprocessing"
    )
    yield f"{100 * share:.0f} % of the original's answers on {name} are class {most} of {count}. {advice}"


def _answers(session: Runner, batches: list[Batch], metric: Metric, change: str = "") -> IntArray:
    parts = []
    for batch in batches:
        feeds = {name: changed(x, change) if change and is_image(x) else x for name, x in batch.feeds.items()}
        parts.append(logits_of(metric.ordered(session.run(feeds))).argmax(1))
    return np.concatenate(parts)


def _inputs(session: Runner, few: list[Batch], metric: Metric, answers: IntArray, name: str) -> Iterator[str]:
    """The change of the inputs that helps most, if it surely helps."""
    if not any(is_image(x) for x in few[0].feeds.values()):
        return
    labels = np.concatenate([batch.labels for batch in few if batch.labels is not None])
    before = (answers == labels).astype(np.float64)
    after = {change: (_answers(session, few, metric, change) == labels).astype(np.float64) for change in CHANGES}
    best = max(after, key=lambda change: float(after[change].mean()))
    gain = after[best].mean() - before.mean()
    if gain >= _BETTER and upper_bound(before - after[best], _SURELY_BETTER) < 0:
        yield (
            f"the inputs in {name} are not what the model expects: {CHANGES[best]}, the original is right on "
            f"{100 * after[best].mean():.0f} % of {counted(len(labels), 'sample')}, and as they are on "
            f"{100 * before.mean():.0f} %. Preprocess them as in training (--preprocess)"
        )
