"""About how long an optimization takes, before it begins: from the time of one pass of the original over its data.

A step takes some seconds whatever the data, and some passes; ``tools/time_steps.py`` prints what they were for the
networks at hand. That says whether it is minutes or hours. ``--dry-run`` runs each stage on a few samples, which takes
longer and says more.
"""

from __future__ import annotations

from hqp_onnx.job.options import Options
from hqp_onnx.job.steps import steps_of

_STEPS: dict[str, tuple[float, float]] = {}
"""Seconds, and passes over calibration and validation data."""


def duration(options: Options, seconds: float) -> dict[str, float]:
    """Seconds that each step of a job takes, by name, if the original takes ``seconds`` for all of its data."""
    known = {step.name: _STEPS.get(step.name, (0.0, 0.0)) for step in steps_of(options)}
    return {name: fixed + passes * seconds for name, (fixed, passes) in known.items()}
