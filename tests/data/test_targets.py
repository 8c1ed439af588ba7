"""Targets beside images: masks and boxes against the pixels of the images that they belong to, tables by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from hqp_onnx.data.reading import Reading
from hqp_onnx.data.sources import open_dataset, open_source
from hqp_onnx.errors import DataError, UsageError
from hqp_onnx.runtimes.session import TensorSpec

RNG = np.random.default_rng(0)
WAYS = [
    {"size": [20, 28]},
    {"size": 24},
    {"size": 24, "crop": 16},
    {"crop": [30, 20]},
    {"letterbox": [40, 24]},
    {"letterbox": 32},
    {"letterbox": [80, 100]},
]


def spec(height=None, width=None):
    return TensorSpec("x", np.dtype(np.float32), (None, 1, height, width))


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def read(folder, way, targets, **more):
    asked = Reading(folder, targets=targets, preprocess={**way, "color": "L", "scale": 1, **more})
    return open_dataset(asked, [spec()])


# --- masks


@pytest.mark.parametrize("way", WAYS)
def test_a_mask_goes_where_the_pixels_go(tmp_path, way):
    for name in ("a", "b"):
        pixels = RNG.integers(0, 250, (36, 48), np.uint8)
        save(tmp_path / "images" / f"{name}.png", pixels)
        save(tmp_path / "masks" / f"{name}.png", pixels)
    batch = read(tmp_path / "images", way, tmp_path / "masks", resample="nearest", fill=255).rows(0, 2)
    assert batch.targets["labels"].dtype == np.int32
    np.testing.assert_array_equal(batch.targets["labels"], batch.feeds["x"][:, 0])


def test_masks_of_palettes_16_bits_and_one_bit_are_indices(tmp_path):
    indices = RNG.integers(0, 2, (5, 6), np.uint8)
    kinds = {"a": Image.fromarray(indices), "b": Image.fromarray(indices.astype(bool))}
    kinds["p"] = Image.fromarray(indices)
    kinds["p"].putpalette([9, 9, 9, 200, 0, 0])  # which makes it one of indices into a palette
    kinds["w"] = Image.fromarray(indices.astype(np.uint16) * 300)
    for name, mask in kinds.items():
        save(tmp_path / "images" / f"{name}.png", np.zeros((5, 6), np.uint8))
        (tmp_path / "masks").mkdir(exist_ok=True)
        mask.save(tmp_path / "masks" / f"{name}.png")
    labels = read(tmp_path / "images", {}, tmp_path / "masks").rows(0, 4).targets["labels"]
    np.testing.assert_array_equal(labels, [indices, indices, indices, indices.astype(int) * 300])


def test_masks_that_do_not_fit_are_named(tmp_path):
    save(tmp_path / "images" / "a.jpg", np.zeros((6, 6, 3), np.uint8))
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match=r"no mask a\.png for .*a\.jpg"):
        read(tmp_path / "images", {}, tmp_path / "masks")
    save(tmp_path / "masks" / "a.png", np.zeros((6, 7), np.uint8))
    with pytest.raises(DataError, match=r"a\.png: is a mask of 6x7 pixels for an image of 6x6"):
        read(tmp_path / "images", {}, tmp_path / "masks")
    save(tmp_path / "masks" / "a.png", np.zeros((6, 6, 3), np.uint8))
    with pytest.raises(DataError, match="a picture in colours"):
        read(tmp_path / "images", {}, tmp_path / "masks")
    save(tmp_path / "masks" / "a.bmp", np.zeros((6, 6), np.uint8))
    with pytest.raises(DataError, match=r"several masks, a\.bmp and a\.png"):
        read(tmp_path / "images", {}, tmp_path / "masks")


# --- boxes


def coco(file, images, annotations, categories=(3, 7)):
    content = {"images": images, "annotations": annotations, "categories": [{"id": n} for n in categories]}
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize("way", WAYS)
def test_a_box_goes_where_the_pixels_go(tmp_path, way):
    x, y, width, height = 12, 8, 20, 18
    pixels = np.zeros((36, 48), np.uint8)
    pixels[y : y + height, x : x + width] = 255
    save(tmp_path / "images" / "a.png", pixels)
    file = coco(
        tmp_path / "boxes.json",
        [{"id": 5, "file_name": "a.png", "width": 48, "height": 36}],
        [{"image_id": 5, "category_id": 7, "bbox": [x, y, width, height], "area": width * height, "iscrowd": 1}],
    )
    batch = read(tmp_path / "images", way, file, fill=0).rows(0, 1)
    shown = batch.feeds["x"][0, 0] > 127
    rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    expected = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_allclose(batch.targets["boxes"][0, 0], expected, atol=0.51)
    assert batch.targets["boxes"].dtype == np.float32 and batch.targets["classes"].tolist() == [[1]]
    assert batch.targets["crowd"].tolist() == [[True]]


def test_boxes_are_padded_and_those_that_are_cut_away_are_left_out(tmp_path):
    for name in ("a", "b", "c"):
        save(tmp_path / "images" / f"{name}.png", np.zeros((40, 40), np.uint8))
    boxes = [(1, 3, [0, 0, 5, 5]), (1, 7, [15, 15, 10, 10]), (2, 7, [0, 10, 40, 20])]
    file = coco(
        tmp_path / "boxes.json",
        [{"id": n, "file_name": f"deep/{name}.png"} for n, name in ((1, "a"), (2, "b"), (3, "c"))],
        [{"image_id": image, "category_id": category, "bbox": box} for image, category, box in boxes],
    )
    targets = read(tmp_path / "images", {"crop": 20}, file).rows(0, 3).targets
    np.testing.assert_array_equal(targets["classes"], [[1, -1], [1, -1], [-1, -1]])
    np.testing.assert_allclose(targets["boxes"][:, 0], [[5, 5, 15, 15], [0, 0, 20, 20], [0, 0, 0, 0]])
    np.testing.assert_allclose(targets["area"][:, 0], [100, 800, 0])


def test_boxes_that_do_not_fit_are_one_line(tmp_path):
    save(tmp_path / "images" / "a.png", np.zeros((4, 4), np.uint8))
    file = tmp_path / "boxes.json"
    for content, message in (
        ("{", "not a readable JSON"),
        ("[]", "not COCO's JSON"),
        ('{"images": []}', "not COCO's JSON.*'annotations'"),
        ('{"images": [], "annotations": []}', "names no image 'a.png'"),
        ('{"images": [{"id": 1, "file_name": "a.png", "width": 9}], "annotations": []}', "9 pixels wide, and it is 4"),
        (
            '{"images": [{"id": 1, "file_name": "a.png"}],'
            ' "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1]}]}',
            "boxes.json",
        ),
        ('{"images": [], "annotations": [{"image_id": 4, "category_id": 1, "bbox": [1, 2, 3, 4]}]}', "unknown image 4"),
    ):
        file.write_text(content)
        with pytest.raises(DataError, match=message) as caught:
            read(tmp_path / "images", {}, file)
        assert "\n" not in str(caught.value)


# --- values


def test_a_table_names_files_in_any_order(tmp_path):
    for name in ("a", "b", "c"):
        save(tmp_path / "images" / f"{name}.png", np.zeros((4, 4), np.uint8))
    table = tmp_path / "values.csv"
    table.write_text("file,tag\nb.png,2\nc.png,3\na,1\nunused.png,4\n")
    data = read(tmp_path / "images", {}, table)
    assert data.labels.tolist() == [1, 2, 3]
    table.write_text("b.png, 2, 0.5\nc.png, 3, 1e3\na.png, 1, -1\n")
    np.testing.assert_array_equal(
        read(tmp_path / "images", {}, table).rows(1, 3).targets["labels"], [[2, 0.5], [3, 1000]]
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        ("a.png,1\n", "no row for 'b.png'"),
        ("a.png,1\nb.png,x\n", "'x' of row 1 is not a number"),
        ("a.png,1\nb.png\n", "row 1 has 1 column"),
        ("a.png,1\nb.png,nan\n", "NaN"),
        ("a.png,1\na.png,1\n", "twice"),
        ("a.png,1\nb.png,\n", "is empty"),
    ],
)
def test_tables_that_do_not_fit_are_one_line(tmp_path, text, message):
    for name in ("a", "b"):
        save(tmp_path / "images" / f"{name}.png", np.zeros((4, 4), np.uint8))
    (tmp_path / "values.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "images", {}, tmp_path / "values.csv")


def test_rows_of_a_file_belong_to_the_samples_in_order(tmp_path):
    arrays = {"x": np.zeros((3, 2), np.float32)}
    inputs = [TensorSpec("x", np.dtype(np.float32), (None, 2))]
    (tmp_path / "t.csv").write_text("angle\n0.5\n1\n2\n")
    np.save(tmp_path / "t.npy", np.eye(3, dtype=np.uint8))
    np.savez(tmp_path / "t.npz", a=np.arange(3), b=np.arange(6).reshape(3, 2))
    np.save(tmp_path / "short.npy", np.zeros(2))
    expected = {"t.csv": {"labels": [1, 2]}, "t.npy": {"labels": [[0, 1, 0], [0, 0, 1]]}}
    expected["t.npz"] = {"a": [1, 2], "b": [[2, 3], [4, 5]]}
    for name, values in expected.items():
        targets = open_dataset(Reading(arrays, targets=tmp_path / name), inputs).rows(1, 3).targets
        assert {key: x.tolist() for key, x in targets.items()} == values
    memory = open_dataset(Reading(arrays, targets={"boxes": np.ones((3, 5, 4))}), inputs)
    assert memory.targets["boxes"].shape == (None, 5, 4)
    assert open_dataset(Reading(arrays, targets=[4, 5, 6]), inputs).labels.tolist() == [4, 5, 6]
    with pytest.raises(DataError, match=r"short\.npy: 2 rows for 3 samples"):
        open_source(Reading(arrays, targets=tmp_path / "short.npy"))
    with pytest.raises(UsageError, match="with a row for each sample"):
        open_source(Reading(arrays, targets=tmp_path / "boxes.json"))


def test_targets_are_part_of_the_digest(tmp_path):
    save(tmp_path / "images" / "a.png", np.zeros((4, 4), np.uint8))
    table = tmp_path / "values.csv"
    digests = set()
    for text in ("a.png,1\n", "a.png,2\n"):
        table.write_text(text)
        digests.add(read(tmp_path / "images", {}, table).digest())
    digests.add(read(tmp_path / "images", {"size": 3}, table).digest())
    digests.add(open_dataset(Reading(tmp_path / "images", preprocess={"color": "L", "scale": 1}), [spec()]).digest())
    assert len(digests) == 4
