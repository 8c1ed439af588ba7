"""The main job against a board behind a real sshd, whose connection is cut twice while it measures.

    python tools/check_board.py [--sshd PATH] [--python PATH] [--core N] [--engine-only]

The board is this machine, slower: an sshd of its own (port, keys and configuration in a temporary folder, the loopback
interface alone) that runs at low priority on one core, and the Python of ``--python``, whose onnxruntime may be
another version. Debian's openssh-server has the sshd; unpacked (`dpkg -x`), it need not be installed. As root, it runs
in a mount namespace of its own, so that the user and the folder that it wants exist for it alone.

Shown: tables of times here and there, the widths that they lead to, and each result timed at both places. The exit
status is 1 where the tables or the widths are the same, or the board's result is not the faster one on the board.

First an engine is built there (--engine-only: nothing else), and the connection is cut meanwhile. Scripts stand in for
trtexec and tegrastats and say what these say, so the way there and back is shown, and neither an engine nor a power.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import onnx

ROOT = Path(__file__).parents[1]
PORT, SAMPLES, CUT_SECONDS = 20222, 500, 6.0
_CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
StrictModes no
PidFile none
UsePAM no
PasswordAuthentication no
Subsystem sftp internal-sftp
SetEnv "PATH={folder}/tools:/usr/local/bin:/usr/bin:/bin"
"""
_WATTS, _QUERIES, _BUILD_SECONDS, _CLOSE = 5.01, 100, 15, 0.01
_TRTEXEC = """#!/bin/sh
echo '&&&& RUNNING TensorRT.trtexec [TensorRT v8502] # trtexec'
[ "$1" = --help ] && exit 0
echo run >> "$(dirname "$0")/runs"
for word; do case $word in --onnx=*) model=${{word#*=}} ;; --saveEngine=*) engine=${{word#*=}} ;; esac; done
sleep {seconds}
cp "$model" "$engine"
echo '[I] Starting inference'
sleep 1
echo '[I] === Performance summary ==='
echo '[I] Throughput: {queries} qps'
echo '[I] GPU Compute Time: min = 9 ms, max = 11 ms, mean = 10 ms, median = 10 ms, percentile(99%) = 11 ms'
"""
_TEGRASTATS = """#!/bin/sh
while echo 'RAM 2462/7772MB (lfb 4x1MB) VDD_IN {milliwatts}mW/{milliwatts}mW'; do sleep 0.05; done
"""
_AS_ROOT = """
cp /etc/passwd {folder}/passwd
grep -q ^sshd: /etc/passwd || echo 'sshd:x:104:65534::/run/sshd:/usr/sbin/nologin' >> {folder}/passwd
mount --bind {folder}/passwd /etc/passwd
mount -t tmpfs tmpfs /run
mkdir -p /run/sshd
exec "$@"
"""
_CLIENT = """#!/bin/sh
exec {tool} -F none -i {folder}/user -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \\
    -o LogLevel=ERROR "$@"
"""


def start_sshd(sshd: str, folder: Path, core: int) -> subprocess.Popen[bytes]:
    """A slow sshd, and ssh and scp in ``folder/bin`` that may log in to it."""
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    (folder / "config").write_text(_CONFIG.format(port=PORT, folder=folder))
    (folder / "bin").mkdir()
    for tool in ("ssh", "scp"):
        path = subprocess.run(["which", tool], capture_output=True, text=True, check=True).stdout.strip()
        (folder / "bin" / tool).write_text(_CLIENT.format(tool=path, folder=folder))
        (folder / "bin" / tool).chmod(0o755)
    (folder / "tools").mkdir()
    scripts = {"trtexec": _TRTEXEC.format(seconds=_BUILD_SECONDS, queries=_QUERIES)}
    scripts["tegrastats"] = _TEGRASTATS.format(milliwatts=round(1000 * _WATTS))
    for name, script in scripts.items():
        (folder / "tools" / name).write_text(script)
        (folder / "tools" / name).chmod(0o755)
    words = ["taskset", "-c", str(core), "nice", "-n", "5", sshd, "-D", "-e", "-f", str(folder / "config")]
    if os.geteuid() == 0:
        script = _AS_ROOT.format(folder=folder)
        words = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh", *words]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
    for _ in range(50):
        if "listening" in (folder / "log").read_text():
            return process
        time.sleep(0.1)
    raise SystemExit(f"sshd does not start: {(folder / 'log').read_text()}")


