"""Read ``report.json`` back into the types that wrote it; whatever else the file is, is said in one line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import msgspec

from hqp_onnx.errors import DataError
from hqp_onnx.files import require_regular
from hqp_onnx.job.results import SCHEMA, Report

JSON = "report.json"
_AGAIN = "Run `hqp optimize` again, with --resume and the same options"


def read_report(folder: str | Path) -> Report:
    """The report in ``folder``, OUT/.

    Raises:
        DataError: there is none that can be read, it is damaged, or a version with another schema wrote it.
    """
    path = Path(folder) / JSON
    require_regular(path, "the report in a folder that `hqp optimize` finished writing")
    try:
        values = json.loads(path.read_bytes(), parse_float=_number, parse_constant=_number)
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror})") from e
    except (ValueError, RecursionError) as e:  # not text, cut off, or nested without end
        raise DataError(f"{path}: not JSON ({e}). {_AGAIN}") from e
    schema = values.get("schema_version", SCHEMA) if isinstance(values, dict) else SCHEMA
    if isinstance(schema, int) and schema != SCHEMA:
        raise DataError(f"{path}: has schema {schema}, this version reads {SCHEMA}. Use the version that wrote it")
    try:
        return msgspec.convert(values, Report)
    except msgspec.ValidationError as e:
        raise DataError(f"{path}: not what `hqp optimize` of this version writes: {e}. {_AGAIN}") from e


def _number(text: str) -> float:
    """JSON has no NaN and no infinity, though Python reads them."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number")
    return value
