"""Recovery of small students: what it reaches, what it never does, and that it repeats itself to the bit."""

import weakref
from itertools import count

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper
from small_model import small_data, small_model

import hqp_onnx
from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.data.attached import Derived
from hqp_onnx.data.batch import Batch
from hqp_onnx.errors import DataError, GradientError, UsageError
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.model import open_data, open_model
from hqp_onnx.passes.compress_weights import compress_weights
from hqp_onnx.passes.prune_channels import prune_channels
from hqp_onnx.passes.quantize import quantize
from hqp_onnx.passes.recover import check_recoverable, recover
from hqp_onnx.recovery import Recovery, schedule, trainer
from hqp_onnx.recovery.adam import cosine
from hqp_onnx.recovery.points import kept_positions
from hqp_onnx.recovery.schedule import PATIENCE
from hqp_onnx.recovery.trainer import Trainer
from hqp_onnx.runtimes.session import Session
from hqp_onnx.runtimes.targets import target

SETTINGS = Recovery(epochs=3, batch=8)


class Killed(KeyboardInterrupt):
    """Stands for SIGKILL: nothing handles it."""


@pytest.fixture(scope="module")
def teacher():
    return open_model(small_model(), threads=1)


@pytest.fixture(scope="module")
def data(teacher):
    return open_data(teacher, {"input": small_data(160)["input"]})  # no labels


@pytest.fixture(scope="module")
def pruned(teacher):
    """Half of the units removed, and what remains of each tensor."""
    channels = teacher.channels()
    plan = PruningPlan(channels.prunable[::2])
    return prune_channels(teacher.graph, channels, plan).graph, kept_positions(channels, channels.removed(plan))


def content(graph):
    return to_proto(graph).SerializeToString(deterministic=True)


def distance(graph, teacher):
    """Mean KL divergence from the teacher on samples that recovery never saw."""
    x = np.random.default_rng(77).standard_normal((200, 1, 8, 8)).astype(np.float32)
    z, own = (Session(to_proto(g)).run({"input": x})["logits"].astype(np.float64) for g in (teacher.graph, graph))
    p, q = (values - np.log(np.exp(values).sum(1, keepdims=True)) for values in (z, own))
    return float((np.exp(p) * (p - q)).sum(1).mean())


def test_a_pruned_student_comes_closer(teacher, data, pruned):
    graph, kept = pruned
    before = content(graph)
    found = recover(graph, teacher.graph, data, SETTINGS, kept=kept)
    assert found.modified
    assert content(graph) == before
    assert len(found.losses) == 4
    assert min(found.losses) < 0.5 * found.losses[0]
    assert distance(found.graph, teacher) < 0.5 * distance(graph, teacher)
    assert found.notes[1:] == ("trained towards logits (kl)", "features matched: c1, r1, sum, flat")


def test_shapes_and_statistics_stay(teacher, data, pruned):
    graph, kept = pruned
    after = recover(graph, teacher.graph, data, SETTINGS, kept=kept).graph.tensors()
    for name, tensor in graph.tensors().items():
        if isinstance(tensor, gs.Constant):
            assert after[name].values.shape == tensor.values.shape
            assert after[name].values.dtype == tensor.values.dtype
    for name in ("m1", "v1", "m2", "v2"):
        np.testing.assert_array_equal(after[name].values, graph.tensors()[name].values)


def test_a_quantized_student_comes_closer(teacher, data):
    graph = quantize(teacher.graph, data, target("tensorrt"), "minmax").graph
    constants = {name: t for name, t in graph.tensors().items() if isinstance(t, gs.Constant)}
    integers = {name: t.values for name, t in constants.items() if t.dtype == np.int8 and t.values.ndim > 1}
    for values in integers.values():
        values += np.random.default_rng(0).integers(-20, 20, values.shape).astype(np.int8) * (np.abs(values) < 100)
    found = recover(graph, teacher.graph, data, SETTINGS)
    assert found.modified
    assert distance(found.graph, teacher) < 0.7 * distance(graph, teacher)
    for name, t in found.graph.tensors().items():
        if name in integers:
            assert t.values.dtype == np.int8
        elif name.endswith(("/scale", "/zero_point")):
            np.testing.assert_array_equal(t.values, constants[name].values)


