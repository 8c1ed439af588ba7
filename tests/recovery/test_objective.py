"""Loss and batch gradients of a student against torch autograd in float64."""

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from small_model import small_model

from hqp_onnx.errors import GradientError
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.recovery.net import Net
from hqp_onnx.recovery.objective import Logits, objective
from hqp_onnx.recovery.trained import trained_constants
from hqp_onnx.runtimes.session import Session

torch = pytest.importorskip("torch")
from gradients.onnx_in_torch import TorchModel  # noqa: E402  needs torch

RNG = np.random.default_rng(4)
X = RNG.standard_normal((5, 1, 8, 8)).astype(np.float32)
GROUPED = """
<ir_version: 8, opset_import: ["" : 17]> grouped (float[n,1,8,8] input) => (float[n,3,15,8] y) {
  c = Conv<pads=[1,1,1,1], strides=[2,1]>(input, w1, b1)
  h = HardSwish(c)
  d = Conv<pads=[1,1,1,1], group=4, strides=[1,2]>(h, w2)
  z = Conv<pads=[1,1,1,1], group=8>(d, w6, b6)
  e = Conv<group=2, strides=[1,1]>(z, w3, b3)
  u = ConvTranspose<strides=[2,2], group=2, pads=[0,0,0,0]>(e, w4, b4)
  p = Conv(u, w5)
  s = Mul(p, k)
  y = Add(s, q)
}
"""
SHAPES = {
    "w1": (4, 1, 3, 3),
    "b1": (4,),
    "w2": (8, 1, 3, 3),
    "w6": (8, 1, 3, 3),
    "b6": (8,),
    "w3": (6, 4, 1, 1),
    "b3": (6,),
    "w4": (6, 2, 3, 2),
    "b4": (4,),
    "w5": (3, 4, 1, 1),
    "k": (1, 3, 1, 1),
    "q": (3, 1, 1),
}


def grouped():
    model = onnx.parser.parse_model(GROUPED)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    values = {name: RNG.standard_normal(shape).astype(np.float32) / 2 for name, shape in SHAPES.items()}
    model.graph.initializer.extend(numpy_helper.from_array(x, name) for name, x in values.items())
    return model


def built(model, **wanted):
    net, trained = Net.of(model, {"input": X[:1]}, trained=True), trained_constants(to_graph(model))
    return objective(net.model, net.traced, trained, **wanted), trained


def values(model, objective_, targets):
    """Loss and gradients at the model's own weights."""
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name in objective_.gradients}
    fed = {objective_.targets[name]: target for name, target in targets.items()}
    loss, *found = Session(objective_.model, objective_.outputs).run({"input": X, **weights, **fed}).values()
    return loss, dict(zip(objective_.gradients, found, strict=True))


def check(model, trained, loss, found, want):
    net = TorchModel(model, torch.float64)
    expected = want(net.tensors({"input": X}))
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    grads = torch.autograd.grad(expected, [net.weights[name] for name in trained])
    assert found.keys() == set(trained)
    for name, grad in zip(trained, grads, strict=True):
        scale = grad.abs().max().item()
        assert scale > 0
        np.testing.assert_allclose(found[name], grad.numpy(), rtol=1e-4, atol=1e-5 * scale, err_msg=name)


def test_divergence_and_features():
    model = to_proto(canonicalize(to_graph(small_model())).graph)
    targets = {"logits": RNG.standard_normal((5, 4)), "sum": RNG.standard_normal((5, 16, 8, 8))}
    targets = {name: x.astype(np.float32) for name, x in targets.items()}
    made, trained = built(model, logits=Logits("logits"), temperature=2.5, squares={"sum": 0.03})
    assert set(trained) == {f"{kind}{layer}" for kind in "wgb" for layer in "12"} | {"w3", "d3", "w4", "d4"}
    loss, found = values(model, made, targets)

    def want(tensors):
        wide = {name: torch.from_numpy(x).double() for name, x in targets.items()}
        p, q = (torch.log_softmax(x / 2.5, 1) for x in (wide["logits"], tensors["logits"]))
        kl = torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True)
        return 2.5**2 * kl + 0.03 * ((tensors["sum"] - wide["sum"]) ** 2).sum()

    check(model, trained, loss, found, want)


