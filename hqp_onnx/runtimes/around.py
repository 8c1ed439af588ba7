"""A session around another: the same inputs, outputs and batch; what ``run`` gives is its own."""

from __future__ import annotations

from hqp_onnx.runtimes.session import Runner, TensorSpec


class Around:
    """See the module.

    Args:
        session: the one inside.
    """

    def __init__(self, session: Runner) -> None:
        self._session = session

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The model's inputs."""
        return self._session.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the model gives, in this order."""
        return self._session.outputs

    @property
    def batch(self) -> int | None:
        """The fixed batch size, or None where the first dimension is dynamic."""
        return self._session.batch
