"""Readers of .npz, image folders and data-loader scripts, against numpy and PIL alone; every refusal is one line."""

from __future__ import annotations

import io
import json
import os
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from hqp_onnx.data.preprocess import Preprocess, read_preprocess
from hqp_onnx.data.sources import open_dataset, open_source
from hqp_onnx.errors import DataError, HqpError, LimitError, UsageError
from hqp_onnx.runtimes.session import TensorSpec

RNG = np.random.default_rng(0)
SPEC = TensorSpec("input", np.dtype(np.float32), (None, 3, 4, 4))


def refused(call, *parts, error=DataError):
    with pytest.raises(HqpError) as caught:
        call()
    message = str(caught.value)
    assert type(caught.value) is error and "\n" not in message
    for part in parts:
        assert str(part) in message, message


# --- .npz


def test_npz_rows_are_the_stored_arrays(tmp_path):
    values, labels = RNG.integers(0, 256, (5, 2), np.uint8), np.arange(5, dtype=np.uint8)
    np.savez_compressed(tmp_path / "d.npz", a=values, b=values * 0.5, labels=labels)
    source = open_source(str(tmp_path / "d.npz"))
    assert source.count == 5
    batch = source.rows(1, 4)
    assert batch.feeds["a"].dtype == np.uint8
    np.testing.assert_array_equal(batch.feeds["a"], values[1:4])
    np.testing.assert_array_equal(batch.feeds["b"], values[1:4] * 0.5)
    np.testing.assert_array_equal(batch.labels, [1, 2, 3])


def test_an_array_that_names_an_input_is_no_target():
    rows, kind = np.ones((3, 2), np.float32), np.dtype(np.float32)
    labels, other = (TensorSpec(name, kind, (None, 2)) for name in ("labels", "other"))
    fed = open_source({"labels": rows}, specs=[labels]).rows(0, 1)
    assert list(fed.feeds) == ["labels"] and not fed.targets
    beside = open_source({"labels": rows, "other": rows}, specs=[other]).rows(0, 1)
    assert list(beside.feeds) == ["other"] and list(beside.targets) == ["labels"]
    with pytest.raises(DataError, match=r"no labels: the array 'labels' is fed to the model's input of that name"):
        open_dataset({"labels": rows}, [labels]).check_labels(2)


def test_open_dataset_passes_its_options_on(tmp_path):
    np.savez(tmp_path / "d.npz", input=np.ones((5, 3, 4, 4)))
    data = open_dataset(str(tmp_path / "d.npz"), [SPEC], batch_size=2, limit=3)
    assert [len(batch) for batch in data] == [2, 1]


