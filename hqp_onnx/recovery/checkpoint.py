"""A training between two rounds, as a file: what goes on after an interruption, or with more time.

The file also says what the training has changed (``changed``), so another student of the same original may start there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from hqp_onnx.archives import read_arrays
from hqp_onnx.arrays import Array, Float32Array
from hqp_onnx.errors import DataError
from hqp_onnx.files import write_arrays
from hqp_onnx.recovery.adam import Adam

T = TypeVar("T")
FORM = 2  # of the file; part of its key, so an older one is not gone on from
_NUMBERS = "judging", "limit", "ended", "seconds", "skipped", "since", "place"


@dataclass
class State:
    """Of a training.

    Attributes:
        weights: trained so far.
        adam: its moments.
        best: the weights of the least loss.
        losses: held out, before training and after each round.
        steps: taken, at each of the losses.
        judging: seconds that the first judgement took.
        limit: seconds that it might take.
        ended: why it did, within ``limit``; "" if it goes on.
        seconds: that it took.
        skipped: steps that are left out.
        since: the last round that lowered the loss, or shortened the way.
        place: where on the way that was.
    """

    weights: Float32Array
    adam: Adam
    best: Float32Array
    losses: list[float]
    steps: list[int]
    judging: float
    limit: float
    ended: str = ""
    seconds: float = 0.0
    skipped: int = 0
    since: int = 0
    place: float = 0.0


def save(path: Path, key: str, state: State, given: Mapping[str, Array]) -> None:
    """Write a state; ``given`` are the weights of the student, in the order of the flat ones."""
    arrays = {"best": state.best, "weights": state.weights, "m": state.adam.m, "v": state.adam.v}
    layout = json.dumps({name: x.shape for name, x in given.items()})
    rest = {"key": key, "losses": state.losses, "steps": state.steps, "layout": layout}
    rest |= {name: getattr(state, name) for name in _NUMBERS}
    start = np.concatenate([x.ravel() for x in given.values()]).astype(np.float32)
    write_arrays(path, {**arrays, "given": start, **{name: np.array(value) for name, value in rest.items()}})


def load(path: Path, key: str) -> State | None:
    """The state of an interrupted run; None if there is none of this key.

    Raises:
        DataError: the file is no checkpoint.
    """

    def state(x: Mapping[str, Array]) -> State | None:
        if str(x["key"]) != key:
            return None
        losses, steps = x["losses"].tolist(), x["steps"].tolist()
        adam = Adam(x["m"], x["v"], steps[-1])
        return State(x["weights"], adam, x["best"], losses, steps, **{name: x[name].item() for name in _NUMBERS})

    return _read(path, state, None)


def prolonged(path: Path, seconds: float) -> float:
    """The limit of a training that is given so many seconds more; one that was interrupted keeps what it has.

    Raises:
        DataError: the file is no checkpoint.
    """

    def limit(x: Mapping[str, Array]) -> float:
        return float(x["seconds"]) + seconds if str(x["ended"]) else float(x["limit"])

    return _read(path, limit, seconds)


def changed(path: Path) -> dict[str, Array]:
    """What a training has added to each weight, by its best loss so far; nothing without a file.

    Raises:
        DataError: the file is no checkpoint.
    """

    def by_name(x: Mapping[str, Array]) -> dict[str, Array]:
        added, shapes = x["best"] - x["given"], json.loads(str(x["layout"]))
        ends = np.cumsum([np.prod(shape, dtype=np.int64) for shape in shapes.values()])
        pieces = np.split(added, ends[:-1])
        return {name: piece.reshape(shapes[name]) for name, piece in zip(shapes, pieces, strict=True)}

    return _read(path, by_name, {})


def _read(path: Path, read: Callable[[Mapping[str, Array]], T], without: T) -> T:
    """What ``read`` finds in a file; ``without`` one, that."""
    if not path.is_file():
        return without
    try:
        return read(read_arrays(path))
    except (DataError, AttributeError, IndexError, KeyError, TypeError, ValueError) as e:
        raise DataError(f"{path}: not a checkpoint of a recovery ({e}): remove it") from e
