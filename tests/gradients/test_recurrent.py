"""Per-sample norms and batch gradients of LSTM, GRU and RNN against autograd through their steps, sample by sample."""

import itertools

import numpy as np
import onnx
import pytest
from gradients.small_net import array
from onnx import numpy_helper

from hqp_onnx.errors import GradientError
from hqp_onnx.evaluation.metrics.task import Task
from hqp_onnx.gradients import PerSample, filter_weights
from hqp_onnx.gradients.loss import Draw, append_loss
from hqp_onnx.gradients.reverse import backward
from hqp_onnx.gradients.tape import Tape
from hqp_onnx.gradients.trace import trace
from hqp_onnx.graphs.recurrent import GATES
from hqp_onnx.passes.lowering.prepare_for_gradients import prepare_for_gradients
from hqp_onnx.runtimes.session import Session

torch = pytest.importorskip("torch")
from gradients.onnx_in_torch import filter_norms, sample_gradients  # noqa: E402  needs torch

STEPS, INPUTS, HIDDEN, COUNT = 5, 4, 6, 3
TOLERANCE = 2e-5


def build(op, direction="forward", more="", operands="w, r, b", ends="s"):
    """Steps first, ``op``, and a classifier of what it gives: all states (s), or the last (h, c)."""
    count, gates = 2 if direction == "bidirectional" else 1, GATES[op]
    outputs = "s, h, c" if op == "LSTM" else "s, h"
    read = {
        "s": "m = Transpose <perm = [2, 0, 1, 3]> (s) u = Tanh (m) f = Flatten (u)",
        "h": "m = Transpose <perm = [1, 0, 2]> (h) f = Flatten (m)",
        "shc": "a = Add (h, c) k = Add (s, a) m = Transpose <perm = [2, 0, 1, 3]> (k) f = Flatten (m)",
    }
    body = f"""t = Transpose <perm = [1, 0, 2]> (x)
      e = MatMul (t, we)
      {outputs} = {op} <hidden_size = {HIDDEN}, direction = "{direction}"{more}> (e, {operands})
      {read[ends]} z = Gemm (f, v)"""
    lengths = ", int32[N] lengths" if "lengths" in operands else ""
    text = f"""<ir_version: 8, opset_import: ["": 17]>
      net (float[N, {STEPS}, {INPUTS}] x{lengths}) => (float[N, 3] z) {{ {body} }}"""
    model = onnx.parser.parse_model(text)
    wide = (1 if ends == "h" else STEPS) * count * HIDDEN
    values = {
        "we": array(INPUTS, 5),
        "w": array(count, gates * HIDDEN, 5) * 3,
        "r": array(count, gates * HIDDEN, HIDDEN) * 3,
        "b": array(count, 2 * gates * HIDDEN),
        "h0": array(count, 1, HIDDEN),
        "c0": array(count, 1, HIDDEN),
        "v": array(wide, 3) * 4,
    }
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(x, name) for name, x in values.items() if name in used)
    return model


def feeds_of(model):
    rng = np.random.default_rng(7)
    feeds = {"x": rng.standard_normal((COUNT, STEPS, INPUTS)).astype(np.float32)}
    if any(value.name == "lengths" for value in model.graph.input):
        feeds["lengths"] = np.array([STEPS, 2, 4], np.int32)
    return feeds, rng.integers(0, 3, COUNT)


def assert_matches_torch(model):
    feeds, labels = feeds_of(model)
    axes = filter_weights(model)
    gradients = sample_gradients(model, feeds, labels, list(axes), torch.float64)
    want = filter_norms(gradients, axes)
    got = PerSample(model, feeds)(feeds, labels)
    assert got.keys() == want.keys()
    for name in want:
        assert np.abs(got[name] - want[name]).max() <= TOLERANCE * want[name].max(), name
    weights = {tensor.name: numpy_helper.to_array(tensor).astype(float) for tensor in model.graph.initializer}
    taylor = PerSample(model, feeds, kind="taylor")(feeds, labels)
    for name, axis in axes.items():
        products = np.moveaxis(gradients[name] * weights[name], 1 + axis, 1)
        products = products.reshape(COUNT, weights[name].shape[axis], -1)
        bound = np.abs(products).sum(-1).max() ** 2
        assert np.abs(taylor[name] - products.sum(-1) ** 2).max() <= TOLERANCE * bound, name


