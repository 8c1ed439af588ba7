"""Work of other processes: in order, the same bits, once more where a process died, and refused by other versions."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType

import numpy as np
import onnx
import pytest
from command import hqp
from PIL import Image
from small_model import small_data, small_model
from work import Adding, Touching

from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.data import shards
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.shards import shards as shards_of
from hqp_onnx.data.sources import open_dataset
from hqp_onnx.errors import DataError, MissingRuntimeError, UsageError, WorkerError
from hqp_onnx.evaluation.metrics import References, evaluate, load_metric
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.model import open_model
from hqp_onnx.passes.prune_channels import prune_channels
from hqp_onnx.passes.recover import recover
from hqp_onnx.passes.refit_in_order import refit_in_order
from hqp_onnx.ranking.saliencies import Execution, Scoring
from hqp_onnx.recovery import Recovery
from hqp_onnx.runtimes.runners import open_runner
from hqp_onnx.runtimes.session import Session
from hqp_onnx.runtimes.targets import target
from hqp_onnx.statistics import carried
from hqp_onnx.statistics.calibration import calibrate
from hqp_onnx.statistics.channel_stats import channel_stats
from hqp_onnx.statistics.moments import input_moments
from hqp_onnx.workers import spread, using, worker
from hqp_onnx.workers.parcels import packed, unpacked
from hqp_onnx.workers.pool import active

COUNT = 400


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    """Two processes, started once."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), worker.begin) as executor:
        yield executor


class Refusing(Executor):
    """Workers that have another version."""

    def submit(self, function: Callable[..., object], /, *arguments: object, **options: object) -> Future:
        future: Future = Future()
        future.set_result(function("hqp_onnx 0.0", *arguments[1:]))
        return future


def test_results_come_in_order_and_large_values_once(pool: Executor) -> None:
    values = np.arange(1 << 18, dtype=np.float64)  # 2 MB, which goes apart
    with using(pool):
        results = list(spread(Adding(values), range(9)))
    assert [total for total, _ in results] == [values.sum() + item for item in range(9)]
    assert os.getpid() not in {process for _, process in results}


def test_what_a_worker_raises_is_raised_here(pool: Executor) -> None:
    with using(pool), pytest.raises(DataError, match="no item -1"):
        list(spread(Adding(np.ones(2)), [0, -1]))


def test_an_item_whose_process_was_killed_is_done_again(tmp_path: Path) -> None:
    marker = tmp_path / "died"
    with using(2):
        results = list(spread(Adding(np.ones(2), str(marker)), range(6)))
    assert marker.exists() and [total for total, _ in results] == [2.0 + item for item in range(6)]
    for _, process in results:  # none is left behind the block
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_another_version_is_refused_by_name() -> None:
    with using(Refusing()), pytest.raises(WorkerError, match=rf"process {os.getpid()} has {worker.versions()}, here"):
        list(spread(Adding(np.ones(2)), [0]))


def test_what_cannot_be_sent_is_done_here() -> None:
    class Local(Adding):
        def __reduce__(self) -> str:
            raise pickle.PicklingError

    with using(ThreadPoolExecutor(2)):
        assert list(spread(Local(np.ones(2)), [1])) == [(3.0, os.getpid())]
    of_a_script = FunctionType((lambda: None).__code__, {})
    of_a_script.__module__ = "__main__"  # another process has another one
    assert packed(of_a_script) is None


@pytest.mark.parametrize(
    ("workers", "error", "words"),
    [
        (0, UsageError, "at least 1"),
        (-2, UsageError, "at least 1"),
        ("many", UsageError, "expected a number of processes"),
        ("http://host", UsageError, "expected a number of processes"),
        (2.5, UsageError, "expected a number"),
        ("nowhere.py:pool", UsageError, "no such file"),
        ("tcp://127.0.0.1:1", (WorkerError, MissingRuntimeError), "127.0.0.1:1|hqp-onnx\\[dask\\]"),
    ],
)
def test_bad_workers_are_one_line(workers: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words), using(workers):  # type: ignore[arg-type]
        pass
    assert active() is None


