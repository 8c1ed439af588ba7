"""The lowered graph computes the same function, and none of its operators is one that is lowered."""

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from oracle import require_runtime

from hqp_onnx.errors import GradientError
from hqp_onnx.passes.lowering.lower_for_training import LOWERED, lower_for_training
from hqp_onnx.runtimes.session import Session

SHAPE = (4, 6, 4)
CONSTANTS = {
    "four": np.array([0.5, -1.5, 2.0, 1.0], np.float32),
    "other": np.array([1.0, 0.25, -1.0, 0.5], np.float32),
    "positive": np.array([0.5, 1.5, 2.0, 1.0], np.float32),
    "slope": np.array([0.1, -0.2, 0.3, 0.0], np.float32).reshape(4, 1, 1),
    "two": np.array([1.5, -0.5], np.float32),
    "rows": np.linspace(-1, 1, 24, dtype=np.float32).reshape(6, 4),
    "axes": np.array([2, 3]),
}
# name: (operator, body, opset)
ROWS = {
    "dropout": ("Dropout", "y = Dropout (x)", 17),
    "cast like": ("CastLike", "i = Cast <to = 6> (x) y = CastLike (i, x)", 17),
    "hard sigmoid": ("HardSigmoid", "y = HardSigmoid <alpha = 0.3, beta = 0.4> (x)", 17),
    "hard swish": ("HardSwish", "y = HardSwish (x)", 17),
    "elu": ("Elu", "y = Elu <alpha = 0.7> (x)", 17),
    "celu": ("Celu", "y = Celu <alpha = 0.7> (x)", 17),
    "selu": ("Selu", "y = Selu (x)", 17),
    "prelu": ("PRelu", "y = PRelu (x, slope)", 17),
    "thresholded": ("ThresholdedRelu", "y = ThresholdedRelu <alpha = 0.5> (x)", 17),
    "softplus": ("Softplus", "y = Softplus (x)", 17),
    "mish": ("Mish", "y = Mish (x)", 18),
    "swish": ("Swish", "y = Swish <alpha = 1.3> (x)", 24),
    "softsign": ("Softsign", "y = Softsign (x)", 17),
    "sum": ("Sum", "y = Sum (x, slope, x)", 17),
    "sum of one": ("Sum", "y = Sum (x)", 17),
    "mean": ("Mean", "y = Mean (x, slope, x)", 17),
    "global max pool": ("GlobalMaxPool", "y = GlobalMaxPool (x)", 17),
    "batch norm": (
        "BatchNormalization",
        "y = BatchNormalization <epsilon = 0.01> (x, four, other, two2, positive)",
        17,
    ),
    "instance norm": ("InstanceNormalization", "y = InstanceNormalization <epsilon = 0.01> (x, four, other)", 17),
    "group norm by group": ("GroupNormalization", "y = GroupNormalization <num_groups = 2> (x, two, two)", 18),
    "group norm by channel": ("GroupNormalization", "y = GroupNormalization <num_groups = 2> (x, four, other)", 21),
    "layer norm": ("LayerNormalization", "y = LayerNormalization <axis = -1> (x, four, other)", 17),
    "layer norm of two axes": ("LayerNormalization", "y = LayerNormalization <axis = 2> (x, rows)", 17),
    "rms norm": ("RMSNormalization", "y = RMSNormalization <axis = -1, epsilon = 0.01> (x, four)", 23),
    "depth to space": ("DepthToSpace", "y = DepthToSpace <blocksize = 2> (x)", 17),
    "depth to space crd": ("DepthToSpace", 'y = DepthToSpace <blocksize = 2, mode = "CRD"> (x)', 17),
    "space to depth": ("SpaceToDepth", "y = SpaceToDepth <blocksize = 2> (x)", 17),
    "sum square": ("ReduceSumSquare", "y = ReduceSumSquare <axes = [1], keepdims = 0> (x)", 17),
    "sum square of all": ("ReduceSumSquare", "y = ReduceSumSquare <keepdims = 1> (x)", 18),
    "l1": ("ReduceL1", "y = ReduceL1 (x, axes)", 18),
}


def build(body, opset, shape=SHAPE):
    dims = ", ".join(map(str, shape))
    text = f'<ir_version: 10, opset_import: ["": {opset}]> net (float[N, {dims}] x) => (float y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    constants = {**CONSTANTS, "two2": np.array([0.3, -0.3, 0.1, 0.0], np.float32)}
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(constants[name], name) for name in used & constants.keys())
    return model


@pytest.mark.parametrize("name", ROWS)
def test_same_function(name):
    op, body, opset = ROWS[name]
    model = build(body, opset)
    x = 3 * np.random.default_rng(0).standard_normal((2, *SHAPE)).astype(np.float32)
    require_runtime(model, {"x": x})
    lowered = lower_for_training(model)
    assert op in {node.op_type for node in model.graph.node}
    assert {node.op_type for node in lowered.graph.node}.isdisjoint(LOWERED)
    want = Session(model).run({"x": x})["y"]
    got = Session(lowered).run({"x": x})["y"]
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= 1e-5 * max(1, np.abs(want).max())


def test_every_rule_has_a_row():
    assert {op for op, _, _ in ROWS.values()} == set(LOWERED)


def test_large_values_stay_finite():
    x = np.array([-1e4, 1e4, -90, 90], np.float32).reshape(1, 4, 1, 1)
    for body in ("y = Elu (x)", "y = Softplus (x)", "y = Celu (x)"):
        lowered = lower_for_training(build(body, 17, (4, 1, 1)))
        assert np.isfinite(Session(lowered).run({"x": x})["y"]).all()


def test_nothing_to_do():
    model = build("a = Relu (x) y = Tanh (a)", 17)
    assert lower_for_training(model) is model


def test_automatic_padding_is_refused():
    model = build('y = MaxPool <kernel_shape = [2, 2], auto_pad = "SAME_UPPER"> (x)', 17)
    with pytest.raises(GradientError, match=r"MaxPool node .* has auto_pad: canonicalise"):
        lower_for_training(model)


def test_unknown_type_is_refused():
    model = build("r = Relu (x) y = CastLike (x, r)", 17)
    with pytest.raises(GradientError, match=r"CastLike node .* no known type"):
        lower_for_training(model)


def test_varying_size_is_refused():
    text = '<ir_version: 8, opset_import: ["": 17]> net (float[N, 4, H, W] x) => (float y) { y = GlobalMaxPool (x) }'
    with pytest.raises(GradientError, match=r"GlobalMaxPool node .* varying size"):
        lower_for_training(onnx.parser.parse_model(text))
