"""What the functions of the library return was verified, and warnings are logged."""

from __future__ import annotations

import logging

import onnx
import pytest
from small_model import small_data, small_model

import hqp_onnx
from hqp_onnx.errors import ModelError
from hqp_onnx.evaluation import verification


def test_models_in_memory_are_verified_and_warnings_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        pruned = hqp_onnx.prune(small_model(), 0.8)
    (record,) = caplog.records
    assert record.name.startswith("hqp_onnx.") and "<model>: output 'logits' is at " in record.getMessage()
    onnx.checker.check_model(pruned)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        hqp_onnx.quantize(small_model(), small_data())
    assert not caplog.records


@pytest.mark.parametrize("make", ["prune", "int8", "fp16", "recover"])
def test_what_does_not_load_is_an_error_in_python_too(monkeypatch: pytest.MonkeyPatch, make: str) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ModelError("cannot load the model")

    monkeypatch.setattr(verification, "open_runner", fails)
    with pytest.raises(ModelError, match="is not written, since it would be of no use: cannot load the model"):
        {
            "prune": lambda: hqp_onnx.prune(small_model(), 0.2),
            "int8": lambda: hqp_onnx.quantize(small_model(), small_data()),
            "fp16": lambda: hqp_onnx.quantize(small_model(), precision="fp16"),
            "recover": lambda: hqp_onnx.recover(small_model(), small_model(), small_data(), epochs=0),
        }[make]()
