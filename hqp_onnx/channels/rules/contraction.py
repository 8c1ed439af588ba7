"""MatMul, Gemm, Einsum: sums of products, every axis of every operand named by a letter.

A letter of one weight and the result is a channel that the weight makes. A letter summed over ties its
operands: a removed channel is zero in the weight, or must be zero in the data, so its product drops out.
A letter of several operands and the result is like a batch (heads): operands are tied along it, and where
labels vary along such an axis and others, whole heads are removed. Labels along any other letter pass.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import IntArray
from hqp_onnx.channels.labels import along, varied
from hqp_onnx.channels.rules.attention import inside_heads
from hqp_onnx.channels.rules.lines import axis_labels
from hqp_onnx.channels.rules.registry import rule
from hqp_onnx.channels.walk_state import Walk
from hqp_onnx.graphs.weight_axes import weight_axes

Terms = list[tuple[gs.Tensor, str]]


@rule("MatMul")
def _matmul(walk: Walk, node: gs.Node) -> None:
    ranks = [len(walk.sizes(t)) for t in node.inputs]
    if min(ranks) < 2:
        return walk.refuse(node, f"MatMul '{node.name}' of a vector")
    if inside_heads(walk, node):
        return None
    batch = "abcdefghijklm"[: max(ranks) - 2]
    left, right = (batch[len(batch) + 2 - rank :] for rank in ranks)
    terms = [_stored(node.inputs[0], f"{left}xz"), _stored(node.inputs[1], f"{right}zy")]
    return _contract(walk, node, terms, f"{batch}xy")


@rule("Gemm")
def _gemm(walk: Walk, node: gs.Node) -> None:
    left = "zx" if node.attrs.get("transA", 0) else "xz"
    right = "zy" if weight_axes(node, 2).output else "yz"
    result = node.outputs[0]
    _contract(walk, node, [_stored(node.inputs[0], left), _stored(node.inputs[1], right)], "xy")
    if len(node.inputs) < 3 or not node.inputs[2].name:
        return
    addend, labels, reason = node.inputs[2], walk.labels(result), f"{node.op} '{node.name}' adds to channels that stay"
    zero = walk.zero(result) and walk.zero(addend)
    if not isinstance(addend, gs.Constant):
        walk.tie(labels, walk.labels(addend), reason)
    elif (axes := varied(labels)) and (axis := axes[0] - 2 + len(addend.shape)) >= 0 and addend.shape[axis] > 1:
        walk.tie(along(walk.param(addend, axis), axes[0], 2), labels, reason)
        zero = walk.zero(result)
    walk.set(result, labels, 0.0 if zero else None)


@rule("Einsum")
def _einsum(walk: Walk, node: gs.Node) -> None:
    """As written; without an arrow the result has the letters that occur once, sorted."""
    equation = node.attrs["equation"].replace(" ", "")
    left, arrow, result = equation.partition("->")
    if not arrow:
        result = "".join(sorted(letter for letter in set(left) - {","} if left.count(letter) == 1))
    letters = left.split(",")
    if "." in equation or any(len(set(part)) < len(part) for part in letters):
        return walk.refuse(node, f"Einsum '{node.name}' has an ellipsis or a diagonal")
    return _contract(walk, node, list(zip(node.inputs, letters, strict=True)), result)


def _stored(tensor: gs.Tensor, letters: str) -> tuple[gs.Tensor, str]:
    """``tensor``, or the weight that it is the transpose of, as of an embedding that is the head, too."""
    node = tensor.inputs[0] if tensor.inputs else None
    if node is None or not turns_weight(node):
        return tensor, letters
    order = node.attrs.get("perm") or range(len(letters))[::-1]
    return node.inputs[0], "".join(letters[list(order).index(axis)] for axis in range(len(letters)))


def turns_weight(node: gs.Node) -> bool:
    """Whether ``node`` transposes a weight that something else reads as it is, for products alone."""
    if node.op != "Transpose" or not isinstance(node.inputs[0], gs.Constant):
        return False
    return all(reader.op in ("MatMul", "Gemm") for reader in node.outputs[0].outputs)


def _contract(walk: Walk, node: gs.Node, terms: Terms, result: str) -> None:
    """Label the result. Of a weight that is read through its Transpose, what meets no labels stays here."""
    _tied(walk, node, terms, result)
    walk.keep_unlabelled(
        [tensor for tensor, _ in terms if tensor not in node.inputs], f"{node.op} '{node.name}' reads it whole"
    )


def _tied(walk: Walk, node: gs.Node, terms: Terms, result: str) -> None:
    """Tie ``terms`` letter by letter, and label the result along one letter."""
    wide = [letter for t, letters in terms for letter, n in zip(letters, walk.sizes(t), strict=True) if n > 1]
    shared = {letter for letter in wide if wide.count(letter) > 1}
    lines = _lines(walk, node, terms, shared, result)
    for letter in dict.fromkeys(kept for kept, _ in lines.values()):
        _meet(walk, node, terms, lines, letter, result)
    passing = sorted((letter not in shared, letter) for letter, _ in lines.values() if letter in result)
    if passing:
        kept = passing[0][1]
        carriers = [index for index, (letter, _) in lines.items() if letter == kept]
        for letter, line in lines.values():
            if letter in result and letter != kept:
                walk.freeze(line, f"{node.op} '{node.name}' carries labels along another axis")
        zero = any(walk.zero(terms[index][0]) for index in carriers)
        _label(walk, node, result, kept, lines[carriers[0]][1], zero)
        return
    own = [
        (tensor, letters, letter)
        for letter in result
        for tensor, letters in terms
        if isinstance(tensor, gs.Constant) and letter in letters and letter in wide and letter not in shared
    ]
    if own:
        tensor, letters, letter = own[0]
        _label(walk, node, result, letter, walk.param(tensor, letters.index(letter)), True)


def _lines(walk: Walk, node: gs.Node, terms: Terms, shared: set[str], result: str) -> dict[int, tuple[str, IntArray]]:
    """For each operand with labels: the letter along which some can be removed (batch, summed, own), and the line."""
    lines = {}
    for index, (tensor, letters) in enumerate(terms):
        labels = walk.labels(tensor)
        if isinstance(tensor, gs.Constant) or not (axes := varied(labels)):
            continue
        if len(axes) > 1:
            axes = [axis for axis in axes if walk.free_along(labels, axis) > 1] or axes
        axis = min(axes, key=lambda axis: (letters[axis] not in shared, letters[axis] not in result))
        lines[index] = letters[axis], axis_labels(walk, node, tensor, axis)
    return lines


def _meet(
    walk: Walk, node: gs.Node, terms: Terms, lines: dict[int, tuple[str, IntArray]], letter: str, result: str
) -> None:
    """Tie every operand along ``letter``; a sum over it needs a factor that is zero where channels are removed."""
    line = next(line for kept, line in lines.values() if kept == letter)
    reason = f"{node.op} '{node.name}' reads channels that stay"
    vanishes = letter in result
    for index, (tensor, letters) in enumerate(terms):
        axis = letters.find(letter)
        if axis < 0 or walk.sizes(tensor)[axis] == 1:
            continue
        if isinstance(tensor, gs.Constant):
            walk.tie(line, walk.param(tensor, axis), reason)
            vanishes = True
        else:
            kept, own = lines.get(index, ("", line))
            walk.tie(line, own if kept == letter else np.array(-1), reason)
            vanishes |= walk.zero(tensor)
    if not vanishes:
        walk.freeze(line, f"{node.op} '{node.name}' sums channels that would not be zero")


def _label(walk: Walk, node: gs.Node, result: str, letter: str, line: IntArray, zero: bool) -> None:
    walk.set(node.outputs[0], along(line, result.index(letter), len(result)), 0.0 if zero else None)
