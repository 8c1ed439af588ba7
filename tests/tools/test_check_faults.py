"""tools/check_faults.py, briefly: what it disturbs ends well, and what does not is a defect of its row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import MODELS

ROWS = (
    ("score", "full disk"),
    ("prune", "read-only"),
    ("quantize", "SIGINT"),
    ("recover", "SIGKILL"),
    ("optimize int8", "two runs"),
    ("optimize int8", "SIGTERM"),
)


@pytest.fixture(scope="module")
def tool() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(MODELS.parent / "tools")
        import check_faults

        yield check_faults


@pytest.fixture(scope="module")
def whole(tool: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Inputs, and undisturbed runs of the commands."""
    folder = tmp_path_factory.mktemp("inputs")
    tool.make_inputs(folder)
    names = {name for name, _ in ROWS}
    return folder, {
        command.name: (command, tool.undisturbed(command, folder, tmp_path_factory.mktemp("whole") / "out"))
        for command in tool.COMMANDS
        if command.name in names
    }


@pytest.mark.parametrize(("name", "fault"), ROWS)
def test_a_disturbed_command(
    name: str, fault: str, tool: ModuleType, whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    inputs, runs = whole
    command, reference = runs[name]
    row = tool.check(command, fault, reference, inputs, tmp_path, 1)
    assert (row.runs, row.same, row.defects) == (1, 1, [])


def test_what_ends_badly_is_a_defect(tool: ModuleType, tmp_path: Path) -> None:
    command = next(command for command in tool.COMMANDS if command.name == "prune")
    (tmp_path / "pruned.onnx").write_bytes(b"half")
    (tmp_path / ".hqp-1.tmp").write_bytes(b"")
    row, reference = tool.Row(), tool.Reference({"pruned.onnx": b"whole"}, 1.0, 1, 5)
    tool._judge(row, command, "SIGTERM", reference, tmp_path, 2, "Traceback (most recent call last)\nValueError")
    assert len(row.defects) == 4
