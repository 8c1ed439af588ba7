"""What runs in rknn-toolkit2's own environment, and knows nothing of hqp_onnx: one model, built and simulated.

    python script.py FOLDER CHIP

builds FOLDER/model.onnx, whose sizes are all stated, and writes FOLDER/model.rknn; where FOLDER/samples.txt lists files
of samples, in INT8 by the toolkit's own quantizer. Each step is answered by a line of
JSON on stdout: ``{"built": true}`` once it is built, then for each line on stdin, for which FOLDER/inputs.npz is read,
``{"count": n}``, the outputs being in FOLDER/outputs.npz. ``{"error": why}`` is the last answer. All that the toolkit
says goes to stderr.

The toolkit imports torch to read models of PyTorch, and for a way to quantize that is not asked for here. Empty modules
stand in for it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

MODEL, SAMPLES, BUILT, INPUTS, OUTPUTS = "model.onnx", "samples.txt", "model.rknn", "inputs.npz", "outputs.npz"


class _Anything:
    """A base class or a decorator of torch's, which changes nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __call__(self, function: Any) -> Any:
        return function


class _NoTorch(ModuleType):
    __version__ = "2.4.0"

    def __getattr__(self, name: str) -> type[_Anything]:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (_Anything,), {})


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] == "torch" else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _NoTorch(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to execute."""


def _built(folder: Path, chip: str) -> Any:
    """The toolkit's object, ready to simulate."""
    from rknn.api import RKNN

    rknn = RKNN(verbose=True)  # its log has the table of operators
    listed = folder / SAMPLES
    samples = {"do_quantization": True, "dataset": str(listed)} if listed.exists() else {"do_quantization": False}
    steps = (
        ("config", lambda: rknn.config(target_platform=chip)),
        ("load", lambda: rknn.load_onnx(str(folder / MODEL))),
        ("build", lambda: rknn.build(**samples)),
        ("export", lambda: rknn.export_rknn(str(folder / BUILT))),
        ("simulator", rknn.init_runtime),
    )
    for name, step in steps:
        if step():
            raise RuntimeError(f"{name} failed")
    return rknn


def _ran(rknn: Any, folder: Path) -> int:
    with np.load(folder / INPUTS) as stored:
        inputs = [stored[str(number)] for number in range(len(stored.files))]
    outputs = rknn.inference(inputs, data_format=["nchw"] * len(inputs))
    if outputs is None:
        raise RuntimeError("inference failed")
    np.savez(folder / OUTPUTS, allow_pickle=False, **{str(number): x for number, x in enumerate(outputs)})
    return len(outputs)


def main() -> None:
    """Build, then simulate until stdin ends."""
    folder, chip = Path(sys.argv[1]), sys.argv[2]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**values: object) -> None:
        sys.stdout.flush()
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    sys.meta_path.insert(0, _Finder())
    try:
        rknn = _built(folder, chip)
        answer(built=True)
        for _ in sys.stdin:
            answer(count=_ran(rknn, folder))
    except Exception as e:  # noqa: BLE001  the toolkit's types are not documented
        answer(error=f"{type(e).__name__}: {e}")


if __name__ == "__main__":
    main()
