"""What a figure of the page is: a drawing, a caption in words, and its numbers as a table."""

from __future__ import annotations

from dataclasses import dataclass

from hqp_onnx.markup import Html, Table


@dataclass(frozen=True)
class Figure:
    """``identifier`` is its anchor; ``numbers`` what the drawing shows."""

    identifier: str
    title: str
    drawing: Html
    caption: str
    numbers: Table
