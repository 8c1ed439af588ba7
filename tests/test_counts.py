"""Counts agree with their nouns, and messages take them from one place."""

from __future__ import annotations

import re
from pathlib import Path

from hqp_onnx.counts import article, counted

ROOT = Path(__file__).parents[1]
_NOUNS = "samples|units|nodes|rows|weights|layers|trials|candidates|columns|labels|tensors"
_BY_HAND = re.compile(rf'f"[^"\n]*(?<!of )\{{(?:len\([^{{}}]*\)|[\w.]*(?:count|samples|units|nodes))\}} (?:{_NOUNS})\b')


def test_they_agree() -> None:
    assert counted(1, "sample") == "1 sample"
    assert counted(0, "sample") == "0 samples"
    assert counted(1, "batch", "batches") == "1 batch"
    assert counted(2, "batch", "batches") == "2 batches"
    assert (article("int"), article("list")) == ("an int", "a list")


def test_no_message_counts_by_hand() -> None:
    files = [*(ROOT / "hqp_onnx").rglob("*.py"), *(ROOT / "passes").rglob("*.py")]
    lines = [(file.name, line.strip()) for file in files for line in file.read_text().splitlines()]
    found = [where for where in lines if '"""' not in where[1] and _BY_HAND.search(where[1])]
    assert not found, found
