"""What times models, here and on boards. Sent to a board, this file is all that ``hqp`` runs there.

As a script it reads one request a line, JSON, and answers each with a line that begins with ``hqp:``, so what others
print does not count. Requests say all that they need: a connection that was lost is opened again, and the request is
made again. Models and inputs are files beside the script, named by their SHA-256; the answer to a request for one that
is not there, or not whole, is its name.

Needs Python 3.6 or later, numpy, and an onnxruntime of any age; nothing else of this package.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MARK = "hqp:"
CPU = "CPUExecutionProvider"
SPIN_MICROSECONDS = "1000"
_LOOK_SECONDS = 0.001  # at process time, which stands still at rest
_PATIENCE_SECONDS = 0.5
_STALE_SECONDS = 24 * 3600.0
_BUSY_SECONDS = 90.0  # that the script of a lost connection may take to notice
_KERNEL = "_kernel_time"


def timed(
    run: "Callable[[], object]", settle: float, seconds: float, fewest: int, most: int, rest: bool = False
) -> "list[float]":
    """Seconds of each of some runs back to back: for ``seconds``, but so many at least and at most.

    ``rest`` waits first until no thread of this process computes. Runs of the first ``settle`` seconds do not count:
    they find cold caches and sleeping threads.
    """
    if rest:
        _rest()
    if settle:
        end = time.perf_counter() + settle
        while True:
            run()
            if time.perf_counter() > end:
                break
    times = []  # type: list[float]
    end = time.perf_counter() + seconds
    while len(times) < fewest or (len(times) < most and time.perf_counter() < end):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def _rest() -> None:
    """Wait until no thread of this process computes, but not for ever: the process may have other work."""
    end = time.perf_counter() + _PATIENCE_SECONDS
    while time.perf_counter() < end:
        before = time.process_time()
        time.sleep(_LOOK_SECONDS)
        if time.process_time() - before < _LOOK_SECONDS / 4:
            return


def quiet_options(ort: Any, threads: int, spin: bool) -> Any:
    """SessionOptions for so many threads that, between runs, spin for 1 ms at most, or sleep at once."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors are raised, and need no second print
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_MICROSECONDS)
    if not spin:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def profiled(
    ort: Any, source: "bytes | str", feeds: "dict[str, Any]", providers: "list[Any]", threads: int, runs: int
) -> "dict[str, tuple[list[float], list[list[int]]]]":
    """By name as onnxruntime's profiler has it, in the order in which they run: seconds of each call, and shapes."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads, options.enable_profiling = 4, threads, True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(source, options, providers=providers)
        for _ in range(runs):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    found = {}  # type: dict[str, tuple[list[float], list[list[int]]]]
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            said = event.get("args", {})
            listed = [*said.get("input_type_shape", ()), *said.get("output_type_shape", ())]
            shapes = [list(shape) for one in listed for shape in one.values()]
            times, _ = found.get(event["name"][: -len(_KERNEL)], ([], shapes))
            found[event["name"][: -len(_KERNEL)]] = [*times, event["dur"] / 1e6], shapes
    return found


class MissingFileError(Exception):
    """A file is not here, or not whole; the message is its name."""


class Bench:
    """Answers requests; each of its public methods is one.

    Args:
        folder: where models and inputs are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs = {}  # type: dict[tuple[Any, ...], Callable[[], object]]

    def facts(self, provider: str) -> "dict[str, Any]":
        """What this board is, and what runs models on it."""
        import onnxruntime as ort

        if provider not in ort.get_available_providers():
            raise RuntimeError(f"its onnxruntime has no {provider}, only {_listed(ort)}")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return {
            "onnxruntime": ort.__version__,
            "python": platform.python_version(),
            "system": platform.platform(terse=True),
            "machine": platform.machine(),
            "processor": _processor(),
            "cores": cores,
            "flags": _flags(),
            "state": [_said("/etc/machine-id"), _said("/proc/device-tree/serial-number"), _speed(), _power_mode()],
        }

    def turn(
        self, of: "dict[str, Any]", settle: float, seconds: float, fewest: int, most: int, rest: bool
    ) -> "list[float]":
        """Seconds of runs, see ``timed``; ``of``: model, feeds, provider, threads, spin."""
        return timed(self._run(**of), settle, seconds, fewest, most, rest)

    def profile(self, of: "dict[str, Any]", runs: int) -> "list[Any]":
        """Names, seconds of each call and shapes of a model's kernels."""
        import onnxruntime as ort

        model, feeds = str(self._file(of["model"])), self._arrays(of["feeds"])
        found = profiled(ort, model, feeds, _providers(of["provider"]), of["threads"], runs)
        return [[name, times, shapes] for name, (times, shapes) in found.items()]

    def forget(self, models: "list[str]") -> None:
        """Close models and remove their files."""
        self._runs = {key: run for key, run in self._runs.items() if key[0] not in models}
        for name in models:
            if (self._folder / name).is_file():
                (self._folder / name).unlink()

    def end(self) -> None:
        """Remove the folder."""
        self._runs = {}
        shutil.rmtree(str(self._folder), ignore_errors=True)

    def _run(self, model: str, feeds: str, provider: str, threads: int, spin: bool) -> "Callable[[], object]":
        key = (model, feeds, provider, threads, spin)
        if key not in self._runs:
            import onnxruntime as ort

            source, values = str(self._file(model)), self._arrays(feeds)
            options = quiet_options(ort, threads, spin)
            session = ort.InferenceSession(source, options, providers=_providers(provider))
            self._runs[key] = lambda: session.run(None, values)
        return self._runs[key]

    def _arrays(self, name: str) -> "dict[str, Any]":
        import numpy as np

        with np.load(str(self._file(name))) as arrays:
            names, *values = [arrays[f"arr_{number}"] for number in range(len(arrays.files))]
        texts = [x.astype(object) if x.dtype.kind == "U" else x for x in values]
        return {str(key): texts[number] for number, key in enumerate(names)}

    def _file(self, name: str) -> Path:
        path = self._folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != name:
            raise MissingFileError(name)
        return path


