"""A small interpreter of ONNX graphs in torch: the independent oracle of the gradient tests.

Initializers become leaf tensors with gradients; autograd at batch 1 then gives dL_i/dW one sample at a time.
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch.nn import functional as F  # noqa: N812

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _attributes(node):
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def _conv(x, w, b=None, *, pads=None, strides=1, dilations=1, group=1, **_):
    rank = x.ndim - 2
    pads = pads or [0] * 2 * rank
    widths = [n for axis in reversed(range(rank)) for n in (pads[axis], pads[rank + axis])]
    return CONV[rank](F.pad(x, widths), w, b, stride=strides, dilation=dilations, groups=group)


def _conv_transpose(x, w, b=None, *, pads=None, strides=1, dilations=1, group=1, output_padding=0, **_):
    rank = x.ndim - 2
    pads = pads or [0] * 2 * rank
    assert pads[:rank] == pads[rank:]
    return CONV_TRANSPOSE[rank](x, w, b, strides, pads[:rank], output_padding, group, dilations)


def _gemm(a, b, c=0.0, *, alpha=1.0, beta=1.0, transA=0, transB=0):
    return alpha * (a.T if transA else a) @ (b.T if transB else b) + beta * c


def _batch_norm(x, gamma, beta, mean, var, *, epsilon=1e-5, **_):
    return F.batch_norm(x, mean.detach(), var.detach(), gamma, beta, eps=epsilon)


def _max_pool(x, *, kernel_shape, pads=None, strides=1, **_):
    pads = pads or [0, 0, 0, 0]
    return F.max_pool2d(F.pad(x, (pads[1], pads[3], pads[0], pads[2]), value=-torch.inf), kernel_shape, strides)


def _rms_norm(x, scale, *, axis=-1, epsilon=1e-5):
    return F.rms_norm(x, x.shape[axis:], scale, epsilon)


def _attention(q, k, v, *, q_num_heads, kv_num_heads):
    assert q_num_heads == kv_num_heads
    heads = [x.unflatten(2, (q_num_heads, -1)).transpose(1, 2) for x in (q, k, v)]
    return F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)


def _resize(x, roi, scales, *, mode, **_):
    assert mode == b"linear"
    return F.interpolate(x, scale_factor=tuple(scales[2:].tolist()), mode="bilinear")


def _slice(x, starts, ends, axes=None, steps=None):
    axes = range(len(starts)) if axes is None else axes.tolist()
    steps = [1] * len(starts) if steps is None else steps.tolist()
    for axis, start, end, step in zip(axes, starts.tolist(), ends.tolist(), steps, strict=True):
        x = x[(slice(None),) * (axis % x.ndim) + (slice(start, end, step),)]
    return x


def _gather(x, index, *, axis=0):
    axis %= x.ndim
    rows = torch.index_select(x, axis, index.long().reshape(-1))
    return rows.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _squeeze(x, axes):
    return x.squeeze(tuple(axes.tolist()))


def _unsqueeze(x, axes):
    for axis in sorted(n % (x.ndim + len(axes)) for n in axes.tolist()):
        x = x.unsqueeze(axis)
    return x


def _split(x, sizes=None, *, axis=0, num_outputs=1):
    return torch.split(x, -(-x.shape[axis] // num_outputs) if sizes is None else sizes.tolist(), axis)


def _steps(op, x, w, r, b, h, c, after):
    """States of one direction, step by step, as the ONNX operators are defined."""
    size, states = r.shape[1], []
    wb, rb = b.chunk(2)
    for row in x:
        if op == "RNN":
            h = torch.tanh(row @ w.T + wb + h @ r.T + rb)
        elif op == "LSTM":
            i, o, f, g = (row @ w.T + wb + h @ r.T + rb).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        else:
            given, read = row @ w.T + wb, h @ r.T + rb
            z, reset = torch.sigmoid(given[:, : 2 * size] + read[:, : 2 * size]).chunk(2, 1)
            inner = reset * read[:, 2 * size :] if after else (reset * h) @ r[2 * size :].T + rb[2 * size :]
            n = torch.tanh(given[:, 2 * size :] + inner)
            h = (1 - z) * n + z * h
        states.append(h)
    return states, h, c


def _recurrent(op):
    def run(x, w, r, b=None, lengths=None, h0=None, c0=None, *, direction=b"forward", linear_before_reset=0, **_):
        b = w.new_zeros(len(w), 2 * w.shape[1]) if b is None else b
        zeros = w.new_zeros(len(w), x.shape[1], r.shape[2])
        h0, c0 = (zeros if state is None else state for state in (h0, c0))
        count = len(x) if lengths is None else int(lengths)  # one sample
        ends, every = [], []
        for d, back in enumerate({b"forward": (False,), b"reverse": (True,)}.get(direction, (False, True))):
            rows = x[:count].flip(0) if back else x[:count]
            states, *end = _steps(op, rows, w[d], r[d], b[d], h0[d], c0[d], linear_before_reset)
            states = torch.stack(states[::-1] if back else states)
            every.append(F.pad(states, (0, 0, 0, 0, 0, len(x) - count)))
            ends.append(end)
        h, c = (torch.stack(list(some)) for some in zip(*ends, strict=True))
        return (torch.stack(every, 1), h, c) if op == "LSTM" else (torch.stack(every, 1), h)

    return run


OPS = {
    **{op: _recurrent(op) for op in ("LSTM", "GRU", "RNN")},
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": torch.div,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "HardSwish": F.hardswish,
    "HardSigmoid": lambda x, alpha=0.2, beta=0.5: torch.clip(alpha * x + beta, 0, 1),
    "Clip": lambda x, low=None, high=None: torch.clip(x, low, high),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": torch.matmul,
    "MaxPool": _max_pool,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": lambda x, g, b, axis=-1, epsilon=1e-5: F.layer_norm(x, x.shape[axis:], g, b, epsilon),
    "GlobalAveragePool": lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True),
    "ReduceMean": lambda x, axes, keepdims=1: x.mean([int(axis) for axis in axes], keepdim=bool(keepdims)),
    "ReduceL2": lambda x, axes, keepdims=1: x.norm(dim=tuple(axes.tolist()), keepdim=bool(keepdims)),
    "Neg": torch.neg,
    "Sqrt": torch.sqrt,
    "Pow": torch.pow,
    "Reciprocal": torch.reciprocal,
    "Elu": F.elu,
    "Where": torch.where,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Tile": lambda x, repeats: x.repeat(*repeats.tolist()),
    "Expand": lambda x, shape: x * torch.ones(shape.tolist(), dtype=x.dtype),
    "Flatten": lambda x, axis=1: x.reshape(int(np.prod(x.shape[:axis])), -1),
    "Reshape": lambda x, shape, **_: x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(shape.tolist())]),
    "Transpose": lambda x, perm: x.permute(*perm),
    "Softmax": lambda x, axis=-1: torch.softmax(x, axis),
    "LogSoftmax": lambda x, axis=-1: torch.log_softmax(x, axis),
    "GroupNormalization": lambda x, s, b, num_groups, epsilon=1e-5: F.group_norm(x, num_groups, s, b, epsilon),
    "RMSNormalization": _rms_norm,
    "Attention": _attention,
    "Resize": _resize,
    "AveragePool": lambda x, kernel_shape, strides: F.avg_pool2d(x, kernel_shape, strides),
    "Concat": lambda *parts, axis: torch.cat(parts, axis),
    "Einsum": lambda *args, equation: torch.einsum(equation.decode(), *args),
    "Gather": _gather,
    "Identity": lambda x: x,
    "Constant": lambda value: torch.from_numpy(numpy_helper.to_array(value).copy()),
}


class TorchModel:
    """``weights``: leaf tensors by initializer name; call with feeds to get the first output."""

    def __init__(self, model: onnx.ModelProto, dtype: torch.dtype = torch.float32) -> None:
        self.graph = model.graph
        self.dtype = dtype
        self.weights = {}
        for tensor in model.graph.initializer:
            value = torch.from_numpy(numpy_helper.to_array(tensor).copy())
            self.weights[tensor.name] = value.to(dtype).requires_grad_() if value.is_floating_point() else value

    def __call__(self, feeds):
        return self.tensors(feeds)[self.graph.output[0].name]

    def tensors(self, feeds):
        """Every tensor by name."""
        values = {**self.weights, **{name: self._cast(x) for name, x in feeds.items()}}
        for node in self.graph.node:
            args = [values[name] if name else None for name in node.input]
            result = OPS[node.op_type](*args, **_attributes(node))
            values |= zip(node.output, result if isinstance(result, tuple) else [result], strict=False)
        return values

    def _cast(self, x):
        value = torch.from_numpy(x)
        return value.to(self.dtype) if value.is_floating_point() else value


def sample_gradients(model, feeds, labels, names, dtype=torch.float32):
    """dL_i/dW by autograd at batch 1: {weight: float64 [N, *weight.shape]}."""
    net = TorchModel(model, dtype)
    leaves = [net.weights[name] for name in names]
    rows = {name: [] for name in names}
    for i, label in enumerate(labels):
        logits = net({name: x[i : i + 1] for name, x in feeds.items()})
        loss = F.cross_entropy(logits.reshape(1, -1), torch.tensor([int(label)]))
        for name, grad in zip(names, torch.autograd.grad(loss, leaves), strict=True):
            rows[name].append(grad.double().numpy())
    return {name: np.stack(some) for name, some in rows.items()}


def filter_norms(gradients, axes):
    """Squared norms [N, filters] of ``sample_gradients`` along each weight's filter axis."""
    return {
        name: (np.moveaxis(g, 1 + axes[name], 1) ** 2).reshape(len(g), g.shape[1 + axes[name]], -1).sum(-1)
        for name, g in gradients.items()
    }
