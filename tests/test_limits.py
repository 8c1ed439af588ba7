"""Models whose trial runs do not end, or take all memory, are stopped at a limit, with a line that says so."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import numpy as np
import onnx.parser
import pytest
from command import hqp

from hqp_onnx import limits
from hqp_onnx.errors import LimitError, ModelError, UsageError
from hqp_onnx.limits import bounded_memory, probe_seconds, set_probe_seconds
from hqp_onnx.model import open_model, open_session

HEAD = '<ir_version: 8, opset_import: ["" : 17, "f" : 1]>'
ENDLESS = f"""{HEAD} g (float[n,3] x) => (float[n,3] y) <int64 most = {{9223372036854775807}}, bool yes = {{1}}> {{
  y = Loop <body = b (int64 i, bool c, float[n,3] s) => (bool again, float[n,3] t)
    {{ again = Identity(c)  t = Add(s, s) }}> (most, yes, x) }}"""
LARGE = f"""{HEAD} g (float[n,3] x) => (float[m] y) <int64[1] one = {{1}}, int64[1] times = {{1000000000}}> {{
  m = ReduceMax<keepdims = 0>(x)  r = Reshape(m, one)  y = Tile(r, times) }}"""


def laughs(depth: int, own: int = 0) -> str:
    """Functions that call the one before them ten times; the first may call function ``own``."""
    first = f"f.l{own}(x)" if own else "Relu(x)"
    calls = [f'<domain: "f", opset_import: ["" : 17, "f" : 1]> l0 (x) => (y) {{ y = {first} }}']
    for n in range(1, depth + 1):
        lines = [f"a{i + 1} = f.l{n - 1}({f'a{i}' if i else 'x'})" for i in range(9)]
        body = " ".join([*lines, f"y = f.l{n - 1}(a9)"])
        calls.append(f'<domain: "f", opset_import: ["" : 17, "f" : 1]> l{n} (x) => (y) {{ {body} }}')
    return f"{HEAD} g (float[n,3] x) => (float[n,3] y) {{ y = f.l{depth}(x) }} " + " ".join(calls)


def saved(folder: Path, text: str) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    return path


def test_a_loop_without_end_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path, data = saved(tmp_path, ENDLESS), tmp_path / "d.npz"
    np.savez(data, x=np.ones((2, 3), np.float32), labels=np.zeros(2, int))
    start = time.monotonic()
    for command in (["inspect", str(path)], ["evaluate", str(path), "--data", str(data)]):
        assert hqp(monkeypatch, *command, "--probe-seconds", "0.5") == 2
        said = capfd.readouterr().err.splitlines()[-1]
        assert "m.onnx: a trial run did not end within 0.5 s: --probe-seconds" in said
    assert time.monotonic() - start < 20
    monkeypatch.setenv(limits.VARIABLE, "0.25")
    set_probe_seconds(None)
    with pytest.raises(LimitError, match=r"within 0\.25 s"):
        open_model(path)


def test_the_variable_is_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    set_probe_seconds(None)
    assert probe_seconds() == 60
    for wrong in ("soon", "0", "-1", "inf", "nan"):
        monkeypatch.setenv(limits.VARIABLE, wrong)
        with pytest.raises(UsageError, match=f"HQP_PROBE_SECONDS is '{wrong}'"):
            probe_seconds()


def test_seconds_are_finite_and_may_be_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path, f"{HEAD} g (float[n,3] x) => (float[n,3] y) {{ y = Relu(x) }}")
    for wrong in ("0", "-1", "inf", "nan"):
        assert hqp(monkeypatch, "inspect", path, "--probe-seconds", wrong) == 2
        assert capfd.readouterr().err == f"error: --probe-seconds {wrong}: expected seconds, above 0\n"
        (tmp_path / "c.toml").write_text(f"[inspect]\nprobe-seconds = {wrong}\n")
        assert hqp(monkeypatch, "--config", tmp_path / "c.toml", "inspect", path) == 2
        assert capfd.readouterr().err == f"error: --probe-seconds {wrong}: expected seconds, above 0\n"
    assert hqp(monkeypatch, "inspect", path, "--probe-seconds", "1e300") == 0
    assert not capfd.readouterr().err


@pytest.mark.parametrize(("text", "words"), [(laughs(9), r"make 1e\+09 nodes"), (laughs(3, own=3), "calls itself")])
def test_functions_that_explode_are_counted_not_inlined(tmp_path: Path, text: str, words: str) -> None:
    path = saved(tmp_path, text)
    for opens in (open_model, open_session):
        with pytest.raises(ModelError, match=words):
            opens(path)
    assert len(open_model(saved(tmp_path, laughs(1))).graph.nodes) == 10


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA")
def test_memory_is_bounded_by_what_is_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    monkeypatch.setattr(limits, "available_bytes", lambda: 1 << 30)
    model = open_model(saved(tmp_path, LARGE))  # 4 GB
    with bounded_memory(), pytest.raises(ModelError, match=r"cannot allocate 4\.00 GB for a tensor"):
        model.session.run({"x": np.ones((2, 3), np.float32)})
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
