"""Named preprocessing against what torchvision, CLIP and Keras compute, written down in numpy and Pillow."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from hqp_onnx.data.preprocess import KEYS, PRESETS, Preprocess, read_preprocess
from hqp_onnx.data.reading import Reading
from hqp_onnx.data.sources import open_dataset
from hqp_onnx.errors import DataError, UsageError
from hqp_onnx.runtimes.session import TensorSpec

PIXELS = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
IMAGE = Image.fromarray(PIXELS)


def spec(*shape):
    return TensorSpec("x", np.dtype(np.float32), shape)


def centre(image, size):
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size))) / 255


def test_imagenet():
    got = read_preprocess("imagenet", spec(None, 3, 56, 56))(IMAGE)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (centre(IMAGE.resize((int(64 * 120 / 90), 64), Image.Resampling.BILINEAR), 56) - mean) / std
    np.testing.assert_allclose(got, expected.transpose(2, 0, 1), atol=1e-5)
    assert read_preprocess("imagenet", spec(None, 3, None, None)) == read_preprocess("imagenet")
    assert (read_preprocess("imagenet").size, read_preprocess("imagenet").crop) == (256, [224, 224])


def test_clip():
    got = read_preprocess("clip", spec(None, 3, 56, 56))(IMAGE)
    resized = IMAGE.resize((int(56 * 120 / 90), 56), Image.Resampling.BICUBIC)
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    np.testing.assert_allclose(got, ((centre(resized, 56) - mean) / std).transpose(2, 0, 1), atol=1e-5)


def test_tf():
    got = read_preprocess("tf", spec(None, 40, 50, 3))(IMAGE)
    expected = np.asarray(IMAGE.resize((50, 40), Image.Resampling.BILINEAR)) / 127.5 - 1
    assert got.shape == (40, 50, 3)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_yolo():
    got = read_preprocess("yolo", spec(None, 3, 64, 64))(IMAGE)
    expected = np.full((64, 64, 3), 114, np.uint8)
    expected[8:56] = np.asarray(IMAGE.resize((64, 48), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(got, expected.transpose(2, 0, 1) / 255, atol=1e-6)


@pytest.mark.parametrize("name", list(PRESETS))
def test_names_fit_any_input_of_images(name):
    for shape in ((None, 3, 32, 48), (1, 32, 48, 3), (None, 1, 32, 32), (None, 24, 24, 1)):
        got = read_preprocess(name, spec(*shape))(IMAGE)
        assert got.shape == shape[1:]


def test_every_key_is_explained():
    assert KEYS.keys() == Preprocess.__dataclass_fields__.keys()


def test_json_a_file_of_it_and_a_dictionary_are_the_same(tmp_path):
    values = {"size": 8, "color": "BGR", "resample": "nearest"}
    (tmp_path / "p.json").write_text(json.dumps(values))
    ways = (json.dumps(values), " " + json.dumps(values), tmp_path / "p.json", values, Preprocess(**values))
    assert {repr(read_preprocess(way)) for way in ways} == {repr(Preprocess(**values))}
    for bad, message in (
        ("imagnet", "imagnet: not a readable JSON file: .*; expected one of imagenet, clip, tf, yolo, a JSON object"),
        ('{"size"', "not a readable JSON"),
        ('{"sise": 1}', "unknown key 'sise'"),
        ({"letterbox": 3, "size": 2}, "'letterbox' takes the place of"),
        ({"fill": 300}, "'fill' is 300"),
        ({"resample": "cubic"}, "one of nearest, bilinear, bicubic"),
        ({"letterbox": [1 << 20, 1 << 20]}, "pixels at most"),
        ("{" + "x" * 5000, "not a readable JSON"),
    ):
        with pytest.raises(UsageError, match=message):
            read_preprocess(bad)


def files(folder, *sizes):
    for number, (height, width) in enumerate(sizes):
        Image.fromarray(np.full((height, width, 3), number, np.uint8)).save(folder / f"{number}.png")
    return str(folder)


def test_images_of_different_sizes_form_batches_where_the_model_takes_them(tmp_path):
    folder = files(tmp_path, (4, 6), (5, 5), (4, 6), (4, 6), (5, 5))
    data = open_dataset(folder, [spec(None, 3, None, None)], batch_size=2)
    values = [(batch.feeds["x"].shape, np.rint(batch.feeds["x"][:, 0, 0, 0] * 255).tolist()) for batch in data]
    assert values == [((2, 3, 4, 6), [0, 2]), ((1, 3, 4, 6), [3]), ((2, 3, 5, 5), [1, 4])]


def test_layout_and_channels_are_the_models_unless_told(tmp_path):
    folder = files(tmp_path, (6, 8))
    for shape in ((None, 3, 6, 8), (None, 6, 8, 3), (None, 1, 6, 8), (None, 6, 8, 1)):
        for way in (None, {"scale": 1}, {"size": [6, 8]}):
            assert (
                open_dataset(Reading(folder, preprocess=way), [spec(*shape)]).rows(0, 1).feeds["x"].shape[1:]
                == shape[1:]
            )


def test_what_does_not_fit_says_what_it_looks_like(tmp_path):
    folder = files(tmp_path, (6, 8))
    cases = [
        ((None, 3, 4, 4), None, "images of 6x8 for a model of 4x4: resize them, as {--preprocess} does"),
        ((None, 6, 8, 3), {"layout": "NCHW"}, 'channels first: .*"layout": "NHWC"'),
        ((None, 3, 6, 8), {"layout": "NHWC"}, 'channels last: .*"layout": "NCHW"'),
        ((None, 3, 4, 4), {"layout": "NHWC"}, "channels last.*and looks like images of 6x8"),
        ((None, 1, 6, 8), {"color": "RGB"}, 'colour images for a model of grey ones: "color"'),
        ((None, 3, 6, 8), {"color": "L"}, "grey images for a model of colour ones"),
    ]
    for shape, way, message in cases:
        with pytest.raises(DataError, match=message.replace("{--preprocess}", "preprocess")):
            open_dataset(Reading(folder, preprocess=way), [spec(*shape)])
    with pytest.raises(DataError, match="images have height, width and channels, and the model wants"):
        open_dataset(folder, [spec(None, 8)])


@pytest.mark.parametrize(
    ("have", "want", "hint"),
    [
        ((5, 8, 9, 3), (None, 3, 8, 9), r"channels last: values.transpose\(0, 3, 1, 2\)"),
        ((5, 3, 8, 9), (None, 8, 9, 3), r"channels first: values.transpose\(0, 2, 3, 1\)"),
        ((8, 9), (None, 8, 9), r"a single sample.*values\[None\]"),
        ((5, 8, 9), (None, 1, 8, 9), r"without axis 1: numpy.expand_dims\(values, 1\)"),
        ((5, 8, 9), (None, 8, 9, 1), r"without axis 3: numpy.expand_dims\(values, 3\)"),
        ((5, 1, 8), (None, 8), r"an axis too much: numpy.squeeze\(values, 1\)"),
        ((5, 7, 16), (None, 16, 7), r"another order: values.transpose\(0, 2, 1\)"),
    ],
)
def test_arrays_that_do_not_fit_say_what_they_look_like(have, want, hint):
    with pytest.raises(DataError, match=hint):
        open_dataset({"x": np.zeros(have, np.float32)}, [spec(*want)])


def test_scaled_pixels_for_a_model_of_bytes():
    with pytest.raises(DataError, match=r"float32, the model wants uint8: looks like pixels that were scaled already"):
        bytes_in = TensorSpec("x", np.dtype(np.uint8), (None, 2))
        open_dataset({"x": np.zeros((3, 2), np.float32)}, [bytes_in])
