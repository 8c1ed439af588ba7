"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from hqp_onnx.comparison.contenders import named
from hqp_onnx.files import forbid_overlap
from hqp_onnx.graphs.model_io import parts
from hqp_onnx.passes.cut import REFITS
from hqp_onnx.ranking.saliency import ENGINES, LOSSES, SALIENCIES

F = TypeVar("F", bound=Callable[..., Any])
FILE = click.Path(path_type=Path)
DATA = click.Path()  # or file.py:func, or MODEL@TARGET: a path for the shell's sake


def _options(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


model_argument = click.argument("model", type=FILE)
preprocess_option = click.option("--preprocess", type=FILE, help="JSON for image folders: size, crop, mean, std, ...")
quiet_option = click.option("--quiet", is_flag=True, help="No progress.")


def json_option(command: F) -> F:
    """``--json FILE``, which is refused before any work if another argument or option names that file."""

    @wraps(command)
    def checked(*arguments: Any, json_file: Path | None, **options: Any) -> Any:
        if json_file is not None and str(json_file) != "-":
            output: Path | None = options.get("output")
            written = {"output": None if output is None or output.is_dir() else output, "json_file": json_file}
            forbid_overlap(written, _named(click.get_current_context()))
        return command(*arguments, json_file=json_file, **options)

    option = click.option("--json", "json_file", type=FILE, help="Write the result as JSON to this file ('-': stdout).")
    return option(cast(F, checked))


def _named(context: click.Context) -> dict[str, list[Path]]:
    """What the other parameters of a command name: files, and folders of data."""
    found: dict[str, list[Path]] = {}
    for parameter in context.command.params:
        value = context.params[str(parameter.name)]
        if not isinstance(parameter.type, click.Path) or parameter.name in ("output", "json_file") or not value:
            continue
        paths = [named(str(text))[0] for text in (value if isinstance(value, tuple) else (value,))]
        words = f"{{{parameter.name}}}" if isinstance(parameter, click.Option) else parameter.human_readable_name
        files = [path for path in paths if parameter.type is DATA or not path.is_dir()]
        found[f"the file of {words}"] = [*files, *(p for path in files if path.suffix == ".onnx" for p in parts(path))]
    return found


selection_options = _options(
    click.option("--keep", multiple=True, metavar="PATTERN", help="Tensors whose channels stay (repeatable)."),
    click.option("--only", multiple=True, metavar="PATTERN", help="Tensors whose channels may leave (repeatable)."),
)
MULTIPLE_HELP = "Widths stay multiples of this, where they are as wide."
metric_option = click.option(
    "--metric", default="top1", show_default=True, help="top1, top5, agreement or FILE.py:func."
)
target_option = click.option(
    "--target",
    default="onnxruntime",
    show_default=True,
    help="onnxruntime, openvino, tensorrt, cuda, onnxruntime:NAMEExecutionProvider or FILE.py:name.",
)
calibration_option = click.option(
    "--calibration",
    default="entropy",
    show_default=True,
    help="How ranges are chosen: entropy, percentile[:NUMBER], mse, minmax, or FILE.py:func.",
)
augment_option = click.option(
    "--augment",
    callback=lambda context, option, value: tuple(value.split(",")) if value else (),
    metavar="flip,crop",
    help="Vary the images that are trained on; only where a mirrored or moved image is as good.",
)


branches_option = click.option(
    "--branches/--no-branches",
    default=True,
    show_default=True,
    help="Gates and residual branches may be removed as a whole: a constant takes their place.",
)
min_width_option = click.option(
    "--min-width", type=float, default=0.1, show_default=True, help="Share of every tensor's units that stays."
)
refit_option = click.option(
    "--refit",
    type=click.Choice(REFITS),
    default="once",
    show_default=True,
    help="in-order: once more, each weight from what it then reads; a pass over the data per layer and candidate.",
)
saliency_choice = click.Choice(SALIENCIES)
gradient_options = _options(
    click.option(
        "--gradients",
        "engine",
        type=click.Choice(list(ENGINES)),
        default="native",
        show_default=True,
        help="What differentiates, for fisher and taylor; obs needs native.",
    ),
    click.option(
        "--loss", help=f"{', '.join(LOSSES)}, or FILE.onnx. Default: what data and model allow, in this order."
    ),
    click.option("--draws", type=int, default=1, show_default=True, help="Sampled labels or projections per sample."),
)