def test_squares_through_every_kind_of_convolution():
    model = grouped()
    made, trained = built(model, logits=None, temperature=1.0, squares={"y": 0.5})
    assert set(trained) == SHAPES.keys()
    size = Session(model, ["y"]).run({"input": X})["y"].shape
    target = RNG.standard_normal(size).astype(np.float32)
    loss, found = values(model, made, {"y": target})
    check(model, trained, loss, found, lambda x: 0.5 * ((x["y"] - torch.from_numpy(target).double()) ** 2).sum())


def test_gradients_follow_the_weights_that_are_fed():
    """Nothing of the student's own values is left in the graph."""
    model, other = grouped(), grouped()
    made, _ = built(model, logits=None, temperature=1.0, squares={"y": 1.0})
    same, _ = built(other, logits=None, temperature=1.0, squares={"y": 1.0})
    target = np.zeros(Session(model, ["y"]).run({"input": X})["y"].shape, np.float32)
    first, second = values(other, made, {"y": target}), values(other, same, {"y": target})
    assert first[0] == second[0]
    for name, grad in first[1].items():
        np.testing.assert_array_equal(grad, second[1][name])
    assert values(model, made, {"y": target})[0] != first[0]


def test_statistics_and_preprocessing_are_not_trained():
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[n,2,4,4] x) => (float[n,2,4,4] y) {
      a = Sub(x, mean) b = Mul(a, inverse) c = Conv(b, w) d = BatchNormalization(c, g1, b1, m1, v1)
      e = Clip(d, low, high) f = Mul(e, one) y = Add(f, shift) }"""
    model = onnx.parser.parse_model(text)
    shapes = dict.fromkeys(("mean", "inverse", "shift"), (1, 2, 1, 1)) | {"w": (2, 2, 1, 1), "one": (1,)}
    shapes |= dict.fromkeys(("g1", "b1", "m1", "v1"), (2,)) | {"low": (), "high": ()}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in shapes.items()
    )
    assert trained_constants(to_graph(model)) == ["w", "g1", "b1", "shift"]


def test_an_operator_without_a_rule_is_named():
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[n,3,3] input) => (float[n] y) {
      a = MatMul(input, w) y = Det(a) }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.eye(3, dtype=np.float32), "w"))
    net = Net.of(model, {"input": X[:1, 0, :3, :3]})
    with pytest.raises(GradientError, match="Det node 'y' has no gradient rule"):
        objective(net.model, net.traced, ["w"], logits=None, temperature=1.0, squares={"y": 1.0})


@pytest.mark.parametrize(("axis", "temperature"), [(1, 1.0), (3, 2.0), (None, 1.0), (None, 2.5)])
def test_divergence_of_positions_and_decisions(axis, temperature):
    model = grouped()
    if axis == 3:  # classes last
        model.graph.node.append(onnx.helper.make_node("Transpose", ["y"], ["last"], perm=[0, 2, 3, 1]))
        model.graph.output[0].name = "last"
    name = model.graph.output[0].name
    made, trained = built(model, logits=Logits(name, axis), temperature=temperature, squares={})
    y = Session(model, [name]).run({"input": X})[name]
    target = (y + RNG.standard_normal(y.shape)).astype(np.float32)
    loss, found = values(model, made, {name: target})

    def want(tensors):
        distribution = torch.distributions.Bernoulli if axis is None else torch.distributions.Categorical
        t, s = (x / temperature for x in (torch.from_numpy(target).double(), tensors[name]))
        t, s = (x if axis is None else x.movedim(axis, -1) for x in (t, s))
        apart = torch.distributions.kl_divergence(distribution(logits=t), distribution(logits=s))
        apart = apart.sum(1, keepdim=True) if axis is None else apart
        return temperature**2 * apart.reshape(len(X), -1).mean(1).sum()

    check(model, trained, loss, found, want)
