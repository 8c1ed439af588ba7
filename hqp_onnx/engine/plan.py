"""Which way a model becomes an engine, and why.

    implicit   float model; INT8 ranges from a calibrator or a cache. TensorRT fuses as it likes. The way of the DLA
               before 11.4; from TensorRT 11 on it does not exist.
    explicit   Q/DQ model, int8 weights; on TensorRT 8 its weights are float behind Q/DQ pairs.

INT8 is explicit where the parser takes int8 weights (10 on), implicit before, and either by choice. Implicit scales are
``own`` (KL ranges found here, written as a calibration cache: the same scales as in the Q/DQ model) on TensorRT 8 and
for a DLA, else ``tensorrt`` (its calibrator runs over the data), and ``cache`` where a cache was given. Where INT8
weights are multiplied in float, as by TensorRT for RTX, float16 is the precision that is taken if none is asked for.

FP8 (E4M3) is explicit and strongly typed, for GPUs from compute capability 8.9 on.
"""

from __future__ import annotations

from dataclasses import dataclass

from hqp_onnx.engine.cache import ALGORITHMS
from hqp_onnx.engine.capability import Capability
from hqp_onnx.engine.device import Compute, compute_text
from hqp_onnx.errors import UsageError

PRECISIONS = ("int8", "fp8", "fp16", "fp32")
PATHS = ("implicit", "explicit")
SCALES = ("own", "tensorrt")
_FLOAT8: Compute = (8, 9)  # the first GPUs that have it


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes:
        precision: int8, fp8, fp16, fp32, or None for the fastest that device and data allow.
        path: implicit, explicit, or None.
        scales: own, tensorrt, or None; for the implicit path.
        strongly_typed: ask for a strongly typed network.
        quantized: the model holds Q/DQ.
        float8: they are of float8.
        data: there are calibration data.
        method: of calibration; TensorRT's calibrator knows entropy and minmax.
        cache_named: a calibration cache was named, to read or to write.
        cache: that cache exists.
        dla: DLA core, or None.
        version_compatible, hardware_compatible, refit, weight_streaming: of the engine.
        timing_cache: a file of kernel times was named.
        for_gpu: compute capabilities; none for what the TensorRT takes by itself.
    """

    precision: str | None = None
    path: str | None = None
    scales: str | None = None
    strongly_typed: bool = False
    quantized: bool = False
    float8: bool = False
    data: bool = False
    method: str = "entropy"
    cache_named: bool = False
    cache: bool = False
    dla: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    refit: bool = False
    weight_streaming: bool = False
    timing_cache: bool = False
    for_gpu: tuple[Compute, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What will be done.

    Attributes:
        precision: int8, fp8, fp16 or fp32.
        path: implicit, explicit, or None where nothing is of 8 bits.
        scales: own, tensorrt, cache or model (its Q/DQ); None where nothing is of 8 bits.
        strongly_typed: the network is.
        flags: names of the builder flags, of weakly typed networks.
        half: the model is cast to float16 first.
        float_weights: weights of the Q/DQ model are stored as float.
        notes: what was decided, and why.
        for_gpu: compute capabilities to compile for; none for what the TensorRT takes by itself.
    """

    precision: str
    path: str | None
    scales: str | None
    strongly_typed: bool
    flags: tuple[str, ...]
    half: bool
    float_weights: bool
    notes: tuple[str, ...]
    for_gpu: tuple[Compute, ...] = ()


def choose(request: Request, able: Capability) -> Plan:
    """The plan for ``request`` where ``able``.

    Raises:
        UsageError: what was asked for does not exist there, or contradicts itself.
    """
    _check_compatibility(request, able)
    _check_dla(request, able)
    precision, notes = _precision(request, able)
    float8 = precision == "fp8"
    if float8:
        _check_float8(request, able)
    path = _path(request, able) if float8 or precision == "int8" else None
    _check_int8_options(request, path)
    strongly_typed = _typing(request, able, path) or float8
    fp16 = precision != "fp32" and (precision == "fp16" or able.device is None or able.device.fp16)
    flags = [name for name, on in (("INT8", precision == "int8"), ("FP16", fp16)) if on and not strongly_typed]
    half = strongly_typed and fp16
    if half:
        what = "what is not of 8 bits" if path else "the model"
        notes.append(f"strongly typed: {what} was cast to float16")
    float_weights = path == "explicit" and not able.int8_weights
    if float_weights:
        notes.append(f"{able.name} takes no int8 weights: they are stored as float behind Q/DQ pairs")
    scales = _scales(request, able, path)
    gpus = request.for_gpu or tuple(one for one in able.ahead if float8 and one >= _FLOAT8)
    return Plan(precision, path, scales, strongly_typed, tuple(flags), half, float_weights, tuple(notes), gpus)


