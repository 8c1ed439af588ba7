"""What surrounds a model: other tools, this machine, the shell, optional parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.shell_completion import get_completion_class

from hqp_onnx.cli.arguments import (
    json_option,
    probe_option,
    reading_options,
)
from hqp_onnx.cli.command import Command, Group
from hqp_onnx.cli.output import give_json, out, say
from hqp_onnx.cli.parameter_types import DATA, FILE, OUT
from hqp_onnx.cli.tables import findings
from hqp_onnx.counts import counted
from hqp_onnx.data.reading import Data
from hqp_onnx.errors import UsageError
from hqp_onnx.gradients.training import engine as ort_training
from hqp_onnx.plugins.data_loader import write_script
from hqp_onnx.runtimes.rockchip import install as rockchip
from hqp_onnx.steps.doctor import examine

SHELLS = ("bash", "zsh", "fish")


@click.command(cls=Command)
@click.argument("data", type=DATA, metavar="DATA")
@click.option("--model", type=FILE, required=True, help="The model whose inputs DATA feed.")
@click.option("--batch", type=int, help="Samples per batch. Default: the model's own, or 1 where that is dynamic.")
@click.option("--limit", type=int, help="Only this many samples, the first ones.")
@reading_options("data")
@click.option("-o", "--output", type=OUT, required=True, metavar="FILE.py")
@probe_option
@json_option
def data_loader(data: Data, model: Path, output: Path, json_file: Path | None, **chosen: Any) -> None:
    """Write DATA as a script for Polygraphy's --data-loader-script."""
    feeds = write_script(data, model, output, **chosen)
    size = feeds.dataset.batch_size
    if not give_json({"output": str(output), "batches": len(feeds), "batch_size": size}, json_file):
        say(f"{output}: {counted(len(feeds), 'batch', 'batches')} of {size}")


@click.command(cls=Command)
@json_option
def doctor(json_file: Path | None) -> None:
    """Say what this machine can run: versions, processor, GPU, and what each target needs."""
    examined = examine()
    if not give_json(examined.json(), json_file):
        out.print(findings.machine_table(examined))
        out.print(findings.targets_table(examined))


_COMPLETION = """Print a script that completes commands, options and files.

\b
bash: hqp completion bash > ~/.local/share/bash-completion/completions/hqp
zsh:  hqp completion zsh > a file _hqp in a folder of $fpath
fish: hqp completion fish > ~/.config/fish/completions/hqp.fish
"""


@click.command(cls=Command, help=_COMPLETION)
@click.argument("shell", metavar="|".join(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that completes commands, options and files."""
    maker = get_completion_class(shell) if shell in SHELLS else None
    if maker is None:
        raise UsageError(f"no completion for '{shell}': expected one of {', '.join(SHELLS)}")
    click.echo(maker(context.find_root().command, {}, "hqp", "_HQP_COMPLETE").source())


@click.group(cls=Group)
def setup() -> None:
    """Install optional parts."""


@setup.command()
@json_option
def training(json_file: Path | None) -> None:
    """Install onnxruntime-training, apart from onnxruntime, for `hqp score --gradients ort-training`."""
    folder = str(ort_training.install())
    if not give_json({"folder": folder}, json_file):
        say(folder)


@setup.command()
@json_option
def rknn(json_file: Path | None) -> None:
    """Install rknn-toolkit2 in an environment of its own, for `--target rk3588` and the other chips of Rockchip."""
    folder = str(rockchip.install())
    if not give_json({"folder": folder}, json_file):
        say(folder)
