"""The code blocks of docs/plugins.md, run as written beside a bundled model and some of its data."""

from __future__ import annotations

import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import MODELS
from oracle import run
from polygraphy_host import ROOT, host_environment, sh

TEXT = (ROOT / "docs" / "plugins.md").read_text()
BLOCKS = [
    pytest.param(language, code, id=f"{title}-{language}".replace(" ", "_"))
    for title, section in re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", TEXT, re.MULTILINE)
    for language, code in re.findall(r"^```(\w+)\n((?:(?!```).*\n)*)```", section, re.MULTILINE)
]
OPTIONAL = ("onnx_ir", "olive")
SAMPLES = 32


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the text says is there."""
    shutil.copy(MODELS / "resnet18.onnx", tmp_path / "model.onnx")
    with np.load(MODELS / "fashion_mnist_calib.npz") as data:
        np.savez(tmp_path / "calib.npz", input=data["input"][:SAMPLES], labels=data["labels"][:SAMPLES])
    return tmp_path


def test_every_host_has_a_block() -> None:
    assert [block.values[0] for block in BLOCKS] == [
        "python",
        "python",
        "python",
        "sh",
        "sh",
        "python",
        "python",
        "python",
        "sh",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("language", "code"), BLOCKS)
def test_block_runs_as_written(language: str, code: str, folder: Path) -> None:
    for host in OPTIONAL:
        if re.search(rf"^(from|import) {host}\b", code, re.MULTILINE) and find_spec(host) is None:
            pytest.skip(f"{host} is not installed")
    (folder / "block").write_text(code)
    interpreter = {"python": "python", "sh": "bash -euo pipefail"}[language]
    done = sh(f"{interpreter} block", folder, host_environment(folder / "metadata"))
    assert done.returncode == 0, done.stdout[-3000:]
    written = [path for path in folder.rglob("*.onnx") if path.name != "model.onnx" or path.parent != folder]
    assert bool(written) == (language != "sh")
    feeds = {"input": np.load(folder / "calib.npz")["input"].astype(np.float32)}
    want = run(onnx.load(folder / "model.onnx"), feeds)[0]
    for path in written:
        assert path.stat().st_size < (folder / "model.onnx").stat().st_size
        have = run(onnx.load(path), feeds)[0]
        assert (have.argmax(1) == want.argmax(1)).mean() >= 0.8, path
