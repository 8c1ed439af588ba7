"""The onnxruntime-training engine: how it is installed and fails, and its numbers where it is installed."""

import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from scored import scored
from small_net import array, build

from hqp_onnx.data.batch import Batch
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.memory import ArraySource
from hqp_onnx.errors import DataError, GradientError, MissingRuntimeError
from hqp_onnx.gradients import PerSample, filter_weights
from hqp_onnx.gradients.training import engine as ort_training
from hqp_onnx.gradients.training import install as ort_install
from hqp_onnx.runtimes.session import Session

MODELS = Path(os.environ.get("HQP_MODELS", Path(__file__).parents[3] / "models"))
DATA = Path(__file__).parents[3] / "models" / "fashion_mnist_calib.npz"
installed = pytest.mark.skipif(ort_training.find() is None, reason="onnxruntime-training is not installed")


def samples(shape, count=5):
    rng = np.random.default_rng(3)
    return rng.standard_normal((count, *shape)).astype(np.float32), rng.integers(0, 3, count)


SMALL = ("c = Conv (x, w) r = Relu (c) g = GlobalAveragePool (r) f = Flatten (g) z = Gemm (f, v)", (2, 5, 5))
WEIGHTS = {"w": array(4, 2, 3, 3), "v": array(4, 3)}


def fake(folder, module):
    """A folder that looks like an installation, whose native module is ``module``."""
    (folder / "onnxruntime" / "capi").mkdir(parents=True)
    (folder / "onnxruntime_training_cpu-1.19.2.dist-info").mkdir()
    session = "def set_default_logger_severity(n): pass\ndef get_available_providers(): return []\n"
    session += "class SessionOptions: pass\nclass InferenceSession:\n    def __init__(self, *a, **k): pass\n"
    session += "    def run(self, *a):\n        import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n"
    (folder / "onnxruntime" / "__init__.py").write_text(session)
    (folder / "onnxruntime" / "capi" / "__init__.py").write_text("")
    (folder / "onnxruntime" / "capi" / "_pybind_state.py").write_text(module)
    return folder


BUILDER = "class GradientGraphBuilder:\n    def __init__(self, *a): pass\n    def get_model(self): return b''\n"


def test_missing_package_names_the_command(tmp_path):
    model = build(*SMALL, WEIGHTS)
    assert ort_training.find(tmp_path) is None
    with pytest.raises(MissingRuntimeError, match="hqp setup training"):
        ort_training.TrainingPerSample(model, {"x": samples(SMALL[1])[0]}, directory=tmp_path)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("import os; os._exit(3)", r"ended with exit code 3: .*`hqp setup training`"),
        (BUILDER + "    def build(self):\n        print('noise on stdout')\n", r"worker ended by signal 9"),
        ("import sys; sys.exit('no libstdc++')", r"ended with exit code 1 \(no libstdc\+\+\)"),
        ("raise ImportError('wrong glibc')", r"ImportError: wrong glibc\. Use engine native"),
        (
            BUILDER
            + "    def build(self):\n        raise RuntimeError('builder has not been registered: Elu for node e')",
            r"^Elu node 'e' has no gradient in onnxruntime-training: use engine native$",
        ),
    ],
)
def test_a_worker_that_dies_is_one_error(tmp_path, module, message):
    folder = fake(tmp_path / "training", module)
    x, labels = samples(SMALL[1])
    with (
        pytest.raises(GradientError, match=message) as caught,
        ort_training.TrainingPerSample(build(*SMALL, WEIGHTS), {"x": x}, directory=folder) as net,
    ):
        net({"x": x}, labels)
    assert "\n" not in str(caught.value)


def wheel(folder):
    """An empty package of the right name and version, for pip to install without a network."""
    info = "onnxruntime_training_cpu-1.19.2.dist-info"
    with zipfile.ZipFile(folder / "onnxruntime_training_cpu-1.19.2-py3-none-any.whl", "w") as file:
        file.writestr("onnxruntime/__init__.py", "")
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: onnxruntime-training-cpu\nVersion: 1.19.2\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


@pytest.mark.skipif(sys.version_info[:2] > ort_install.NEWEST_PYTHON, reason="refused for this Python")
def test_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("HQP_TRAINING", str(tmp_path / "a" / "b"))
    with pytest.raises(MissingRuntimeError, match=r"pip cannot install onnxruntime-training-cpu==1\.19") as caught:
        ort_training.install()
    assert "\n" not in str(caught.value) and not list((tmp_path / "a").iterdir())
    wheel(tmp_path)
    assert ort_training.install() == ort_training.find() == tmp_path / "a" / "b"
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert ort_training.install() == tmp_path / "a" / "b"  # found, so pip is not asked


