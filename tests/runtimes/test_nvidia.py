"""onnxruntime's CUDA provider: how it is asked, with fakes; what it computes and takes, with a GPU (marker gpu)."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx.parser
import onnx.printer
import onnxruntime as ort
import pytest
from command import hqp
from conftest import MODELS
from small_model import small_data, small_model

from hqp_onnx.allocation.times import KERNELS
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.errors import HqpError, MissingRuntimeError, ModelError
from hqp_onnx.gradients.per_sample import Kind, PerSample
from hqp_onnx.job.options import Options
from hqp_onnx.model import open_data, open_model
from hqp_onnx.passes.recover import recover
from hqp_onnx.recovery import Recovery
from hqp_onnx.runtimes import nvidia
from hqp_onnx.runtimes.nvidia import CUDA, LAUNCHES, BoundRun
from hqp_onnx.runtimes.runtime import OnnxRuntime
from hqp_onnx.runtimes.session import CPU, Session, set_provider, timed_run, work_provider, work_session
from hqp_onnx.runtimes.targets import target
from hqp_onnx.statistics.calibration import calibrate
from hqp_onnx.statistics.moments import input_moments
from hqp_onnx.steps.evaluate import evaluate_model
from hqp_onnx.steps.optimize import optimize

MODEL = onnx.parser.parse_model(
    '<ir_version: 8, opset_import: ["" : 17]> g (float[n,3] x) => (float[n,3] y) { h = Neg(x) y = Relu(h) }'
)
T = TypeVar("T")
FEEDS = {"x": np.arange(6, dtype=np.float32).reshape(2, 3) - 3}


class OnCuda:
    """An InferenceSession that says that it runs on CUDA, and remembers how it was asked."""

    asked: list[Any]

    def __init__(self, source: Any, options: Any, providers: list[Any], enable_fallback: int) -> None:
        self.asked.append(providers)
        if "enable_cuda_graph" in dict(p for p in providers if isinstance(p, tuple)).get(CUDA, {}) and not self.records:
            raise RuntimeError("not all nodes are on the GPU")
        self._real = REAL(source, options, providers=[CPU])

    records = False

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


REAL = ort.InferenceSession


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """How sessions were opened, on a machine whose onnxruntime seems to have CUDA."""
    monkeypatch.setattr(OnCuda, "asked", [], raising=False)
    monkeypatch.setattr(ort, "InferenceSession", OnCuda)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    return OnCuda.asked


def test_work_is_exact_and_a_targets_session_records_where_it_can(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = Session(MODEL, provider=CUDA, exact=True)
    assert asked[-1][0][1]["use_tf32"] == "0" and len(asked) == 1
    assert exact.run(FEEDS)["y"].tolist() == np.maximum(-FEEDS["x"], 0).tolist()
    asked.clear()
    Session(MODEL, provider=CUDA)  # some nodes are not on the GPU
    assert asked == [[(CUDA, {"enable_cuda_graph": "1"}), CPU], [CUDA, CPU]]
    asked.clear()
    monkeypatch.setattr(OnCuda, "records", True)
    Session(MODEL, provider=CUDA)
    assert len(asked) == 1


@pytest.mark.parametrize("records", [True, False])
def test_runs_are_bound_and_recorded_where_that_works(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch, records: bool
) -> None:
    monkeypatch.setattr(OnCuda, "records", records)
    session, wanted = Session(MODEL, provider=CUDA), list[int | None]()

    def bind(ort: Any, session: Any, feeds: Any, outputs: Any, recording: int | None) -> BoundRun:
        wanted.append(recording)
        if recording is not None:
            raise ModelError("the run cannot be recorded")
        return BoundRun(lambda: "bound", {})

    with monkeypatch.context() as patched:
        patched.setattr(nvidia, "bind", bind)
        assert timed_run(session, FEEDS)() == "bound"
        assert timed_run(session, FEEDS)() == "bound"
    assert wanted == ([1, None, 2, None] if records else [None, None])  # a number for every graph
    assert (
        timed_run(session, FEEDS)()["y"].tolist() == np.maximum(-FEEDS["x"], 0).tolist()
    )  # there is no GPU to bind to


def test_a_short_batch_and_the_cpu_are_run_as_ever(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = onnx.parser.parse_model(onnx.printer.to_text(MODEL).replace("float[n,3]", "float[4,3]"))
    monkeypatch.setattr(nvidia, "bind", None)
    assert timed_run(Session(fixed, provider=CUDA), FEEDS)()["y"].shape == (2, 3)
    assert timed_run(Session(MODEL), FEEDS)()["y"].shape == (2, 3)


def test_launches_are_no_times_of_kernels() -> None:
    assert all(OnnxRuntime(provider).kernels(MODEL, FEEDS, 1, 3) == [] for provider in LAUNCHES)
    assert OnnxRuntime(CPU).kernels(MODEL, FEEDS, 1, 3)


def test_mixed_is_float16_on_cuda(tmp_path: Path) -> None:
    chosen = Options(small_model(), small_data(), small_data(), tmp_path / "out", target="cuda")
    assert (chosen.narrow, Options(small_model(), *[small_data()] * 2, tmp_path / "out").narrow) == ("fp16", "int8")
    assert target("onnxruntime:CUDAExecutionProvider").mixes == "fp16"
    assert target("onnxruntime:TensorrtExecutionProvider").mixes == target("tensorrt").mixes == "int8"


def test_the_main_job_mixes_float16_where_its_target_says_so(tmp_path: Path) -> None:
    file = tmp_path / "half.py"
    file.write_text(
        "from dataclasses import replace\nfrom hqp_onnx.runtimes.targets import target\n"
        "half = replace(target('onnxruntime'), name='half', mixes='fp16')\n"
    )
    chosen: dict[str, Any] = {"objective": "sparsity", "saliency": "l2", "compensate": False, "step": 0.2, "batch": 4}
    data = small_data(64)
    report = optimize(
        Options(small_model(), data, data, tmp_path / "out", target=f"{file}:half", max_drop=0.3, **chosen)
    )
    assert report.files["hqp"] == "fp16.onnx" and "q8_only" not in report.rows
    assert report.budget_met and report.request.narrow == "fp16"
    assert any("batches of 4 samples" in note for note in report.notes)


def test_work_runs_on_the_provider_that_was_set(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(provider: str | None) -> str:
        set_provider(provider)
        return work_provider()

    assert copy_context().run(chosen, CUDA) == CUDA and work_provider() == CPU
    monkeypatch.setenv("HQP_PROVIDER", CUDA)
    assert work_provider() == CUDA and copy_context().run(chosen, CPU) == CPU
    work_session(MODEL)
    assert asked[-1][0][0] == CUDA
    with pytest.raises(MissingRuntimeError, match="no NoExecutionProvider here"):
        copy_context().run(chosen, "NoExecutionProvider")


def test_a_provider_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ("score", str(MODELS / "resnet18.onnx"), "--data", str(MODELS / "fashion_mnist_calib.npz"))
    assert hqp(monkeypatch, *command, "-o", str(tmp_path / "s.npz"), "--provider", "NoExecutionProvider") == 2
    assert capfd.readouterr().err.startswith("error: onnxruntime has no NoExecutionProvider here, only ")


@pytest.fixture(scope="module")
def cuda() -> None:
    """Skips where onnxruntime cannot compute on a GPU."""
    try:
        Session(MODEL, provider=CUDA)
    except HqpError as e:
        pytest.skip(str(e))


def few(model: Path, count: int) -> tuple[onnx.ModelProto, Dataset]:
    opened = open_model(model)
    return onnx.load(model), open_data(opened, str(MODELS / "fashion_mnist_calib.npz")).first(count)


def on_both(work: Callable[[], T]) -> tuple[T, T]:
    """What ``work`` gives on the CPU, and on the GPU."""

    def on(provider: str) -> T:
        set_provider(provider)
        return work()

    cpu, gpu = (copy_context().run(on, provider) for provider in (CPU, CUDA))
    return cpu, gpu


def assert_near(found: Any, expected: Any) -> None:
    """Equal to 1e-4 of the largest."""
    assert np.abs(np.subtract(found, expected)).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.gpu
@pytest.mark.parametrize("kind", PerSample.kinds)
def test_gradients_are_those_of_the_cpu(cuda: None, bundled: Path, kind: Kind) -> None:
    model, data = few(bundled, 32)
    images, labels = data.rows(0, 32).feeds["input"], np.arange(32) % 10
    noise = np.random.default_rng(0).uniform(0, 1, images.shape)  # grounds of one colour make ties in poolings
    feeds = {"input": np.asarray(images + noise, np.float32)}
    expected, found = on_both(lambda: PerSample(model, data.rows(0, 1).feeds, kind=kind)(feeds, labels))
    wanted, values = (np.concatenate(list(of.values()), axis=1) for of in (expected, found))
    errors = np.linalg.norm(values - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
    assert np.quantile(errors, 0.9) <= 1e-4  # of the others, a ReLU's input is 0 but for rounding


@pytest.mark.gpu
def test_moments_and_ranges_are_those_of_the_cpu(cuda: None, bundled: Path) -> None:
    model, data = few(bundled, 256)
    expected, found = on_both(lambda: input_moments(model, None, data))
    for name, moments in expected.items():
        assert_near(found[name].gram, moments.gram)
    tensors = [node.output[0] for node in model.graph.node if node.op_type == "Conv"]
    wanted, ranges = on_both(lambda: calibrate(model, tensors, data, method="minmax").ranges)
    for name, limits in wanted.items():
        assert_near([ranges[name].lo, ranges[name].hi], [limits.lo, limits.hi])


@pytest.mark.gpu
def test_recovery_learns_the_same(cuda: None) -> None:
    model = open_model(small_model())
    data = open_data(model, small_data(200))
    student = open_model(perturbed(small_model())).graph
    expected, found = on_both(lambda: recover(student, model.graph, data, Recovery(2, batch=32)).losses)
    assert expected[-1] < expected[0]
    np.testing.assert_allclose(found, expected, rtol=1e-2)  # rounding is amplified from step to step


def perturbed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Its first convolution is 10 % too large."""
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w1")
    weight.CopyFrom(onnx.numpy_helper.from_array(np.float32(1.1) * onnx.numpy_helper.to_array(weight), "w1"))
    return model


