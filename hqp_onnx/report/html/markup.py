"""HTML by functions: whatever is not ``Html`` is text, and is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

_VOID = {"meta", "br"}


class Html(str):
    """Markup."""

    __slots__ = ()


def tag(name: str, /, *children: str | None, **attributes: str | int | None) -> Html:
    """An element; None among children and attributes is left out. ``class_`` is class, ``data_x`` is data-x."""
    words = [name, *(f'{_name(key)}="{html.escape(str(v))}"' for key, v in attributes.items() if v is not None)]
    start = f"<{' '.join(words)}>"
    return Html(start if name in _VOID else f"{start}{join(children)}</{name}>")


def _name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def join(parts: Iterable[str | None]) -> Html:
    """Markup of all parts, text escaped."""
    return Html("".join(p if isinstance(p, Html) else html.escape(p, quote=False) for p in parts if p is not None))


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "figures") -> Html:
    """A table whose first column names its rows. On a narrow screen every row is a block, each cell with its title."""
    columns = [tag("th", title, scope="col", role="columnheader") for title in head]
    body = [_row(head, row) for row in rows]
    return tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", *columns, role="row"), role="rowgroup"),
        tag("tbody", *body, role="rowgroup"),
        class_=kind,
        role="table",
    )


def _row(head: Sequence[str], row: Sequence[str]) -> Html:
    first, *rest = row
    cells = [tag("td", cell, role="cell", data_label=title) for title, cell in zip(head[1:], rest, strict=True)]
    return tag("tr", tag("th", first, scope="row", role="rowheader"), *cells, role="row")
