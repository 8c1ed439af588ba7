"""What the first nodes of a graph say of its input, and which tables integers pick rows of."""

import numpy as np
import onnx
import onnx.parser
import pytest

from hqp_onnx.graphs.model_io import to_graph
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.synthesis.prior import normalization, rows_picked

SHAPE = (2, 3, 4, 4)


def prior_of(body: str, rank: int = 4, shape: tuple[int, ...] = SHAPE, **constants):
    """Of the input x of the nodes ``body``, which end in y."""
    dims = ",".join(["n", *map(str, shape[1:])])
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[{dims}] x) => (float[{dims}] y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    stored = {"w": np.ones((3, 3, 1, 1)), **constants}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in stored.items() if k in body
    )
    return normalization(canonicalize(to_graph(model)).graph.inputs[0], shape)


def channels(*values: float) -> np.ndarray:
    return np.array(values).reshape(1, -1, 1, 1)


MEAN, STD = channels(125.0, 120.0, 110.0), channels(60.0, 61.0, 62.0)


@pytest.mark.parametrize(
    ("body", "constants", "mean", "std", "bounds"),
    [
        ("a = Sub(x, m) b = Div(a, s) y = Conv(b, w)", {"m": MEAN, "s": STD}, MEAN, STD, (0, 255)),
        ("a = Mul(x, m) b = Add(a, s) y = Conv(b, w)", {"m": 1 / STD, "s": -MEAN / STD}, MEAN, STD, (0, 255)),
        (
            "a = Sub(m, x) b = Div(a, s) y = Conv(b, w)",
            {"m": MEAN / 255, "s": STD / 255},
            MEAN / 255,
            STD / 255,
            (0, 1),
        ),
        ("a = Div(x, m) b = Sub(a, s) y = Conv(b, w)", {"m": 127.5, "s": 1.0}, 127.5, 127.5, (0, 255)),
        ("a = Div(x, m) y = Conv(a, w)", {"m": 255.0}, 127.5, 63.75, (0, 255)),
        (
            "y = BatchNormalization<epsilon=0.0>(x, g, h, m, s)",
            {"g": [1, 2, 3], "h": [4, 5, 6], "m": MEAN.ravel(), "s": np.square(STD.ravel())},
            MEAN,
            STD,
            (0, 255),
        ),
    ],
)
def test_inputs_have_the_mean_and_spread_that_are_removed(body, constants, mean, std, bounds) -> None:
    prior = prior_of(body, **constants)
    np.testing.assert_allclose(*np.broadcast_arrays(prior.mean, mean), rtol=1e-6)
    np.testing.assert_allclose(*np.broadcast_arrays(prior.std, std), rtol=1e-6)
    assert (prior.low, prior.high) == bounds


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        ("y = Conv(x, w)", {}),
        ("a = Sub(x, m) b = Div(a, s) c = Conv(b, w) y = Add(c, x)", {"m": MEAN, "s": STD}),  # read twice
        ("a = Add(x, p) b = Mul(a, q) y = Conv(b, w)", {"p": np.ones((3, 4, 4)), "q": 2.0}),  # a position's own
        ("a = Add(x, m) y = Conv(a, w)", {"m": MEAN}),  # a mean without a spread
        ("a = Mul(x, z) b = Add(a, m) y = Conv(b, w)", {"z": 0.0, "m": MEAN}),
        ("a = Mul(x, q) y = Conv(a, w)", {"q": 0.5}),
    ],
)
def test_what_is_no_normalization_says_nothing(body, constants) -> None:
    assert prior_of(body, **constants) is None


def test_means_below_zero_bound_nothing() -> None:
    prior = prior_of("a = Sub(x, m) b = Div(a, s) y = Conv(b, w)", m=-MEAN, s=STD)
    assert (prior.low, prior.high) == (-np.inf, np.inf)


def test_integers_pick_rows_of_the_smallest_table() -> None:
    model = onnx.parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 17]> g (int32[n,5] x, int64[n,5] mask) => (float y, float z, int64 v) {
      wide = Cast<to=7>(x)
      y = Gather(large, wide)
      z = Gather<axis=1>(small, x)
      v = Add(mask, mask)
    }
    """)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name)
        for name, shape in (("large", (9, 2)), ("small", (9, 7)))
    )
    x, mask = to_graph(model).inputs
    assert (rows_picked(x), rows_picked(mask)) == (7, None)
