"""TensorRT's INT8 calibrator, by Polygraphy, over batches that were checked beforehand.

TensorRT calls the calibrator from C++: Polygraphy answers a batch that it rejects with "no more batches", so one
bad batch would end the calibration silently, with the ranges of those before it. ``CalibrationBatches`` therefore
reads the data once before TensorRT does, and gives every batch the one shape that the calibration profile has; the
last batch is filled up with samples from the start.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hqp_onnx.arrays import Array
from hqp_onnx.data.batch import Batch, joined
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.engine.library import TENSORRT
from hqp_onnx.engine.log import tensorrt_log
from hqp_onnx.engine.profiles import Profile
from hqp_onnx.errors import DataError

_CLASSES = {"entropy": "IInt8EntropyCalibrator2", "minmax": "IInt8MinMaxCalibrator"}


@dataclass(frozen=True)
class CalibrationBatches:
    """Feeds of exactly the optimal shapes, as often as they are iterated over.

    Raises:
        DataError: a batch that does not fit the shapes, or an input that is not float32, int32, int64 or bool.
    """

    data: Dataset
    shapes: dict[str, Profile]

    def __post_init__(self) -> None:
        for feeds in self:
            for name, values in feeds.items():
                best = self.shapes[name].best
                if values.shape != best:
                    raise DataError(
                        f"{self.data.source.name}: a calibration batch of '{name}' is {list(values.shape)}, and the "
                        f"engine's optimal shape is {list(best)}: name it with {{--shapes}}"
                    )
                if values.dtype not in (np.float32, np.int32, np.int64, np.bool_):
                    raise DataError(
                        f"input '{name}' is {values.dtype}: TensorRT calibrates float32 inputs. Use {{--path}} explicit"
                    )

    def __len__(self) -> int:
        return -(-len(self.data) // self.data.batch_size)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        for batch in self.data:
            yield {name: np.ascontiguousarray(values) for name, values in self._filled(batch).feeds.items()}

    def _filled(self, batch: Batch) -> Batch:
        short = self.data.batch_size - len(batch)
        if not short:
            return batch
        start = self.data.rows(0, min(short, len(self.data)))
        return joined([batch, start.part(np.resize(np.arange(len(start)), short))])


def calibrator(batches: CalibrationBatches | None, cache: Path | None, method: str) -> Any:
    """A Polygraphy calibrator of TensorRT's own class for ``method``.

    Args:
        batches: calibration data; None where ``cache`` has the scales.
        cache: read if it exists, else written.
        method: entropy or minmax.
    """
    from polygraphy.backend.trt import Calibrator

    base = getattr(TENSORRT.load(), _CLASSES[method])
    file = None if cache is None else str(cache)
    with tensorrt_log("TensorRT takes no calibrator"):
        return Calibrator([] if batches is None else batches, cache=file, BaseClass=base)
