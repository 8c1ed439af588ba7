"""Mutated models, data, images, ledgers, reports and options through every command: python tools/fuzz.py --cases 5000.

Case N is made by seed N alone: a kind of file, a good one of that kind, what is done to it (to bytes, or to values
inside), and a command that reads it. It runs in a forked child with 2 GiB of memory and --seconds of time. A case fails
if it ends by a signal, takes longer, shows a traceback, an internal fault or a raw escape sequence, or has another code
than 0, 2 or 3. --case N runs one of them in sight and keeps its files; the exit code says whether any failed.
"""

from __future__ import annotations

import argparse
import importlib
import json
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
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from small_model import small_data, small_model  # noqa: E402

MEMORY = 2 << 30
TOKENS = """<ir_version: 8, opset_import: ["" : 17, "f" : 1]> tokens (float[n,l,8] input) => (float[n,l,8] out) {
  mean = ReduceMean<axes=[-1], keepdims=1>(input)  centred = Sub(input, mean)
  q = MatMul(centred, wq)  k = MatMul(centred, wk)  kt = Transpose<perm=[0,2,1]>(k)
  scores = MatMul(q, kt)  weights = Softmax<axis=-1>(scores)  mixed = MatMul(weights, q)
  shape = Shape(mixed)  flat = Reshape(mixed, target)  back = Reshape(flat, shape)
  gated = f.gate(back)  out = MatMul(gated, wo) }
<domain: "f", opset_import: ["" : 17]> gate (x) => (y) { s = Sigmoid(x) y = Mul(x, s) }"""
BRANCHES = """<ir_version: 8, opset_import: ["" : 17]> branches (float[n,6] input) => (float[n,4] out)
  <int64 three = {3}, bool yes = {1}> {
  a = Gemm<transB=1>(input, w1)  b = Relu(a)
  c = Loop <body = body (int64 i, bool go, float[n,8] s) => (bool on, float[n,8] t)
    { on = Identity(go)  t = Sigmoid(s) }> (three, yes, b)
  size = ReduceSum<keepdims=0>(c)  zero = Constant<value_float=0.0>()  large = Greater(size, zero)
  d = If <then_branch = yes1 () => (float[n,8] u) { u = Add(c, b) }, else_branch = no1 () => (float[n,8] v)
    { v = Mul(c, b) }> (large)
  out = Gemm<transB=1>(d, w2) }"""
STEPS = """<ir_version: 8, opset_import: ["" : 17]> steps (float[n,5,6] input) => (float[5,n,4] out)
  <int64[1] one = {1}, int64[3] rows = {0, 0, -1}> {
  x = Transpose<perm=[1,0,2]>(input)
  a, ah, ac = LSTM<hidden_size=8, direction="bidirectional">(x, wl, rl, bl)
  b = Transpose<perm=[0,2,1,3]>(a)  c = Reshape(b, rows)
  d, dh = GRU<hidden_size=8, linear_before_reset=1>(c, wg, rg)
  e = Squeeze(d, one)  out = MatMul(e, wt) }"""
WEIGHTS = {
    "wq": (8, 12),
    "wk": (8, 12),
    "wo": (12, 8),
    "w1": (8, 6),
    "w2": (4, 8),
    "wl": (2, 32, 6),
    "rl": (2, 32, 8),
    "bl": (2, 64),
    "wg": (1, 24, 16),
    "rg": (1, 24, 8),
    "wt": (8, 4),
}
NUMBERS = [0, 1, -1, 2, 3, 7, 255, 1 << 31, (1 << 31) - 1, -(1 << 31), 1 << 40, (1 << 63) - 1, -(1 << 63)]
NAMES = [
    "",
    "input",
    "w1",
    "\x1b[2J\x1b]0;x\x07",
    "../../etc/passwd",
    "/dev/zero",
    "n" * 5000,
    "\u202eevil",
    "a b\n",
    "é",
]
VALUES = [None, True, 0, -1, 1.5, 1e308, 10**400, "", "x", "\x1b[31m", [], {}, [[]], {"a": 1}, [None] * 50, "9" * 5000]


@dataclass(frozen=True)
class Case:
    """A mutated file of a kind, and the command that reads it, run in the folder of the file."""

    kind: str
    words: list[str]