DIRECTIONS = ("forward", "reverse", "bidirectional")
ENDS = {"LSTM": ("s", "h", "shc"), "GRU": ("s", "h"), "RNN": ("s", "h")}
GRID = [
    (op, direction, more, operands, ends)
    for op in GATES
    for direction, more, operands, ends in [
        *itertools.product(DIRECTIONS, ("",), ("w, r", "w, r, b, lengths"), ENDS[op]),
        *(
            itertools.product(DIRECTIONS, (", linear_before_reset = 1",), ("w, r, b", "w, r, b, lengths"), ("s",))
            if op == "GRU"
            else ()
        ),
    ]
]


@pytest.mark.parametrize(("op", "direction", "more", "operands", "ends"), GRID)
def test_per_sample_norms(op, direction, more, operands, ends):
    assert_matches_torch(build(op, direction, more, operands, ends))


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_states_that_lengths_carry_on(op, direction):
    """An initial state that is not zero, in samples of different lengths; the batch is one, so states have its size."""
    states = "h0, c0" if op == "LSTM" else "h0"
    model = build(op, direction, operands=f"w, r, b, lengths, {states}", ends="h")
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    feeds, labels = feeds_of(model)
    axes = filter_weights(model)
    want = filter_norms(sample_gradients(model, feeds, labels, list(axes), torch.float64), axes)
    opened = PerSample(model, {name: x[:1] for name, x in feeds.items()})
    assert opened.batch == 1
    for i in range(COUNT):
        got = opened({name: x[i : i + 1] for name, x in feeds.items()}, labels[i : i + 1])
        for name in want:
            assert np.abs(got[name][0] - want[name][i]).max() <= TOLERANCE * want[name].max(), name


@pytest.mark.parametrize("op", GATES)
def test_sums_over_a_batch(op):
    """The rule's gradients of weights and biases, as training takes them."""
    model = build(op, "bidirectional", operands="w, r, b, lengths")
    feeds, labels = feeds_of(model)
    names = ["we", "w", "r", "b", "v"]
    want = {name: g.sum(0) for name, g in sample_gradients(model, feeds, labels, names, torch.float64).items()}
    ready = prepare_for_gradients(model)
    tape = Tape(ready, trace(ready, feeds, None))
    loss = append_loss(tape, "cross-entropy", {"z"})
    grads = backward(tape, loss.seeds, names)
    got = Session(tape.model, outputs=list(grads.values())).run({**feeds, loss.targets: labels})
    for name in names:
        assert np.abs(got[grads[name]] - want[name]).max() <= TOLERANCE * np.abs(want[name]).max(), name


def test_a_weight_that_two_nodes_read():
    """Its gradient is the sum of theirs."""
    model = build("GRU")
    second = "s2, h2 = GRU <hidden_size = 6> (e, w, r, b)"
    text = f"""<ir_version: 8, opset_import: ["": 17]> net (float[N, 5, 4] x) => (float[N, 3] z) {{
      t = Transpose <perm = [1, 0, 2]> (x)
      e0 = MatMul (t, we)
      e = Tanh (e0)
      s1, h1 = GRU <hidden_size = 6> (e0, w, r, b)
      {second}
      s = Add (s1, s2)
      m = Transpose <perm = [2, 0, 1, 3]> (s)
      f = Flatten (m)
      z = Gemm (f, v) }}"""
    both = onnx.parser.parse_model(text)
    both.graph.initializer.extend(model.graph.initializer)
    assert_matches_torch(both)


