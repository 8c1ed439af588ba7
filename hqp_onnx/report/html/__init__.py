"""``report.html``: one file that shows what ``report.json`` says, on any screen or on paper, without a network.

document   the page: sections in order, style sheet inline
model_charts, trial_chart, unit_charts   the figures
figures    what each of them is: a drawing, a caption, its numbers as a table
plot       scales, ticks, marks: drawn with svg.py
commands   how to run the result
markup     elements; text is always escaped
"""

from __future__ import annotations

from hqp_onnx.report.html.document import render

__all__ = ["render"]
