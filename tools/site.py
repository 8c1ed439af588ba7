"""Build the documentation as a site: python tools/site.py [-o build/site]. Exit code 1 if a link leads nowhere.

Pages are those below docs/, the README as the first of them, and a reference made from docstrings (api_reference.py).
The notebook's cells and outputs are a page, too. Needs markdown-it-py, which rich brings; the style sheet is that of
reports.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from api_reference import references
from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
STYLE = (ROOT / "hqp_onnx" / "report" / "html" / "style.css").read_text()
MORE = """
main { max-width: 56rem; } h2 { margin-top: 2.25rem; }
p, li { max-width: none; } img { max-width: 100%; } a { color: var(--main); }
nav { max-width: 56rem; margin: 0 auto; padding: .75rem 1rem; border-bottom: 1px solid var(--rule); }
nav a { margin-right: 1rem; }
nav.contents { display: none; }
@media (min-width: 88rem) {
  nav.contents { display: block; position: fixed; top: 4rem; left: calc(50% + 29.5rem); width: 14rem; margin: 0; }
  nav.contents { max-height: 85vh; overflow-y: auto; padding: 0 0 0 .75rem; font-size: .85rem; }
  nav.contents { border: 0; border-left: 1px solid var(--rule); }
  nav.contents a { display: block; margin: .3rem 0; overflow-wrap: anywhere; }
}
@media print { nav { display: none; } }
.out { border-left: .25rem solid var(--rule); padding-left: .75rem; overflow-x: auto; }
"""
NAVIGATION = {"index.html": "Start", "pages.html": "All pages", "optimize.html": "Optimize", "reference.html": "Python"}
OUTSIDE = ("CHANGELOG.md", "CONTRIBUTING.md")  # pages that lie beside the README
PAGES = (".md", ".ipynb")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "build" / "site")
    folder = parser.parse_args().output
    written = build(folder)
    print(f"{folder / 'index.html'}: {len(written)} pages")
    if broken := broken_links(folder):
        sys.exit("\n".join(f"broken: {link}" for link in broken))


def build(folder: Path) -> list[Path]:
    """Write the site; its pages."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DOCS, folder, ignore=lambda _, names: {name for name in names if Path(name).suffix in PAGES})
    pages = {name: _linked(_markdown(source.read_text()), source) for source, name in sources().items()}
    pages |= {name: _markdown(text) for name, text in references().items()}
    pages["notebook.html"] = _notebook(json.loads((DOCS / "notebook.ipynb").read_text()))
    for name, content in pages.items():
        (folder / name).write_text(_page(content, name.count("/")))
    return [folder / name for name in pages]


def sources() -> dict[Path, str]:
    """The files that are pages, and what they are called in the site."""
    pages = [page for page in sorted(DOCS.rglob("*.md")) if page != DOCS / "pypi.md"]
    return {page: _name(page) for page in (ROOT / "README.md", *(ROOT / name for name in OUTSIDE), *pages)}


def _name(source: Path) -> str:
    """docs/README.md lists all pages; the README is the first one."""
    if source.parent == ROOT:
        return "index.html" if source.name == "README.md" else f"{source.stem.lower()}.html"
    return "pages.html" if source == DOCS / "README.md" else str(source.relative_to(DOCS).with_suffix(".html"))


def _markdown(text: str) -> str:
    """HTML whose headings have the anchors that GitHub gives them."""
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    tokens = parser.parse(text)
    for token, inline in pairwise(tokens):
        if token.type == "heading_open":
            words = "".join(child.content for child in inline.children or () if child.type in ("text", "code_inline"))
            token.attrSet("id", re.sub(r"[^\w\- ]", "", words.lower()).strip().replace(" ", "-"))
    return str(parser.renderer.render(tokens, parser.options, {}))


def _linked(content: str, source: Path) -> str:
    """The same with links to pages and pictures of the site; what is neither is shown as its name."""
    up = "../" * _name(source).count("/")

    def link(found: re.Match[str]) -> str:
        target, anchor = found[1].partition("#")[::2]
        if re.match(r"[a-z]+:", found[1]) or not target:
            return found[0]
        file = (source.parent / target).resolve()
        if file in sources() or file == DOCS / "notebook.ipynb":
            return f'<a href="{up}{_name(file)}{"#" * bool(anchor)}{anchor}">{found[2]}</a>'
        return f"<code>{html.escape(str(file.relative_to(ROOT)))}</code>"

    def picture(found: re.Match[str]) -> str:
        file = (source.parent / found[1]).resolve()
        return f'src="{up}{file.relative_to(DOCS)}"' if file.is_relative_to(DOCS) else found[0]

    content = re.sub(r'<a href="([^"]+)">(.*?)</a>', link, content, flags=re.S)
    return re.sub(r'\bsrc="(?![a-z]+:)([^"]+)"', picture, content)


def _page(content: str, depth: int = 0) -> str:
    """The whole page, ``depth`` folders below the first one."""
    title = re.sub(r"<[^>]+>", "", (re.search(r"<h1[^>]*>(.*?)</h1>", content, re.S) or ["", "hqp_onnx"])[1])
    links = "".join(f'<a href="{"../" * depth}{file}">{words}</a>' for file, words in NAVIGATION.items())
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    body = f"<nav>{links}</nav>{_contents(content)}<main>{content}</main>"
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}{MORE}</style></head><body>{body}</body></html>\n'
    )


def _contents(content: str) -> str:
    """What stands in the margin of a page: its sections, where it has several."""
    found = re.findall(r'<h2 id="([^"]+)">(.*?)</h2>', content, re.S)
    items = "".join(f'<a href="#{anchor}">{re.sub(r"<[^>]+>", "", words)}</a>' for anchor, words in found)
    return f'<nav class="contents" aria-label="On this page">{items}</nav>' if len(found) > 2 else ""


def _notebook(notebook: dict[str, Any]) -> str:
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(_markdown(source))
            continue
        parts.append(f"<pre><code>{html.escape(source)}</code></pre>")
        for output in cell["outputs"]:
            data = output.get("data", {})
            text = "".join(data.get("text/plain", output.get("text", [])))
            shown = "".join(data["text/html"]) if "text/html" in data else f"<pre>{html.escape(text)}</pre>"
            parts.append(f'<div class="out">{shown}</div>')
    return "\n".join(parts)


def broken_links(folder: Path) -> list[str]:
    """Links and pictures of the site that lead nowhere in it."""
    texts = {file.resolve(): file.read_text() for file in sorted(folder.rglob("*.html"))}
    anchors = {file: set(re.findall(r'\bid="([^"]+)"', text)) for file, text in texts.items()}
    broken = []
    for page, text in texts.items():
        for target in re.findall(r'\b(?:href|src)="([^"]+)"', text):
            name, _, anchor = target.partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            file = (page.parent / name).resolve() if name else page
            if not file.is_file() or (anchor and anchor not in anchors.get(file, set())):
                broken.append(f"{page.relative_to(folder.resolve())}: {target}")
    return broken


if __name__ == "__main__":
    main()
