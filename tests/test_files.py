"""The door through which files are written: whole or not at all, never over a link, a device or an input."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hqp_onnx import files
from hqp_onnx.errors import FileError, UsageError

WRITERS: dict[str, Callable[[Path], None]] = {
    "bytes": lambda path: files.write_bytes(path, b"new" * 100_000),
    "text": lambda path: files.write_text(path, "new\n" * 100_000),
    "arrays": lambda path: files.write_arrays(path, {"x": np.arange(100_000), "y": np.float32(1)}),
}


@pytest.fixture(params=WRITERS)
def write(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    """Each writer in turn."""
    return WRITERS[request.param]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_written_is_read(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a", "ü\n")
    assert (tmp_path / "a").read_bytes() == "ü\n".encode()
    assert files.read_text(tmp_path / "a") == "ü\n"
    files.write_bytes(tmp_path / "a", b"\xff\x00")
    assert (tmp_path / "a").read_bytes() == b"\xff\x00"
    files.write_arrays(tmp_path / "b.npz", {"x": np.arange(3), "filter/w": np.float32([0.1])})
    with np.load(tmp_path / "b.npz") as found:
        assert found.files == ["x", "filter/w"]
        assert found["x"].tolist() == [0, 1, 2] and found["filter/w"].dtype == np.float32
    files.append_line(tmp_path / "c", "1")
    files.append_line(tmp_path / "c", "2")
    assert (tmp_path / "c").read_text() == "1\n2\n"
    assert names(tmp_path) == ["a", "b.npz", "c"]


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"abc\xff")
    for path, words in (
        (tmp_path / "nowhere", "nowhere: cannot be read: No such file or directory$"),
        (tmp_path, "cannot be read: Is a directory$"),
        (tmp_path / "b", "b: is not text .* at byte 3"),
    ):
        with pytest.raises(FileError, match=words):
            files.read_text(path)


def test_the_umask_decides_who_may_read(tmp_path: Path, write: Callable[[Path], None]) -> None:
    for mask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        before = os.umask(mask)
        try:
            write(tmp_path / "file")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("devices are made by root only")


def bound(path: Path) -> None:
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as listener:  # names of 108 bytes
        listener.bind(f"{short}/s")
        Path(f"{short}/s").rename(path)


SPECIAL: dict[str, tuple[Callable[[Path], object], str]] = {
    "link": (lambda path: path.symlink_to("target"), "a symbolic link"),
    "dangling": (lambda path: path.symlink_to("nowhere"), "a symbolic link"),
    "loop": (lambda path: path.symlink_to(path), "a symbolic link"),
    "folder": (lambda path: path.mkdir(), "a folder"),
    "pipe": (os.mkfifo, "a pipe"),
    "device": (device, "a device or a socket"),
    "socket": (bound, "a device or a socket"),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_only_regular_files_are_replaced(kind: str, tmp_path: Path, write: Callable[[Path], None]) -> None:
    make, words = SPECIAL[kind]
    (tmp_path / "target").write_text("old")
    make(tmp_path / "file")
    before = (tmp_path / "file").lstat()
    for change in (write, lambda path: files.append_line(path, "x"), lambda p: files.move(tmp_path / "target", p)):
        with pytest.raises(UsageError, match=f"file: is {words}, which is not overwritten. Name another file"):
            change(tmp_path / "file")
    after = (tmp_path / "file").lstat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert (tmp_path / "target").read_text() == "old"
    assert names(tmp_path) == ["file", "target"]


def test_a_second_name_of_a_file_keeps_what_it_had(tmp_path: Path, write: Callable[[Path], None]) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "other").hardlink_to(tmp_path / "file")
    write(tmp_path / "file")
    assert (tmp_path / "other").read_text() == "old"


def test_no_planted_name_is_followed(tmp_path: Path, write: Callable[[Path], None]) -> None:
    (tmp_path / "victim").write_text("old")
    for guess in (".file.tmp", "file.tmp", "file.partial"):
        (tmp_path / guess).symlink_to("victim")
    write(tmp_path / "file")
    assert (tmp_path / "victim").read_text() == "old"


def test_temporary_names_are_new_each_time_and_made_exclusively(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, real = [], Path.open

    def opened(self: Path, mode: str = "r", *rest: object, **more: object) -> object:
        seen.append((self.parent, self.name, mode))
        return real(self, mode, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", opened)
    for _ in range(3):
        files.write_bytes(tmp_path / ("n" * 250), b"")  # as long as names may be, nearly
    assert {(parent, mode) for parent, _, mode in seen} == {(tmp_path, "xb")}
    assert len({name for _, name, _ in seen}) == 3


def test_a_folder_that_is_not_there(tmp_path: Path, write: Callable[[Path], None]) -> None:
    (tmp_path / "plain").write_text("")
    for folder in ("nowhere", "plain"):
        with pytest.raises(UsageError, match=f"there is no folder .*{folder}. Make it first"):
            write(tmp_path / folder / "file")
    with pytest.raises(FileError, match="plain: cannot be made: File exists"):
        files.make_folder(tmp_path / "plain")
    files.make_folder(tmp_path / "a" / "b")
    files.make_folder(tmp_path / "a" / "b")
    write(tmp_path / "a" / "b" / "file")


def refused(number: int) -> Callable[..., object]:
    def refuse(*_: object) -> object:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_what_the_system_refuses_leaves_the_old_file(
    call: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]
) -> None:
    (tmp_path / "file").write_text("old")
    with monkeypatch.context() as patched:
        patched.setattr(os if call == "fsync" else Path, call, refused(number))
        with pytest.raises(FileError, match=f"file: cannot be written: {os.strerror(number)}$"):
            write(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(small_disk: Path, write: Callable[[Path], None]) -> None:
    (small_disk / "file").write_text("old")
    with pytest.raises(FileError, match="file: cannot be written: No space left on device"):
        write(small_disk / "file")
    assert (small_disk / "file").read_text() == "old"
    assert names(small_disk) == ["file"]


def test_a_full_device_without_a_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full refuses every byte, as a full disk does, when the buffers are written."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    real = Path.open

    def opened(self: Path, mode: str) -> object:
        real(self, mode).close()
        return real(Path("/dev/full"), "wb")

    monkeypatch.setattr(Path, "open", opened)
    for name, write in WRITERS.items():
        with pytest.raises(FileError, match=f"{name}: cannot be written: No space left on device"):
            write(tmp_path / name)
    assert names(tmp_path) == []


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder that may only be read; root, whom modes do not bind, is nobody meanwhile."""
    folder, root = Path(tempfile.mkdtemp(dir="/tmp")), os.geteuid() == 0  # pytest's own are closed to others
    (folder / "file").write_text("old")
    folder.chmod(0o555)
    if root:
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_folder_that_may_only_be_read(read_only: Path, write: Callable[[Path], None]) -> None:
    for name in ("file", "new"):
        with pytest.raises(FileError, match=f"{name}: cannot be written: Permission denied"):
            write(read_only / name)
    assert names(read_only) == ["file"] and (read_only / "file").read_text() == "old"


