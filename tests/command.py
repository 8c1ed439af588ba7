"""The command line, run in this process."""

from __future__ import annotations

import pytest

from hqp_onnx import cli


def hqp(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit code of a command."""
    monkeypatch.setattr("sys.argv", ["hqp", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    code = ended.value.code
    assert isinstance(code, int)
    return code
