"""The table of gradient rules: (operator, text, shapes of the activations, constants, opset).

A text is the right-hand side of ``y =``, or whole statements. "+" in front of it: x > 0.2.
"""

import numpy as np

IMAGE = {"x": (2, 4, 5, 6)}
SMALL = {"x": (1, 2, 5, 6)}
PLAIN = {"x": (2, 3, 4)}


def ints(*values):
    return np.array(values, np.int64)


def normal(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


SMOOTH = [
    "Sigmoid",
    "Tanh",
    "Softplus",
    "Softsign",
    "Erf",
    "Exp",
    "Sin",
    "Cos",
    "Tan",
    "Sinh",
    "Cosh",
    "Asinh",
    "Atan",
    "Mish",
    "Gelu",
]
KINKED = [
    "Relu",
    "Abs",
    "Neg",
    "HardSwish",
    "HardSigmoid",
    "Elu",
    "Selu",
    "Celu",
    "LeakyRelu",
    "Shrink",
    "Ceil",
    "Floor",
    "Hardmax",
    "Round",
    "Sign",
]
UNIT = {"scale": np.float32(0.2)}

CASES = [
    *[(op, f"{op} (x)", PLAIN, {}, 20) for op in SMOOTH + KINKED],
    *[(op, f"+{op} (x)", PLAIN, {}, 20) for op in ("Sqrt", "Log", "Reciprocal")],
    *[(op, f"u = Mul (x, scale) y = {op} (u)", PLAIN, UNIT, 22) for op in ("Asin", "Acos", "Atanh")],
    ("Acosh", "u = Cosh (x) v = Exp (u) y = Acosh (v)", PLAIN, {}, 22),
    ("Swish", "Swish <alpha = 1.3> (x)", PLAIN, {}, 24),
    ("Gelu", 'Gelu <approximate = "tanh"> (x)', PLAIN, {}, 20),
    ("HardSigmoid", "HardSigmoid <alpha = 0.3, beta = 0.4> (x)", PLAIN, {}, 20),
    ("Elu", "Elu <alpha = 0.7> (x)", PLAIN, {}, 20),
    ("Celu", "Celu <alpha = 0.7> (x)", PLAIN, {}, 20),
    ("LeakyRelu", "LeakyRelu <alpha = 0.3> (x)", PLAIN, {}, 20),
    ("ThresholdedRelu", "ThresholdedRelu <alpha = 0.5> (x)", PLAIN, {}, 20),
    ("Clip", "Clip (x, low, high)", PLAIN, {"low": np.float32(-0.5), "high": np.float32(0.8)}, 20),
    ("Clip", "Clip (x, low)", PLAIN, {"low": np.float32(-0.5)}, 20),
    ("Clip", "Clip (x)", PLAIN, {}, 20),
    ("LeakyRelu", "LeakyRelu <alpha = -0.3> (x)", PLAIN, {}, 20),
    ("Clip", "Clip (x, , high)", PLAIN, {"high": np.float32(0.8)}, 20),
    ("PRelu", "PRelu (x, s)", {**PLAIN, "s": (3, 1)}, {}, 20),
    ("Add", "Add (x, u)", {**PLAIN, "u": (3, 1)}, {}, 20),
    ("Sub", "Sub (x, u)", {**PLAIN, "u": (1, 1, 4)}, {}, 20),
    ("Mul", "Mul (x, u)", {**PLAIN, "u": (2, 3, 1)}, {}, 20),
    ("Mul", "Mul (x, x)", PLAIN, {}, 20),
    ("Div", "+Div (u, x)", {"u": (4,), "x": (2, 3, 4)}, {}, 20),
    ("Pow", "+Pow (x, u)", {**PLAIN, "u": (3, 1)}, {}, 20),
    ("Pow", "Pow (x, two)", PLAIN, {"two": np.float32(2)}, 20),
    ("Pow", "Pow (x, three)", PLAIN, {"three": ints(3)}, 20),
    ("Min", "Min (x, u, c)", {**PLAIN, "u": (3, 1)}, {"c": normal(2, 3, 4)}, 20),
    ("Max", "Max (x, u)", {**PLAIN, "u": (4,)}, {}, 20),
    ("Sum", "Sum (x, u, x)", {**PLAIN, "u": (4,)}, {}, 20),
    ("Mean", "Mean (x, u, c)", {**PLAIN, "u": (4,)}, {"c": normal(2, 3, 4)}, 20),
    ("Where", "Where (c, x, u)", {**PLAIN, "u": (3, 1)}, {"c": normal(2, 3, 4) > 0}, 20),
    ("Identity", "Identity (x)", PLAIN, {}, 20),
    ("Dropout", "Dropout (x)", PLAIN, {}, 20),
    ("Cast", "Cast <to = 1> (x)", PLAIN, {}, 20),
    ("CastLike", "CastLike (x, c)", PLAIN, {"c": np.float32(1)}, 20),
    ("Flatten", "Flatten <axis = 2> (x)", IMAGE, {}, 20),
    ("Reshape", "Reshape (x, s)", PLAIN, {"s": ints(0, -1)}, 20),
    ("Squeeze", "Squeeze (x, a)", {"x": (2, 1, 3, 1)}, {"a": ints(1, 3)}, 20),
    ("Unsqueeze", "Unsqueeze (x, a)", PLAIN, {"a": ints(0, 3)}, 20),
    ("Transpose", "Transpose <perm = [1, 2, 0]> (x)", PLAIN, {}, 20),
    ("Transpose", "Transpose (x)", PLAIN, {}, 20),
    ("Concat", "Concat <axis = -1> (x, c, u, x)", {**PLAIN, "u": (2, 3, 2)}, {"c": normal(2, 3, 1)}, 20),
    ("Expand", "Expand (x, s)", {"x": (2, 1, 3)}, {"s": ints(2, 1, 4, 1)}, 20),
    ("Expand", "Expand (x, s)", {"x": (3, 1)}, {"s": ints(2, 3, 4)}, 20),
    ("Slice", "Slice (x, a, b)", PLAIN, {"a": ints(0, 1), "b": ints(2, 3)}, 20),
    (
        "Slice",
        "Slice (x, a, b, c, d)",
        IMAGE,
        {"a": ints(-1, 1), "b": ints(-99, 9), "c": ints(3, -2), "d": ints(-2, 3)},
        20,
    ),
    ("Pad", "Pad (x, p)", PLAIN, {"p": ints(0, 1, 0, 0, 2, 3)}, 20),
    ("Pad", 'Pad <mode = "reflect"> (x, p)', IMAGE, {"p": ints(0, 0, 2, 1, 0, 0, 1, 3)}, 20),
    ("Pad", 'Pad <mode = "edge"> (x, p, , a)', IMAGE, {"p": ints(2, 1, 0, 3), "a": ints(3, 2)}, 20),
    ("Gather", "Gather <axis = 1> (x, i)", PLAIN, {"i": ints(2, 0)}, 20),
    ("Gather", "Gather <axis = -1> (x, i)", PLAIN, {"i": ints(2, -1, 2, 2).reshape(2, 2)}, 20),
    ("Gather", "Gather <axis = 1> (x, i)", PLAIN, {"i": np.array(1, np.int64)}, 20),
    ("Tile", "Tile (x, r)", PLAIN, {"r": ints(1, 3, 2)}, 20),
    ("DepthToSpace", "DepthToSpace <blocksize = 2> (x)", {"x": (2, 8, 2, 3)}, {}, 20),
    ("DepthToSpace", 'DepthToSpace <blocksize = 2, mode = "CRD"> (x)', {"x": (2, 8, 2, 3)}, {}, 20),
    ("SpaceToDepth", "SpaceToDepth <blocksize = 2> (x)", {"x": (2, 2, 4, 6)}, {}, 20),
    ("ReduceSum", "ReduceSum (x)", PLAIN, {}, 20),
    ("ReduceSum", "ReduceSum <keepdims = 0> (x, a)", PLAIN, {"a": ints(-1, 1)}, 20),
    ("ReduceMean", "ReduceMean <keepdims = 0> (x, a)", PLAIN, {"a": ints(2)}, 20),
    ("ReduceMean", "ReduceMean <axes = [1, 2]> (x)", PLAIN, {}, 17),
    ("ReduceMax", "ReduceMax <keepdims = 0> (x, a)", PLAIN, {"a": ints(1)}, 20),
    ("ReduceMin", "ReduceMin (x, a)", PLAIN, {"a": ints(1, 2)}, 20),
    ("Softmax", "Softmax <axis = 1> (x)", PLAIN, {}, 20),
    ("LogSoftmax", "LogSoftmax (x)", PLAIN, {}, 20),
    ("LayerNormalization", "LayerNormalization <axis = -1> (x, s, b)", {**PLAIN, "s": (4,), "b": (4,)}, {}, 20),
    ("LayerNormalization", "LayerNormalization <axis = 1> (x, s)", PLAIN, {"s": normal(3, 4)}, 20),
    ("InstanceNormalization", "InstanceNormalization (x, s, b)", {**IMAGE, "s": (4,), "b": (4,)}, {}, 20),
    (
        "BatchNormalization",
        "BatchNormalization <epsilon = 0.01> (x, s, b, m, v)",
        IMAGE,
        {"s": normal(4), "b": normal(4), "m": normal(4), "v": normal(4) ** 2},
        20,
    ),
    ("GlobalAveragePool", "GlobalAveragePool (x)", IMAGE, {}, 20),
    ("GlobalMaxPool", "GlobalMaxPool (x)", IMAGE, {}, 20),
    ("MaxPool", "MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)", SMALL, {}, 20),
    ("MaxPool", "MaxPool <kernel_shape = [3, 3], strides = [2, 1], pads = [1, 1, 1, 1]> (x)", SMALL, {}, 20),
    ("MaxPool", "MaxPool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> (x)", SMALL, {}, 20),
    ("MaxPool", "MaxPool <kernel_shape = [3]> (x)", {"x": (2, 3, 7)}, {}, 20),
    ("AveragePool", "AveragePool <kernel_shape = [2, 3], strides = [2, 2]> (x)", SMALL, {}, 20),
    ("AveragePool", "AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)", SMALL, {}, 20),
    (
        "AveragePool",
        "AveragePool <kernel_shape = [3, 3], pads = [1, 1, 0, 1], strides = [2, 2], count_include_pad = 1> (x)",
        SMALL,
        {},
        20,
    ),
    ("AveragePool", "AveragePool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> (x)", SMALL, {}, 20),
    ("Gemm", "Gemm <alpha = 0.5, beta = 2.0> (x, u, c)", {"x": (2, 3), "u": (3, 4), "c": (4,)}, {}, 20),
    ("Gemm", "Gemm <transB = 1> (x, u)", {"x": (2, 3), "u": (4, 3)}, {}, 20),
    ("Gemm", "Gemm <transA = 1, alpha = 0.5> (x, u)", {"x": (2, 3), "u": (2, 4)}, {}, 20),
    ("Gemm", "Gemm <transA = 1, transB = 1> (x, u)", {"x": (2, 3), "u": (4, 2)}, {}, 20),
    ("MatMul", "MatMul (x, u)", {"x": (2, 3, 4), "u": (4, 5)}, {}, 20),
    ("MatMul", "MatMul (x, u)", {"x": (2, 1, 3, 4), "u": (5, 4, 2)}, {}, 20),
]


def conv_text(op, inputs="x, w", **attributes):
    listed = ", ".join(f"{name} = {value}" for name, value in attributes.items())
    return f"{op} <{listed}> ({inputs})" if listed else f"{op} ({inputs})"


CONVS = [
    (IMAGE["x"], (6, 4, 3, 3), {}),
    (IMAGE["x"], (6, 4, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    (IMAGE["x"], (6, 4, 3, 2), {"pads": [0, 1, 2, 1], "strides": [1, 2]}),
    (IMAGE["x"], (6, 4, 2, 2), {"dilations": [2, 3], "pads": [1, 1, 1, 1]}),
    (IMAGE["x"], (6, 4, 1, 1), {"strides": [2, 3]}),
    (IMAGE["x"], (6, 2, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    (IMAGE["x"], (4, 1, 3, 3), {"group": 4, "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    (IMAGE["x"], (8, 1, 3, 3), {"group": 4, "pads": [1, 1, 1, 1]}),
    (IMAGE["x"], (6, 4, 3, 3), {"auto_pad": '"SAME_UPPER"', "strides": [2, 2]}),
    (IMAGE["x"], (6, 4, 2, 2), {"auto_pad": '"SAME_LOWER"'}),
    ((2, 3, 9), (4, 3, 4), {"strides": [3], "pads": [2, 1]}),
    ((2, 2, 3, 4, 3), (3, 2, 2, 2, 2), {"strides": [1, 2, 1], "pads": [1, 0, 0, 1, 0, 1]}),
]

INDEXED = [
    ("Gather", "i = ArgMax <axis = 1> (u) y = Gather <axis = 1> (x, i)", {**PLAIN, "u": (2, 3)}, {}, 20),
    (
        "GatherElements",
        "GatherElements <axis = 2> (x, i)",
        PLAIN,
        {"i": ints(0, 3, 3, 1, -1, 0, 1, 1, 1, 0, 2, 2).reshape(2, 3, 2)},
        20,
    ),
    ("GatherND", "GatherND (x, i)", PLAIN, {"i": ints(0, 2, 1, 1, 0, 2).reshape(3, 2)}, 20),
    (
        "ScatterElements",
        "ScatterElements <axis = 1> (x, i, u)",
        {**PLAIN, "u": (2, 2, 1)},
        {"i": ints(0, 2, 1, 0).reshape(2, 2, 1)},
        20,
    ),
    (
        "ScatterElements",
        'ScatterElements <reduction = "add"> (x, i, u)',
        {**PLAIN, "u": (1, 2, 2)},
        {"i": ints(1, 0, 1, 1).reshape(1, 2, 2)},
        20,
    ),
    ("ScatterND", "ScatterND (x, i, u)", {**PLAIN, "u": (2, 4)}, {"i": ints(0, 2, 1, 1).reshape(2, 2)}, 20),
    ("TopK", "y, i = TopK <axis = 1> (x, k)", PLAIN, {"k": ints(2)}, 20),
    ("Compress", "Compress <axis = 2> (x, c)", PLAIN, {"c": np.array([True, False, False, True])}, 20),
    ("Trilu", "Trilu (x)", PLAIN, {}, 20),
    ("Trilu", "Trilu <upper = 0> (x, k)", PLAIN, {"k": np.array(1, np.int64)}, 20),
    ("CumSum", "CumSum (x, a)", PLAIN, {"a": np.array(1, np.int64)}, 20),
    ("CumSum", "CumSum <exclusive = 1, reverse = 1> (x, a)", PLAIN, {"a": np.array(-1, np.int64)}, 20),
    ("ReverseSequence", "ReverseSequence <time_axis = 1, batch_axis = 0> (x, n)", PLAIN, {"n": ints(2, 3)}, 20),
    ("Einsum", 'Einsum <equation = "bij,bjk->bik"> (x, u)', {**PLAIN, "u": (2, 4, 5)}, {}, 20),
    ("Einsum", 'Einsum <equation = "bij,jk"> (x, u)', {**PLAIN, "u": (4, 5)}, {}, 20),
    ("Einsum", 'Einsum <equation = "...ij,...kj->...ki"> (x, u)', {**PLAIN, "u": (2, 5, 4)}, {}, 20),
    ("Einsum", 'Einsum <equation = "bij,b,k->jk"> (x, u, c)', {**PLAIN, "u": (2,)}, {"c": normal(3)}, 20),
    ("MatMul", "MatMul (x, u)", {**PLAIN, "u": (4,)}, {}, 20),
    ("MatMul", "MatMul (u, x)", {**PLAIN, "u": (3,)}, {}, 20),
    ("MatMul", "MatMul (x, u)", {"x": (4,), "u": (4,)}, {}, 20),
    ("CenterCropPad", "CenterCropPad <axes = [1, 2]> (x, s)", PLAIN, {"s": ints(2, 7)}, 20),
]
VECTOR = {"s": normal(4), "b": normal(4)}
NORMALIZED = [
    ("GroupNormalization", "GroupNormalization <num_groups = 2> (x, s, b)", {**IMAGE, "s": (4,)}, {"b": normal(4)}, 21),
    ("RMSNormalization", "RMSNormalization <epsilon = 0.1> (x, s)", {**PLAIN, "s": (4,)}, {}, 23),
    ("RMSNormalization", "RMSNormalization <axis = 1> (x, s)", PLAIN, {"s": normal(3, 4)}, 23),
    ("MeanVarianceNormalization", "MeanVarianceNormalization (x)", IMAGE, {}, 20),
    ("LpNormalization", "LpNormalization (x)", PLAIN, {}, 20),
    ("LpNormalization", "LpNormalization <axis = 1, p = 1> (x)", PLAIN, {}, 20),
    ("LRN", "LRN <size = 3, alpha = 0.5, beta = 0.7, bias = 1.5> (x)", IMAGE, {}, 20),
    ("LRN", "LRN <size = 5, alpha = 0.9> (x)", IMAGE, {}, 20),
    *[(op, f"{op} <keepdims = 0> (x, a)", PLAIN, {"a": ints(2, 0)}, 20) for op in ("ReduceL1", "ReduceL2")],
    *[(op, f"{op} (x)", PLAIN, {}, 20) for op in ("ReduceSumSquare", "ReduceLogSumExp")],
    ("ReduceL2", "ReduceL2 <axes = [1]> (x)", PLAIN, {}, 17),
    ("ReduceLogSum", "+ReduceLogSum (x, a)", PLAIN, {"a": ints(1)}, 20),
    ("SwiGLU", "SwiGLU <alpha = 1.3> (x, u)", {**PLAIN, "u": (2, 3, 4)}, {}, 28),
    ("Attention", "Attention (x, u, v)", {"x": (1, 2, 3, 4), "u": (1, 2, 5, 4), "v": (1, 2, 5, 3)}, {}, 23),
    (
        "Attention",
        "Attention <q_num_heads = 2, kv_num_heads = 1, is_causal = 1, softcap = 2.0> (x, u, v)",
        {"x": (2, 3, 8), "u": (2, 3, 4), "v": (2, 3, 4)},
        {},
        23,
    ),
    (
        "RotaryEmbedding",
        "RotaryEmbedding (x, c, s)",
        {"x": (1, 2, 3, 4)},
        {"c": normal(1, 3, 2), "s": normal(1, 3, 2)},
        23,
    ),
    (
        "SoftmaxCrossEntropyLoss",
        'SoftmaxCrossEntropyLoss <reduction = "sum"> (x, l, w)',
        {"x": (3, 4)},
        {"l": ints(1, 3, 0), "w": np.abs(normal(4))},
        20,
    ),
    ("SoftmaxCrossEntropyLoss", "SoftmaxCrossEntropyLoss (x, l)", {"x": (3, 4)}, {"l": ints(1, 3, 0)}, 20),
    (
        "NegativeLogLikelihoodLoss",
        'NegativeLogLikelihoodLoss <ignore_index = 1, reduction = "none"> (x, l)',
        {"x": (2, 3, 4)},
        {"l": ints(1, 2, 0, 0, 2, 1, 0, 2).reshape(2, 4)},
        20,
    ),
]
POOLED = [
    ("LpPool", "LpPool <kernel_shape = [2, 3], strides = [2, 2]> (x)", SMALL, {}, 20),
    ("LpPool", "LpPool <kernel_shape = [3, 3], pads = [1, 1, 0, 1], p = 3> (x)", SMALL, {}, 20),
    ("LpPool", "LpPool <kernel_shape = [2, 2], p = 1> (x)", SMALL, {}, 20),
    ("GlobalLpPool", "GlobalLpPool <p = 3> (x)", IMAGE, {}, 20),
    (
        "MaxUnpool",
        "MaxUnpool <kernel_shape = [2], strides = [2]> (x, i)",
        {"x": (1, 1, 3)},
        {"i": ints(1, 2, 5).reshape(1, 1, 3)},
        20,
    ),
    (
        "Col2Im",
        "Col2Im <pads = [1, 0, 1, 0], strides = [2, 1], dilations = [1, 2]> (x, s, k)",
        {"x": (2, 12, 4)},
        {"s": ints(4, 4), "k": ints(3, 2)},
        20,
    ),
    ("Pad", 'Pad <mode = "wrap"> (x, p)', {"x": (2, 3, 5)}, {"p": ints(0, 1, 2, 0, 0, 3)}, 20),
]


def resize_text(scales="s", **attributes):
    listed = ", ".join(f"{name} = {value}" for name, value in attributes.items())
    return f"Resize <{listed}> (x, roi, {scales})"


def scales(*values):
    return {"s": np.array(values, np.float32), "roi": np.zeros(0, np.float32)}


RESIZED = [
    ("Resize", resize_text(**attributes), SMALL, constants, 19)
    for attributes, constants in [
        ({"mode": '"nearest"', "coordinate_transformation_mode": '"asymmetric"'}, scales(1, 1, 2, 2)),
        ({"mode": '"nearest"', "nearest_mode": '"floor"'}, scales(1, 1, 1.5, 0.7)),
        ({"mode": '"nearest"', "nearest_mode": '"ceil"'}, scales(1, 1, 0.6, 2.5)),
        ({"mode": '"linear"'}, scales(1, 1, 2, 2)),
        ({"mode": '"linear"', "antialias": 1}, scales(1, 1, 0.6, 0.5)),
        ({"mode": '"cubic"'}, scales(1, 1, 2, 1.5)),
        ({"mode": '"cubic"', "cubic_coeff_a": -0.5, "exclude_outside": 1}, scales(1, 1, 1.5, 2)),
    ]
]
CROP = np.array([0, 0, 0.2, 0.1, 1, 1, 0.9, 1.3], np.float32)
RESIZED += [
    ("Resize", resize_text(", s", mode='"linear"', **attributes), SMALL, {"s": ints(*s), "roi": roi}, 19)
    for attributes, s, roi in [
        ({}, (1, 2, 7, 4), np.zeros(0, np.float32)),
        ({"coordinate_transformation_mode": '"align_corners"'}, (1, 2, 8, 3), np.zeros(0, np.float32)),
        ({"coordinate_transformation_mode": '"pytorch_half_pixel"'}, (1, 2, 1, 9), np.zeros(0, np.float32)),
        ({"coordinate_transformation_mode": '"half_pixel_symmetric"'}, (1, 2, 7, 9), np.zeros(0, np.float32)),
        ({"coordinate_transformation_mode": '"tf_crop_and_resize"', "extrapolation_value": 0.3}, (1, 2, 7, 9), CROP),
    ]
]
RESIZED += [("Resize", resize_text(mode='"nearest"', axes="[3, 2]"), SMALL, scales(2, 3), 19)]
CASES += INDEXED + NORMALIZED + POOLED + RESIZED
CASES += [("Conv", conv_text("Conv", **a), {"x": x}, {"w": normal(*w)}, 20) for x, w, a in CONVS]
CASES += [
    ("ConvTranspose", conv_text("ConvTranspose", **a), {"x": (2, 4, 3, 4)}, {"w": normal(*w)}, 20)
    for w, a in [
        ((4, 3, 3, 3), {}),
        ((4, 3, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
        ((4, 3, 2, 2), {"strides": [2, 2], "output_padding": [1, 1]}),
        ((4, 3, 3, 2), {"strides": [1, 2], "dilations": [2, 1]}),
    ]
]
# weights and biases as variables: what training asks of the rules
CASES += [
    ("Conv", conv_text("Conv", "x, w, b", **a), {"x": x, "w": w, "b": (w[0],)}, {}, 20)
    for x, w, a in [
        *CONVS,
        ((2, 10, 6, 5), (4, 10, 3, 2), {"strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]}),
        ((2, 20, 4, 5), (4, 10, 1, 1), {"group": 2}),
        ((2, 20, 4, 3), (4, 10, 2, 2), {"group": 2}),
    ]
]
CASES += [
    ("ConvTranspose", conv_text("ConvTranspose", "x, w, b", **a), {"x": (2, 4, 3, 4), "w": w, "b": (b,)}, {}, 20)
    for w, b, a in [
        ((4, 3, 3, 3), 3, {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
        ((4, 3, 3, 2), 3, {"strides": [1, 2], "dilations": [2, 1]}),
    ]
]
CASES += [
    (
        "BatchNormalization",
        "BatchNormalization <epsilon = 0.01> (x, s, b, m, v)",
        {**IMAGE, "s": (4,), "b": (4,)},
        {"m": normal(4), "v": normal(4) ** 2},
        20,
    ),
    ("MatMul", "MatMul (x, w)", {"x": (2, 3, 4), "w": (4, 5)}, {}, 20),
]
# inputs that are usually constants, computed
CASES += [
    ("Clip", "Clip (x, u, high)", {**PLAIN, "u": ()}, {"high": np.float32(0.8)}, 20),
    ("Clip", "Clip (x, low, u)", {**PLAIN, "u": ()}, {"low": np.float32(-0.5)}, 20),
    ("Clip", "Clip (x, u)", {**PLAIN, "u": ()}, {}, 20),
    ("Clip", "Clip (x, , u)", {**PLAIN, "u": ()}, {}, 20),
    ("Clip", "v = Add (u, gap) y = Clip (x, u, v)", {**PLAIN, "u": ()}, {"gap": np.float32(0.5)}, 20),
    ("Clip", "v = Sub (u, gap) y = Clip (x, u, v)", {**PLAIN, "u": ()}, {"gap": np.float32(0.5)}, 20),
    ("Pad", "Pad (x, p, u)", {**PLAIN, "u": ()}, {"p": ints(0, 1, 0, 0, 2, 3)}, 20),
    ("Pad", "Pad (x, p, u, a)", {**IMAGE, "u": ()}, {"p": ints(1, 0, 2, 3), "a": ints(3, 2)}, 20),
    ("Dropout", "r = Sigmoid (u) y, m = Dropout (x, r)", {**PLAIN, "u": ()}, {}, 20),
    ("CastLike", "CastLike (x, u)", {**PLAIN, "u": (3,)}, {}, 20),
    (
        "Pow",
        "e = Exp (u) b = Add (e, one) c = Relu (x) y = Pow (c, b)",
        {**PLAIN, "u": (3, 1)},
        {"one": np.float32(1)},
        20,
    ),
    ("Where", "Where (c, u, x)", {**PLAIN, "u": ()}, {"c": normal(2, 3, 4) > 0}, 20),
    ("LayerNormalization", "LayerNormalization <axis = 1> (x, s, b)", {**PLAIN, "s": (3, 4), "b": (4,)}, {}, 20),
    (
        "GroupNormalization",
        "GroupNormalization <num_groups = 2> (x, s, b)",
        {**IMAGE, "s": (4,), "b": (4,)},
        {},
        21,
    ),
    (
        "Attention",
        "Attention (x, u, v, m)",
        {"x": (1, 2, 3, 4), "u": (1, 2, 5, 4), "v": (1, 2, 5, 3), "m": (3, 5)},
        {},
        23,
    ),
    (
        "Attention",
        "y, j, k = Attention (x, u, v, m, p, r)",
        {"x": (1, 2, 3, 4), "u": (1, 2, 5, 4), "v": (1, 2, 5, 3), "m": (3, 7), "p": (1, 2, 2, 4), "r": (1, 2, 2, 3)},
        {},
        23,
    ),
    ("RotaryEmbedding", "RotaryEmbedding (x, c, s)", {"x": (1, 2, 3, 4), "c": (1, 3, 2), "s": (1, 3, 2)}, {}, 23),
    (
        "SoftmaxCrossEntropyLoss",
        "w = Exp (u) y = SoftmaxCrossEntropyLoss (x, l, w)",
        {"x": (3, 4), "u": (4,)},
        {"l": ints(1, 3, 0)},
        20,
    ),
    (
        "NegativeLogLikelihoodLoss",
        "w = Exp (u) y = NegativeLogLikelihoodLoss (x, l, w)",
        {"x": (3, 4), "u": (4,)},
        {"l": ints(1, 3, 0)},
        20,
    ),
]
# operator -> inputs of real numbers that are not differentiated; the error names the operator
# onnx's evaluator knows the forward direction alone; test_recurrent has the rest
STATES = {"x": (4, 2, 3), "h": (1, 2, 5)}
CASES += [
    (
        "LSTM",
        "s, t, u = LSTM <hidden_size = 5> (x, w, r, b, , h, c) v = Add (s, t) y = Sub (v, u)",
        {**STATES, "w": (1, 20, 3), "r": (1, 20, 5), "b": (1, 40), "c": (1, 2, 5)},
        {},
        20,
    ),
    ("LSTM", "y, t, u = LSTM <hidden_size = 5> (x, w, r)", {"x": (4, 2, 3), "w": (1, 20, 3), "r": (1, 20, 5)}, {}, 20),
    ("LSTM", "k, t, y = LSTM <hidden_size = 5> (x, w, r)", {"x": (4, 2, 3), "w": (1, 20, 3), "r": (1, 20, 5)}, {}, 20),
    *[
        (
            "GRU",
            f"s, t = GRU <hidden_size = 5, linear_before_reset = {after}> (x, w, r, b, , h) y = Add (s, t)",
            {**STATES, "w": (1, 15, 3), "r": (1, 15, 5), "b": (1, 30)},
            {},
            20,
        )
        for after in (0, 1)
    ],
    (
        "RNN",
        "s, t = RNN <hidden_size = 5> (x, w, r, b, , h) y = Add (s, t)",
        {**STATES, "w": (1, 5, 3), "r": (1, 5, 5), "b": (1, 10)},
        {},
        20,
    ),
]

REFUSED = {"LSTM": [7], "BatchNormalization": [3, 4], "Resize": [1, 2], "QuantizeLinear": [1], "DequantizeLinear": [1]}
