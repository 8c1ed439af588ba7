"""docs/tasks.md: its models are as recorded, judged as the recipe judged them; its commands run, on fewer samples."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest
from polygraphy_host import ROOT, host_environment, sh

from hqp_onnx.cli import cli

PAGE = (ROOT / "docs" / "tasks.md").read_text()
BLOCKS = dict(re.findall(r"```sh\n(python models/task_data.py (\w+) (?:(?!```).*\n)*)```", PAGE))
TASKS = {name: code for code, name in BLOCKS.items()}
MANIFEST = json.loads((ROOT / "models" / "MANIFEST.json").read_text())
QUICKLY = " --objective sparsity --precision int8 --step 0.1"
"""Without the clock, which takes its time whatever the size of a model."""
QUALITY = {
    "segments": "miou",
    "tags": "f1",
    "signals": "rmse",
    "kinds": "recall@1",
    "words": "top1",
    "letters": "token-accuracy",
    "lines": "cer",
}


def task_data():
    spec = importlib.util.spec_from_file_location("task_data", ROOT / "models" / "task_data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_task_has_its_place():
    assert (
        TASKS.keys() == task_data().TASKS.keys() == {path.stem for path in (ROOT / "models" / "tasks").glob("*.onnx")}
    )
    for name in TASKS:
        digest = hashlib.sha256((ROOT / "models" / "tasks" / f"{name}.onnx").read_bytes()).hexdigest()
        assert MANIFEST[f"tasks/{name}.onnx"]["sha256"] == digest


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "models").symlink_to(ROOT / "models")
    return folder


@pytest.fixture(scope="module")
def environment(place: Path) -> dict[str, str]:
    return host_environment(place / "metadata")


@pytest.mark.parametrize("name", sorted(QUALITY))
def test_the_metric_is_what_the_recipe_computed(place: Path, environment: dict[str, str], name: str) -> None:
    """The recipe's figures were computed in PyTorch and numpy, from arrays."""
    make, judge, _ = commands(name, 1000)
    assert sh(make, place, environment).returncode == 0
    done = sh(f"{judge} --json - --quiet", place, environment)
    assert done.returncode == 0, done.stdout
    found = json.JSONDecoder().raw_decode(done.stdout[done.stdout.index("{") :])[0]["value"]
    (expected,) = MANIFEST[f"tasks/{name}.onnx"]["quality"].values()
    assert found == pytest.approx(expected, abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TASKS))
def test_the_commands_run(place: Path, environment: dict[str, str], name: str) -> None:
    for command in commands(name, 100):
        done = sh(command + QUICKLY * command.startswith("hqp optimize"), place, environment)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}"
    report = json.loads((place / f"out_{name}" / "report.json").read_text())
    assert report["budget_met"] and (place / f"out_{name}" / "split.json").exists()


def commands(name: str, samples: int) -> list[str]:
    lines = TASKS[name].replace("\\\n", " ").replace("--samples 600", f"--samples {samples}").strip().split("\n")
    assert len(lines) == 3
    return lines


def test_the_commands_of_the_page_on_data_have_options_that_there_are() -> None:
    page = (ROOT / "docs" / "data.md").read_text()
    lines = [line for code in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in code.strip().split("\n")]
    assert len(lines) >= 8
    for line in lines:
        program, name, *words = shlex.split(line)
        assert program == "hqp"
        cli.commands[name].make_context(name, words)
