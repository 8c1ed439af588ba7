"""Convolutions and poolings: channels last, in two dimensions. One dimension is an image of one row.

Padding is VALID, with a PAD in front where pixels are added, or SAME where that adds the same pixels. Zeros are padded
in front of a MaxPool if its input has nothing below, since PADV2, which could pad the smallest float, is known to few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hqp_onnx.errors import ModelError
from hqp_onnx.runtimes.litert.emitter import LAST, Emitter
from hqp_onnx.runtimes.litert.rules.patches import are_patches, beside, in_a_row
from hqp_onnx.runtimes.litert.rules.registry import Step, rule

_SAME, _VALID = 0, 1  # of the schema's Padding
_LOWEST = np.float32(np.finfo(np.float32).min)


@dataclass(frozen=True)
class _Window:
    """Of two axes: sizes, and pixels before and after; ``after`` is what the last window really needs."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    before: tuple[int, int]
    after: tuple[int, int]
    inner: tuple[int, int]
    outer: tuple[int, int]

    @property
    def is_same(self) -> bool:
        """Whether the schema's SAME adds these pixels."""
        return all(
            -(-n // s) == o and before == max((o - 1) * s + (k - 1) * d + 1 - n, 0) // 2
            for n, o, k, s, d, before in zip(
                self.inner, self.outer, self.kernel, self.stride, self.dilation, self.before, strict=True
            )
        )

    @property
    def pads(self) -> bool:
        """Whether it reads pixels that are not there."""
        return any(n > 0 for n in (*self.before, *self.after))


def _window(e: Emitter, step: Step, kernel: Sequence[int]) -> _Window:
    inner, outer = e.shape(step.inputs[0])[2:], e.shape(step.output)[2:]
    rank, attributes = len(inner), step.attributes
    if rank not in (1, 2):
        raise ModelError(f"it has {rank} axes of space, and LiteRT's kernels have 2")
    ones = [1] * rank
    stride, dilation = attributes.get("strides", ones), attributes.get("dilations", ones)
    spans = [(o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(outer, stride, kernel, dilation, strict=True)]
    mode, pads = attributes.get("auto_pad", b"NOTSET"), attributes.get("pads", [0] * 2 * rank)
    before = list(pads[:rank])
    if mode in (b"SAME_UPPER", b"SAME_LOWER"):
        before = [(max(span - n, 0) + (mode == b"SAME_LOWER")) // 2 for span, n in zip(spans, inner, strict=True)]
    after = [max(span - n - p, 0) for span, n, p in zip(spans, inner, before, strict=True)]
    of_two = [
        (filling, *sizes)[-2:]
        for filling, sizes in ((1, kernel), (1, stride), (1, dilation), (0, before), (0, after), (1, inner), (1, outer))
    ]
    return _Window(*of_two)


def _image(e: Emitter, name: str) -> int:
    """The tensor as [N, H, W, C]."""
    number, shape = e.get(name, LAST), e.laid_out(name, LAST)
    if len(shape) == 4:
        return number
    new = e.new(name, (shape[0], 1, *shape[1:]))
    e.reshape(number, new, (shape[0], 1, *shape[1:]))
    return new


def _written(e: Emitter, step: Step, kind: str, inputs: Sequence[int], options: str, **chosen: object) -> None:
    """An operator on images whose result may have one axis of space."""
    name = step.output
    if len(e.shape(name)) == 4:
        e.file.operator(kind, inputs, [e.put(name, LAST)], options, **chosen)
        return
    shape = e.laid_out(name, LAST)
    image = e.new(name, (shape[0], 1, *shape[1:]))
    e.file.operator(kind, inputs, [image], options, **chosen)
    e.reshape(image, e.put(name, LAST), shape)


def _padded(e: Emitter, step: Step, window: _Window, lowest: bool = False) -> tuple[int, int]:
    """The image with the pixels that the window needs around it, and what is left to the operator's own padding."""
    name = step.inputs[0]
    image = _image(e, name)
    if window.is_same:
        return image, _SAME
    if not window.pads:
        return image, _VALID
    (top, left), (bottom, right) = window.before, window.after
    n, c, (h, w) = e.shape(name)[0], e.shape(name)[1], window.inner
    padded = e.new(name, (n, h + top + bottom, w + left + right, c))
    pads = e.file.constant("pads", np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32))
    if lowest and not e.never_negative(name):
        own = e.scales.get(e.origin(name))
        least = np.array([_LOWEST]) if own is None else np.array([-128], np.int8)
        e.file.operator("PADV2", [image, pads, e.file.constant("lowest", least, own)], [padded], "PadV2Options")
    else:
        e.file.operator("PAD", [image, pads], [padded], "PadOptions")
    return padded, _VALID


def _strides(window: _Window) -> dict[str, int]:
    return {"strideH": window.stride[0], "strideW": window.stride[1]}


@rule("Conv", int8="weighted", fuses=True)
def _conv(e: Emitter, step: Step) -> None:
    stored = e.weight(step.inputs[1], step.inputs[0], "its weight")
    window = _window(e, step, stored.values.shape[2:])
    values = stored.values if stored.values.ndim == 4 else stored.values[:, :, None]
    groups, channels = step.attributes.get("group", 1), e.shape(step.inputs[0])[1]
    depthwise = groups == channels and groups > 1
    image, padding = _padded(e, step, window)
    given = window.kernel, window.stride, window.dilation, window.inner, window.pads
    if e.lookups and groups == 1 and are_patches(*given):
        image, padding = beside(e, image, step.inputs[0], window.kernel), _VALID
        values = in_a_row(values)
        window = replace(window, stride=(1, 1), dilation=(1, window.outer[1]))
    order = (1, 2, 3, 0) if depthwise else (0, 2, 3, 1)
    axis = 3 if depthwise else 0
    weight = e.file.constant(step.inputs[1], values.transpose(order), stored.along(axis))
    bias = e.bias(step.input(2), values.shape[0], stored, step.inputs[0])
    chosen = {
        "padding": padding,
        **_strides(window),
        "dilationHFactor": window.dilation[0],
        "dilationWFactor": window.dilation[1],
        "fusedActivationFunction": e.activation(step.activation),
    }
    if depthwise:
        chosen["depthMultiplier"] = values.shape[0] // groups
    kind, options = ("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions") if depthwise else ("CONV_2D", "Conv2DOptions")
    _written(e, step, kind, [image, weight, bias], options, **chosen)


@rule("ConvTranspose", int8="weighted", fuses=True)
def _conv_transpose(e: Emitter, step: Step) -> None:
    """All that the windows reach, o = (i - 1) s + k, and then what the pads leave of it; SAME where that does both."""
    given, stored = step.attributes, e.weight(step.inputs[1], step.inputs[0], "its weight")
    inner, outer = e.shape(step.inputs[0])[2:], e.shape(step.output)[2:]
    rank, kernel = len(inner), stored.values.shape[2:]
    ones = [1] * rank
    stride, pads = list(given.get("strides", ones)), list(given.get("pads", [0] * 2 * rank))
    if rank not in (1, 2) or given.get("group", 1) != 1 or list(given.get("dilations", ones)) != ones:
        raise ModelError("LiteRT transposes convolutions in 1 or 2 axes, without groups and dilations")
    if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or given.get("output_shape"):
        raise ModelError("auto_pad and output_shape have no counterpart")
    whole = [(n - 1) * s + k for n, s, k in zip(inner, stride, kernel, strict=True)]
    if any(p < 0 or p + o > w for p, o, w in zip(pads, outer, whole, strict=False)):
        raise ModelError("it gives pixels that no window reaches")
    cut = [w - o for w, o in zip(whole, outer, strict=True)]
    same = all(-(-o // s) == n and p == c // 2 for o, s, n, p, c in zip(outer, stride, inner, pads, cut, strict=False))
    (n, c), axes = e.shape(step.output)[:2], [1] * (2 - rank)
    sizes = (n, *axes, *(outer if same else whole), c)
    values = stored.values if rank == 2 else stored.values[:, :, None]
    weight = e.file.constant(step.inputs[1], values.transpose(1, 2, 3, 0), stored.along(0))
    image, bias = _image(e, step.inputs[0]), e.bias(step.input(2), c, stored, step.inputs[0])
    number = e.new(step.output, sizes)
    chosen = {"padding": _SAME if same else _VALID, "strideH": (*axes, *stride)[0], "strideW": stride[-1]}
    e.file.operator("TRANSPOSE_CONV", [e.ints(sizes), weight, image, bias], [number], "TransposeConvOptions", **chosen)
    if not same and any(cut):
        begin, left = [0, *[0] * len(axes), *pads[:rank], 0], (n, *axes, *outer, c)
        uncut, number = number, e.new(step.output, left)
        e.file.operator("SLICE", [uncut, e.ints(begin), e.ints(left)], [number], "SliceOptions")
    if step.activation != "NONE":
        raw, number = number, e.new(step.output, (n, *axes, *outer, c))
        e.file.operator(step.activation, [raw], [number])
    if rank == 2:
        e.name(step.output, number, LAST)
    else:
        e.reshape(number, e.put(step.output, LAST), e.laid_out(step.output, LAST))


@rule("MaxPool", int8="same")
def _max_pool(e: Emitter, step: Step) -> None:
    if len(step.outputs) > 1:
        raise ModelError("its second output has no counterpart")
    _pool(e, step, "MAX_POOL_2D", lowest=True)


@rule("AveragePool", int8="same")
def _average_pool(e: Emitter, step: Step) -> None:
    window = _window(e, step, step.attributes["kernel_shape"])
    counted = step.attributes.get("count_include_pad", 0)
    # SAME leaves out what it pads, PAD counts it, but for what ceil_mode adds at the end
    beyond = window.after != (0, *step.attributes.get("pads", [0, 0, 0, 0])[len(window.kernel) :])[-2:]
    if window.pads and (counted == window.is_same or (counted and beyond and step.attributes.get("ceil_mode", 0))):
        raise ModelError("its padding and count_include_pad have no counterpart")
    _pool(e, step, "AVERAGE_POOL_2D", lowest=False)


def _pool(e: Emitter, step: Step, kind: str, lowest: bool) -> None:
    window = _window(e, step, step.attributes["kernel_shape"])
    if set(window.dilation) != {1}:
        raise ModelError("LiteRT has no dilated poolings")
    image, padding = _padded(e, step, window, lowest)
    chosen = {
        "padding": padding,
        **_strides(window),
        "filterHeight": window.kernel[0],
        "filterWidth": window.kernel[1],
        "fusedActivationFunction": e.activation(step.activation),
    }
    _written(e, step, kind, [image], "Pool2DOptions", **chosen)


@rule("Resize", int8="same")
def _resize(e: Emitter, step: Step) -> None:
    shape, new = e.shape(step.inputs[0]), e.shape(step.output)
    defaults = _RESIZED if step.opset >= 11 else _RESIZED | _RESIZED_10
    given = {name: step.attributes.get(name, default) for name, default in defaults.items()}
    given = {name: value.decode() for name, value in given.items()}
    if len(shape) != 4 or shape[:2] != new[:2]:
        raise ModelError("LiteRT resizes images alone")
    mode, place, near = given["mode"], given["coordinate_transformation_mode"], given["nearest_mode"]
    if place == "pytorch_half_pixel" and all(n > 1 or old == 1 for n, old in zip(new, shape, strict=True)):
        place = "half_pixel"
    if place != "align_corners" and not _by_sizes(e, step):
        raise ModelError("its scales are not those of its sizes, which LiteRT goes by")
    shrinks = any(n < old for n, old in zip(new, shape, strict=True))
    if step.attributes.get("antialias", 0) and mode == "linear" and shrinks:
        raise ModelError("LiteRT does not smooth what it shrinks")
    whole = all(n % old == 0 for n, old in zip(new[2:], shape[2:], strict=True))
    image, sizes = e.get(step.inputs[0], LAST), e.ints(new[2:])
    if mode == "linear" and place in ("half_pixel", "align_corners", "asymmetric"):
        chosen = {"halfPixelCenters": place == "half_pixel", "alignCorners": place == "align_corners"}
        kind, options = "RESIZE_BILINEAR", "ResizeBilinearOptions"
    elif mode == "nearest" and whole and (place, near) in _REPEATS:
        chosen, kind, options = {}, "RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighborOptions"
    else:
        raise ModelError(f"{mode}, {place}, {near} has no counterpart")
    e.file.operator(kind, [image, sizes], [e.put(step.output, LAST)], options, **chosen)


def _by_sizes(e: Emitter, step: Step) -> bool:
    """Whether each axis is scaled by its new size over the old one."""
    if step.input(3):
        return bool(step.attributes.get("keep_aspect_ratio_policy", b"stretch") == b"stretch")
    old, new = e.shape(step.inputs[0]), e.shape(step.output)
    scales = e.value(step.input(2 if step.opset >= 11 else 1), "the list of its scales")
    axes = step.attributes.get("axes", range(len(scales)))
    return all(np.isclose(scale * old[axis], new[axis], 1e-5, 0) for scale, axis in zip(scales, axes, strict=True))


_RESIZED = {
    "mode": b"nearest",
    "coordinate_transformation_mode": b"half_pixel",
    "nearest_mode": b"round_prefer_floor",
}
_RESIZED_10 = {"coordinate_transformation_mode": b"asymmetric", "nearest_mode": b"floor"}  # of what grows
_REPEATS = {  # what repeats each pixel where sizes are whole multiples
    ("asymmetric", "floor"),
    ("half_pixel", "round_prefer_floor"),
    ("half_pixel", "round_prefer_ceil"),
}


@rule("DepthToSpace", int8="same")
def _depth_to_space(e: Emitter, step: Step) -> None:
    image, size = e.get(step.inputs[0], LAST), step.attributes["blocksize"]
    if step.attributes.get("mode", b"DCR") == b"CRD":  # LiteRT has DCR alone: places in a block vary most slowly
        shape = e.laid_out(step.inputs[0], LAST)
        order = np.arange(shape[3], dtype=np.int32).reshape(-1, size**2).T.reshape(-1)
        turned = e.new(step.inputs[0], shape)
        places = e.file.constant("places", order)
        e.file.operator("GATHER", [image, places], [turned], "GatherOptions", axis=3, batchDims=0)
        image = turned
    _blocks(e, step, image, "DEPTH_TO_SPACE", "DepthToSpaceOptions")


@rule("SpaceToDepth", int8="same")
def _space_to_depth(e: Emitter, step: Step) -> None:
    _blocks(e, step, e.get(step.inputs[0], LAST), "SPACE_TO_DEPTH", "SpaceToDepthOptions")


def _blocks(e: Emitter, step: Step, image: int, kind: str, options: str) -> None:
    e.file.operator(kind, [image], [e.put(step.output, LAST)], options, blockSize=step.attributes["blocksize"])


@rule("GlobalAveragePool", int8="values")
def _global_average_pool(e: Emitter, step: Step) -> None:
    rank = len(e.shape(step.inputs[0]))
    axes = e.ints(range(1, rank - 1))
    e.file.operator(
        "MEAN", [e.get(step.inputs[0], LAST), axes], [e.put(step.output, LAST)], "ReducerOptions", keepDims=True
    )


@rule("GlobalMaxPool", int8="same")
def _global_max_pool(e: Emitter, step: Step) -> None:
    rank = len(e.shape(step.inputs[0]))
    axes = e.ints(range(1, rank - 1))
    e.file.operator(
        "REDUCE_MAX", [e.get(step.inputs[0], LAST), axes], [e.put(step.output, LAST)], "ReducerOptions", keepDims=True
    )
