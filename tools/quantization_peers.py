"""One quantizer in its own process: reads a float model and samples, writes the INT8 model, prints its peak memory.

    PYTHON tools/quantization_peers.py NAME TARGET MODEL.onnx CALIB.npz OUT

PYTHON is any interpreter that has the quantizer. The peers (`make peers`) need none of hqp_onnx.
NAME is a key of ``QUANTIZERS``, TARGET onnxruntime or openvino: the peers that know several are told. CALIB.npz holds
one array, named as the model's input, and ``labels``. The last line is JSON; seconds are the processor's. Memory is
limited to ``LIMIT``, so a quantizer that keeps every activation fails instead of the machine.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter

BATCH = 25
LIMIT = 12 << 30
Quantizer = Callable[[str, Path, Path, Path], None]


def samples(calib: Path) -> Iterator[dict[str, np.ndarray]]:
    """Batches; pixels become float32 when they are asked for."""
    with np.load(calib) as arrays:
        name = next(key for key in arrays.files if key != "labels")
        x = arrays[name]
    for start in range(0, len(x), BATCH):
        yield {name: x[start : start + BATCH].astype(np.float32)}


def inference(target: str, model: Path, calib: Path, out: Path) -> None:
    """The float model run on the data: what memory takes without any calibration."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    for feeds in samples(calib):
        session.run(None, feeds)
    out.write_bytes(model.read_bytes())


def ours(method: str = "entropy", precision: str = "int8", **recipe: float) -> Quantizer:
    def run(target: str, model: Path, calib: Path, out: Path) -> None:
        from hqp_onnx.progress import silent
        from hqp_onnx.steps.quantize import quantize_file

        given = None if "int4_weights" in recipe else precision
        quantize_file(model, out, str(calib), target, method, None, silent, precision=given, **recipe)

    return run


def by_budget(target: str, model: Path, calib: Path, out: Path) -> None:
    """INT4 in as many weights as lose none of the right answers on the calibration samples, INT8 weights elsewhere."""
    ours(int4_weights="auto", int4_convs=True, val=str(calib), max_drop=0.0)(target, model, calib, out)


def int8_weights(target: str, model: Path, calib: Path, out: Path) -> None:
    """All weights in INT8, activations in float: the other end of ``by_budget``."""
    from hqp_onnx.graphs.model_io import save, to_proto
    from hqp_onnx.model import open_data, open_model
    from hqp_onnx.passes.fold_batchnorm import fold_batchnorm
    from hqp_onnx.passes.store_weights import weights_in_int8
    from hqp_onnx.statistics.moments import input_moments

    opened = open_model(model)
    graph = fold_batchnorm(opened.graph).graph
    moments = input_moments(to_proto(graph), None, open_data(opened, str(calib)))
    save(weights_in_int8(graph, moments).graph, out)


def quantize_static(method: str, *, chunks: bool = True) -> Quantizer:
    """2048 bins for Entropy; in ``chunks`` of data, or it keeps the activations of all."""

    def run(target: str, model: Path, calib: Path, out: Path) -> None:
        from onnxruntime import quantization as q

        module = importlib.import_module("onnxruntime.quantization.quantize")  # a function shadows its name

        class Reader(q.CalibrationDataReader):
            def __init__(self, batches: Iterator[dict[str, np.ndarray]]) -> None:
                self.batches = batches

            def get_next(self) -> dict[str, np.ndarray] | None:
                return next(self.batches, None)

        def create(*given, extra_options, **named):  # quantize_static itself takes no number of bins: 128 by 128
            made = plain(*given, extra_options={**extra_options, "num_bins": 2048, "num_quantized_bins": 128}, **named)
            collect = made.collect_data

            def in_chunks(reader: Reader) -> None:
                while part := list(islice(reader.batches, 2)):
                    collect(Reader(iter(part)))

            if chunks:
                made.collect_data = in_chunks
            return made

        plain = module.create_calibrator
        if method == "Entropy":
            module.create_calibrator = create
        q.quantize_static(
            preprocessed(model, out),
            str(out),
            Reader(samples(calib)),
            quant_format=q.QuantFormat.QDQ,
            per_channel=True,
            activation_type=q.QuantType.QUInt8,
            weight_type=q.QuantType.QInt8,
            calibrate_method=getattr(q.CalibrationMethod, method),
        )

    return run