def test_a_student_that_equals_its_teacher_stays(teacher, data):
    found = recover(teacher.graph, teacher.graph, data, SETTINGS)
    assert not found.modified
    assert found.losses[0] == pytest.approx(0, abs=1e-6)
    assert content(found.graph) == content(teacher.graph.copy())


def test_the_start_is_kept_where_training_harms(teacher, data, pruned):
    graph, kept = pruned
    found = recover(graph, teacher.graph, data, Recovery(epochs=2, batch=8, rate=10.0), kept=kept)
    assert found.losses[0] == min(found.losses)
    assert not found.modified
    assert content(found.graph) == content(graph)


def test_fewer_samples_than_a_batch_are_one_batch(teacher, data, pruned):
    graph, kept = pruned
    found = recover(graph, teacher.graph, data.first(9), Recovery(4, batch=16), kept=kept)
    assert len(found.losses) == 5
    assert found.losses[4] < found.losses[0]


def test_no_epochs_is_no_change(teacher, data, pruned):
    found = recover(pruned[0], teacher.graph, data, Recovery(0))
    assert not found.modified
    assert content(found.graph) == content(pruned[0])


def test_a_run_repeats_itself_and_the_seed_matters(teacher, data, pruned):
    graph, kept = pruned
    runs = [
        recover(graph, teacher.graph, data, Recovery(1, batch=8, seed=seed), kept=kept, threads=1) for seed in (0, 0, 1)
    ]
    assert content(runs[0].graph) == content(runs[1].graph) != content(runs[2].graph)
    assert runs[0].losses == runs[1].losses


@pytest.mark.parametrize("settings", [SETTINGS, Recovery(3, batch=8, augment=("flip", "crop"))])
def test_a_killed_run_ends_in_the_same_bytes(teacher, data, pruned, settings, tmp_path, monkeypatch):
    graph, kept = pruned
    whole = recover(graph, teacher.graph, data, settings, kept=kept, threads=1)
    file, epochs = tmp_path / "checkpoint.npz", []

    def epoch(self, state, *given, run=Trainer._round):
        before, number = list(epochs), len(state.losses) - 1
        epochs.append(number)
        if before == [0, 1]:
            raise Killed
        run(self, state, *given)

    monkeypatch.setattr(Trainer, "_round", epoch)
    with pytest.raises(Killed):
        recover(graph, teacher.graph, data, settings, kept=kept, threads=1, checkpoint=file)
    resumed = recover(graph, teacher.graph, data, settings, kept=kept, threads=1, checkpoint=file)
    again = recover(graph, teacher.graph, data, settings, kept=kept, threads=1, checkpoint=file)
    assert epochs == [0, 1, 2, 2]
    assert content(resumed.graph) == content(again.graph) == content(whole.graph)
    assert resumed.losses == again.losses == whole.losses


def test_auto_comes_closer_says_how_and_repeats_itself(teacher, data, pruned):
    graph, kept = pruned
    found = recover(graph, teacher.graph, data, Recovery("auto", seed=1), kept=kept, threads=1)
    again = recover(graph, teacher.graph, data, Recovery("auto", seed=1), kept=kept, threads=1)
    assert content(found.graph) == content(again.graph)
    assert distance(found.graph, teacher) < 0.3 * distance(graph, teacher)
    assert "up to 30 epochs of 144 samples, 16 at a time" in found.notes[-1]
    assert "augmentation: shifts (" in found.notes[-1]


def test_auto_ends_where_the_loss_does_not_fall_any_more(teacher, data, pruned, tmp_path, monkeypatch):
    """Rounds without a better loss halve what is left; its rate still falls to 0. Interruptions change nothing."""
    graph, kept = pruned
    few, file, rates, rounds = data.first(24), tmp_path / "kept.npz", [], []
    settings = Recovery("auto", rate=10.0, batch=4)

    def rate(step, steps, peak):
        rates.append(cosine(step, steps, peak) / peak)
        return cosine(step, steps, peak)

    monkeypatch.setattr(trainer, "cosine", rate)
    monkeypatch.setattr(schedule, "ROUND", 10)  # 2 of the 5 steps of an epoch
    found = recover(graph, teacher.graph, few, settings, kept=kept, threads=1)
    assert 2 * PATIENCE < len(found.losses) - 1 < 50
    assert "because the loss had stopped falling" in found.notes[0]
    assert rates[-1] == min(rates) < 0.02

    def killed(self, state, *given, run=Trainer._round):
        rounds.append(state.skipped)
        if len(rounds) == len(found.losses) - 1:
            raise Killed
        run(self, state, *given)

    monkeypatch.setattr(Trainer, "_round", killed)
    with pytest.raises(Killed):
        recover(graph, teacher.graph, few, settings, kept=kept, threads=1, checkpoint=file)
    again = recover(graph, teacher.graph, few, settings, kept=kept, threads=1, checkpoint=file)
    assert rounds[-1] == rounds[-2] > 0
    assert again.losses == found.losses
    assert again.notes == found.notes