def test_shards_depend_on_the_data_alone() -> None:
    data = dataset(small_data(60), 7)
    assert shards_of(data) == [data.ranges]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SAMPLES", 20)
        parts = shards_of(data)
    assert len(parts) == 3 and [each for part in parts for each in part] == data.ranges


def dataset(data: object, size: int = 25) -> Dataset:
    return open_dataset(data, Session(small_model()).inputs, batch_size=size)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=["memory", "file", "compressed", "generator", "drifting"])
def samples(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The same samples from everywhere."""
    arrays = small_data(COUNT)
    if request.param == "drifting":  # what the first batch decides, others would decide otherwise
        arrays["input"] += np.linspace(1000, 1030, COUNT, dtype=np.float32)[:, None, None, None]
        return dataset(arrays)
    file = tmp_path_factory.mktemp("data") / "data.npz"
    if request.param == "memory":
        return dataset(arrays)
    if request.param == "generator":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hqp_onnx.data.stream.SMALL", 1)
            return dataset(lambda: ({k: v[i : i + 1] for k, v in arrays.items()} for i in range(COUNT)))
    (np.savez if request.param == "file" else np.savez_compressed)(file, **arrays)
    return dataset(file)


def everything(data: Dataset) -> bytes:
    """All statistics and scores, as bytes."""
    model = small_model()
    moments = input_moments(model, None, data)
    stats = channel_stats(model, {"r1": 0, "r2": 0}, data)
    ranges = calibrate(model, ["input", "r1", "sum"], data)
    scoring, execution = Scoring("fisher"), Execution()
    filters = scoring.method.filters(model, data, scoring, execution)
    runner = open_runner(model, target("onnxruntime"))
    scores = evaluate(runner, data, load_metric("top1"))
    stopped = evaluate(runner, data, load_metric("top1"), required=0.9)
    near = evaluate(runner, data, load_metric("fidelity"), references=References(runner, "data"))
    arrays = [x for m in moments.values() for x in (m.gram, m.mean)]
    arrays += [x for s in stats.values() for x in (s.mean, s.power, s.top)]
    arrays += [*filters.values(), *(np.asarray(x.values) for x in (scores, stopped, near))]
    return ranges.to_json().encode() + b"".join(x.tobytes() for x in arrays)


def test_every_statistic_has_the_same_bits(pool: Executor, samples: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SAMPLES", 100)  # four shards
    used, packed = [], shards.packed
    monkeypatch.setattr(shards, "packed", lambda value: used.append(value) or packed(value))
    here = everything(samples)
    assert not used
    with using(pool):
        assert everything(samples) == here
    assert len(used) >= 7


@pytest.mark.parametrize("room", [1 << 30, 1 << 16, 0])
def test_the_refit_in_order_has_the_same_bits(pool: Executor, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether all that crosses from depth to depth is kept, or some, or none."""
    monkeypatch.setattr(shards, "SAMPLES", 100)
    monkeypatch.setattr(carried, "ROOM", room)
    model, data, sent = open_model(small_model()), dataset(small_data(COUNT)), []
    channels = model.channels()
    plan = PruningPlan(channels.prunable[::3])
    pruned = prune_channels(model.graph, channels, plan).graph
    monkeypatch.setattr(shards, "spread", lambda work, *a: sent.append(type(work.work).__name__) or spread(work, *a))
    here = refit_in_order(model.graph, pruned, channels, plan, data)
    assert not sent and len(here.notes) == 3
    with using(pool):
        there = refit_in_order(model.graph, pruned, channels, plan, data)
    assert sent.count("_Pass") == 3 and sent.count("_Passing") >= 2
    assert to_proto(here.graph).SerializeToString() == to_proto(there.graph).SerializeToString()


@pytest.mark.parametrize("augment", [(), ("flip",)])
@pytest.mark.parametrize("kind", ["arrays", "generator"])
def test_training_has_the_same_bits(
    pool: Executor, kind: str, augment: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = small_data(60)
    monkeypatch.setattr("hqp_onnx.data.stream.SMALL", 1)
    data = dataset(arrays if kind == "arrays" else lambda: iter([{"input": x[None]} for x in arrays["input"]]))
    monkeypatch.setattr("hqp_onnx.recovery.net.MEMORY", 1 << 20)  # several parts a step
    teacher = to_graph(small_model())
    student = teacher.copy()
    weight = next(t for t in student.tensors().values() if t.name == "w2")
    weight.values = weight.values * np.float32(0.7)
    sent = []
    monkeypatch.setattr("hqp_onnx.recovery.trainer.spread", lambda *a: sent.append(a) or spread(*a))
    settings = Recovery(epochs=1, batch=16, augment=augment)
    here = recover(student, teacher, data, settings)
    assert not sent
    with using(pool):
        there = recover(student, teacher, data, settings)
    assert len(sent) > 3 and here.losses == there.losses
    assert to_proto(here.graph).SerializeToString() == to_proto(there.graph).SerializeToString()


@pytest.mark.parametrize("name", ["data.npz", "images"])
def test_paths_are_absolute_in_what_is_sent(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, folder = small_data(4), tmp_path / "images"
    folder.mkdir()
    np.savez(tmp_path / "data.npz", **arrays)
    for number, image in enumerate(arrays["input"]):
        Image.fromarray(np.uint8(128 + 40 * image[0])).save(folder / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    sent = packed(dataset(name))
    assert sent is not None
    monkeypatch.chdir("/")
    found = unpacked(sent.content, lambda digest: pickle.loads(sent.parts[digest]))
    assert found.rows(1, 3).feeds["input"].shape == (2, 1, 8, 8)


def test_nothing_goes_on_once_no_more_is_asked_for(tmp_path: Path) -> None:
    with using(2):
        results = spread(Touching(str(tmp_path)), range(20))
        assert next(results) == 0
        results.close()
        done = len(list(tmp_path.iterdir()))
        time.sleep(0.3)
        assert len(list(tmp_path.iterdir())) == done < 20


@pytest.mark.parametrize(("value", "found"), [('"tcp://h:1"', True), ('"mine.py:pool"', True), ("1", False)])
def test_hqp_toml_names_no_cluster(
    value: str, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(small_model(), "model.onnx")
    np.savez("data.npz", **small_data(8))
    Path("hqp.toml").write_text(f"[evaluate]\nworkers = {value}\n")
    assert hqp(monkeypatch, "evaluate", "model.onnx", "--data", "data.npz") == (2 if found else 0)
    assert ("names a machine to connect to" in capfd.readouterr().err) == found


def test_the_command_line_shares_the_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(small_model(), "model.onnx")
    np.savez("data.npz", **small_data(300))
    Path("threads.py").write_text(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "class Pool(ThreadPoolExecutor):\n"
        "    def submit(self, *a):\n"
        "        open('used', 'a').close()\n"
        "        return super().submit(*a)\n"
        "def pool(address):\n"
        "    return Pool(2)\n"
    )
    for name in ("one", "two"):
        options = ("--workers", "threads.py:pool") if name == "two" else ()
        assert hqp(monkeypatch, "score", "model.onnx", "--data", "data.npz", "-o", f"{name}.npz", *options) == 0
        assert Path("used").exists() == (name == "two")
    assert Path("one.npz").read_bytes() == Path("two.npz").read_bytes()
    assert active() is None


@dataclass
class Unhashable:
    """A runner of other people."""

    session: Session

    def __getattr__(self, name: str) -> object:
        return getattr(self.session, name)


def test_a_runner_that_cannot_be_a_key_is_judged_here() -> None:
    runner, data = Unhashable(Session(small_model())), dataset(small_data(60))
    alone = evaluate(runner, data, load_metric("top1"))
    with using(ThreadPoolExecutor(2)):
        assert evaluate(runner, data, load_metric("top1")).metric == alone.metric
