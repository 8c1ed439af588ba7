"""Train the models of models/tasks/ on the data of `models/task_data.py`, and record what they reach.

    OMP_NUM_THREADS=1 python models/train_tasks.py [TASK ...]

PyTorch (development only), seeded; AdamW with a one-cycle rate, a minute or two for each on one thread. Writes
tasks/TASK.onnx and its entry in models/MANIFEST.json: a figure of quality on 1,000 samples of the part val.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import task_data
import torch
import torch.nn.functional as F  # noqa: N812 - as PyTorch calls it
from torch import Tensor, nn

HERE = Path(__file__).parent
MANIFEST, FOLDER = HERE / "MANIFEST.json", HERE / "tasks"
CELLS, STRIDE, CLASSES = 12, 4, 4


def block(before: int, after: int, stride: int = 1) -> nn.Sequential:
    """Convolution, normalization, ReLU."""
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU())


class Segments(nn.Module):
    """A small U-Net: [n, 1, 48, 48] -> scores [n, 5, 48, 48]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = block(1, 16), block(16, 32, 2), block(32, 64, 2)
        self.up2, self.up1, self.head = block(96, 32), block(48, 16), nn.Conv2d(16, 5, 1)

    def forward(self, input: Tensor) -> Tensor:
        """As the class says."""
        one = self.first(input)
        two = self.second(one)
        three = self.third(two)
        two = self.up2(torch.cat([F.interpolate(three, scale_factor=2.0), two], 1))
        return self.head(self.up1(torch.cat([F.interpolate(two, scale_factor=2.0), one], 1)))


