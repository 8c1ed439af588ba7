"""Write docs/pypi.md, the README as a package index shows it: python tools/pypi_readme.py [--base URL] [--check].

There, links and pictures must be absolute. With ``--base``, the address of the repository's files, they are; without
one, links to files become their words, and pictures are left out.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "pypi.md"
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:)([^)\s]+)\)")


def described(text: str, base: str = "") -> str:
    """The README's text with links that lead somewhere from anywhere."""

    def link(found: re.Match[str]) -> str:
        picture, words, target = found.groups()
        if base:
            return f"{picture}[{words}]({base.rstrip('/')}/{target})"
        return "" if picture else words

    if not base:
        text = re.sub(r"\(\[([^\]]*)\]\(([^):]+)\)\)", r"(\1, \2)", text)  # in parentheses, the file is said, too
    return re.sub(r"\n{3,}", "\n\n", _LINK.sub(link, text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="", metavar="URL", help="as https://github.com/OWNER/NAME/blob/main")
    parser.add_argument("--check", action="store_true", help="exit code 1 if the file is not up to date")
    chosen = parser.parse_args()
    text = described((ROOT / "README.md").read_text(), chosen.base)
    if not chosen.check:
        PAGE.write_text(text)
        print(PAGE)
    elif not PAGE.is_file() or PAGE.read_text() != text:
        sys.exit(f"{PAGE} is not up to date: python tools/pypi_readme.py")


if __name__ == "__main__":
    main()
