"""OUT/ of a small run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_model import small_data, small_model
from steady import steady

from hqp_onnx.job.options import Options
from hqp_onnx.job.results import Report
from hqp_onnx.steps.optimize import optimize


@pytest.fixture(scope="package")
def returned(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """What `optimize` gave back."""
    made = tmp_path_factory.mktemp("report")
    (made / "model.onnx").write_bytes(small_model().SerializeToString())
    data = small_data(300)
    np.savez(made / "data.npz", input=40 * data["input"], labels=data["labels"])  # the classes that it tells apart
    file, out = str(made / "data.npz"), made / "out"
    chosen = {"metric": "agreement", "precision": "int8", "saliency": "l2", "multiple_of": 1, "only": ("*",)}
    chosen |= {"objective": "sparsity", "build": False}
    with pytest.MonkeyPatch.context() as patch:
        steady(patch)
        return optimize(Options(made / "model.onnx", file, file, out, max_drop=0.008, step=0.05, **chosen))


@pytest.fixture(scope="package")
def folder(returned: Report) -> Path:
    return Path(returned.shipped).parent
