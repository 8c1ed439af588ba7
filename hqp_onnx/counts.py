"""Numbers of things in words that agree: "1 sample", "2 samples"."""

from __future__ import annotations


def counted(count: int, one: str, several: str = "") -> str:
    """``count`` and its noun: ``one``, else ``several``, or ``one`` with an s; a verb may follow ("sample is")."""
    return f"{count} {one if count == 1 else several or f'{one}s'}"


def article(noun: str) -> str:
    """``noun`` and its article: "a list", "an int"."""
    return f"{'an' if noun[:1].lower() in tuple('aeiou') else 'a'} {noun}"
