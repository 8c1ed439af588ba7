"""What an optimization has paid for: one JSON line per trial, flushed as it happens, read back to resume.

The first line of ``ledger.jsonl`` holds the settings that decide every result. Every line has a digest of its content
and of these settings: one that was cut off, damaged, edited or copied from elsewhere is dropped, and what it said is
found again. Larger results (scores, moments, calibrations) are files in ``.cache`` beside it, which ``out_folder``
holds to their digests in the same way.

Digests find accidents and careless edits. Who makes new ones can still make the search end elsewhere, but not make a
model ship that is outside the budget: what ships is judged once more, as it was written.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import msgspec

from hqp_onnx.errors import UsageError
from hqp_onnx.files import append_line, read_bytes, read_text, write_text
from hqp_onnx.out_folder import LEDGER, OutFolder

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Trial:
    """One evaluated candidate.

    Attributes:
        key: what names the candidate: equal for two if and only if they are the same model.
        precision: what it computes in: fp32, int8, int4, dynamic or fp16.
        floats: nodes of an int8 model that could be quantized and stay in float; of int4, weights that are in INT8.
        trained: whether it was trained before it was judged.
        removed: the number of removed units.
        sparsity: the removed share of the prunable units.
        metric: on the validation data; where ``complete`` is false (rejected before every sample was seen), as good as
            it could still have become; None where it has no value.
        complete: whether every sample was seen.
        macs: multiply-accumulates per sample.
        params: values in initializers.
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
    metric: float | None
    complete: bool
    macs: int
    params: int
    accepted: bool
    why: str
    seconds: float

    @property
    def kind(self) -> str:
        """The precision, and whether the model was trained, in words."""
        what, where = ("weight", "INT8") if self.precision == "int4" else ("node", "float")
        mixed = f" ({self.floats} {what}{'s' * (self.floats > 1)} in {where})" if self.floats else ""
        return f"{self.precision}{mixed}{', recovered' * self.trained}"


class Ledger:
    """Trials and stage times of one output folder.

    Args:
        out: the folder, opened.
        settings: what decides the results, as JSON values.
        resume: keep what the folder holds; otherwise start anew.

    Raises:
        UsageError: the folder to resume was made with other settings.
    """

    def __init__(self, out: OutFolder, settings: Mapping[str, Any], resume: bool) -> None:
        self.out, self.path, self.cache = out, out.folder / LEDGER, out.state
        self.trials: dict[str, Trial] = {}
        self.seconds: dict[str, float] = {}
        self._job = _digest("", settings)
        lines = self._read(settings) if resume else []
        out.begin(self._job, resume)
        for line in lines:
            if "trial" in line:
                trial = msgspec.convert(line["trial"], Trial)
                self.trials[trial.key] = trial
            self.seconds.update(line.get("seconds", {}))
        first = _line("", {"settings": dict(settings)})
        write_text(self.path, "".join(f"{line}\n" for line in (first, *(_line(self._job, line) for line in lines))))

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

    def _read(self, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What the lines say that are whole and of this job; errors as for ``__init__``."""
        if not self.path.is_file():
            return []
        first, *rest = read_bytes(self.path).split(b"\n")
        earlier = _content("", first)
        if earlier is not None:
            self._check(earlier.get("settings", {}), settings)
        whole = rest[:-1]  # the last is empty, unless the process ended while it wrote a line
        lines = [line for line in (_content(self._job, text) for text in whole) if line is not None]
        if lost := len(whole) - len(lines) + (earlier is None and bool(rest)):
            log.warning("%s: %d damaged lines are dropped, and what they said is measured again", self.path, lost)
        return lines

    def _append(self, content: Mapping[str, Any]) -> None:
        append_line(self.path, _line(self._job, content))


def _digest(job: str, content: Mapping[str, Any]) -> str:
    """Of a line's content and its job."""
    text = json.dumps([job, content], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _line(job: str, content: Mapping[str, Any]) -> str:
    return json.dumps({**content, "digest": _digest(job, content)})


def _content(job: str, text: bytes) -> dict[str, Any] | None:
    """What a line says; None if it is not one that this job wrote."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict):
        return None
    digest = line.pop("digest", None)
    return line if digest == _digest(job, line) else None
