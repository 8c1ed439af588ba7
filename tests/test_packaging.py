"""What is installed and what is handed out as source, built as pip builds them, from checkouts with and without links.

Where git does not make links (``core.symlinks=false``, the default on Windows), hqp_onnx/passes is a text file.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

try:
    import tomllib
except ModuleNotFoundError:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
OUTSIDE = ("tests/", "models/", "tools/", "docs/", ".ci/", "Makefile", "README.md", "LICENSE", "pyproject.toml")
SAMPLES = ("tests/test_packaging.py", "tests/zoo/swin.onnxtxt", "models/resnet18.onnx", "tools/zoo.py", ".ci/run")

checkout = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")


def build(source: Path, kind: str) -> Path:
    """The wheel or sdist of a folder, by the build backend's own hook."""
    command = f"import setuptools.build_meta as backend; backend.build_{kind}({str(source / 'dist')!r})"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", command], cwd=source, check=True, capture_output=True, env=environment)
    (built,) = (source / "dist").glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


def installed(wheel: Path) -> set[str]:
    """What a wheel installs, less its metadata."""
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    """Files of the last commit, which is what a clone has."""
    command = ["git", "ls-tree", "-r", "--name-only", "HEAD"]
    return set(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines())


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout without links."""
    folder = tmp_path_factory.mktemp("checkout") / "without links"
    subprocess.run(["git", "clone", "-q", "-c", "core.symlinks=false", ROOT, folder], check=True)
    assert (folder / "hqp_onnx" / "passes").read_text() == "../passes"
    return folder


@pytest.fixture(scope="module")
def wheel(clone: Path) -> Path:
    return build(clone, "wheel")


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Wheel and sdist of a checkout with links."""
    folder = tmp_path_factory.mktemp("linked") / "checkout"
    subprocess.run(["git", "clone", "-q", ROOT, folder], check=True)
    wheel = build(folder, "wheel")
    (folder / "dist").rename(folder.parent / "wheels")
    return folder.parent / "wheels" / wheel.name, build(folder, "sdist")


@checkout
def test_a_wheel_from_a_checkout_without_links_has_every_module(wheel: Path, tracked: set[str]) -> None:
    package = {name for name in tracked if name.startswith(("hqp_onnx/", "passes/")) and name != "hqp_onnx/passes"}
    expected = {f"hqp_onnx/{name}" if name.startswith("passes/") else name for name in package}
    assert installed(wheel) == expected
    assert {"hqp_onnx/py.typed", "hqp_onnx/report/html/style.css"} < expected
    assert {"hqp_onnx/passes/quantize.py", "hqp_onnx/passes/lowering/absorb_pads.py"} < expected


@checkout
def test_a_wheel_works_where_it_is_unpacked(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    command = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); "
        "import hqp_onnx.passes.canonicalize as c, hqp_onnx.passes.lowering.absorb_pads; print(c.__file__)"
    )
    ended = subprocess.run([sys.executable, "-c", command], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert Path(ended.stdout.strip()) == tmp_path / "site" / "hqp_onnx" / "passes" / "canonicalize.py"


@checkout
def test_this_checkout_and_a_source_distribution_give_the_same_wheel(
    linked: tuple[Path, Path], wheel: Path, tracked: set[str], tmp_path: Path
) -> None:
    """The source distribution has what its tests need, and hqp_onnx/passes neither as a link nor as text."""
    same, archive = linked
    assert installed(same) == installed(wheel)
    with tarfile.open(archive) as stream:
        members = stream.getmembers()
        stream.extractall(tmp_path, filter="data")
    top = archive.name.removesuffix(".tar.gz")
    assert all(member.isfile() or member.isdir() for member in members)
    names = {member.name.removeprefix(f"{top}/") for member in members}
    assert {name for name in tracked if name.startswith(OUTSIDE)} | set(SAMPLES) <= names
    assert not any(name.startswith("hqp_onnx/passes") for name in names)
    assert installed(build(tmp_path / top, "wheel")) == installed(wheel)


@checkout
def test_a_package_index_would_take_both(linked: tuple[Path, Path]) -> None:
    pytest.importorskip("twine")
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, linked)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1"})
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.count("PASSED") == 2


def test_every_package_is_listed() -> None:
    """pyproject.toml against the folders: a room that is not listed is not installed."""
    rooms = (file.parent for room in ("hqp_onnx", "passes") for file in (ROOT / room).rglob("__init__.py"))
    found = {".".join(folder.relative_to(ROOT).parts) for folder in rooms}
    expected = {f"hqp_onnx.{name}" if name.split(".")[0] == "passes" else name for name in found}
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert listed == sorted(expected)
