"""The real ``polygraphy`` command, with this project's entry point and no more installed than that."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def host_environment(folder: Path) -> dict[str, str]:
    """An environment in which Polygraphy finds the entry points of pyproject.toml, by metadata in ``folder``."""
    project = (ROOT / "pyproject.toml").read_text()
    found = re.search(r'\[project\.entry-points\."(?P<group>.+)"\]\n(?P<name>\w+) = "(?P<value>.+)"', project)
    assert found is not None
    metadata = folder / "hqp_onnx-0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: hqp-onnx\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text("[{group}]\n{name} = {value}\n".format(**found.groupdict()))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    places = os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PATH": path, "PYTHONPATH": places, "OLIVE_DISABLE_TELEMETRY": "1"}


def sh(command: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run ``command`` in ``folder``; stdout and stderr together."""
    arguments = ["bash", "-euo", "pipefail", "-c", command]
    return subprocess.run(
        arguments, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