def corrupt_cases(folder):
    np.savez(folder / "ragged.npz", a=np.zeros(3), b=np.zeros(4))
    yield "ragged.npz", ("array 'b'", "expected 3 samples")
    np.savez(folder / "objects.npz", a=np.array([{}], object))
    yield "objects.npz", ("array 'a' holds Python objects",)
    np.savez(folder / "short_labels.npz", a=np.zeros(3), labels=np.zeros(2, int))
    yield "short_labels.npz", ("array 'labels' has shape [2], expected 3 samples",)
    np.savez(folder / "only_labels.npz", labels=np.zeros(2, int))
    yield "only_labels.npz", ("no arrays",)
    np.savez(folder / "longer.npz", a=np.zeros(99))
    content = bytearray((folder / "longer.npz").read_bytes())
    (folder / "shrunk.npz").write_bytes(content[:300] + content[600:])
    yield "shrunk.npz", ("not a readable .npz",)
    (folder / "noise.npz").write_bytes(b"not a zip file")
    yield "noise.npz", ("not a readable .npz",)
    (folder / "empty.npz").write_bytes(b"")
    yield "empty.npz", ("not a readable .npz",)
    np.savez_compressed(folder / "whole.npz", a=RNG.random(1000))
    content = bytearray((folder / "whole.npz").read_bytes())
    (folder / "cut.npz").write_bytes(content[:500])
    yield "cut.npz", ("not a readable .npz",)
    content[300:400] = bytes(100)
    (folder / "damaged.npz").write_bytes(content)
    yield "damaged.npz", ("not a readable .npz",)
    np.save(folder / "bare.npy", np.zeros(3))
    (folder / "bare.npy").rename(folder / "bare.npz")
    yield "bare.npz", ("one bare array", ".npy")
    np.save(folder / "objects.npy", np.array([{}], object))
    yield "objects.npy", ("not a readable .npy", "Python objects")
    (folder / "cut.npy").write_bytes(b"\x93NUMPY\x01\x00v")
    yield "cut.npy", ("not a readable .npy",)
    yield "missing.npz", ("no such file", "Expected a .npz or .npy file")
    os.mkfifo(folder / "pipe.npz")
    yield "pipe.npz", ("is a pipe",)
    for name, declared in (("bomb.npz", (1 << 45,)), ("lies.npz", (5,)), ("overflow.npz", (1 << 62, 1 << 62))):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": declared})
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("a.npy", header.getvalue() + bytes(24))
        yield name, ("array 'a'", "which is not what follows")
    with zipfile.ZipFile(folder / "member.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    yield "member.npz", ("'readme.txt' is no array",)


def test_what_numpy_says_of_a_header_is_cut(tmp_path):
    with zipfile.ZipFile(tmp_path / "long.npz", "w") as archive:
        text = b"{'descr': '<f8', " + b"x" * 5000 + b"\n"
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    with pytest.raises(DataError) as caught:
        open_source(str(tmp_path / "long.npz"))
    assert len(str(caught.value)) < 500


def test_arrays_that_nothing_has_room_for_are_not_unpacked(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "zeros.npz", a=np.zeros((1 << 10, 1 << 10)))
    monkeypatch.setattr("hqp_onnx.data.stored.SMALL", 1 << 20)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1 << 20))
    parts = ("array 'a' takes 0.0 GB", "temporary folder", "TMPDIR")
    refused(lambda: open_source(str(tmp_path / "zeros.npz")), "zeros.npz", *parts, error=LimitError)


def test_bad_npz_files_are_refused_in_one_line(tmp_path):
    for name, parts in corrupt_cases(tmp_path):
        refused(lambda name=name: open_source(str(tmp_path / name)), tmp_path / name, *parts)


def test_preprocess_is_for_images_only(tmp_path):
    np.savez(tmp_path / "d.npz", a=np.zeros(3))
    options = tmp_path / "p.json"
    options.write_text("{}")
    refused(lambda: open_source(str(tmp_path / "d.npz"), options), "preprocess", "d.npz", error=UsageError)


# --- images


