"""The composite action and the Dockerfile, as far as they can be run without a runner and without Docker.

The action's own shell is run with the inputs that a workflow gives. What the Dockerfile copies must be there, and
be all that an installation needs.
"""

from __future__ import annotations

import os
import re
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


def run(step: dict[str, Any], job: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """A step as a runner runs it: inputs become variables, and bash ends at the first failure."""
    values = {name: str(said.get("default", "")) for name, said in ACTION["inputs"].items()} | inputs
    filled = {
        name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda found: values[found[1]], text)
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
    for sources in re.findall(r"^COPY (.+)$", DOCKERFILE, re.M):
        *files, place = sources.split()
        for file in files:
            target = tmp_path / place.lstrip("/")
            source = ROOT / file
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                target = target / source.name if place.endswith("/") else target
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
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
