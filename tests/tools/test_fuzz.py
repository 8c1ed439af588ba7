"""Some hundred of the mutated files that tools/fuzz.py makes; docs/security.md has the table of 5,000."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "fuzz.py"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_mutated_files_end_in_a_result_or_one_line() -> None:
    words = [sys.executable, "-W", "ignore", str(TOOL), "--cases", "250", "--first", "10000", "--limit", "40"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    row = re.search(r"\| all \| (\d+) \| (\d+) \| (\d+) \| 0 \|", done.stdout)
    assert row is not None
    cases, finished, refused = map(int, row.groups())
    assert cases == finished + refused
    assert finished > 0 < refused