@pytest.mark.gpu
@pytest.mark.parametrize("recorded", [False, True])
def test_bound_and_recorded_runs_compute_what_others_do(cuda: None, bundled: Path, recorded: bool) -> None:
    data = few(bundled, 16)[1]
    session = Session(bundled, provider=CUDA)
    for feeds in (data.rows(0, 8).feeds, data.rows(8, 12).feeds):
        expected = session.run(feeds)["logits"]
        run = session.bound(feeds)
        assert isinstance(run, BoundRun) and session.records
        if not recorded:
            run = nvidia.bind(ort, ort.InferenceSession(str(bundled), providers=[CUDA]), feeds, ["logits"], None)
        for _ in range(3):
            run()
        assert_near(run.outputs()["logits"], expected)
        assert_near(session.run(feeds)["logits"], expected)  # ordinary runs go on beside a recording


@pytest.mark.gpu
def test_evaluation_gives_the_accuracy_of_the_cpu(cuda: None, bundled: Path) -> None:
    data = str(MODELS / "fashion_mnist_val.npz")
    expected, found = (evaluate_model(bundled, data, "top1", target_name=name) for name in ("onnxruntime", "cuda"))
    assert abs(found.metric - expected.metric) <= 1e-3  # TF32


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["mixed", "fp32"])
def test_the_main_job_runs_on_the_gpu(cuda: None, tmp_path: Path, precision: str) -> None:
    options = Options(
        small_model(),
        small_data(64),
        small_data(64),
        tmp_path / "out",
        target="cuda",
        precision=precision,
        max_drop=0.3,
        batch=4,
        multiple_of=4,
    )
    report = on_both(lambda: optimize(replace(options, output=tmp_path / work_provider())))[1]
    assert report.rows[report.ships].latency_ms > 0
    assert report.settings["provider"] == CUDA
    assert any("batches of 4" in note for note in report.notes)
    assert not any(f"times of {KERNELS}" in note for note in report.notes)