def test_rounds_within_an_epoch_see_every_sample_once(teacher, data, pruned, monkeypatch):
    seen = []

    def spied(self, steps, run=Trainer._rows):
        for step, rows in run(self, steps):
            seen.append((step, rows.tolist()))
            yield step, rows

    monkeypatch.setattr(Trainer, "_rows", spied)
    monkeypatch.setattr(schedule, "ROUND", 10)
    recover(pruned[0], teacher.graph, data.first(24), Recovery("auto", batch=4, share=0.1), threads=1)
    assert [step for step, _ in seen] == list(range(15))
    for epoch in range(3):
        rows = [row for _, rows in seen[5 * epoch : 5 * epoch + 5] for row in rows]
        assert len(set(rows)) == 20
        assert rows != sorted(rows)


@pytest.fixture
def ticking(monkeypatch):
    """A clock by which every look at it takes a second."""
    now = count(1.0)
    for module in ("passes.recover", "recovery.trainer"):
        monkeypatch.setattr(f"hqp_onnx.{module}.perf_counter", lambda: next(now))


def test_a_time_ends_it_and_its_learning_rate(teacher, data, pruned, monkeypatch, ticking):
    """The rate rises, and falls to nearly 0 as the time ends."""
    rates = []

    def rate(step, steps, peak):
        rates.append(cosine(step, steps, peak) / peak)
        return cosine(step, steps, peak)

    monkeypatch.setattr(trainer, "cosine", rate)
    graph, kept = pruned
    found = recover(graph, teacher.graph, data, Recovery("auto", seconds=80.0), kept=kept, threads=1)
    assert 20 < len(rates) < 60
    assert max(rates) > 0.95
    assert rates[-1] < 0.02
    assert rates[-1] == min(rates[5:])
    assert found.modified
    assert "because the time was over" in found.notes[0]


def test_an_interrupted_time_goes_on_where_it_ended(teacher, data, pruned, tmp_path, monkeypatch):
    graph, kept = pruned
    file, settings, rounds = tmp_path / "checkpoint.npz", Recovery(200, batch=8, seconds=2.0), []

    def killed(self, state, *given, run=Trainer._round):
        rounds.append(state.seconds)
        if len(rounds) == 3:
            raise Killed
        run(self, state, *given)

    monkeypatch.setattr(Trainer, "_round", killed)
    with pytest.raises(Killed):
        recover(graph, teacher.graph, data, settings, kept=kept, threads=1, checkpoint=file)
    found = recover(graph, teacher.graph, data, settings, kept=kept, threads=1, checkpoint=file)
    assert rounds[3] == rounds[2] > rounds[1] > rounds[0]
    assert "because the time was over" in found.notes[0]
    assert min(found.losses) < found.losses[0]


def test_more_time_goes_on_from_a_checkpoint(teacher, data, pruned, tmp_path, ticking):
    """What ended in less goes on; in as much time or less it stays as it is, and so does what was judged already."""

    def trained(seconds, **given):
        settings, file = Recovery("auto", seconds=seconds), tmp_path / "checkpoint.npz"
        found = recover(pruned[0], teacher.graph, data, settings, threads=1, checkpoint=file, **given)
        return found.losses, found.notes[0]

    short = trained(80.0)
    assert "the time was over" in short[1]
    assert trained(80.0) == trained(300.0, final=True) == short
    longer = trained(300.0)
    assert longer[0][: len(short[0])] == short[0]
    assert min(longer[0]) < min(short[0])
    assert trained(80.0)[0] == longer[0]