def test_install_keeps_what_is_not_its_own(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(MissingRuntimeError, match="holds something else" if supported() else "no wheel"):
        ort_training.install(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def supported():
    return sys.version_info[:2] <= ort_install.NEWEST_PYTHON


def test_newer_python_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(ort_install, "NEWEST_PYTHON", (3, 8))
    with pytest.raises(MissingRuntimeError, match=r"has no wheel for Python 3\.\d+: expected 3\.8 or older"):
        ort_training.install(tmp_path / "new")


def test_directory(monkeypatch, tmp_path):
    monkeypatch.delenv("HQP_TRAINING", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    folder = ort_training.install_directory()
    assert folder.parent == tmp_path / "hqp_onnx" and sys.implementation.cache_tag in folder.name
    monkeypatch.setenv("HQP_TRAINING", str(tmp_path / "here"))
    assert ort_training.install_directory() == tmp_path / "here"


def relative(got, want):
    """Worst difference, relative to the largest value of each weight."""
    assert got.keys() == want.keys()
    return max(np.abs(got[name] - want[name]).max() / max(want[name].max(), 1e-30) for name in want)


@installed
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_bundled_models_agree_with_native_and_torch(name):
    model = onnx.load(MODELS / f"{name}.onnx")
    with np.load(DATA) as data:
        arrays, labels = {"input": data["input"][:8]}, data["labels"][:8].astype(np.int64)
    data = Dataset(ArraySource("calib", arrays, labels), Session(model).inputs, batch_size=3)
    seen = []
    got = scored(model, data, engine="ort-training", progress=lambda *state: seen.append(state))
    assert seen == [(3, 8), (6, 8), (8, 8)]
    assert all(values.dtype == np.float64 for values in got.values())
    assert relative(got, scored(model, data)) <= 1e-4
    taylor = scored(model, data, engine="ort-training", saliency="taylor")
    assert relative(taylor, scored(model, data, saliency="taylor")) <= 1e-4
    torch = pytest.importorskip("torch")
    from gradients.onnx_in_torch import filter_norms, sample_gradients

    torch.set_num_threads(1)
    axes, feeds = filter_weights(model), {"input": arrays["input"].astype(np.float32)}
    norms = filter_norms(sample_gradients(model, feeds, labels, list(axes)), axes)
    assert relative(got, {name: values.mean(0) for name, values in norms.items()}) <= 1e-4


HEAD = "z = Gemm (f, v)"
NETWORKS = {
    "grouped, biased": (
        "c = Conv <group = 2, pads = [1, 1, 1, 1], strides = [2, 2]> (x, w, b) t = Tanh (c) f = Flatten (t) " + HEAD,
        (4, 5, 6),
        {"w": array(6, 2, 3, 3), "b": array(6, 1)[:, 0], "v": array(54, 3)},
    ),
    "overlapping pool": (
        "c = Conv (x, w) "
        "p = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (c) f = Flatten (p) " + HEAD,
        (2, 9, 9),
        {"w": array(3, 2, 3, 3), "v": array(48, 3)},
    ),
    "gemm": (
        "h = Gemm <alpha = 0.5, beta = 2.0> (x, w, b) t = Sigmoid (h) z = Gemm <transB = 1> (t, v, a)",
        (5,),
        {"w": array(5, 4), "b": array(4, 1)[:, 0], "v": array(3, 4), "a": array(3, 1)[:, 0]},
    ),
    "tokens": (
        "a = MatMul (x, w) t = Tanh (a) m = ReduceMean <axes = [1], keepdims = 0> (t) "
        "y = MatMul (m, v) z = Softmax (y)",
        (5, 4),
        {"w": array(4, 6), "v": array(6, 3)},
    ),
    "rows merged": (
        "r = Reshape (x, two) a = Gemm (r, w, b) t = Tanh (a) s = Reshape (t, back) z = MatMul (s, v)",
        (5, 4),
        {
            "w": array(4, 6),
            "b": array(6, 1)[:, 0],
            "v": array(30, 3),
            "two": np.array([-1, 4]),
            "back": np.array([-1, 30]),
        },
    ),
    "shared": (
        "a = Conv <pads = [1, 1, 1, 1]> (x, w) r = Tanh (a) c = Conv <strides = [2, 2]> (r, w) f = Flatten (c) " + HEAD,
        (3, 5, 6),
        {"w": array(3, 3, 3, 3), "v": array(12, 3)},
    ),
    "off the path": ("z = MatMul (x, w) u = MatMul (z, d)", (4,), {"w": array(4, 3), "d": array(3, 3)}),
    "lowered": (
        "c = Conv (x, w) e = Elu (c) n = InstanceNormalization (e, s, s) g = GlobalMaxPool (n) f = Flatten (g) " + HEAD,
        (2, 6, 5),
        {"w": array(4, 2, 3, 3), "s": np.array([1, 2, 0.5, 1], np.float32), "v": array(4, 3)},
    ),
}


@installed
@pytest.mark.parametrize(("name", "batch"), [*((name, "N") for name in NETWORKS), ("overlapping pool", 3)])
def test_small_networks_agree_with_native(name, batch):
    body, shape, weights = NETWORKS[name]
    model = build(body, shape, weights, batch)
    x, labels = samples(shape, 3)
    for kind in ("fisher", "taylor"):
        want = PerSample(model, {"x": x}, kind=kind)({"x": x}, labels)
        with ort_training.TrainingPerSample(model, {"x": x}, kind=kind) as net:
            got = net({"x": x}, labels)
            short = net({"x": x[:1]}, labels[:1])
        assert relative(got, want) <= 2e-5, kind
        assert all(np.allclose(short[key], got[key][:1], rtol=1e-5, atol=1e-9) for key in got)


@installed
def test_drawn_labels_are_those_of_native():
    x, _ = samples(SMALL[1], 9)
    model = build(*SMALL, WEIGHTS)
    data = Dataset(ArraySource("x", {"x": x}), Session(model).inputs, batch_size=4)
    assert relative(scored(model, data, seed=5, engine="ort-training"), scored(model, data, seed=5)) <= 1e-5
    assert relative(scored(model, data, seed=5, engine="ort-training"), scored(model, data, seed=6)) > 1e-3


@installed
def test_resumes_to_the_same_bits(tmp_path):
    x, labels = samples(SMALL[1], 9)
    model = build(*SMALL, WEIGHTS)
    data = Dataset(ArraySource("x", {"x": x}, labels), Session(model).inputs, batch_size=4)

    def stop(done, total):
        if done == 8:
            raise KeyboardInterrupt

    file = tmp_path / "partial"
    with pytest.raises(KeyboardInterrupt):
        scored(model, data, engine="ort-training", progress=stop, checkpoint=file)
    seen = []
    resumed = scored(model, data, engine="ort-training", progress=lambda *s: seen.append(s), checkpoint=file)
    assert seen == [(9, 9)] and not file.exists()
    whole = scored(model, data, engine="ort-training")
    assert all(np.array_equal(resumed[name], whole[name]) for name in whole)


@installed
def test_newest_opset_is_converted():
    body = "c = MatMul (x, w) s = Swish (c) z = MatMul (s, v)"
    weights = {"w": array(4, 5), "v": array(5, 3)}
    x, labels = samples((4,))
    old = build("c = MatMul (x, w) g = Sigmoid (c) s = Mul (c, g) z = MatMul (s, v)", (4,), weights)
    with ort_training.TrainingPerSample(build(body, (4,), weights, opset=24), {"x": x}) as net:
        assert relative(net({"x": x}, labels), PerSample(old, {"x": x})({"x": x}, labels)) <= 1e-5


@installed
def test_what_it_cannot_differentiate_is_named():
    model = build("h = MatMul (x, w) l = ReduceMax <axes = [1]> (h) z = Sub (h, l)", (4,), {"w": array(4, 3)})
    with pytest.raises(GradientError, match=r"ReduceMax node .* has no gradient in onnxruntime-training"):
        ort_training.TrainingPerSample(model, {"x": samples((4,))[0]})


@installed
def test_the_parent_keeps_its_own_onnxruntime():
    x, labels = samples(SMALL[1])
    with ort_training.TrainingPerSample(build(*SMALL, WEIGHTS), {"x": x}) as net:
        net({"x": x}, labels)
        with pytest.raises(DataError, match=r"expected 0 \.\. 2"):
            net({"x": x}, labels + 9)
    assert not Path(sys.modules["onnxruntime"].__file__).is_relative_to(ort_training.find())


@installed
def test_no_samples():
    class Nothing:
        def __len__(self):
            return 0

        def __iter__(self):
            return iter([Batch({"x": np.zeros((0, 2, 5, 5), np.float32)})])

    with pytest.raises(DataError, match="no samples"):
        scored(build(*SMALL, WEIGHTS), Nothing(), engine="ort-training")
