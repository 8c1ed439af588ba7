"""The ledger survives the end of its process at any byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from hqp_onnx.errors import UsageError
from hqp_onnx.job.ledger import Ledger, Trial

SETTINGS = {"max_drop": 0.015, "model": "abc"}


def trial(removed: int) -> Trial:
    return Trial(
        key=f"{removed}-fp32",
        precision="fp32",
        floats=0,
        trained=False,
        removed=removed,
        sparsity=removed / 100,
        metric=0.9,
        complete=True,
        macs=10,
        params=20,
        accepted=True,
        why="drop 0.1 of 1.5 points",
        seconds=1.0,
    )


def test_resume_reads_back_what_was_added(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, SETTINGS, resume=False)
    ledger.add(trial(5))
    with ledger.timed("baseline"):
        pass
    again = Ledger(tmp_path, SETTINGS, resume=True)
    assert again.trials == {"5-fp32": trial(5)}
    assert again.seconds == ledger.seconds and 0 <= ledger.seconds["baseline"] < 1


def test_every_cut_of_the_file_resumes_with_the_whole_lines(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, SETTINGS, resume=False)
    ledger.add(trial(5))
    ledger.add(trial(10))
    content = ledger.path.read_bytes()
    for cut in range(len(content) + 1):
        ledger.path.write_bytes(content[:cut])
        resumed = Ledger(tmp_path, SETTINGS, resume=True)
        assert len(resumed.trials) == max(content[:cut].count(b"\n") - 1, 0)
        resumed.add(trial(15))
        assert "15-fp32" in Ledger(tmp_path, SETTINGS, resume=True).trials


def test_other_settings_are_refused(tmp_path: Path) -> None:
    Ledger(tmp_path, SETTINGS, resume=False)
    with pytest.raises(UsageError, match=r"'max_drop' was 0\.015 and is now 0\.02"):
        Ledger(tmp_path, {**SETTINGS, "max_drop": 0.02}, resume=True)


def test_without_resume_all_is_new(tmp_path: Path) -> None:
    first = Ledger(tmp_path, SETTINGS, resume=False)
    first.add(trial(5))
    (first.cache / "scores.npz").touch()
    second = Ledger(tmp_path, SETTINGS, resume=False)
    assert not second.trials
    assert not list(second.cache.iterdir())
