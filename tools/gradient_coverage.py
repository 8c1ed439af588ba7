"""Which operators of the newest standard opset can be differentiated, as a table.

    python tools/gradient_coverage.py > docs/gradient_coverage.md

Counted are the operators that have a floating-point input and output and a derivative between them.
"""

from __future__ import annotations

from onnx import defs

from hqp_onnx.gradients.reverse import RULES
from hqp_onnx.passes.lowering.expand_functions import LOWERED

CONSTANT = ("Bernoulli", "BitCast", "EyeLike", "RandomNormalLike", "RandomUniformLike")
COLUMNS = 6


def operators() -> list[str]:
    """Names of the operators that count."""
    names = []
    for schema in defs.get_all_schemas():
        floats = [any("tensor(float)" in v.types for v in end) for end in (schema.inputs, schema.outputs)]
        if not schema.domain and not schema.deprecated and all(floats) and schema.name not in CONSTANT:
            names.append(schema.name)
    return sorted(names)


def listed(names: list[str]) -> str:
    """A table of names without a header."""
    rows = [names[i : i + COLUMNS] for i in range(0, len(names), COLUMNS)]
    lines = ["|" + " |" * COLUMNS, "|" + "---|" * COLUMNS]
    return "\n".join(lines + ["| " + " | ".join(row + [""] * (COLUMNS - len(row))) + " |" for row in rows])


def table() -> str:
    """The whole document."""
    names = operators()
    ruled, lowered = ([name for name in names if name in known] for known in (RULES.names, LOWERED))
    refused = [name for name in names if name not in RULES.names and name not in LOWERED]
    both = len(ruled) + len(lowered)
    return f"""# Operators with gradients: opset {defs.onnx_opset_version()}

Written by `tools/gradient_coverage.py`. Of the {len(names)} operators of the standard that map floats to floats,
**{both} ({both / len(names):.0%}) can be differentiated**: {len(ruled)} by a rule, {len(lowered)} through the functions
that define them. The others are refused by an error that names the node, but If, Loop and Scan, where they can be
written without a graph inside ([Control flow](control_flow.md)). Not counted, since their outputs have no
derivative: {", ".join(CONSTANT)}.

## By a rule ({len(ruled)})

{listed(ruled)}

## Through their function body ({len(lowered)})

{listed(lowered)}

## Refused ({len(refused)})

{listed(refused)}"""


if __name__ == "__main__":
    print(table())
