"""About how long an optimization takes, before it begins: from the time of one pass of the original over its data.

A step takes some seconds whatever the data, and some passes; ``tools/time_steps.py`` prints what they were for the
networks at hand. That says whether it is minutes or hours. ``--dry-run`` runs each stage on a few samples, which takes
longer and says more.
"""

from __future__ import annotations

from hqp_onnx.job.options import Options
from hqp_onnx.job.steps import steps_of

_STEPS = {
    "reading the data": (0.1, 0.1),
    "the original": (0.0, 1.0),
    "moments of what weights read": (0.4, 0.8),
    "saliency": (10.8, 0.4),
    "times of widths": (6.6, 2.2),
    "what each width costs": (17.0, 3.0),
    "candidates": (4.2, 15.9),
    "INT8": (0.8, 4.6),
    "results, evaluated and timed as written": (6.8, 3.4),
}
"""Seconds, and passes over calibration and validation data: of five networks on one thread of an AMD EPYC (Zen 5)."""


def duration(options: Options, seconds: float) -> dict[str, float]:
    """Seconds that each step of a job takes, by name, if the original takes ``seconds`` for all of its data."""
    known = {step.name: _STEPS.get(step.name, (0.0, 0.0)) for step in steps_of(options)}
    return {name: fixed + passes * seconds for name, (fixed, passes) in known.items()}
