"""Rows of a drawing: what repeats is drawn once, nothing is lost, and rows read rows above them."""

from __future__ import annotations

from hqp_onnx.job.results import Layer, Step
from hqp_onnx.report.html.folding import folded
from hqp_onnx.report.html.lanes import lanes


def _residual(blocks: int, widths: tuple[int, ...] = (64,)) -> tuple[list[Step], dict[str, Layer]]:
    """An input, a first layer, ``blocks`` residual blocks of two layers for each width, an output."""
    steps, layers = [Step("input", "input")], {}

    def layer(width: int, read: int) -> None:
        name = f"w{len(steps)}"
        layers[name] = Layer(name, "Conv", (width, 8, 3, 3), width, width, len(layers) % 7)
        steps.append(Step(f"n{len(steps)}", "Conv", (read,), name, "int8"))

    layer(8, 0)
    for width in widths:
        for _ in range(blocks):
            start = len(steps) - 1
            layer(width, start)
            layer(width, len(steps) - 1)
            steps.append(Step(f"n{len(steps)}", "Add", (start, len(steps) - 1), precision="int8"))
    steps.append(Step("output", "output", (len(steps) - 1,)))
    return steps, layers


def test_blocks_that_repeat_are_drawn_once() -> None:
    steps, layers = _residual(50, (64, 128))
    rows = folded(steps, layers)
    assert [row.times for row in rows] == [1, 1, 50, 50, 50, 50, 50, 50, 1]
    assert sorted(step for row in rows for step in row.steps) == list(range(len(steps)))
    assert {len({steps[step].op for step in row.steps}) for row in rows} == {1}
    assert [row.reads for row in rows] == [(), (0,), (1,), (2,), (1, 3), (4,), (5,), (4, 6), (7,)]
    assert [row.block for row in rows] == [None, None, 0, 0, 0, 1, 1, 1, None]


def test_what_differs_in_width_is_not_folded() -> None:
    steps, layers = _residual(1, tuple(range(8, 8 + 30)))
    assert len(folded(steps, layers, many=1000)) == len(steps)


def test_a_mask_that_every_block_reads_does_not_keep_blocks_apart() -> None:
    steps = [Step("x", "input"), Step("mask", "input")]
    for _ in range(12):
        last = len(steps) - 1 if len(steps) > 2 else 0
        steps += [Step("", "MatMul", (last,)), Step("", "Add", (1, len(steps)))]
    rows = folded(steps, {})
    assert [row.times for row in rows] == [1, 1, 1, 11, 11, 1]  # from the first Add to the last MatMul


def test_long_lines_of_layers_are_one_row() -> None:
    steps, layers = [Step("input", "input")], {}
    for number in range(200):
        width = 8 + number  # nothing repeats
        layers[f"w{number}"] = Layer(f"w{number}", "Conv", (width, 8, 3, 3), width, width, 0)
        read = (number,) if number != 100 else (50, number)  # a way around fifty of them
        steps.append(Step(f"n{number}", "Conv", read, f"w{number}"))
    rows = folded(steps, layers)
    assert [len(row.steps) for row in rows] == [1, 50, 50, 100]
    assert [row.reads for row in rows] == [(), (0,), (1,), (1, 2)]


def test_lanes_keep_what_is_still_read() -> None:
    reads = [(), (0,), (1,), (0, 2), (3,), (3, 4), ()]
    found = lanes(reads)
    assert found.of == (0, 1, 1, 0, 1, 0, 0)
    assert found.count == 2
    for row, reading in enumerate(reads):  # no row between stands in the lane of a result that is still to be read
        for read in reading:
            between = {found.of[other] for other in range(read + 1, row)}
            assert found.of[read] not in between