def hqp(folder: Path, *words: str) -> subprocess.Popen[str]:
    """A command of this tree, which finds the ssh of ``folder``, and a cache that is empty."""
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment |= {"XDG_CACHE_HOME": str(folder / "cache")}
    return subprocess.Popen(
        [sys.executable, "-m", "hqp_onnx", *words],
        env=environment,
        text=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def connections(sshd: subprocess.Popen[bytes]) -> list[int]:
    """Processes of the sshd's that serve one connection each."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(sshd.pid)], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


def cut(sshd: subprocess.Popen[bytes], times: int, ended: threading.Event) -> None:
    """Kill the connection that measures so often, ``CUT_SECONDS`` after it was made."""
    for _ in range(times):
        seen: dict[int, float] = {}
        while not ended.wait(0.2):
            seen = {pid: seen.get(pid, time.monotonic()) for pid in connections(sshd)}
            old = [pid for pid, since in seen.items() if time.monotonic() - since > CUT_SECONDS]
            if old:
                os.kill(old[0], signal.SIGKILL)
                break


def finished(job: subprocess.Popen[str]) -> tuple[str, str]:
    """What a command says on stdout and on stderr."""
    said, progress = job.communicate()
    if job.returncode:
        raise SystemExit(f"{shlex.join(map(str, job.args))}: {progress[-2000:]}")
    return said, progress


def optimized(folder: Path, model: Path, name: str, *words: str) -> subprocess.Popen[str]:
    """The main job, in float32, on some of the bundled data."""
    data = ("--calib", str(folder / "calib.npz"), "--val", str(folder / "val.npz"), "--no-build")
    return hqp(folder, "optimize", str(model), *data, "--precision", "fp32", *words, "-o", str(folder / name))


def milliseconds(folder: Path, files: dict[str, Path], *words: str) -> dict[str, float]:
    """Median latency by name, timed in turn."""
    said, _ = finished(hqp(folder, "benchmark", *map(str, files.values()), "--json", "-", "--quiet", *words))
    return dict(zip(files, (row["median_ms"] for row in json.loads(said)["models"]), strict=True))


def widths(file: Path) -> list[int]:
    """Output channels of each weight, in order."""
    return [tensor.dims[0] for tensor in onnx.load(file).graph.initializer if len(tensor.dims) > 1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sshd", default="/usr/sbin/sshd")
    parser.add_argument("--core", type=int, default=0, help="of this machine, which the board is held to")
    parser.add_argument("--engine-only", action="store_true")
    parser.add_argument("--python", default=sys.executable, help="of the board")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "mobilenet_v3_small.onnx")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hqp-board-") as name:
        folder = Path(name)
        for part in ("calib", "val"):
            data = np.load(ROOT / "models" / f"fashion_mnist_{part}.npz")
            np.savez(folder / f"{part}.npz", **{key: data[key][:SAMPLES] for key in data})
        sshd, device = start_sshd(chosen.sshd, folder, chosen.core), f"ssh://127.0.0.1:{PORT}?python={chosen.python}"
        try:
            built = check_engine(folder, chosen.model, sshd, device)
            return int(not built) if chosen.engine_only else check(folder, chosen.model, sshd, device) or int(not built)
        finally:
            sshd.terminate()
            sshd.wait()


def check_engine(folder: Path, model: Path, sshd: subprocess.Popen[bytes], device: str) -> bool:
    """Whether an engine is built there once, for all that the connection is lost, and joules are those of the power.

    A run takes its mean time, which on a machine with other work is longer than the median.
    """
    ended = threading.Event()
    words = ("--precision", "fp16", "--device", device, "-o", str(folder / "m.engine"), "--json", "-")
    cutter = threading.Thread(target=cut, args=(sshd, 1, ended))
    cutter.start()
    said, progress = finished(hqp(folder, "build", str(model), *words))
    ended.set()
    cutter.join()
    report, cuts = json.loads(said), progress.count("the connection was lost")
    runs = (folder / "tools" / "runs").read_text().count("run")
    ran = report["board"]
    print(f"engine: {report['bytes']} bytes for TensorRT {report['tensorrt']}; cut {cuts} times, built {runs} times")
    print(f"as said there: {ran['median_ms']} ms, {1e3 * ran['joules']:.1f} mJ a sample by {ran['meter']}")
    said, _ = finished(hqp(folder, "benchmark", str(model), "--device", device, "--json", "-", "--quiet"))
    (timed,) = json.loads(said)["models"]
    print(
        f"a run of the board's onnxruntime: {timed['median_ms']:.3f} ms, {1e3 * timed['joules']:.3f} mJ at {_WATTS} W"
    )
    known = abs(ran["joules"] * _QUERIES / _WATTS - 1) < _CLOSE and timed["joules"] > _WATTS * timed["median_ms"] / 2e3
    return (cuts, runs) == (1, 1) and report["bytes"] > 0 and known


def check(folder: Path, model: Path, sshd: subprocess.Popen[bytes], device: str) -> int:
    ended = threading.Event()
    job = optimized(folder, model, "there", "--device", device)
    cutter = threading.Thread(target=cut, args=(sshd, 2, ended))
    cutter.start()
    _, progress = finished(job)
    ended.set()
    cutter.join()
    finished(optimized(folder, model, "here"))
    files = {"input": model} | {f"chosen {name}": folder / name / "pruned.onnx" for name in ("here", "there")}
    here, there = milliseconds(folder, files), milliseconds(folder, files, "--device", device)
    cuts = progress.count("the connection was lost")
    report = json.loads((folder / "there" / "report.json").read_text())
    print(f"board: {report['machine']['runtime']}; connection cut {cuts} times")
    print("\n".join(note for note in report["notes"] if "times" in note))
    print("\n| ms | here | on the board |\n|---|--:|--:|")
    for row in files:
        print(f"| {row} | {here[row]:.3f} | {there[row]:.3f} |")
    tables = [json.loads((folder / name / ".cache" / "tables.json").read_text()) for name in ("here", "there")]
    chosen = [widths(files[f"chosen {name}"]) for name in ("here", "there")]
    print(f"\nwidths here:  {chosen[0]}\nwidths there: {chosen[1]}")
    left = [*(Path.home() / ".hqp-onnx").glob("*/")]
    print(f"left on the board: {len(left)} folders")
    faster = there["chosen there"] < there["chosen here"]
    return 0 if tables[0] != tables[1] and chosen[0] != chosen[1] and faster and cuts == 2 and not left else 1


if __name__ == "__main__":
    raise SystemExit(main())
