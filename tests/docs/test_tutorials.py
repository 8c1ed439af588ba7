"""The tutorials, run block by block as written; what needs TensorRT or a board is checked as far as its options."""

from __future__ import annotations

import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx.reference
import pytest
from polygraphy_host import ROOT, host_environment, sh
from small_model import small_data, small_model

from hqp_onnx.cli import cli

DOCS = ROOT / "docs"
INTERPRETERS = {"python": "python {}", "sh": "bash -euo pipefail {}", "toml": "mv {} hqp.toml"}
ELSEWHERE = re.compile(r"\.engine\b|--build\b|\bsudo\b|\bmake gpu\b|\bscp\b|trtexec|\bactivate\b")
HARDWARE = {"sudo", "make", "scp", "sh", ".", "for"}


def blocks(page: str) -> list[tuple[str, str]]:
    found = re.findall(r"^```(\w+)\n((?:(?!```).*\n)*)```", (DOCS / page).read_text(), re.MULTILINE)
    return [(language, code) for language, code in found]


def run(folder: Path, language: str, code: str, environment: dict[str, str]) -> None:
    (folder / "block").write_text(code)
    done = sh(INTERPRETERS[language].format("block"), folder, environment)
    assert done.returncode == 0, f"{code}\n{done.stdout[-3000:]}"


def parses(line: str) -> bool:
    """Whether a line is a command of hqp with options that it has; nothing is run."""
    program, *words = shlex.split(line, comments=True)
    assert program in HARDWARE | {"hqp"}, line
    if program == "hqp":
        cli.commands[words[0]].make_context(words[0], words[1:])
    return program == "hqp"


@pytest.mark.slow
def test_optimize(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(small_model().SerializeToString())
    images = 40 * small_data(300)["input"]
    logits = onnx.reference.ReferenceEvaluator(small_model()).run(None, {"input": images})[0]
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "labels.npy", logits.argmax(1))
    environment = host_environment(tmp_path / "metadata")
    for language, code in blocks("optimize.md"):
        run(tmp_path, language, code, environment)
    listed = re.findall(r"^\| `([\w.]+)` \|", (DOCS / "optimize.md").read_text(), re.MULTILINE)
    listed.remove("pruned.ledger.json")  # is not always written
    assert len(listed) == 6
    for folder in ("out", "out_agreement", "out_python"):
        assert {*listed} <= {path.name for path in (tmp_path / folder).iterdir()}
    assert (tmp_path / "out" / "int8.onnx").stat().st_size < (tmp_path / "model.onnx").stat().st_size
    assert len(json.loads((tmp_path / "latency.json").read_text())["models"]) == 3


@pytest.mark.slow
def test_compare(tmp_path: Path) -> None:
    demo = tmp_path / "build" / "demo" / "resnet18"
    demo.mkdir(parents=True)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "resnet18.onnx").write_bytes(small_model().SerializeToString())
    np.savez(tmp_path / "models" / "fashion_mnist_test.npz", **small_data())
    environment = host_environment(tmp_path / "metadata")
    made = (
        f"hqp prune models/resnet18.onnx --sparsity 0.2 -o {demo}/pruned.onnx --ledger {demo}/ledger.json",
        f"hqp quantize {demo}/pruned.onnx --data models/fashion_mnist_test.npz -o {demo}/int8.onnx",
    )
    for command in made:
        run(tmp_path, "sh", command, environment)
    here = [(language, code) for language, code in blocks("compare.md") if not ELSEWHERE.search(code)]
    assert len(here) == 2
    for language, code in here:
        if "openvino" not in code or find_spec("openvino") is not None:
            run(tmp_path, language, code, environment)
    away = [line for _, code in blocks("compare.md") if ELSEWHERE.search(code) for line in code.splitlines()]
    assert sum(map(parses, away)) == len(away) == 2


@pytest.mark.slow
def test_jetson(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    model = small_model()
    for size in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        size.dim_value = 28
    (tmp_path / "models" / "resnet18.onnx").write_bytes(model.SerializeToString())
    images = np.random.default_rng(0).standard_normal((16, 1, 28, 28)).astype(np.float32)
    np.savez(tmp_path / "models" / "fashion_mnist_calib.npz", input=images)
    environment = host_environment(tmp_path / "metadata")
    prepared = 0
    for _, code in blocks("jetson.md"):
        for line in code.splitlines():
            if "models/resnet18.onnx" in line or "--for " in line:
                run(tmp_path, "sh", line, environment)
                prepared += 1
            else:
                parses(line)
    scripts = sorted(str(path.relative_to(tmp_path / "build")) for path in (tmp_path / "build").rglob("*.sh"))
    assert prepared == 5
    assert scripts == ["nano/model.engine.sh", "nx/dla.engine.sh", "nx/explicit.engine.sh", "nx/model.engine.sh"]


def test_the_index_names_every_page() -> None:
    linked = set(re.findall(r"\]\((\w[\w/.-]*\.md)\)", (DOCS / "README.md").read_text()))
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert linked == pages - {"README.md", "pypi.md"}  # the latter is README.md of the root
