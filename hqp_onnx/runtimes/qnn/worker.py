"""The process in which onnxruntime's QNN provider compiles and emulates: what crashes it, ends it alone.

It reads messages from stdin and answers on stdout until stdin ends (``runtimes.messages``). First comes a ``model``:

    model     uint8, a serialised model whose inputs have fixed sizes; or a context that was compiled before
    arch, soc what it is compiled for (``chips.Chip``)
    context   whether the compiled context is wanted

and is answered by ``context``, uint8, the model of EPContext nodes, empty where there are none, and ``trace``, the
provider's own account of what became of each node, as JSON. Every other one brings feed/*, and is answered by value/*.
An answer ``error`` says what onnxruntime raised.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from hqp_onnx.runtimes.messages import Message, answers, part, receive, send

PROVIDER = "QNNExecutionProvider"
TRACE = "qnn_op_trace.json"


class Emulator:
    """A session on the provider, and what it compiled."""

    def __init__(self) -> None:
        self._session: Any = None

    def __call__(self, request: Message) -> Message:
        """Answer one request."""
        return self._opened(request) if "model" in request else self._run(part(request, "feed/"))

    def _run(self, feeds: Message) -> Message:
        names = [value.name for value in self._session.get_outputs()]
        return {f"value/{name}": np.asarray(x) for name, x in zip(names, self._session.run(names, feeds), strict=True)}

    def _opened(self, request: Message) -> Message:
        with tempfile.TemporaryDirectory() as folder:
            context, trace = Path(folder) / "context.onnx", Path(folder) / TRACE
            wanted = bool(request["context"])
            self._session = _session(request, context if wanted else None, folder)
            content = context.read_bytes() if context.is_file() else b""
            said = trace.read_text() if trace.is_file() else ""
        return {"context": np.frombuffer(content, np.uint8), "trace": np.array(said)}


def _session(request: Message, context: Path | None, folder: str) -> Any:
    import onnxruntime as ort
    import onnxruntime_qnn as qnn

    if PROVIDER not in {device.ep_name for device in ort.get_ep_devices()}:
        ort.register_execution_provider_library(PROVIDER, qnn.get_library_path())
    settings = {
        "backend_path": qnn.get_qnn_htp_path(),
        "htp_arch": str(request["arch"]),
        "soc_model": str(request["soc"]),
    }
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors are raised
    if context is not None:
        settings |= {"enable_framework_op_trace": "1", "framework_op_trace_dir": folder}
        for key, value in (("enable", "1"), ("file_path", str(context)), ("embed_mode", "1")):
            options.add_session_config_entry(f"ep.context_{key}", value)
    devices = [device for device in ort.get_ep_devices() if device.ep_name == PROVIDER]
    options.add_provider_for_devices(devices[:1], settings)
    return ort.InferenceSession(request["model"].tobytes(), options, enable_fallback=0)


def main() -> None:
    """Serve until stdin ends."""
    out, emulator = answers(), Emulator()
    while (request := receive(sys.stdin.buffer)) is not None:
        try:
            answer = emulator(request)
        except Exception as e:  # noqa: BLE001  onnxruntime's own exception types are many and undocumented
            answer = {"error": np.array(f"{type(e).__name__}: {e}")}
        send(out, answer)


if __name__ == "__main__":
    main()
