"""OUT: a folder that this program fills, and which files it may replace there.

    OUT/.hqp.jsonl    the manifest: whose results these are, and name, size and digest of each file that was written
    OUT/.hqp.lock     held by the run that writes; the system releases it when the process ends, in whatever way
    OUT/.cache/       working state, with ledger.jsonl: this program's alone

A file is ours if the manifest has its name, size and digest. What someone else put there or edited since is neither
replaced nor removed: a run that would have to do so ends before any work. A file is listed before it is renamed into
its place, so a process that is killed in between leaves none of its own unlisted.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from hqp_onnx import files
from hqp_onnx.errors import FileError, UsageError

MANIFEST, LOCK, STATE, LEDGER = ".hqp.jsonl", ".hqp.lock", ".cache", "ledger.jsonl"
_PATIENCE = 10  # tries in half a second: another run may just be checking
log = logging.getLogger(__name__)

if sys.platform == "win32":
    import msvcrt

    def _take(stream: BinaryIO) -> None:
        """Lock a file that stays open, or raise ``OSError`` at once."""
        msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _take(stream: BinaryIO) -> None:
        """Lock a file that stays open, or raise ``OSError`` at once."""
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


class OutFolder:
    """One job's view of its folder; changed by ``opened`` alone.

    Args:
        folder: need not be there.
        job: digest of what the results are of, the input model.
        model: the same in words.
        names: of the files that the job may write, relative to ``folder``.
        force: whether the results of another job may be replaced.
    """

    def __init__(self, folder: Path, job: str, model: str, names: Collection[str] = (), force: bool = False) -> None:
        self.folder, self.state = folder, folder / STATE
        self._job, self._model, self._names, self._force = job, model, names, force
        self._settings = ""
        self._listed: dict[str, dict[tuple[int, str], str]] = {}

    def check(self) -> None:
        """Raise ``UsageError`` if another run is at work there, or what is there is another job's or someone else's.

        Nothing is written.
        """
        if (self.folder / LOCK).exists():
            with self._lock():
                pass
        self._read()

    @contextmanager
    def opened(self) -> Iterator[OutFolder]:
        """Make, check and lock the folder: inside, files there are replaced by these rules, and listed.

        Raises:
            UsageError: as for ``check``.
            FileError: the system refuses.
        """
        files.make_folder(self.folder)
        with self._lock(_PATIENCE):
            lines = self._read()
            self._remove_temporaries()
            text = "".join(json.dumps(line) + "\n" for line in lines)
            files.write_text(self.folder / MANIFEST, text)
            files.make_folder(self.state, parents=False)
            with files.kept_by(self.folder, self):
                yield self

    def admit(self, path: Path) -> None:
        """See ``files.Keeper``."""
        if os.path.lexists(path) and not self._is_ours(path):
            raise UsageError(
                f"{path}: was not written by this program, or has changed since, so it is not replaced. Move it, or "
                "name another folder"
            )

    def record(self, path: Path, content: Path) -> None:
        """See ``files.Keeper``; ``FileError`` where the manifest is gone, so that no file is left unlisted."""
        if not (self.folder / MANIFEST).is_file():
            raise FileError(f"{self.folder}: was removed, or a part of it, while a run was writing there")
        name, size, digest = self._name(path), content.stat().st_size, files.sha256(content)
        self._listed.setdefault(name, {})[size, digest] = self._settings
        files.append_line(self.folder / MANIFEST, json.dumps(_entry(name, size, digest, self._settings)))

    def keep_only(self, paths: Collection[Path]) -> None:
        """Remove the other results that the manifest lists, those of earlier runs; working state stays."""
        kept = {self._name(path) for path in paths}
        for name in self._listed:
            path = self.folder / name
            if name not in kept and not _is_state(name) and path.is_file() and self._is_ours(path):
                files.remove(path)
                if path.parent.resolve() != self.folder.resolve():
                    files.remove_empty(path.parent)

    def begin(self, settings: str, resume: bool) -> None:
        """What is listed from here on is of these ``settings``, a digest; so is the working state, once this returns.

        State of other settings, and what is damaged, is removed; without ``resume``, all is.
        """
        self._settings = settings
        damaged = 0
        for path in self._inside_state():
            found = self._listed.get(self._name(path), {}).get(_identity(path)) if resume else None
            if found != settings:
                files.remove(path)
                damaged += resume and found is None
        if damaged:
            log.warning("%d damaged files in %s are made again", damaged, self.state)

    def _read(self) -> list[Mapping[str, Any]]:
        """Read the manifest and hold the folder to it; returns the lines to go on with."""
        owner, listed = _parsed(self.folder / MANIFEST)
        self._listed = {name: versions for name, versions in listed.items() if self._is_inside(name)}
        for path in (self.state, *((self.folder / name).parent for name in self._names)):
            if path != self.folder and os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
                raise UsageError(
                    f"{path}: is a link or a file, where a folder is written. Move it, or name another folder"
                )
        for path in (*self._inside_state(), *(self.folder / name for name in self._names)):
            self.admit(path)
        if owner is not None and owner.get("job") != self._job and not self._force:
            raise UsageError(
                f"{self.folder}: holds the results of another model ({owner.get('model')}). Name another folder, or "
                "add {--force} to replace them"
            )
        for path in (self.folder / MANIFEST, self.state):
            if owner is None and os.path.lexists(path):
                raise UsageError(f"{path}: was not made by this program. Move it, or name another folder")
        entries = [
            _entry(name, *identity, settings)
            for name, versions in self._listed.items()
            for identity, settings in versions.items()
            if (self.folder / name).is_file() and (_is_state(name) or _identity(self.folder / name) == identity)
        ]
        return [{"job": self._job, "model": self._model}, *entries]

    def _is_ours(self, path: Path) -> bool:
        name = self._name(path)
        if _is_state(name) or not path.is_file() or path.is_symlink():
            return name in self._listed
        return _identity(path) in self._listed.get(name, ())

    def _name(self, path: Path) -> str:
        return (path.parent.resolve() / path.name).relative_to(self.folder.resolve()).as_posix()

    def _is_inside(self, name: str) -> bool:
        """Whether a name is of a file in the folder, and not above it or behind a link: a manifest may lie."""
        try:
            return (self.folder / name).parent.resolve().is_relative_to(self.folder.resolve())
        except ValueError:  # a name that no system takes
            return False

    def _inside_state(self) -> list[Path]:
        found = sorted(path for path in self.state.glob("**/*") if path.is_symlink() or not path.is_dir())
        return [path for path in found if not path.match(files.TEMPORARY)]

    def _remove_temporaries(self) -> None:
        """Those of runs that were killed: nobody else writes here while the lock is held."""
        for folder in {self.folder, self.state, *((self.folder / name).parent for name in self._names)}:
            for path in folder.glob(files.TEMPORARY):
                if stat.S_ISREG(path.lstat().st_mode):
                    files.remove(path)

    @contextmanager
    def _lock(self, tries: int = 1) -> Iterator[None]:
        path = self.folder / LOCK
        files.require_replaceable(path)
        try:
            stream = path.open("ab")
        except OSError as e:
            raise FileError(f"{path}: cannot be written: {e.strerror or e}") from e
        with stream:
            self._take(stream, tries)
            yield

    def _take(self, stream: BinaryIO, tries: int) -> None:
        for left in reversed(range(tries)):
            try:
                _take(stream)
            except (BlockingIOError, PermissionError) as e:  # the second on Windows
                if not left:
                    raise UsageError(
                        f"{self.folder}: another run is writing there. Wait until it ends, or name another folder"
                    ) from e
                time.sleep(0.05)
                continue
            except OSError as e:
                log.warning("%s: its file system has no locks (%s): start no second run there", self.folder, e)
            return


@contextmanager
def revised(folder: Path) -> Iterator[None]:
    """Inside, files are written as by the job whose results ``folder`` holds; without a manifest, as anywhere.

    Raises:
        UsageError, FileError: as for ``OutFolder.opened``.
    """
    owner, _ = _parsed(folder / MANIFEST)
    if owner is None:
        yield
        return
    with OutFolder(folder, str(owner.get("job")), str(owner.get("model"))).opened():
        yield


def _entry(name: str, size: int, digest: str, settings: str) -> dict[str, Any]:
    return {"file": name, "bytes": size, "sha256": digest, "settings": settings}


def _identity(path: Path) -> tuple[int, str]:
    """Size and digest; none that a manifest holds for what is no regular file."""
    regular = stat.S_ISREG(path.lstat().st_mode)
    return (path.stat().st_size, files.sha256(path)) if regular else (-1, "")


def _is_state(name: str) -> bool:
    return name == LEDGER or name.startswith(f"{STATE}/")


def _parsed(path: Path) -> tuple[Mapping[str, Any] | None, dict[str, dict[tuple[int, str], str]]]:
    """Whose folder it is, None if nobody's, and what it lists; lines that are damaged list nothing."""
    owner, listed = None, dict[str, dict[tuple[int, str], str]]()
    if not path.is_file() or path.is_symlink():
        return None, listed
    for line in path.read_bytes().split(b"\n"):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(value, dict):
            continue
        if "job" in value:
            owner = value
        name, size, digest, settings = (value.get(key) for key in ("file", "bytes", "sha256", "settings"))
        if isinstance(name, str) and isinstance(size, int) and isinstance(digest, str) and isinstance(settings, str):
            listed.setdefault(name, {})[size, digest] = settings
    return owner, listed
