"""Some random attentions; the tool draws as many as are wanted."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import check_attention
from check_attention import checked


@pytest.mark.parametrize("seed", range(6))
def test_pruned_is_masked(seed: int) -> None:
    _, missing = checked(seed, plans=1)
    assert not missing


def test_a_wrong_model_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = check_attention.prune_channels

    def wrong(*given):
        result = whole(*given)
        weight = next(t for t in result.graph.tensors().values() if getattr(t, "values", np.zeros(0)).ndim == 2)
        weight.values = weight.values * np.float32(1.001)
        return result

    monkeypatch.setattr(check_attention, "prune_channels", wrong)
    with pytest.raises(AssertionError, match="error"):
        checked(1, plans=1)