def preprocessed(model: Path, out: Path) -> str:
    """File of the model as onnxruntime prepares it for quantization."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    return str(prepared)


def nncf(*, controlled: bool) -> Quantizer:
    """Of an onnx model for onnxruntime, of an OpenVINO model for openvino: NNCF's own way to each.

    Accuracy control looks at the calibration samples, and allows its default of one point.
    """

    def run(target: str, model: Path, calib: Path, out: Path) -> None:
        import nncf as library
        import openvino as ov

        native = target == "openvino"
        source = ov.Core().read_model(str(model)) if native else onnx.load(model)
        with np.load(calib) as arrays:
            name = next(key for key in arrays.files if key != "labels")
            items = list(zip(arrays[name], arrays["labels"], strict=True))
        data = library.Dataset(items, lambda item: {name: item[0][None].astype(np.float32)})
        make, more = library.quantize, ()
        if controlled:
            make, more = library.quantize_with_accuracy_control, (data, lambda *given: hits(name, *given))
        quantized = make(source, data, *more, subset_size=len(items))
        ov.save_model(quantized, out, compress_to_fp16=False) if native else onnx.save(quantized, out)

    return run


def hits(name: str, model, items) -> tuple[float, list[float]]:
    """Top-1 of an onnx model, or of a compiled OpenVINO model, and whether each item is right."""
    if isinstance(model, onnx.ModelProto):
        import onnxruntime as ort

        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        answers = (session.run(None, {name: x[None].astype(np.float32)})[0] for x, _ in items)
        pairs = zip(answers, items, strict=True)
        right = [float(answer.argmax() == label) for answer, (_, label) in pairs]
    else:
        right = [float(model({name: x[None].astype(np.float32)})[0].argmax() == label) for x, label in items]
    return float(np.mean(right)), right


def neural_compressor(target: str, model: Path, calib: Path, out: Path) -> None:
    from onnx_neural_compressor import data_reader
    from onnx_neural_compressor.quantization import QuantFormat, config, quantize

    class Reader(data_reader.CalibrationDataReader):
        def __init__(self) -> None:
            self.rewind()

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

        def rewind(self) -> None:
            self.feeds = samples(calib)

    chosen = config.StaticQuantConfig(Reader(), quant_format=QuantFormat.QDQ, per_channel=True)
    quantize(preprocessed(model, out), str(out), chosen)


def matmul_nbits(target: str, model: Path, calib: Path, out: Path) -> None:
    """INT4 weights of onnxruntime, those of MatMul, in blocks of 32, to nearest."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    made = MatMulNBitsQuantizer(onnx.load(preprocessed(model, out)), bits=4, block_size=32, is_symmetric=True)
    made.process()
    made.model.save_model_to_file(str(out))


def nncf_weights(**options: bool) -> Quantizer:
    """INT4 weights of NNCF, in groups of 32, those of MatMul: for Conv and Gemm, 3.4 writes scales that do not load."""

    def run(target: str, model: Path, calib: Path, out: Path) -> None:
        import nncf as library

        data = library.Dataset(list(samples(calib)), lambda feeds: feeds) if options else None
        mode = library.CompressWeightsMode.INT4_SYM
        scope = library.IgnoredScope(types=["Conv", "Gemm"], validate=False)
        named = {"mode": mode, "group_size": 32, "all_layers": True, "ignored_scope": scope, "dataset": data, **options}
        onnx.save(library.compress_weights(onnx.load(preprocessed(model, out)), **named), out)

    return run


