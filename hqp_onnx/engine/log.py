"""TensorRT and Polygraphy log to the terminal; here, what they log as errors becomes the one line of an exception."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from polygraphy.logger import G_LOGGER

from hqp_onnx.errors import ModelError, one_line

SILENT = G_LOGGER.CRITICAL + 1
"""A verbosity: errors are raised, and need no second print."""


@contextmanager
def tensorrt_errors(what: str) -> Iterator[None]:
    """Failures as ``ModelError``: ``what``, and the first error that was logged; logs go nowhere else."""
    from polygraphy.exception import PolygraphyException

    logger, errors = logging.getLogger("Polygraphy"), _Errors()
    before = G_LOGGER.use_python_logging_system, G_LOGGER.colors, G_LOGGER.letter, logger.propagate
    G_LOGGER.use_python_logging_system, G_LOGGER.colors, G_LOGGER.letter, logger.propagate = True, False, False, False
    logger.addHandler(errors)
    try:
        yield
    except (PolygraphyException, RuntimeError) as e:
        raise ModelError(f"{what}: {errors.first or one_line(e)}") from e
    finally:
        logger.removeHandler(errors)
        G_LOGGER.use_python_logging_system, G_LOGGER.colors, G_LOGGER.letter, logger.propagate = before


class _Errors(logging.Handler):
    """Keeps the first error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.first = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.first = self.first or " ".join(record.getMessage().split())[:300]
