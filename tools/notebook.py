"""Run the cells of a notebook one after the other, without Jupyter: tools/notebook.py docs/notebook.ipynb --write.

Cells share one namespace. What a cell prints and its last expression become its outputs, as in Jupyter: HTML where a
value has ``_repr_html_``, else text. ``--write`` puts them into the file; without it, the cells only have to run.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

Cell = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--write", action="store_true", help="put the outputs into the file")
    chosen = parser.parse_args()
    notebook = executed(json.loads(chosen.notebook.read_text()), chosen.notebook.resolve().parent)
    if chosen.write:
        chosen.notebook.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    print(f"{chosen.notebook}: {sum(cell['cell_type'] == 'code' for cell in notebook['cells'])} cells ran")


def executed(notebook: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The notebook with outputs; its cells run in ``folder``."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    count, cells = 0, []
    with contextlib.chdir(folder) if hasattr(contextlib, "chdir") else _inside(folder):
        for cell in notebook["cells"]:
            count += cell["cell_type"] == "code"
            cells.append(_run(cell, namespace, count) if cell["cell_type"] == "code" else cell)
    return {**notebook, "cells": cells}


@contextlib.contextmanager
def _inside(folder: Path) -> Any:
    """``contextlib.chdir``, which Python 3.10 has not."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _run(cell: Cell, namespace: dict[str, Any], count: int) -> Cell:
    code = ast.parse("".join(cell["source"]))
    last = code.body.pop() if code.body and isinstance(code.body[-1], ast.Expr) else None
    said, outputs = io.StringIO(), []
    with contextlib.redirect_stdout(said):
        exec(compile(code, f"cell {count}", "exec"), namespace)
        value = None if last is None else eval(compile(ast.Expression(last.value), f"cell {count}", "eval"), namespace)
    if said.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": _lines(said.getvalue())})
    if value is not None:
        data = {"text/plain": _lines(repr(value)[:2000])}
        html = getattr(value, "_repr_html_", lambda: None)()
        data |= {} if html is None else {"text/html": _lines(html)}
        outputs.append({"data": data, "execution_count": count, "metadata": {}, "output_type": "execute_result"})
    return {**cell, "execution_count": count, "outputs": outputs}


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


if __name__ == "__main__":
    main()
