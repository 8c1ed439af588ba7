"""The process in which onnxruntime-training runs, one sample at a time, and how it is talked to.

Its package is called onnxruntime too, so a process can have only one of both: this one is started with the training
build first on its path, reads messages from stdin and answers on stdout until stdin ends (``runtimes.messages``). The
first one brings the model:

    model     uint8, a serialised model with the scalar output LOSS, summed over samples
    wrt       names of the inputs to differentiate by
    axes      of each of them, the axis of filters
    samples   whether samples run one by one, so dLOSS/dw is the gradient of one of them
    rows      rows of a run; the others are copies that are ignored
    threads   of onnxruntime
    fixed/*   inputs that stay the same

Every other one brings LABELS int64 [n] and feed/*, n rows each. The answer is value/w for each w of wrt: the squared
norms [n, filters] of the samples' gradients, or if not ``samples``, the gradient as one run gives it. An answer
``error`` is the last one.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hqp_onnx.runtimes.messages import Message, answers, part, receive, send

Array = NDArray[Any]

LOSS, LABELS, IGNORED = "hqp_loss", "hqp_labels", -1


class Gradients:
    """A gradient graph in a session of onnxruntime-training."""

    def __init__(self, setup: Message) -> None:
        sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # its parts that need torch are not used
        import onnxruntime as ort
        from onnxruntime.capi._pybind_state import GradientGraphBuilder

        ort.set_default_logger_severity(4)
        self._wrt = [str(name) for name in setup["wrt"]]
        self._outputs = [f"{name}_grad" for name in self._wrt]
        self._axes = [int(axis) for axis in setup["axes"]]
        self._samples, self._rows = bool(setup["samples"]), int(setup["rows"])
        self._fixed = part(setup, "fixed/")
        builder = GradientGraphBuilder(setup["model"].tobytes(), {LOSS}, set(self._wrt), LOSS, None)
        builder.build()
        options = ort.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, int(setup["threads"])
        self._session = ort.InferenceSession(builder.get_model(), options, providers=ort.get_available_providers())

    def __call__(self, request: Message) -> Message:
        """Answer one request."""
        feeds, labels = part(request, "feed/"), request[LABELS]
        if not self._samples:
            return self._named(self._run({**feeds, LABELS: labels}))
        rows = []
        for i, label in enumerate(labels):
            sample = {name: np.repeat(x[i : i + 1], self._rows, 0) for name, x in feeds.items()}
            sample[LABELS] = np.full(self._rows, IGNORED, np.int64)
            sample[LABELS][0] = label
            rows.append([_squares(g, axis) for g, axis in zip(self._run(sample), self._axes, strict=True)])
        return self._named([np.stack(column) for column in zip(*rows, strict=True)])

    def _run(self, feeds: Message) -> list[Array]:
        gradients: list[Array] = self._session.run(self._outputs, {**self._fixed, **feeds})
        return gradients

    def _named(self, values: list[Array]) -> Message:
        return {f"value/{name}": value for name, value in zip(self._wrt, values, strict=True)}


def _squares(gradient: Array, axis: int) -> Array:
    """Squared norm of each slice along ``axis``, in float64."""
    rows = np.moveaxis(gradient, axis, 0).reshape(gradient.shape[axis], -1)
    squares: Array = np.einsum("fi,fi->f", rows, rows, dtype=np.float64)
    return squares


def main() -> None:
    """Serve until stdin ends."""
    out = answers()
    setup = receive(sys.stdin.buffer)
    if setup is None:
        return
    try:
        gradients = Gradients(setup)
        send(out, {})
        while (request := receive(sys.stdin.buffer)) is not None:
            send(out, gradients(request))
    except Exception as e:
        send(out, {"error": np.array(f"{type(e).__name__}: {e}")})
        raise


if __name__ == "__main__":
    main()
