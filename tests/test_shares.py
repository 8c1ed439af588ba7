"""A share is a number or a percentage, wherever it is asked for."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from command import hqp
from small_model import small_data, small_model

from hqp_onnx import Options, prune
from hqp_onnx.errors import UsageError
from hqp_onnx.recovery import Recovery
from hqp_onnx.shares import share
from hqp_onnx.steps.prune import Pruning


@pytest.mark.parametrize(
    ("given", "number"), [("5%", 0.05), ("0.5 %", 0.005), (" 0.25", 0.25), (0.1, 0.1), (np.float32(0.1), 0.1), (1, 1.0)]
)
def test_what_a_share_may_be(given: float | str, number: float) -> None:
    assert share(given, "step") == pytest.approx(number)


@pytest.mark.parametrize("wrong", ["", "%", "5%%", "half", True, None, [0.1]])
def test_what_it_may_not_be(wrong: object) -> None:
    with pytest.raises(UsageError, match=r"is no share: expected a number, as 0\.05, or a percentage, as 5%"):
        share(wrong, "step")  # type: ignore[arg-type]


def test_options_hold_numbers() -> None:
    shares = {"confidence": "95%", "step": "2%", "min_width": "12.5%", "shares": ("50%", 0.3, "20%")}
    options = Options("m.onnx", data="d.npz", output="out", **shares)  # type: ignore[arg-type]
    numbers = Options(
        "m.onnx", data="d.npz", output="out", confidence=0.95, step=0.02, min_width=0.125, shares=(0.5, 0.3, 0.2)
    )
    assert options == numbers and vars(options) == vars(numbers)
    assert (options.confidence, options.step, options.min_width) == (0.95, 0.02, 0.125)
    assert pickle.loads(pickle.dumps(options)) == options and replace(options, step="2%") == options
    assert Options("m", data="d", output="o").confidence == 0.5
    assert Recovery(1, held_out="20%").held_out == 0.2 and Recovery.held_out == 0.1
    assert Pruning("30%", min_width="5%") == Pruning(0.3, min_width=0.05)


@pytest.mark.parametrize(
    "wrong", [{"confidence": "sure"}, {"step": "0%"}, {"min_width": "200%"}, {"shares": ("1%",) * 3}]
)
def test_options_say_which_share_is_wrong(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Options("m.onnx", data="d.npz", output="out", **wrong)  # type: ignore[arg-type]


def test_functions_and_commands_take_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    assert prune(model, "30%", min_width="5%") == prune(model, 0.3, min_width=0.05)
    monkeypatch.chdir(tmp_path)
    onnx.save(model, "m.onnx")
    np.savez("d.npz", **small_data())
    quantize = ("quantize", "m.onnx", "--data", "d.npz", "--int4-weights")
    for words in ("100%", "1"):
        assert (
            hqp(monkeypatch, "quantize", "m.onnx", "--data", "d.npz", "--int4-weights", words, "-o", f"{words}.onnx")
            == 0
        )
    assert Path("1.onnx").read_bytes() == Path("100%.onnx").read_bytes()
    assert hqp(monkeypatch, *quantize, "101%", "-o", "x.onnx") == 2