def _check_compatibility(request: Request, able: Capability) -> None:
    for wanted, there, option, since in (
        (request.version_compatible, able.version_compatible, "{--version_compatible}", "8.6"),
        (request.hardware_compatible, able.hardware_compatible, "{--hardware_compatible}", "8.6"),
        (request.weight_streaming, able.weight_streaming, "{--weight_streaming}", "10"),
    ):
        if wanted and not there:
            raise UsageError(f"{option}: {able.name} cannot build such engines; TensorRT {since} and later can")
    if request.timing_cache and not able.timing_cache:
        raise UsageError(f"{{--timing_cache}}: {able.name} times no kernels when it builds. Leave it out")
    if request.refit and able.ahead and able.device is None:
        raise UsageError(f"{{--refit}}: {able.name} builds engines that can be refitted on a machine with a GPU only")
    _check_gpus(request.for_gpu, able)


def _check_gpus(wanted: tuple[Compute, ...], able: Capability) -> None:
    if wanted and not able.ahead:
        raise UsageError(
            f"{{--for_gpu}}: {able.name} builds for the GPU that is in the machine. Use {{--target}} tensorrt-rtx"
        )
    unknown = next((one for one in wanted if one not in able.ahead), None)
    if unknown is not None:
        known = ", ".join(map(compute_text, able.ahead))
        raise UsageError(f"{{--for_gpu}} {compute_text(unknown)}: {able.name} compiles for {known}")


def _check_float8(request: Request, able: Capability) -> None:
    """FP8 needs a TensorRT with strongly typed networks, and GPUs that have it."""
    if not able.strong:
        raise UsageError(f"{{--precision}} fp8: {able.name} has none; TensorRT 10 and later have. Use fp16")
    if request.path == "implicit" or request.cache_named or request.dla is not None:
        raise UsageError("{--precision} fp8: {--path} implicit, a calibration cache and the DLA are for int8 and fp16")
    here = () if able.ahead or able.device is None else (able.device.compute,)
    without = next((one for one in (*request.for_gpu, *here) if one < _FLOAT8), None)
    if without is not None:
        raise UsageError(
            f"{{--precision}} fp8: GPUs of compute capability {compute_text(without)} have none, those from "
            f"{compute_text(_FLOAT8)} on do. Use {{--precision}} fp16, with the float model"
        )


def _check_dla(request: Request, able: Capability) -> None:
    if request.dla is None:
        return
    if able.dla_cores is not None and request.dla >= able.dla_cores:
        raise UsageError(f"{{--dla}} {request.dla}: this device has {able.dla_cores} DLA cores, counted from 0")
    if request.precision == "fp32":
        raise UsageError("{--dla}: a DLA computes in INT8 and FP16 only. Use {--precision} int8 or fp16")
    if request.method == "minmax" and request.scales == "tensorrt":
        raise UsageError(
            "{--dla}: its compiler takes TensorRT's entropy calibrator only. Leave {--scales} or {--calibration} out"
        )
    if request.hardware_compatible or request.version_compatible:
        raise UsageError("{--dla}: engines for a DLA fit one device and version. Leave the compatibility options out")


