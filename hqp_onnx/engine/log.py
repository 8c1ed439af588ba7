"""TensorRT and Polygraphy log to the terminal; here, what they log as errors becomes the one line of an exception."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from polygraphy.logger import G_LOGGER

from hqp_onnx.boundary import silenced
from hqp_onnx.errors import ModelError, one_line

SILENT = G_LOGGER.CRITICAL + 1
"""A verbosity: errors are raised, and need no second print."""
_WEIGHTS = re.compile(r"Total Weights Memory: (\d+) bytes")
_NO_GPU = re.compile(r"cudaError|Cuda Runtime")


@contextmanager
def tensorrt_log(what: str) -> Iterator[Log]:
    """What is logged, nowhere else; failures as ``ModelError``: ``what``, and the first error that was logged."""
    from polygraphy.exception import PolygraphyException

    logger, log = logging.getLogger("Polygraphy"), Log()
    before = G_LOGGER.use_python_logging_system, G_LOGGER.colors, G_LOGGER.letter, logger.propagate, logger.level
    G_LOGGER.use_python_logging_system, G_LOGGER.colors, G_LOGGER.letter, logger.propagate = True, False, False, False
    logger.setLevel(logging.DEBUG)
    logger.addHandler(log)
    try:
        with silenced(), G_LOGGER.verbosity(G_LOGGER.VERBOSE), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what Polygraphy still asks of newer bindings
            yield log
    except (PolygraphyException, RuntimeError) as e:
        raise ModelError(f"{what}: {log.first or one_line(e)}") from e
    finally:
        logger.removeHandler(log)
        (G_LOGGER.use_python_logging_system, G_LOGGER.colors, G_LOGGER.letter, logger.propagate) = before[:4]
        logger.setLevel(before[4])


class Log(logging.Handler):
    """Of one build: the first error, rather one that is not about a GPU that is not there; the bytes of the weights."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.weights_bytes: int | None = None
        self._errors: list[str] = []

    @property
    def first(self) -> str:
        """Of the errors; empty if there was none."""
        return next((text for text in self._errors if not _NO_GPU.search(text)), next(iter(self._errors), ""))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what matters."""
        text = " ".join(record.getMessage().split())
        if record.levelno >= logging.ERROR:
            self._errors.append(text[:300])
        elif found := _WEIGHTS.search(text):
            self.weights_bytes = int(found[1])
