"""Arguments and options that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click
import numpy as np

from hqp_onnx.cli.parameter_types import (
    DATA,
    FILE,
    OUT,
    SHARE,
    Address,
    Crew,
    Loose,
    Named,
    Preprocessing,
    Written,
)
from hqp_onnx.comparison.contenders import named
from hqp_onnx.data.preprocess import is_file
from hqp_onnx.data.reading import Reading
from hqp_onnx.data.stored import open_npy
from hqp_onnx.errors import UsageError
from hqp_onnx.evaluation.metrics import METRICS
from hqp_onnx.files import Names, forbid_overlap
from hqp_onnx.gradients.engines import ENGINES
from hqp_onnx.gradients.loss import LOSSES
from hqp_onnx.graphs.model_io import parts
from hqp_onnx.limits import PROBE_SECONDS, set_probe_seconds
from hqp_onnx.passes.cut import REFITS
from hqp_onnx.registry import is_file_name
from hqp_onnx.runtimes.session import set_provider
from hqp_onnx.runtimes.targets import TARGETS
from hqp_onnx.statistics.thresholds import METHODS
from hqp_onnx.workers import using

_NO_FOLDER = ("json_file", "ledger", "checkpoint")  # for these no folder is made
F = TypeVar("F", bound=Callable[..., Any])


def _options(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


model_argument = click.argument("model", type=FILE)
probe_option = click.option(
    "--probe-seconds",
    type=float,
    expose_value=False,
    callback=lambda context, option, value: set_probe_seconds(value),
    help=f"Time limit, in seconds, for each trial run of a model.  [default: {PROBE_SECONDS:g}]",
)
workers_option = click.option(
    "--workers",
    type=Crew(),
    expose_value=False,
    callback=lambda context, option, value: context.with_resource(using(value)),
    metavar="N|ADDRESS",
    help="Processes that share the work: a number, tcp://HOST:PORT (Dask), ray or ray://HOST:PORT. The results are the "
    "same, bit for bit.",
)
provider_option = click.option(
    "--provider",
    expose_value=False,
    callback=lambda context, option, value: set_provider(value),
    metavar="NAMEExecutionProvider",
    help="Where onnxruntime computes statistics, gradients and training.  [default: CPUExecutionProvider]",
)


def reading_options(*names: str) -> Callable[[F], F]:
    """How the data that the parameters ``names`` name are read, which then become a ``Reading`` where any is given.

    Where there are several, each also has targets of its own.
    """
    several = names[1:]  # with targets of their own; the first takes those of all

    def decorate(command: F) -> F:
        @wraps(command)
        def read(*arguments: Any, targets: str | None, **options: Any) -> Any:
            how = {"constants": options.pop("constant"), "pad": options.pop("pad"), "part": options.pop("part")}
            how |= {"states": options.pop("state")}
            each = [targets, *(options.pop(f"{name}_targets") or targets for name in several)]
            if any((*each, *how.values())) and all(options[name] is None for name in names):
                raise UsageError(f"{{--targets}} and others are for {{--{names[0]}}}: add it, or leave them out")
            for name, belongs in zip(names, each, strict=True):
                if options[name] is not None and (belongs or any(how.values())):
                    options[name] = Reading(options[name], belongs, **how)
            return command(*arguments, **options)

        own = [
            click.option(f"--{name}-targets", type=DATA, metavar="TARGETS", help=f"The same, of --{name} alone.")
            for name in several
        ]
        return _options(*_READING[:2], *own, *_READING[2:])(cast(F, read))

    return decorate


def _pairs(read: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], dict[str, Any]]:
    """A callback that turns NAME=VALUE into a dictionary."""

    def convert(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, Any]:
        values = {}
        for text in texts:
            name, found, value = text.partition("=")
            try:
                values[name] = read(value)
            except ValueError as e:
                raise UsageError(f"--{parameter.name} {text}: expected NAME=NUMBER") from e
            if not found or not name:
                raise UsageError(f"--{parameter.name} {text}: expected NAME=NUMBER, as sr=16000")
        return values

    return convert


def numbers(context: click.Context, parameter: click.Parameter, text: str) -> tuple[float, ...]:
    """A callback that reads numbers between commas."""
    try:
        return tuple(SHARE.convert(each, parameter, context) for each in text.split(","))
    except click.BadParameter as e:
        raise UsageError(f"--{parameter.name} {text}: expected numbers, or percentages, between commas") from e


def _constant(text: str) -> Any:
    """A number, a JSON list of them, or what a .npy file holds."""
    if not text.endswith(".npy"):
        return json.loads(text)
    values = open_npy(Path(text))
    return (values[:] if values.shape else np.asarray(values)).tolist()


_READING = (
    click.option(
        "--preprocess",
        type=Preprocessing(),
        metavar="NAME|JSON|FILE",
        help="How images become inputs: imagenet, clip, tf, yolo, JSON or a file of it; see `hqp help preprocess`.",
    ),
    click.option(
        "--targets",
        type=DATA,
        metavar="TARGETS",
        help="Labels, masks, boxes or other targets that are not in DATA: masks/, coco.json, values.csv, .npy or .npz; "
        "see `hqp help data`.",
    ),
    click.option(
        "--constant",
        multiple=True,
        metavar="NAME=VALUE",
        callback=_pairs(_constant),
        help="An input that is the same for all samples, such as sr=16000 (repeatable).",
    ),
    click.option(
        "--pad",
        multiple=True,
        metavar="NAME=VALUE",
        callback=_pairs(float),
        help="Fill up input NAME with VALUE where samples differ in length (repeatable).",
    ),
    click.option(
        "--state",
        multiple=True,
        metavar="INPUT=OUTPUT",
        callback=_pairs(str),
        help="Feed OUTPUT of each sample to INPUT of the next: samples are time steps (repeatable).",
    ),
    click.option("--part", metavar="split.json:PART", help="Only these samples, as `hqp optimize --data` split them."),
)
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Only estimate, from a few samples, what would be done, its time and its memory."
)
strict_option = click.option("--strict", is_flag=True, help="End with exit code 3 if there was a warning.")
quiet_option = click.option("--quiet", is_flag=True, help="Show no progress.")


def json_option(command: F) -> F:
    """``--json FILE``; what is written is refused before any work if another argument or option names that file."""

    @wraps(command)
    def checked(*arguments: Any, json_file: Path | None, **options: Any) -> Any:
        context = click.get_current_context()
        written = {name: path for name, path in _written(context).items() if str(path) != "-"}
        inputs = _extensions(context) | _named(context)
        forbid_overlap(
            {name: path for name, path in written.items() if name == "json_file" or not path.is_dir()}, inputs
        )
        _require_folders(context, written)
        return command(*arguments, json_file=json_file, **options)

    option = click.option("--json", "json_file", type=OUT, help="Write the result as JSON to this file ('-': stdout).")
    return option(cast(F, checked))


def _written(context: click.Context) -> dict[str, Path]:
    """The paths that a command's parameters let it write."""
    names = [str(parameter.name) for parameter in context.command.params if isinstance(parameter.type, Written)]
    return {name: context.params[name] for name in names if context.params.get(name) is not None}


