"""Files: the one door through which everything is written, and the digests that identify what is read.

A file appears whole or not at all: it is written under an unpredictable name in the same folder, which must be new,
is brought to the disk, and is renamed. Links, devices, pipes and folders are never replaced. What the system refuses
(a full disk, a folder that vanished) is one ``FileError``; the old file stays, and no temporary one does, unless the
process is killed outright. A folder may have a ``Keeper``, which decides what is replaced there and learns what is
written.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import combinations
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias

import numpy as np

from hqp_onnx.arrays import Array
from hqp_onnx.errors import DataError, FileError, HqpError, UsageError

Names: TypeAlias = str | Path | Sequence[str | Path] | None
TEMPORARY = ".hqp-*.tmp"  # what a killed process may leave
_KINDS = ((stat.S_ISLNK, "a symbolic link"), (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"))


class Keeper(Protocol):
    """Of a folder that this program fills; see ``out_folder``."""

    def admit(self, path: Path) -> None:
        """Raise ``UsageError`` if the file ``path`` is there and may not be replaced."""

    def record(self, path: Path, content: Path) -> None:
        """``path`` is about to be a file with these contents."""


_keepers: dict[Path, Keeper] = {}  # by folder: in this process what the folder's lock is among processes


@contextmanager
def kept_by(folder: Path, keeper: Keeper) -> Iterator[None]:
    """Inside, ``keeper`` decides on all that this process writes in ``folder`` and in its folders."""
    key = folder.resolve()
    _keepers[key] = keeper
    try:
        yield
    finally:
        del _keepers[key]


def _keeper(path: Path) -> Keeper | None:
    folder = path.parent.resolve() if _keepers else path
    return next((_keepers[above] for above in (folder, *folder.parents) if above in _keepers), None)


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def fingerprint(path: Path | str) -> str:
    """Digest of a file's bytes, or of the names and bytes of a folder's files; ``FILE.py:name`` is its file."""
    file = _file(path)
    if file.is_file():
        return sha256(file)
    entries = sorted((str(p.relative_to(file)), sha256(p)) for p in file.rglob("*") if p.is_file())
    return hashlib.sha256(repr(entries).encode()).hexdigest()


def digest_of(*texts: str) -> str:
    """One digest of several; of a single one, that."""
    return texts[0] if len(texts) == 1 else hashlib.sha256("\n".join(texts).encode()).hexdigest()


def sha256_of(*texts: str) -> str:
    """Hex digest of texts."""
    return hashlib.sha256(repr(texts).encode()).hexdigest()


def json_text(value: object) -> str:
    """JSON with one key a line."""
    return json.dumps(value, indent=1) + "\n"


def read_bytes(path: Path) -> bytes:
    """What a regular file holds; ``FileError`` where it cannot be read."""
    if path.exists() and not path.is_dir():
        require_regular(path, "a file", FileError)
    with _failures(path, "read"):
        return path.read_bytes()


def read_text(path: Path) -> str:
    """The text in a UTF-8 file.

    Raises:
        FileError: it cannot be read, or is not text.
    """
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as e:
        raise FileError(f"{path}: is not text ({e.reason} at byte {e.start})") from e


def require_regular(path: Path, expected: str, error: type[HqpError] = DataError) -> None:
    """Raise ``error`` unless ``path`` is a regular file, or a link to one; a pipe or a device may never end.

    Args:
        path: to be read.
        expected: what it should be, as "an .onnx model".
        error: what to raise.

    Raises:
        FileError: the system does not say.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as e:
        raise error(f"{path}: no such file. Expected {expected}") from e
    except (OSError, ValueError) as e:
        raise FileError(f"{path}: cannot be read: {getattr(e, 'strerror', None) or e}") from e
    if not stat.S_ISREG(mode):
        kind = next((words for is_kind, words in _KINDS if is_kind(mode)), "a device or a socket")
        raise error(f"{path}: is {kind}. Expected {expected}")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A stream to a new file, which takes the place of ``path`` when the block ends, unless it raises.

    Raises:
        UsageError: ``path`` is there and no regular file, or its folder is not there.
        FileError: the system cannot write it.
    """
    require_replaceable(path)
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}. Make it first, or name another file")
    temporary = path.with_name(TEMPORARY.replace("*", secrets.token_hex(8)))
    keeper = _keeper(path)
    with _failures(path, "written"):
        if keeper is not None:
            keeper.admit(path)
        try:
            with temporary.open("xb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            if keeper is not None:
                keeper.record(path, temporary)
            temporary.replace(path)
        finally:
            with suppress(OSError):  # renamed already, or gone with its folder
                temporary.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file; errors as for ``replacing``."""
    with replacing(path) as stream:
        stream.write(content)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file; errors as for ``replacing``."""
    write_bytes(path, text.encode())


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write a .npz file of numeric arrays; errors as for ``replacing``."""
    with replacing(path) as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]  # numpy's types take any name for allow_pickle