def test_steps_that_are_the_batch_are_refused():
    """A batch along the axis of steps: samples would depend on each other."""
    text = """<ir_version: 8, opset_import: ["": 17]> net (float[N, 1, 4] x) => (float[N, 6] z) {
      s, h = RNN <hidden_size = 6> (x, w, r)
      f = Flatten (s)
      z = MatMul (f, v) }"""
    model = onnx.parser.parse_model(text)
    values = {"w": array(1, 6, 4), "r": array(1, 6, 6), "v": array(6, 6)}
    model.graph.initializer.extend(numpy_helper.from_array(x, name) for name, x in values.items())
    with pytest.raises(GradientError, match="an axis of 'x' that grows with the batch"):
        PerSample(model, {"x": np.random.default_rng(0).standard_normal((3, 1, 4)).astype(np.float32)})


@pytest.mark.parametrize("more", [", clip = 1.0", ', activations = ["HardSigmoid", "Tanh", "Tanh"]'])
def test_refusals_name_the_node(more):
    model = build("LSTM", more=more)
    with pytest.raises(GradientError, match=r"LSTM node .* has no gradient rule with"):
        PerSample(model, feeds_of(model)[0])


ENDS_OF_STEPS = {
    "first": "z = MatMul (s, v)",  # [steps, N, 3]
    "flat": "f = Reshape (s, rows) g = Gemm (f, v) z = Reshape (g, back)",  # through rows of all steps
    "samples": "k = MatMul (s, v) z = Transpose <perm = [1, 0, 2]> (k)",
}


def tagger(end, batch="N"):
    body = f"""t = Transpose <perm = [1, 0, 2]> (x)
      y, h = GRU <hidden_size = {HIDDEN}> (t, w, r)
      s = Squeeze (y, one)
      {ENDS_OF_STEPS[end]}"""
    text = f"""<ir_version: 8, opset_import: ["": 17]>
      net (float[{batch}, {STEPS}, {INPUTS}] x) => (float[a, b, 3] z) {{ {body} }}"""
    model = onnx.parser.parse_model(text)
    values = {
        "w": array(1, 3 * HIDDEN, INPUTS) * 3,
        "r": array(1, 3 * HIDDEN, HIDDEN) * 3,
        "v": array(HIDDEN, 3) * 2,
        "one": np.array([1]),
        "rows": np.array([-1, HIDDEN]),
        "back": np.array([STEPS, -1, 3]),
    }
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(x, name) for name, x in values.items() if name in used)
    return model


@pytest.mark.parametrize("end", ["first", "flat"])
@pytest.mark.parametrize("kind", ["fisher", "taylor", "output"])
@pytest.mark.parametrize(
    "loss", [Task("classes", "z", 2, "labels"), Task("values", "z", None, "labels"), "gauss-newton"]
)
def test_steps_first_are_samples_first(end, kind, loss):
    """The same network with its samples first in the output."""
    rng = np.random.default_rng(6)
    feeds = {"x": rng.standard_normal((COUNT, STEPS, INPUTS)).astype(np.float32)}
    values = isinstance(loss, Task) and loss.kind == "values"
    targets = rng.standard_normal((COUNT, STEPS, 3)) if values else rng.integers(-1, 3, (COUNT, STEPS))
    found = []
    for model in (tagger(end), tagger("samples")):
        opened = PerSample(model, feeds, kind=kind, loss=loss)
        (wanted,) = opened.loss.rounds(range(COUNT), targets, Draw(1, COUNT, 0))
        found.append(opened(feeds, wanted))
    assert found[0].keys() == found[1].keys() == {"w", "r", "v"}
    for name, values in found[1].items():
        np.testing.assert_allclose(found[0][name], values, rtol=1e-4, atol=1e-6 * np.abs(values).max(), err_msg=name)