@dataclass(frozen=True)
class Ended:
    """How a case ended: why it failed ("" if it did not), exit code, seconds, peak of resident memory in MB."""

    case: Case
    failure: str
    code: int
    seconds: float
    peak: float


def weighted(text: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    read = {name for node in model.graph.node for name in node.input}
    for name in sorted(read & WEIGHTS.keys()):
        values = rng.standard_normal(WEIGHTS[name]).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    if "target" in read:
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, -1], np.int64), "target"))
    return model


def make_seeds(folder: Path) -> None:
    """Good files of every kind."""
    images = folder / "images"
    onnx.save(small_model(), folder / "small.onnx")
    onnx.save(weighted(TOKENS), folder / "tokens.onnx")
    onnx.save(weighted(BRANCHES), folder / "branches.onnx")
    onnx.save(weighted(STEPS), folder / "steps.onnx")
    onnx.save(
        small_model(), folder / "apart.onnx", save_as_external_data=True, location="apart.data", size_threshold=64
    )
    rng = np.random.default_rng(0)
    np.savez(folder / "small.npz", **small_data())
    np.savez_compressed(folder / "packed.npz", **small_data())
    np.savez(folder / "tokens.npz", input=rng.standard_normal((8, 5, 8)).astype(np.float32))
    np.savez(folder / "branches.npz", input=rng.standard_normal((8, 6)).astype(np.float32), labels=np.arange(8) % 4)
    np.savez(folder / "steps.npz", input=rng.standard_normal((8, 5, 6)).astype(np.float32))
    for label in "ab":
        (images / label).mkdir(parents=True)
        for suffix in ("png", "jpg", "bmp", "gif", "webp", "tiff", "ppm"):
            Image.fromarray(rng.integers(0, 256, (11, 9, 3), np.uint8)).save(images / label / f"{label}.{suffix}")
        Image.fromarray(rng.integers(0, 65536, (11, 9), np.uint16)).save(images / label / "deep.png")
    preprocess = {
        "size": [8, 8],
        "crop": 8,
        "mean": [0.5],
        "std": [0.25],
        "scale": 0.004,
        "layout": "NCHW",
        "color": "L",
    }
    (folder / "preprocess.json").write_text(json.dumps(preprocess))
    (folder / "options.toml").write_text(
        '[prune]\nsparsity = 0.3\nkeep = ["w1"]\ncompensate = true\nseed = 3\n\n[inspect]\nmodel = "small.onnx"\n'
        '[quantize]\nprecision = "int8"\ncalibration = "percentile:99.9"\n'
    )
    made = (
        "quantize small.onnx --data small.npz --calibration minmax -o int8.onnx",
        "prune small.onnx --sparsity 0.3 --ledger ledger.json -o pruned.onnx",
        "optimize small.onnx --calib small.npz --val small.npz --max-drop 0.5 --step 0.3 --precision int8 -o out",
    )
    for command in made:
        words = [sys.executable, "-m", "hqp_onnx", *command.split(), "--quiet"]
        subprocess.run(words, cwd=folder, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def mutated_bytes(content: bytes, dice: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(dice.choice([1, 1, 2, 4, 16, 64])):
        if not data:
            break
        at, length = dice.randrange(len(data)), dice.choice([1, 1, 2, 4, 8, 100])
        action = dice.randrange(7)
        if action == 0:
            data[at] ^= 1 << dice.randrange(8)
        elif action == 1:
            data[at : at + length] = dice.randbytes(length)
        elif action == 2:
            del data[at : at + length]
        elif action == 3:
            data[at:at] = data[at : at + length]
        elif action == 4:
            data[at : at + length] = dice.choice([b"\0", b"\xff", b"\x80", b"\x1b"]) * length
        elif action == 5:
            data[at:at] = b"\xff" * 9 + b"\x01"
        else:
            del data[at:]
    return bytes(data)


def mutated_model(content: bytes, dice: random.Random) -> bytes:
    model = onnx.ModelProto.FromString(content)
    for _ in range(dice.choice([1, 1, 1, 2, 5])):
        dice.choice(MODEL_CHANGES)(model, dice)
    return model.SerializeToString()


def _node(model: onnx.ModelProto, dice: random.Random) -> onnx.NodeProto:
    nodes = list(model.graph.node) or [model.graph.node.add()]
    inner = [n for node in nodes for a in node.attribute for n in a.g.node]
    return dice.choice([*nodes, *inner, *(n for f in model.functions for n in f.node)])


def _tensor(model: onnx.ModelProto, dice: random.Random) -> onnx.TensorProto:
    return dice.choice(list(model.graph.initializer) or [model.graph.initializer.add()])


def change_operator(model: onnx.ModelProto, dice: random.Random) -> None:
    _node(model, dice).op_type = dice.choice(sorted({s.name for s in onnx.defs.get_all_schemas()}) + NAMES)


def change_input(model: onnx.ModelProto, dice: random.Random) -> None:
    node = _node(model, dice)
    known = [name for other in model.graph.node for name in [*other.input, *other.output]]
    if node.input and dice.random() < 0.8:
        node.input[dice.randrange(len(node.input))] = dice.choice(known + NAMES)
    elif node.input:
        del node.input[dice.randrange(len(node.input)) :]


def change_output(model: onnx.ModelProto, dice: random.Random) -> None:
    node = _node(model, dice)
    known = [name for other in model.graph.node for name in [*other.input, *other.output]]
    if node.output:
        node.output[dice.randrange(len(node.output))] = dice.choice(known + NAMES)


def change_attribute(model: onnx.ModelProto, dice: random.Random) -> None:
    node = _node(model, dice)
    if not node.attribute or dice.random() < 0.2:
        name = dice.choice(["axis", "perm", "pads", "group", "axes", "keepdims", "to", "value", "mode", "auto_pad"])
        value = dice.choice([dice.choice(NUMBERS), [dice.choice(NUMBERS) for _ in range(3)], "SAME_UPPER", 0.5])
        node.attribute.append(onnx.helper.make_attribute(name, value))
        return
    attribute = dice.choice(list(node.attribute))
    if attribute.ints:
        attribute.ints[dice.randrange(len(attribute.ints))] = dice.choice(NUMBERS)
    elif dice.random() < 0.3:
        attribute.type = dice.randrange(15)
    else:
        attribute.i, attribute.f = dice.choice(NUMBERS), dice.choice([0.0, float("nan"), float("inf"), 1e30])


def change_tensor(model: onnx.ModelProto, dice: random.Random) -> None:
    tensor = _tensor(model, dice)
    action = dice.randrange(7)
    if action == 0 and tensor.dims:
        tensor.dims[dice.randrange(len(tensor.dims))] = dice.choice(NUMBERS)
    elif action == 1:
        tensor.data_type = dice.randrange(27)
    elif action == 2:
        tensor.raw_data = tensor.raw_data[: dice.randrange(len(tensor.raw_data) + 1)]
    elif action == 3:
        count = max(1, len(tensor.raw_data) // 4)
        tensor.raw_data = np.full(count, dice.choice([np.nan, np.inf, -np.inf, 1e38, 0]), np.float32).tobytes()
    elif action == 4:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", dice.choice(NAMES)), ("offset", str(dice.choice(NUMBERS)))):
            tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=value))
    elif action == 5:
        del tensor.dims[:]
    else:
        tensor.name = dice.choice(NAMES)


def change_values(model: onnx.ModelProto, dice: random.Random) -> None:
    tensor = _tensor(model, dice)
    if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.raw_data) % 4 or not tensor.raw_data:
        return
    values = np.frombuffer(tensor.raw_data, np.float32).copy()
    rows = values.reshape(tensor.dims[0] if tensor.dims and np.prod(tensor.dims) == values.size else 1, -1)
    with np.errstate(all="ignore"):
        rows[: dice.choice([1, len(rows)])] *= np.float32(dice.choice([0, 1e-38, 1e10, 1e38, np.nan, np.inf, -1]))
    tensor.raw_data = values.tobytes()


