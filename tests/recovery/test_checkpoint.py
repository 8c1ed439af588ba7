"""What the file of a training says: its state, how long it has had, and what it changed."""

import numpy as np
import pytest

from hqp_onnx.errors import DataError
from hqp_onnx.recovery.adam import Adam
from hqp_onnx.recovery.checkpoint import State, changed, load, prolonged, save

GIVEN = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float32([1, 2])}


def state(ended: str) -> State:
    best = np.float32([1, 1, 2, 3, 4, 5, 1, 1])
    return State(best + 1, Adam.zeros(8), best, [2.0, 1.0], [0, 7], 0.5, 30.0, ended, seconds=20.0)


def test_a_state_is_read_back(tmp_path):
    save(tmp_path / "x.npz", "key", state(""), GIVEN)
    found = load(tmp_path / "x.npz", "key")
    assert found is not None
    assert (found.losses, found.steps, found.adam.step, found.limit) == ([2.0, 1.0], [0, 7], 7, 30.0)
    np.testing.assert_array_equal(found.weights, state("").weights)
    assert load(tmp_path / "x.npz", "another") is None
    assert load(tmp_path / "none.npz", "key") is None


def test_more_time_comes_on_top_of_what_it_took(tmp_path):
    """An interrupted training keeps the limit that it has: it was given its time already."""
    file = tmp_path / "x.npz"
    assert prolonged(file, 10.0) == 10.0
    save(file, "key", state("the time was over"), GIVEN)
    assert prolonged(file, 10.0) == 30.0
    save(file, "key", state(""), GIVEN)
    assert prolonged(file, 99.0) == 30.0


def test_what_was_changed_is_that_of_the_best_weights(tmp_path):
    assert changed(tmp_path / "x.npz") == {}
    save(tmp_path / "x.npz", "key", state(""), GIVEN)
    change = changed(tmp_path / "x.npz")
    np.testing.assert_array_equal(change["w"], [[1, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(change["b"], [0, -1])


@pytest.mark.parametrize("read", [changed, lambda path: prolonged(path, 1.0), lambda path: load(path, "key")])
def test_what_is_no_checkpoint_is_named(tmp_path, read):
    (tmp_path / "x.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="remove it"):
        read(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", w=np.ones(2))
    with pytest.raises(DataError, match="remove it"):
        read(tmp_path / "y.npz")
