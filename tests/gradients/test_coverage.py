"""The committed table of operators is what the tool prints."""

import importlib.util
from pathlib import Path

import pytest
from onnx import defs

ROOT = Path(__file__).parents[2]


def test_the_document_is_up_to_date():
    document = (ROOT / "docs" / "gradient_coverage.md").read_text()
    if f"opset {defs.onnx_opset_version()}\n" not in document:
        pytest.skip("the document was written with another onnx")
    spec = importlib.util.spec_from_file_location("gradient_coverage", ROOT / "tools" / "gradient_coverage.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert document == tool.table() + "\n"