def change_signature(model: onnx.ModelProto, dice: random.Random) -> None:
    values = [*model.graph.input, *model.graph.output]
    value = dice.choice(values or [model.graph.input.add()])
    kind = value.type.tensor_type
    action = dice.randrange(4)
    if action == 0:
        kind.elem_type = dice.randrange(27)
    elif action == 1 and kind.shape.dim:
        dice.choice(list(kind.shape.dim)).dim_value = dice.choice(NUMBERS)
    elif action == 2:
        value.name = dice.choice(NAMES)
    else:
        kind.shape.dim.add().dim_param = dice.choice(NAMES)


def change_graph(model: onnx.ModelProto, dice: random.Random) -> None:
    action, nodes = dice.randrange(6), model.graph.node
    if action == 0 and nodes:
        del nodes[dice.randrange(len(nodes))]
    elif action == 1 and nodes:
        nodes.append(dice.choice(list(nodes)))
    elif action == 2 and len(nodes) > 1:
        first, second = dice.sample(range(len(nodes)), 2)
        copy = onnx.NodeProto()
        copy.CopyFrom(nodes[first])
        nodes[first].CopyFrom(nodes[second])
        nodes[second].CopyFrom(copy)
    elif action == 3:
        model.opset_import.add(domain=dice.choice(["", "f", *NAMES]), version=dice.choice([*NUMBERS, 11, 13, 18, 21]))
    elif action == 4:
        model.ir_version = dice.choice([*NUMBERS, 3, 4, 10])
    else:
        domains = ["", "f", "com.microsoft", *NAMES]
        _node(model, dice).domain = dice.choice(domains)


