"""Memory of optimizing with many images: from a folder, from .npy, from a loader, beside plain inference.

    python tools/check_memory.py --samples 5000

Images of 3 x 224 x 224 are made in a temporary folder, and a small convolutional network beside them. Each source is
then given to `hqp optimize --data` in a process of its own; the table shows its peak resident memory beside that of one
that does nothing but run the network over the .npy file in batches. The goal is to stay within 1 GiB of that. The last
column says for how much of a pass over the data the network waits for its next batch.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from PIL import Image

GIB = 1 << 30
MODEL = """
<ir_version: 8, opset_import: ["" : 17]> net (float[n,3,224,224] input) => (float[n,10] logits) {
  a = Conv<strides=[2,2], pads=[1,1,1,1]>(input, w1)
  b = Relu(a)
  c = Conv<strides=[2,2], pads=[1,1,1,1]>(b, w2)
  d = Relu(c)
  e = Conv<strides=[2,2], pads=[1,1,1,1]>(d, w3)
  f = Relu(e)
  g = GlobalAveragePool(f)
  h = Flatten(g)
  logits = Gemm<transB=1>(h, w4)
}
"""
PLAIN = """
import sys, numpy as np, onnxruntime as ort
session = ort.InferenceSession(sys.argv[1])
for path in sys.argv[2:]:
    size = len(np.load(path, mmap_mode="r"))
    with open(path, "rb") as file:
        shape, _, dtype = np.lib.format.read_array_header_1_0(file) if np.lib.format.read_magic(file) else None
        for start in range(0, size, 27):
            count = min(27, size - start)
            batch = np.fromfile(file, dtype, count * int(np.prod(shape[1:]))).reshape(count, *shape[1:])
            session.run(None, {"input": batch.astype(np.float32)})
"""
LOADER = """
import numpy as np
def load_data():
    rng = np.random.default_rng(0)
    for start in range(0, {count}, 25):
        yield {{"input": rng.standard_normal((min(25, {count} - start), 3, 224, 224), np.float32)}}
"""
WAITING = """
import sys, time
from hqp_onnx.data.sources import open_dataset
from hqp_onnx.data.dataset import batch_size
from hqp_onnx.model import open_session
session = open_session(sys.argv[1])
data = open_dataset(sys.argv[2], session.inputs, batch_size=batch_size(session.inputs))
waited, start = 0.0, time.perf_counter()
batches, asked = iter(data), time.perf_counter()
for batch in batches:
    waited += time.perf_counter() - asked
    session.run(batch.feeds)
    asked = time.perf_counter()
print(waited / (time.perf_counter() - start))
"""
PEAK = "import resource, atexit; atexit.register(lambda: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss));"
HQP = "import sys; from hqp_onnx.__main__ import main; sys.argv[0] = 'hqp'; main()"


def make_model(path: Path) -> None:
    model, rng = onnx.parser.parse_model(MODEL), np.random.default_rng(0)
    for name, shape in {"w1": (32, 3, 3, 3), "w2": (48, 32, 3, 3), "w3": (64, 48, 3, 3), "w4": (10, 64)}.items():
        values = (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    onnx.save(model, path)


def make_sources(folder: Path, count: int) -> dict[str, str]:
    rng, images = np.random.default_rng(0), folder / "images"
    images.mkdir()
    header = {"descr": "<f4", "fortran_order": False, "shape": (count, 3, 224, 224)}
    with (folder / "images.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for number in range(count):
            coarse = rng.integers(0, 256, (28, 28, 3), np.uint8)
            image = Image.fromarray(coarse).resize((224, 224), Image.Resampling.BILINEAR)
            image.save(images / f"{number:05}.jpg")
            file.write((np.asarray(image, np.float32).transpose(2, 0, 1) / 255).tobytes())
    (folder / "loader.py").write_text(LOADER.format(count=count))
    return {"folder": str(images), ".npy": str(folder / "images.npy"), "loader": str(folder / "loader.py")}


def measured(code: str, *arguments: str) -> tuple[int, str, float]:
    """Peak resident bytes of a Python process, the line before, and seconds."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", PEAK + code, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    lines = done.stdout.split("\n")
    return int(lines[-2]) * 1024, lines[-3] if len(lines) > 2 else "", time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--sources", nargs="*", default=["folder", ".npy", "loader"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "net.onnx"
        make_model(model)
        sources = make_sources(folder, options.samples)
        plain, _, seconds = measured(PLAIN, str(model), sources[".npy"])
        print(f"{options.samples} images of 3 x 224 x 224; plain inference: {plain / GIB:.2f} GiB, {seconds:.0f} s")
        print("| source | peak GiB | beyond plain | seconds | a pass waits |\n|---|---|---|---|---|")
        for kind, source in ((kind, sources[kind]) for kind in options.sources):
            out = ("-o", str(folder / f"out{kind.strip('.')}"), "--objective", "macs", "--step", "0.25", "--quiet")
            more = ("--max-drop", "0.2", "--precision", "int8", "--calibration", "minmax")
            peak, _, seconds = measured(HQP, "optimize", str(model), "--data", source, *out, *more)
            _, share, _ = measured(WAITING, str(model), source)
            beyond = (peak - plain) / GIB
            print(
                f"| {kind} | {peak / GIB:.2f} | {beyond:+.2f} | {seconds:.0f} | {100 * float(share):.0f} % |",
                flush=True,
            )


if __name__ == "__main__":
    main()
