"""Tables of words, and HTML by functions: whatever is not ``Html`` is text, and is escaped.

A table is drawn on the page and in notebooks as HTML, in the terminal as text, by tools as Markdown.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass

_VOID = {"meta", "br", "img"}
_UNPRINTABLE = (*range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000))
_SHOWN = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"} | dict.fromkeys(_UNPRINTABLE, 0xFFFD)


@dataclass(frozen=True)
class Table:
    """A caption, the titles of the columns, and rows of as many cells; the first cell of a row is its name."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if any(len(row) != len(self.head) for row in self.rows):
            raise ValueError(f"a row of '{self.caption}' has not {len(self.head)} cells")

    def without(self, column: str) -> Table:
        """The table with one column less."""
        kept = [place for place, title in enumerate(self.head) if title != column]
        head, *rows = (tuple(row[place] for place in kept) for row in (self.head, *self.rows))
        return Table(self.caption, head, tuple(rows))


class Html(str):
    """Markup."""

    __slots__ = ()


def escape(text: str) -> str:
    """Text as markup: no tag, quote or entity, and signs in place of what a page cannot hold or would obey.

    These are control characters, halves of surrogate pairs (of file names that are not UTF-8), and overrides of the
    direction of text.
    """
    return html.escape(text.translate(_SHOWN))


def tag(name: str, /, *children: str | None, **attributes: str | int | None) -> Html:
    """An element; None among children and attributes is left out. ``class_`` is class, ``data_x`` is data-x."""
    words = [name, *(f'{_name(key)}="{escape(str(v))}"' for key, v in attributes.items() if v is not None)]
    start = f"<{' '.join(words)}>"
    return Html(start if name in _VOID else f"{start}{join(children)}</{name}>")


def _name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def join(parts: Iterable[str | None]) -> Html:
    """Markup of all parts, text escaped."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts if part is not None))


def table(shown: Table, kind: str = "figures") -> Html:
    """A table whose first column names its rows. On a narrow screen every row is a block, each cell with its title."""
    columns = [tag("th", title, scope="col", role="columnheader") for title in shown.head]
    return tag(
        "table",
        tag("caption", shown.caption),
        tag("thead", tag("tr", *columns, role="row"), role="rowgroup"),
        tag("tbody", *(_row(shown.head, row) for row in shown.rows), role="rowgroup"),
        class_=kind,
        role="table",
    )


def _row(head: tuple[str, ...], row: tuple[str, ...]) -> Html:
    cells = [tag("td", cell, role="cell", data_label=title) for title, cell in zip(head[1:], row[1:], strict=True)]
    return tag("tr", tag("th", row[0], scope="row", role="rowheader"), *cells, role="row")
