"""How tools/check_targets.py reads what it is given, and groups what is refused."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    monkeypatch.delitem(sys.modules, "target_jobs", raising=False)
    spec = importlib.util.spec_from_file_location("check_targets", TOOLS / "check_targets.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_a_network_has_data_of_three_parts_and_jobs_may_take_the_first_of_each(
    tool: ModuleType, tmp_path: Path
) -> None:
    for part, count in (("calib", 9), ("val", 8), ("test", 7)):
        np.savez(tmp_path / f"some_{part}.npz", input=np.arange(count), labels=np.arange(count))
    network = tool.network_of(f"{tmp_path}/a.onnx,{tmp_path}/some")
    assert (network.name, network.part("val", 3)["labels"].tolist()) == ("a", [0, 1, 2])
    jobs = tool.Jobs(tmp_path, True, (tool.limit_of("rk3588,4,3,2"),))
    assert {part: len(x["input"]) for part, x in jobs._data(network, "rk3588").items()} == {
        "calib": 4,
        "val": 3,
        "test": 2,
    }
    assert jobs._data(network, "litert")["test"] == tmp_path / "some_test.npz"
    of_one = tool.Jobs(tmp_path, True, tuple(map(tool.limit_of, ("qnn,4,3,2", "a/qnn,3,2,1", "b/qnn,2,1,1"))))
    assert {part: len(x["input"]) for part, x in of_one._data(network, "qnn").items()} == {
        "calib": 3,
        "val": 2,
        "test": 1,
    }
    assert tool.Jobs(tmp_path, False).report(network, "litert") is None


def test_refusals_are_grouped_by_operator_and_reason(tool: ModuleType) -> None:
    left = [(name, "Add", f"Float32 is not taken ({name})") for name in "abcd"] + [("e", "Gelu", "not known")]
    assert tool.refusals(left) == [
        ("4 Add", "Float32 is not taken", "`a`, `b`, `c`, ..."),
        ("1 Gelu", "not known", "`e`"),
    ]


def test_the_bundled_networks_are_there(tool: ModuleType) -> None:
    for network in tool.bundled():
        assert network.file.is_file()
        assert set(network.part("test", 1)) == {"input", "labels"}
