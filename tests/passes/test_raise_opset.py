"""Old opsets: converted models compute what onnxruntime computes of the originals."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from oracle import run

from hqp_onnx.errors import ModelError
from hqp_onnx.graphs.model_io import check, to_graph, to_proto
from hqp_onnx.model import IN_MEMORY
from hqp_onnx.passes.raise_opset import raise_opset

RNG = np.random.default_rng(0)
WEIGHTS = {
    "scale": np.abs(RNG.standard_normal(4)).astype(np.float32),
    "bias": RNG.standard_normal(4).astype(np.float32),
    "sizes": np.array([1, 1, 2, 1.5], np.float32),
    "less": np.array([1, 1, 0.3, 0.5], np.float32),
    "both": np.array([1, 1, 1.5, 0.7], np.float32),
    "slope": RNG.standard_normal((4, 1, 1)).astype(np.float32),
    "shape": np.array([2, -1]),
}
BODIES = [
    (7, 'y = Upsample<mode="nearest", scales=[1.0,1.0,2.0,2.0]>(x)'),
    (7, "y = BatchNormalization(x, scale, bias, bias, scale)"),
    (7, "y = Softmax<axis=1>(x)"),
    (7, 'y = Pad<pads=[0,0,1,1,0,0,1,1], mode="constant", value=0.5>(x)'),
    (8, "y = Slice<starts=[0], ends=[1], axes=[1]>(x)"),
    (8, "y = Clip<min=0.0, max=1.0>(x)"),
    (8, "y = Reshape(x, shape)"),
    (9, 'y = Upsample<mode="linear">(x, sizes)'),
    (9, 'y = Upsample<mode="nearest">(x, sizes)'),
    (9, "y = ReduceSum<axes=[1]>(x)"),
    (9, "y = PRelu(x, slope)"),
    (9, "y = Squeeze<axes=[0]>(x)"),
    (10, 'y = Resize<mode="linear">(x, sizes)'),
    (10, 'y = Resize<mode="nearest">(x, sizes)'),
    (10, 'y = Resize<mode="nearest">(x, less)'),
    (10, 'y = Resize<mode="nearest">(x, both)'),
    (10, 'y = Resize<mode="linear">(x, both)'),
    (10, 's = Sqrt(both) y = Resize<mode="nearest">(x, s)'),
    (10, "y = AveragePool<kernel_shape=[3,3], ceil_mode=1, strides=[2,2]>(x)"),
]


def made(opset: int, body: str) -> onnx.ModelProto:
    text = f'<ir_version: 4, opset_import: ["" : {opset}]> g (float[1,4,6,6] x) => (float[o,p] y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    for name in dict.fromkeys(x for node in model.graph.node for x in node.input if x in WEIGHTS):
        model.graph.initializer.append(onnx.numpy_helper.from_array(WEIGHTS[name], name))
    dims = model.graph.output[0].type.tensor_type.shape.dim
    rank = run_rank(model)
    del dims[:]
    for axis in range(rank):
        dims.add(dim_param=f"d{axis}")
    return model


def run_rank(model: onnx.ModelProto) -> int:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output[0].type.tensor_type.ClearField("shape")
    return run(copy, feeds())[0].ndim


def feeds() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal((1, 4, 6, 6)).astype(np.float32)}


@pytest.mark.parametrize(("opset", "body"), BODIES)
def test_old_opsets_are_raised(opset: int, body: str) -> None:
    model = made(opset, body)
    check(model, IN_MEMORY)
    raised = to_proto(raise_opset(to_graph(model), 13).graph)
    assert raised.opset_import[0].version == 13
    assert raised.graph.output == model.graph.output  # with the sizes that it left open
    np.testing.assert_allclose(run(raised, feeds())[0], run(model, feeds())[0], atol=1e-6)


def test_what_no_runtime_knows_is_refused() -> None:
    text = '<ir_version: 4, opset_import: ["" : 6]> g (float[1] x) => (float[1] y) { y = Relu(x) }'
    with pytest.raises(ModelError, match="opset 6 is not supported: expected 7"):
        check(onnx.parser.parse_model(text), IN_MEMORY)
