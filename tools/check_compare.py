"""Damage every weighted layer in turn; count how often `hqp compare` names it as the first divergent one.

    python tools/check_compare.py ORIGINAL PRUNED INT8 --data DATA [--samples 32] [--tolerance 0.1]

ledger.json lies beside PRUNED. Each layer of PRUNED and of INT8 is damaged on its own, in four ways: all weights
negated, scaled by 1.5, filters rolled by one (each computes its neighbour's channel), a quarter of the filters zero.
PRUNED is held against ORIGINAL, INT8 against PRUNED and against ORIGINAL. A damage is found if the first divergent
tensor is the first one that both models share at or behind the layer.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from hqp_onnx.comparison.contenders import Contender, open_contenders
from hqp_onnx.comparison.lineage import Lineage, find_lineage
from hqp_onnx.comparison.trace import trace
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.sources import open_dataset

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
Damage = Callable[[np.ndarray], np.ndarray]  # filters first


def _zero_quarter(weight: np.ndarray) -> np.ndarray:
    return np.concatenate([0 * weight[: -(-len(weight) // 4)], weight[-(-len(weight) // 4) :]])


DAMAGES: dict[str, Damage] = {
    "negated": lambda weight: -weight,
    "x 1.5": lambda weight: 1.5 * weight,
    "rolled": lambda weight: np.roll(weight, 1, 0),
    "1/4 zero": _zero_quarter,
}


def weights(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, onnx.TensorProto, onnx.TensorProto | None]]:
    """Weighted nodes, their weights, and the scales of those that are int8 behind a DequantizeLinear."""
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type not in WEIGHTED:
            continue
        name, maker = node.input[1], makers.get(node.input[1])
        if name in initializers:
            yield node, initializers[name], None
        elif maker is not None and maker.op_type == "DequantizeLinear" and maker.input[0] in initializers:
            yield node, initializers[maker.input[0]], initializers[maker.input[1]]


def damaged(path: Path, damage: str, folder: Path) -> Iterator[tuple[onnx.NodeProto, Path]]:
    """Copies of a model with one damaged layer each."""
    model, target = onnx.load(path), folder / "damaged.onnx"
    for node, weight, scale in weights(model):
        chosen = scale if damage == "x 1.5" and scale is not None else weight
        before = onnx.TensorProto.FromString(chosen.SerializeToString())
        values = numpy_helper.to_array(chosen)
        attributes = {a.name: a.i for a in node.attribute}
        last = node.op_type == "MatMul" or (node.op_type == "Gemm" and not attributes.get("transB", 0))
        axis = -1 if last else int(node.op_type == "ConvTranspose")
        changed = np.moveaxis(DAMAGES[damage](np.moveaxis(values, axis, 0)), 0, axis)
        chosen.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(changed).astype(values.dtype), chosen.name))
        onnx.save(model, target)
        chosen.CopyFrom(before)
        yield node, target


def expected(node: onnx.NodeProto, model: onnx.ModelProto, shared: set[str]) -> str:
    """The first shared tensor at or behind a node, along a chain."""
    name = node.output[0]
    while name not in shared:
        name = next(reader.output[0] for reader in model.graph.node if name in reader.input)
    return name


def check(
    reference: Path, path: Path, dataset: Dataset, lineage: Lineage | None, samples: int, tolerance: float
) -> None:
    first, whole = open_contenders([str(reference), str(path)], threads=1)
    clean = trace(first, whole, dataset, lineage, samples, tolerance)
    alarm = "none" if clean.first is None else clean.first.tensor
    print(f"{reference.name} -> {path.name}: undamaged, first divergent: {alarm}")
    shared = {tensor.tensor for tensor in clean.tensors}
    for damage in DAMAGES:
        seen, missed = 0, []
        with tempfile.TemporaryDirectory() as folder:
            for node, file in damaged(path, damage, Path(folder)):
                second: Contender = open_contenders([str(reference), str(file)], threads=1)[1]
                result = trace(first, second, dataset, lineage, samples, tolerance)
                seen += 1
                if result.first is None or result.first.tensor != expected(node, whole.proto, shared):
                    missed.append(node.output[0])
        print(f"  {damage}: {seen - len(missed)} of {seen} found{'; not: ' if missed else ''}{', '.join(missed)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("original", "pruned", "int8"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--tolerance", type=float, default=0.1)
    options = parser.parse_args()
    lineage = find_lineage([options.original, options.pruned, options.int8], [])
    dataset = open_dataset(options.data, open_contenders([str(options.original), str(options.int8)])[0].session.inputs)
    chain = ((options.original, options.pruned), (options.pruned, options.int8), (options.original, options.int8))
    for reference, path in chain:
        check(reference, path, dataset, lineage, options.samples, options.tolerance)


if __name__ == "__main__":
    main()
