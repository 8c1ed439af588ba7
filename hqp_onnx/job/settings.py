"""What decides the result of an optimization: its options, and digests of all that it reads."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import onnx

from hqp_onnx.data.preprocess import is_file
from hqp_onnx.data.reading import files_of, read_files
from hqp_onnx.files import Names, fingerprint, sha256
from hqp_onnx.graphs.model_io import parts, require_file
from hqp_onnx.job.options import Options
from hqp_onnx.job.setup import Setup
from hqp_onnx.model import IN_MEMORY, ModelSource
from hqp_onnx.registry import is_file_name
from hqp_onnx.runtimes.bench import CPU
from hqp_onnx.runtimes.runners import runtime_name
from hqp_onnx.runtimes.session import work_provider
from hqp_onnx.version import __version__

_ELSEWHERE = (
    "model",
    "calib",
    "val",
    "test",
    "output",
    "resume",
    "time_limit",
    "force",
    "preprocess",
    "build",
    "pareto",
    "data",
    "shares",
    "metric",
)
_NAMED = ("metric", "search", "saliency", "engine", "target", "calibration")


def settings_of(setup: Setup) -> dict[str, Any]:
    """As JSON values. A metric that is a function goes by its name."""
    options = setup.options
    chosen = {name: value for name, value in vars(options).items() if name not in _ELSEWHERE}
    chosen |= {"metric": setup.metric.name, "multiple_of": options.width_multiple, "narrow": options.narrow}
    chosen = {name: list(value) if isinstance(value, tuple) else value for name, value in chosen.items()}
    files = {f"{kind}_file": str(chosen[kind]) for kind in _NAMED if is_file_name(str(chosen[kind]))}
    loss = options.loss if options.loss is not None and options.loss.endswith(".onnx") else None
    files |= {"loss_file": loss} if loss is not None else {}
    return {
        "hqp_onnx": __version__,
        **chosen,
        "model": setup.model.digest,
        "weights": [digest for model in (options.model, loss) for digest in _weights(model)],
        "calib": setup.data["calib"].digest(),
        "val": setup.data["val"].digest(),
        **({} if options.preprocess is None else {"preprocess": _preprocess(options.preprocess)}),
        **{name: fingerprint(path) for name, path in files.items()},
        "reduced_range": setup.target.reduced_range,
        "runtime": runtime_name(setup.target),
        **({} if work_provider() == CPU else {"provider": work_provider()}),
    }


def same_job(setup: Setup) -> dict[str, Any]:
    """``settings_of`` that a run must share with the one that it resumes: any time to train is as good as another."""
    timed = {} if setup.options.recover_time is None else {"recover_time": "a time"}
    return settings_of(setup) | timed


def inputs_of(options: Options) -> dict[str, Names]:
    """Every file and folder that a job reads, by what it is, as ``files.forbid_overlap`` takes them."""
    data = {"calibration data": options.calib, "validation data": options.val, "test data": options.test}
    data |= {"data": options.data}
    inputs: dict[str, Names] = {f"the {words}": files_of(source) for words, source in data.items()}
    if isinstance(options.model, (str, Path)):
        inputs["the input model"] = parts(Path(options.model))
    inputs |= {"the file of {--preprocess}": read_files(None, options.preprocess)["the file of {--preprocess}"]}
    for name in ("loss", *_NAMED):
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


def _preprocess(value: str | Path) -> str:
    """A name or JSON as it is, or the digest of a file."""
    return fingerprint(value) if is_file(value) else str(value)
