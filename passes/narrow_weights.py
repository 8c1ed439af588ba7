"""Store weights in the type that the file stored them in.

    w: float32  ->  w: float16  ->  Cast  ->  float32

Half the bytes are the reason why an exporter puts a Cast behind each weight; runtimes compute it once, when they load
the model. A weight that was refitted is rounded to that type. What became integers has no float to store.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import Array
from hqp_onnx.graphs.origin import homes_of
from hqp_onnx.graphs.unique_names import UniqueNames
from hqp_onnx.passes.base import PassResult

__all__ = ["narrow_weights"]

_NARROW = (onnx.TensorProto.FLOAT16,)
_SMALLEST = 64  # values; below, a node costs more than it saves


def narrow_weights(graph: gs.Graph) -> PassResult:
    """``graph`` with weights that came from a narrower type in that type again, as a copy."""
    graph = graph.copy()
    homes = {name: home for name, home in homes_of(graph).items() if home.type in _NARROW}
    names, casts = UniqueNames(graph), []
    for name, tensor in graph.tensors().items():
        if name not in homes or not isinstance(tensor, gs.Constant) or tensor.dtype != np.float32:
            continue
        if tensor.values.size < _SMALLEST or (narrow := _narrowed(tensor.values, homes[name].type)) is None:
            continue
        wide, stored = gs.Variable(name, np.float32, tensor.shape), gs.Constant(names.tensor(homes[name].name), narrow)
        for reader in list(tensor.outputs):
            reader.inputs = [wide if t is tensor else t for t in reader.inputs]
        graph.outputs = [wide if t is tensor else t for t in graph.outputs]
        casts.append(gs.Node("Cast", names.node(f"{name}/cast"), {"to": onnx.TensorProto.FLOAT}, [stored], [wide]))
    graph.nodes = [*casts, *graph.nodes]
    return PassResult(graph, bool(casts), (f"{len(casts)} weights in their stored type",) if casts else ())


def _narrowed(values: Array, kind: int) -> Array | None:
    """``values`` in a type; None where one is beyond its range."""
    with np.errstate(over="ignore"):
        narrow: Array = values.astype(onnx.helper.tensor_dtype_to_np_dtype(kind))
    return narrow if np.array_equal(np.isfinite(narrow), np.isfinite(values)) else None
