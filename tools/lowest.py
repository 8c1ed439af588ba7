"""The lowest versions that pyproject.toml admits, as requirements: python tools/lowest.py > lowest.txt.

Of what the product needs, and of the runtimes that its tests use. ``make test-lowest`` installs and tests them.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EXTRAS = ("onnxruntime", "openvino", "onnx-ir")


def main() -> None:
    with (Path(__file__).parents[1] / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    optional = project["optional-dependencies"]
    for requirement in [*project["dependencies"], *(line for extra in EXTRAS for line in optional[extra])]:
        print(re.sub(r">=\s*", "==", requirement, count=1))


if __name__ == "__main__":
    main()