MODEL_CHANGES: list[Callable[[onnx.ModelProto, random.Random], None]] = [
    change_operator,
    change_input,
    change_output,
    change_attribute,
    change_tensor,
    *[change_values] * 3,
    change_signature,
    change_graph,
]


def mutated_npz(file: Path, dice: random.Random) -> None:
    if dice.random() < 0.5:
        file.write_bytes(mutated_bytes(file.read_bytes(), dice))
        return
    with np.load(file) as stored:
        arrays = dict(stored)
    name = dice.choice(sorted(arrays))
    values = arrays[name]
    action = dice.randrange(8)
    if action == 0:
        arrays[name] = values[: dice.choice([0, 1, len(values) - 1])]
    elif action == 1:
        arrays[name] = values.astype(dice.choice(["f2", "f8", "c8", "U3", "S2", "?", "i1", "u8", "O", "M8[s]"]))
    elif action == 2:
        arrays[name] = values.astype(np.float64)
        arrays[name].flat[dice.randrange(max(1, values.size))] = dice.choice([np.nan, np.inf, 1e300, -1e300])
    elif action == 3:
        arrays[dice.choice([*NAMES[1:2], "labels", "x"])] = arrays.pop(name)
    elif action == 4:
        arrays[name] = values[..., None] if dice.random() < 0.5 else values.reshape(-1)
    elif action == 5:
        arrays["labels"] = np.array(dice.choice([[-1], [1 << 62], [[0]], [0.5]]))
    elif action == 6:
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr(dice.choice(["x", "x.npy", "input.npy", "../x.npy"]), dice.randbytes(200))
        return
    else:
        arrays = {name: np.array(values.flat[0]) for name, values in arrays.items()}
    np.savez(file, **arrays)


def mutated_json(text: str, dice: random.Random) -> str:
    def change(value: object) -> object:
        if isinstance(value, dict) and value and dice.random() < 0.9:
            key = dice.choice(sorted(value))
            if dice.random() < 0.15:
                return {k: v for k, v in value.items() if k != key}
            return {**value, key: change(value[key])}
        if isinstance(value, list) and value and dice.random() < 0.8:
            at = dice.randrange(len(value))
            return [*value[:at], change(value[at]), *value[at + 1 :]]
        return dice.choice(VALUES)

    if dice.random() < 0.1:
        return dice.choice(["[" * 100_000, "", "null", "\0", '{"a":' * 5000, "NaN", "1e999", '{"schema_version": 1}'])
    lines = text.split("\n") if text.count("\n{") else [text]
    at = dice.randrange(len(lines))
    lines[at] = json.dumps(change(json.loads(lines[at]))) if lines[at].strip() else "{}"
    return "\n".join(lines)


def mutated_text(file: Path, dice: random.Random) -> None:
    if dice.random() < 0.4:
        file.write_bytes(mutated_bytes(file.read_bytes(), dice))
    elif file.suffix == ".toml":
        words = file.read_text().split()
        words[dice.randrange(len(words))] = dice.choice(
            [json.dumps(v) for v in VALUES[:12]] + ["[x]", "=", "\n", "nan"]
        )
        file.write_text(" ".join(word + ("\n" if dice.random() < 0.8 else "") for word in words))
    else:
        file.write_text(mutated_json(file.read_text(), dice))


