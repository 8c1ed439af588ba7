"""The documentation's site: every page is built, public names are documented, links that lead nowhere are found."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import hqp_onnx

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    pytest.importorskip("markdown_it")
    sys.path.append(str(ROOT / "tools"))
    spec = importlib.util.spec_from_file_location("site_tool", ROOT / "tools" / "site.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tool: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    tool.build(folder)
    return folder


def test_every_page_is_there_and_every_link_leads_somewhere(tool: ModuleType, site: Path) -> None:
    docs = ROOT / "docs"
    pages = {str(page.relative_to(docs).with_suffix("")) for page in docs.rglob("*.md")} - {"README", "pypi"}
    built = {str(page.relative_to(site).with_suffix("")) for page in site.rglob("*.html")}
    assert pages <= built and {"index", "pages", "notebook", "reference", "changelog", "contributing"} <= built
    assert tool.broken_links(site) == []
    assert not re.search(r'href="[^"]+\.md', "".join(page.read_text() for page in site.rglob("*.html")))


def test_pages_in_folders_and_pictures_beside_them(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "README.md": "# Name\n[figures](docs/results/speed.md#at-once) ![](docs/results/speed.svg)",
        "CHANGELOG.md": "",
        "CONTRIBUTING.md": "",
        "docs/README.md": "[speed](speed.md) [its figures](results/speed.md)",
        "docs/speed.md": "# Speed\n",
        "docs/results/speed.md": "## At once\n\n![](speed.svg) [it](../speed.md) [1](../../README.md) [m](../../m.py)",
        "docs/results/speed.svg": "<svg/>",
        "docs/notebook.ipynb": '{"cells": []}',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "DOCS", tmp_path / "docs")
    tool.build(site := tmp_path / "site")
    inner = (site / "results" / "speed.html").read_text()
    links = re.findall(r'(?:href|src)="([^"]+)"', inner[inner.index("<main>") :])
    assert links == ["../results/speed.svg", "../speed.html", "../index.html"] and "<code>m.py</code>" in inner
    first = (site / "index.html").read_text()
    assert 'href="results/speed.html#at-once"' in first and 'src="results/speed.svg"' in first
    (site / "pages.html").unlink()
    assert {link.partition(": ")[2] for link in tool.broken_links(site)} == {
        "pages.html",
        "../pages.html",
        "optimize.html",
        "../optimize.html",
    }


def test_links_that_lead_nowhere_are_found(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<p id="x"><a href="b.html">b</a> <a href="#x">x</a> <a href="a.html#y">y</a>')
    assert tool.broken_links(tmp_path) == ["a.html: b.html", "a.html: a.html#y"]


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    text = (site / "reference.html").read_text()
    names = [name for name in hqp_onnx.__all__ if callable(getattr(hqp_onnx, name))]
    assert [name for name in names if f'<h2 id="{name.lower()}">' not in text] == []
    groups = (site / "extensions.html").read_text()
    assert all(f'<h3 id="{name}">' in groups for name in ("target", "runtime", "metric", "source", "transport"))
    assert "hqp_onnx.targets" in groups and "ethos-u55-256" in groups
    found = (site / "passes.html").read_text()
    modules = {path.stem for path in (ROOT / "passes").glob("*.py")} - {"__init__"}
    assert set(re.findall(r'<h2 id="(\w+)">', found)) == modules
    assert all(f'<a href="#{name}">' in found for name in modules)  # in the margin
    assert "report.why_stopped" in (site / "notebook.html").read_text()
