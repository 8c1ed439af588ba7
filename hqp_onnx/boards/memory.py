"""What was measured on boards, kept in this user's cache: a file for each measurement, by what it depends on.

Which board (with its clocks' settings), its runtime, the script, the models and their threads, the inputs, and how long
it was measured.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

from hqp_onnx.files import make_folder, read_text, sha256_of, write_text

T = TypeVar("T")
log = logging.getLogger(__name__)


def folder() -> Path:
    """``hqp_onnx/boards`` in ``XDG_CACHE_HOME``, or in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hqp_onnx" / "boards"


def recalled(board: str, what: object, make: Callable[[], T]) -> T:
    """The JSON value that ``make`` gives, or gave before for the same ``board`` and ``what``."""
    file = folder() / board[:16] / f"{sha256_of(json.dumps(what, sort_keys=True))[:32]}.json"
    if file.is_file():
        try:
            value: T = json.loads(read_text(file))["value"]
        except (ValueError, KeyError, TypeError):
            log.info("%s is damaged: measured again", file)
        else:
            _say(file.parent)
            return value
    value = make()
    make_folder(file.parent)
    write_text(file, json.dumps({"value": value}))
    return value


@cache
def _say(place: Path) -> None:
    log.info("what was measured on this board before is in %s: remove that folder to measure again", place)