KINDS = [*["model"] * 20, *["data"] * 8, *["image"] * 6, *["ledger", "report", "options"] * 2, "resume"]
MODEL_COMMANDS = (
    *["inspect {m}", "prune {m} --sparsity 0.4 -o w.onnx", "prune {m} --sparsity 0.3 --data {d} -o w.onnx"] * 4,
    *["quantize {m} --data {d} --calibration minmax -o w.onnx", "evaluate {m} --data {d}"] * 4,
    *["score {m} --data {d} -o w.npz", "quantize {m} --precision fp16 -o w.onnx"] * 3,
    *["data-loader {d} --model {m} -o w.py", "score {m} --data {d} --saliency obs -o w.npz"] * 2,
    "quantize {m} --data {d} --int4-weights 0.5 -o w.onnx",
    "quantize {m} --data {d} --target tensorrt -o w.onnx",
    "recover {m} --teacher {m} --data {d} --epochs 1 -o w.onnx",
    "build {m} --for 10.3.0 -o w/model.engine",
    "prune {m} --sparsity 0.3 --data {d} --saliency obs --refit in-order -o w.onnx",
)
DATA_COMMANDS = (
    *["evaluate small.onnx --data {d}", "data-loader {d} --model small.onnx -o w.py"] * 2,
    "score small.onnx --data {d} -o w.npz",
    "prune small.onnx --sparsity 0.3 --data {d} -o w.onnx",
    "quantize small.onnx --data {d} -o w.onnx",
)
IMAGE_COMMANDS = (
    "evaluate small.onnx --data images --preprocess preprocess.json",
    "data-loader images --model small.onnx --preprocess preprocess.json -o w.py",
)


def make_case(seed: int, folder: Path) -> Case:
    """Mutate files in ``folder``, a copy of the seeds, as ``seed`` says."""
    dice = random.Random(seed)
    kind = dice.choice(KINDS)
    if kind == "model":
        name = dice.choice(["small", "small", "tokens", "branches", "steps", "apart", "int8"])
        file = folder / f"{name}.onnx"
        change = mutated_bytes if dice.random() < 0.3 else mutated_model
        file.write_bytes(change(file.read_bytes(), dice))
        data = {other: f"{other}.npz" for other in ("tokens", "branches", "steps")}.get(name, "small.npz")
        command = dice.choice(MODEL_COMMANDS).format(m=file.name, d=data)
        if name == "int8" and dice.random() < 0.7:
            command = f"evaluate {file.name} --data {data}"
    elif kind == "data":
        file = folder / dice.choice(["small.npz", "packed.npz"])
        mutated_npz(file, dice)
        command = dice.choice(DATA_COMMANDS).format(d=file.name)
    elif kind == "image":
        if dice.random() < 0.2:
            mutated_text(folder / "preprocess.json", dice)
        else:
            file = dice.choice(sorted((folder / "images").rglob("*.*")))
            file.write_bytes(mutated_bytes(file.read_bytes(), dice))
        command = dice.choice(IMAGE_COMMANDS)
    elif kind == "ledger":
        mutated_text(folder / "ledger.json", dice)
        command = "recover pruned.onnx --teacher small.onnx --data small.npz --epochs 1 --ledger ledger.json -o w.onnx"
    elif kind == "report":
        mutated_text(folder / "out" / "report.json", dice)
        command = "report out"
    elif kind == "resume":
        files = [p for p in sorted((folder / "out").rglob("*")) if p.is_file()]
        file = dice.choice(files)
        if file.suffix in (".json", ".jsonl"):
            mutated_text(file, dice)
        else:
            file.write_bytes(mutated_bytes(file.read_bytes(), dice))
        command = "optimize small.onnx --calib small.npz --val small.npz --max-drop 0.5 --step 0.3 --precision int8"
        command += " -o out --resume"
    else:
        mutated_text(folder / "options.toml", dice)
        command = dice.choice(
            ["inspect", "prune small.onnx -o w.onnx", "quantize small.onnx --data small.npz -o w.onnx"]
        )
        if dice.random() < 0.5:
            (folder / "options.toml").rename(folder / "hqp.toml")
        else:
            command = f"--config options.toml {command}"
    quiet = [] if command.split()[0] in ("inspect", "report", "data-loader") or "--config" in command else ["--quiet"]
    return Case(kind, [*command.split(), *quiet])


