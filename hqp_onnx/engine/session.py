"""A TensorRT engine behind the interface of ``runtime.Session``, by Polygraphy's ``TrtRunner`` (TensorRT 8.5 or newer).

An engine takes the batch sizes of its optimization profile: longer batches run in pieces, shorter ones are padded by
repeating the last sample, and cut to length again.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from polygraphy.backend.common import BytesFromPath
from polygraphy.datatype import DataType
from polygraphy.exception import PolygraphyException
from polygraphy.logger import G_LOGGER

from hqp_onnx.arrays import Array
from hqp_onnx.engine.device import device_if_any
from hqp_onnx.engine.library import of_engine
from hqp_onnx.engine.log import SILENT
from hqp_onnx.errors import MissingRuntimeError, ModelError, one_line
from hqp_onnx.runtimes.session import TensorSpec

SUFFIXES = (".engine", ".plan", ".trt")


class EngineSession:
    """A loaded engine, on its first optimization profile.

    Args:
        path: a serialized engine, built by this version of TensorRT for this GPU.

    Raises:
        MissingRuntimeError: TensorRT is not installed, or there is no GPU.
        ModelError: the engine cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        self._library = of_engine(path)
        try:
            self._library.load()
        except MissingRuntimeError as e:
            raise MissingRuntimeError(f"{path}: {e.template}") from e
        from polygraphy.backend.trt import EngineFromBytes, TrtRunner

        runner = TrtRunner(EngineFromBytes(BytesFromPath(str(path))))
        try:
            _quietly(f"{path}: {self._library.name} cannot load the engine", runner.activate)
        except ModelError as e:
            if device_if_any() is None:
                raise MissingRuntimeError(f"{path}: an engine runs on its GPU, and there is none here") from e
            raise
        weakref.finalize(self, runner.deactivate)
        self._runner, self._path = runner, path
        engine = runner.engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        fed = list(runner.get_input_metadata(use_numpy_dtypes=False))
        self.inputs = tuple(_spec(engine, name) for name in fed)
        self.outputs = tuple(_spec(engine, name) for name in names if name not in fed)
        sizes = [_batch_range(engine, spec) for spec in self.inputs if spec.shape]
        self._least, self._most = max(least for least, _ in sizes), min(most for _, most in sizes)

    @property
    def batch(self) -> int | None:
        """The fixed batch size, or None where the profile spans several."""
        return self._most if self._least == self._most else None

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name.

        Raises:
            ModelError: TensorRT refuses the feeds.
        """
        count = len(next(iter(feeds.values())))
        pieces = [self._piece(feeds, start, min(start + self._most, count)) for start in range(0, count, self._most)]
        return {
            name: np.concatenate([piece[name] for piece in pieces]) if v.ndim else v for name, v in pieces[0].items()
        }

    def _piece(self, feeds: Mapping[str, Array], start: int, stop: int) -> dict[str, Array]:
        rows = np.minimum(np.arange(start, max(stop, start + self._least)), stop - 1)
        padded = {name: np.ascontiguousarray(values[rows]) for name, values in feeds.items()}
        outputs = _quietly(
            f"{self._path}: {self._library.name} cannot run the engine", lambda: self._runner.infer(padded)
        )
        cut = {name: v[: stop - start] if np.ndim(v) and len(v) == len(rows) else v for name, v in outputs.items()}
        return {name: np.array(v) for name, v in cut.items()}  # the runner writes its next outputs into the same memory


def _quietly(what: str, call: Callable[[], Any]) -> Any:
    try:
        with G_LOGGER.verbosity(SILENT):
            return call()
    except PolygraphyException as e:
        raise ModelError(f"{what}: {one_line(e)}") from e


def _spec(engine: Any, name: str) -> TensorSpec:
    dtype = DataType.to_dtype(DataType.from_dtype(engine.get_tensor_dtype(name), "tensorrt"), "numpy")
    shape = tuple(size if size >= 0 else None for size in engine.get_tensor_shape(name))
    return TensorSpec(name, np.dtype(dtype), shape)


def _batch_range(engine: Any, spec: TensorSpec) -> tuple[int, int]:
    """Smallest and largest batch of an input."""
    if spec.shape[0] is not None:
        return spec.shape[0], spec.shape[0]
    smallest, _, largest = engine.get_tensor_profile_shape(spec.name, 0)
    return int(smallest[0]), int(largest[0])
