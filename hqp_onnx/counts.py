"""Numbers of things in words that agree: "1 sample", "2 samples"."""

from __future__ import annotations


def counted(count: int, one: str, several: str = "") -> str:
    """``count`` and its noun: ``one``, else ``several``, or ``one`` with an s. Words may follow the noun."""
    return f"{count} {one if count == 1 else several or f'{one}s'}"
