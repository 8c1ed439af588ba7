"""Samples that what ships answers otherwise: how many score worse or better; those that lost most."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from PIL import Image

from hqp_onnx.arrays import Array, FloatArray
from hqp_onnx.data.batch import LABELS
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.errors import ModelError
from hqp_onnx.evaluation.metrics.outputs import logits_of
from hqp_onnx.evaluation.metrics.scale import Mean
from hqp_onnx.job.results import Change, Changes
from hqp_onnx.job.rows import Measured
from hqp_onnx.job.setup import Setup
from hqp_onnx.runtimes.session import Runner

_SHOWN, _PIXELS = 12, 56
_EQUAL = 1e-9  # of a score
_OF_CLASSES = ("data", "original")


def changes(setup: Setup, original: Measured, shipped: Measured) -> Changes | None:
    """What changed on the report's data; None where the metric has no scores of single samples."""
    scale, before, after = original.scores.scale, original.scores.values, shipped.scores.values
    if not isinstance(scale, Mean) or len(before) != len(after):
        return None
    gain = (after - before) * (1.0 if scale.higher else -1.0)
    worst = [int(sample) for sample in np.argsort(gain, kind="stable")[:_SHOWN] if gain[sample] < -_EQUAL]
    data = setup.data.get("test", setup.data["val"])
    single = original.session.batch in (None, 1) and not data.states
    sessions = (original.session, shipped.session) if single else ()
    found = {sample: _change(setup, data, sample, (before, after), sessions) for sample in sorted(worst)}  # one pass
    shown = tuple(found[sample] for sample in worst)
    return Changes(int((gain < -_EQUAL).sum()), int((gain > _EQUAL).sum()), shown)


def _change(
    setup: Setup, data: Dataset, sample: int, scores: tuple[FloatArray, FloatArray], sessions: tuple[Runner, ...]
) -> Change:
    batch, metric = data.rows(sample, sample + 1), setup.metric
    first, second = (float(values[sample]) for values in scores)
    found = Change(sample, first, second, picture=_picture(batch.feeds))
    if not sessions or metric.labels not in _OF_CLASSES or metric.of_class:
        return found
    try:
        before, after = (int(logits_of(metric.ordered(s.run(batch.feeds))).argmax(1)[0]) for s in sessions)
    except ModelError:  # a metric of one's own, of another output
        return found
    targets = batch.targets.get(LABELS)
    target = int(targets[0]) if targets is not None and targets.shape == (1,) else None
    return replace(found, answers=(before, after), target=target)


def _picture(feeds: Mapping[str, Array]) -> str:
    """The one input that is an image, its darkest value black and its brightest white, as PNG in base64; else ""."""
    images = [pixels for values in feeds.values() if (pixels := _pixels(values)) is not None]
    if len(images) != 1:
        return ""
    image = Image.fromarray(images[0])
    image.thumbnail((_PIXELS, _PIXELS))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _pixels(values: Array) -> Array | None:
    """uint8 [height, width] or [height, width, 3]; None where this is no image."""
    if values.ndim != 4 or values.dtype.kind not in "fu":
        return None
    image = values[0] if values.shape[-1] in (1, 3) else np.moveaxis(values[0], 0, -1)
    if image.shape[-1] not in (1, 3) or min(image.shape[:2]) < 8:
        return None
    image = image.astype(np.float32)
    low, high = float(image.min()), float(image.max())
    levels = ((image - low) * (255 / ((high - low) or 1.0))).astype(np.uint8)
    return np.asarray(levels[..., 0] if levels.shape[-1] == 1 else levels)