@pytest.mark.parametrize("epochs", ["auto", 1])
def test_a_time_goes_on_from_a_checkpoint_without_one(teacher, data, pruned, tmp_path, epochs):
    few, file = data.first(24), tmp_path / "checkpoint.npz"
    for seconds, more in ((None, 1), (60.0, 5), (None, 1)):
        settings = Recovery(epochs, batch=4, share=0.04, seconds=seconds)
        found = recover(pruned[0], teacher.graph, few, settings, threads=1, checkpoint=file)
        assert f"of the {more if epochs == 'auto' else 1} epochs trained" in found.notes[0]


def test_samples_are_read_as_they_are_used(teacher, data, pruned):
    """Of 4,000 samples, never more than a few batches are in memory."""
    alive, most, rows = [0], [0], small_data(16)["input"]

    class Endless(Derived):
        source, count = data.source, 4_000

        def rows(self, start, stop):
            values = np.ascontiguousarray(rows[np.arange(start, stop) % 16])
            alive[0] += stop - start
            most[0] = max(most[0], alive[0])
            weakref.finalize(values, lambda: alive.__setitem__(0, alive[0] - (stop - start)))
            return Batch({"input": values}, {})

    settings = Recovery(1, batch=100, held_out=0.05)
    recover(pruned[0], teacher.graph, data.only(Endless()), settings, kept=pruned[1])
    assert alive[0] < 200
    assert 100 <= most[0] < 1000


def test_a_checkpoint_of_another_run_is_not_used(teacher, data, pruned, tmp_path):
    graph, kept = pruned
    file = tmp_path / "checkpoint.npz"
    recover(graph, teacher.graph, data, Recovery(1, batch=8, seed=5), kept=kept, threads=1, checkpoint=file)
    other = recover(graph, teacher.graph, data, Recovery(1, batch=8), kept=kept, threads=1, checkpoint=file)
    fresh = recover(graph, teacher.graph, data, Recovery(1, batch=8), kept=kept, threads=1)
    assert content(other.graph) == content(fresh.graph)
    file.write_bytes(b"no archive")
    with pytest.raises(DataError, match="remove it"):
        recover(graph, teacher.graph, data, Recovery(1, batch=8), kept=kept, checkpoint=file)