def _precision(request: Request, able: Capability) -> tuple[str, list[str]]:
    device = able.device
    no_int8 = device is not None and not device.int8
    reason = f"{device.name} (compute capability {device.capability}) has no INT8" if device else ""
    if request.quantized:
        held = "fp8" if request.float8 else "int8"
        if request.precision not in (None, held):
            raise UsageError(
                f"{{--precision}} {request.precision}: the model is {held.upper()} already (Q/DQ). Give the float model"
            )
        if no_int8 and not request.float8:
            raise UsageError(f"{reason}, and the model holds Q/DQ. Give the float model, with {{--precision}} fp16")
        return held, []
    if request.precision == "int8" and no_int8:
        raise UsageError(f"{{--precision}} int8: {reason}. Use {{--precision}} fp16")
    if request.precision is not None:
        return request.precision, []
    calibrated = request.data or request.cache
    if able.weight_only:
        return "fp16", [
            f"fp16: {able.name} multiplies INT8 weights in float, so INT8 saves memory and no time; "
            "ask for precision int8 if that is what matters, or for fp8, which GPUs from 8.9 on compute in"
        ] * calibrated
    if calibrated and not no_int8:
        return "int8", []
    best = "fp16" if device is None or device.fp16 else "fp32"
    return best, [
        f"INT8 refused: {reason}; {best} instead" if no_int8 else f"{best}: INT8 needs calibration data or Q/DQ"
    ]


def _path(request: Request, able: Capability) -> str:
    for_dla = request.dla is not None and not able.dla_qdq
    if request.quantized and (request.path == "implicit" or request.cache_named or for_dla):
        raise UsageError("the model holds Q/DQ: {--path} implicit, a cache and the DLA take the float model. Give that")
    if request.path == "explicit" and (request.cache_named or for_dla):
        what = (
            "a DLA takes Q/DQ from TensorRT 11.4 on only" if for_dla else "its scales are in the model, not in a cache"
        )
        raise UsageError(f"{{--path}} explicit: {what}. Use {{--path}} implicit, where TensorRT has it (up to 10)")
    wanted = "implicit" if request.cache_named or for_dla else request.path
    if wanted == "implicit" and not able.implicit:
        raise UsageError(
            f"{able.name} has no implicit INT8: " + ("use {--precision} fp16" if for_dla else "leave the option out")
        )
    path = wanted or ("explicit" if able.int8_weights or request.quantized else "implicit")
    if not (request.quantized or request.data or request.cache):
        kind = "FP8" if request.precision == "fp8" else "INT8"
        raise UsageError(f"{kind} needs calibration data: add {{--data}} DATA, or give a model with Q/DQ")
    return path


def _check_int8_options(request: Request, path: str | None) -> None:
    """Options that only some INT8 takes; where INT8 was refused and not asked for, they mean nothing."""
    if path != "implicit" and request.scales is not None:
        raise UsageError(f"{{--scales}} {request.scales}: only the implicit path has a choice. Add {{--path}} implicit")
    if request.precision in ("fp16", "fp32") and (request.path is not None or request.cache_named):
        raise UsageError(
            f"{{--precision}} {request.precision}: {{--path}} and {{--calibration_cache}} are for int8. Leave them out"
        )


def _typing(request: Request, able: Capability, path: str | None) -> bool:
    if request.strongly_typed and not able.strong:
        raise UsageError(f"{{--strongly_typed}}: {able.name} has weakly typed networks only")
    if request.strongly_typed and path == "implicit":
        raise UsageError("{--strongly_typed}: the implicit path is weakly typed. Use {--path} explicit")
    return request.strongly_typed or not able.weak


def _scales(request: Request, able: Capability, path: str | None) -> str | None:
    if path != "implicit":
        return None if path is None else "model" if request.quantized else "own"
    if request.cache:
        return "cache"
    here = able.device is not None
    if request.scales == "tensorrt" and not here:
        raise UsageError(
            "{--scales} tensorrt: its calibrator needs the GPU, and {--elsewhere} prepares a build elsewhere"
        )
    scales = request.scales or ("tensorrt" if here and able.int8_weights and request.dla is None else "own")
    if scales == "tensorrt" and request.method not in ALGORITHMS:
        known = " and ".join(ALGORITHMS)
        raise UsageError(
            f"{{--calibration}} {request.method}: TensorRT's calibrators are {known}. Add {{--scales}} own"
        )
    return scales
