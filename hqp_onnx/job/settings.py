"""What decides the result of an optimization: its options, and digests of all that it reads."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import onnx

from hqp_onnx.data.dataset import ArraySource
from hqp_onnx.data.sources import Data
from hqp_onnx.files import Names, fingerprint, sha256
from hqp_onnx.graphs.model_io import parts, require_file
from hqp_onnx.job.options import Options
from hqp_onnx.job.setup import Setup
from hqp_onnx.model import IN_MEMORY, ModelSource
from hqp_onnx.registry import is_file_name
from hqp_onnx.runtimes.runners import runtime_name
from hqp_onnx.runtimes.session import CPU, work_provider
from hqp_onnx.version import __version__

_ELSEWHERE = ("model", "calib", "val", "test", "output", "resume", "force", "preprocess", "build", "metric")
_NAMED = ("metric", "search", "saliency", "engine", "target", "calibration")


def settings_of(setup: Setup) -> dict[str, Any]:
    """As JSON values. A metric that is a function goes by its name."""
    options = setup.options
    chosen = {name: value for name, value in vars(options).items() if name not in _ELSEWHERE}
    chosen |= {"metric": setup.metric.name, "multiple_of": options.width_multiple}
    chosen = {name: list(value) if isinstance(value, tuple) else value for name, value in chosen.items()}
    files = {f"{kind}_file": str(chosen[kind]) for kind in _NAMED if is_file_name(str(chosen[kind]))}
    files |= {"preprocess": str(options.preprocess)} if options.preprocess is not None else {}
    loss = options.loss if options.loss is not None and options.loss.endswith(".onnx") else None
    files |= {"loss_file": loss} if loss is not None else {}
    return {
        "hqp_onnx": __version__,
        **chosen,
        "model": setup.model.digest,
        "weights": [digest for model in (options.model, loss) for digest in _weights(model)],
        "calib": _digest(setup, options.calib, "calib"),
        "val": _digest(setup, options.val, "val"),
        **{name: fingerprint(path) for name, path in files.items()},
        "reduced_range": setup.target.reduced_range,
        "runtime": runtime_name(setup.target),
        **({} if work_provider() == CPU else {"provider": work_provider()}),
    }


def inputs_of(options: Options) -> dict[str, Names]:
    """Every file and folder that a job reads, by what it is, as ``files.forbid_overlap`` takes them."""
    data = {"calibration data": options.calib, "validation data": options.val, "test data": options.test}
    inputs: dict[str, Names] = {
        f"the {words}": source for words, source in data.items() if isinstance(source, (str, Path))
    }
    if isinstance(options.model, (str, Path)):
        inputs["the input model"] = parts(Path(options.model))
    for name in ("preprocess", "loss", *_NAMED):
        value = getattr(options, name)
        if isinstance(value, (str, Path)) and (Path(value).is_file() or is_file_name(str(value))):
            inputs[f"the file of {{--{name}}}"] = value
    return inputs


def owner(model: ModelSource) -> tuple[str, str]:
    """Digest and name of the model whose results a folder holds.

    Raises:
        ModelError: no such file.
    """
    if isinstance(model, onnx.ModelProto):
        return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest(), str(IN_MEMORY)
    require_file(Path(model))
    return sha256(Path(model)), str(model)


def _weights(model: ModelSource | None) -> list[str]:
    """Digests of external data, which the digest of a model's file says nothing of."""
    files = parts(Path(model))[1:] if isinstance(model, (str, Path)) else []
    return [sha256(path) for path in files if path.is_file()]


def _digest(setup: Setup, data: Data, part: str) -> str:
    """The digest of a file, the files of a folder, or arrays (in memory, or as a script yielded them)."""
    if isinstance(data, (str, Path)) and not is_script(data):
        return fingerprint(data)
    source = setup.data[part].source
    assert isinstance(source, ArraySource)  # of scripts and of data in memory
    return source.digest()


def is_script(data: str | Path) -> bool:
    """Whether data are what a Python file yields."""
    return Path(data).suffix == ".py" or is_file_name(str(data))
