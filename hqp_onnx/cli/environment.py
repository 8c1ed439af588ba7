"""What surrounds a model: other tools, optional parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hqp_onnx.cli.arguments import FILE, preprocess_option
from hqp_onnx.gradients import ort_training
from hqp_onnx.plugins.data_loader import write_script


@click.command()
@click.argument("data", metavar="DATA")
@click.option("--model", type=FILE, required=True, help="The model whose inputs DATA feed.")
@click.option("--batch", type=int, help="Samples per batch. Default: the model's own, or 1 where that is dynamic.")
@click.option("--limit", type=int, help="Only the first so many samples.")
@preprocess_option
@click.option("-o", "--output", type=FILE, required=True, metavar="FILE.py")
def data_loader(data: str, model: Path, output: Path, **chosen: Any) -> None:
    """Write DATA as a script for Polygraphy's --data-loader-script."""
    feeds = write_script(data, model, output, **chosen)
    click.echo(f"{output}: {len(feeds)} batches of {feeds.dataset.batch_size}")


@click.group()
def setup() -> None:
    """Install optional parts."""


@setup.command()
def training() -> None:
    """Install onnxruntime-training, apart from onnxruntime, for `hqp score --gradients ort-training`."""
    click.echo(str(ort_training.install()))
