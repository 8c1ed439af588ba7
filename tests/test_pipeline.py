"""The composite action and the Dockerfile, as far as they can be run without a runner and without Docker.

The action's own shell is run with the inputs that a workflow gives. What the Dockerfile copies must be there, and
be all that an installation needs.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from small_model import small_data, small_model
from steady import steady

from hqp_onnx import Options, optimize

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / ".github" / "actions" / "check" / "action.yml").read_text())
HERE = ROOT / ".github" / "actions" / "check"
DOCKERFILE = (ROOT / "tools" / "docker" / "Dockerfile").read_text()


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, data, what was optimized in a folder with a blank in its name, and a command `hqp`."""
    made = tmp_path_factory.mktemp("job")
    onnx.save(small_model(), made / "small.onnx")
    np.savez(made / "data.npz", input=small_data(60)["input"])
    chosen: dict[str, Any] = {"objective": "sparsity", "saliency": "l2", "compensate": False, "metric": "fidelity"}
    data = str(made / "data.npz")
    with pytest.MonkeyPatch.context() as patch:
        steady(patch)
        optimize(Options(made / "small.onnx", data, data, made / "my out", max_drop=0.3, precision="fp32", **chosen))
    (made / "bin").mkdir()
    (made / "bin" / "hqp").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m hqp_onnx "$@"\n')
    (made / "bin" / "hqp").chmod(0o755)
    return made


def run(step: dict[str, Any], job: Path, place: Path = HERE, **inputs: str) -> subprocess.CompletedProcess[str]:
    """A step as a runner runs it: inputs become variables, and bash ends at the first failure."""
    values = {name: str(said.get("default", "")) for name, said in ACTION["inputs"].items()} | inputs
    known = {f"inputs.{name}": value for name, value in values.items()} | {"github.action_path": str(place)}
    filled = {
        name: re.sub(r"\$\{\{ ([\w.-]+) \}\}", lambda found: known[found[1]], text)
        for name, text in step["env"].items()
    }
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{job / 'bin'}:{os.environ['PATH']}", **filled}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    return subprocess.run(command, cwd=job, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("inputs", "code", "failures"),
    [
        ({"max-size": "1MB", "max-drop": "0.5", "data": "data.npz"}, 0, "0"),
        ({"max-size": "1kB"}, 4, "1"),
        ({"max-size": "1kB; touch ran"}, 2, None),  # what a workflow hands in is no code
    ],
)
def test_the_action_holds_a_job_to_thresholds(job: Path, inputs: dict[str, str], code: int, failures: str) -> None:
    (job / "hqp-check.xml").unlink(missing_ok=True)
    step = ACTION["runs"]["steps"][-1]
    done = run(step, job, folder="my out", **inputs)
    assert done.returncode == code, done.stderr
    assert not (job / "ran").exists()
    if failures is not None:
        assert ET.parse(job / "hqp-check.xml").getroot().attrib["failures"] == failures


def test_the_action_installs_the_checkout_that_it_is_in(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By pip, without what hqp needs: that would take a network."""
    pytest.importorskip("pip")
    kept = ("hqp_onnx", "passes", "docs/pypi.md", "pyproject.toml", "LICENSE", ".github")
    for name in kept:  # a blank in the name, no git: as a runner unpacks an action
        source, target = ROOT / name, tmp_path / "the action" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, target, **({"symlinks": True} if source.is_dir() else {}))
    environment = {"PIP_TARGET": tmp_path / "site", "PIP_NO_DEPS": 1, "PIP_NO_INDEX": 1, "PIP_NO_BUILD_ISOLATION": 0}
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    (job / "bin" / "python").write_text(f'#!/bin/sh\nunset PYTHONPATH\nexec {shlex.quote(sys.executable)} "$@"\n')
    (job / "bin" / "python").chmod(0o755)
    done = run(ACTION["runs"]["steps"][0], job, tmp_path / "the action" / ".github" / "actions" / "check")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "hqp_onnx" / "passes" / "quantize.py").is_file()
    assert (tmp_path / "site" / "bin" / "hqp").is_file()
    asked = run(ACTION["runs"]["steps"][0], job, package="./no-such-wheel.whl")
    assert asked.returncode != 0 and "no-such-wheel" in asked.stderr


def test_inputs_reach_the_shell_as_variables_alone() -> None:
    assert ACTION["runs"]["using"] == "composite"
    used = set()
    for step in ACTION["runs"]["steps"]:
        assert step["shell"] == "bash"
        assert "${{" not in step["run"]
        used |= set(re.findall(r"inputs\.([\w-]+)", " ".join(step["env"].values())))
    assert used == set(ACTION["inputs"])


def test_the_image_is_built_from_what_it_copies(tmp_path: Path) -> None:
    """The wheel that pip makes inside has every module, and installs the command that is its entry point."""
    runpy.run_path(str(ROOT / "tools" / "check_image.py"))["copied"](DOCKERFILE, tmp_path)
    script = f"import setuptools.build_meta as backend; print(backend.build_wheel({str(tmp_path)!r}))"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path / "src",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = set(zipfile.ZipFile(tmp_path / done.stdout.split()[-1]).namelist())
    ours = {str(path.relative_to(ROOT)) for path in (ROOT / "hqp_onnx").rglob("*.py")}
    assert not ours - names
    assert re.search(r'^ENTRYPOINT \["hqp"\]$', DOCKERFILE, re.M)
