"""Disturb every command that writes, and look at what is left: python tools/check_faults.py [--runs 6] [--only WORD].

Faults: a full disk and a read-only one (file systems in memory, where root may mount some; else a limit on the size of
files, and modes), a folder that is removed, a closed stdout, two runs in one folder, and SIGKILL, SIGTERM and SIGINT.
Half of the moments are random times, half follow a random change in the folder, when files are being written.

After each, the files there are compared with those of an undisturbed run: a result must be absent or whole. Then the
command runs again (``optimize`` with --resume), and must end in the same bytes. Mixed precision depends on the clock,
so its files are those of an undisturbed run only if the kept measurements are: there, the same command once more must
give the same bytes. Prints a table in Markdown; exits 1 if a row has a defect.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx.parser

ROOT = Path(__file__).parents[1]
_PAGE = 4096  # bytes, what file systems in memory are made of
TEXT = """
<ir_version: 8, opset_import: ["" : 17]> small (float[n,1,8,8] input) => (float[n,4] logits) {
  c1 = Conv<pads=[1,1,1,1]>(input, w1, b1)  r1 = Relu(c1)
  c2 = Conv<pads=[1,1,1,1]>(r1, w2)  r2 = Relu(c2)
  c3 = Conv<pads=[1,1,1,1]>(r2, w3)  sum = Add(c3, r1)
  mean = GlobalAveragePool(sum)  flat = Flatten(mean)  logits = Gemm<transB=1>(flat, w4, b4)
}
"""


@dataclass(frozen=True)
class Command:
    """``words`` hold {i} for the folder of inputs and {o} for that of results; ``files`` are the results."""

    name: str
    words: str
    files: tuple[str, ...]
    again: str = ""
    timed: bool = False

    def run(self, inputs: Path, output: Path, *more: str) -> list[str]:
        """The command line."""
        words = [word.format(i=inputs, o=output) for word in self.words.split()]
        return [sys.executable, "-m", "hqp_onnx", *words, *more]


_OPTIMIZE = (  # not by measured time, which a rerun measures anew
    "optimize {i}/model.onnx --calib {i}/data.npz --val {i}/data.npz --step 0.1 --max-drop 0.05 --objective sparsity "
    "--threads 1 --saliency fisher -o {o}/out"
)
COMMANDS = (
    Command("score", "score {i}/model.onnx --data {i}/data.npz -o {o}/scores.npz", ("scores.npz",)),
    Command(
        "prune",
        "prune {i}/model.onnx --data {i}/data.npz --sparsity 0.3 -o {o}/pruned.onnx --ledger {o}/ledger.json",
        ("pruned.onnx", "ledger.json"),
    ),
    Command("quantize", "quantize {i}/model.onnx --data {i}/data.npz -o {o}/int8.onnx", ("int8.onnx",)),
    Command(
        "recover",
        "recover {i}/student.onnx --teacher {i}/model.onnx --data {i}/data.npz --epochs 4 --checkpoint {o}/kept.npz "
        "-o {o}/recovered.onnx",
        ("recovered.onnx",),
    ),
    Command(
        "build --for",
        "build {i}/model.onnx --for 10.3.0 --precision fp16 -o {o}/model.engine",
        ("model.engine.onnx", "model.engine.sh"),
    ),
    Command(
        "optimize int8",
        f"{_OPTIMIZE} --precision int8",
        ("out/pruned.onnx", "out/int8.onnx", "out/ledger.json"),
        "--resume",
    ),
    Command(
        "optimize mixed, recovery",
        f"{_OPTIMIZE} --precision mixed --recover 2 --augment flip",
        ("out/pruned.onnx", "out/int8.onnx", "out/recovered/int8.onnx", "out/ledger.json"),
        "--resume",
        timed=True,
    ),
)


@dataclass(frozen=True)
class Reference:
    """An undisturbed run: its results, how long it took, how often the folder changed, and how much it holds."""

    files: dict[str, bytes]
    seconds: float
    changes: int
    size: int


@dataclass
class Row:
    """What several runs under one fault came to."""

    runs: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    same: int = 0
    defects: list[str] = field(default_factory=list)


def make_inputs(folder: Path, samples: int = 96) -> None:
    """A model of 40 units, a student of it, and data that it labels."""
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(TEXT)
    shapes = {"w1": (16, 1, 3, 3), "b1": (16,), "w2": (24, 16, 3, 3), "w3": (16, 24, 3, 3), "w4": (4, 16), "b4": (4,)}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        model.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
    onnx.save(model, folder / "model.onnx")
    images = rng.standard_normal((samples, 1, 8, 8)).astype(np.float32)
    np.savez(folder / "data.npz", input=images, labels=rng.integers(0, 4, samples))
    words = ["prune", "model.onnx", "--sparsity", "0.3", "-o", "student.onnx", "--quiet"]
    command = [sys.executable, "-m", "hqp_onnx", *words]
    subprocess.run(command, cwd=folder, check=True, env=_environment(), stdout=subprocess.DEVNULL)


class Run:
    """A process that was started, and what it writes to stderr."""

    def __init__(
        self, words: Sequence[str], stdout: int = subprocess.DEVNULL, limit: Callable[[], None] | None = None
    ) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in ``end``
        self.process = subprocess.Popen(words, stdout=stdout, stderr=self._errors, env=_environment(), preexec_fn=limit)

    def end(self) -> tuple[int, str]:
        """Wait; exit code and stderr."""
        code = self.process.wait()
        with self._errors as stream:
            stream.seek(0)
            return code, stream.read()


def results(command: Command, output: Path) -> dict[str, bytes]:
    """The results that are there."""
    return {name: (output / name).read_bytes() for name in command.files if (output / name).is_file()}


def undisturbed(command: Command, inputs: Path, output: Path) -> Reference:
    """Run a command to its end."""
    output.mkdir()
    start, seen, changes = time.monotonic(), _state(output), 0
    run = Run(command.run(inputs, output))
    while run.process.poll() is None:
        now = _state(output)
        changes, seen = changes + (now != seen), now
        time.sleep(0.001)
    code, errors = run.end()
    if code not in (0, 3):
        raise RuntimeError(f"{command.name}: ends with {code}: {errors}")
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    return Reference(results(command, output), time.monotonic() - start, changes, size)


def moment(process: subprocess.Popen[bytes], output: Path, whole: Reference, rng: random.Random) -> bool:
    """Wait for a random moment of a run; whether it came before the end."""
    end = time.monotonic() + rng.uniform(0, whole.seconds)
    by_change, left, seen = rng.random() < 0.5, rng.randint(1, max(whole.changes, 1)), _state(output)
    while process.poll() is None:
        now = _state(output)
        left, seen = left - (now != seen), now
        if (left <= 0) if by_change else (time.monotonic() >= end):
            return True
        time.sleep(0.0005)
    return False


def killed(
    number: signal.Signals, command: Command, inputs: Path, output: Path, whole: Reference, rng: random.Random
) -> tuple[int, str]:
    """A signal at a random moment."""
    run = Run(command.run(inputs, output))
    if moment(run.process, output, whole, rng):
        run.process.send_signal(number)
    return run.end()


def vanished(command: Command, inputs: Path, output: Path, whole: Reference, rng: random.Random) -> tuple[int, str]:
    """The folder is renamed, and then removed, at a random moment."""
    run = Run(command.run(inputs, output))
    if moment(run.process, output, whole, rng):
        gone = output.with_name(f"{output.name}.gone")
        output.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)  # what is open there may still be written
    found = run.end()
    output.mkdir(exist_ok=True)
    return found


def closed_pipe(command: Command, inputs: Path, output: Path, whole: Reference, rng: random.Random) -> tuple[int, str]:
    """Nobody reads stdout."""
    reader, writer = os.pipe()
    os.close(reader)
    run = Run(command.run(inputs, output), stdout=writer)
    os.close(writer)
    return run.end()


def full_disk(command: Command, inputs: Path, output: Path, whole: Reference, rng: random.Random) -> tuple[int, str]:
    """A file system of memory that holds a part of the results; or files no larger than that."""
    part = rng.randint(1, max(whole.size - 1, 1))
    with mounted(output, f"size={(part // _PAGE + 1) * _PAGE}") as disk:
        filler = output / "filler"
        filler.write_bytes(bytes(_PAGE))  # a disk of no page at all cannot be mounted
        limit = None if disk else partial(resource.setrlimit, resource.RLIMIT_FSIZE, (part, part))
        found = Run(command.run(inputs, output), limit=limit).end()
        filler.unlink()
        if disk:
            _copy_back(output)
    return found


def read_only(command: Command, inputs: Path, output: Path, whole: Reference, rng: random.Random) -> tuple[int, str]:
    """A file system, or a folder, that may only be read."""
    with mounted(output, "ro") as disk:
        if not disk:
            output.chmod(0o555)
        found = Run(command.run(inputs, output)).end()
    output.chmod(0o755)
    return found


def two_runs(command: Command, inputs: Path, output: Path, whole: Reference, rng: random.Random) -> tuple[int, str]:
    """A second run begins as soon as the first one has the folder; the exit code is the second's."""
    first = Run(command.run(inputs, output))
    while first.process.poll() is None and not (output / "out" / ".hqp.lock").exists():
        time.sleep(0.001)
    second = Run(command.run(inputs, output)).end()
    end = first.end()
    return second if end[0] in (0, 3) else end


