"""The ledger survives the end of its process at any byte."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from hqp_onnx.errors import UsageError
from hqp_onnx.files import write_text
from hqp_onnx.job.ledger import Ledger, Trial
from hqp_onnx.out_folder import OutFolder

SETTINGS = {"max_drop": 0.015, "model": "abc"}


def opened(folder: Path, settings: Mapping[str, Any] = SETTINGS, resume: bool = True) -> Ledger:
    """A ledger whose folder is let go of at once, as at the end of a process."""
    with OutFolder(folder, "abc", "model.onnx").opened() as out:
        return Ledger(out, settings, resume)


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
        why="drop 0.1, budget 1.5 points",
        seconds=1.0,
    )


def test_resume_reads_back_what_was_added(tmp_path: Path) -> None:
    ledger = opened(tmp_path, resume=False)
    ledger.add(trial(5))
    with ledger.timed("baseline"):
        pass
    again = opened(tmp_path)
    assert again.trials == {"5-fp32": trial(5)}
    assert again.seconds == ledger.seconds and 0 <= ledger.seconds["baseline"] < 1


def test_every_cut_of_the_file_resumes_with_the_whole_lines(tmp_path: Path) -> None:
    ledger = opened(tmp_path, resume=False)
    ledger.add(trial(5))
    ledger.add(trial(10))
    content = ledger.path.read_bytes()
    for cut in range(len(content) + 1):
        ledger.path.write_bytes(content[:cut])
        resumed = opened(tmp_path)
        assert len(resumed.trials) == max(content[:cut].count(b"\n") - 1, 0)
        resumed.add(trial(15))
        assert "15-fp32" in opened(tmp_path).trials


def test_other_settings_are_refused(tmp_path: Path) -> None:
    opened(tmp_path, resume=False)
    with pytest.raises(UsageError, match=r"'max_drop' was 0\.015 and is now 0\.02"):
        opened(tmp_path, {**SETTINGS, "max_drop": 0.02})


def test_without_resume_all_is_new(tmp_path: Path) -> None:
    with OutFolder(tmp_path, "abc", "model.onnx").opened() as out:
        first = Ledger(out, SETTINGS, resume=False)
        first.add(trial(5))
        write_text(first.cache / "scores.npz", "scores")
    second = opened(tmp_path, resume=False)
    assert not second.trials
    assert not list(second.cache.iterdir())


DAMAGE: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "a verdict is edited": lambda x: [x[0], x[1].replace(b'"accepted": true', b'"accepted": false'), *x[2:]],
    "a number is edited": lambda x: [x[0], x[1].replace(b'"metric": 0.9', b'"metric": 0.8'), *x[2:]],
    "a key is edited": lambda x: [x[0], x[1].replace(b'"5-fp32"', b'"7-fp32"'), *x[2:]],
    "NUL bytes": lambda x: [x[0], bytes(len(x[1])), *x[2:]],
    "cut off": lambda x: [x[0], x[1][:20], *x[2:]],
    "empty": lambda x: [x[0], b"", *x[2:]],
    "no object": lambda x: [x[0], b"[1, 2]", *x[2:]],
    "null": lambda x: [x[0], b"null", *x[2:]],
    "a number": lambda x: [x[0], b"1e999", *x[2:]],
    "no text": lambda x: [x[0], b"\xff\xfe", *x[2:]],
    "nested without end": lambda x: [x[0], b"[" * 100_000, *x[2:]],
    "without a digest": lambda x: [x[0], b'{"trial": {}}', *x[2:]],
    "of a whole line": lambda x: [x[0], *x[2:]],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_lines_are_dropped_and_the_others_stay(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = opened(tmp_path, resume=False)
    ledger.add(trial(5))
    ledger.add(trial(10))
    ledger.path.write_bytes(b"\n".join(DAMAGE[kind](ledger.path.read_bytes().split(b"\n"))))
    caplog.set_level(logging.WARNING)
    resumed = opened(tmp_path)
    assert resumed.trials == {"10-fp32": trial(10)}
    assert ("1 damaged lines are dropped" in caplog.text) == (kind != "of a whole line")
    caplog.clear()
    assert opened(tmp_path).trials == resumed.trials and not caplog.text  # the file is whole again


@pytest.mark.parametrize("first", [b"", b"\x00" * 50, b"[]", b'{"settings": {"max_drop": 0.5}, "digest": ""}'])
def test_without_its_settings_a_ledger_is_that_of_the_digests(first: bytes, tmp_path: Path) -> None:
    ledger = opened(tmp_path, resume=False)
    ledger.add(trial(5))
    content = ledger.path.read_bytes()
    for settings, kept in (({**SETTINGS, "max_drop": 0.5}, 0), (SETTINGS, 1)):
        ledger.path.write_bytes(first + content[content.index(b"\n") :])
        assert len(opened(tmp_path, settings).trials) == kept


def test_lines_of_another_job_are_dropped(tmp_path: Path) -> None:
    other = opened(tmp_path / "other", {**SETTINGS, "max_drop": 0.5}, resume=False)
    other.add(trial(5))
    ledger = opened(tmp_path / "mine", resume=False)
    ledger.path.write_bytes(ledger.path.read_bytes() + other.path.read_bytes().split(b"\n")[1] + b"\n")
    assert not opened(tmp_path / "mine").trials


@pytest.mark.parametrize("content", [b"", b"\x00" * 6, b"scor", b"scorex", None], ids=repr)
def test_damaged_state_is_made_again(content: bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with OutFolder(tmp_path, "abc", "model.onnx").opened() as out:
        first = Ledger(out, SETTINGS, resume=False)
        write_text(first.cache / "scores.npz", "scores")
        assert first.once("ridges", lambda: [1, 2]) == [1, 2]
    scores = first.cache / "scores.npz"
    if content is None:
        scores.unlink()
        scores.symlink_to(tmp_path / "ledger.jsonl")
    else:
        scores.write_bytes(content)
    caplog.set_level(logging.WARNING)
    second = opened(tmp_path)
    assert [path.name for path in second.cache.iterdir()] == ["ridges.json"]
    assert "1 damaged files in" in caplog.text
    assert second.path.is_file()
