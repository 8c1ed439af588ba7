"""Passes for onnx_ir: each changes the ``ir.Model`` that it is given in place, and says truthfully whether it did.

A pass of ``hqp_onnx.passes`` that needs nothing but a graph becomes one by ``GraphPass``. Node metadata of onnx_ir do
not survive: the model goes through ModelProto and onnx-graphsurgeon.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.api import prune, quantize
from hqp_onnx.data.reading import Data
from hqp_onnx.errors import MissingRuntimeError
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.passes.base import PassResult
from hqp_onnx.runtimes.targets import target as target_named
from hqp_onnx.steps.prune import Pruning

try:
    import onnx_ir as ir
except ImportError as e:
    raise MissingRuntimeError("onnx_ir is not installed: pip install 'hqp-onnx[onnx-ir]'") from e


class _ProtoPass(ir.passes.InPlacePass):
    """A pass by a function of ModelProto."""

    def __init__(self, change: Callable[[onnx.ModelProto], onnx.ModelProto]) -> None:
        self._change = change

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change ``model``; see the class."""
        before = ir.to_proto(model)
        after = self._change(before)
        modified = after != before
        if modified:
            changed = ir.from_proto(after)
            model.graph, model.ir_version = changed.graph, changed.ir_version
            model.metadata_props.update(changed.metadata_props)
            model.functions.clear()
            model.functions.update(changed.functions)
        return ir.passes.PassResult(model, modified)


class GraphPass(_ProtoPass):
    """A pass over onnx-graphsurgeon graphs, such as ``passes.fold_batchnorm.fold_batchnorm``."""

    def __init__(self, transform: Callable[[gs.Graph], PassResult]) -> None:
        def change(model: onnx.ModelProto) -> onnx.ModelProto:
            result = transform(to_graph(model))
            return to_proto(result.graph) if result.modified else model

        super().__init__(change)


class PrunePass(_ProtoPass):
    """Remove a share of the prunable units; arguments and errors as for ``functions.prune``."""

    def __init__(
        self, sparsity: float, data: Data | None = None, preprocess: str | Path | None = None, **options: Any
    ) -> None:
        Pruning(sparsity, **options)
        super().__init__(lambda model: prune(model, sparsity, data=data, preprocess=preprocess, **options))


class QuantizePass(_ProtoPass):
    """Quantize to INT8; arguments and errors as for ``functions.quantize``."""

    def __init__(
        self,
        data: Data,
        target: str = "onnxruntime",
        calibration: str = "entropy",
        preprocess: str | Path | None = None,
    ) -> None:
        target_named(target)
        options: dict[str, Any] = {"target": target, "calibration": calibration, "preprocess": preprocess}
        super().__init__(lambda model: quantize(model, data, **options))