def test_a_read_only_file_system(write: Callable[[Path], None]) -> None:
    folder = Path("/proc/sys")
    if not folder.is_dir():
        pytest.skip("no /proc")
    with pytest.raises(FileError, match="hqp_file: cannot be written: "):
        write(folder / "hqp_file")


def test_a_folder_that_vanishes_meanwhile(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(FileError, match="file: cannot be written: No such file or directory"):  # noqa: SIM117
        with files.replacing(folder / "file") as stream:
            stream.write(b"new")
            shutil.rmtree(folder)
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), ValueError(), UsageError("no")], ids=repr)
def test_whatever_ends_the_block_leaves_the_old_file(error: BaseException, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(type(error)), files.replacing(tmp_path / "file") as stream:
        stream.write(b"new")
        raise error
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_killed_between_write_and_rename_the_old_file_is_whole(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    code = """
        import os, signal
        from pathlib import Path
        from hqp_onnx import files
        Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        files.write_bytes(Path("file"), b"new" * 100_000)
        """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert (tmp_path / "file").read_text() == "old"
    (left,) = (path for path in tmp_path.iterdir() if path.name != "file")  # nothing can remove it: whole, and hidden
    assert left.name.startswith(".") and left.read_bytes() == b"new" * 100_000
    files.write_bytes(tmp_path / "file", b"next")
    assert (tmp_path / "file").read_bytes() == b"next"


def test_an_output_is_no_input_under_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model, other = Path("model.onnx"), Path("other")
    model.write_text("model")
    Path("photos").mkdir()
    Path("photos", "1.png").write_text("picture")
    Path("hard").hardlink_to(model)
    Path("soft").symlink_to(model)
    Path("folder").symlink_to(".")
    Path("load.py").write_text("")
    inputs = {"the input model": model, "DATA": "photos", "the script": "load.py:load", "the teacher": None}
    for same in (
        model,
        tmp_path / model,
        Path("photos/../model.onnx"),
        Path("hard"),
        Path("soft"),
        Path("folder", model),
    ):
        with pytest.raises(UsageError, match=r"^output .* is the input model: choose another file$"):
            files.forbid_overlap({"ledger": None, "output": same}, inputs)
    for path, words in (("photos/1.png", "is DATA"), ("photos", "is DATA"), ("load.py", "is the script")):
        with pytest.raises(UsageError, match=f"^ledger {path} {words}: "):
            files.forbid_overlap({"output": other, "ledger": Path(path)}, inputs)
    files.forbid_overlap({"output": other, "ledger": Path("photos", "new.json"), "json_file": None}, inputs)
    with pytest.raises(UsageError, match="output hard is the parts"):
        files.forbid_overlap({"output": Path("hard")}, {"the parts": [other, model]})


def test_an_output_is_no_other_output_and_can_be_written(tmp_path: Path) -> None:
    new = tmp_path / "new"
    for _ in range(2):  # not there, and there
        with pytest.raises(UsageError, match=r"ledger .*new is the file of output, too: choose another file"):
            files.forbid_overlap({"output": new, "ledger": tmp_path / "." / ".." / tmp_path.name / "new"}, {})
        new.write_text("")
    with pytest.raises(UsageError, match="is a folder, which is not overwritten"):
        files.forbid_overlap({"output": tmp_path}, {})
