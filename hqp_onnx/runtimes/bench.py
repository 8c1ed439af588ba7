"""What times models, here and on boards. Sent to a board, this file is all that ``hqp`` runs there.

As a script it reads one request a line, JSON, and answers each with a line that begins with ``hqp:``, so what others
print does not count. Requests say all that they need: a connection that was lost is opened again, and the request is
made again. Models and inputs are files beside the script, named by their SHA-256; the answer to a request for one that
is not there, or not whole, is its name.

Needs Python 3.6 or later; to time models, numpy and an onnxruntime of any age; to build engines, trtexec. Nothing else
of this package. Power is what tegrastats (Jetson), NVML (other GPUs) or RAPL (processors, to root) say.
"""

import base64
import contextlib
import ctypes
import hashlib
import io
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
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
_POWER_SECONDS = 0.05
_RAPL = "/sys/class/powercap/intel-rapl:0/energy_uj"
_INPUT_RAILS = ("VDD_IN", "POM_5V_IN", "VIN")  # Xavier NX and Orin Nano/NX; Nano; Thor
_RAIL = re.compile(r"([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/\d+(?:mW)?(?=\s|$)")
_TRTEXEC = "/usr/src/tensorrt/bin/trtexec"  # where NVIDIA's packages put it
_RUNNING, _RAN = "Starting inference", "=== Performance summary"
_BUILD_LOOK_SECONDS, _BUILD_WAIT_SECONDS = 0.2, 10.0
_CHUNK = 1 << 22  # bytes of a file in one answer


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


def module_watts(line: str) -> "float | None":
    """Power of a Jetson's module in a line of tegrastats (mW there); None for a line without rails."""
    rails = {name: int(milliwatts) / 1e3 for name, milliwatts in _RAIL.findall(line)}
    for name in _INPUT_RAILS:
        if name in rails:
            return rails[name]
    parts = [watts for name, watts in rails.items() if name != "NC" and not name.startswith("VDDQ")]
    return sum(parts) if parts else None


class Power:
    """Reads the power of this machine, 20 times a second, from entry to exit; ``meter`` is "" where nothing says it.

    Args:
        on_gpu: whether a GPU computes, where it is not the Jetson's.
    """

    def __init__(self, on_gpu: bool) -> None:
        self.meter, self._read, self._end = _meter(on_gpu)
        self._samples = []  # type: list[tuple[float, float]]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Power":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._end()

    def _run(self) -> None:
        while not self._over.wait(_POWER_SECONDS):
            watts = self._read()
            if watts is not None:
                self._samples.append((time.perf_counter(), watts))

    def mean(self, start: float, end: float) -> "float | None":
        """Mean watts between two readings of ``time.perf_counter``; None where there are fewer than two samples."""
        inside = [(at, watts) for at, watts in list(self._samples) if start <= at <= end]
        if len(inside) < 2:
            return None
        pairs = list(zip(inside, inside[1:]))  # noqa: B905, RUF007 - as Python 3.6 has it
        return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairs) / (inside[-1][0] - inside[0][0])


def _meter(on_gpu: bool) -> "tuple[str, Callable[[], float | None], Callable[[], None]]":
    """What power is read from, what reads watts, and what ends that."""
    if shutil.which("tegrastats"):
        return _tegrastats()
    if on_gpu:
        return _nvml()
    if _said(_RAPL):
        return "RAPL", _rapl(), lambda: None
    return "", lambda: None, lambda: None


def _tegrastats() -> "tuple[str, Callable[[], float | None], Callable[[], None]]":
    words = ["tegrastats", "--interval", "50"]
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    talk = subprocess.Popen(words, stdin=nothing, stdout=pipe, stderr=nothing)
    last = [None]  # type: list[float | None]

    def follow() -> None:
        for line in _lines(talk):
            watts = module_watts(line)
            last[0] = last[0] if watts is None else watts

    threading.Thread(target=follow, daemon=True).start()

    def end() -> None:
        talk.terminate()
        talk.wait()

    return "tegrastats", lambda: last[0], end


def _lines(talk: "subprocess.Popen[bytes]") -> Any:
    """What a process says, as it says it."""
    assert talk.stdout is not None
    return io.TextIOWrapper(talk.stdout, encoding="utf-8", errors="replace")


def _nvml() -> "tuple[str, Callable[[], float | None], Callable[[], None]]":
    milliwatts, handle = ctypes.c_uint(), ctypes.c_void_p()
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        bad = library.nvmlInit_v2() or library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle))
    except (OSError, AttributeError):
        bad = 1
    if bad:
        return "", lambda: None, lambda: None

    def read() -> "float | None":
        failed = library.nvmlDeviceGetPowerUsage(handle, ctypes.byref(milliwatts))
        return None if failed else milliwatts.value / 1e3

    return "NVML", read, lambda: None


