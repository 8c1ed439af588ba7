"""What decides the result of an optimization: its options, and digests of all that it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hqp_onnx.data.dataset import ArraySource
from hqp_onnx.data.sources import Data
from hqp_onnx.files import fingerprint
from hqp_onnx.job.setup import Setup
from hqp_onnx.registry import is_file_name
from hqp_onnx.version import __version__

_ELSEWHERE = ("model", "calib", "val", "test", "output", "threads", "resume", "preprocess", "build", "metric")
_NAMED = ("metric", "search", "saliency", "engine", "target", "calibration")


def settings_of(setup: Setup) -> dict[str, Any]:
    """As JSON values. A metric that is a function goes by its name."""
    options = setup.options
    chosen = {name: value for name, value in vars(options).items() if name not in _ELSEWHERE}
    chosen |= {"metric": setup.metric.name, "multiple_of": options.width_multiple}
    chosen = {name: list(value) if isinstance(value, tuple) else value for name, value in chosen.items()}
    files = {f"{kind}_file": str(chosen[kind]) for kind in _NAMED if is_file_name(str(chosen[kind]))}
    files |= {"preprocess": str(options.preprocess)} if options.preprocess is not None else {}
    files |= {"loss_file": str(options.loss)} if (options.loss or "").endswith(".onnx") else {}
    return {
        "hqp_onnx": __version__,
        **chosen,
        "model": setup.model.digest,
        "calib": _digest(setup, options.calib, "calib"),
        "val": _digest(setup, options.val, "val"),
        **{name: fingerprint(path) for name, path in files.items()},
        "reduced_range": setup.target.reduced_range,
    }


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
