"""What a figure of the page is: a drawing, a caption in words, and its numbers as a table."""

from __future__ import annotations

from dataclasses import dataclass

from hqp_onnx.report.html.markup import Html
from hqp_onnx.report.table import Table


@dataclass(frozen=True)
class Figure:
    """``identifier`` is its anchor; ``numbers`` what the drawing shows."""

    identifier: str
    title: str
    drawing: Html
    caption: str
    numbers: Table
