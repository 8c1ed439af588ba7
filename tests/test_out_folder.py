"""A folder that this program fills: what it did not write there stays, and two runs do not meet."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from hqp_onnx import files
from hqp_onnx.errors import FileError, UsageError
from hqp_onnx.out_folder import LOCK, MANIFEST, OutFolder

NAMES = ("int8.onnx", "recovered/int8.onnx", "ledger.jsonl")


def job(folder: Path, name: str = "abc", force: bool = False) -> OutFolder:
    return OutFolder(folder, name, f"{name}.onnx", NAMES, force)


def write(folder: Path, name: str = "abc", text: str = "written", force: bool = False) -> None:
    """A run that writes everything it may."""
    with job(folder, name, force).opened() as out:
        out.begin("settings", resume=True)
        for path in (*NAMES, ".cache/scores.npz"):
            files.make_folder((folder / path).parent)
            files.write_text(folder / path, text)


def contents(folder: Path) -> dict[str, str]:
    found = [path for path in folder.rglob("*") if path.is_file() and path.name not in (MANIFEST, LOCK)]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in found}


ALL = (*NAMES, ".cache/scores.npz")


def test_what_was_written_here_is_replaced(tmp_path: Path) -> None:
    for text in ("one", "two", "two", "three"):
        write(tmp_path / "a" / "out", text=text)
        assert contents(tmp_path / "a" / "out") == dict.fromkeys(ALL, text)


@pytest.mark.parametrize("name", NAMES[:2])
@pytest.mark.parametrize("before", [True, False])
def test_what_someone_else_put_there_or_changed_is_not(name: str, before: bool, tmp_path: Path) -> None:
    if before:
        write(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("of somebody")
    (tmp_path / "other").write_text("of somebody")
    kept = contents(tmp_path)
    for force in (False, True):
        for run in (job(tmp_path, force=force).check, lambda force=force: write(tmp_path, force=force)):
            with pytest.raises(UsageError, match=f"{name}: was not written by this program, or has changed since"):
                run()
    assert contents(tmp_path) == kept


def test_a_file_that_appears_meanwhile_is_not_replaced_or_removed(tmp_path: Path) -> None:
    write(tmp_path)
    with job(tmp_path).opened() as out:
        source, target = tmp_path / "new", tmp_path / "int8.onnx"
        source.write_text("new")
        target.write_text("of somebody")
        out.keep_only(())
        for change in (lambda: files.write_text(target, "x"), lambda: files.move(source, target)):
            with pytest.raises(UsageError, match="so it is not replaced"):
                change()
    assert contents(tmp_path) == {**dict.fromkeys((".cache/scores.npz", "ledger.jsonl"), "written"), "new": "new"} | {
        "int8.onnx": "of somebody"
    }


def test_results_of_an_earlier_run_are_removed_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "notes").write_text("of somebody")
    with job(tmp_path).opened() as out:
        out.keep_only([tmp_path / "int8.onnx"])
    assert contents(tmp_path).keys() == {"int8.onnx", ".cache/scores.npz", "ledger.jsonl", "notes"}
    assert not (tmp_path / "recovered").exists()  # which is empty now


def test_another_job_needs_force(tmp_path: Path) -> None:
    write(tmp_path, "abc")
    for run in (job(tmp_path, "xyz").check, lambda: write(tmp_path, "xyz")):
        with pytest.raises(UsageError, match=r"holds the results of another model \(abc.onnx\).* add force"):
            run()
    write(tmp_path, "xyz", "new", force=True)
    assert contents(tmp_path) == dict.fromkeys(ALL, "new")
    with pytest.raises(UsageError, match=r"another model \(xyz.onnx\)"):
        job(tmp_path, "abc").check()


def foreign_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("of somebody")


def foreign_file(folder: Path) -> None:
    (folder / ".cache").mkdir()
    (folder / ".cache" / "file").write_text("of somebody")


def foreign_link(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    (folder / ".cache").symlink_to("elsewhere")


def foreign_recovered(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "recovered").symlink_to("elsewhere")


@pytest.mark.parametrize(
    "make",
    [
        foreign_manifest,
        foreign_file,
        foreign_link,
        foreign_recovered,
        lambda x: (x / ".cache").mkdir(),
        lambda x: (x / ".cache").touch(),
    ],
)
def test_folders_of_someone_else_stay(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    before = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    for run in (job(tmp_path).check, lambda: write(tmp_path)):
        with pytest.raises(UsageError, match="Move it, or name another folder"):
            run()
    (tmp_path / LOCK).unlink()
    assert {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_manifest_that_lies_reaches_nothing_outside(tmp_path: Path) -> None:
    folder, victim = tmp_path / "out", tmp_path / "victim"
    write(folder)
    victim.write_text("of somebody")
    (folder / "link").symlink_to(tmp_path)
    names = ["a\0b/c", "../victim", str(victim), "link/victim", "recovered/../../victim"]
    lines = [
        {"file": name, "bytes": 11, "sha256": files.sha256(victim), "settings": "settings"}
        for name in (*names, ".cache/../../victim")
    ]
    with (folder / MANIFEST).open("a") as stream:
        stream.write("".join(json.dumps(line) + "\n" for line in lines))
    with job(folder).opened() as out:
        out.keep_only(())
        out.begin("other", resume=False)
    assert victim.read_text() == "of somebody"


@pytest.mark.parametrize(
    "content", [b"", bytes(60), b"null\n1\n[]\n{}\n", b'{"file": 3, "bytes": "a"}\n', b"[" * 10**5, b"\xff"], ids=len
)
def test_a_damaged_manifest_lists_nothing(content: bytes, tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / MANIFEST).write_bytes(content)
    kept = contents(tmp_path)
    with pytest.raises(UsageError, match="was not written by this program"):
        write(tmp_path)
    assert contents(tmp_path) == kept


def test_the_end_of_a_line_may_be_missing(tmp_path: Path) -> None:
    write(tmp_path)
    content = (tmp_path / MANIFEST).read_bytes()
    (tmp_path / MANIFEST).write_bytes(content + b'{"file": "int8.onnx", "byt')
    write(tmp_path, text="next")
    assert contents(tmp_path) == dict.fromkeys(ALL, "next")


HOLD = """
    import sys
    from pathlib import Path
    from hqp_onnx import files
    from hqp_onnx.out_folder import OutFolder
    with OutFolder(Path("out"), "abc", "abc.onnx", ("int8.onnx",)).opened() as out:
        with files.replacing(Path("out/int8.onnx")) as stream:
            stream.write(b"half")
            print("there", flush=True)
            sys.stdin.read()
    """


def test_two_runs_do_not_meet_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD)],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert first.stdout is not None and first.stdin is not None
    assert first.stdout.readline() == b"there\n"
    for run in (job(tmp_path / "out").check, lambda: write(tmp_path / "out")):
        with pytest.raises(UsageError, match="out: another run is writing there"):
            run()
    first.send_signal(signal.SIGKILL)
    first.communicate()
    (left,) = (tmp_path / "out").glob(files.TEMPORARY)
    write(tmp_path / "out")
    assert not left.exists()
    assert contents(tmp_path / "out") == dict.fromkeys(ALL, "written")


def test_within_a_process_too(tmp_path: Path) -> None:
    with job(tmp_path).opened(), pytest.raises(UsageError, match="another run is writing there"):
        write(tmp_path)
    write(tmp_path)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_lock_that_is_no_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / LOCK
    {"link": lambda: path.symlink_to("victim"), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir}[kind]()
    with pytest.raises(UsageError, match="which is not overwritten"):
        write(tmp_path)
    assert not (tmp_path / "victim").exists()


def test_a_folder_that_vanishes(tmp_path: Path) -> None:
    """Made again meanwhile, it is another one, and nothing is written there that the next run would not know."""
    folder = tmp_path / "out"
    for again, words in ((False, "there is no folder"), (True, "was removed, or a part of it, while a run")):
        with job(folder).opened():
            shutil.rmtree(folder)
            if again:
                folder.mkdir()
            with pytest.raises((FileError, UsageError), match=words):
                files.write_text(folder / "int8.onnx", "x")
        assert not [path for path in tmp_path.rglob("*") if path != folder]
    write(folder)