def append_line(path: Path, line: str) -> None:
    """Add a line to a text file, on the disk when this returns.

    Raises:
        UsageError, FileError: as for ``replacing``.
    """
    require_replaceable(path)
    with _failures(path, "written"), path.open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def move(source: Path, target: Path) -> None:
    """Rename a file within a file system; errors as for ``replacing``."""
    require_replaceable(target)
    keeper = _keeper(target)
    with _failures(target, "written"):
        if keeper is not None:
            keeper.admit(target)
            keeper.record(target, source)
        source.replace(target)


def remove(path: Path) -> None:
    """Remove a file, or a link, where there is one; ``FileError`` where the system refuses."""
    with _failures(path, "removed"):
        path.unlink(missing_ok=True)


def remove_empty(folder: Path) -> None:
    """Remove a folder with nothing in it; one that holds something stays."""
    with suppress(OSError):
        folder.rmdir()


def make_folder(folder: Path, parents: bool = True) -> None:
    """Make a folder and, with ``parents``, those above it, where they are not there.

    Inside a folder that is kept (``kept_by``), those above are not made: it was removed if they are missing.

    Raises:
        FileError: the system refuses, or a file has that name.
    """
    with _failures(folder, "made"):
        folder.mkdir(parents=parents and _keeper(folder) is None, exist_ok=True)


def require_replaceable(path: Path) -> None:
    """Raise ``UsageError`` if ``path`` is there and no regular file; links are not followed."""
    with _failures(path, "written"):
        mode = path.lstat().st_mode if os.path.lexists(path) else stat.S_IFREG
    if not stat.S_ISREG(mode):
        kind = next((words for is_kind, words in _KINDS if is_kind(mode)), "a device or a socket")
        raise UsageError(f"{path}: is {kind}, which is not overwritten. Name another file")


def forbid_overlap(outputs: Mapping[str, Names], inputs: Mapping[str, Names]) -> None:
    """Refuse, before any work, outputs that are inputs or one another, under whatever names, or cannot be replaced.

    Args:
        outputs: files to write, by the argument that names them.
        inputs: what is read, in words ("the input model", "the file of {--ledger}"): files and folders, or
            ``FILE.py:name``.

    Raises:
        UsageError: an output is one of the inputs, lies in a folder that is one, is another output, or is there and no
            regular file.
    """
    written = [(argument, path) for argument, names in outputs.items() for path in paths_of(names)]
    read = [(words, path) for words, names in inputs.items() for path in paths_of(names) if path.exists()]
    for argument, path in written:
        for words, source in read:
            if path.exists() and (source.samefile(path) or source.resolve() in path.resolve().parents):
                raise UsageError(f"{{--{argument}}} {path} is {words}: choose another file")
        require_replaceable(path)
    for (first, one), (second, other) in combinations(written, 2):
        if one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other)):
            raise UsageError(f"{{--{second}}} {other} is the file of {{--{first}}}, too: choose another file")


def paths_of(names: Names) -> Iterable[Path]:
    """The files and folders that ``names`` means."""
    if names is None:
        return ()
    return map(_file, [names] if isinstance(names, (str, Path)) else names)


def _file(name: str | Path) -> Path:
    """The path itself, or the script of ``FILE.py:name``."""
    script, found, _ = str(name).partition(".py:")
    return Path(script + ".py") if found else Path(name)


@contextmanager
def _failures(path: Path, verb: str) -> Iterator[None]:
    """Turn what the system refuses into one line."""
    try:
        yield
    except OSError as e:
        raise FileError(f"{path}: cannot be {verb}: {e.strerror or e}") from e
