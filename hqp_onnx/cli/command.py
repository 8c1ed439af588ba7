"""What all commands have: whatever is missing is said at once, and help lists options by what they are for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

_HELP = "--help"  # an option that click adds, by names of its own
_FEW = 12  # options that need no order
_FIRST = "Options that matter first"
_MATTER = ("data", "max_drop", "target", "metric", "output")
_GROUPS = {
    "What is asked for": (
        *("speedup", "target_latency", "pareto", "confidence", "precision", "objective", "batch", "threads"),
        *("device", "min_speedup", "max_size", "epochs", "plan"),
        *("sparsity", "count", "path", "shapes", "dla", "for_gpu", "elsewhere"),
    ),
    "Data": (
        *("calib", "val", "test", "shares", "preprocess", "targets", "calib_targets", "val_targets", "test_targets"),
        *("constant", "pad", "state", "part", "metric_output", "reference"),
    ),
    "What may be removed": ("min_width", "multiple_of", "branches", "keep", "only"),
    "How it is found": (
        *("search", "step", "saliency", "engine", "loss", "draws", "compensate", "refit", "refresh", "calibration"),
        *("recover", "recover_time", "augment", "seed", "paper"),
    ),
    "How it runs": (
        *("dry_run", "time_limit", "seconds", "build", "resume", "force", "workers", "provider"),
        *("probe_seconds", "json_file"),
        *("strict", "quiet", _HELP),
    ),
}
_OTHERS = "Others"


class Command(click.Command):
    """A command.

    Args:
        either: sets of options one of which is needed whole, by parameter name.
    """

    def __init__(self, *arguments: Any, either: Sequence[Sequence[str]] = (), **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.either = either

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
            first, *others = (" and ".join(flags[name] for name in names) for names in self.either)
            needed.append(f"{first} (or {', or '.join(others)})")
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
        for title, names in {_FIRST: first, **_GROUPS, _OTHERS: list(records)}.items():
            own = [records.pop(name) for name in names if name in records]
            if own:
                with formatter.section(title):
                    formatter.write_dl(own)
        return None


def _name(parameter: click.Parameter) -> str:
    return max(parameter.opts, key=len) if isinstance(parameter, click.Option) else parameter.human_readable_name