def _providers(provider: str) -> "list[str]":
    return [provider] if provider == CPU else [provider, CPU]


def _listed(ort: Any) -> str:
    return ", ".join(ort.get_available_providers())


def _said(path: str) -> str:
    """What a small file of the system says; empty where it is not there."""
    try:
        return Path(path).read_text(errors="replace").strip("\x00\n ")
    except OSError:
        return ""


def _processor() -> str:
    lines = _said("/proc/cpuinfo").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.lower().startswith(("model name", "hardware"))]
    return _said("/proc/device-tree/model") or (names[0] if names else platform.processor() or platform.machine())


def _flags() -> "list[str]":
    """What the processor can do, as /proc/cpuinfo lists it."""
    lines = _said("/proc/cpuinfo").splitlines()
    return next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])


def _speed() -> "list[str]":
    folder = "/sys/devices/system/cpu/cpu0/cpufreq/"
    return [_said(folder + name) for name in ("scaling_governor", "scaling_max_freq")]


def _power_mode() -> str:
    """A Jetson's, which decides its clocks."""
    if not shutil.which("nvpmodel"):
        return ""
    said = subprocess.run(["nvpmodel", "-q"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return said.stdout.decode(errors="replace").strip()


def answer(bench: Bench, request: "dict[str, Any]") -> "dict[str, Any]":
    """To one request."""
    try:
        return {"ok": getattr(bench, request.pop("do"))(**request)}
    except MissingFileError as e:
        return {"missing": str(e)}
    except ImportError as e:
        return {"needs": str(e.name), "python": f"{sys.executable} {platform.python_version()}"}
    except Exception as e:  # noqa: BLE001 - onnxruntime's own exception types are many and undocumented
        return {"error": str(e) or type(e).__name__}


def main() -> None:
    """Answer the requests on stdin, in the folder of this file, as the only one of this user's that measures."""
    folder = Path(__file__).resolve().parent
    lock = _locked(folder.parent / "lock")
    for other in folder.parent.iterdir():  # of a connection that never came back
        if other.is_dir() and other != folder and time.time() - other.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(str(other), ignore_errors=True)
    bench = Bench(folder)
    for line in sys.stdin:
        said = answer(bench, json.loads(line)) if lock else {"error": "another hqp measures there now"}
        sys.stdout.write("\n" + MARK + json.dumps(said) + "\n")
        sys.stdout.flush()


def _locked(path: Path) -> Any:
    """The lock of all that measures, held; None where another holds it."""
    file, end = path.open("w"), time.time() + _BUSY_SECONDS
    while not _taken(file):
        if time.time() > end:
            return None
        time.sleep(0.2)
    return file


def _taken(file: Any) -> bool:
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
