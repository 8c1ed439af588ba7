"""Build the image of tools/docker/Dockerfile and run it once; without a Docker daemon, run its lines as far as may be.

python tools/check_image.py          builds with docker where a daemon answers
python tools/check_image.py --venv   in any case in a fresh virtual environment, as below

Without a daemon, what COPY names is copied into a temporary folder, RUN lines that install are run there with the
python of a fresh virtual environment in place of the image's, and the entry point is run as the image would run it.
The base image, and lines that change the system (useradd), are then not checked; that is said.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "tools" / "docker" / "Dockerfile"
MODEL = ROOT / "models" / "resnet18.onnx"
JOB = ("inspect", MODEL.name)


def lines(word: str, text: str) -> list[str]:
    """What follows ``word`` in the Dockerfile, once for each line that begins so."""
    return re.findall(rf"^{word} (.+)$", text.replace("\\\n", " "), re.M)


def daemon() -> str:
    """Why docker cannot build here; empty if it can."""
    if shutil.which("docker") is None:
        return "there is no docker"
    asked = subprocess.run(
        ["docker", "info", "--format", "{{.ServerVersion}}"], capture_output=True, text=True, check=False
    )
    return "" if asked.returncode == 0 and asked.stdout.strip() else "no Docker daemon answers"


def by_docker(job: Path) -> None:
    subprocess.run(["docker", "build", "-f", DOCKERFILE, "-t", "hqp-check", ROOT], check=True)
    ran = ["docker", "run", "--rm", "-v", f"{job}:/job"]
    subprocess.run([*ran, "hqp-check"], check=True)
    subprocess.run([*ran, "hqp-check", *JOB], check=True)


def copied(text: str, root: Path) -> None:
    """Carry out COPY lines, with ``root`` in place of the image's /."""
    for line in lines("COPY", text):
        *sources, place = line.split()
        for name in sources:
            source, target = ROOT / name, root / place.lstrip("/")
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
                continue
            target = target / source.name if place.endswith("/") else target
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


def by_venv(root: Path, job: Path) -> None:
    """Run what the Dockerfile runs, in a virtual environment."""
    text = DOCKERFILE.read_text()
    copied(text, root)
    venv.create(root / "venv", with_pip=True)
    bin_ = root / "venv" / "bin"
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"PATH": f"{bin_}:{environment['PATH']}", "HOME": str(root)}
    for line in lines("RUN", text):
        if "pip install" not in line:
            print(f"not run, since it changes the system: {line}", flush=True)
            continue
        command = line.replace("/src", str(root / "src"))
        print(f"+ {line}", flush=True)
        subprocess.run(["/bin/sh", "-c", command], env=environment, cwd=root, check=True)
    (entry,), (default,) = (map(json.loads, lines(word, text)) for word in ("ENTRYPOINT", "CMD"))
    for words in (default, JOB):
        print(f"+ {' '.join([*entry, *words])}", flush=True)
        subprocess.run([bin_ / entry[0], *entry[1:], *words], env=environment, cwd=job, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", action="store_true", help="do not look for docker")
    chosen = parser.parse_args()
    why = "--venv was given" if chosen.venv else daemon()
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder) / "job"
        job.mkdir()
        shutil.copy(MODEL, job)
        if not why:
            by_docker(job)
            print("the image was built, and ran")
            return
        print(
            f"NO IMAGE WAS BUILT: {why}. Its lines are run in a virtual environment of Python {sys.version.split()[0]}"
        )
        by_venv(Path(folder), job)
    base = lines("FROM", DOCKERFILE.read_text())[0]
    print(f"what the Dockerfile installs runs; the image itself, from {base}, was not built")


if __name__ == "__main__":
    main()
