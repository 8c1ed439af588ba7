"""What tools/check_confidence.py simulates, on few draws: few samples admit nothing that they should not."""

from __future__ import annotations

import importlib.util
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

TOOL = Path(__file__).parents[2] / "tools" / "check_confidence.py"
spec = importlib.util.spec_from_file_location("check_confidence", TOOL)
assert spec is not None and spec.loader is not None
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)
OPTIONS = Namespace(draws=400, seed=0, confidence=0.95, budget=0.015)


@pytest.mark.parametrize("samples", [10, 50, 500])
@pytest.mark.parametrize("kind", tool.KINDS)
def test_a_drop_of_twice_the_budget_is_hardly_ever_admitted(kind: str, samples: int) -> None:
    admits, normal, covered = tool.admitted(tool.KINDS[kind], samples, 0.03, OPTIONS)
    assert admits <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 400)
    assert covered >= 0.95 - 2 * np.sqrt(0.05 * 0.95 / 400)
    if (kind, samples) == ("answers lost", 10):
        assert normal > 0.6  # 0.97 ^ 10 = 0.74


@pytest.mark.parametrize("kind", tool.KINDS)
def test_the_drop_of_each_population_is_known(kind: str) -> None:
    drawn = tool.KINDS[kind](np.random.default_rng(0), 200_000, 0.03)
    assert drawn.mean() == pytest.approx(0.03, abs=0.002)
    assert np.abs(drawn).max() <= 1
