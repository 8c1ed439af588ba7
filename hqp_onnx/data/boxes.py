"""Boxes around objects, from a JSON file as COCO writes it: images, annotations and categories.

Categories are classes 0 .. C - 1 in the order of their ids. A box (x, y, width, height) in pixels of the stored image
becomes x1, y1, x2, y2 in pixels of the model's input; one that the preprocessing cuts away is left out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hqp_onnx.arrays import Array
from hqp_onnx.data.geometry import Geometry
from hqp_onnx.errors import DataError, one_line
from hqp_onnx.files import read_text, sha256


@dataclass(frozen=True, slots=True)
class Objects:
    """What an image shows: boxes float64 [n, 4] as x1, y1, x2, y2; classes, crowd and area [n]; and its size."""

    boxes: Array
    classes: Array
    crowd: Array
    area: Array
    size: tuple[int | None, int | None]


@dataclass(frozen=True)
class Boxes:
    """The objects of each image, in the order of the samples.

    Targets: 'boxes' float32 [samples, most, 4], 'classes' int64, -1 where there is no object, 'crowd' bool and 'area'
    float32, all [samples, most]; ``most`` is the largest number of objects in an image.
    """

    file: Path
    objects: Sequence[Objects]
    per_sample: Mapping[str, Array] = field(default_factory=dict)

    def of(self, position: int, geometry: Geometry) -> Mapping[str, Array]:
        """The objects of one image, moved as that was."""
        own = self.objects[position]
        for have, said, side in zip((geometry.width, geometry.height), own.size, ("wide", "high"), strict=True):
            if said is not None and have != said:
                raise DataError(f"{self.file}: says that image {position} is {said} pixels {side}, and it is {have}")
        moved = geometry.boxes(own.boxes)
        seen = ((moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])).nonzero()[0]
        most = max((len(each.classes) for each in self.objects), default=0)
        scale = geometry.resized[0] * geometry.resized[1] / (geometry.width * geometry.height)
        targets: dict[str, Array] = {
            "boxes": np.zeros((most, 4), np.float32),
            "classes": np.full(most, -1, np.int64),
            "crowd": np.zeros(most, np.bool_),
            "area": np.zeros(most, np.float32),
        }
        kept = {"boxes": moved, "classes": own.classes, "crowd": own.crowd, "area": own.area * scale}
        for name, values in kept.items():
            targets[name][: len(seen)] = values[seen]
        return targets

    def digest(self) -> str:
        """Of the file."""
        return sha256(self.file)


def open_boxes(file: Path, images: Sequence[Path], root: Path) -> Boxes:
    """The objects of ``images``, which lie under ``root``; a file name of the JSON is a path under it, or a bare name.

    Raises:
        DataError: the file is not COCO's, or does not know an image.
    """
    try:
        content = json.loads(read_text(file))
        objects = _objects(content)
    except (ValueError, RecursionError) as e:
        raise DataError(f"{file}: not a readable JSON file: {one_line(e)}") from e
    except (KeyError, TypeError, AttributeError) as e:
        raise DataError(
            f"{file}: not COCO's JSON: expected 'images' (id, file_name), 'annotations' (image_id, category_id, bbox) "
            f"and 'categories' (id): {type(e).__name__}: {one_line(e)}"
        ) from e
    chosen = []
    for image in images:
        own = objects.get(image.relative_to(root).as_posix(), objects.get(image.name))
        if own is None:
            raise DataError(
                f"{file}: names no image '{image.name}' of {root} in its 'images'. Leave that out of the folder, or "
                "give another file of targets"
            )
        chosen.append(own)
    return Boxes(file, chosen)


def _objects(content: Mapping[str, Any]) -> dict[str, Objects]:
    """What each image shows, by its path as the file has it, and by its bare name where that is the only one."""
    annotations: dict[Any, list[Mapping[str, Any]]] = {image["id"]: [] for image in content["images"]}
    for each in content["annotations"]:
        if each["image_id"] not in annotations:
            raise KeyError(f"annotation of an unknown image {each['image_id']}")
        annotations[each["image_id"]].append(each)
    ids = {each["id"] for each in content.get("categories") or ()} or {a["category_id"] for a in content["annotations"]}
    number = {category: place for place, category in enumerate(sorted(ids))}
    found: dict[str, Objects] = {}
    names = [image["file_name"].rpartition("/")[2] for image in content["images"]]
    times = Counter(names)
    for image, name in zip(content["images"], names, strict=True):
        own = _shown(annotations[image["id"]], number, (image.get("width"), image.get("height")))
        found[image["file_name"]] = own
        if times[name] == 1:
            found[name] = own
    return found


def _shown(
    annotations: Sequence[Mapping[str, Any]], number: Mapping[Any, int], size: tuple[int | None, int | None]
) -> Objects:
    boxes = np.array([each["bbox"] for each in annotations], np.float64).reshape(-1, 4)
    if not np.isfinite(boxes).all() or len(boxes) != len(annotations):
        raise TypeError("a 'bbox' that is not four numbers")
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    area = [each.get("area", width * height) for each, (_, _, width, height) in zip(annotations, boxes, strict=True)]
    return Objects(
        corners,
        np.array([number[each["category_id"]] for each in annotations], np.int64),
        np.array([bool(each.get("iscrowd", 0)) for each in annotations], np.bool_),
        np.array(area, np.float64),
        size,
    )