def run_case(seed: int, seeds: Path, folder: Path, seconds: float) -> Ended:
    """Make a case in ``folder`` and run it in a forked child."""
    shutil.copytree(seeds, folder)
    case = make_case(seed, folder)
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        become(case, folder)
    status, usage, late = wait(child, start + seconds)
    took = time.monotonic() - start
    code = os.waitstatus_to_exitcode(status)
    said = (folder / ".out").read_bytes() + (folder / ".err").read_bytes()
    return Ended(case, "hang" if late else judged(code, said), code, took, usage.ru_maxrss / 1e3)


def become(case: Case, folder: Path) -> None:
    """Be ``hqp`` with the words of the case, in the forked child; does not return."""
    os.setsid()
    os.chdir(folder)
    for descriptor, name in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), descriptor)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.argv = ["hqp", *case.words]
    os.environ["HQP_PROBE_SECONDS"] = "5"
    code = 99
    try:
        from hqp_onnx.cli import main

        main()
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(child: int, end: float) -> tuple[int, resource.struct_rusage, bool]:
    """Status and usage of a child, killed at ``end``."""
    pause = 0.002
    while time.monotonic() < end:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            return status, usage, False
        time.sleep(pause)
        pause = min(0.05, 1.5 * pause)
    os.killpg(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    return status, usage, True


def judged(code: int, said: bytes) -> str:
    """Why the end of a case is wrong, or ""."""
    lines = said.decode(errors="replace").strip().splitlines() or [""]
    if code < 0:
        return f"signal {-code}"
    if b"Traceback" in said or b"internal fault" in said or code not in (0, 2, 3):
        return f"code {code}: {lines[-1][:200]}"
    if code and not any(line.startswith("error: ") for line in lines):
        return f"code {code} without an error: {lines[-1][:200]}"
    return "an escape sequence was printed" if b"\x1b" in said or b"\x07" in said else ""


def table(ended: list[Ended]) -> str:
    lines = ["| kind | cases | done | refused | failed | slowest s | peak MB |", "|---|---|---|---|---|---|---|"]
    for kind in [*sorted({e.case.kind for e in ended}), "all"]:
        some = [e for e in ended if kind in (e.case.kind, "all")]
        done, failed = sum(e.code in (0, 3) for e in some), sum(bool(e.failure) for e in some)
        refused = sum(e.code == 2 for e in some)
        cells = (kind, len(some), done, refused, failed, f"{max(e.seconds for e in some):.1f}")
        lines.append("| " + " | ".join(map(str, (*cells, f"{max(e.peak for e in some):.0f}"))) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first case")
    parser.add_argument("--seconds", type=float, default=60, help="that a case may take")
    parser.add_argument("--limit", type=float, default=float("inf"), help="no further case after so many seconds")
    parser.add_argument("--case", type=int, help="run this one alone, and keep its files")
    chosen = parser.parse_args()
    started, ended, failed = time.monotonic(), [], 0
    with tempfile.TemporaryDirectory() as made:
        seeds = Path(made) / "seeds"
        seeds.mkdir()
        make_seeds(seeds)
        for module in ("onnxruntime", "hqp_onnx.cli", "hqp_onnx.report.html"):  # once, before any fork
            importlib.import_module(module)
        Image.init()

        for seed in [chosen.case] if chosen.case is not None else range(chosen.first, chosen.first + chosen.cases):
            folder = Path(tempfile.mkdtemp()) / "case" if chosen.case is not None else Path(made) / "case"
            result = run_case(seed, seeds, folder, chosen.seconds)
            ended.append(result)
            if result.failure:
                failed += 1
                print(f"case {seed}: {result.failure}\n    hqp {' '.join(result.case.words)}", flush=True)
            if chosen.case is not None:
                print(
                    (folder / ".out").read_text() + (folder / ".err").read_text() + f"in {folder}, code {result.code}"
                )
            else:
                shutil.rmtree(folder)
            if time.monotonic() - started > chosen.limit:
                break
    print(table(ended))
    last = chosen.first + len(ended) - 1
    print(f"seeds {chosen.first} to {last} in {time.monotonic() - started:.0f} s, {platform.platform(terse=True)}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