def save_image(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def classes(tmp_path):
    """Two classes of 3 and 2 png images, 6 x 9 pixels, in order of their file names."""
    folder = tmp_path / "images"
    names = ["ants/1.png", "ants/2.PNG", "ants/deep/3.png", "bees/a.png", "bees/b.png"]
    images = [save_image(folder / name, RNG.integers(0, 256, (6, 9, 3), np.uint8)) for name in names]
    (folder / "bees" / "notes.txt").write_text("not an image")
    (folder / ".hidden").mkdir()
    return folder, images


def test_sub_folders_are_classes_in_sorted_order(classes):
    folder, images = classes
    source = open_source(str(folder), specs=[TensorSpec("pixels", np.dtype(np.float32), (None, 3, 6, 9))])
    np.testing.assert_array_equal(source.labels, [0, 0, 0, 1, 1])
    for _ in range(2):
        batch = source.rows(1, 5)
        expected = np.stack(images[1:]).transpose(0, 3, 1, 2) / 255
        assert batch.feeds["pixels"].dtype == np.float32
        np.testing.assert_allclose(batch.feeds["pixels"], expected, rtol=1e-6)
        np.testing.assert_array_equal(batch.labels, [0, 0, 1, 1])


def test_flat_folder_has_no_labels_and_feeds_the_only_input(tmp_path):
    image = save_image(tmp_path / "x" / "1.png", RNG.integers(0, 256, (4, 4, 3), np.uint8))
    data = open_dataset(str(tmp_path / "x"), [SPEC])
    assert not data.labeled
    np.testing.assert_allclose(next(iter(data)).feeds["input"][0], image.transpose(2, 0, 1) / 255, rtol=1e-6)
    refused(lambda: open_dataset(str(tmp_path / "x"), [SPEC, SPEC]), tmp_path, "one input", "2")


def test_resize_shorter_side_crop_centre_normalise(tmp_path):
    smooth = np.add.outer(np.arange(20) * 5, np.arange(30) * 3).astype(np.uint8)
    pixels = save_image(tmp_path / "x" / "1.png", np.stack([smooth, 255 - smooth, smooth // 2], -1))
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    got = Preprocess(size=10, crop=[8, 7], mean=mean, std=std)(Image.fromarray(pixels))
    resized = np.asarray(Image.fromarray(pixels).resize((15, 10), Image.Resampling.BILINEAR))
    expected = (resized[1:9, 4:11].transpose(2, 0, 1) / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    np.testing.assert_allclose(got, expected, atol=2e-6)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"scale": 1}, lambda x: x.transpose(2, 0, 1)),
        ({"scale": 1, "layout": "NHWC"}, lambda x: x),
        ({"scale": 2, "color": "BGR"}, lambda x: 2.0 * x[:, :, ::-1].transpose(2, 0, 1)),
        ({"scale": 1, "mean": [1, 2, 3]}, lambda x: (x - np.array([1.0, 2, 3])).transpose(2, 0, 1)),
        ({"scale": 1, "size": [6, 4]}, lambda x: np.asarray(Image.fromarray(x).resize((4, 6), 2)).transpose(2, 0, 1)),
        ({"scale": 1, "color": "L"}, lambda x: np.asarray(Image.fromarray(x).convert("L"))[None]),
    ],
)
def test_layout_colour_scale(options, expected):
    pixels = RNG.integers(0, 256, (6, 9, 3), np.uint8)
    got, want = Preprocess(**options)(Image.fromarray(pixels)), expected(pixels)
    assert got.dtype == (np.uint8 if want.dtype == np.uint8 else np.float32)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_grey_and_transparent_images_become_rgb():
    grey = RNG.integers(0, 256, (3, 3), np.uint8)
    got = Preprocess(scale=1)(Image.fromarray(grey).convert("LA"))
    np.testing.assert_array_equal(got, np.stack([grey] * 3))


def test_preprocess_file_is_read(tmp_path):
    values = {"size": 8, "crop": None, "mean": [1, 2, 3], "std": [1, 1, 2], "scale": 1, "layout": "NHWC"}
    (tmp_path / "p.json").write_text(json.dumps(values))
    assert read_preprocess(tmp_path / "p.json") == Preprocess(**values)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('{"sise": 3}', ("unknown key 'sise'", "size, crop, letterbox")),
        ("[1]", ("a JSON list", "expected an object")),
        ("{", ("not a readable JSON",)),
        ('{"size": 2.5}', ("'size' is 2.5", "[height, width]")),
        ('{"size": true}', ("'size' is true",)),
        ('{"size": 0}', ("'size' is 0", "above 0")),
        ('{"size": "8"}', ("'size' is \"8\"",)),
        ('{"crop": [3]}', ("'crop' is [3]",)),
        ('{"crop": [3, -1]}', ("'crop' is [3, -1]",)),
        ('{"mean": 0.5}', ("'mean' is 0.5", "a list of 3 numbers")),
        ('{"mean": [1, 2]}', ("'mean' is [1, 2]", "a list of 3 numbers")),
        ('{"color": "L", "mean": [1, 2, 3]}', ("a list of 1 numbers for color L",)),
        ('{"std": [1, 0, 1]}', ("'std' is [1, 0, 1]", "above 0")),
        ('{"std": [1, "a", 1]}', ("'std'", "numbers")),
        ('{"scale": null}', ("'scale' is null", "a number")),
        ('{"layout": "CHW"}', ("'layout'", "'NCHW' or 'NHWC'")),
        ('{"color": ["RGB"]}', ("'color'", "'RGB', 'BGR' or 'L'")),
    ],
)
def test_bad_preprocess_files_are_refused(tmp_path, text, parts):
    (tmp_path / "p.json").write_text(text)
    refused(lambda: read_preprocess(tmp_path / "p.json"), tmp_path / "p.json", *parts, error=UsageError)


def test_missing_preprocess_file_is_refused(tmp_path):
    refused(lambda: open_source(str(tmp_path), tmp_path / "no.json"), "no.json", "not a readable", error=UsageError)


