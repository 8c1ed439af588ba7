"""What an optimization has paid for: one JSON line per trial, flushed as it happens, read back to resume.

The first line of ``ledger.jsonl`` holds the settings that decide every result. A line that was cut off by the
end of the process is dropped. Larger results (scores, moments, calibrations) are files in ``.cache`` beside it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from hqp_onnx.errors import UsageError
from hqp_onnx.files import append_line, make_folder, read_text, write_text

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Trial:
    """One evaluated candidate.

    Attributes:
        key: of the candidate (``Candidate.key``).
        precision: ``fp32``, ``fp16`` or ``int8``.
        floats: nodes of an int8 model that could be quantized and stay in float.
        trained: whether it was trained before it was judged.
        removed: the number of removed units.
        sparsity: the removed share of the prunable units.
        metric: on D_val; an upper bound where ``complete`` is False (rejected before every sample was seen).
        complete: whether every sample was seen.
        macs, params: per sample; values in initializers.
        accepted: inside the budget.
        why: the verdict in words.
        seconds: wall-clock time of the trial.
    """

    key: str
    precision: str
    floats: int
    trained: bool
    removed: int
    sparsity: float
    metric: float
    complete: bool
    macs: int
    params: int
    accepted: bool
    why: str
    seconds: float

    @property
    def kind(self) -> str:
        """The precision, and whether the model was trained, in words."""
        mixed = f" ({self.floats} nodes in float)" if self.floats else ""
        return f"{self.precision}{mixed}{', recovered' * self.trained}"


class Ledger:
    """Trials and stage times of one output folder.

    Args:
        folder: created if it does not exist.
        settings: what decides the results, as JSON values.
        resume: keep what the folder holds; otherwise start anew.

    Raises:
        UsageError: the folder to resume was made with other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], resume: bool) -> None:
        self.path = folder / "ledger.jsonl"
        self.cache = folder / ".cache"
        self.trials: dict[str, Trial] = {}
        self.seconds: dict[str, float] = {}
        lines = self._read() if resume else []
        if lines:
            self._check(lines[0].get("settings", {}), settings)
        else:
            shutil.rmtree(self.cache, ignore_errors=True)
        make_folder(self.cache)
        for line in lines[1:]:
            if "trial" in line:
                trial = Trial(**line["trial"])
                self.trials[trial.key] = trial
            self.seconds.update(line.get("seconds", {}))
        self._rewrite([{"settings": dict(settings)}, *lines[1:]])

    def add(self, trial: Trial) -> None:
        """Record a trial."""
        self.trials[trial.key] = trial
        self._append({"trial": asdict(trial)})

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Record the time spent inside as that of ``stage``."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - start, 3)
        self._append({"seconds": {stage: self.seconds[stage]}})

    def once(self, name: str, make: Callable[[], T]) -> T:
        """A JSON value that is made once, and then read from ``.cache``."""
        file = self.cache / f"{name}.json"
        if not file.is_file():
            write_text(file, json.dumps(make()))
        value: T = json.loads(read_text(file))
        return value

    def _check(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        changed = [key for key in now if before.get(key) != now[key]]
        if changed:
            key = changed[0]
            raise UsageError(
                f"{self.path}: cannot resume, '{key}' was {before.get(key)} and is now {now[key]}. "
                "Give the same options and data, or leave out {--resume} to start anew"
            )

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        *whole, _cut_off = read_text(self.path).split("\n")  # empty, unless the process ended while it wrote a line
        return [json.loads(line) for line in whole]

    def _rewrite(self, lines: list[dict[str, Any]]) -> None:
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in lines))

    def _append(self, line: Mapping[str, Any]) -> None:
        append_line(self.path, json.dumps(line))
