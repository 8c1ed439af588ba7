"""What looks wrong with the inputs of a model, without targets, so it is said of calibration data, too.

statistics: the first BatchNormalization kept mean and variance of its channels in training. On a few samples, half of
    the channels are off by more than two deviations, or their variance by more than 8 times. If one of the usual
    changes of pixels brings them back, it is named. A model whose BatchNormalization was folded has nothing to compare.
answers: no output changes from sample to sample by more than 0.3 % of its size, as where pixels are divided twice.
constants: all values of an input of floats are one number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx

from hqp_onnx.arrays import Array, FloatArray
from hqp_onnx.counts import counted
from hqp_onnx.data.batch import Batch
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.errors import HqpError
from hqp_onnx.evaluation.pixels import CHANGES, changed, is_image
from hqp_onnx.graphs.nodes import number
from hqp_onnx.runtimes.session import Runner, work_session

SAMPLES, _CHUNK, _BYTES = 128, 8, 1 << 26
_DEVIATIONS, _TIMES = 2.0, 8.0
_CHANGE = 1e-5  # share of the mean square


def suspicious_inputs(model: onnx.ModelProto | None, session: Runner, data: Dataset) -> Iterator[str]:
    """One line at most of one kind; ``model`` is None where there is no ONNX model to look into."""
    name, few = data.source.name, list(spread(data))
    looked_for = (_constants(few, name), _statistics(model, few, name), _answers(session, few, name))
    yield from next((lines for lines in map(list, looked_for) if lines), ())  # one may be why the next looks wrong


def spread(data: Dataset, samples: int = SAMPLES) -> Iterator[Batch]:
    """A few samples from everywhere in the data, which may be sorted; fewer than 128 of large ones."""
    size = sum(x.nbytes for x in data.rows(0, 1).feeds.values())
    samples = min(samples, max(2 * _CHUNK, _BYTES // max(size, 1)))
    parts = [p for whole in data.ranges for p in (whole[i : i + _CHUNK] for i in range(0, len(whole), _CHUNK))]
    chosen = np.unique(np.linspace(0, len(parts) - 1, max(1, samples // _CHUNK)).round().astype(int))
    for number_of_part in chosen:
        yield data.rows(parts[number_of_part].start, parts[number_of_part].stop)


def _constants(few: Sequence[Batch], name: str) -> Iterator[str]:
    count = sum(map(len, few))
    for given, first in few[0].own.items():
        if not first.size:
            continue
        value = first.flat[0]
        if count > 1 and first.dtype.kind == "f" and all((batch.own[given] == value).all() for batch in few):
            yield (
                f"{name}: input '{given}' is {value:g} everywhere in {counted(count, 'sample')}, so nothing is known "
                "of what the model does with other values. Give it as it is in use"
            )


def _answers(session: Runner, few: Sequence[Batch], name: str) -> Iterator[str]:
    found = [session.run(batch.feeds) for batch in few]
    shares = []
    for output in found[0]:
        values = [batch[output] for batch in found]
        if any(not isinstance(x, np.ndarray) or x.ndim < 1 for x in values):
            continue
        alike = {x.shape[1:] for x in values}
        if (
            values[0].dtype.kind == "f"
            and values[0].size
            and len(alike) == 1
            and all(np.isfinite(x).all() for x in values)
        ):
            rows = np.concatenate(values).astype(np.float64)
            shares.append(float(rows.var(0).mean() / max(np.square(rows).mean(), np.finfo(float).tiny)))
    if shares and sum(map(len, few)) > 1 and max(shares) < _CHANGE:
        yield (
            f"the original's outputs hardly depend on the samples of {name}: they change by {_percent(max(shares))} of "
            "their size. Check that inputs are preprocessed as in training (--preprocess)"
        )


def _percent(share: float) -> str:
    return f"{100 * share**0.5:.2g} %"


def _statistics(model: onnx.ModelProto | None, few: Sequence[Batch], name: str) -> Iterator[str]:
    node = None if model is None else _first(model)
    if model is None or node is None:
        return
    known = {tensor.name: onnx.numpy_helper.to_array(tensor).astype(np.float64) for tensor in _kept(model, node)}
    mean, variance = known[node.input[3]], known[node.input[4]] + number(node, "epsilon", 1e-5)
    try:
        session = work_session(model, [node.input[0]])
        shift, times = _off(session, few, mean, variance)
        if shift <= _DEVIATIONS and 1 / _TIMES <= times <= _TIMES:
            return
        after = {change: _off(session, few, mean, variance, change) for change in _changes(few)}
    except HqpError:
        return
    fitting = sorted((off + abs(np.log(ratio)), change) for change, (off, ratio) in after.items() if _fits(off, ratio))
    words = CHANGES[fitting[0][1]] if fitting else ""
    best = f" {words[0].upper()}{words[1:]}, they would be as in training." if words else ""
    yield (
        f"the inputs in {name} are not those that the model was trained on: at its first BatchNormalization "
        f"'{node.name or node.output[0]}' they are {shift:.2g} deviations off, and vary {times**0.5:.2g} times as much "
        f"(medians of the channels).{best} Preprocess them as in training (--preprocess)"
    )


def _first(model: onnx.ModelProto) -> onnx.NodeProto | None:
    """The first BatchNormalization with constant statistics."""
    known = {tensor.name for tensor in model.graph.initializer}
    norms = (node for node in model.graph.node if node.op_type == "BatchNormalization" and len(node.input) == 5)
    return next((node for node in norms if {*node.input[3:]} <= known), None)


def _kept(model: onnx.ModelProto, node: onnx.NodeProto) -> list[onnx.TensorProto]:
    return [tensor for tensor in model.graph.initializer if tensor.name in node.input[3:]]


def _off(
    session: Runner, few: Sequence[Batch], mean: FloatArray, variance: FloatArray, change: str = ""
) -> tuple[float, float]:
    """Medians over the channels: deviations that the mean is off, and how many times the variance is as large."""
    count, sums, squares = 0, np.zeros(len(mean)), np.zeros(len(mean))
    for batch in few:
        (x,) = session.run(_with(batch.feeds, change)).values()
        values = np.moveaxis(x, 1, 0).reshape(len(mean), -1).astype(np.float64) - mean[:, None]
        count, sums, squares = count + values.shape[1], sums + values.sum(1), squares + np.square(values).sum(1)
    off = sums / count
    return float(np.median(np.abs(off) / np.sqrt(variance))), float(np.median((squares / count - off**2) / variance))


def _with(feeds: Mapping[str, Array], change: str) -> dict[str, Array]:
    return {name: changed(x, change) if change and is_image(x) else x for name, x in feeds.items()}


def _fits(shift: float, times: float) -> bool:
    return shift <= _DEVIATIONS / 2 and 2 / _TIMES <= times <= _TIMES / 2


def _changes(few: Sequence[Batch]) -> tuple[str, ...]:
    return tuple(CHANGES) if any(is_image(x) for x in few[0].feeds.values()) else ()
