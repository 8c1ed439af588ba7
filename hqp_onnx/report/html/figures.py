"""What a figure of the page is: a drawing, a caption in words, and its numbers as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hqp_onnx.job.results import TITLES
from hqp_onnx.report.html.markup import Html

Data = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """``identifier`` is its anchor; ``numbers`` the table behind the drawing."""

    identifier: str
    title: str
    drawing: Html
    caption: str
    numbers: Html


def title_of(name: str) -> str:
    """A row's name in words."""
    return TITLES.get(name, name.replace("_", " ").capitalize())


def shipped_row(rows: Mapping[str, Data]) -> str:
    """The row of the model that ships: an engine inside the budget, what was recovered, or the result without."""
    if rows.get("engine", {}).get("admitted"):
        return "engine"
    return "recovered" if "recovered" in rows else "hqp"
