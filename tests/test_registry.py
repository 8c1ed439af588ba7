"""Extensions by name: our own, those of packages, those of files."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from hqp_onnx.errors import UsageError
from hqp_onnx.registry import Registry, culprit, load_from_file


def thing() -> str:
    return "own"


@pytest.fixture
def registry() -> Registry[object]:
    made: Registry[object] = Registry("thing", "hqp_onnx.things_of_tests")
    made.register("own", "also")(thing)
    made.__dict__["_installed"] = {
        "installed": [EntryPoint("installed", "test_registry_package:good", made.group)],
        "broken": [EntryPoint("broken", "no_such_package_at_all:good", made.group)],
        "number": [EntryPoint("number", "math:pi", made.group)],
        "own": [EntryPoint("own", "math:sqrt", made.group)],
        "root": [EntryPoint("root", "math:sqrt", made.group)],
    }
    return made


def test_own_names_come_first(registry: Registry[object]) -> None:
    assert registry.get("own") is thing
    assert registry.get("also") is thing
    assert registry.names == ("own", "also", "installed", "broken", "number", "root")
    assert registry.find("nothing") is None


def test_a_second_registration_of_a_name_is_an_error(registry: Registry[object]) -> None:
    with pytest.raises(ValueError, match="a second thing 'own'"):
        registry.register("own")(thing)


def test_entry_points_are_imported_when_they_are_asked_for(registry: Registry[object]) -> None:
    import math

    assert registry.get("root") is math.sqrt
    with pytest.raises(UsageError, match=r"thing 'broken' of an installed package cannot be imported: ModuleNotFound"):
        registry.get("broken")
    with pytest.raises(UsageError, match="is no thing: it is a float"):
        registry.get("number")


def test_a_file_names_a_function(registry: Registry[object], tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def f():\n    return 7\nx = 3\n")
    found = registry.get(f"{file}:f")
    assert callable(found)
    assert found() == 7
    for name, words in (("g", "no function 'g'"), ("x", "is no thing: it is an int")):
        with pytest.raises(UsageError, match=words):
            registry.get(f"{file}:{name}")
    with pytest.raises(UsageError, match=r"other\.py: no such file"):
        registry.get(f"{tmp_path / 'other.py'}:f")
    for raised in ("RuntimeError('at import')", "GeneratorExit('at import')", "BaseException('at import')"):
        file.write_text(f"raise {raised}")
        with pytest.raises(UsageError, match=r"cannot be imported: \w+: at import \(.*mine\.py, line 1\)$"):
            registry.get(f"{file}:f")


def test_lines_of_a_file_are_named_however_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("def f():\n    raise LookupError\n")
    monkeypatch.chdir(tmp_path)
    for name in ("mine.py", "./mine.py", "../" + tmp_path.name + "/mine.py", str(tmp_path / "mine.py")):
        with pytest.raises(LookupError) as caught:
            load_from_file(f"{name}:f")()
        assert str(culprit(caught.value)).endswith("mine.py, line 2")


def test_unknown_names_list_the_known(registry: Registry[object]) -> None:
    with pytest.raises(UsageError, match=r"unknown thing 'x': expected one of own, also, .*, or FILE.py:name"):
        registry.get("x")