def _require_folders(context: click.Context, written: Mapping[str, Path]) -> None:
    """Raise ``UsageError`` if the folder of a file is not there, and is none that the command makes."""
    output = written.get("output", Path())
    made = output if context.command.name == "optimize" else output.parent
    for name in (name for name in _NO_FOLDER if name in written):
        folder = written[name].parent
        if not folder.is_dir() and folder.resolve() != made.resolve():
            raise UsageError(
                f"{{--{name}}} {written[name]}: there is no folder {folder}. Make it first, or name another"
            )


def _extensions(context: click.Context) -> dict[str, Names]:
    """The files of code and of options that a command reads, in words."""
    config = context.find_root().params.get("config_file")
    files: dict[str, Names] = {} if config is None else {"the file of --config": config}
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        if isinstance(value, str) and is_file_name(value):
            files[f"the file of {{--{parameter.name}}}"] = value
    return files


def _named(context: click.Context) -> dict[str, Names]:
    """The files, and folders of data, that a command's other parameters name."""
    inputs: dict[str, Names] = {}
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        if not isinstance(parameter.type, click.Path) or isinstance(parameter.type, Written) or not value:
            continue
        if isinstance(parameter.type, Preprocessing) and not is_file(value):
            continue
        paths = [named(str(text))[0] for text in (value if isinstance(value, tuple) else (value,))]
        words = f"{{--{parameter.name}}}" if isinstance(parameter, click.Option) else parameter.human_readable_name
        files = [path for path in paths if parameter.type is DATA or not path.is_dir()]
        inputs[f"the file of {words}"] = [
            *files,
            *(p for path in files if path.suffix == ".onnx" for p in parts(path)),
        ]
    return inputs


selection_options = _options(
    click.option("--keep", multiple=True, metavar="PATTERN", help="Tensors whose channels stay (repeatable)."),
    click.option("--only", multiple=True, metavar="PATTERN", help="Remove only these tensors' channels (repeatable)."),
)
MULTIPLE_HELP = "Keep widths multiples of this, where they are at least this wide."
metric_option = _options(
    click.option(
        "--metric",
        type=Named(METRICS),
        help=f"Measure of quality: {', '.join(METRICS.names)}. Default: top1 where the data have class numbers and the "
        "output has classes, else fidelity to the original.",
    ),
    click.option("--metric-output", metavar="NAME", default="", help="Which output is judged, if there are several."),
)
target_option = click.option(
    "--target",
    type=Loose(TARGETS),
    default="onnxruntime",
    show_default=True,
    help="onnxruntime, openvino, tensorrt, tensorrt-rtx, cuda, litert, ethos-u55-256 (and others), "
    "onnxruntime:NAMEExecutionProvider or FILE.py:name.",
)
device_option = click.option(
    "--device",
    type=Address(),
    metavar="ssh://USER@HOST[:PORT]",
    help="Board to time models on; everything else is computed here. See docs/boards.md.",
)
calibration_option = click.option(
    "--calibration",
    type=Loose(METHODS),
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
    help="Whether gates and residual branches may be removed as a whole; a constant takes their place.",
)
min_width_option = click.option(
    "--min-width", type=SHARE, default=0.1, show_default=True, help="Smallest share of every tensor's units to keep."
)


def refit_option(default: str) -> Callable[[F], F]:
    """``--refit``; ``default`` says what it is if it is not given."""
    return click.option(
        "--refit",
        type=click.Choice(REFITS),
        help="once, or in-order: then a second time, layer by layer, each on the inputs that it now gets: a pass over "
        "the data per layer and candidate. "
        f"Default: {default}.",
    )


gradient_options = _options(
    click.option(
        "--gradients",
        "engine",
        type=Named(ENGINES),
        default="native",
        show_default=True,
        help="What computes gradients, for saliencies that need them; obs needs native.",
    ),
    click.option(
        "--loss", help=f"Loss to differentiate: {', '.join(LOSSES)}, or FILE.onnx. Default: the first that fits."
    ),
    click.option("--draws", type=int, default=1, show_default=True, help="Sampled labels or projections per sample."),
)