def test_bad_images_are_named(classes):
    folder, _ = classes
    (folder / "bees" / "b.png").write_bytes(b"no image")
    refused(lambda: open_source(str(folder)).rows(3, 5), folder / "bees" / "b.png", "not a readable image")
    whole = (folder / "ants" / "1.png").read_bytes()
    (folder / "bees" / "b.png").write_bytes(whole[: len(whole) // 2])
    refused(lambda: open_source(str(folder)).rows(3, 5), folder / "bees" / "b.png", "not a readable image")
    save_image(folder / "bees" / "b.png", np.zeros((3, 3, 3), np.uint8))
    refused(lambda: open_source(str(folder)).rows(3, 5), folder / "bees" / "b.png", "[3, 3, 3]", "[3, 6, 9]", "size")


def test_only_the_formats_that_are_meant_are_decoded(classes):
    folder, _ = classes
    file = folder / "bees" / "b.png"
    file.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 6\n%%EndComments\nshowpage\n")
    refused(lambda: open_source(str(folder)).rows(3, 5), file, "expected BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP")
    file.unlink()
    os.mkfifo(file)
    refused(lambda: open_source(str(folder)).rows(3, 5), file, "is a pipe")
    file.unlink()
    file.symlink_to("/dev/zero")
    refused(lambda: open_source(str(folder)).rows(3, 5), file, "is a device")


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_grey_of_16_bits_is_scaled_to_8(tmp_path, suffix):
    values = np.array([[0, 128, 129, 255, 256], [257, 32768, 65278, 65406, 65535]], np.uint16)
    if suffix == "pgm":
        (tmp_path / "x.pgm").write_bytes(b"P5 5 2 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(tmp_path / f"x.{suffix}")
    (tmp_path / "p.json").write_text('{"color": "L", "scale": 1}')
    have = open_source(str(tmp_path), tmp_path / "p.json").rows(0, 1).feeds["input"][0, 0]
    np.testing.assert_array_equal(have, np.rint(values / 257))


def test_images_without_a_scale_are_refused(tmp_path):
    for dtype in (np.float32, np.int32):
        Image.fromarray(np.ones((4, 4), dtype)).save(tmp_path / "x.tiff")
        refused(lambda: open_source(str(tmp_path)).rows(0, 1), "x.tiff", "32-bit pixels")


def test_images_that_are_or_become_too_large_are_refused(tmp_path):
    Image.new("1", (1 << 14, (1 << 12) + 1)).save(tmp_path / "x.png")
    refused(lambda: open_source(str(tmp_path)).rows(0, 1), "x.png", "is 4097x16384 pixels")
    Image.new("1", (1 << 20, 1)).save(tmp_path / "x.png")
    (tmp_path / "p.json").write_text('{"size": 224, "crop": 224}')
    refused(lambda: open_source(str(tmp_path), tmp_path / "p.json").rows(0, 1), "x.png", "becomes 224x234881024")


def test_image_smaller_than_the_crop_is_named(classes, tmp_path):
    (tmp_path / "p.json").write_text('{"crop": 8}')
    refused(lambda: open_source(str(classes[0]), tmp_path / "p.json").rows(0, 1), "1.png", "6x9", "crop of 8x8")


def test_folders_without_a_clear_meaning_are_refused(tmp_path, classes):
    (tmp_path / "empty" / "class").mkdir(parents=True)
    refused(lambda: open_source(str(tmp_path / "empty")), tmp_path / "empty", "no images", ".png")
    save_image(classes[0] / "loose.png", np.zeros((2, 2, 3), np.uint8))
    refused(lambda: open_source(str(classes[0])), classes[0], "images beside sub-folders")


# --- data-loader scripts


def script(folder, body, name="loader.py"):
    (folder / name).write_text("import numpy as np\n" + body)
    return str(folder / name)


def test_script_batches_of_any_size_are_joined(tmp_path):
    path = script(tmp_path, "def load_data():\n    for n in (2, 1, 3):\n        yield {'x': np.full((n, 2), n)}\n")
    source = open_source(path)
    assert source.count == 6 and source.labels is None
    np.testing.assert_array_equal(source.rows(0, 6).feeds["x"][:, 0], [2, 2, 1, 3, 3, 3])


def test_a_loader_may_fill_the_same_arrays_again(tmp_path):
    body = (
        "def load_data():\n    x = np.zeros((1, 1))\n    for n in range(3):\n        x[:] = n\n        yield {'x': x}\n"
    )
    np.testing.assert_array_equal(open_source(script(tmp_path, body)).rows(0, 3).feeds["x"].ravel(), [0, 1, 2])


def test_script_labels_named_function_and_neighbour_modules(tmp_path):
    (tmp_path / "hqp_test_neighbour.py").write_text("VALUE = 7\n")
    body = (
        "def mine():\n    from hqp_test_neighbour import VALUE\n"
        "    return [({'x': np.full((2, 1), VALUE)}, [0, 1]), ({'x': np.zeros((1, 1), int)}, np.array([2]))]\n"
    )
    before = list(sys.path)
    source = open_source(script(tmp_path, body) + ":mine")
    assert sys.path == before
    np.testing.assert_array_equal(source.labels, [0, 1, 2])
    np.testing.assert_array_equal(source.rows(1, 3).feeds["x"], [[7], [0]])


ITEM = "def load_data():\n    yield {'x': np.zeros((1, 2))}\n    yield "


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ("def load_data():\n    yield {}['gone']\n", ("line 3", "KeyError", "gone")),
        ("def load_data():\n    return 1 / 0\n", ("line 3", "ZeroDivisionError")),
        ("import hqp_no_such_module\n", ("line 2", "ModuleNotFoundError", "hqp_no_such_module")),
        ("raise SystemExit('bye')\n", ("line 2", "SystemExit: bye")),
        ("raise ValueError\n", ("line 2", "ValueError")),
        ("def load_data():\n    raise GeneratorExit\n", ("line 3", "GeneratorExit")),
        ("class E(BaseException):\n    pass\nraise E('bye')\n", ("line 4", "E: bye")),
        ("def load_data(:\n", ("line 2", "SyntaxError")),
        ("def load_data(path):\n    yield 1\n", ("TypeError", "path")),
        ("def load_data():\n    return 3\n", ("TypeError", "not iterable")),
        ("other = 1\n", ("no function 'load_data'",)),
        ("load_data = 3\n", ("no function 'load_data'",)),
        ("def load_data():\n    return []\n", ("load_data() yields nothing",)),
        ("def load_data():\n    yield np.zeros(3)\n", ("item 0", "is ndarray", "dictionary")),
        ("def load_data():\n    yield {1: np.zeros(3)}\n", ("item 0", "dictionary of arrays by input name")),
        ("def load_data():\n    yield {'x': np.array([{}])}\n", ("item 0", "'x' is object")),
        ("def load_data():\n    yield {'x': [[1, 2], [3]]}\n", ("item 0", "'x'", "not an array")),
        ("def load_data():\n    yield {'x': 1.0}\n", ("item 0", "'x' has shape []")),
        ("def load_data():\n    yield {'x': np.zeros(3)}, {1: np.zeros(3)}\n", ("item 0", "targets by name")),
        (
            "def load_data():\n    yield {'x': np.zeros(3)}, [1, 2]\n",
            ("item 0", "'labels' has shape [2], expected 3 samples"),
        ),
        (ITEM + "{'y': np.zeros((1, 2))}\n", ("item 1", "other arrays than the first")),
        (ITEM + "({'x': np.zeros((1, 2))}, [1])\n", ("item 1", "targets where that has none")),
        (ITEM + "{'x': np.zeros((1, 2, 1))}\n", ("item 1", "3 axes", "2")),
        (ITEM + "{'x': np.zeros((1, 2), 'f4')}\n", ("item 1", "float32", "float64")),
    ],
)
def test_script_errors_are_one_line_with_path_and_line(tmp_path, body, parts):
    path = script(tmp_path, body)
    refused(lambda: open_source(path), path, *parts)


def test_missing_script_and_missing_function(tmp_path):
    refused(lambda: open_source(str(tmp_path / "no.py") + ":f"), "no.py", "no such file")
    refused(lambda: open_source(script(tmp_path, "") + ":f"), "loader.py", "no function 'f'")
