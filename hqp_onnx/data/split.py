"""One source as three disjoint sets: calibration, validation, test.

Samples are shuffled by a seed, and where they have class numbers, sorted by these. Then they are dealt out one by one,
each to the set that lacks most of its share: any stretch of them, a class for one, holds the shares but for rounding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hqp_onnx.arrays import IntArray
from hqp_onnx.counts import counted
from hqp_onnx.data.attached import Subset
from hqp_onnx.data.dataset import Source
from hqp_onnx.errors import DataError, FileError, UsageError, one_line
from hqp_onnx.files import read_text

PARTS = ("calib", "val", "test")
SHARES = (0.4, 0.3, 0.3)
MOST_CALIBRATION = 5000
"""Samples, beyond which calibration takes no more: what is left serves validation and test."""
LEAST = 10


@dataclass(frozen=True)
class Split:
    """Which samples serve what; ascending numbers by part."""

    source: str
    seed: int
    shares: tuple[float, ...]
    by_class: bool
    parts: Mapping[str, IntArray]

    @property
    def words(self) -> str:
        """In a line."""
        counts = ", ".join(f"{len(numbers)} {part}" for part, numbers in self.parts.items())
        return f"{self.source} was split by seed {self.seed}{' and class' if self.by_class else ''}: {counts}"

    def json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        parts = {part: numbers.tolist() for part, numbers in self.parts.items()}
        return {
            "source": self.source,
            "count": sum(map(len, self.parts.values())),
            "seed": self.seed,
            "shares": list(self.shares),
            "by_class": self.by_class,
            **parts,
        }


def split(source: Source, seed: int, shares: tuple[float, ...] = SHARES) -> Split:
    """A split of ``source``; calibration takes ``MOST_CALIBRATION`` at most.

    Raises:
        DataError: fewer than ``LEAST`` samples.
        UsageError: shares that are not three numbers above 0 with the sum 1.
    """
    check_shares(shares)
    if source.count < LEAST:
        few = f"{counted(source.count, 'sample is', 'samples are')} too few"
        raise DataError(f"{source.name}: {few} to be split: expected {LEAST} at least")
    calib = min(shares[0], MOST_CALIBRATION / source.count)
    rest = (1 - calib) / (1 - shares[0])
    labels = source.labels
    random = np.random.default_rng((seed, 3)).random(source.count)
    owners = np.zeros(source.count, np.int64)
    owners[np.lexsort((random,) if labels is None else (random, labels))] = _dealt(
        (calib, shares[1] * rest, shares[2] * rest), source.count
    )
    parts = {part: np.flatnonzero(owners == number) for number, part in enumerate(PARTS)}
    return Split(source.name, seed, shares, labels is not None, parts)


def check_shares(shares: tuple[float, ...]) -> None:
    """``UsageError`` unless these are three numbers above 0 with the sum 1."""
    if len(shares) != len(PARTS) or not all(x > 0 for x in shares) or abs(sum(shares) - 1) > 1e-6:
        raise UsageError(
            f"{{--shares}} {','.join(f'{x:g}' for x in shares)}: expected three shares above 0 that add up to 1, as "
            "0.4,0.3,0.3"
        )


def subset(source: Source, found: Split, part: str) -> Subset:
    """One part of ``source``."""
    return Subset(source, found.parts[part], part)


def read_part(source: Source, name: str) -> Subset:
    """The part of ``source`` that ``FILE.json:PART`` names; the file is one that a split was written to.

    Raises:
        UsageError: no such file or part.
        DataError: the file is of another source.
    """
    path, _, part = name.rpartition(":")
    try:
        content = json.loads(read_text(Path(path)))
        if not all(type(number) is int for number in content[part]):
            raise ValueError(f"'{part}' is not a list of sample numbers")
        numbers, count = np.array(content[part], np.int64), content["count"]
    except (FileError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as e:
        known = ", ".join(PARTS)
        raise UsageError(f"{{--part}} {name}: expected split.json:PART, one of {known}: {one_line(e)}") from e
    if count != source.count:
        raise DataError(f"{path}: is a split of {counted(count, 'sample')}, and {source.name} has {source.count}")
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < count:
        raise DataError(f"{path}: '{part}' has sample numbers that are not in 0 .. {count - 1}")
    return Subset(source, np.unique(numbers), part)


def _dealt(shares: tuple[float, float, float], count: int) -> list[int]:
    """Numbers of parts, one after the other to that which lacks most: any stretch of them holds the shares, rounded."""
    lack, dealt = [0.0, 0.0, 0.0], []
    for _ in range(count):
        lack = [have + share for have, share in zip(lack, shares, strict=True)]
        dealt.append(lack.index(max(lack)))
        lack[dealt[-1]] -= 1
    return dealt
