"""The reference of the site, from docstrings: public names, what others can add, passes; see site.py."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Sequence
from typing import Any

import hqp_onnx
import hqp_onnx.passes
from hqp_onnx.boards.transport import DEVICES, Transport
from hqp_onnx.data.dataset import Source
from hqp_onnx.evaluation.metrics import METRICS, Metric
from hqp_onnx.gradients.engines import ENGINES, Engine, OpenEngine
from hqp_onnx.ranking.saliencies import SALIENCIES
from hqp_onnx.ranking.saliencies.scoring import Saliency
from hqp_onnx.registry import Registry
from hqp_onnx.runtimes.runtime import (
    Calibrating,
    Compiling,
    Elsewhere,
    Emulating,
    Placing,
    Profiling,
    Runtime,
    Threaded,
)
from hqp_onnx.runtimes.session import Bindable, Runner
from hqp_onnx.runtimes.stopwatch import Away, Stopwatch
from hqp_onnx.runtimes.targets import TARGETS, Target

EXTENSIONS: dict[str, tuple[Registry[Any] | None, Sequence[type]]] = {
    "Targets and their runtimes": (
        TARGETS,
        (Target, Runtime, Threaded, Profiling, Compiling, Calibrating, Emulating, Placing, Elsewhere),
    ),
    "Sessions of a runtime": (None, (Runner, Bindable, Stopwatch, Away)),
    "Metrics": (METRICS, (Metric,)),
    "Saliencies": (SALIENCIES, (Saliency,)),
    "Data": (None, (Source,)),
    "Boards": (DEVICES, (Transport,)),
    "Gradient engines": (ENGINES, (Engine, OpenEngine)),
}


def references() -> dict[str, str]:
    """The pages, as Markdown, by their names in the site."""
    return {"reference.html": reference(), "extensions.html": extensions(), "passes.html": passes()}


def reference() -> str:
    """The public names, as Markdown."""
    values = {name: getattr(hqp_onnx, name) for name in hqp_onnx.__all__}
    described = [_described(name, value) for name, value in values.items() if callable(value)]
    more = "See also [what can be added](extensions.html), and [the passes](passes.html) that all of it is made of.\n"
    return "\n".join(
        ["# Python\n", "What `import hqp_onnx` offers; all else may move between versions.\n", more, *described]
    )


def extensions() -> str:
    """What others can add, and by which protocol, as Markdown."""
    parts = [
        "# Extensions\n",
        "What packages and files of yours can add: as an entry point of the group that is named, or as `FILE.py:name` "
        "where a command takes a name. The methods of a protocol are all that is asked for; what is optional has a "
        "protocol of its own.\n",
    ]
    for title, (registry, values) in EXTENSIONS.items():
        parts.append(f"## {title}\n")
        if registry is not None:
            parts.append(
                f"Entry points: `{registry.group}`. Ours: {', '.join(f'`{name}`' for name in sorted(registry.own))}.\n"
            )
        parts += [_described(value.__name__, value, "###") for value in values]
    return "\n".join(parts)


def passes() -> str:
    """Every pass, as Markdown."""
    parts = [
        "# Passes\n",
        "A pass takes an onnx-graphsurgeon graph (`hqp_onnx.graphs.model_io.to_graph` makes one of a ModelProto) and "
        "gives a `PassResult`: another graph, whether anything changed, notes. What it was given stays as it was.\n",
    ]
    for module in sorted(pkgutil.iter_modules(hqp_onnx.passes.__path__), key=lambda module: module.name):
        if not module.ispkg:
            loaded = importlib.import_module(f"hqp_onnx.passes.{module.name}")
            names = [name for name in getattr(loaded, "__all__", ()) if callable(getattr(loaded, name))]
            about = (inspect.getdoc(loaded) or "").replace("``", "`")
            parts += [f"## {module.name}\n", about + "\n", *(_described(n, getattr(loaded, n), "###") for n in names)]
    return "\n".join(parts)


def _described(name: str, value: Any, level: str = "##") -> str:
    """Signature and docstring of a function or class, and those of its methods; a protocol is never made."""
    made = "" if getattr(value, "_is_protocol", False) else f"```python\n{name}{_signature(value)}\n```\n"
    parts = [f"{level} {name}\n", made, _documented(inspect.getdoc(value) or "")]
    parts += [_method(name, *member) for member in vars(value).items()] if inspect.isclass(value) else []
    return "\n".join(filter(None, parts))


def _signature(value: Any) -> str:
    try:
        signature = inspect.signature(value)
    except ValueError:
        return "(...)"
    given = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    words = str(signature.replace(parameters=given, return_annotation=signature.empty))
    return words if len(words) < 100 else "(\n    " + words[1:-1].replace(", ", ",\n    ") + ",\n)"


def _method(owner: str, name: str, value: object) -> str:
    function = value.fget if isinstance(value, property) else value
    if name.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
        return ""
    words = "" if isinstance(value, property) else _signature(function).replace("(self, ", "(").replace("(self)", "()")
    return f"**`{owner}.{name}{words}`** {_documented(inspect.getdoc(function) or '')}"


def _documented(text: str) -> str:
    """A docstring as Markdown: sections in bold, what is named in them as a list."""
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    text = re.sub(r"^(Args|Attributes|Raises|Returns):$", r"**\1**\n", text, flags=re.M)
    text = re.sub(r"^ {4}([\w, ]+): ", r"- `\1`: ", text, flags=re.M)
    return re.sub(r"^ {8}", "  ", text, flags=re.M) + "\n"
