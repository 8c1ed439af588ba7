"""Models whose state flows from an output to an input: samples are the time steps of sequences.

Steps follow each other in the order of the samples. An array 'sequence', a number for each step, says which sequence
it belongs to; where it changes, and at the first step, the state is zero. Without it all steps are one sequence.

    calibration   the original runs through the sequences once; then each step is a sample like any other, with the
                  state that the original had before it
    evaluation    a candidate runs through the sequences on its own state (``Carried``), so that its errors add up

A state that has no axis of samples in front, [layers, batch, width] say, or [1, width] of a model that takes any number
of steps, is fed to one step at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hqp_onnx.arrays import Array
from hqp_onnx.data.attached import Derived
from hqp_onnx.data.batch import Batch
from hqp_onnx.data.dataset import Dataset, Source
from hqp_onnx.data.stored import SMALL, Rows, StoredArray, spilled
from hqp_onnx.errors import DataError, UsageError
from hqp_onnx.runtimes.around import Around
from hqp_onnx.runtimes.session import Runner, TensorSpec

SEQUENCE = "sequence"
"""The array that numbers the sequence of each step."""


@dataclass(frozen=True)
class WithStates(Derived):
    """``source`` with the state before each step; ``apart`` are states that have no axis of samples in front."""

    source: Source
    states: Mapping[str, Rows]
    apart: frozenset[str]

    @property
    def cuts(self) -> Sequence[int]:
        """Where another shape begins; after each step, if its state belongs to that step alone."""
        return range(1, self.count) if self.apart else self.source.cuts

    @property
    def readers(self) -> int:
        """None: steps are small."""
        return 0

    def rows(self, start: int, stop: int) -> Batch:
        """Steps ``start`` to ``stop`` and the states before them."""
        batch = self.source.rows(start, stop)
        before = {name: values[start:stop] for name, values in self.states.items()}
        before = {name: values[0] if name in self.apart else values for name, values in before.items()}
        return Batch({**batch.feeds, **before}, batch.targets, batch.shared | self.apart)


class Carried(Around):
    """A session that is run step by step on the state that it gave itself; zeros in its feeds begin a sequence.

    Args:
        session: of the model.
        states: output by input.
    """

    def __init__(self, session: Runner, states: Mapping[str, str]) -> None:
        super().__init__(session)
        self._states = states
        self._last: Mapping[str, Array] = {}

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs of some steps, one after the other."""
        state = next(iter(self._states))
        count = 1 if _apart(self.inputs, self._states) else len(feeds[state])
        parts = [
            {name: x[step : step + 1] if x.ndim and len(x) == count else x for name, x in feeds.items()}
            for step in range(count)
        ]
        rows = [self._step(part) for part in parts]
        return rows[0] if count == 1 else {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

    def _step(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        carried = {
            name: self._last[output]
            for name, output in self._states.items()
            if output in self._last and any(feeds[state].any() for state in self._states)
        }
        outputs = self._session.run({**feeds, **carried})
        self._last = outputs
        return outputs


def carried(session: Runner, data: Dataset) -> Runner:
    """``session``, or one that carries its own state through ``data``."""
    return Carried(session, data.states) if data.states else session


def with_states(source: Source, session: Runner, states: Mapping[str, str], constants: Mapping[str, Array]) -> Source:
    """``source`` with the states that ``session`` has before each step.

    Args:
        source: the steps, without the states.
        session: of the original.
        states: output by input.
        constants: inputs that all steps share.

    Raises:
        UsageError: no such input or output.
        DataError: a state of unknown size, or one that the model does not give in the size that it takes.
    """
    inputs = {spec.name: spec for spec in session.inputs}
    for name, output in states.items():
        if name not in inputs or output not in {spec.name for spec in session.outputs}:
            raise UsageError(
                f"{{--state}} {name}={output}: expected an input of the model and the output that it takes"
            )
    apart = _apart(session.inputs, states)
    steps = Dataset(source, [spec for spec in session.inputs if spec.name not in states], 1, constants=constants)
    zeros = {name: _zeros(inputs[name], apart) for name in states}
    size = len(steps) * sum(values.nbytes for values in zeros.values())
    before = _run(steps, session, states, zeros)
    kept = _in_memory(before, states) if size <= SMALL else _in_file(before, zeros, len(steps), source.name)
    return WithStates(source, {name: x if name in apart else _flat(x) for name, x in kept.items()}, apart)


def _run(
    steps: Dataset, session: Runner, states: Mapping[str, str], zeros: Mapping[str, Array]
) -> Iterator[Mapping[str, Array]]:
    """The states before each step."""
    now, known = zeros, None
    for batch in steps:
        number = batch.targets.get(SEQUENCE)
        if number is not None and known is not None and not np.array_equal(number, known):
            now = zeros
        known = number
        yield now
        outputs = session.run({**batch.feeds, **now})
        now = {name: np.asarray(outputs[output]) for name, output in states.items()}
        for name, values in now.items():
            if values.shape != zeros[name].shape:
                raise DataError(
                    f"{steps.source.name}: output '{states[name]}' is {list(values.shape)}, and the state '{name}' "
                    f"that takes it {list(zeros[name].shape)}"
                )


def _in_memory(before: Iterator[Mapping[str, Array]], states: Mapping[str, str]) -> dict[str, Rows]:
    every = list(before)
    return {name: np.stack([each[name] for each in every]) for name in states}


def _in_file(
    before: Iterator[Mapping[str, Array]], zeros: Mapping[str, Array], count: int, name: str
) -> dict[str, Rows]:
    """A temporary file for each state."""
    files = {state: spilled(f"{name}: state '{state}'", count * values.nbytes) for state, values in zeros.items()}
    for each in before:
        for state, values in each.items():
            files[state].stream.write(np.ascontiguousarray(values).data)
    return {
        state: StoredArray(name, files[state], 0, values.dtype, (count, *values.shape))
        for state, values in zeros.items()
    }


def _flat(values: Rows) -> Rows:
    """[steps, 1, ...] as [steps, ...]."""
    shape = (values.shape[0], *values.shape[2:])
    if isinstance(values, StoredArray):
        return StoredArray(values.name, values.file, values.offset, values.dtype, shape)
    return values.reshape(shape)


def _apart(inputs: Sequence[TensorSpec], states: Mapping[str, str]) -> frozenset[str]:
    """States whose first axis is not that of the samples: of another size, or fixed where there may be any number."""
    others = [spec for spec in inputs if spec.name not in states and spec.shape]
    samples = others[0].shape[0] if others else 1
    return frozenset(
        spec.name for spec in inputs if spec.name in states and (not spec.shape or spec.shape[0] not in (None, samples))
    )


def _zeros(spec: TensorSpec, apart: frozenset[str]) -> Array:
    """The state before the first step of one sequence."""
    if sum(size is None for size in spec.shape) > 1:
        raise DataError(f"the state '{spec.name}' is {spec}: expected a known size but for the axis of samples")
    shape = [1 if size is None else size for size in spec.shape]
    if spec.name not in apart and shape[0] != 1:
        raise DataError(f"the state '{spec.name}' is {spec}, for several sequences at once: export the model for one")
    return np.zeros(shape, spec.dtype)
