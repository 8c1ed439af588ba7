"""Export of the zoo's architectures with seeded random weights, by both of torch's exporters.

Weights keep signals of order one through any depth, so an error anywhere shows at the outputs: weights are
N(0, 1.5 / fan_in), BatchNormalization takes the statistics of one batch (then perturbed), scales are in
[0.5, 1.5], biases are not zero.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from zoo_models import Entry

OPSETS = (17, 17, 13, 20)  # TorchScript: one of them by name, or 17 where that fails


def export(entry: Entry, exporter: str, path: Path) -> None:
    """Write ``path`` and, beside it as .npz, inputs to run it on.

    The batch is dynamic where the exporter can make it so, and BatchNormalization is kept for half of the models.
    """
    import torch

    torch.manual_seed(_seed(entry))
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)  # a fused operator that cannot be exported
    module, inputs = entry.build()
    wrapped = _wrap(module, list(inputs))
    _randomise(wrapped, tuple(inputs.values()))
    path.parent.mkdir(parents=True, exist_ok=True)
    write = _export_dynamo if exporter == "dynamo" else _export_torchscript
    with torch.no_grad():
        write(wrapped, inputs, path, entry)
    np.savez(path.with_suffix(".npz"), **{name: value.numpy() for name, value in inputs.items()})


def _export_torchscript(module: Any, inputs: dict[str, Any], path: Path, entry: Entry) -> None:
    import torch

    seed = _seed(entry)
    keep = torch.onnx.TrainingMode.PRESERVE if seed % 2 else torch.onnx.TrainingMode.EVAL
    batch = {name: {0: "batch"} for name in inputs}
    if entry.any_size:
        batch = {name: {i: f"d{i}" for i in _sizes(x.ndim)} for name, x in inputs.items()}
    failure: Exception | None = None
    for opset, axes in ((OPSETS[seed % len(OPSETS)], batch), (17, batch), (17, {})):
        try:
            torch.onnx.export(
                module,
                tuple(inputs.values()),
                str(path),
                dynamo=False,
                input_names=list(inputs),
                opset_version=opset,
                dynamic_axes=axes,
                training=keep,
            )
        except Exception as e:
            failure = e
        else:
            return
    assert failure is not None
    raise failure


def _export_dynamo(module: Any, inputs: dict[str, Any], path: Path, entry: Entry) -> None:
    import torch

    failure: Exception | None = None
    for axes in (({0: torch.export.Dim("batch", min=1, max=64)},) * len(inputs), None):
        shapes = None if axes is None else (axes,)  # the wrapper takes *args
        try:
            program = torch.onnx.export(
                module,
                tuple(inputs.values()),
                dynamo=True,
                input_names=list(inputs),
                dynamic_shapes=shapes,
                verbose=False,
            )
            program.save(str(path), external_data=False)
        except Exception as e:
            failure = e
        else:
            return
    assert failure is not None
    raise failure


def _seed(entry: Entry) -> int:
    return zlib.crc32(entry.name.encode())


def _sizes(rank: int) -> list[int]:
    """Axes that are not channels: of [batch, length], [batch, channels, side, ...]."""
    return [axis for axis in range(rank) if axis != 1 or rank == 2]


def _wrap(module: Any, names: list[str]) -> Any:
    """``module`` with positional inputs and a tuple of floating-point tensors as its outputs."""
    import torch

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *values: Any) -> tuple[Any, ...]:
            result = self.inner(*values) if names[0] == "input" else self.inner(**dict(zip(names, values, strict=True)))
            return tuple(t for t in _tensors(result) if t.is_floating_point())

    return Flat().eval()


def _tensors(value: Any) -> Iterator[Any]:
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _tensors(inner)


def _randomise(module: Any, inputs: tuple[Any, ...]) -> None:
    import torch

    norms = [m for m in module.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for name, value in module.named_parameters():
            if not value.is_floating_point():
                continue
            if value.ndim < 2 or value.numel() == max(value.shape):
                torch.nn.init.uniform_(value, -0.3, 0.3) if "bias" in name else torch.nn.init.uniform_(value, 0.5, 1.5)
            else:
                torch.nn.init.normal_(value, 0, (1.5 / max(value[0].numel(), 1)) ** 0.5)
        for norm in norms:
            norm.momentum = 1.0
            norm.train(norm.track_running_stats)
        module(*inputs)
        module.eval()
        for norm in norms:
            if norm.running_mean is not None:
                norm.running_var.clamp_(min=float(norm.running_var.mean()) / 10 + 1e-3)  # silent channels stay small
                spread = norm.running_var.sqrt()
                norm.running_mean += 0.1 * spread * torch.randn_like(spread)
                norm.running_var.mul_(0.8 + 0.4 * torch.rand_like(spread))
