"""How to run what an optimization wrote: commands for each runtime, with the paths and input names of this model."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hqp_onnx.engine.library import TENSORRT_RTX, of_engine
from hqp_onnx.engine.trtexec import shape_text
from hqp_onnx.errors import DataError
from hqp_onnx.job.results import ModelInput, Report
from hqp_onnx.runtimes.ethos.vela import ETHOS
from hqp_onnx.runtimes.litert.session import SUFFIX as TFLITE
from hqp_onnx.runtimes.nvidia import CUDA
from hqp_onnx.runtimes.qnn.chips import chip_of, is_chip
from hqp_onnx.runtimes.qnn.context import SUFFIX as CONTEXT

_INT8 = ("int8.onnx", "q8_only.onnx", "int8_everywhere.onnx")
_FLOAT32 = ("pruned.onnx", "baseline.onnx")


@dataclass(frozen=True)
class Recipe:
    """Commands (``language``: python or sh) under a title, and what to know of them."""

    title: str
    language: str
    code: str
    remark: str = ""


def recipes(report: Report, folder: Path) -> list[Recipe]:
    """Commands for the files in ``folder``, OUT/.

    Args:
        report: says which model ships, and its inputs.
        folder: as commands should name it.

    Raises:
        DataError: the model that ships is not there.
    """
    inputs, model = report.inputs, _shipped(report, folder)
    threads, target = report.rows[report.ships].threads, report.request.target
    runtimes = {
        "onnxruntime": _onnxruntime(model, inputs, threads if target == "onnxruntime" else 0, _provider(target)),
        "openvino": _openvino(model, inputs, threads if target == "openvino" else 0),
        "tensorrt": _tensorrt(target, folder, model, inputs),
        "polygraphy": _polygraphy(model, inputs),
    }
    made = model.with_suffix(TFLITE)
    if Path(report.shipped).suffix == TFLITE and made.is_file():
        runtimes[target] = _ethos(made) if target.startswith(ETHOS) else _litert(made, threads)
    if is_chip(target) and (made := model.with_suffix(CONTEXT)).is_file():
        runtimes[target] = _qnn(made, inputs, target)
    first = next((name for name in runtimes if target.startswith(name)), "onnxruntime")  # what it was made for
    return [runtimes.pop(first), *runtimes.values(), _compare(Path(report.model), model)]


def _shipped(report: Report, folder: Path) -> Path:
    file = folder / report.files[report.ships]
    if not file.is_file():
        raise DataError(f"{file}: no such file: expected what `hqp optimize` wrote beside its report")
    return file


def _provider(target: str) -> str:
    """Of onnxruntime; "" where it chooses itself."""
    return CUDA if target == "cuda" else target.partition(":")[2] if target.startswith("onnxruntime:") else ""


def _onnxruntime(model: Path, inputs: Sequence[ModelInput], threads: int, provider: str) -> Recipe:
    code, options, remark = "import numpy as np\nimport onnxruntime as ort\n\n", "", ""
    if threads:
        code += f"options = ort.SessionOptions()\noptions.intra_op_num_threads = {threads}\n"
        options = ", options"
        remark = f"It is fastest on {_threads(threads)}; the file says so itself where ORT_LOAD_CONFIG_FROM_MODEL is 1."
    if provider:
        options += f", providers=[{provider!r}, 'CPUExecutionProvider']"
        remark = (
            "A provider that comes as a plug-in is registered first, and given by its devices: "
            "register_execution_provider_library, SessionOptions.add_provider_for_devices."
        )
        remark = "" if provider == CUDA else remark
    code += f"session = ort.InferenceSession({str(model)!r}{options})\n"
    return Recipe("onnxruntime", "python", code + f"outputs = session.run(None, {_feeds(inputs)})", remark)


def _threads(count: int) -> str:
    return "one thread" if count == 1 else f"{count} threads"


def _litert(model: Path, threads: int) -> Recipe:
    settings = f", num_threads={threads}" if threads else ""
    code = "import numpy as np\nfrom ai_edge_litert.interpreter import Interpreter\n\n"
    code += f"model = Interpreter(model_path={str(model)!r}{settings})\nmodel.allocate_tensors()\n"
    code += "for x in model.get_input_details():\n"
    code += '    model.set_tensor(x["index"], np.zeros(x["shape"], x["dtype"]))\n'
    code += 'model.invoke()\noutputs = [model.get_tensor(y["index"]) for y in model.get_output_details()]'
    return Recipe("LiteRT", "python", code, "One sample at a time; images have their channels last in this file.")


def _ethos(model: Path) -> Recipe:
    code = _line(["xxd", "-i", str(model)]) + " > model.h"
    remark = "Vela has compiled it: compile the array into a program with LiteRT for Microcontrollers and Arm's driver."
    return Recipe("Ethos-U", "sh", code, remark)


def _qnn(model: Path, inputs: Sequence[ModelInput], target: str) -> Recipe:
    chip, name = chip_of(target), "QNNExecutionProvider"
    code = "import numpy as np\nimport onnxruntime as ort\nimport onnxruntime_qnn as qnn\n\n"
    code += f"ort.register_execution_provider_library({name!r}, qnn.get_library_path())\n"
    code += f"devices = [device for device in ort.get_ep_devices() if device.ep_name == {name!r}][:1]\n"
    code += (
        f'settings = {{"backend_path": qnn.get_qnn_htp_path(), "htp_arch": "{chip.arch}", "soc_model": "{chip.soc}"}}\n'
    )
    code += "options = ort.SessionOptions()\noptions.add_provider_for_devices(devices, settings)\n"
    code += f"session = ort.InferenceSession({str(model)!r}, options)\n"
    remark = (
        "On the chip; elsewhere it is emulated. The file holds what was compiled for that chip, one sample at a time."
    )
    return Recipe("Qualcomm HTP", "python", code + f"outputs = session.run(None, {_feeds(inputs)})", remark)


def _openvino(model: Path, inputs: Sequence[ModelInput], threads: int) -> Recipe:
    settings = f', {{"INFERENCE_NUM_THREADS": {threads}}}' if threads else ""
    code = "import numpy as np\nimport openvino as ov\n\n"
    code += f'model = ov.Core().compile_model({str(model)!r}, "CPU"{settings})\n'
    timed = ["benchmark_app", "-m", str(model), "-hint", "latency", *_openvino_shapes(inputs)]
    remark = f"Its own timing: {_line([*timed, *(['-nthreads', str(threads)] if threads else [])])}"
    return Recipe("OpenVINO", "python", code + f"outputs = model({_feeds(inputs)})", remark)


def _openvino_shapes(inputs: Sequence[ModelInput]) -> list[str]:
    dynamic = [f"{x.name}[{','.join(map(str, x.sample))}]" for x in inputs if None in x.shape]
    return ["-shape", ",".join(dynamic)] if dynamic else []


def _feeds(inputs: Sequence[ModelInput]) -> str:
    """A dictionary of zeros, as Python."""
    return "{" + ", ".join(f"{x.name!r}: np.zeros({x.sample}, np.{x.dtype})" for x in inputs) + "}"


def _tensorrt(laid_out: str, folder: Path, model: Path, inputs: Sequence[ModelInput]) -> Recipe:
    shapes = [f"{x.name}:{shape_text(x.sample)}" for x in inputs if None in x.shape]
    shape_flags = [f"--shapes={','.join(shapes)}"] if shapes else []
    engine = folder / "model.engine"
    if engine.is_file() and of_engine(engine) is TENSORRT_RTX:
        code = f"POLYGRAPHY_USE_TENSORRT_RTX=1 {_line(['polygraphy', 'run', str(engine), '--trt'])}"
        remark = "It runs on the RTX GPUs that it was compiled for: model.engine.json names them."
        return Recipe("TensorRT for RTX: the engine", "sh", code, remark)
    if engine.is_file():
        code = _line(["trtexec", f"--loadEngine={engine}", *shape_flags]) + "\n"
        code += _line(["polygraphy", "run", str(engine), "--trt"])
        return Recipe("TensorRT: the engine", "sh", code, "It runs on the GPU and TensorRT that built it.")
    source, flag = model, "--int8"
    remark = "TensorRT 11 takes no precision flag: leave it out."
    if model.name not in _INT8 or laid_out != "tensorrt":
        source, flag = (model if model.name in _FLOAT32 else folder / "pruned.onnx"), "--fp16"
    if source != model and model.name in _INT8:
        remark += f" {model.name} is laid out for {laid_out}: --target tensorrt gives one for TensorRT."
    words = ["trtexec", f"--onnx={source}", flag, *shape_flags, f"--saveEngine={engine}"]
    return Recipe("TensorRT", "sh", _line(words), remark + " For a Jetson: hqp build --for VERSION.")


def _polygraphy(model: Path, inputs: Sequence[ModelInput]) -> Recipe:
    shapes = [f"{x.name}:[{','.join(map(str, x.sample))}]" for x in inputs if None in x.shape]
    code = _line(["polygraphy", "run", str(model), "--onnxrt", *(["--input-shapes", *shapes] if shapes else [])])
    remark = "On random inputs; --data-loader-script takes real ones (hqp data-loader writes it), --trt adds TensorRT."
    return Recipe("Polygraphy", "sh", code, remark)


def _compare(original: Path, model: Path) -> Recipe:
    pruned = model.with_name("pruned.onnx")
    chain = [str(path) for path in dict.fromkeys((original, pruned if pruned.is_file() else model, model))]
    return Recipe(
        "hqp compare", "sh", _line(["hqp", "compare", *chain, "--data"]) + " DATA", "Layer by layer, on your data."
    )


def _line(words: Sequence[str]) -> str:
    return " ".join(shlex.quote(word) for word in words)
