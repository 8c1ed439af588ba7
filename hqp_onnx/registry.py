"""Named extensions of one kind: our own, those of installed packages, and functions in a user's file.

    registry.get("fisher")           registered here, by a decorator beside its kin
    registry.get("magnitude")        named by an entry point of an installed package, in the registry's group
    registry.get("mine.py:rank")     the name `rank` of a file, imported from there

Entry points are listed without being imported; one is imported when it is asked for. This module is the only one that
runs code that a name points to, and knows whose it is: ``culprit`` says which of them an exception came from.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from hqp_onnx.counts import article
from hqp_onnx.errors import INTERRUPTIONS, HqpError, UsageError, one_line

T = TypeVar("T")
_FOREIGN: dict[str, str] = {}  # absolute files and folders (with a separator at the end) of code from outside -> name


class Registry(Generic[T]):
    """Extensions by name.

    Args:
        noun: what one is called in errors, as "metric".
        group: of entry points, as "hqp_onnx.metrics".
        check: what an extension of a package or a file must satisfy.
        files: whether a name may be ``FILE.py:name``.
        also: further forms of names that the owner takes apart himself, for errors.
    """

    def __init__(
        self,
        noun: str,
        group: str,
        check: Callable[[Any], bool] = callable,
        files: bool = True,
        also: tuple[str, ...] = (),
    ) -> None:
        self.noun, self.group, self.also = noun, group, also
        self._check, self._files = check, files
        self._own: dict[str, T] = {}
        self._loaded: dict[str, T] = {}

    def register(self, *names: str) -> Callable[[T], T]:
        """A decorator that registers what it decorates; a name that is taken raises ``ValueError``."""

        def decorate(extension: T) -> T:
            for name in names:
                if name in self._own:
                    raise ValueError(f"a second {self.noun} '{name}'")
                self._own[name] = extension
            return extension

        return decorate

    @property
    def own(self) -> tuple[str, ...]:
        """Names of our own, in order of registration."""
        return tuple(self._own)

    @property
    def names(self) -> tuple[str, ...]:
        """Of our own, in order of registration, then of installed packages."""
        return (*self._own, *(name for name in self._installed if name not in self._own))

    def find(self, name: str) -> T | None:
        """The extension of that name, or None; our own come first.

        Raises:
            UsageError: an installed extension cannot be imported, is not of this kind, or shares its name with another.
        """
        if name in self._own:
            return self._own[name]
        if name not in self._loaded and name in self._installed:
            if len(givers := sorted(set(map(_package, self._installed[name])))) > 1:
                raise UsageError(f"{self.noun} '{name}' comes from {' and '.join(givers)}: remove all but one of them")
            self._loaded[name] = self._load(self._installed[name][-1])
        return self._loaded.get(name)

    def get(self, name: str) -> T:
        """The extension of that name, or the object that ``FILE.py:name`` names.

        Raises:
            UsageError: neither, or the file cannot be imported.
        """
        value = self.find(name)
        if value is not None:
            return value
        if self._files and is_file_name(name):
            return self._checked(load_from_file(name), name)
        known = ", ".join((*self.names, *self.also))
        others = ", or FILE.py:name" if self._files else ""
        raise UsageError(f"unknown {self.noun} '{name}': expected one of {known}{others}")

    @cached_property
    def _installed(self) -> dict[str, list[EntryPoint]]:
        """Entry points by name: more than one if several packages chose it."""
        named: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=self.group):
            named.setdefault(point.name, []).append(point)
        return named

    def _load(self, point: EntryPoint) -> T:
        package = _package(point)
        with outside_code(f"{self.noun} '{point.name}' of {package} cannot be imported"):
            value = point.load()
        root = sys.modules[point.module.partition(".")[0]]
        folders = [f"{folder}{os.sep}" for folder in getattr(root, "__path__", ())]
        _FOREIGN.update(dict.fromkeys(folders or [str(getattr(root, "__file__", ""))], package))
        return self._checked(value, f"{point.name}' of '{package}")

    def _checked(self, value: Any, name: str) -> T:
        if not self._check(value):
            what = "class without the methods of one" if isinstance(value, type) else type(value).__name__
            raise UsageError(f"'{name}' is no {self.noun}: it is {article(what)}")
        return cast(T, value)


def foreign(file: Path) -> None:
    """Let ``culprit`` know a user's file that is run elsewhere."""
    _FOREIGN[str(file.absolute())] = str(file)


@contextmanager
def outside_code(what: str, error: type[HqpError] = UsageError) -> Iterator[None]:
    """Whatever code from outside raises in this block, as ``error`` of one line, with where; interruptions pass.

    Args:
        what: it was, as "metric 'mine.py:f' failed".
        error: what to raise.
    """
    try:
        yield
    except (HqpError, *INTERRUPTIONS):
        raise
    except BaseException as e:
        place = culprit(e)
        raise error(f"{what}: {type(e).__name__}: {one_line(e)}" + (f" ({place})" if place else "")) from e


def culprit(error: BaseException) -> str | None:
    """The innermost line of a user's file or an installed extension that ``error`` came from; None for ours."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = str(Path(frame.filename).absolute())
        for place, name in _FOREIGN.items():
            if file == place or (place.endswith(os.sep) and file.startswith(place)):
                where = name if file == str(Path(name).absolute()) else f"{name} ({Path(file).name})"
                return f"{where}, line {frame.lineno}"
    return None


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an installed package"


def is_file_name(name: str) -> bool:
    """Whether a name is of the form ``FILE.py:name``, with or without a number behind it."""
    _, _, attribute = name.partition(".py:")
    return bool(attribute)


def load_from_file(name: str) -> Any:
    """The object that ``FILE.py:name`` names.

    Raises:
        UsageError: no such file or name, or the file cannot be imported.
    """
    path, _, attribute = name.rpartition(":")
    file = Path(path)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise UsageError(f"{file}: no such file")
    module = importlib.util.module_from_spec(spec)
    foreign(file)
    with outside_code(f"{file}: cannot be imported"):
        spec.loader.exec_module(module)
    if not hasattr(module, attribute):
        raise UsageError(f"{file}: no function '{attribute}'")
    return getattr(module, attribute)