FAULTS: dict[str, Callable[[Command, Path, Path, Reference, random.Random], tuple[int, str]]] = {
    "full disk": full_disk,
    "read-only": read_only,
    "folder removed": vanished,
    "closed stdout": closed_pipe,
    "two runs": two_runs,
    "SIGKILL": partial(killed, signal.SIGKILL),
    "SIGTERM": partial(killed, signal.SIGTERM),
    "SIGINT": partial(killed, signal.SIGINT),
}


def check(command: Command, fault: str, whole: Reference, inputs: Path, work: Path, runs: int, seed: int = 0) -> Row:
    """Disturb a command ``runs`` times, each in a folder of its own."""
    row, rng = Row(), random.Random(f"{command.name} {fault} {seed}")
    for number in range(runs):
        output = work / f"{fault} {number}".replace(" ", "_")
        output.mkdir()
        code, errors = FAULTS[fault](command, inputs, output, whole, rng)
        row.runs += 1
        row.codes[code] += 1
        _judge(row, command, fault, whole, output, code, errors)
        _again(row, command, whole, inputs, output)
        shutil.rmtree(output)
    return row


def _judge(row: Row, command: Command, fault: str, whole: Reference, output: Path, code: int, errors: str) -> None:
    """What one run left, and whether it said so in one line."""
    temporary = list(output.rglob("*.tmp"))
    there = results(command, output)
    row.left["temporary files"] += len(temporary)
    row.left["results"] += len(there)
    if temporary and fault != "SIGKILL":
        row.defects.append(f"{len(temporary)} temporary files")
    if not command.timed and (half := [name for name in there if there[name] != whole.files[name]]):
        row.defects.append(f"{half} are not whole")
    if command.timed:
        for name in there:
            if name.endswith(".onnx"):
                onnx.checker.check_model(onnx.load(output / name))
    lines = errors.strip().splitlines()
    if "Traceback" in errors:
        row.defects.append(f"a traceback: {lines[-1]}")
    if code > 0 and code != 3 and not (lines and lines[-1].startswith("error: ")):
        row.defects.append(f"exit code {code} without a line that says why")


