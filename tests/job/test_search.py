"""Algorithm 1 and its bisection, against plain scans."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hqp_onnx.errors import UsageError
from hqp_onnx.job.search import bisect, bisect_from, candidates, last_admissible, linear, step_size


@pytest.mark.parametrize("limit", [1, 7, 99, 100, 101])
@pytest.mark.parametrize("last", [0, 1, 5, 42, 98, 1000])
def test_both_searches_find_the_last_admissible_candidate(limit: int, last: int) -> None:
    expected = max([0, *(n for n in candidates(limit, 5) if n <= last)])
    assert linear(limit, 5, lambda n: n <= last) == expected
    assert bisect(limit, 5, lambda n: n <= last) == expected


def test_linear_stops_at_the_first_violation() -> None:
    asked = []

    def admits(count: int) -> bool:
        asked.append(count)
        return count != 30

    assert linear(100, 10, admits) == 20
    assert asked == [10, 20, 30]


@given(st.integers(0, 60), st.integers(0, 60), st.integers(-3, 70))
def test_a_guess_changes_what_bisect_asks_and_not_what_it_finds(limit: int, last: int, guess: int) -> None:
    asked: list[int] = []
    found = bisect_from(guess, limit, 1, lambda n: bool(asked.append(n)) or n <= last)
    assert found == min(limit, last) and len(asked) == len(set(asked))
    if 0 < guess == found < limit:
        assert asked == [guess, guess + 1]


def test_bisect_takes_log_steps() -> None:
    asked: list[int] = []
    bisect(1000, 10, lambda n: bool(asked.append(n)) or n <= 500)
    assert len(asked) <= 7


def test_the_last_candidate_is_the_limit_itself() -> None:
    assert [list(candidates(limit, 4)) for limit in (0, 3, 8, 10)] == [[], [3], [4, 8], [4, 8, 10]]
    assert linear(10, 4, lambda n: True) == bisect(10, 4, lambda n: True) == 10


def test_no_unit_to_remove() -> None:
    assert linear(0, 1, lambda n: True) == 0
    assert bisect(0, 1, lambda n: True) == 0


def test_a_step_is_a_share_of_the_units_and_at_least_one() -> None:
    assert step_size(0.01, 1080) == 11
    assert step_size(0.01, 3) == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return None", "ends in None: expected 0, or a count that was admitted"),
        ("return limit", "ends in 40: expected 0"),
        ("return -1", "ends in -1"),
        ("return 20 if admits(20) else 20", "ends in 20"),
        ("return admits(41)", "asks for 41: expected a whole number from 0 to 40"),
        ("return admits(-3)", "asks for -3"),
        ("return admits(2.5)", "asks for 2.5"),
        ("return admits('x')", "asks for 'x'"),
        ("raise ValueError('two\\nlines')", r"failed: ValueError: two \(.*mine\.py, line 2\)$"),
        ("import sys; sys.exit(0)", "failed: SystemExit: 0"),
    ],
)
def test_a_search_of_one_s_own_is_held_to_its_contract(tmp_path: Path, body: str, words: str) -> None:
    (tmp_path / "mine.py").write_text(f"def search(limit, step, admits):\n    {body}\n")
    with pytest.raises(UsageError, match=words):
        last_admissible(f"{tmp_path / 'mine.py'}:search", 40, 4, lambda count: count <= 10)


def test_a_search_of_one_s_own_is_believed_what_it_was_told(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def search(limit, step, admits):\n    return 7 if admits(7) else 0\n")
    assert last_admissible(f"{tmp_path / 'mine.py'}:search", 40, 4, lambda count: count <= 10) == 7
    assert last_admissible(f"{tmp_path / 'mine.py'}:search", 40, 4, lambda count: False) == 0
