"""What all commands have: whatever is missing is said at once, and help lists options by what they are for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import click

_HELP = "--help"  # an option that click adds, by names of its own
_FEW = 12  # options that need no order
_WHOLE = 1000  # characters of a summary
_FIRST = "Main options"
_MATTER = ("data", "max_drop", "target", "metric", "output")
_GROUPS = {
    "Goal": (
        *("speedup", "target_latency", "pareto", "confidence", "precision", "objective", "batch", "threads"),
        *("device", "min_speedup", "max_size", "teacher", "epochs", "plan"),
        *("sparsity", "int4_weights", "int4_convs", "shapes", "for_gpu", "elsewhere"),
    ),
    "Data": (
        *("calib", "val", "test", "shares", "preprocess", "targets", "calib_targets", "val_targets", "test_targets"),
        *("constant", "pad", "state", "part", "limit", "metric_output", "reference", "original", "held_out"),
    ),
    "Limits of removal": ("min_width", "multiple_of", "branches", "keep", "only"),
    "Method": (
        *("search", "step", "saliency", "engine", "loss", "draws", "compensate", "refit", "refresh", "calibration"),
        *("equalize", "correct_bias", "round_weights", "in_order", "recover", "recover_time", "rate", "augment"),
        *("path", "scales", "strongly_typed", "workspace", "dla", "tolerance", "samples", "seed", "paper"),
    ),
    "Other files": (
        *("ledger", "ledgers", "checkpoint", "calibration_out", "tensorrt_version", "calibration_cache"),
        *("timing_cache", "junit_file", "json_file"),
    ),
    "Running": (
        *("dry_run", "time_limit", "seconds", "build", "resume", "force", "workers", "provider"),
        *("probe_seconds", "strict", "quiet", _HELP),
    ),
}
_OTHERS = "Others"  # of none, as tests/cli/test_command.py sees to


class Group(click.Group):
    """Commands in groups, in the order in which people need them; without one, help, and exit code 2.

    Args:
        order: names of commands by the title of their group; None lists all as they were added.
    """

    def __init__(self, *arguments: Any, order: Mapping[str, Sequence[str]] | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.order, self.no_args_is_help = order, False

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, but for help, which one version of it prints and another raises."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in order."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """A section per group, summaries whole."""
        for title, names in (self.order or {"Commands": self.list_commands(ctx)}).items():
            with formatter.section(title):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(_WHOLE)) for name in names])


class Command(click.Command):
    """A command.

    Args:
        either: sets of options one of which is needed whole, by parameter name.
        groups: names of options that only this command has, by the title of their group.
    """

    def __init__(
        self,
        *arguments: Any,
        either: Sequence[Sequence[str]] = (),
        groups: Mapping[str, Sequence[str]] = MappingProxyType({}),
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self.either, self.groups = either, groups

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, but for what is missing."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.MissingParameter as e:
            raise click.UsageError(f"missing: {', '.join(self._lacking(ctx, given))}", ctx) from e

    def _lacking(self, ctx: click.Context, given: list[str]) -> list[str]:
        """Every argument and option that is needed and not given."""
        values, _, _ = self.make_parser(ctx).parse_args(args=given)

        def missing(parameter: click.Parameter) -> bool:
            return parameter.value_is_missing(parameter.consume_value(ctx, values)[0])

        lacking = {str(parameter.name): parameter for parameter in self.get_params(ctx) if missing(parameter)}
        needed = [_name(parameter) for parameter in lacking.values() if parameter.required]
        if self.either and all(lacking.keys() & set(names) for names in self.either):
            flags = {str(parameter.name): _name(parameter) for parameter in self.get_params(ctx)}
            begun = next((names for names in self.either if set(names) - lacking.keys()), None)
            first, *others = (" and ".join(flags[name] for name in names) for names in self.either)
            rest = [] if begun is None else [flags[name] for name in begun if name in lacking]
            needed += rest or [f"{first} (or {', or '.join(others)})"]
        return needed

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Options by what they are for, those that matter first."""
        options = [parameter for parameter in self.get_params(ctx) if isinstance(parameter, click.Option)]
        found = (
            (_HELP if _HELP in option.opts else str(option.name), option.get_help_record(ctx)) for option in options
        )
        records = {name: record for name, record in found if record is not None}
        if len(records) <= _FEW:
            return super().format_options(ctx, formatter)
        first = dict.fromkeys((*_MATTER, *(str(option.name) for option in options if option.required)))
        for title, names in {_FIRST: first, **self.groups, **_GROUPS, _OTHERS: list(records)}.items():
            own = [records.pop(name) for name in names if name in records]
            if own:
                with formatter.section(title):
                    formatter.write_dl(own)
        return None


def _name(parameter: click.Parameter) -> str:
    return max(parameter.opts, key=len) if isinstance(parameter, click.Option) else parameter.human_readable_name
