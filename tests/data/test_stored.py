"""Arrays in files against the same arrays in memory, and that they are not in memory."""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hqp_onnx.data import stored
from hqp_onnx.data.sources import open_dataset, open_source
from hqp_onnx.data.stored import StoredArray, open_npy, open_npz
from hqp_onnx.errors import DataError
from hqp_onnx.runtimes.session import TensorSpec

RNG = np.random.default_rng(0)
ARRAYS = {
    "floats": RNG.random((7, 3, 2)),
    "fortran": np.asfortranarray(RNG.random((7, 3, 2))),
    "pixels": RNG.integers(0, 256, (7, 5), np.uint8),
    "flags": RNG.random(7) > 0.5,
    "texts": np.array(list("abcdefg")),
    "big": RNG.random((7, 2)).astype(">f4"),
    "none": np.zeros((7, 0)),
    "empty": np.zeros((0, 3)),
    "scalar": np.float32(3),
}


def check(found, expected):
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    if not expected.shape:
        assert found == expected
        return
    for rows in (slice(None), slice(2, 5), slice(6, 99), slice(3, 3)):
        np.testing.assert_array_equal(found[rows], expected[rows])


@pytest.mark.parametrize("limit", [stored.SMALL, 0])
@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_archives(tmp_path, monkeypatch, write, limit):
    monkeypatch.setattr(stored, "SMALL", limit)
    write(tmp_path / "d.npz", **ARRAYS)
    found = open_npz(tmp_path / "d.npz")
    assert list(found) == list(ARRAYS)
    for name, values in ARRAYS.items():
        check(found[name], values)
    in_file = write is np.savez or not limit
    assert isinstance(found["floats"], StoredArray) == in_file
    assert isinstance(found["fortran"], StoredArray) == (not limit)


@pytest.mark.parametrize("name", list(ARRAYS))
def test_single_arrays(tmp_path, name):
    np.save(tmp_path / "a.npy", ARRAYS[name])
    check(open_npy(tmp_path / "a.npy"), np.asarray(ARRAYS[name]))


def test_a_file_feeds_the_one_input_and_a_folder_all(tmp_path):
    specs = [TensorSpec(name, np.dtype(np.float64), (None, *ARRAYS[name].shape[1:])) for name in ("floats", "fortran")]
    for name in ("floats", "fortran", "flags"):
        np.save(tmp_path / f"{name}.npy", ARRAYS[name])
    np.save(tmp_path / "labels.npy", np.arange(7))
    batch = open_dataset(str(tmp_path), specs).rows(2, 4)
    np.testing.assert_array_equal(batch.feeds["fortran"], ARRAYS["fortran"][2:4])
    np.testing.assert_array_equal(batch.targets["flags"], ARRAYS["flags"][2:4])
    assert batch.labels.tolist() == [2, 3]
    one = open_dataset(str(tmp_path / "floats.npy"), specs[:1]).rows(1, 3)
    np.testing.assert_array_equal(one.feeds["floats"], ARRAYS["floats"][1:3])
    with pytest.raises(DataError, match=r"an array feeds one input, but the model has 2 \(floats, fortran\)"):
        open_source(str(tmp_path / "floats.npy"), specs=specs)


def test_a_file_that_shrinks_is_one_line(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((100, 100)))
    found = open_npy(tmp_path / "a.npy")
    with (tmp_path / "a.npy").open("r+b") as stream:
        stream.truncate(1000)
    with pytest.raises(DataError, match=r"a\.npy: the file became shorter"):
        found[50:60]


_READ = """
import resource, sys
from hqp_onnx.data.sources import open_source
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
source = open_source(sys.argv[1])
for start in range(0, source.count, 10):
    assert len(source.rows(start, start + 10)) == 10
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kB on Linux alone")
@pytest.mark.parametrize("name", ["a.npy", "a.npz", "packed.npz", "loader.py"])
def test_memory_is_that_of_a_batch(tmp_path, name):
    values = np.zeros((2000, 3, 64, 64), np.float32)  # 98 MB
    np.save(tmp_path / "a.npy", values)
    np.savez(tmp_path / "a.npz", x=values)
    np.savez_compressed(tmp_path / "packed.npz", x=values)
    (tmp_path / "loader.py").write_text(
        "import numpy as np\ndef load_data():\n    for n in range(200):\n"
        "        yield {'x': np.full((10, 3, 64, 64), n, np.float32)}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", _READ, str(tmp_path / name)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 48 << 10, resource.getpagesize()


@pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc")
def test_an_archive_is_one_open_file_however_many_arrays_it_has(tmp_path):
    np.savez(tmp_path / "many.npz", **{f"a{number}": np.full((3, 2), number) for number in range(300)})
    before = len(list(Path("/proc/self/fd").iterdir()))
    found = open_npz(tmp_path / "many.npz")
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1
    assert [int(values[1:2][0, 0]) for values in found.values()] == list(range(300))
    del found
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
