"""One GPU for each worker: what nvidia-smi and Ray are asked, and what processes then see."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from work import Seeing

from hqp_onnx.errors import UsageError
from hqp_onnx.workers import spread, using
from hqp_onnx.workers.clusters import CLUSTERS, OfRay
from hqp_onnx.workers.gpus import VISIBLE, gpus

TWO = """GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aa)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-bb)
"""
CUT = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aa)
  MIG 3g.20gb     Device  0: (UUID: MIG-11)
  MIG 3g.20gb     Device  1: (UUID: MIG-22)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bb)
"""


def machine(tmp_path: Path, patch: pytest.MonkeyPatch, says: str, status: int = 0) -> None:
    """One whose nvidia-smi says so."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\ncat <<E\n{says}E\nexit {status}\n")
    tool.chmod(0o755)
    patch.setenv("PATH", str(tmp_path), prepend=":")
    patch.delenv(VISIBLE, raising=False)


@pytest.mark.parametrize(
    ("says", "status", "names"),
    [(TWO, 0, ["GPU-aa", "GPU-bb"]), (CUT, 0, ["MIG-11", "MIG-22", "GPU-bb"]), ("no devices\n", 0, []), (TWO, 9, [])],
)
def test_gpus_are_those_that_the_driver_lists(
    says: str, status: int, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(tmp_path, monkeypatch, says, status)
    assert gpus() == names
    monkeypatch.setenv(VISIBLE, "2, 3")
    assert gpus() == ["2", "3"]


def test_each_process_sees_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(tmp_path, monkeypatch, TWO)
    with using(2):
        found = set(spread(Seeing(), range(6)))
    assert len(found) == 2 and {name for _, name in found} == {"GPU-aa", "GPU-bb"}


class FakeRay(SimpleNamespace):
    """The calls of ``ray`` that are made."""

    def __init__(self) -> None:
        super().__init__(addresses=[], asked=[])

    def init(self, address: str | None, **_: object) -> None:
        self.addresses.append(address)

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 32.0, "GPU": 4.0}

    def remote(self, **options: object) -> object:
        self.asked.append(options)
        future = SimpleNamespace(future=lambda: "future")
        return lambda function: SimpleNamespace(remote=lambda *_: future)


@pytest.mark.parametrize(
    ("address", "init", "workers", "gpu"),
    [
        ("ray", None, 32, None),
        ("ray?gpus=1", None, 4, 1.0),
        ("ray://host:10001?gpus=0.5", "ray://host:10001", 8, 0.5),
    ],
)
def test_ray_gives_a_task_its_gpu(
    address: str, init: str | None, workers: int, gpu: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", engine)
    executor = CLUSTERS.get("ray")(address)
    assert isinstance(executor, OfRay) and executor.workers == workers and engine.addresses == [init]
    executor.submit(print)
    assert engine.asked[0].get("num_gpus") == gpu


@pytest.mark.parametrize("address", ["ray?gpu=1", "ray?gpus=0", "ray://host:1?gpus=all", "ray?"])
def test_what_follows_a_question_mark_is_gpus(address: str) -> None:
    with pytest.raises(UsageError, match="gpus=1"), using(address):
        pass
