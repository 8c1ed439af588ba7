"""Stands in for ``hqp_onnx.runtimes.qnn.worker`` where onnxruntime-qnn is not: a process that answers as it does.

Its contexts hold the model that they were made of; onnxruntime on the CPU runs it. What it takes of a model is told by
the number of the chip: of 404 nothing, and 139 ends it as a crash would. Gemm is never taken.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import numpy as np
import onnx
import onnxruntime as ort

from hqp_onnx.runtimes.messages import Message, answers, part, receive, send

CRASHES, NOTHING, WRONG = "139", "404", "500"


def context(model: onnx.ModelProto, taken: bool) -> tuple[bytes, str]:
    """The file of EPContext nodes, and the account of the nodes."""
    left = [node for node in model.graph.node if node.op_type == "Gemm" or not taken]
    made = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    made.graph.input.extend(model.graph.input)
    made.graph.output.extend(model.graph.output)
    if taken:
        content = model.SerializeToString()
        made.graph.node.append(
            onnx.helper.make_node("EPContext", [], [], domain="com.microsoft", ep_cache_context=content)
        )
    made.graph.node.extend(left)
    said = [{"node_name": node.name, "op_type": node.op_type, "reason": "Failed to add node."} for node in left]
    trace = {"summary": {"total_onnx_nodes": len(model.graph.node)}, "unsupported_nodes": said}
    return made.SerializeToString(), json.dumps(trace)


class Emulator:
    def __call__(self, request: Message) -> Message:
        if "model" not in request:
            found = self.session.run(None, part(request, "feed/"))
            return {
                f"value/{value.name}": self.factor * x
                for value, x in zip(self.session.get_outputs(), found, strict=True)
            }
        model, soc = onnx.ModelProto.FromString(request["model"].tobytes()), str(request["soc"])
        if soc == CRASHES:
            os.kill(os.getpid(), signal.SIGSEGV)
        self.factor = -1 if soc == WRONG else 1
        inside = [node for node in model.graph.node if node.op_type == "EPContext"]
        content = inside[0].attribute[0].s if inside else request["model"].tobytes()
        self.session = ort.InferenceSession(content)
        made, trace = context(model, soc != NOTHING) if request["context"] else (b"", "")
        return {"context": np.frombuffer(made, np.uint8), "trace": np.array(trace)}


def main() -> None:
    out, emulator = answers(), Emulator()
    while (request := receive(sys.stdin.buffer)) is not None:
        send(out, emulator(request))


if __name__ == "__main__":
    main()
