"""Whole small topologies: which units they have, and random plans against the zero-masked original."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx.parser
import pytest
from oracle import require_runtime

from hqp_onnx.channels.channel_map import ParamAxis
from hqp_onnx.channels.walk import analyze
from hqp_onnx.graphs.model_io import to_graph
from hqp_onnx.passes.canonicalize import canonicalize


@dataclass
class Topology:
    """A graph in ONNX text without initializers; every name it reads but does not make is one of ``params``.

    ``units`` gives the number of prunable units by the parameter axis that holds them.
    """

    inputs: str
    outputs: str
    body: str
    params: dict[str, tuple[int, ...]]
    units: dict[tuple[str, int], int]
    ints: dict[str, list] = field(default_factory=dict)
    opset: int = 17
    functions: str = ""
    type: type = np.float32


TOKENS = ("float[n,5,12] x", "float[n,5,3] y")
PROJECTIONS = """
      q0 = MatMul(x, wq)
      q1 = Add(q0, bq)
      k0 = MatMul(x, wk)
      k1 = Add(k0, bk)
      v0 = MatMul(x, wv)
      v1 = Add(v0, bv)
      q2 = Reshape(q1, heads)
      k2 = Reshape(k1, heads)
      v2 = Reshape(v1, heads)
      q = Transpose<perm=[0,2,1,3]>(q2)
      kt = Transpose<perm=[0,2,3,1]>(k2)
      v = Transpose<perm=[0,2,1,3]>(v2)"""
ATTEND = """
      s0 = MatMul(q, kt)
      s1 = Mul(s0, scale)
      s2 = Add(s1, mask)
      s3 = Softmax(s2)
      o0 = MatMul(s3, v)
      o1 = Transpose<perm=[0,2,1,3]>(o0)
      o2 = Reshape(o1, joined)
      o3 = MatMul(o2, wo)
      o4 = Add(o3, bo)
      h = Add(o4, x)"""
MLP = """
      l = LayerNormalization(h, lg, lb)
      m0 = MatMul(l, w1)
      m1 = Add(m0, b1)
      m2 = Gelu(m1)
      m3 = MatMul(m2, w2)
      m4 = Add(h, m3)
      y = MatMul(m4, wy)"""
MLP_PARAMS = {"lg": (12,), "lb": (12,), "w1": (12, 10), "b1": (10,), "w2": (10, 12), "wy": (12, 3)}
OUT_PARAMS = {"wo": (12, 12), "bo": (12,), "scale": (), "mask": (5, 5)}
QKV_PARAMS = {name + kind: shape for name in "wb" for kind, shape in dict.fromkeys("qkv", (12,)).items()}
QKV_PARAMS |= {f"w{kind}": (12, 12) for kind in "qkv"}
HEADS = {"heads": [0, 0, 4, 3], "joined": [0, 0, 12]}
FUSED = {"wqkv": (12, 36), "bqkv": (36,)}


def windows(heads: int, size: int, members: dict[tuple[str, int], int]) -> Topology:
    """Attention inside windows of four rows, with a bias for each head and a mask for each window."""
    scores = [-1, 2, heads, 4, 4]
    return Topology(
        "float[n,8,12] x",
        "float[n,8,3] y",
        """
      w = Reshape(x, windows)
      t = MatMul(w, wqkv)
      u = Add(t, bqkv)
      r = Reshape(u, three)
      p = Transpose<perm=[2,0,3,1,4]>(r)
      q = Gather(p, i0)
      k = Gather(p, i1)
      v = Gather(p, i2)
      q_ = Mul(q, scale)
      kt = Transpose<perm=[0,1,3,2]>(k)
      s0 = MatMul(q_, kt)
      s1 = Add(s0, bias)
      s2 = Reshape(s1, apart)
      s3 = Add(s2, mask)
      s4 = Reshape(s3, together)
      s5 = Softmax(s4)
      o0 = MatMul(s5, v)
      o1 = Transpose<perm=[0,2,1,3]>(o0)
      o2 = Reshape(o1, joined)
      o3 = MatMul(o2, wo)
      o4 = Reshape(o3, whole)
      y = MatMul(o4, wy)""",
        {**FUSED, "wo": (12, 7), "wy": (7, 3), "bias": (1, heads, 4, 4), "mask": (2, 1, 4, 4), "scale": ()},
        members,
        {
            "windows": [-1, 4, 12],
            "three": [0, 0, 3, heads, size],
            "apart": scores,
            "together": [-1, heads, 4, 4],
            "joined": [0, 0, 12],
            "whole": [-1, 8, 7],
            "i0": 0,
            "i1": 1,
            "i2": 2,
        },
    )


TOPOLOGIES = {
    "attention": Topology(
        *TOKENS,
        PROJECTIONS + ATTEND + MLP,
        {**QKV_PARAMS, **OUT_PARAMS, **MLP_PARAMS},
        {("wo", 0): 4, ("w1", 1): 10},
        HEADS,
        20,
    ),
    "attention of two wide heads": Topology(
        *TOKENS,
        PROJECTIONS + ATTEND + MLP,
        {**QKV_PARAMS, **OUT_PARAMS, **MLP_PARAMS},
        {("wq", 1): 6, ("bk", 0): 6, ("wv", 1): 6, ("wo", 0): 6},
        HEADS | {"heads": [0, 0, 2, 6]},
        20,
    ),
    "attention of two wide heads whose queries are an output": Topology(
        TOKENS[0],
        f"{TOKENS[1]}, float[n,2,5,6] q",
        PROJECTIONS + ATTEND + MLP,
        {**QKV_PARAMS, **OUT_PARAMS, **MLP_PARAMS},
        {("wq", 1): 0, ("wv", 1): 0, ("w1", 1): 10},
        HEADS | {"heads": [0, 0, 2, 6]},
        20,
    ),
    "attention of two wide heads, a bias for each from a table": Topology(
        *TOKENS,
        "t0 = Gather(table, places)\n t1 = Transpose<perm=[2,0,1]>(t0)\n t = Unsqueeze(t1, first)"
        + PROJECTIONS
        + ATTEND.replace("Add(s1, mask)", "Add(s1, t)")
        + MLP,
        {**QKV_PARAMS, **OUT_PARAMS, **MLP_PARAMS, "table": (9, 2)},
        {("wq", 1): 6, ("wv", 1): 6, ("wo", 0): 6, ("table", 1): 0, ("w1", 1): 10},
        HEADS | {"heads": [0, 0, 2, 6], "places": [[i - j + 4 for i in range(5)] for j in range(5)], "first": [0]},
        20,
    ),
    "fused attention of two wide heads, Gather": Topology(
        *TOKENS,
        """
      t = MatMul(x, wqkv)
      u = Add(bqkv, t)
      r = Reshape(u, three)
      p = Transpose<perm=[2,0,3,1,4]>(r)
      q = Gather(p, i0)
      k = Gather(p, i1)
      v = Gather(p, i2)
      kt = Transpose<perm=[0,1,3,2]>(k)"""
        + ATTEND
        + MLP,
        {**FUSED, **OUT_PARAMS, **MLP_PARAMS},
        {("wqkv", 1): 6, ("w1", 1): 10},
        {"three": [0, 0, 3, 2, 6], "joined": [0, 0, 12], "i0": 0, "i1": 1, "i2": 2},
        20,
    ),
    "grouped queries, wide heads": Topology(
        *TOKENS,
        """
      rows = Reshape(x, flat)
      q0 = Gemm<transB=1>(rows, wq, bq)
      q1 = Reshape(q0, heads)
      q = Transpose<perm=[0,2,1,3]>(q1)
      k0 = MatMul(x, wk)
      v0 = MatMul(x, wv)
      k1 = Reshape(k0, few)
      v1 = Reshape(v0, few)
      k2 = Transpose<perm=[0,2,1,3]>(k1)
      v2 = Transpose<perm=[0,2,1,3]>(v1)
      k4 = Unsqueeze(k2, two)
      k5 = Expand(k4, to)
      k6 = Reshape(k5, repeated)
      v4 = Unsqueeze(v2, two)
      v5 = Expand(v4, to)
      v = Reshape(v5, repeated)
      kt = Transpose<perm=[0,1,3,2]>(k6)"""
        + ATTEND
        + MLP,
        {**OUT_PARAMS, **MLP_PARAMS, "wq": (24, 12), "bq": (24,), "wk": (12, 12), "wv": (12, 12), "wo": (24, 12)},
        {("wq", 0): 6, ("bq", 0): 6, ("wk", 1): 6, ("wv", 1): 6, ("wo", 0): 6},
        {
            "flat": [-1, 12],
            "heads": [-1, 5, 4, 6],
            "few": [0, 0, 2, 6],
            "two": [2],
            "to": [1, 1, 2, 1, 1],
            "repeated": [0, 4, 5, 6],
            "joined": [0, 0, 24],
        },
        20,
    ),
    "attention, mask per head and Where": Topology(
        *TOKENS,
        PROJECTIONS
        + ATTEND.replace(
            "s2 = Add(s1, mask)", "z = Trilu<upper=0>(s1)\n c = Greater(z, zero)\n s2 = Where(c, s1, mask)"
        )
        + MLP,
        {**QKV_PARAMS, **OUT_PARAMS, **MLP_PARAMS, "mask": (4, 5, 5), "zero": ()},
        {("wo", 0): 4, ("w1", 1): 10, ("mask", 0): 4},
        HEADS,
        20,
    ),
    "fused attention, Gather": Topology(
        *TOKENS,
        """
      t = MatMul(x, wqkv)
      u = Add(t, bqkv)
      r = Reshape(u, three)
      p = Transpose<perm=[2,0,3,1,4]>(r)
      q = Gather(p, i0)
      k = Gather(p, i1)
      v = Gather(p, i2)
      kt = Transpose<perm=[0,1,3,2]>(k)"""
        + ATTEND
        + MLP,
        {**FUSED, **OUT_PARAMS, **MLP_PARAMS},
        {("wqkv", 1): 4, ("w1", 1): 10},
        {"three": [0, 0, 3, 4, 3], "joined": [0, 0, 12], "i0": 0, "i1": 1, "i2": 2},
        20,
    ),
    "fused attention, Split": Topology(
        *TOKENS,
        """
      t = MatMul(x, wqkv)
      u = Add(t, bqkv)
      q1, k1, v1 = Split<axis=2>(u, thirds)
      q2 = Reshape(q1, heads)
      k2 = Reshape(k1, heads)
      v2 = Reshape(v1, heads)
      q = Transpose<perm=[0,2,1,3]>(q2)
      kt = Transpose<perm=[0,2,3,1]>(k2)
      v = Transpose<perm=[0,2,1,3]>(v2)"""
        + ATTEND
        + MLP,
        {**FUSED, **OUT_PARAMS, **MLP_PARAMS},
        {("wqkv", 1): 4, ("w1", 1): 10},
        {**HEADS, "thirds": [12, 12, 12]},
        20,
    ),
    "grouped queries, rotary embedding, gated MLP": Topology(
        *TOKENS,
        """
      q0 = MatMul(x, wq)
      k0 = MatMul(x, wk)
      v0 = MatMul(x, wv)
      q1 = Reshape(q0, heads)
      k1 = Reshape(k0, few)
      v1 = Reshape(v0, few)
      q2 = Transpose<perm=[0,2,1,3]>(q1)
      k2 = Transpose<perm=[0,2,1,3]>(k1)
      v2 = Transpose<perm=[0,2,1,3]>(v1)
      qa, qb = Split<axis=3>(q2, halves)
      qn = Neg(qb)
      qr = Concat<axis=3>(qn, qa)
      qs = Mul(qr, sin)
      qc = Mul(q2, cos)
      q = Add(qc, qs)
      ka, kb = Split<axis=3>(k2, halves)
      kn = Neg(kb)
      kr = Concat<axis=3>(kn, ka)
      ks = Mul(kr, sin)
      kc = Mul(k2, cos)
      k3 = Add(kc, ks)
      shape = Shape(x)
      n = Gather(shape, i0)
      to = Concat<axis=0>(n, many)
      k4 = Unsqueeze(k3, two)
      k5 = Expand(k4, to)
      k6 = Reshape(k5, repeated)
      v4 = Unsqueeze(v2, two)
      v5 = Expand(v4, to)
      v = Reshape(v5, repeated)
      kt = Transpose<perm=[0,1,3,2]>(k6)"""
        + ATTEND
        + """
      g0 = MatMul(h, wg)
      g1 = Swish(g0)
      u0 = MatMul(h, wu)
      g = Mul(g1, u0)
      d = MatMul(g, wd)
      e = Add(h, d)
      y = MatMul(e, wy)""",
        {
            **OUT_PARAMS,
            "wq": (12, 24),
            "wk": (12, 12),
            "wv": (12, 12),
            "wo": (24, 12),
            "sin": (5, 6),
            "cos": (5, 6),
            "wg": (12, 9),
            "wu": (12, 9),
            "wd": (9, 12),
            "wy": (12, 3),
        },
        {("wq", 1): 2, ("wk", 1): 2, ("wo", 0): 2, ("wg", 1): 9},
        {
            "heads": [0, 0, 4, 6],
            "few": [0, 0, 2, 6],
            "halves": [3, 3],
            "two": [2],
            "i0": [0],
            "many": [2, 2, 5, 6],
            "repeated": [0, 4, 5, 6],
            "joined": [0, 0, 24],
        },
        24,
    ),
    "attention of windows with a bias per head": windows(4, 3, {("wqkv", 1): 4, ("bias", 1): 4, ("wo", 1): 7}),
    "attention of windows, two wide heads with a bias each": windows(
        2, 6, {("wqkv", 1): 6, ("wo", 0): 6, ("wo", 1): 7}
    ),
    "attention by Einsum": Topology(
        *TOKENS,
        """
      q0 = Einsum<equation="btc,chd->bthd">(x, wq)
      q = Add(q0, bq)
      k = Einsum<equation="btc,chd->bthd">(x, wk)
      v = Einsum<equation="btc,chd->bthd">(x, wv)
      s = Einsum<equation="bthd,bshd->bhts">(q, k)
      p = Softmax(s)
      o = Einsum<equation="bhts,bshd->bthd">(p, v)
      y = Einsum<equation="bthd,hdc->btc">(o, wo)""",
        {"wq": (12, 4, 3), "bq": (4, 3), "wk": (12, 4, 3), "wv": (12, 4, 3), "wo": (4, 3, 3)},
        {("wq", 1): 4, ("bq", 0): 4, ("wo", 0): 4},
    ),
    "attention over space with one head": Topology(
        "float[n,3,4,4] x",
        "float[n,3,4,4] y",
        """
      a = Conv(x, wa)
      q0 = Conv(a, wq, bq)
      k0 = Conv(a, wk, bk)
      v0 = Conv(a, wv, bv)
      q1 = Reshape(q0, flat)
      k1 = Reshape(k0, flat)
      v1 = Reshape(v0, flat)
      q = Transpose<perm=[0,2,1]>(q1)
      s = MatMul(q, k1)
      p = Softmax(s)
      pt = Transpose<perm=[0,2,1]>(p)
      o0 = MatMul(v1, pt)
      o1 = Reshape(o0, space)
      o2 = Conv(o1, wo)
      o3 = Mul(o2, gamma)
      r = Add(a, o3)
      y = Conv(r, wy)""",
        {
            "wa": (8, 3, 1, 1),
            "wq": (5, 8, 1, 1),
            "bq": (5,),
            "wk": (5, 8, 1, 1),
            "bk": (5,),
            "wv": (6, 8, 1, 1),
            "bv": (6,),
            "wo": (8, 6, 1, 1),
            "gamma": (1,),
            "wy": (3, 8, 1, 1),
        },
        {("wa", 0): 8, ("wq", 0): 5, ("wv", 0): 6},
        {"flat": [0, 0, -1], "space": [0, 6, 4, 4]},
    ),
    "attention of grouped projections": Topology(
        "float[n,12,5] x",
        "float[n,3,5] y",
        """
      q0 = Conv<group=4>(x, wq, bq)
      k0 = Conv<group=4>(x, wk, bk)
      v0 = Conv<group=4>(x, wv, bv)
      q1 = Reshape(q0, heads)
      k = Reshape(k0, heads)
      v1 = Reshape(v0, heads)
      q = Transpose<perm=[0,1,3,2]>(q1)
      v = Transpose<perm=[0,1,3,2]>(v1)
      s = MatMul(q, k)
      p = Softmax(s)
      o0 = MatMul(p, v)
      o1 = Transpose<perm=[0,1,3,2]>(o0)
      o2 = Reshape(o1, joined)
      y = Conv(o2, wo)""",
        {**{f"w{kind}": (12, 3, 1) for kind in "qkv"}, **{f"b{kind}": (12,) for kind in "qkv"}, "wo": (3, 12, 1)},
        {("wq", 0): 3, ("wk", 0): 3, ("wv", 0): 3, ("wo", 1): 3},
        {"heads": [0, 4, 3, 5], "joined": [0, 12, 5]},
    ),
    "cosine attention": Topology(
        *TOKENS,
        PROJECTIONS.replace("perm=[0,2,3,1]>(k2)", "perm=[0,2,1,3]>(k2)").replace(" kt ", " k ").replace(" q ", " qh ")
        + """
      qn = ReduceL2(qh, last)
      qc = Clip(qn, tiny)
      qs = Shape(qh)
      qe = Expand(qc, qs)
      q = Div(qh, qe)
      kn = ReduceL2(k, last)
      kc = Clip(kn, tiny)
      ks = Shape(k)
      ke = Expand(kc, ks)
      kd = Div(k, ke)
      kt = Transpose<perm=[0,1,3,2]>(kd)"""
        + ATTEND
        + MLP,
        {**QKV_PARAMS, **OUT_PARAMS, **MLP_PARAMS, "tiny": ()},
        {("wo", 0): 4, ("w1", 1): 10},
        {**HEADS, "last": [-1]},
        20,
    ),
    "RMSNorm in parts over a residual trunk": Topology(
        "int64[n,5] x",
        "float[n,5,3] y",
        """
      e = Gather(table, x)
      q = Pow(e, two)
      m = ReduceMean<axes=[-1]>(q)
      d = Add(m, eps)
      s = Sqrt(d)
      r = Reciprocal(s)
      t = Mul(e, r)
      u = Mul(t, g)
      a = MatMul(u, w1)
      b = Relu(a)
      c = MatMul(b, w2)
      h = Add(e, c)
      y = MatMul(h, wy)""",
        {"table": (11, 8), "two": (), "eps": (), "g": (8,), "w1": (8, 6), "w2": (6, 8), "wy": (8, 3)},
        {("table", 1): 8, ("g", 0): 8, ("w1", 1): 6, ("wy", 0): 8},
    ),
    "mixer of tokens and channels": Topology(
        *TOKENS,
        """
      e = MatMul(x, we)
      l = LayerNormalization(e, lg, lb)
      t = Transpose<perm=[0,2,1]>(l)
      a = MatMul(t, w1)
      b = Relu(a)
      c = MatMul(b, w2)
      d = Transpose<perm=[0,2,1]>(c)
      f = Add(d, e)
      g = MatMul(f, w3)
      i = Relu(g)
      y = MatMul(i, wy)""",
        {
            "we": (12, 8),
            "lg": (8,),
            "lb": (8,),
            "w1": (5, 7),
            "w2": (7, 5),
            "w3": (8, 9),
            "wy": (9, 3),
        },
        {("we", 1): 8, ("lg", 0): 8, ("w1", 1): 0, ("w3", 1): 9},
    ),
    "class token, LayerNorm": Topology(
        "float[n,5,12] x",
        "float[n,6,3] y",
        """
      e = MatMul(x, we)
      s = Shape(x)
      n = Gather(s, zero)
      to = Concat<axis=0>(n, one_eight)
      c = Expand(token, to)
      t = Concat<axis=1>(c, e)
      p = Add(t, position)
      l = LayerNormalization(p, lg, lb)
      a = MatMul(l, w1)
      b = Relu(a)
      y = MatMul(b, w2)""",
        {
            "we": (12, 8),
            "token": (1, 1, 8),
            "position": (1, 6, 8),
            "lg": (8,),
            "lb": (8,),
            "w1": (8, 9),
            "w2": (9, 3),
        },
        {("we", 1): 8, ("token", 2): 8, ("w1", 1): 9},
        {"zero": [0], "one_eight": [1, 8]},
    ),
    "class token, pooled": Topology(
        "float[n,5,12] x",
        "float[n,3] y",
        """
      e = MatMul(x, we)
      s = Shape(x)
      n = Gather(s, zero)
      to = Concat<axis=0>(n, one_eight)
      c = Expand(token, to)
      t = Concat<axis=1>(c, e)
      p = Add(t, position)
      l = ReduceMean<axes=[1], keepdims=0>(p)
      y = Gemm(l, wy)""",
        {"we": (12, 8), "token": (1, 1, 8), "position": (1, 6, 8), "wy": (8, 3)},
        {("we", 1): 8, ("token", 2): 8, ("position", 2): 8},
        {"zero": [0], "one_eight": [1, 8]},
    ),
    "embedding, LSTM": Topology(
        "int64[n,5] x",
        "float[n,5,3] y",
        """
      e = Gather(table, x)
      t = Transpose<perm=[1,0,2]>(e)
      h, last = LSTM<hidden_size=4>(t, w, r)
      s = Squeeze(h, one)
      u = MatMul(s, wu)
      v = Relu(u)
      z = MatMul(v, wy)
      y = Transpose<perm=[1,0,2]>(z)""",
        {"table": (11, 6), "w": (1, 16, 6), "r": (1, 16, 4), "wu": (4, 7), "wy": (7, 3)},
        {("table", 1): 6, ("wu", 1): 7, ("wu", 0): 4, ("r", 2): 4, ("w", 1): 4},
        {"one": [1]},
    ),
    "shuffle units": Topology(
        "float[n,3,6,6] x",
        "float[n,3,6,6] y",
        """
      a = Conv(x, wa)
      a1, a2 = Split<axis=1>(a)
      b = Conv(a2, wb)
      c = Conv<group=4, pads=[1,1,1,1]>(b, wc)
      d = Concat<axis=1>(a1, c)
      e = Reshape(d, two_four)
      f = Transpose<perm=[0,2,1,3,4]>(e)
      g = Reshape(f, eight)
      g1, g2 = Split<axis=1>(g)
      h = Conv(g2, wh)
      i = Concat<axis=1>(g1, h)
      j = Reshape(i, two_four)
      k = Transpose<perm=[0,2,1,3,4]>(j)
      l = Reshape(k, eight)
      y = Conv(l, wy)""",
        {
            "wa": (8, 3, 1, 1),
            "wb": (4, 4, 1, 1),
            "wc": (4, 1, 3, 3),
            "wh": (4, 4, 1, 1),
            "wy": (3, 8, 1, 1),
        },
        {("wa", 0): 8, ("wb", 0): 4, ("wh", 0): 2},
        {"two_four": [0, 2, 4, 6, 6], "eight": [0, 8, 6, 6]},
    ),
    "U-Net": Topology(
        "float[n,3,8,8] x",
        "float[n,3,8,8] y",
        """
      a = Conv(x, wa)
      b = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)
      c = Conv(b, wc)
      d = ConvTranspose<strides=[2,2]>(c, wd, bd)
      e = Resize<mode="nearest">(c, , scales)
      f = Concat<axis=1>(a, d, e)
      g = Pad<mode="reflect">(f, pads)
      h = Conv(g, wh)
      i = PRelu(h, slope)
      y = Conv(i, wy)""",
        {
            "wa": (4, 3, 1, 1),
            "wc": (6, 4, 1, 1),
            "wd": (6, 5, 2, 2),
            "bd": (5,),
            "wh": (7, 15, 3, 3),
            "slope": (7, 1, 1),
            "wy": (3, 7, 1, 1),
        },
        {("wa", 0): 4, ("wc", 0): 6, ("wd", 1): 5, ("wh", 0): 7},
        {"scales": [1.0, 1.0, 2.0, 2.0], "pads": [0, 0, 1, 1, 0, 0, 1, 1]},
    ),
    "one and three dimensions": Topology(
        "float[n,3,4,4,4] x, float[n,3,9] z",
        "float[n,3] y, float[n,3,7] o",
        """
      a = Conv(x, wa)
      b = BatchNormalization(a, s, t, m, v)
      c = GlobalAveragePool(b)
      d = Flatten(c)
      y = Gemm(d, wy, by)
      e = Conv(z, we)
      f = AveragePool<kernel_shape=[3]>(e)
      g = ReduceMean<keepdims=0>(c, axes)
      i = Mul(f, g)
      o = Conv(i, wo)""",
        {
            "wa": (6, 3, 1, 1, 1),
            **dict.fromkeys("stmv", (6,)),
            "wy": (6, 3),
            "by": (3,),
            "we": (6, 3, 1),
            "wo": (3, 6, 1),
        },
        {("wa", 0): 6, ("we", 0): 6, ("wy", 0): 6},
        {"axes": [2, 3]},
        18,
    ),
    "half precision": Topology(
        "float16[n,3,4,4] x",
        "float16[n,3,4,4] y",
        """
      a = Conv(x, wa, ba)
      b = BatchNormalization(a, s, t, m, v)
      c = Add(a, b)
      d = Mul(c, e)
      y = Conv(d, wy)""",
        {"wa": (6, 3, 1, 1), "ba": (6,), **dict.fromkeys("stmv", (6,)), "e": (6, 1, 1), "wy": (3, 6, 1, 1)},
        {("wa", 0): 6, ("e", 0): 6},
        type=np.float16,
    ),
    "branches capture": Topology(
        "float[n,3,4,4] x, bool[] flag",
        "float[n,3,4,4] y",
        """
      a = Conv(x, wa)
      b = Conv(x, wb)
      c = If (flag) <then_branch = g1 () => (float[n,4,4,4] ya) { ya = Relu(a) },
                     else_branch = g2 () => (float[n,4,4,4] yb) { yb = Mul(a, k) }>
      d = Concat<axis=1>(b, c)
      y = Conv(d, wy)""",
        {"wa": (4, 3, 1, 1), "wb": (5, 3, 1, 1), "wy": (3, 9, 1, 1), "k": (4, 1, 1)},
        {("wa", 0): 4, ("wb", 0): 5, ("wy", 1): 9},
    ),
    "a function of the model": Topology(
        "float[n,3,4,4] x",
        "float[n,3,4,4] y",
        """
      a = Conv(x, wa)
      b = local.twice(a)
      c = Conv(b, wc)
      y = Conv(c, wy)""",
        {"wa": (4, 3, 1, 1), "wc": (5, 4, 1, 1), "wy": (3, 5, 1, 1)},
        {("wa", 0): 4, ("wc", 0): 5},
        functions='<domain: "local", opset_import: ["" : 17]> twice (p) => (q) { q = Add(p, p) }',
    ),
    "weights shared": Topology(
        "float[n,3,4,4] x",
        "float[n,3,4,4] y, float[n,3,4,4] z",
        """
      a = Conv(x, wa)
      b = Conv(a, wb)
      c = Relu(b)
      d = Conv(c, wb)
      y = Conv(d, wy)
      e = Relu(d)
      z = Conv(e, wy)""",
        {"wa": (4, 3, 1, 1), "wb": (4, 4, 1, 1), "wy": (3, 4, 1, 1)},
        {("wa", 0): 4, ("wb", 0): 4, ("wb", 1): 4},
    ),
}


def build(case: Topology) -> onnx.ModelProto:
    domains = f'"" : {case.opset}' + (', "local" : 1' if case.functions else "")
    text = f"<ir_version: 8, opset_import: [{domains}]> g ({case.inputs}) => ({case.outputs}) {{{case.body}\n}}"
    model = onnx.parser.parse_model(f"{text}\n{case.functions}")
    rng = np.random.default_rng(3)
    values = {name: rng.uniform(0.1, 1, shape).astype(case.type) for name, shape in case.params.items()}
    values |= {
        name: np.asarray(v, np.float32 if np.ndim(v) and isinstance(v[0], float) else np.int64)
        for name, v in case.ints.items()
    }
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in values.items())
    return model


def feeds_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    feeds = {}
    for value in model.graph.input:
        shape = [dim.dim_value or 2 for dim in value.type.tensor_type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        feeds[value.name] = (rng.uniform(-1, 1, shape) if dtype.kind == "f" else rng.integers(0, 11, shape)).astype(
            dtype
        )
    return feeds


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_topology(name: str, check_plans: Callable[..., None]) -> None:
    case = TOPOLOGIES[name]
    model = build(case)
    require_runtime(model, feeds_of(model))
    graph = canonicalize(to_graph(model)).graph
    channels = analyze(graph)
    free = set(channels.prunable.tolist())
    found = {(k.tensor, k.axis): len(free & set(labels.tolist())) for k, labels in channels.of_file().members.items()}
    assert {key: found.get(key, 0) for key in case.units} == case.units
    check_plans(graph, channels, feeds_of(model), tolerance=1e-2 if case.type == np.float16 else 1e-5)


def test_heads_are_removed_whole() -> None:
    channels = analyze(canonicalize(to_graph(build(TOPOLOGIES["attention"]))).graph)
    for name, axis in (("wq", 1), ("bq", 0), ("wk", 1), ("wv", 1), ("wo", 0)):
        np.testing.assert_array_equal(channels.members[ParamAxis(name, axis)], channels.members[ParamAxis("wo", 0)])
    assert list(Counter(channels.members[ParamAxis("wo", 0)].tolist()).values()) == [3, 3, 3, 3]
