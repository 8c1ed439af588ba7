"""Work on the first samples of all data, for estimates: what opens data asks ``taken``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from hqp_onnx.data.dataset import Dataset


@dataclass(frozen=True)
class Sampling:
    """How many batches of each part are taken, and how many samples there are, by part.

    ``taken`` says how many of them were.
    """

    batches: int
    whole: dict[str, int] = field(default_factory=dict)
    taken: dict[str, int] = field(default_factory=dict)


_SAMPLING: ContextVar[Sampling | None] = ContextVar("sampling", default=None)


@contextmanager
def sampled(batches: int) -> Iterator[Sampling]:
    """Inside, data are the first batches of what they are."""
    sampling = Sampling(batches)
    token = _SAMPLING.set(sampling)
    try:
        yield sampling
    finally:
        _SAMPLING.reset(token)


def is_sampled() -> bool:
    """Whether this is inside ``sampled``, where all of few data are taken as well."""
    return _SAMPLING.get() is not None


def whole(data: Dataset, part: str = "data") -> int:
    """How many samples there are, of which ``data``, inside ``sampled``, are the first."""
    sampling = _SAMPLING.get()
    return len(data) if sampling is None else sampling.whole[part]


def capped(part: str, most: int) -> None:
    """Say, inside ``sampled``, that no more samples of a part are worked on."""
    sampling = _SAMPLING.get()
    if sampling is not None:
        sampling.whole[part] = min(sampling.whole[part], most)


def taken(data: Dataset, part: str = "data") -> Dataset:
    """All of ``data``, or, inside ``sampled``, the first of them."""
    sampling = _SAMPLING.get()
    if sampling is None:
        return data
    sampling.whole[part] = len(data)
    few = data.first(sampling.batches * data.batch_size)
    sampling.taken[part] = len(few)
    return few
