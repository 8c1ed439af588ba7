"""How long-running work reports its progress."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, what is done and the total."""

StageProgress = Callable[[int, int], None]
"""The same within one stage: what is done, and the total (0 where it is not known)."""


def silent(stage: str, done: int, total: int) -> None:
    """Report progress to nobody."""
