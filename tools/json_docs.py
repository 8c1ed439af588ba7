"""Write docs/json.md: exit codes, and the schemas of what commands write as JSON, from the types that write it.

python tools/json_docs.py            write the page
python tools/json_docs.py --check    exit code 1 if it is not up to date
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from hqp_onnx import errors
from hqp_onnx.channels.removals import SCHEMA as LEDGER_SCHEMA
from hqp_onnx.channels.removals import _Removals
from hqp_onnx.cli.answers import Benchmarked, Checked, Compared, Evaluated, Split
from hqp_onnx.engine.build_report import BuildReport
from hqp_onnx.job.results import SCHEMA, Point, Report
from hqp_onnx.steps.export import Exported
from hqp_onnx.steps.inspect import Inspection

PAGE = Path(__file__).parents[1] / "docs" / "json.md"
HEAD = """\
# JSON and exit codes

`python tools/json_docs.py` writes this page from the types that write and read the files, and a test holds it to them.

## Exit codes

| code | when |
|---|---|
| 0 | done |
| 1 | a fault of hqp itself: `HQP_DEBUG=1` shows where |
{codes}
| 130, 143, 129 | interrupted: Ctrl-C, SIGTERM, SIGHUP |

An error is one line on stderr, `error: ...`. Results go to stdout, or as JSON to the file of `--json` (`-`: stdout).

## Versions

`report.json` has a number, `schema_version`, {schema} at present. It is raised when a program that reads the version
before would go wrong: where a field is gone, has another meaning or another type. Fields may be added at any time, so
readers pass over those that they do not know; fields that are null are left out. `hqp report` and `hqp check` refuse
another number, and say which one they read. `ledger.json` has one of its own, {ledger}; ledgers that state none are of
version 1. What commands answer by `--json` only ever gains fields.
"""
MEANINGS = {
    2: "bad usage or input; something that the system refuses; code of yours that fails",
    3: "the budget, or the speed \
that was asked for, is missed; or warnings, with `--strict`",
    4: "`hqp check`: a threshold is missed",
}
FILES = {
    "report.json": (Report, "What `hqp optimize` found; `hqp optimize --json` writes the same."),
    "ledger.json": (
        _Removals,
        "What was removed from the original: indices by tensor and axis, in its numbering. "
        "Zero of a quantized tensor is its zero-point.",
    ),
    "pareto.json": (tuple[Point, ...], "The models of `hqp optimize --pareto`, slowest first: a list of points."),
    "split.json": (Split, "How `hqp optimize --data` divided one source; `FILE.json:part` reads a part again."),
    "hqp check": (Checked, "By `--json`."),
    "hqp evaluate": (Evaluated, "By `--json`."),
    "hqp benchmark": (Benchmarked, "By `--json`, of .onnx models."),
    "hqp compare": (Compared, "By `--json`."),
    "hqp inspect": (Inspection, "By `--json`."),
    "hqp export": (Exported, "By `--json`."),
    "hqp build": (BuildReport, "By `--json`, and in the file beside an engine."),
}


def page() -> str:
    """The text."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.HqpError)]
    found = sorted({kind.exit_code for kind in kinds})
    codes = "\n".join(f"| {code} | {MEANINGS[code]} |" for code in found)
    parts, described = [HEAD.format(codes=codes, schema=SCHEMA, ledger=LEDGER_SCHEMA)], set[str]()
    for file, (kind, words) in FILES.items():
        (schema,), inner = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
        parts.append(f"## {file}\n\n{words}\n")
        new = {name: content for name, content in inner.items() if "properties" in content and name not in described}
        parts += [_table(name, content, "###") for name, content in new.items()]
        described |= new.keys()
        parts.append(_schema(file, {**schema, "$defs": inner}))
    return "\n".join(parts)


def _table(name: str, content: dict[str, Any], level: str) -> str:
    rows = [
        f"| `{key}` | {_type(value)} | {'yes' if key in content.get('required', ()) else ''} |"
        for key, value in content["properties"].items()
    ]
    about = " ".join(content.get("description", "").partition("\n\n")[0].split()).replace("``", "`")
    return "\n".join(
        [f"{level} {name.lstrip('_')}\n", f"{about}\n", "| field | type | always |", "|---|---|---|", *rows, ""]
    )


def _type(value: dict[str, Any]) -> str:
    """A schema's type in words."""
    if "$ref" in value:
        return f"[{value['$ref'].rpartition('/')[2]}](#{value['$ref'].rpartition('/')[2].lower()})"
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(map(_type, value["anyOf"])))
    kind = value.get("type", "any")
    if kind == "array":
        return f"list of {_type(value['items'])}" if isinstance(value.get("items"), dict) else "list"
    if kind == "object" and isinstance(value.get("additionalProperties"), dict):
        return f"object of {_type(value['additionalProperties'])} by name"
    return str(kind)


def _schema(file: str, schema: dict[str, Any]) -> str:
    def bare(value: Any) -> Any:
        """Without descriptions, which are above."""
        if isinstance(value, dict):
            return {key: bare(inner) for key, inner in value.items() if key != "description" or isinstance(inner, dict)}
        return [bare(inner) for inner in value] if isinstance(value, list) else value

    text = json.dumps(bare({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}))
    return f"<details><summary>JSON Schema of {file}</summary>\n\n```json\n{text}\n```\n\n</details>\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        PAGE.write_text(page())
        print(PAGE)
    elif not PAGE.is_file() or PAGE.read_text() != page():
        sys.exit(f"{PAGE} is not up to date: python tools/json_docs.py")


if __name__ == "__main__":
    main()
