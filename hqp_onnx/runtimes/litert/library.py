"""The only module that imports ai_edge_litert: its interpreter, and the schema of its files."""

from __future__ import annotations

from typing import Any

from hqp_onnx.errors import MissingRuntimeError

_INSTALL = "ai-edge-litert is not installed: pip install 'hqp-onnx[litert]'"


def interpreter_module() -> Any:
    """The module with ``Interpreter``; ``MissingRuntimeError`` names the extra where it is not installed."""
    try:
        from ai_edge_litert import interpreter
    except ImportError as e:
        raise MissingRuntimeError(_INSTALL) from e
    return interpreter


def schema() -> Any:
    """Classes of the tables of a .tflite file; errors as above."""
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as e:
        raise MissingRuntimeError(_INSTALL) from e
    return schema_py_generated


def flatbuffers() -> Any:
    """The module that writes such tables, on which ai_edge_litert depends; errors as above."""
    try:
        import flatbuffers
    except ImportError as e:
        raise MissingRuntimeError(_INSTALL) from e
    return flatbuffers


def version() -> str:
    """Of the package; errors as above."""
    interpreter_module()
    from importlib.metadata import version

    return version("ai-edge-litert")