def regressor(batch="n"):
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[{batch},6] x)
      => (float[{batch},3] y, float[{batch},8] h) {{ a = MatMul(x, w) h = Tanh(a) b = MatMul(h, v) y = Add(b, c) }}"""
    model, rng = onnx.parser.parse_model(text), np.random.default_rng(2)
    for name, shape in {"w": (6, 8), "v": (8, 3), "c": (3,)}.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    return model


@pytest.mark.parametrize("batch", ["n", "4"])
def test_outputs_that_are_no_classes_and_a_fixed_batch(batch):
    teacher = open_model(regressor(batch))
    x = np.random.default_rng(1).standard_normal((90, 6)).astype(np.float32)
    student = teacher.graph.copy()
    tensors = student.tensors()
    tensors["w"].values = tensors["w"].values * np.float32(0.6)
    found = recover(student, teacher.graph, open_data(teacher, {"x": x}), Recovery(8, batch=8, rate=0.1))
    assert min(found.losses) < 0.1 * found.losses[0]
    fresh = np.random.default_rng(5).standard_normal((4, 6)).astype(np.float32)
    want, before, after = (Session(to_proto(g)).run({"x": fresh}) for g in (teacher.graph, student, found.graph))
    for name in ("y", "h"):
        assert np.square(after[name] - want[name]).sum() < 0.2 * np.square(before[name] - want[name]).sum()


def test_refusals(teacher, data):
    with pytest.raises(DataError, match="1 sample is too few"):
        recover(teacher.graph, teacher.graph, data.first(1), SETTINGS)
    vectors = open_model(regressor())
    rows = open_data(vectors, {"x": np.ones((20, 6), np.float32)})
    with pytest.raises(UsageError, match="augment is for images"):
        recover(vectors.graph, vectors.graph, rows, Recovery(1, augment=("flip",)))
    renamed = vectors.graph.copy()
    renamed.outputs[0].name = "z"
    with pytest.raises(GradientError, match="teacher has no output 'z'"):
        recover(renamed, vectors.graph, rows, SETTINGS)
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[n,3,3] x) => (float[n] y) { a = MatMul(x, w) y = Det(a) }'
    odd = onnx.parser.parse_model(text)
    odd.graph.initializer.append(numpy_helper.from_array(np.eye(3, dtype=np.float32), "w"))
    model = open_model(odd)
    squares = open_data(model, {"x": np.random.default_rng(0).standard_normal((40, 3, 3)).astype(np.float32)})
    with pytest.raises(GradientError, match=r"recovery: Det node .* leave out recover"):
        check_recoverable(model.graph, squares, SETTINGS)


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": -1}, {"batch": 0}, {"rate": 0}, {"held_out": 1.0}, {"loss": "l1"}, {"augment": ("rotate",)}],
)
def test_settings_are_checked(wrong):
    with pytest.raises(UsageError):
        Recovery(**{"epochs": 1, **wrong})


@pytest.mark.parametrize("turn", ["z = Transpose <perm = [1, 0, 2]> (k)", "z = Identity (k)"])
@pytest.mark.parametrize("int8", [False, True])
def test_recurrent_networks_are_trained(turn, int8):
    """Both weights of the steps, with samples or steps first in the output; as floats and as integers."""
    text = f"""<ir_version: 8, opset_import: ["": 17]> g (float[n, 6, 4] x) => (float[a, b, 3] z) {{
      t = Transpose <perm = [1, 0, 2]> (x)
      y, h = GRU <hidden_size = 12> (t, w, r, b)
      s = Squeeze (y, one)
      k = MatMul (s, v)
      {turn} }}"""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(1)
    shapes = {"w": (1, 36, 4), "r": (1, 36, 12), "b": (1, 72), "v": (12, 3)}
    values = {name: rng.standard_normal(shape).astype(np.float32) / 2 for name, shape in shapes.items()}
    model.graph.initializer.extend(numpy_helper.from_array(x, name) for name, x in values.items())
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    teacher = open_model(model, threads=1)
    data = open_data(teacher, {"x": rng.standard_normal((96, 6, 4)).astype(np.float32)})
    channels = teacher.channels()
    student = prune_channels(teacher.graph, channels, PruningPlan(channels.prunable[:4])).graph
    student = compress_weights(student).graph if int8 else student
    found = recover(student, teacher.graph, data, SETTINGS)
    before, after = (
        {name: t.values for name, t in g.tensors().items() if isinstance(t, gs.Constant)}
        for g in (student, found.graph)
    )
    changed = {name for name, x in before.items() if not np.array_equal(x, after[name])}
    assert min(found.losses) < 0.7 * found.losses[0]
    wanted = {"w/int8", "r/int8"} if int8 else {"w", "r", "b", "v"}
    assert wanted <= changed, changed


def test_other_weights_are_a_start_where_they_do_better(teacher, data, pruned, tmp_path):
    """What another training found is gone on from, at the start and with more time; worse weights are not."""
    graph, kept = pruned
    given = {name: t.values for name, t in graph.tensors().items() if isinstance(t, gs.Constant)}
    longer = recover(graph, teacher.graph, data, Recovery(6, batch=8), kept=kept, threads=1)
    after = longer.graph.tensors()
    better = {name: after[name].values for name in given if name in after}
    worse = {name: x + np.float32(3) for name, x in given.items() if x.dtype == np.float32}
    short = Recovery(1, batch=8)
    plain, same, carried = (
        recover(graph, teacher.graph, data, short, kept=kept, threads=1, other=other) for other in (None, worse, better)
    )
    assert content(plain.graph) == content(same.graph)
    assert carried.losses[:2] == (plain.losses[0], pytest.approx(min(longer.losses), rel=1e-5))
    assert min(carried.losses) < min(plain.losses)

    def trained(seconds, other=None, final=False):
        settings, file = Recovery(1, batch=8, seconds=seconds), tmp_path / "checkpoint.npz"
        return recover(
            graph, teacher.graph, data, settings, kept=kept, threads=1, checkpoint=file, other=other, final=final
        )

    first = trained(100.0)
    moved = trained(200.0, better)
    assert moved.losses[: len(first.losses) + 1] == (*first.losses, pytest.approx(min(longer.losses), rel=1e-5))
    again = trained(300.0, worse, final=True)
    assert again.losses == moved.losses
    assert content(again.graph) == content(moved.graph)


def test_weights_in_double_are_not_trained():
    text = """<ir_version: 8, opset_import: ["": 17]> g (double[n,4] x) => (double[n,2] y) { y = MatMul (x, w) }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, 2)), "w"))
    with pytest.raises(GradientError, match="recovery: the model has no weights in float32"):
        hqp_onnx.recover(model, model, {"x": np.ones((30, 4))})
