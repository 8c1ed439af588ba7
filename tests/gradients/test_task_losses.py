"""Losses that follow from outputs and targets, against torch's own, one sample at a time."""

import numpy as np
import onnx
import pytest
from gradients.test_losses import Rows, assert_close, autograd_norms, segmenter
from gradients.test_per_sample import array, build, samples
from scored import scored

from hqp_onnx.errors import DataError, GradientError, UsageError
from hqp_onnx.evaluation.metrics.task import Task
from hqp_onnx.gradients import PerSample

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(8)
COUNT, SHAPE = 5, (2, 5, 6)
X = samples(SHAPE, COUNT)[0]
MASKS = RNG.integers(-1, 4, (COUNT, 5, 6))
MASKS[2] = np.where(RNG.random((5, 6)) < 0.3, 255, MASKS[2])
MASKS[4] = -1  # nothing counts
HEADS = {"w": array(3, 2, 3, 3), "v": array(3, 4)}


class Targets(Rows):
    """Samples with targets of any kind."""


def dense(end=""):
    body = "c = Conv <pads = [1, 1, 1, 1]> (x, w) t = Tanh (c) g = GlobalAveragePool (t) f = Flatten (g) "
    return build(body + (f"h = MatMul (f, v) z = {end} (h)" if end else "z = MatMul (f, v)"), SHAPE, HEADS)


def with_end(end):
    """The segmenter, its classes first; or last, with or without a Softmax behind."""
    model = segmenter()
    output = model.graph.output[0].name
    nodes = {
        "": [],
        "softmax": [onnx.helper.make_node("Softmax", [output], ["q"], axis=1)],
        "last": [onnx.helper.make_node("Transpose", [output], ["q"], perm=[0, 2, 3, 1])],
    }[end]
    model.graph.node.extend(nodes)
    if nodes:
        model.graph.output[0].name = "q"
        del model.graph.output[0].type.tensor_type.shape.dim[:]
    return model


@pytest.mark.parametrize("end", ["", "softmax", "last"])
def test_cross_entropy_of_masks(end):
    targets = torch.from_numpy(np.where(MASKS == 255, -1, MASKS))

    def objective(values, i):
        counted = int((targets[i] >= 0).sum())
        total = torch.nn.functional.cross_entropy(values["z"], targets[i : i + 1], ignore_index=-1, reduction="sum")
        return total / max(counted, 1)

    got = scored(with_end(end), Targets(X, MASKS, 2))
    want = autograd_norms(segmenter(), X, objective)
    assert_close(got, {name: rows.mean(0) for name, rows in want.items()})
    net = PerSample(with_end(end), {"x": X}, loss=Task("classes", "q" if end else "z", 3 if end == "last" else 1))
    assert (net.loss.name, net.loss.classes) == ("cross-entropy", 4)
    (encoded,) = net.loss.rounds(range(COUNT), MASKS, None)
    assert all((values[4] == 0).all() for values in net({"x": X}, encoded).values())


@pytest.mark.parametrize("end", ["", "Sigmoid"])
def test_binary_cross_entropy_of_tags(end):
    tags = RNG.integers(0, 2, (COUNT, 4))
    tags[1, 2] = -1

    def objective(values, i):
        known = torch.from_numpy(tags[i] >= 0)
        logits, wanted = values["h" if end else "z"][0][known], torch.from_numpy(tags[i].astype(float))[known]
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted)

    got = scored(dense(end), Targets(X, tags, 3))
    assert_close(got, {name: rows.mean(0) for name, rows in autograd_norms(dense(end), X, objective).items()})


def test_squared_error_of_values():
    values = RNG.standard_normal((COUNT, 4)).astype(np.float32)
    values[3, 1] = np.nan

    def objective(outputs, i):
        known = torch.from_numpy(~np.isnan(values[i]))
        return torch.nn.functional.mse_loss(outputs["z"][0][known], torch.from_numpy(values[i].astype(float))[known])

    want = {name: rows.mean(0) for name, rows in autograd_norms(dense(), X, objective).items()}
    assert_close(scored(dense(), Targets(X, values)), want)
    assert_close(scored(dense(), Targets(X, values), loss="squared-error"), want)


def test_the_loss_follows_from_the_task(caplog):
    """Values of 0 and 1 are values where the metric says so; where it says nothing, outputs are projected."""
    zeros = np.zeros((COUNT, 4))
    caplog.set_level("INFO")
    for task, name in (
        (Task("values", "z", None, "labels"), "squared-error"),
        (Task("any"), "gauss-newton"),
        (None, "binary-cross-entropy"),
    ):
        scored(dense(), Targets(X, zeros), task=task)
        assert caplog.messages[-1] == f"gradients of the loss {name}"
    labels = RNG.integers(0, 4, COUNT)
    scored(dense(), Targets(X, labels))
    assert caplog.messages[-1] == "gradients of the loss cross-entropy"


def test_an_output_that_is_not_the_first_has_a_loss_as_well():
    labels, model = RNG.integers(0, 4, COUNT), dense()
    two = dense()
    two.graph.output.insert(0, onnx.helper.make_tensor_value_info("t", onnx.TensorProto.FLOAT, None))
    assert_close(scored(two, Targets(X, labels), task=Task("classes", "z")), scored(model, Targets(X, labels)))


def test_what_does_not_fit_is_said():
    with pytest.raises(DataError, match=r"label 7 is not a class: expected 0 \.\. 3"):
        scored(with_end(""), Targets(X, np.full((COUNT, 5, 6), 7)))
    with pytest.raises(DataError, match=r"the loss squared-error does not fit .* 'labels' int64\[4, 1\]"):
        scored(with_end(""), Targets(X, RNG.integers(0, 3, COUNT)[:, None]), loss="squared-error")
    with pytest.raises(UsageError, match=r"expected one of .*binary-cross-entropy"):
        scored(dense(), Targets(X, np.zeros((COUNT, 4))), loss="hinge")
    model = with_end("")
    model.graph.node.append(onnx.helper.make_node("ArgMax", ["z"], ["a"], axis=1))
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("a", onnx.TensorProto.INT64, None))
    with pytest.raises(GradientError, match="the model ends in ArgMax: export it without"):
        scored(model, Targets(X, MASKS[:, None]))