def onnxsim_int8(target: str, model: Path, calib: Path, out: Path) -> None:
    """Static INT8 of onnxsim, of all that it can quantize; its AdaRound and BRECQ are for INT4 weights alone."""
    import onnxsim

    simple, _ = onnxsim.simplify(onnx.load(model))
    onnx.save(onnxsim.quantize_static(simple, calibration_data=list(samples(calib)), full_graph=True), out)


def onnxsim_int4(apply: str = "", **given: object) -> Quantizer:
    """INT4 weights of onnxsim, in blocks of 32, to nearest, or then moved by one of its functions with its defaults."""

    def run(target: str, model: Path, calib: Path, out: Path) -> None:
        import onnxsim

        newer = onnx.version_converter.convert_version(onnx.load(model), 21)  # of older ones it changes nothing
        simple, _ = onnxsim.simplify(newer)
        made = onnxsim.quantize_weight_only_int4(simple)
        if not apply:
            onnx.save(made, out)
            return
        blocks = {"blocks": residual_blocks(simple)} if apply == "apply_brecq" else {}
        moved = getattr(onnxsim, apply)(simple, made, **blocks, **given, calibration_data=list(samples(calib)))
        if moved.SerializeToString() == made.SerializeToString():
            sys.exit(f"onnxsim's {apply} changed nothing: it found no layer of its kind")
        onnx.save(moved, out)

    return run


def residual_blocks(model: onnx.ModelProto) -> list[tuple[str, str]]:
    """From each sum to the next, and from each LayerNormalization to the next sum: what BRECQ may take for a block."""
    starts, blocks = [model.graph.input[0].name], []
    for node in model.graph.node:
        if node.op_type == "Add":
            blocks += [(start, node.output[0]) for start in starts]
            starts = [node.output[0]]
        elif node.op_type == "LayerNormalization":
            starts.append(node.output[0])
    return blocks


PLAIN = {"equalize": False, "correct_bias": False, "round_weights": False}
INT4 = {"int4_weights": 1.0, "int4_convs": True}
QUANTIZERS: dict[str, Quantizer] = {
    "fp32": inference,
    "ours mixed": ours(precision="mixed"),
    "ours": ours(),
    "ours minmax": ours("minmax"),
    "ours percentile": ours("percentile"),
    "ours mse": ours("mse"),
    "ours plain": ours(**PLAIN),
    "ours minmax plain": ours("minmax", **PLAIN),
    "ours INT4": ours(**INT4),
    "ours INT4, by budget": by_budget,
    "ours INT8 weights": int8_weights,
    "ours INT4, each alone": ours(**INT4, in_order=False),
    "ours INT4, nearest": ours(**INT4, round_weights=False),
    "quantize_static MinMax": quantize_static("MinMax"),
    "quantize_static Entropy": quantize_static("Entropy"),
    "quantize_static Entropy whole": quantize_static("Entropy", chunks=False),
    "NNCF": nncf(controlled=False),
    "NNCF accuracy control": nncf(controlled=True),
    "neural-compressor": neural_compressor,
    "onnxsim INT8": onnxsim_int8,
    "onnxruntime INT4": matmul_nbits,
    "NNCF INT4": nncf_weights(),
    "NNCF INT4, AWQ, scales": nncf_weights(awq=True, scale_estimation=True),
    "onnxsim INT4": onnxsim_int4(),
    "onnxsim INT4, AdaRound": onnxsim_int4("apply_adaround"),
    "onnxsim INT4, AdaRound on a graph": onnxsim_int4("apply_adaround", step_providers=["CPUExecutionProvider"]),
    "onnxsim INT4, BRECQ": onnxsim_int4("apply_brecq"),
    "onnxsim INT4, GPTQ": onnxsim_int4("apply_gptq"),
}


def peak_mib() -> float:
    """Largest resident size of this process; getrusage would count that of the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def main() -> None:
    name, target, *paths = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    QUANTIZERS[name](target, *map(Path, paths))
    print(json.dumps({"peak_mib": peak_mib(), "seconds": time.process_time()}))


if __name__ == "__main__":
    main()
