"""The command line. Errors are one line on stderr; HQP_DEBUG=1 shows the traceback of any.

Exit codes: 0 done; 1 a fault of hqp itself; 2 bad usage or input, something that the system refuses, code of the user's
that fails; 3 a missed budget, or warnings with --strict; 4 a missed threshold of `hqp check`; 130 interrupted
(143, 129: by SIGTERM, SIGHUP).
"""

from __future__ import annotations

import os
import sys
import traceback
from itertools import chain
from pathlib import Path

import click

from hqp_onnx.boundary import boundary, fault
from hqp_onnx.cli import (
    config,
    environment,
    measurement,
    optimization,
    pruning,
    quantization,
    recovery,
    reporting,
    topics,
)
from hqp_onnx.cli.command import Group
from hqp_onnx.cli.interruption import INTERRUPTED, ended_by_exception, words
from hqp_onnx.cli.output import begin, drop, finish, say
from hqp_onnx.cli.parameter_types import FILE
from hqp_onnx.errors import Ended, HqpError
from hqp_onnx.version import __version__

__all__ = ["cli", "main"]

FAULT = 1


def main() -> None:
    """Entry point of ``hqp``."""
    try:
        with ended_by_exception():
            code = _run()
    except Ended as e:
        code = _interrupted(e.code)
    sys.exit(code)


def _run() -> int:
    """The exit code of the command line."""
    try:
        with boundary():
            begin()
            code = cli.main(prog_name="hqp", standalone_mode=False)
            finish()
    except HqpError as e:
        code = _fail(e.text(_option), e.exit_code)
    except click.ClickException as e:
        code = _fail(e.format_message(), e.exit_code)
    except (click.Abort, KeyboardInterrupt):
        code = _interrupted(INTERRUPTED)
    except Ended:
        raise
    except SystemExit:  # which is how click ends where a pipe is closed; one in a user's code is a PluginError
        code = _fail("stdout cannot be written: Broken pipe", HqpError.exit_code)
    except BaseException as e:  # noqa: BLE001 - whatever the boundary does not know is a fault of this package
        code = _fail(fault(e), FAULT)
    return code if isinstance(code, int) else 0


def _interrupted(code: int) -> int:
    command = next((word for word in sys.argv[1:] if word in cli.commands), None)
    return _fail(words(sys.argv[1:], command), code)


def _option(argument: str) -> str:
    """The option that sets an argument of the library."""
    known = {name: flag for command in cli.commands.values() for name, flag in config.flags(command).items()}
    return known.get(argument, f"--{argument.replace('_', '-')}")


def _fail(message: str, code: int) -> int:
    if os.environ.get("HQP_DEBUG"):
        traceback.print_exc()
    drop()
    say("error: " + " ".join(message.split()), err=True)
    return code


_COMMANDS: dict[str, tuple[click.Command, ...]] = {
    "Make a model faster": (
        *(pruning.inspect, optimization.optimize, reporting.check, reporting.export, reporting.report),
    ),
    "Measure": (measurement.benchmark, measurement.evaluate, measurement.compare),
    "Single steps": (
        *(pruning.score, pruning.prune, recovery.recover, quantization.quantize, quantization.dequantize),
        quantization.build,
    ),
    "Help and set-up": (
        *(topics.help_command, environment.doctor, environment.setup, environment.completion),
        environment.data_loader,
    ),
}


@click.group(
    cls=Group,
    order={title: [str(command.name) for command in commands] for title, commands in _COMMANDS.items()},
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="hqp")
@click.option(
    "--config", "config_file", type=FILE, metavar="FILE", help="Options by command. Default: hqp.toml, if it exists."
)
@click.pass_context
def cli(context: click.Context, config_file: Path | None) -> None:
    """Prune and quantize exported ONNX models inside one accuracy budget.

    DATA is a .npz file (arrays named as the model's inputs, plus labels), a .npy file, a folder of images (one
    sub-folder per class) or a Polygraphy data-loader script file.py[:func]; `hqp help data` says more.

    hqp.toml can set any option: one section per command, keys named as on the command line, which wins over the file.
    """
    context.default_map = config.read(config_file, cli)


for command in chain.from_iterable(_COMMANDS.values()):
    cli.add_command(command)
