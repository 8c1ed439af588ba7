"""Fetch the real TensorRT Python bindings, and put stubs in place of NVIDIA's libraries, for the contract tests.

    python tools/fetch_trt_bindings.py [FOLDER]      FOLDER/trt-8, trt-10, trt-11; default .venv

The bindings wheels are on PyPI and small; libnvinfer is not. tests/engine/*_stub.c have its entry points, and a CUDA
runtime over host memory. Needs a C compiler (cc). What cannot be had is said, and its tests are skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

STUBS = Path(__file__).parents[1] / "tests" / "engine"
WHEELS = {
    8: "tensorrt-bindings==8.6.1",
    10: "tensorrt-cu12-bindings==10.16.1.11",
    11: "tensorrt-cu12-bindings==11.4.0.106",
}
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser", "nvparsers")
SHIM = "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"


def compile_stub(source: Path, library: Path) -> None:
    subprocess.run(
        [os.environ.get("CC", "cc"), "-shared", "-fPIC", f"-Wl,-soname,{library.name}", "-o", library, source],
        check=True,
    )


def fetch(major: int, requirement: str, folder: Path) -> None:
    """Fill ``folder`` whole or not at all."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*pip, "--dest", work, requirement], check=True, stderr=subprocess.PIPE, text=True)
        built = Path(work) / "built"
        with zipfile.ZipFile(next(Path(work).glob("*.whl"))) as wheel:
            wheel.extractall(built)
        (built / "tensorrt").mkdir()
        (built / "tensorrt" / "__init__.py").write_text(SHIM)
        for name in LIBRARIES:
            compile_stub(STUBS / "tensorrt_stub.c", built / f"lib{name}.so.{major}")
        compile_stub(STUBS / "cudart_stub.c", built / "libcudart.so")
        shutil.rmtree(folder, ignore_errors=True)
        built.rename(folder)


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".venv")
    root.mkdir(parents=True, exist_ok=True)
    for major, requirement in WHEELS.items():
        folder = root / f"trt-{major}"
        try:
            fetch(major, requirement, folder)
        except (subprocess.CalledProcessError, FileNotFoundError) as e:
            lines = (getattr(e, "stderr", "") or str(e)).strip().splitlines()
            print(f"{requirement}: not fetched, its tests are skipped: {lines[-1]}")
        else:
            print(f"{folder}: {requirement}")


if __name__ == "__main__":
    main()
