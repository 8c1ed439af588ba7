"""Write docs/json.md: exit codes, and the schemas of what commands write as JSON, from the types that write it.

python tools/json_docs.py            write the page
python tools/json_docs.py --check    exit code 1 if it is not up to date
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from hqp_onnx import errors
from hqp_onnx.channels.removals import SCHEMA as LEDGER_SCHEMA
from hqp_onnx.channels.removals import _Removals
from hqp_onnx.cli.answers import Benchmarked, Checked, Compared, Evaluated, Split
from hqp_onnx.engine.build_report import BuildReport
from hqp_onnx.job.cost_model import CostModel, Derived
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
readers pass over those that they do not know. `hqp report` and `hqp check` refuse another number, and say which one
they read. `ledger.json` has one of its own, {ledger}; ledgers that state none are of version 1. What commands answer by
`--json` only ever gains fields.

In the tables, "always" marks fields that every file has. Others may be missing from files of earlier versions, and then
have the default of the schema. Fields of the report itself that are null are left out; those of the objects in it are
written as null.

Metrics that are shares, such as accuracy, are written as shares, and so are drops and the budget: 0.94 is 94 %, and a
drop of 0.015 is 1.5 points. Other metrics and their drops are in the unit that `metric` names.
"""
ADDED: dict[type, type] = {CostModel: Derived}  # fields that are written beside those of a type, and not read
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
        types = {cls.__name__: cls for cls in _classes(msgspec.inspect.type_info(kind))}
        schema, inner = _components(kind, types)
        parts.append(f"## {file}\n\n{words}\n")
        new = {name: content for name, content in inner.items() if "properties" in content and name not in described}
        parts += [_table(name, content, types[name]) for name, content in new.items()]
        described |= new.keys()
        parts.append(_schema(file, {**schema, "$defs": inner}))
    return "\n".join(parts)


def _components(kind: Any, types: dict[str, type]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of a type, and those of the types in it, with what is ``ADDED`` to some; ``types`` gain these."""
    added = {name: ADDED[cls] for name, cls in types.items() if cls in ADDED}
    (schema, *_), inner = msgspec.json.schema_components([kind, *added.values()], ref_template="#/$defs/{name}")
    for name, more in added.items():
        inner[name]["properties"] |= inner.pop(more.__name__)["properties"]
        types |= {cls.__name__: cls for cls in _classes(msgspec.inspect.type_info(more))}
    return schema, inner


def _classes(found: object) -> Iterator[type]:
    """Those with fields that a type is made of."""
    if isinstance(found, tuple):
        for each in found:
            yield from _classes(each)
    elif isinstance(found, msgspec.inspect.Type | msgspec.inspect.Field):
        if isinstance(cls := getattr(found, "cls", None), type):
            yield cls
        yield from _classes(tuple(getattr(found, name) for name in found.__struct_fields__))


def _table(name: str, content: dict[str, Any], cls: type) -> str:
    words, meanings = _documented(cls)
    rows = [
        f"| `{key}` | {_type(value)} | {'yes' * (key in content.get('required', ()))} | {meanings.get(key, '')} |"
        for key, value in content["properties"].items()
    ]
    return "\n".join(
        [f"### {name.lstrip('_')}\n", f"{words}\n", "| field | type | always | |", "|---|---|---|---|", *rows, ""]
    )


def _documented(cls: type) -> tuple[str, dict[str, str]]:
    """What a type is, and the meanings of its fields: of those that it inherits, and that are added, as well."""
    meanings: dict[str, str] = {}
    for each in (*reversed(cls.__mro__[:-1]), *([ADDED[cls]] if cls in ADDED else [])):
        _, _, attributes = inspect.cleandoc(each.__doc__ or "").partition("\nAttributes:\n")
        for entry in re.split(r"\n {4}(?=\S)", "\n" + attributes)[1:]:
            names, _, meaning = " ".join(entry.split()).partition(": ")
            if not meaning.startswith("see "):
                meanings |= dict.fromkeys(names.split(", "), _plain(meaning))
    about = inspect.cleandoc(cls.__doc__ or "").partition("\nAttributes:\n")[0]
    return _plain(about.strip()), meanings


def _plain(text: str) -> str:
    """Words of a docstring as those of the page, where None is null."""
    return re.sub(r"\bNone\b", "null", text.replace("``", "`").replace("|", "\\|"))


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
