"""Polygraphy lazy loaders: a model, or a loader of one, in; a pruned or quantized ModelProto out when called.

They compose like Polygraphy's own: ``EngineFromNetwork(NetworkFromOnnxBytes(BytesFromOnnx(PruneOnnx(model, 0.3))))``.
Options are checked when the loader is made. What is wrong with models or data is a ``PolygraphyException`` of one line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import onnx
from polygraphy import util
from polygraphy.backend.base import BaseLoader
from polygraphy.logger import G_LOGGER

from hqp_onnx.api import prune, quantize
from hqp_onnx.data.reading import Data
from hqp_onnx.errors import HqpError
from hqp_onnx.runtimes.targets import target as target_named
from hqp_onnx.shares import Given
from hqp_onnx.statistics.thresholds import method
from hqp_onnx.steps.prune import Pruning

Loadable: TypeAlias = onnx.ModelProto | Callable[[], onnx.ModelProto]
Feeds: TypeAlias = Data | Callable[[], Data]
"""Data, or a function that returns them, such as ``load_data`` of a data-loader script."""


@contextmanager
def polygraphy_errors(name: Callable[[str], str] = str) -> Iterator[None]:
    """Report an ``HqpError`` as Polygraphy does: logged, and a ``PolygraphyException``; ``name`` is of an argument."""
    try:
        yield
    except HqpError as e:
        G_LOGGER.critical(e.text(name))


class _Loader(BaseLoader):  # type: ignore[misc]  # Polygraphy is untyped
    def __init__(self, model: Loadable, data: Feeds | None, change: Callable[..., onnx.ModelProto]) -> None:
        self._model, self._data, self._change = model, data, change

    def call_impl(self) -> onnx.ModelProto:
        model, _ = util.invoke_if_callable(self._model)
        data, _ = util.invoke_if_callable(self._data)
        with polygraphy_errors():
            return self._change(model, data=data)


class PruneOnnx(_Loader):
    """Loads a model and prunes it.

    Args:
        model: a ModelProto, or a loader of one.
        sparsity: share of the prunable units to remove.
        data: calibration data for gradient saliencies and compensation, see ``functions.prune``.
        preprocess: JSON file for image folders.
        options: the other fields of ``Pruning``.
    """

    def __init__(
        self,
        model: Loadable,
        sparsity: Given,
        data: Feeds | None = None,
        preprocess: str | Path | None = None,
        **options: Any,
    ) -> None:
        with polygraphy_errors():
            Pruning(sparsity, **options)
        super().__init__(model, data, partial(prune, sparsity=sparsity, preprocess=preprocess, **options))


class QuantizeOnnx(_Loader):
    """Loads a model and quantizes it to INT8, with explicit Q/DQ pairs.

    Args:
        model: a ModelProto, or a loader of one.
        data: calibration data, see ``functions.prune``.
        target: see ``targets.target``.
        calibration: see ``thresholds.method``.
        preprocess: JSON file for image folders.
    """

    def __init__(
        self,
        model: Loadable,
        data: Feeds,
        target: str = "onnxruntime",
        calibration: str = "entropy",
        preprocess: str | Path | None = None,
    ) -> None:
        with polygraphy_errors():
            target_named(target)
            method(calibration)
        super().__init__(model, data, partial(quantize, target=target, calibration=calibration, preprocess=preprocess))
