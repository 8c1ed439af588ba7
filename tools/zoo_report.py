"""What ``tools/zoo.py`` says of a model: how much of it may be pruned, and why the rest may not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis

PRODUCTS = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": -1}
COLUMNS = (
    *("model", "nodes", "units", "prunable", "of outputs", "of params", "error", "effect", "oracle", "lost"),
    *("open s", "analysis s", "surgery s", "round trip", "status", "frozen"),
)
BAD = ("wrong", "crash")


def describe(graph: gs.Graph, channels: ChannelMap) -> dict[str, Any]:
    """Sizes, prunable shares and frozen reasons of an analysed graph."""
    prunable = np.zeros(channels.units + 1, bool)
    prunable[channels.prunable] = True
    outputs = [prunable[labels] for labels in _product_outputs(graph, channels)]
    reasons = Counter(re.sub(r"'[^']*'", "'...'", reason) for reason in channels.frozen.values())
    return {
        "nodes": len(graph.nodes),
        "units": channels.units,
        "prunable": len(channels.prunable) / max(channels.units, 1),
        "outputs": float(np.mean(np.concatenate([*outputs, [0]]))) if outputs else 0.0,
        "params": _touched(graph, channels, prunable),
        "frozen": dict(reasons.most_common()),
    }


def _product_outputs(graph: gs.Graph, channels: ChannelMap) -> Iterable[np.ndarray]:
    """Units of the output channels of every product with a constant weight that is not a head."""
    heads = _heads(graph)
    for node in graph.nodes:
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        if node.op not in PRODUCTS or not isinstance(weight, gs.Constant) or node.name in heads or not weight.shape:
            continue
        axis = PRODUCTS[node.op] % len(weight.shape)
        if node.op == "Gemm" and node.attrs.get("transB", 0):
            axis = 0
        yield channels.members.get(ParamAxis(weight.name, axis), np.full(weight.shape[axis], -1))


def _heads(graph: gs.Graph) -> set[str]:
    """Products that reach a graph output past no other product."""
    heads: set[str] = set()
    seen: set[str] = set()
    waiting = [node for tensor in graph.outputs for node in tensor.inputs]
    while waiting:
        node = waiting.pop()
        if node.name in seen or node.op in ("Shape", "Size"):
            continue
        seen.add(node.name)
        if node.op in PRODUCTS and isinstance(node.inputs[1], gs.Constant):
            heads.add(node.name)
        else:
            waiting += [maker for tensor in node.inputs for maker in tensor.inputs]
    return heads


def _touched(graph: gs.Graph, channels: ChannelMap, prunable: np.ndarray) -> float:
    """Share of the floating-point parameters that at least one prunable unit owns."""
    touched = total = 0
    for name, tensor in graph.tensors().items():
        if isinstance(tensor, gs.Constant) and np.issubdtype(tensor.dtype, np.floating):
            kept = 1
            for axis, size in enumerate(tensor.shape):
                labels = channels.members.get(ParamAxis(name, axis))
                kept *= size if labels is None else int((~prunable[labels]).sum())
            total += int(np.prod(tensor.shape))
            touched += int(np.prod(tensor.shape)) - kept
    return touched / max(total, 1)


def print_row(result: dict[str, Any], first: bool) -> None:
    """One markdown row, after the header if ``first``."""
    if first:
        print("|", " | ".join(COLUMNS), "|")
        print("|", " | ".join("---" for _ in COLUMNS), "|")
    plans = result.get("plans", 0)
    cells = [
        result["model"],
        result.get("nodes", ""),
        result.get("units", ""),
        *(_percent(result.get(key)) for key in ("prunable", "outputs", "params")),
        *(_number(result.get(key), "{:.1e}") for key in ("error", "effect")),
        f"file {plans - result['canonical']}/{plans}" if plans else "",
        result.get("lost", ""),
        *(_number(result.get(key), "{:.2f}") for key in ("open_seconds", "analysis_seconds", "surgery_seconds")),
        result.get("round_trip", ""),
        result["status"] + (f" at {result['stage']}: {result['reason']}" if result.get("reason") else ""),
        "; ".join(f"{count} x {reason}" for reason, count in result.get("frozen", {}).items()),
    ]
    print("|", " | ".join(str(cell).replace("|", "/").replace("\n", " ") for cell in cells), "|", flush=True)


def print_summary(results: list[dict[str, Any]]) -> None:
    """Counts, then what needs a look."""
    print(
        f"\n{len(results)} models: " + ", ".join(f"{n} {s}" for s, n in Counter(r["status"] for r in results).items())
    )
    analysed = [r for r in results if "outputs" in r]
    if analysed:
        for key, what in (
            ("outputs", "output channels outside heads"),
            ("params", "parameters"),
            ("prunable", "units"),
        ):
            values = [r[key] for r in analysed]
            print(
                f"prunable {what}: mean {np.mean(values):.0%}, median {np.median(values):.0%}, least {min(values):.0%}"
            )
    plans, canonical = (sum(r.get(key, 0) for r in results) for key in ("plans", "canonical"))
    print(f"{plans} plans compared, {plans - canonical} of them with the file as exported")
    print(f"worst error {max((r.get('error', 0.0) for r in results if 'double' not in r), default=0.0):.1e}")
    print(f"{sum(r['seconds'] for r in results):.0f} seconds")
    for title, chosen in (
        ("over 1e-4 in float32, right in float64", [r for r in results if "double" in r and r["status"] == "right"]),
        ("effect below 1e-3, so hardly compared", [r for r in results if r.get("effect", 1.0) < 1e-3]),
        ("prunable units lost by a second analysis", [r for r in results if r.get("lost", 0) > 0]),
        ("no round trip", [r for r in results if r.get("round_trip", "").startswith("neither")]),
    ):
        if chosen:
            print(f"{title}: {', '.join(r['model'] for r in chosen)}")
    reasons: Counter[str] = Counter()
    for result in results:
        reasons.update({re.sub(r"\d+", "#", key): count for key, count in result.get("frozen", {}).items()})
    for reason, count in reasons.most_common(40):
        print(f"- {count} units: {reason}")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
