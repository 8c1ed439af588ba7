"""Bad inputs for the command line, and a word that each error must hold. Also printed by tools/bad_inputs.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from bad_builds import bad_builds
from conftest import MODELS

GOOD = MODELS / "mobilenet_v3_small.onnx"
TEXT = """<ir_version: 8, opset_import: ["" : {opset}]> g (float[n,3] x) => (float[n,2] y) {{ {body} }}"""


def _save(path: Path, body: str, opset: int = 17, **weights: tuple[int, ...]) -> Path:
    model = onnx.parser.parse_model(TEXT.format(opset=opset, body=body))
    values = {name: np.ones(shape, np.float32) for name, shape in weights.items()}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in values.items())
    path.write_bytes(model.SerializeToString())
    return path


def _data(path: Path, **arrays: np.ndarray) -> str:
    np.savez(path, **arrays)
    return str(path)


def bad_inputs(folder: Path) -> Iterator[tuple[str, list[str], str]]:
    """(what is wrong, arguments of hqp, a part of the error); files are made in ``folder``."""
    images = np.zeros((4, 1, 28, 28), np.uint8)
    labels = np.zeros(4, np.uint8)
    good = _data(folder / "good.npz", input=images, labels=labels)
    out = ["-o", str(folder / "out")]

    def optimize(model: object = GOOD, calib: str = good, val: str = good, *more: str) -> list[str]:
        return ["optimize", str(model), "--calib", calib, "--val", val, *out, *more]

    truncated, text, empty = (folder / name for name in ("truncated.onnx", "text.onnx", "empty.onnx"))
    truncated.write_bytes(GOOD.read_bytes()[:100_000])
    text.write_text("this is not a protobuf file, but a text of some length\n")
    empty.touch()
    yield "no such model", optimize(folder / "none.onnx"), "no such file"
    yield "a folder as the model", optimize(folder), "is a folder"
    yield "an empty model file", optimize(empty), "is empty"
    yield "a truncated model", optimize(truncated), "truncated"
    yield "a text file as the model", optimize(text), "not an ONNX model"
    yield "an .npz as the model", optimize(good), "not an ONNX model"
    linear = _save(folder / "linear.onnx", "y = Gemm<transB=1>(x, w)", w=(2, 3))
    old = _save(folder / "old.onnx", "y = MatMul(x, w)", 6, w=(3, 2))
    new = _save(folder / "new.onnx", "y = Gemm<transB=1>(x, w)", 99, w=(2, 3))
    yield "an opset that is too old", optimize(old), "opset 6"
    yield "an opset of the future", optimize(new), "opset 99"
    quantized = _save(
        folder / "q.onnx",
        "q = QuantizeLinear(x, s)\n d = DequantizeLinear(q, s)\n y = Gemm<transB=1>(d, w)",
        w=(2, 3),
        s=(),
    )
    yield (
        "a quantized model",
        ["quantize", str(quantized), "--precision", "fp16", "-o", str(folder / "h.onnx")],
        "already quantized",
    )
    broken = _save(folder / "broken.onnx", "y = Gemm<transB=1>(nowhere, w)", w=(2, 3))
    yield "a graph that reads an unknown tensor", optimize(broken), "not a valid ONNX model"
    nodeless = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] x) { }')
    (folder / "nodeless.onnx").write_bytes(nodeless.SerializeToString())
    yield "a graph without nodes", optimize(folder / "nodeless.onnx"), "no nodes"
    del nodeless.graph.output[:]
    nodeless.graph.node.add(op_type="Relu", input=["x"], output=["y"])
    (folder / "no_outputs.onnx").write_bytes(nodeless.SerializeToString())
    yield "a graph without outputs", ["inspect", str(folder / "no_outputs.onnx")], "no outputs"
    share = ["quantize", str(GOOD), "--data", good, "--int4-weights", "nan", "-o", str(folder / "q.onnx")]
    yield "a share that is no number", share, "--int4-weights nan: expected a share"
    mismatch = _save(folder / "mismatch.onnx", "y = Gemm<transB=1>(x, w)", w=(2, 7))
    rows = _data(folder / "rows.npz", x=np.ones((4, 3), np.float32), labels=labels)
    yield "weights that do not fit", optimize(mismatch, rows, rows), "mismatch.onnx"
    custom = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "acme" : 1]> g (float[n,3] x) => (float[n,3] y) { y = acme.Frob(x) }'
    )
    (folder / "custom.onnx").write_bytes(custom.SerializeToString())
    yield "an operator that onnxruntime lacks", optimize(folder / "custom.onnx"), "Frob"
    external = onnx.load(linear)
    onnx.save_model(
        external, folder / "external.onnx", save_as_external_data=True, location="gone.data", size_threshold=0
    )
    (folder / "gone.data").unlink()
    yield "external data that are missing", optimize(folder / "external.onnx"), "external data"

    yield "no such data", optimize(calib=str(folder / "none.npz")), "no such file"
    (folder / "corrupt.npz").write_bytes(Path(good).read_bytes()[:100])
    yield "a corrupt .npz", optimize(calib=str(folder / "corrupt.npz")), "corrupt.npz"
    yield (
        "an array under another name",
        optimize(calib=_data(folder / "name.npz", image=images, labels=labels)),
        "'input'",
    )
    yield "a wrong shape", optimize(calib=_data(folder / "shape.npz", input=images[:, :, :14], labels=labels)), "shape"
    yield "a wrong rank", optimize(calib=_data(folder / "rank.npz", input=images[:, 0], labels=labels)), "shape"
    yield (
        "complex values",
        optimize(calib=_data(folder / "dtype.npz", input=images.astype(complex), labels=labels)),
        "complex",
    )
    nan = images.astype(np.float32)
    nan[2, 0, 3, 3] = np.nan
    yield "NaN in the data", optimize(val=_data(folder / "nan.npz", input=nan, labels=labels)), "NaN"
    yield (
        "a label that is no class",
        optimize(val=_data(folder / "label.npz", input=images, labels=labels + 10)),
        "label 10",
    )
    yield (
        "a negative label",
        optimize(val=_data(folder / "negative.npz", input=images, labels=np.full(4, -1))),
        "label -1",
    )
    yield (
        "fewer labels than samples",
        optimize(val=_data(folder / "fewer.npz", input=images, labels=labels[:3])),
        "labels",
    )
    unlabeled = optimize(val=_data(folder / "unlabeled.npz", input=images))
    yield "no labels", [*unlabeled, "--metric", "top1"], "no labels"
    yield "no samples", optimize(val=_data(folder / "nothing.npz", input=images[:0], labels=labels[:0])), "no samples"
    (folder / "images").mkdir()
    yield "an empty folder of images", optimize(calib=str(folder / "images")), "images"
    (folder / "photos" / "a").mkdir(parents=True)
    (folder / "photos" / "a" / "x.png").write_text("no image")
    preprocess = folder / "preprocess.json"
    preprocess.write_text(json.dumps({"size": 28, "color": "L", "mean": [0], "std": [1]}))
    yield (
        "a file that is no image",
        optimize(GOOD, str(folder / "photos"), good, "--preprocess", str(preprocess)),
        "x.png",
    )
    (folder / "bad.json").write_text("{")
    yield (
        "a preprocess file that is no JSON",
        optimize(GOOD, str(folder / "photos"), good, "--preprocess", str(folder / "bad.json")),
        "bad.json",
    )
    script = folder / "loader.py"
    script.write_text("def load_data():\n    raise RuntimeError('disk on fire')\n")
    yield "a data script that fails", optimize(calib=str(script)), "disk on fire"
    yield "a data script without the function", optimize(calib=f"{script}:other"), "other"

    yield "a confidence in percent", optimize(GOOD, good, good, "--confidence", "95"), "--confidence"
    yield "a budget above one", optimize(GOOD, good, good, "--max-drop", "15"), "--max-drop"
    yield "a step of zero", optimize(GOOD, good, good, "--step", "0"), "--step"
    yield "a width above one", optimize(GOOD, good, good, "--min-width", "2"), "--min-width"
    yield "an unknown saliency", optimize(GOOD, good, good, "--saliency", "magic"), "magic"
    yield "a refreshed ranking of bisect", optimize(GOOD, good, good, "--refresh", "5"), "--search linear"
    yield "a negative refresh", optimize(GOOD, good, good, "--search", "linear", "--refresh", "-1"), "--refresh -1"
    yield (
        "a refit of nothing",
        optimize(GOOD, good, good, "--refit", "in-order", "--no-compensate"),
        "without --compensate",
    )
    yield (
        "obs without its engine",
        optimize(GOOD, good, good, "--saliency", "obs", "--gradients", "ort-training"),
        "obs",
    )
    yield "an unknown target", optimize(GOOD, good, good, "--target", "abacus"), "abacus"
    yield "an engine for onnxruntime", optimize(GOOD, good, good, "--build"), "Use --target tensorrt"
    yield "an unknown metric", optimize(GOOD, good, good, "--metric", "f9"), "f9"
    yield "a metric file that is missing", optimize(GOOD, good, good, "--metric", str(folder / "m.py:f")), "m.py"
    (folder / "in_the_way").touch()
    yield "an output folder that is a file", [*optimize()[:-2], "-o", str(folder / "in_the_way")], "is a file"
    yield "a missing option", ["optimize", str(GOOD), "--calib", good, *out], "--val"
    yield "an unknown command", ["optimise"], "optimise"
    yield "a sparsity of one", ["prune", str(GOOD), "--sparsity", "1", "-o", str(folder / "p.onnx")], "--sparsity"
    yield (
        "a saliency without its data",
        ["prune", str(GOOD), "--sparsity", "0.1", "--saliency", "fisher", "-o", str(folder / "p.onnx")],
        "data",
    )
    yield (
        "compensation without data",
        ["prune", str(GOOD), "--sparsity", "0.1", "--compensate", "-o", str(folder / "p.onnx")],
        "--compensate",
    )
    yield (
        "bn-gamma without BatchNormalization",
        ["prune", str(GOOD), "--sparsity", "0.1", "--saliency", "bn-gamma", "-o", str(folder / "p.onnx")],
        "BatchNormalization",
    )
    yield "epochs below zero", optimize(GOOD, good, good, "--recover", "-1"), "--recover -1"
    yield (
        "epochs that are no number",
        optimize(GOOD, good, good, "--recover", "many"),
        "'many': expected a number of epochs",
    )
    yield "a time without recovery", optimize(GOOD, good, good, "--recover-time", "9m"), "--recover-time is for"
    yield (
        "no time for recovery",
        optimize(GOOD, good, good, "--recover", "auto", "--recover-time", "0"),
        "0: expected a time above 0",
    )
    yield "an augmentation without recovery", optimize(GOOD, good, good, "--augment", "flip"), "--augment is for"
    yield (
        "an unknown augmentation",
        optimize(GOOD, good, good, "--recover", "1", "--augment", "flip,rotate"),
        "--augment rotate",
    )
    det = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[n,3,3] x) => (float[n] y) { a = MatMul(x, w) y = Det(a) }'
    )
    det.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32), "w"))
    (folder / "det.onnx").write_bytes(det.SerializeToString())
    squares = _data(folder / "squares.npz", x=np.ones((60, 3, 3), np.float32), labels=np.zeros(60, np.uint8))
    metric = folder / "metric.py"
    metric.write_text("import numpy as np\n\n\ndef one(outputs, labels):\n    return np.ones(len(labels))\n")
    yield (
        "recovery through an operator without a gradient",
        optimize(folder / "det.onnx", squares, squares, "--recover", "1", "--metric", f"{metric}:one"),
        "Det node",
    )

    def recover(student: Path, data: str, *more: str) -> list[str]:
        return ["recover", str(student), "--teacher", str(GOOD), "--data", data, "-o", str(folder / "r.onnx"), *more]

    yield "a student of another model", recover(linear, good), "its inputs"
    yield "a student that is missing", recover(folder / "none.onnx", good), "no such file"
    one = _data(folder / "one.npz", input=images[:1])
    yield "too few samples to recover from", recover(GOOD, one), "too few"
    yield "a share of one held out", recover(GOOD, good, "--held-out", "1"), "held_out"
    yield (
        "no time to train",
        recover(GOOD, good, "--epochs", "auto", "--time-limit", "-1s"),
        "-1s: expected a time above 0",
    )
    yield "a ledger that is none", recover(GOOD, good, "--ledger", good), "not a ledger"
    yield "a batch of zero", ["benchmark", str(GOOD), "--batch", "0"], "--batch"
    yield from bad_reports(folder)
    yield from bad_configs(folder)
    yield "a shell that is none", ["completion", "csh"], "bash, zsh, fish"
    yield from bad_builds(folder)


def bad_reports(folder: Path) -> Iterator[tuple[str, list[str], str]]:
    """Folders that `hqp report` cannot show."""
    newer = '{"schema_version": 99}'
    written = (("no_json", "{"), ("foreign", "{}"), ("a_list", "[]"), ("newer", newer), ("bare", None))
    for name, text in written:
        (folder / name).mkdir()
        if text is not None:
            (folder / name / "report.json").write_text(text)
    yield "a folder without a report", ["report", str(folder / "bare")], "report.json: no such file"
    yield "a report that is cut off", ["report", str(folder / "no_json")], "not JSON"
    yield "a report of another kind", ["report", str(folder / "foreign")], "missing required field `model`"
    yield "a report that is a list", ["report", str(folder / "a_list")], "Expected `object`, got `array`"
    yield "a report of another version", ["report", str(folder / "newer")], "has schema 99, this version reads 3"


def bad_configs(folder: Path) -> Iterator[tuple[str, list[str], str]]:
    """Files that `hqp --config` cannot take."""
    wrong = {
        "no TOML": ("[optimize\n", "not TOML"),
        "an unknown section": ("[optimise]\nstep = 0.1\n", "unknown section [optimise]"),
        "an option outside a section": ("step = 0.1\n", "unknown section [step]"),
        "a command that is no section": ("optimize = 1\n", "expected a section [optimize]"),
        "an unknown key": ("[optimize]\nmax_dropp = 0.1\n", "no option 'max_dropp': expected one of"),
        "a number for a flag": ("[optimize]\nresume = 1\n", "expected true or false"),
        "a string for a number": ('[recover]\nrate = "0.1"\n', "expected a number"),
        "a fraction for a count": ("[benchmark]\nbatch = 1.5\n", "expected a whole number"),
        "true for a count": ("[benchmark]\nbatch = true\n", "expected a whole number"),
        "a number for a string": ("[optimize]\nmetric = 1\n", "expected a string"),
        "a string for a list": ('[optimize]\nkeep = "w"\n', "expected a list"),
        "an unknown choice": ('[optimize]\nsearch = "magic"\n', "[optimize] search"),
        "a value out of range": ("[benchmark]\nthreads = -1\n", "[benchmark] threads"),
    }
    for number, (what, (text, part)) in enumerate(wrong.items()):
        file = folder / f"bad{number}.toml"
        file.write_text(text)
        yield f"options in a file: {what}", ["--config", str(file), "doctor"], part
    yield "options in a file that is missing", ["--config", str(folder / "none.toml"), "doctor"], "none.toml"