class Objects(nn.Module):
    """One box a cell of 4 x 4 pixels: [n, 1, 48, 48] -> [n, 4 + classes, 144], centre, size and scores, before NMS."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(block(1, 24), block(24, 32, 2), block(32, 64), block(64, 64, 2), block(64, 64))
        self.head = nn.Conv2d(64, 4 + CLASSES, 1)
        steps = STRIDE * (torch.arange(CELLS) + 0.5)
        self.register_buffer("centres", torch.stack(torch.meshgrid(steps, steps, indexing="xy")).reshape(1, 2, -1))

    def raw(self, input: Tensor) -> Tensor:
        """Before activations."""
        return self.head(self.body(input)).flatten(2)

    def boxes(self, raw: Tensor) -> Tensor:
        """Centre and size in pixels."""
        return torch.cat([self.centres + STRIDE * raw[:, :2], 16 * torch.exp(raw[:, 2:4])], 1)

    def forward(self, input: Tensor) -> Tensor:
        """As the class says."""
        raw = self.raw(input)
        return torch.cat([self.boxes(raw), torch.sigmoid(raw[:, 4:])], 1)


class Tags(nn.Module):
    """[n, 1, 56, 56] -> logits [n, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(block(1, 24, 2), block(24, 32), block(32, 48, 2), block(48, 64), nn.MaxPool2d(7))
        self.head = nn.Linear(256, 10)

    def forward(self, input: Tensor) -> Tensor:
        """As the class says."""
        return self.head(self.body(input).flatten(1))


class Signals(nn.Module):
    """[n, 1, 256] -> values [n, 2]."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((1, 24), (24, 32), (32, 48), (48, 48)):
            layers += [nn.Conv1d(before, after, 5, 2, 2), nn.BatchNorm1d(after), nn.ReLU()]
        self.body, self.head = nn.Sequential(*layers), nn.Sequential(nn.Linear(768, 64), nn.ReLU(), nn.Linear(64, 2))
        self.register_buffer("spread", torch.tensor([6.0, 1.2]))
        self.register_buffer("middle", torch.tensor([13.5, 2.0]))

    def forward(self, input: Tensor) -> Tensor:
        """As the class says."""
        return self.middle + self.spread * self.head(self.body(input).flatten(1))


class Kinds(nn.Module):
    """[n, 1, 28, 28] -> unit vectors [n, 32]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(block(1, 24), block(24, 32, 2), block(32, 48), block(48, 64, 2), nn.AvgPool2d(7))
        self.head = nn.Linear(64, 32)

    def forward(self, input: Tensor) -> Tensor:
        """As the class says."""
        vectors = self.head(self.body(input).flatten(1))
        return vectors / vectors.square().sum(1, keepdim=True).clamp_min(1e-9).sqrt()


class Words(nn.Module):
    """Characters: ids and mask int64 [n, 48] -> logits [n, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(len(task_data.ALPHABET), 24)
        self.body = nn.Sequential(nn.Conv1d(24, 48, 3, 1, 1), nn.ReLU(), nn.Conv1d(48, 48, 3, 1, 1), nn.ReLU())
        self.head = nn.Linear(48, 4)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """As the class says."""
        there = mask.unsqueeze(1).float()
        features = self.body(self.table(ids).transpose(1, 2) * there) * there
        return self.head(features.sum(2) / there.sum(2).clamp_min(1))


class Letters(nn.Module):
    """Characters: ids int64 [n, 64] -> logits [n, 64, 4], by two LSTM layers in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(len(task_data.ALPHABET), 24)
        self.body = nn.LSTM(24, 64, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(128, 4)

    def forward(self, ids: Tensor) -> Tensor:
        """As the class says."""
        return self.head(self.body(self.table(ids))[0])


class Lines(nn.Module):
    """A CRNN: [n, 1, 14, 64] -> logarithms of probabilities [32, n, 11], steps first; symbol 0 is the blank of CTC."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(block(1, 16), nn.MaxPool2d(2), block(16, 32), nn.MaxPool2d((7, 1)))
        self.steps, self.head = nn.LSTM(32, 48, bidirectional=True), nn.Linear(96, 11)

    def forward(self, input: Tensor) -> Tensor:
        """As the class says."""
        steps = self.body(input).squeeze(2).permute(2, 0, 1)
        return F.log_softmax(self.head(self.steps(steps)[0]), 2)


def lines_loss(net: nn.Module, feeds: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """Connectionist temporal classification."""
    found, labels = net(**feeds), targets["labels"]
    steps = torch.full((len(labels),), len(found))
    return F.ctc_loss(found, labels.clamp_min(0), steps, (labels > 0).sum(1), zero_infinity=True)


def objects_loss(net: nn.Module, feeds: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """The cell at the middle of a thing answers for it."""
    raw = net.raw(feeds["input"])
    corner, size, numbers = targets["boxes"][..., :2].float(), targets["boxes"][..., 2:].float(), targets["classes"]
    middle = corner + size / 2
    places = (middle / STRIDE).long().clamp(0, CELLS - 1)
    cells, there = places[..., 1] * CELLS + places[..., 0], numbers > 0
    rows = torch.arange(len(numbers))[:, None].expand_as(cells)[there]
    wanted = torch.zeros(len(numbers), CLASSES, CELLS**2)
    wanted[rows, numbers[there] - 1, cells[there]] = 1
    scores = raw[:, 4:]
    chance = torch.sigmoid(scores.detach())
    focal = torch.where(wanted > 0, 1 - chance, chance).square()
    classes = F.binary_cross_entropy_with_logits(scores, wanted, focal, reduction="sum") / there.sum()
    guess = net.boxes(raw)[rows, :, cells[there]]
    return classes + 0.2 * F.l1_loss(guess, torch.cat([middle, size], 2)[there])


def kinds_loss(net: nn.Module, feeds: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """Each vector should be nearer to those of its class than to the others in the batch."""
    vectors = net(**feeds)
    near = 10 * vectors @ vectors.T - 1e4 * torch.eye(len(vectors))
    same = (targets["labels"][:, None] == targets["labels"][None]).float() - torch.eye(len(vectors))
    return -(F.log_softmax(near, 1) * same).sum(1).div(same.sum(1).clamp_min(1)).mean()


Loss = Callable[[nn.Module, Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Task:
    """A network, its loss, samples and epochs; ``quality`` of (outputs, data), and its name."""

    network: Callable[[], nn.Module]
    loss: Loss
    samples: int
    epochs: int
    name: str
    quality: Callable[[np.ndarray, Mapping[str, np.ndarray]], float]
    output: str = "logits"
    axis: int = 0  # of samples in the output


def of_output(loss: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    """A loss of the one output and ``labels``."""
    return lambda net, feeds, targets: loss(net(**feeds), targets["labels"])


def miou(outputs: np.ndarray, data: Mapping[str, np.ndarray]) -> float:
    """Mean over classes of intersection over union."""
    found, labels = outputs.argmax(1), data["labels"]
    return float(
        np.mean([((found == c) & (labels == c)).sum() / ((found == c) | (labels == c)).sum() for c in range(5)])
    )


def f1(outputs: np.ndarray, data: Mapping[str, np.ndarray]) -> float:
    """Mean over tags."""
    found, there = outputs > 0, data["labels"] > 0
    return float(np.mean(2 * (found & there).sum(0) / (found.sum(0) + there.sum(0))))


def rmse(outputs: np.ndarray, data: Mapping[str, np.ndarray]) -> float:
    """Root mean square error of all values."""
    return float(np.sqrt(np.square(outputs - data["labels"]).mean()))


def recall(outputs: np.ndarray, data: Mapping[str, np.ndarray]) -> float:
    """Share of vectors whose nearest other one is of their class."""
    near = outputs @ outputs.T - 9 * np.eye(len(outputs))
    return float((data["labels"][near.argmax(1)] == data["labels"]).mean())


def top1(outputs: np.ndarray, data: Mapping[str, np.ndarray]) -> float:
    """Share of right answers."""
    return float((outputs.argmax(1) == data["labels"]).mean())


def found_objects(outputs: np.ndarray, data: Mapping[str, np.ndarray]) -> float:
    """Share of the things whose best cell has their class, a score of 0.3 and an overlap of half."""
    hits = count = 0
    for rows, boxes, classes in zip(outputs, data["boxes"], data["classes"], strict=True):
        for (x, y, w, h), number in zip(boxes, classes, strict=True):
            if not number:
                continue
            sure = rows[3 + number] > 0.3
            cx, cy, width, height = rows[:4]
            across = np.minimum(cx + width / 2, x + w) - np.maximum(cx - width / 2, x)
            down = np.minimum(cy + height / 2, y + h) - np.maximum(cy - height / 2, y)
            both = across.clip(0) * down.clip(0)
            hits, count = hits + bool((sure & (both > 0.5 * (w * h + width * height - both))).any()), count + 1
    return hits / count


def tokens(outputs: np.ndarray, data: Mapping[str, np.ndarray]) -> float:
    """Share of letters whose language is right."""
    there = data["labels"] >= 0
    return float((outputs.argmax(2) == data["labels"])[there].mean())


def cer(outputs: np.ndarray, data: Mapping[str, np.ndarray]) -> float:
    """Edits that turn what was read into what is there, by dynamic programming, over all symbols that are there."""
    edits = count = 0
    for steps, labels in zip(outputs.argmax(2), data["labels"], strict=True):
        read = [symbol for symbol, _ in itertools.groupby(steps.tolist()) if symbol]
        there = labels[labels > 0].tolist()
        row = list(range(len(there) + 1))
        for number, symbol in enumerate(read, 1):
            last, row[0] = row[0], number
            for place, wanted in enumerate(there, 1):
                last, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, last + (symbol != wanted))
        edits, count = edits + row[-1], count + len(there)
    return edits / count


TASKS = {
    "segments": Task(Segments, of_output(lambda x, y: F.cross_entropy(x, y.long())), 3000, 6, "miou", miou, "scores"),
    "objects": Task(Objects, objects_loss, 4000, 8, "found at IoU 0.5", found_objects, "detections"),
    "tags": Task(
        Tags, of_output(lambda x, y: F.binary_cross_entropy_with_logits(x, y.float())), 6000, 8, "f1", f1, "logits"
    ),
    "signals": Task(
        Signals, of_output(lambda x, y: F.smooth_l1_loss(x / 6, y.float() / 6)), 10000, 12, "rmse", rmse, "values"
    ),
    "kinds": Task(Kinds, kinds_loss, 8000, 6, "recall@1", recall, "vectors"),
    "words": Task(Words, of_output(F.cross_entropy), 8000, 6, "top1", top1),
    "letters": Task(
        Letters,
        of_output(lambda x, y: F.cross_entropy(x.flatten(0, 1), y.flatten(), ignore_index=-1)),
        4000,
        6,
        "token-accuracy",
        tokens,
    ),
    "lines": Task(Lines, lines_loss, 6000, 16, "cer", cer, "symbols", 1),
}
BATCH = 64


def as_feeds(task: str, data: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The inputs of a model; pixels become 0..1."""
    names = {"words": ("ids", "mask"), "letters": ("ids",)}.get(task, ("input",))
    tensors = {name: torch.from_numpy(np.ascontiguousarray(data[name])) for name in names}
    return {name: x.float() / 255 if x.dtype == torch.uint8 else x for name, x in tensors.items()}


def train(name: str) -> dict[str, object]:
    """Train a model, export it, and say what it reached."""
    task, start = TASKS[name], time.perf_counter()
    torch.manual_seed(0)
    data = task_data.TASKS[name]("train", task.samples)
    feeds = as_feeds(name, data)
    targets = {key: torch.from_numpy(x) for key, x in data.items() if key not in feeds}
    net = task.network()
    optimizer = torch.optim.AdamW(net.parameters(), 4e-3, weight_decay=1e-2)
    steps = task.epochs * (task.samples // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    for epoch in range(task.epochs):
        order, total = torch.randperm(task.samples)[: task.samples // BATCH * BATCH], 0.0
        for rows in order.split(BATCH):
            loss = task.loss(net, {k: x[rows] for k, x in feeds.items()}, {k: x[rows] for k, x in targets.items()})
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss)
        print(
            f"{name}, epoch {epoch}: loss {total * BATCH / len(order):.4f}, {time.perf_counter() - start:.0f} s",
            flush=True,
        )
    return {"training_seconds": round(time.perf_counter() - start), **export(name, task, net.eval(), feeds)}


def export(name: str, task: Task, net: nn.Module, feeds: Mapping[str, Tensor]) -> dict[str, object]:
    """Write a trained model, and measure it."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.onnx"
    few = {key: x[:2] for key, x in feeds.items()}
    torch.onnx.export(
        net, tuple(few.values()), str(path), input_names=list(few), output_names=[task.output], opset_version=17,
        dynamic_axes={**{key: {0: "n"} for key in few}, task.output: {task.axis: "n"}}, dynamo=False,
    )  # fmt: skip
    onnx.checker.check_model(str(path))
    data = task_data.TASKS[name]("val", 1000)
    with torch.no_grad():
        outputs = torch.cat(
            [net(*parts) for parts in zip(*(x.split(100) for x in as_feeds(name, data).values()), strict=True)],
            task.axis,
        )
    quality = round(task.quality(np.moveaxis(outputs.numpy(), task.axis, 0), data), 4)
    print(f"{name}: {task.name} {quality}, {path.stat().st_size / 1e3:.0f} kB", flush=True)
    recipe = {"samples": task.samples, "epochs": task.epochs, "batch": BATCH, "peak_rate": 4e-3, "seed": 0}
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"quality": {task.name: quality}, "recipe": recipe, "sha256": digest, "torch": torch.__version__}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=sorted(TASKS))
    torch.set_num_threads(1)
    for chosen in parser.parse_args().tasks:
        entry = train(chosen)
        manifest = json.loads(MANIFEST.read_text()) | {f"tasks/{chosen}.onnx": entry}
        MANIFEST.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