def _rapl() -> "Callable[[], float | None]":
    last = [(time.perf_counter(), int(_said(_RAPL)))]

    def read() -> "float | None":
        (before, had), now, has = last[0], time.perf_counter(), int(_said(_RAPL))
        last[0] = now, has
        return (has - had) / 1e6 / (now - before) if has >= had else None  # it begins again at times

    return read


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

    def energy(self, of: "dict[str, Any]", seconds: float) -> "dict[str, Any]":
        """Joules of a run, of runs back to back for ``seconds``, and what says so."""
        run = self._run(**of)
        run()
        with Power(of["provider"] != CPU) as power:
            start, count = time.perf_counter(), 0
            while time.perf_counter() < start + seconds:
                run()
                count += 1
            end = time.perf_counter()
        watts = power.mean(start, end)
        return {"meter": power.meter, "joules": None if watts is None else watts * (end - start) / count}

    def tensorrt(self) -> "dict[str, Any]":
        """The number of trtexec's TensorRT, 8502 or 100300, and the GPU, as CUDA's driver names it."""
        said = subprocess.run(
            [_trtexec(), "--help"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        found = re.search(r"\[TensorRT v([0-9.]+)\]", said.stdout.decode(errors="replace"))
        if found is None:
            raise RuntimeError("its trtexec does not say its version")
        return {"version": found.group(1), "gpu": _gpu(), "state": [_said("/etc/machine-id"), _power_mode()]}

    def build(self, files: "dict[str, str]", script: str) -> "dict[str, Any]":
        """What a shell script made beside ``files`` (by name, SHA-256), or, after a while, that it still runs.

        It is a process of its own, so it goes on when the connection is lost; asked again, its result is waited for.
        """
        place = self._folder / ("build-" + hashlib.sha256(json.dumps([files, script]).encode()).hexdigest()[:24])
        if not place.is_dir():
            paths = {name: self._file(digest) for name, digest in files.items()}
            new = place.with_name(place.name + ".new")
            shutil.rmtree(str(new), ignore_errors=True)
            new.mkdir()
            for name, path in paths.items():
                shutil.copyfile(str(path), str(new / name))
            words = [sys.executable, str(Path(__file__).resolve()), ".", script]
            nothing, environment = subprocess.DEVNULL, dict(os.environ, TRTEXEC=_trtexec())
            process = subprocess.Popen(
                words,
                cwd=str(new),
                env=environment,
                stdin=nothing,
                stdout=nothing,
                stderr=nothing,
                start_new_session=True,
            )
            (new / "process").write_text(str(process.pid))
            new.rename(place)
        end, alive = time.time() + _BUILD_WAIT_SECONDS, True
        while time.time() < end and alive and not (place / "result").is_file():
            time.sleep(_BUILD_LOOK_SECONDS)
            alive = _is_alive(int((place / "process").read_text()))
        if not (place / "result").is_file():
            if alive:
                return {"place": place.name, "running": True}
            shutil.rmtree(str(place))
            raise RuntimeError("the build ended without a result: was the board restarted, or out of memory?")
        return dict(json.loads((place / "result").read_text()), place=place.name, running=False)

    def read(self, place: str, name: str, start: int) -> "dict[str, Any]":
        """Some of a file that was built, and its size."""
        with (self._folder / place / name).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(start)
            return {"part": base64.b64encode(file.read(_CHUNK)).decode(), "size": size}

    def forget(self, models: "list[str]") -> None:
        """Close models and remove their files."""
        self._runs = {key: run for key, run in self._runs.items() if key[0] not in models}
        for name in models:
            if (self._folder / name).is_file():
                (self._folder / name).unlink()

    def end(self) -> None:
        """Remove the folder."""
        self._runs = {}
        for file in self._folder.glob("build-*/process"):
            if not file.with_name("result").is_file():
                _kill(int(file.read_text()))
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


def _trtexec() -> str:
    named = os.environ.get("TRTEXEC") or shutil.which("trtexec") or _TRTEXEC
    if not shutil.which(named):
        raise RuntimeError("it has no trtexec, neither on its PATH nor as " + _TRTEXEC + ": install TensorRT there")
    return named


def _gpu() -> "list[Any] | None":
    """Name and compute capability of the first GPU; None where CUDA's driver does not say."""
    name, numbers = ctypes.create_string_buffer(200), [ctypes.c_int(), ctypes.c_int()]
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
        bad = cuda.cuInit(0) or cuda.cuDeviceGetName(name, len(name), 0)
        for attribute, number in zip((75, 76), numbers):  # noqa: B905 - CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
            bad = bad or cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, 0)
    except (OSError, AttributeError):
        return None
    return None if bad else [name.value.decode(errors="replace"), *(number.value for number in numbers)]


def _is_alive(process: int) -> bool:
    with contextlib.suppress(OSError):
        os.waitpid(process, os.WNOHANG)  # if it is ours, so that it is no zombie
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True


def _kill(process: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(process, signal.SIGKILL)


def built(place: Path, script: str) -> None:
    """Run a script of trtexec in ``place``; leave its status, what it said, and the power while it ran the engine."""
    times = {}  # type: dict[str, float]
    lines = []  # type: list[str]
    with Power(True) as power:
        pipe = subprocess.PIPE
        talk = subprocess.Popen(["sh", script], cwd=str(place), stdout=pipe, stderr=subprocess.STDOUT)
        for line in _lines(talk):
            lines.append(line)
            times.update({mark: time.perf_counter() for mark in (_RUNNING, _RAN) if mark in line})
        status = talk.wait()
        watts = power.mean(times[_RUNNING], times[_RAN]) if len(times) == 2 else None
    said = {"status": status, "log": "".join(lines[-100:]), "meter": power.meter, "watts": watts}
    (place / "result.new").write_text(json.dumps(said))
    (place / "result.new").rename(place / "result")


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
    if len(sys.argv) == 3:
        built(Path(sys.argv[1]), sys.argv[2])
    else:
        main()
