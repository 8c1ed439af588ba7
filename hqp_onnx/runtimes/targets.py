"""What each runtime runs well in INT8: number formats, and which tensors carry a quantize/dequantize (Q/DQ) pair.

A target is a layout and the runtime that models are measured on: ``onnxruntime``, ``openvino``, ``tensorrt``,
``tensorrt-rtx``, ``litert``, ``ethos-u55-256``, ``qnn``, ``rk3588`` and their kin, or ``onnxruntime:PROVIDER`` for any
execution provider, ``cuda`` for onnxruntime's CUDA provider. Others come by an entry point in the group
``hqp_onnx.targets``, or as ``FILE.py:name``: a ``Target``, or a function without arguments that returns one.
``dataclasses.replace(target("onnxruntime"), name="mine", ...)`` makes another of one that exists.

Activations are ``real = scale * (q - zero)``; weights are symmetric int8, one scale per output channel:

    uint8, asymmetric   scale = (hi - lo) / 255,  zero = round(-lo / scale)     range [lo, hi], 0 inside
    int8, symmetric     scale = t / 127,          zero = 0                      range [-t, t]

onnxruntime (x86, Arm). u8 activations by s8 weights is the pairing that its integer kernels are written for. A Conv
becomes QLinearConv only if its input, weight, int32 bias and output all carry pairs; Relu and Clip vanish into the
output's pair. A Gemm or MatMul needs no output pair. Elementwise float operators (HardSwish, HardSigmoid, gates)
have no integer kernel that pays, and stay in float.

TensorRT. Symmetric int8 with zero zero-points, pairs on the inputs of Conv, ConvTranspose, Gemm, MatMul and of a
residual Add, nothing between a Conv and its activation, float bias. Where a Conv alone feeds the Add, only the other
input has a pair, since the Conv takes in the sum if nothing stands between them (NVIDIA, "Explicit Quantization").
Weights are int8 initializers behind a DequantizeLinear: documented for TensorRT 10 and 11; parsers of TensorRT 8
refuse int8 initializers. TensorRT for RTX takes the same files, and multiplies INT8 weights in float. There, a pair in
front of a depthwise convolution makes its weights grow to 90 times their INT8 bytes, of two channels a group to 17
times, of four and more not at all (``tools/check_tensorrt.py``), so narrow groups stay in float.

OpenVINO (x86, Arm). u8 activations by s8 weights again, but an activation of any kind is computed inside the
convolution before it, so nothing may stand between the two: pairs on the inputs of Conv, ConvTranspose, Gemm and
MatMul, float bias. A residual Add becomes part of a convolution if both its inputs carry pairs; behind anything else
nothing is gained, and low-precision passes (2026.4) throw on some (attention masks, sums of embeddings). Symmetric
int8 is slower, and wrong on some Concats.

LiteRT. int8 activations with a zero-point, the uint8 of a pair less 128; int32 bias; a kernel takes integers alone or
floats alone, so all that stands between two convolutions is quantized where there is a kernel for it, or else costs a
DEQUANTIZE and a QUANTIZE. Poolings, and what only moves values, keep their scales. A product by a constant matrix takes
in the bias that is added behind it; other products, MatMul of two activations, stay in float.

Qualcomm HTP, by onnxruntime's QNN provider: LiteRT's places, in uint8 with a zero-point. A node is computed in integers
only if its inputs and its output all carry pairs. At TensorRT's places, weights are restored on the CPU, and products
are in float16; at onnxruntime's, a Gemm is left to the CPU (``tools/check_targets.py``). What has no pairs (softmax,
layer normalization, GELU) is in float16. Channels lie in blocks of 32.

Rockchip. LiteRT's places, once more: at TensorRT's, its compiler crashes on some models. It quantizes by itself where
it has samples (``rockchip.runtime``). Channels lie in blocks of 16.

A product by a constant matrix may instead quantize what it reads as it comes (``dynamic``, in
``passes.quantize_dynamic``), for which onnxruntime has kernels on the CPU.

Execution providers of onnxruntime take the layout of the library behind them, or else onnxruntime's own.

Saturation. Without VNNI, x86 kernels add two u8*s8 products in int16: 2 * 255 * 127 overflows, 2 * 255 * 64 = 32640
does not. ``reduced_range`` therefore limits weights to [-64, 64] (7 bits).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import onnx

from hqp_onnx.counts import article
from hqp_onnx.errors import UsageError
from hqp_onnx.registry import Registry, outside_code
from hqp_onnx.runtimes.ethos.runtime import EthosU
from hqp_onnx.runtimes.ethos.vela import ETHOS, chip_of
from hqp_onnx.runtimes.litert.runtime import LiteRt
from hqp_onnx.runtimes.machine import saturates
from hqp_onnx.runtimes.nvidia import CUDA
from hqp_onnx.runtimes.qnn.chips import QNN, is_chip
from hqp_onnx.runtimes.qnn.chips import chip_of as htp_of
from hqp_onnx.runtimes.qnn.runtime import Qnn
from hqp_onnx.runtimes.rockchip.runtime import CHIPS, Rockchip
from hqp_onnx.runtimes.runtime import OnnxRuntime, OpenVino, Runtime

FLOAT8 = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.FLOAT8E4M3FN)


@dataclass(frozen=True)
class Target:
    """How to quantize for one runtime.

    Attributes:
        name: as given to ``target``.
        symmetric: activations are int8 with zero-point 0; else uint8 with a zero-point.
        int32_bias: biases are int32 of scale (input scale * weight scale); else they stay float.
        weighted: operators that get pairs on their inputs and an int8 weight.
        residual: operators of two activations of equal shape, which get pairs on both inputs.
        residual_behind: quantized operators, one of which must give such an input; empty for any input.
        fuses_sum: a residual sum of what a convolution alone gives becomes part of it, without a pair in between.
        outputs: operators whose output gets a pair, behind an ``absorbed`` activation that is its only consumer.
        absorbed: activations that vanish into the pair that follows them.
        follows: operators computed in INT8, with an output pair, where all their inputs carry pairs.
        same_range: operators that move values without changing them: their output shares the input's range.
        spoiled: operators that the runtime merges with a pair behind them, and then computes wrongly.
        channel_multiple: channel counts that are multiples of it waste no lane of the integer kernels.
        folds_constants: nodes over constants alone are computed when a model is loaded, so weights of float
            operators can be stored as int8 behind Cast and Mul.
        stores_gates: so can those of LSTM, GRU and RNN.
        min_opset: lowest opset whose operators express the model; lower ones are converted up.
        max_opset: highest opset that the runtime is known to read.
        runtime: what loads and runs its models here.
        stand_in: what a reader of measurements should know where ``runtime`` is not the target's own, else "".
        engines: the TensorRT by which ``hqp build`` makes its engines, else "".
        reduced_range: weights in [-64, 64].
        dynamic: whether it has fast kernels for products whose activations are quantized as they come.
        mixes: the precision that ``mixed`` takes where it is faster than float32.
        group_channels: convolutions in groups are quantized where each group reads so many channels at least.
        integers_only: its models are in INT8 alone, so ``mixed`` is ``int8``.
        counted: no times of it can be had, so of the models inside the budget the one of fewest multiply-accumulates
            ships, and no report speaks of times.
        float8: pairs and weights are floats of 8 bits (E4M3, up to 448) in place of int8; see ``in_float8``.
        fully_connected: of MatMul it quantizes products by a constant matrix alone, with the bias that is added behind;
            a Mul in front is computed in float.
        saturates: whether its kernels may add products of uint8 in int16; if so, the processor decides.
    """

    name: str
    symmetric: bool
    int32_bias: bool
    weighted: frozenset[str]
    residual: frozenset[str]
    residual_behind: frozenset[str]
    outputs: frozenset[str]
    absorbed: frozenset[str]
    follows: frozenset[str]
    same_range: frozenset[str]
    channel_multiple: int
    folds_constants: bool
    min_opset: int
    max_opset: int
    runtime: Runtime = field(default_factory=OnnxRuntime)
    stand_in: str = ""
    engines: str = ""
    reduced_range: bool = False
    fuses_sum: bool = False
    dynamic: bool = False
    mixes: Literal["int8", "fp16"] = "int8"
    group_channels: int = 1
    saturates: bool = True
    integers_only: bool = False
    counted: bool = False
    fully_connected: bool = False
    stores_gates: bool = True
    float8: bool = False
    spoiled: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for method in ("open", "describe", "remarks"):
            if not callable(getattr(self.runtime, method, None)):
                kind = type(self.runtime).__name__
                raise UsageError(f"target '{self.name}': its runtime is {article(kind)} without {method}()")

    @property
    def activation_type(self) -> np.dtype[Any]:
        """Numpy type of quantized activations."""
        if self.float8:
            return FLOAT8
        return np.dtype(np.int8 if self.symmetric else np.uint8)

    @property
    def restores_int4(self) -> bool:
        """Whether it turns weights in blocks of 4 bits into floats when it loads a model."""
        return self.folds_constants and isinstance(self.runtime, OnnxRuntime)

    @property
    def activation_limit(self) -> int:
        """Largest magnitude of a symmetric quantized activation."""
        return 448 if self.float8 else 127

    @property
    def weight_limit(self) -> int:
        """Largest magnitude of a quantized weight."""
        if self.float8:
            return 448
        return 64 if self.reduced_range else 127


_MOVES = frozenset({"MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Identity"})
_ONNXRUNTIME = Target(
    name="onnxruntime",
    symmetric=False,
    int32_bias=True,
    weighted=frozenset({"Conv", "Gemm", "MatMul"}),
    residual=frozenset(),
    residual_behind=frozenset(),
    outputs=frozenset({"Conv"}),
    absorbed=frozenset({"Relu", "Clip"}),
    follows=frozenset({"Add", "Concat", "GlobalAveragePool", "AveragePool"}),
    same_range=_MOVES,
    channel_multiple=16,
    folds_constants=True,
    min_opset=13,
    max_opset=onnx.defs.onnx_opset_version(),
    dynamic=True,
)
_TENSORRT = Target(
    name="tensorrt",
    symmetric=True,
    int32_bias=False,
    weighted=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
    residual=frozenset({"Add"}),
    residual_behind=frozenset(),
    outputs=frozenset(),
    absorbed=frozenset(),
    follows=frozenset(),
    same_range=frozenset(),
    channel_multiple=32,
    folds_constants=False,
    min_opset=13,
    max_opset=20,
    fuses_sum=True,
)
_TENSORRT_RTX = replace(_TENSORRT, name="tensorrt-rtx", mixes="fp16", group_channels=4)
_OPENVINO = replace(
    _TENSORRT,
    name="openvino",
    symmetric=False,
    residual_behind=frozenset({"Conv"}),
    fuses_sum=False,
    same_range=_MOVES - {"Identity"},  # it is taken out, and 2026.4 crashes at two pairs in a row behind a Concat
    channel_multiple=16,
    folds_constants=True,
    spoiled=frozenset({"ReduceMax", "ReduceMin"}),  # in 2026.4, whatever the axes
    stores_gates=False,  # 2026.4 wants them as constants, and folds nothing that it takes for compressed weights
    max_opset=onnx.defs.onnx_opset_version(),
    runtime=OpenVino(),
)
_LITERT = replace(
    _ONNXRUNTIME,
    name="litert",
    weighted=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
    outputs=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
    fully_connected=True,
    follows=frozenset(
        {
            "Add",
            "Sub",
            "Mul",
            "Concat",
            "GlobalAveragePool",
            "HardSwish",
            "HardSigmoid",
            "Sigmoid",
            "Tanh",
            "Relu",
            "Clip",
        }
    ),
    same_range=_MOVES | {"AveragePool", "GlobalMaxPool", "Resize", "DepthToSpace", "SpaceToDepth"},
    channel_multiple=4,
    folds_constants=False,
    runtime=LiteRt(),
    dynamic=False,
    saturates=False,
)
_PROVIDER_LAYOUTS = {
    CUDA: _TENSORRT,
    "TensorrtExecutionProvider": _TENSORRT,
    "NvTensorRTRTXExecutionProvider": _TENSORRT_RTX,
    "MIGraphXExecutionProvider": _TENSORRT,
    "OpenVINOExecutionProvider": _OPENVINO,
}


def _on_provider(name: str, provider: str) -> Target:
    layout = _PROVIDER_LAYOUTS.get(provider, _ONNXRUNTIME)
    mixes = "fp16" if provider == CUDA else layout.mixes  # CUDA's computes INT8 in float
    return replace(layout, name=name, runtime=OnnxRuntime(provider), mixes=mixes)


def _on_ethos(name: str) -> Target:
    return replace(_LITERT, name=name, runtime=EthosU(chip_of(name)), integers_only=True, channel_multiple=8)


def _on_rockchip(name: str) -> Target:
    return replace(
        _LITERT,
        name=name,
        runtime=Rockchip(name),
        integers_only=True,
        counted=True,
        stand_in=_NO_TIMES,
        channel_multiple=16,
        max_opset=19,
    )


_NO_TIMES = (
    "accuracy is that of Rockchip's simulator; no time of the chip is known here, so widths, and what ships, are "
    "chosen by multiply-accumulates"
)


def _on_htp(name: str) -> Target:
    return replace(
        _LITERT,
        name=name,
        runtime=Qnn(htp_of(name)),
        integers_only=True,
        counted=True,
        stand_in=_NOTHING_TIMES,
        channel_multiple=32,
    )


_NOTHING_TIMES = (
    "accuracy is that of the quantized model as onnxruntime computes it on the CPU; no time of the HTP is known here, "
    "so widths, and what ships, are chosen by multiply-accumulates"
)
_CPU_STANDS_IN = "accuracy and latency are onnxruntime's on the CPU: TensorRT runs the engine built from the model"
_WEIGHTS_ONLY = "TensorRT for RTX multiplies INT8 weights in float: float16 is what it computes in by default"

TARGETS: Registry[Target | Callable[[], Target]] = Registry(
    "target",
    "hqp_onnx.targets",
    lambda found: isinstance(found, Target) or callable(found),
    also=(
        "onnxruntime:NAMEExecutionProvider",
        f"{ETHOS}NN-MACS[:SYSTEM:MEMORY]",
        f"{QNN}-vNN[:SOC_MODEL]",
        *CHIPS[1:],
    ),
)
TARGETS.register("onnxruntime")(_ONNXRUNTIME)
TARGETS.register("openvino")(_OPENVINO)
TARGETS.register("litert")(_LITERT)
TARGETS.register("ethos-u55-256")(_on_ethos("ethos-u55-256"))
TARGETS.register(QNN)(_on_htp(QNN))
TARGETS.register("rk3588")(_on_rockchip("rk3588"))
TARGETS.register("cuda")(_on_provider("cuda", CUDA))
TARGETS.register("tensorrt")(replace(_TENSORRT, stand_in=_CPU_STANDS_IN, engines="tensorrt"))
TARGETS.register("tensorrt-rtx")(
    replace(_TENSORRT_RTX, stand_in=f"{_CPU_STANDS_IN}. {_WEIGHTS_ONLY}", engines="tensorrt-rtx")
)


def in_float8(target: Target) -> Target:
    """``target`` with E4M3 in the place of int8.

    Raises:
        UsageError: only TensorRT has kernels for it.
    """
    if not target.engines:
        raise UsageError(f"{{--precision}} fp8 with {{--target}} {target.name}: only TensorRT computes in it")
    return replace(target, float8=True, min_opset=19)


def target(name: str, reduced_range: bool | None = None, saturating: bool | None = None) -> Target:
    """The target called ``name``.

    Args:
        name: one of ``TARGETS``, ``onnxruntime:PROVIDER``, or another Ethos-U (``ethos.vela.chip_of``), HTP
            (``qnn.chips.chip_of``) or NPU of Rockchip's (``rockchip.runtime.CHIPS``).
        reduced_range: weights in [-64, 64]; None takes what the processor needs, which matters to u8 activations only.
            Say so explicitly where the model will run elsewhere.
        saturating: whether that processor saturates; None asks this machine's (``saturates``).

    Raises:
        UsageError: an unknown name, or what it names fails or is not a target.
    """
    runtime, _, provider = name.partition(":")
    on_provider = runtime == "onnxruntime" and provider.endswith("ExecutionProvider")
    base = _on_provider(name, provider) if on_provider else _registered(name)
    narrow = saturates() if saturating is None else saturating
    needed = base.reduced_range or (base.saturates and not base.symmetric and narrow)
    return replace(base, reduced_range=needed if reduced_range is None else reduced_range)


def _registered(name: str) -> Target:
    if name.startswith(ETHOS) and name not in TARGETS.own:
        return _on_ethos(name)
    if name in CHIPS and name not in TARGETS.own:
        return _on_rockchip(name)
    if is_chip(name) and name not in TARGETS.own:
        return _on_htp(name)
    entry = TARGETS.get(name)
    if isinstance(entry, Target):
        return entry
    with outside_code(f"target '{name}' fails"):
        target = entry()
    if not isinstance(target, Target):
        raise UsageError(f"target '{name}' gives {article(type(target).__name__)}: expected a Target")
    return target
