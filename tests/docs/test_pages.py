"""Pages that are made from the code are up to date; links between pages lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

try:
    import tomllib
except ModuleNotFoundError:
    import tomli as tomllib

from hqp_onnx import cli, errors
from hqp_onnx.cli import cli as program
from hqp_onnx.errors import HqpError
from hqp_onnx.job.cost_model import CostModel

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PAPER = "https://arxiv.org/abs/2602.06069"
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@pytest.mark.parametrize("tool", ["json_docs.py", "pypi_readme.py"])
def test_pages_made_from_the_code_are_up_to_date(tool: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / tool), "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_page_on_json_has_what_is_written_beside_the_costs() -> None:
    section = (ROOT / "docs" / "json.md").read_text().partition("### CostModel\n")[2].partition("\n### ")[0]
    fields = dict(re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", section, re.M))
    costs = CostModel(None, 0.1, 1, 1, 1)
    assert fields.keys() == {*vars(costs), *costs.derived()} and all(words.strip() for words in fields.values())


def test_the_paper_is_named() -> None:
    """Where the method is first said to be one of a paper, and for those who cite."""
    for page in ("README.md", "docs/pypi.md", "docs/method.md", "docs/reproduction.md"):
        assert re.search(r"Gopalan\s+and\s+(Ratul\s+)?Ali", text := (ROOT / page).read_text()) and PAPER in text, page
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    (paper,) = cited["references"]
    assert {"type", "title", "authors"} <= set(paper) and paper["url"] == PAPER
    assert [author["family-names"] for author in paper["authors"]] == ["Gopalan", "Ali"]


def test_extras_are_installed_from_a_checkout() -> None:
    """No release is on PyPI yet, so no page may ask for one; and every extra that one names is there."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    seen = set()
    for page in PAGES:
        text = page.read_text()
        assert not re.search(r"hqp[-_]onnx\[|pip install [^`\n]*\bhqp[-_]onnx\b", text), page.name
        seen |= set(",".join(re.findall(r"'\.\[([\w,-]+)\]'", text)).split(","))
    seen.discard("")
    assert {"litert", "ethos-u", "tensorrt-rtx", "dask", "olive"} <= seen <= extras.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page if not path else (page.parent / path).resolve()
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor in _anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_have_the_options_that_they_are_shown_with(page: Path) -> None:
    """Nothing is run: that is what the slow tests of single pages do."""
    for code in re.findall(r"^ *```sh\n(.*?)```", page.read_text(), re.M | re.S):
        for line in code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["hqp"] and not {"--help", "..."} & {*words}:
                command = program.commands[words[1]]
                command.make_parser(click.Context(command)).parse_args(words[2:])


def _anchors(page: Path) -> set[str]:
    """Of headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.S), re.M)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in plain}


def test_a_word_is_explained_once() -> None:
    rows = re.findall(r"^\| ([^|]+) \|", (ROOT / "docs" / "glossary.md").read_text(), re.M)
    words = [word.strip() for row in rows for word in row.split(", ")]
    assert len(words) > 60 and len(words) == len(set(words))


def test_exit_codes_are_named_wherever_they_are_listed() -> None:
    codes = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HqpError)}
    trust = (ROOT / "docs" / "trust.md").read_text()
    for code in codes - {130}:
        assert re.search(rf"^\| {code} \|", trust, re.M), code
        assert re.search(rf"\b{code} (a|bad|done)\b", cli.__doc__ or ""), code
