"""Whether models take the same feeds, in words that name the file and the tensor."""

from __future__ import annotations

from pathlib import Path

from hqp_onnx.errors import ModelError
from hqp_onnx.runtimes.session import Runner, TensorSpec


def require_same_inputs(name: str | Path, session: Runner, other: str | Path, others: Runner) -> None:
    """Raise ``ModelError`` unless the model ``name`` takes what ``other`` takes, up to the number of samples."""
    mine, its = ({spec.name: spec for spec in each.inputs} for each in (session, others))
    differing = [spec for spec in mine.values() if spec.name not in its or not _alike(spec, its[spec.name])]
    if differing:
        wanted = ", ".join(f"'{known}' {spec}" for known, spec in its.items())
        raise ModelError(
            f"{name}: takes '{differing[0].name}' {differing[0]}, but {other} takes {wanted}: give models of the same "
            "inputs"
        )
    if lacking := [spec for spec in its.values() if spec.name not in mine]:
        raise ModelError(
            f"{name}: does not take '{lacking[0].name}' {lacking[0]}, which {other} takes: give models of the same "
            "inputs"
        )


def _alike(first: TensorSpec, other: TensorSpec) -> bool:
    sizes = zip(first.shape[1:], other.shape[1:], strict=False)
    differ = any(None not in pair and pair[0] != pair[1] for pair in sizes)
    return first.dtype == other.dtype and len(first.shape) == len(other.shape) and not differ
