"""Store weights in the type that the file stored them in.

    w: float32  ->  w: float16  ->  Cast  ->  float32

Half the bytes are the reason why an exporter puts a Cast behind each weight; runtimes compute it once, when they load
the model. A weight that was refitted is rounded to that type. What became integers has no float to store.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from hqp_onnx.arrays import Array
from hqp_onnx.counts import counted
from hqp_onnx.graphs.origin import Home, homes_of
from hqp_onnx.graphs.unique_names import UniqueNames
from hqp_onnx.passes.base import PassResult

__all__ = ["narrow_weights"]

_HALF, _BRAIN = onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16
_SMALLEST = 64  # values; below, a node costs more than it saves


def narrow_weights(graph: gs.Graph) -> PassResult:
    """``graph`` with weights that came from a narrower type in that type again, as a copy."""
    graph = graph.copy()
    homes = {name: home for name, home in homes_of(graph).items() if home.type in (_HALF, _BRAIN)}
    names, casts = UniqueNames(graph), []
    for name, tensor in graph.tensors().items():
        if name not in homes or not isinstance(tensor, gs.Constant) or tensor.dtype != np.float32:
            continue
        narrow = _narrowed(homes[name], tensor.values)
        if tensor.values.size < _SMALLEST or narrow is None:
            continue
        wide, stored = gs.Variable(name, np.float32, tensor.shape), narrow
        stored.name = names.tensor(name if homes[name].cut else homes[name].name)
        for reader in list(tensor.outputs):
            reader.inputs = [wide if t is tensor else t for t in reader.inputs]
        graph.outputs = [wide if t is tensor else t for t in graph.outputs]
        casts.append(gs.Node("Cast", names.node(f"{name}/cast"), {"to": onnx.TensorProto.FLOAT}, [stored], [wide]))
    graph.nodes = [*casts, *graph.nodes]
    return PassResult(graph, bool(casts), (f"{counted(len(casts), 'weight')} in their stored type",) if casts else ())


def _narrowed(home: Home, values: Array) -> gs.Constant | None:
    """``values`` in the type of ``home``; None where one is beyond its range."""
    with np.errstate(over="ignore"):
        narrow = values.astype(onnx.helper.tensor_dtype_to_np_dtype(home.type))
    if not np.array_equal(np.isfinite(narrow.astype(np.float32)), np.isfinite(values)):
        return None
    return gs.Constant(home.name, LazyValues(onnx.numpy_helper.from_array(narrow, home.name)))
