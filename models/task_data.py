"""Data of eight small tasks, each in a form in which people have such data.

    python models/task_data.py TASK FOLDER [--samples 1500] [--part val]

    segments   images/*.png and masks/*.png: clothes on a canvas, five classes of pixels
    objects    images/*.png and boxes.json (COCO): one to three pieces of clothing, four classes of boxes
    tags       images/*.png and tags.csv: which of ten kinds of clothing are on a page of four
    signals    signals.npy and values.csv: frequency and decay of a noisy oscillation, from 256 values of it
    kinds      data.npz: single pieces of clothing with their class, for an embedding
    words      data.npz: ids, mask, labels: numbers written out in English, German, French or Spanish
    letters    data.npz: ids, labels: such numbers one after the other, and the language of each letter
    lines      data.npz: two to five pieces of clothing side by side, to be read from left to right

Clothes are those of Fashion-MNIST in this folder (``--part`` train takes other pieces than val), all else is made by a
seed. `models/train_tasks.py` trains the models that stand in models/tasks/.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HERE = Path(__file__).parent
PIECES = {"train": "fashion_mnist_test.npz", "val": "fashion_mnist_val.npz"}
COARSE = np.array([1, 2, 1, 2, 1, 3, 1, 3, 4, 3])  # tops, trousers and dresses, shoes, bags; 0 is the background
CANVAS, PAGE, LENGTH, LONGEST = 48, 56, 256, 48
MANY, LINE, MOST = 64, 64, 5
ALPHABET = " abcdefghijklmnopqrstuvwxyz-"
Array = NDArray[np.generic]
Arrays = dict[str, NDArray[np.generic]]


def pieces(part: str) -> tuple[Array, Array]:
    """Pictures, uint8 [n, 28, 28], and classes."""
    with np.load(HERE / PIECES[part]) as data:
        return data["input"][:, 0], data["labels"].astype(np.int64)


def _placed(part: str, count: int, most: int, seed: int) -> Iterator[tuple[Array, Array, list[tuple[int, list[int]]]]]:
    """A canvas, its mask, and the class and box (x, y, width, height) of each thing on it."""
    pictures, classes = pieces(part)
    rng = np.random.default_rng((seed, len(part)))
    for _ in range(count):
        canvas, mask, things = np.zeros((CANVAS, CANVAS), np.uint8), np.zeros((CANVAS, CANVAS), np.uint8), []
        for chosen in rng.integers(0, len(pictures), rng.integers(1, most + 1)):
            size = int(rng.integers(18, 27))
            small = np.asarray(Image.fromarray(pictures[chosen]).resize((size, size), Image.Resampling.BILINEAR))
            top, left = rng.integers(0, CANVAS - size + 1, 2)
            shown, place = small > 24, (slice(top, top + size), slice(left, left + size))
            if shown.sum() < 40 or (mask[place][shown] > 0).mean() > 0.1:
                continue
            canvas[place][shown], mask[place][shown] = small[shown], COARSE[classes[chosen]]
            rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
            box = [int(left + columns[0]), int(top + rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
            things.append((int(COARSE[classes[chosen]]), box))
        noise = rng.integers(0, 24, canvas.shape).astype(np.uint8)
        yield np.maximum(canvas, noise), mask, things


def segments(part: str, count: int) -> Arrays:
    """``input`` [n, 1, 48, 48] and ``labels`` [n, 48, 48]."""
    found = list(_placed(part, count, 3, 0))
    return {"input": np.stack([x for x, *_ in found])[:, None], "labels": np.stack([mask for _, mask, _ in found])}


def objects(part: str, count: int) -> Arrays:
    """``input`` [n, 1, 48, 48]; ``boxes`` [n, 3, 4] as x, y, width, height; ``classes`` [n, 3], 0 for none."""
    found = list(_placed(part, count, 3, 1))
    boxes, classes = np.zeros((count, 3, 4), np.int64), np.zeros((count, 3), np.int64)
    for row, (_, _, things) in enumerate(found):
        for place, (number, box) in enumerate(things):
            classes[row, place], boxes[row, place] = number, box
    return {"input": np.stack([x for x, *_ in found])[:, None], "boxes": boxes, "classes": classes}


def tags(part: str, count: int) -> Arrays:
    """``input`` [n, 1, 56, 56] and ``labels`` [n, 10], 0 or 1."""
    pictures, classes = pieces(part)
    rng = np.random.default_rng((2, len(part)))
    chosen, there = rng.integers(0, len(pictures), (count, 4)), rng.random((count, 4)) < 0.7
    quarters = pictures[chosen] * there[..., None, None].astype(np.uint8)
    pages = quarters.reshape(count, 2, 2, 28, 28).swapaxes(2, 3).reshape(count, 1, PAGE, PAGE)
    marks = np.zeros((count, 10), np.uint8)
    rows, places = there.nonzero()
    marks[rows, classes[chosen][rows, places]] = 1
    return {"input": pages, "labels": marks}


def signals(part: str, count: int) -> Arrays:
    """``input`` float32 [n, 1, 256] and ``labels`` [n, 2]: periods in the window, and decay over it."""
    rng = np.random.default_rng((3, len(part)))
    periods, decay = rng.uniform(3, 24, (count, 1)), rng.uniform(0, 4, (count, 1))
    time = np.linspace(0, 1, LENGTH)[None]
    phase, height = rng.uniform(0, 2 * np.pi, (count, 1)), rng.uniform(0.5, 2, (count, 1))
    clean = height * np.exp(-decay * time) * np.sin(2 * np.pi * periods * time + phase)
    noisy = clean + 0.1 * rng.standard_normal((count, LENGTH))
    return {"input": noisy[:, None].astype(np.float32), "labels": np.concatenate([periods, decay], 1)}


def kinds(part: str, count: int) -> Arrays:
    """``input`` [n, 1, 28, 28] and ``labels`` [n]."""
    pictures, classes = pieces(part)
    return {"input": pictures[:count, None], "labels": classes[:count]}


ENGLISH = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen",
    "twenty thirty forty fifty sixty seventy eighty ninety",
)
GERMAN = (
    "null eins zwei drei vier fuenf sechs sieben acht neun zehn elf zwoelf dreizehn vierzehn fuenfzehn sechzehn "
    "siebzehn achtzehn neunzehn",
    "zwanzig dreissig vierzig fuenfzig sechzig siebzig achtzig neunzig",
)
FRENCH = (
    "zero un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize dix-sept "
    "dix-huit dix-neuf",
    "vingt trente quarante cinquante soixante septante octante nonante",
)
SPANISH = (
    "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciseis "
    "diecisiete dieciocho diecinueve",
    "veinte treinta cuarenta cincuenta sesenta setenta ochenta noventa",
)


def _below_hundred(number: int, words: tuple[str, str], join: str, units_first: bool = False) -> str:
    small, tens = words[0].split(), words[1].split()
    if number < 20:
        return small[number]
    ten, unit = tens[number // 10 - 2], number % 10
    if not unit:
        return ten
    first, second = (small[unit], ten) if units_first else (ten, small[unit])
    return f"{first.removesuffix('s') if units_first and unit == 1 else first}{join}{second}"


def _spoken(number: int, language: int) -> str:
    """A number below 1000, written out."""
    words, join = ((ENGLISH, "-"), (GERMAN, "und"), (FRENCH, "-"), (SPANISH, " y "))[language]
    rest = _below_hundred(number % 100, words, join, units_first=language == 1)
    if number < 100:
        return rest
    hundred = words[0].split()[number // 100]
    if language == 0:
        head = f"{hundred} hundred and"
    elif language == 1:
        head = f"{hundred.removesuffix('s')}hundert"
    else:
        one = {2: "cent", 3: "ciento"}[language]
        head = one if number < 200 else f"{hundred} cents" if language == 2 else f"{hundred}cientos"
    return head if not number % 100 else f"{head} {rest}"


def words(part: str, count: int) -> Arrays:
    """``ids`` of characters and ``mask``, int64 [n, 48]; ``labels`` [n], the language. Each has a typing error."""
    rng = np.random.default_rng((4, len(part)))
    ids, labels = np.zeros((count, LONGEST), np.int64), rng.integers(0, 4, count)
    mask = np.zeros((count, LONGEST), np.int64)
    for row, (number, language) in enumerate(zip(rng.integers(0, 1000, count), labels, strict=True)):
        text = list(_spoken(int(number), int(language))[:LONGEST])
        text[rng.integers(len(text))] = ALPHABET[rng.integers(len(ALPHABET))]
        ids[row, : len(text)] = [ALPHABET.index(letter) for letter in text]
        mask[row, : len(text)] = 1
    return {"ids": ids, "mask": mask, "labels": labels}


def letters(part: str, count: int) -> Arrays:
    """``ids`` of characters and ``labels``, the language of each, int64 [n, 64]; -1 for spaces and beyond the end."""
    rng = np.random.default_rng((5, len(part)))
    ids, labels = np.zeros((count, MANY), np.int64), np.full((count, MANY), -1)
    for row in range(count):
        place = 0
        while place < MANY - 8:
            language = int(rng.integers(0, 4))
            text = _spoken(int(rng.integers(0, 1000)), language)[: MANY - place]
            found = [ALPHABET.index(letter) for letter in text]
            ids[row, place : place + len(text)] = found
            labels[row, place : place + len(text)] = np.where(np.array(found) > 0, language, -1)
            place += len(text) + 1
    return {"ids": ids, "labels": labels}


def lines(part: str, count: int) -> Arrays:
    """``input`` [n, 1, 14, 64] and ``labels`` [n, 5], the classes 1 .. 10 from left to right; -1 beyond the last."""
    pictures, classes = pieces(part)
    rng = np.random.default_rng((6, len(part)))
    found, labels = np.zeros((count, 14, LINE), np.uint8), np.full((count, MOST), -1)
    for row in range(count):
        number = int(rng.integers(2, MOST + 1))
        chosen = rng.integers(0, len(pictures), number)
        edges = np.sort(rng.integers(0, LINE - 12 * number + 1, number)) + 12 * np.arange(number)
        for piece, left in zip(chosen, edges, strict=True):
            small = Image.fromarray(pictures[piece]).resize((12, 14))
            found[row, :, left : left + 12] = np.asarray(small)
        labels[row, :number] = classes[chosen] + 1
    noise = rng.integers(0, 32, found.shape).astype(np.uint8)
    return {"input": np.maximum(found, noise)[:, None], "labels": labels}


TASKS: dict[str, Callable[[str, int], Arrays]] = {
    "segments": segments,
    "objects": objects,
    "tags": tags,
    "signals": signals,
    "kinds": kinds,
    "words": words,
    "letters": letters,
    "lines": lines,
}


def write(task: str, folder: Path, count: int, part: str = "val") -> None:
    """The data of a task as files."""
    data = TASKS[task](part, count)
    folder.mkdir(parents=True, exist_ok=True)
    if task in ("segments", "objects", "tags"):
        _images(folder / "images", data["input"][:, 0])
    if task == "segments":
        _images(folder / "masks", data["labels"])
    elif task == "objects":
        (folder / "boxes.json").write_text(json.dumps(_coco(data)))
    elif task == "tags":
        _table(folder / "tags.csv", [f"{row:05}.png" for row in range(count)], data["labels"])
    elif task == "signals":
        np.save(folder / "signals.npy", data["input"])
        np.savetxt(folder / "values.csv", data["labels"], delimiter=",", header="periods,decay", comments="")
    else:  # arrays are what a model takes, pixels 0..1 for one
        np.savez(folder / "data.npz", **{k: np.float32(x / 255) if x.dtype == np.uint8 else x for k, x in data.items()})


def _images(folder: Path, pixels: Array) -> None:
    folder.mkdir(exist_ok=True)
    for earlier in folder.glob("[0-9]*.png"):  # of a larger set
        earlier.unlink()
    for row, picture in enumerate(pixels):
        Image.fromarray(np.asarray(picture, np.uint8)).save(folder / f"{row:05}.png")


def _table(file: Path, names: list[str], values: Array) -> None:
    rows = (f"{name},{','.join(map(str, row))}" for name, row in zip(names, values.tolist(), strict=True))
    file.write_text("\n".join(rows) + "\n")


def _coco(data: Arrays) -> dict[str, list[dict[str, object]]]:
    images = [
        {"id": row, "file_name": f"{row:05}.png", "width": CANVAS, "height": CANVAS}
        for row in range(len(data["input"]))
    ]
    annotations = [  # an "id" of 0 is no match to pycocotools
        {"id": len(data["classes"]) * place + row + 1, "image_id": row, "category_id": int(number),
         "bbox": box.tolist(), "area": int(box[2] * box[3]), "iscrowd": 0}
        for row, (classes, boxes) in enumerate(zip(data["classes"], data["boxes"], strict=True))
        for place, (number, box) in enumerate(zip(classes, boxes, strict=True))
        if number
    ]  # fmt: skip
    names = ("top", "trousers or dress", "shoe", "bag")
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=1500)
    parser.add_argument("--part", choices=sorted(PIECES), default="val")
    chosen = parser.parse_args()
    write(chosen.task, chosen.folder, chosen.samples, chosen.part)
