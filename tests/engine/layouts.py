"""Small models, one for each place where Q/DQ pairs go, with weights that are large beside everything else."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.parser

_IMAGE, _TOKENS = "float[1,128,16,16]", "float[1,16,128]"


def layouts() -> dict[str, onnx.ModelProto]:
    """By name: seeded float32 models of one input ``x`` and one output ``y``."""
    rng = np.random.default_rng(0)

    def weights(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
        return {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}

    def image(body: str, **shapes: tuple[int, ...]) -> onnx.ModelProto:
        return _model(_IMAGE, _IMAGE, body, weights(**shapes))

    square, bias, wide = (128, 128, 1, 1), (128,), (128, 128, 3, 3)
    padded = "Conv<pads=[1,1,1,1]>"
    heads = {"split": np.array([1, 16, 4, 32]), "joined": np.array([1, 16, 128])}
    matrix = dict.fromkeys(("wq", "wk", "wv", "wo"), (128, 128))
    return {
        "pointwise, Relu": image("h = Conv(x,w,b) y = Relu(h)", w=square, b=bias),
        "pointwise, HardSwish": image("h = Conv(x,w,b) y = HardSwish(h)", w=square, b=bias),
        "pointwise, SiLU": image("h = Conv(x,w,b) s = Sigmoid(h) y = Mul(h,s)", w=square, b=bias),
        "3x3, Relu": image(f"h = {padded}(x,w,b) y = Relu(h)", w=wide, b=bias),
        "depthwise": image("h = Conv<group=128,pads=[1,1,1,1]>(x,w,b) y = Relu(h)", w=(128, 1, 3, 3), b=bias),
        "2 channels a group": image("h = Conv<group=64,pads=[1,1,1,1]>(x,w,b) y = Relu(h)", w=(128, 2, 3, 3), b=bias),
        "4 channels a group": image("h = Conv<group=32,pads=[1,1,1,1]>(x,w,b) y = Relu(h)", w=(128, 4, 3, 3), b=bias),
        "depthwise, pointwise": image(
            "h = Conv<group=128,pads=[1,1,1,1]>(x,w,b) r = Relu(h) y = Conv(r,v,b)", w=(128, 1, 3, 3), v=square, b=bias
        ),
        "gate": image(
            """h = Conv(x,w,b) g = GlobalAveragePool(h) s = Conv(g,v,c) r = Relu(s) t = Conv(r,u,b)
            f = HardSigmoid(t) y = Mul(h,f)""",
            w=square,
            v=(64, 128, 1, 1),
            c=(64,),
            u=(128, 64, 1, 1),
            b=bias,
        ),
        "residual": image(
            f"h = {padded}(x,w,b) r = Relu(h) k = {padded}(r,v,b) a = Add(k,x) z = Relu(a) y = Conv(z,u,b)",
            w=wide,
            v=wide,
            u=square,
            b=bias,
        ),
        "concatenation": image(
            "h = Conv(x,w,b) k = Conv(x,v,b) j = Concat<axis=1>(h,k) r = Relu(j) y = Conv(r,u,b)",
            w=square,
            v=square,
            u=(128, 256, 1, 1),
            b=bias,
        ),
        "ConvTranspose": _model(
            _IMAGE,
            "float[1,64,32,32]",
            "y = ConvTranspose<strides=[2,2]>(x,w,b)",
            weights(w=(128, 64, 2, 2), b=(64,)),
        ),
        "Gemm": _model("float[1,256]", "float[1,512]", "y = Gemm(x,w,b)", weights(w=(256, 512), b=(512,))),
        "Gemm, transB": _model(
            "float[1,256]", "float[1,512]", "y = Gemm<transB=1>(x,w,b)", weights(w=(512, 256), b=(512,))
        ),
        "MatMul": _model(_TOKENS, "float[1,16,512]", "h = MatMul(x,w) y = Add(h,b)", weights(w=(128, 512), b=(512,))),
        "MatMul, a stack": _model("float[4,16,256]", "float[4,16,128]", "y = MatMul(x,w)", weights(w=(4, 256, 128))),
        "attention": _model(
            _TOKENS,
            _TOKENS,
            """a = MatMul(x,wq) b = MatMul(x,wk) c = MatMul(x,wv)
            d = Reshape(a,split) e = Reshape(b,split) f = Reshape(c,split)
            q = Transpose<perm=[0,2,1,3]>(d) k = Transpose<perm=[0,2,3,1]>(e) v = Transpose<perm=[0,2,1,3]>(f)
            l = MatMul(q,k) p = Softmax(l) o = MatMul(p,v) m = Transpose<perm=[0,2,1,3]>(o) n = Reshape(m,joined)
            y = MatMul(n,wo)""",
            weights(**matrix) | heads,
        ),
    }


def _model(given: str, gives: str, body: str, constants: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    head = f'<ir_version: 8, opset_import: ["" : 17]> g ({given} x) => ({gives} y)'
    model = onnx.parser.parse_model(f"{head} {{ {body} }}")
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    return model
