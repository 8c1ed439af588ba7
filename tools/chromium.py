"""A headless Chromium that is asked over a pipe, as its DevTools protocol says: no driver, no package.

with Chromium(page) as browser:
    browser.view(390, dark=True)
    browser.value("document.title")
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe")
_READS, _WRITES = 3, 4  # descriptors of the browser's ends


def program() -> str | None:
    """The path of a Chromium: $CHROMIUM, or one that is installed."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """One page, opened."""

    def __init__(self, page: Path) -> None:
        self._stack, self._count, self._session, self._page = ExitStack(), 0, "", page

    def __enter__(self) -> Chromium:
        path = program()
        assert path is not None
        profile = self._stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        self._write, self._read = self._stack.enter_context(_running([path, *FLAGS, f"--user-data-dir={profile}"]))
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        self.call("Page.navigate", url=self._page.resolve().as_uri())
        self._wait("Page.loadEventFired")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a method of the protocol."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        self._write.write(
            json.dumps(message | ({"sessionId": self._session} if self._session else {})).encode() + b"\0"
        )
        self._write.flush()
        while (answer := self._next()).get("id") != self._count:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def view(self, width: int, media: str = "screen", dark: bool = False) -> None:
        """Show the page so wide, in that medium and colour scheme."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def value(self, expression: str) -> Any:
        """What JavaScript gives, as JSON."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["exception"]["description"])
        return found["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """Press a key, and let it go."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def _wait(self, event: str) -> None:
        while self._next().get("method") != event:
            pass

    def _next(self) -> dict[str, Any]:
        read = bytearray()
        while (byte := self._read.read(1)) != b"\0":
            if not byte:
                raise RuntimeError("Chromium has ended")
            read += byte
        message: dict[str, Any] = json.loads(read)
        return message


@contextmanager
def _running(command: list[str]) -> Iterator[tuple[Any, Any]]:
    """The browser's process: files to write to it and to read from it."""
    (its_in, ours_out), (ours_in, its_out) = os.pipe(), os.pipe()
    shell = f'exec {_READS}<&{its_in} {_WRITES}>&{its_out}; exec "$@"'
    process = subprocess.Popen(
        ["bash", "-c", shell, "chromium", *command],
        pass_fds=(its_in, its_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(its_in)
    os.close(its_out)
    try:
        with os.fdopen(ours_out, "wb") as write, os.fdopen(ours_in, "rb") as read:
            yield write, read
    finally:
        process.terminate()
        process.wait(timeout=20)
