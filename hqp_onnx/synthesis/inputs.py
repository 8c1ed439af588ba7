"""Samples for a model without data, and how far to trust what is made of them.

Floats are pink noise of the mean and spread that the model says (``prior``), then led to where its BatchNormalization
layers have the statistics that they hold (``matching``). Where only these layers know the scale of the inputs, noise
starts from the convention under which they are nearest. Integers pick rows of tables at random, or are 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import Array
from hqp_onnx.counts import counted
from hqp_onnx.data.dataset import Dataset, batch_size
from hqp_onnx.data.memory import ArraySource
from hqp_onnx.errors import DataError, GradientError, ModelError
from hqp_onnx.graphs.shapes import random_feeds
from hqp_onnx.progress import Progress, silent
from hqp_onnx.runtimes.session import Runner
from hqp_onnx.synthesis.matching import Matching, layers_of, matched
from hqp_onnx.synthesis.noise import drawn
from hqp_onnx.synthesis.prior import BYTES, CONVENTIONS, Prior, normalization, rows_picked

COUNT = 64  # samples
NEAR = 0.25  # standard deviations: layers that are nearer than this on average have their statistics
_GIVE = "give calibration data, {--data}"
ADVICE = "Calibrate with 100 real samples instead"


@dataclass(frozen=True)
class MadeInputs:
    """Samples, and what to say of them; ``warnings`` where they are not to be trusted."""

    data: Dataset
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Inputs:
    """Batches by input; ``shared`` have no axis of samples; ``priors`` of those that are floats, None if unknown."""

    feeds: Mapping[str, Array]
    shared: Mapping[str, Array]
    priors: Mapping[str, Prior | None]
    blind: tuple[str, ...]  # integers that pick no rows


def made_inputs(graph: gs.Graph, session: Runner, progress: Progress = silent, seed: int = 0) -> MadeInputs:
    """Samples for the model of ``graph`` (canonical, float), which ``session`` runs; the same in each call.

    Raises:
        DataError: the model runs on no inputs that were tried, or its inputs are text or have no axis of samples.
    """
    examples = next(iter(random_feeds(graph, session)), None)
    if not examples:
        raise DataError(f"the model runs on no inputs that can be made up: {_GIVE}")
    rng, batch = np.random.default_rng(seed), session.batch or 1
    inputs = _drawn(graph, session, examples, -(-COUNT // batch) * batch, rng)
    if not inputs.feeds:
        raise DataError(f"no input has an axis of samples, so none can be made up: {_GIVE}")
    feeds, notes, warnings = _matched(graph, inputs, rng, partial(progress, "making inputs"))
    source = ArraySource("inputs that were made up", feeds, constants=inputs.shared)
    return MadeInputs(Dataset(source, session.inputs, batch_size(session.inputs)), notes, warnings)


def _drawn(
    graph: gs.Graph, session: Runner, examples: Mapping[str, Array], count: int, rng: np.random.Generator
) -> _Inputs:
    tensors = {tensor.name: tensor for tensor in graph.inputs}
    feeds: dict[str, Array] = {}
    shared: dict[str, Array] = {}
    priors: dict[str, Prior | None] = {}
    blind: list[str] = []
    for spec in session.inputs:
        example = examples[spec.name]
        if spec.dtype.kind not in "biufc":
            raise DataError(f"input '{spec.name}' is text: only models of numbers are calibrated")
        if not spec.shape or spec.shape[0] not in (None, session.batch):
            shared[spec.name] = example
            continue
        shape = (count, *example.shape[1:])
        if spec.dtype.kind == "f" or (spec.dtype == np.uint8 and example.ndim > 2):
            known = normalization(tensors[spec.name], shape) or (BYTES if spec.dtype == np.uint8 else None)
            priors[spec.name] = None if known is None else known.within(spec.dtype)
            noise = drawn(rng, priors[spec.name] or CONVENTIONS[0], shape)
            feeds[spec.name] = (noise if spec.dtype.kind == "f" else noise.round()).astype(spec.dtype)
        elif rows := rows_picked(tensors[spec.name]):
            feeds[spec.name] = rng.integers(0, rows, shape).astype(spec.dtype)
        else:
            feeds[spec.name] = np.ones(shape, spec.dtype)
            blind.append(spec.name)
    return _Inputs(feeds, shared, priors, tuple(blind))


Said = tuple[Mapping[str, Array], tuple[str, ...], tuple[str, ...]]
"""Inputs, notes, warnings."""


def _matched(graph: gs.Graph, inputs: _Inputs, rng: np.random.Generator, progress: partial[None]) -> Said:
    floats = [name for name, x in inputs.feeds.items() if x.dtype.kind == "f"]
    layers = layers_of(graph)
    if not layers:
        return inputs.feeds, (), (_unmatched(inputs, "No BatchNormalization is left to say"),)
    try:
        if not floats or inputs.shared:
            raise GradientError("they are matched only where inputs are floats and have an axis of samples")
        matching = Matching(graph, layers, inputs.feeds, floats)
        with np.errstate(invalid="ignore", over="ignore"):  # where a convention is not what the model is defined for
            feeds, priors = _nearest(matching, inputs, rng)
            feeds = matched(matching, feeds, priors, progress)
            error = matching.error(feeds)
        if not math.isfinite(error):
            raise GradientError("their values are NaN or infinite")
    except (GradientError, ModelError) as e:
        note = f"BatchNormalization layers are of no help: {e}"
        return inputs.feeds, (note,), (_unmatched(inputs, "Nothing says"),)
    said = (
        f"No data: {len(feeds[floats[0]])} inputs were made up, which meet the statistics of "
        f"{counted(len(matching.layers), 'BatchNormalization layer')} to {error:.2f} standard deviations"
    )
    if error <= NEAR:
        return feeds, (f"{said}. What it costs in accuracy is not known without data",), ()
    return feeds, (), (f"{said}. That is not near: ranges may be wrong. {ADVICE}",)


def _nearest(
    matching: Matching, inputs: _Inputs, rng: np.random.Generator
) -> tuple[Mapping[str, Array], dict[str, Prior]]:
    """The start, and what bounds it: where the model does not say, the convention that fits its layers best."""
    known = {name: prior for name, prior in inputs.priors.items() if prior is not None}
    unknown = [name for name in inputs.priors if name not in known]
    tried = []
    for convention in CONVENTIONS if unknown else CONVENTIONS[:1]:
        priors = {**known, **dict.fromkeys(unknown, convention)}
        noise = {name: drawn(rng, convention, inputs.feeds[name].shape) for name in unknown}
        feeds = {**inputs.feeds, **{name: x.astype(inputs.feeds[name].dtype) for name, x in noise.items()}}
        tried.append((matching.error(feeds), feeds, priors))
    _, feeds, priors = min(tried, key=lambda each: (math.isnan(each[0]), each[0]))
    return feeds, priors


def _unmatched(inputs: _Inputs, nothing: str) -> str:
    """What is known of the inputs without layers that hold statistics; ``nothing`` says what between them."""
    unknown = [name for name, prior in inputs.priors.items() if prior is None]
    if unknown:
        return (
            f"No data, and nothing in the model says what '{unknown[0]}' holds: noise of mean 0 and standard deviation "
            "1 was taken. Where inputs are something else, as pixels of 0 to 255, many answers are wrong. "
            f"{ADVICE}, or take the precision dynamic, which needs none"
        )
    if inputs.blind:
        return f"No data: '{inputs.blind[0]}' was taken to be 1 throughout. {ADVICE}"
    if inputs.priors:
        return (
            "No data: noise was taken, of the mean and spread that the model's first nodes or types say. "
            f"{nothing} what lies between its layers, so ranges are rough. {ADVICE}"
        )
    return f"No data: numbers were drawn at random, all as likely. Ranges are rough. {ADVICE}"