def _again(row: Row, command: Command, whole: Reference, inputs: Path, output: Path) -> None:
    """The same command once more; in mixed precision twice."""
    more = [command.again] * bool(command.again)
    found = []
    for _ in range(1 + command.timed):
        code, errors = Run(command.run(inputs, output, *more)).end()
        if code not in (0, 3):
            row.defects.append(f"again: exit code {code}: {errors[-200:]}")
            return
        found.append(results(command, output))
    same = found[0] == (found[-1] if command.timed else whole.files)
    row.same += same
    if not same:
        row.defects.append("other bytes in the end")
    if left := list(output.rglob("*.tmp")):
        row.left["temporary files in the end"] += len(left)


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[bool]:
    """A file system in memory at ``folder``; yields whether one could be mounted."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = (
        shutil.which("mount") is not None and not subprocess.run(command, capture_output=True, check=False).returncode
    )
    try:
        yield done
    finally:
        if done:
            subprocess.run(["umount", str(folder)], check=True)
            back = folder.with_name(f"{folder.name}.back")
            if back.is_dir():
                shutil.copytree(back, folder, dirs_exist_ok=True)
                shutil.rmtree(back)


def _copy_back(folder: Path) -> None:
    """What a file system in memory holds goes to the folder under it when it is unmounted: the disk has room again."""
    shutil.copytree(folder, folder.with_name(f"{folder.name}.back"))


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def _state(folder: Path) -> set[tuple[str, int]]:
    found = set()
    for place, _, names in os.walk(folder):  # which bears folders that vanish
        for name in names:
            with suppress(FileNotFoundError):
                found.add((name, Path(place, name).stat().st_mtime_ns))
    return found


HEAD = """| command | fault | runs | exit codes | results left | temporary files | then, the same bytes | defects |
|---|---|---|---|---|---|---|---|"""


def line(command: str, fault: str, row: Row) -> str:
    """Of the table."""
    codes = ", ".join(f"{code}: {count}" for code, count in sorted(row.codes.items()))
    defects = "; ".join(sorted(set(row.defects))) or "none"
    left = f"{row.left['results']} | {row.left['temporary files']}"
    return f"| {command} | {fault} | {row.runs} | {codes} | {left} | {row.same} of {row.runs} | {defects} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=6, help="per command and signal; of other faults half as many")
    parser.add_argument("--only", default="", help="rows whose command or fault holds this word")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    start, defects = time.monotonic(), 0
    print(HEAD, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs"
        inputs.mkdir()
        make_inputs(inputs)
        for command in COMMANDS:
            faults = [fault for fault in FAULTS if chosen.only in fault or chosen.only in command.name]
            faults = [fault for fault in faults if fault != "two runs" or command.again]
            if not faults:
                continue
            work = Path(folder) / command.name.replace(" ", "_")
            work.mkdir()
            whole = undisturbed(command, inputs, work / "whole")
            for fault in faults:
                runs = chosen.runs if fault.startswith("SIG") else max(chosen.runs // 2, 1)
                row = check(command, fault, whole, inputs, work, runs, chosen.seed)
                defects += len(row.defects)
                print(line(command.name, fault, row), flush=True)
    root = "root, disks are mounted" if os.geteuid() == 0 else "no root"
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, {root}; {time.monotonic() - start:.0f} s")
    sys.exit(defects > 0)


if __name__ == "__main__":
    main()
