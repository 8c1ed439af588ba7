"""The page of a real report: well-formed, self-contained, readable by machines and people, true to report.json."""

from __future__ import annotations

import base64
import io
import re
import shutil
import unicodedata
from dataclasses import fields, replace
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from command import hqp
from PIL import Image
from polygraphy_host import host_environment, sh

from hqp_onnx.errors import DataError
from hqp_onnx.job.results import EngineRow, Frozen, Judged, Point, Report, Row, Step
from hqp_onnx.report.html import render
from hqp_onnx.report.html.commands import recipes
from hqp_onnx.report.html.plot import Scale, ticks
from hqp_onnx.report.reading import read_report
from hqp_onnx.report.words import result
from hqp_onnx.steps.export import export

VOID = {"meta", "br", "img"}


class Page(HTMLParser):
    """Every element with its attributes and all text inside it; raises where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[dict[str, Any]] = []
        self.elements: list[dict[str, Any]] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = {"tag": tag, "text": "", "inside": [e["tag"] for e in self.open], **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element["text"] += data

    def all(self, tag: str, **attributes: str) -> list[dict[str, Any]]:
        return [e for e in self.elements if e["tag"] == tag and attributes.items() <= e.items()]


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    return read_report(folder)


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text())


def test_the_file_stands_alone(folder: Path, page: Page) -> None:
    text = (folder / "report.html").read_text()
    assert text.startswith("<!doctype html>")
    assert not re.search(r"https?:|url\(|@import|src=(?!\"data:image/png;base64,)|href=", text)
    assert not page.all("script") + page.all("link")
    assert len(text) < 200_000


def test_people_and_screen_readers_get_every_figure_in_words(page: Page) -> None:
    assert page.all("html", lang="en")
    identifiers = [element["id"] for element in page.elements if "id" in element]
    assert len(identifiers) == len(set(identifiers))
    by_id = {element["id"]: element for element in page.elements if "id" in element}
    images, figures = page.all("svg"), page.all("figure")
    assert [figure["id"] for figure in figures] == [
        *("network", "times", "latency", "budget", "trials", "layers", "saliency")
    ]
    assert len(images) == len(page.all("figcaption")) == len(figures)
    for image in images:
        assert image["role"] == "img"
        assert all(by_id[name]["text"].strip() for name in image["aria-labelledby"].split())
    assert all(len(caption["text"]) > 40 for caption in page.all("figcaption"))
    tables = page.all("table")
    assert sum("figure" in table["inside"] for table in tables) == len(figures)
    assert len(page.all("caption")) == len(tables)
    levels = [int(e["tag"][1]) for e in page.elements if re.fullmatch(r"h\d", e["tag"])]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_text_and_marks_have_contrast() -> None:
    style = files("hqp_onnx.report.html").joinpath("style.css").read_text()
    light, dark = (
        dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)[:2]
    )
    for colours in (light, dark):
        for back in ("paper", "panel"):
            assert all(contrast(colours[ink], colours[back]) >= 4.5 for ink in ("ink", "quiet"))
        marks = ("main", "other", "removed", "kept", "rest", "bad", "good")
        assert all(contrast(colours[mark], colours["paper"]) >= 3 for mark in marks)


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio."""

    def luminance(colour: str) -> float:
        parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_every_trial_is_a_mark(report: Report, page: Page) -> None:
    accepted = sum(trial.accepted for trial in report.trials)
    assert 0 < accepted < len(report.trials)
    assert len(page.all("circle", **{"class": "accepted"})) == accepted
    assert len(page.all("path", **{"class": "rejected"})) == len(report.trials) - accepted
    limit = 100 * (report.baseline.val_metric - report.max_drop)
    marks = {float(e["cy"]): e["text"] for e in page.all("circle", **{"class": "accepted"})}
    line = next(float(e["y1"]) for e in page.all("line", **{"class": "limit"}) if e["y1"] == e["y2"])
    assert all((y <= line) == (float(re.search(r"removed, ([\d.]+) %", says)[1]) >= limit) for y, says in marks.items())


def test_layers_are_the_widths_of_the_written_model(folder: Path, report: Report, page: Page) -> None:
    before, after = (
        {t.name: t.dims for t in onnx.load(path).graph.initializer}
        for path in (folder.parent / "model.onnx", folder / "pruned.onnx")
    )
    known = [layer for layer in report.layers if layer.weight in after]
    assert [layer.weight for layer in report.layers] == ["w1", "w2", "w3", "w4"]
    bars = [e for e in page.all("rect", **{"class": "removed"}) if " frozen" in e["text"]]
    assert [float(e["height"]) / 160 for e in bars] == pytest.approx(
        [layer.removed / layer.channels for layer in report.layers], abs=1e-4
    )
    for layer in known:
        assert layer.shape == tuple(before[layer.weight])
        assert layer.removed == before[layer.weight][0] - after[layer.weight][0]
    assert sum(layer.removed for layer in known) > 0
    assert report.layers[-1].prunable == 0
    assert report.frozen == (Frozen("graph output 'logits'", 4, ("d4", "w4")),)


def test_the_network_is_drawn_as_it_was_written(folder: Path, report: Report, page: Page) -> None:
    """Ways, precisions and widths, by the files alone."""
    assert [(step.op, step.reads) for step in report.network] == [
        ("input", ()),
        *(("Conv", (0,)), ("Conv", (1,)), ("Conv", (2,)), ("Add", (1, 3)), ("Gemm", (4,)), ("output", (5,))),
    ]
    assert [step.weight for step in report.network if step.weight] == ["w1", "w2", "w3", "w4"]
    first, second, third, _ = (step.group for step in report.network if step.weight)
    assert first == third == 0 and second is None  # the Add ties them
    assert report.network[-2].stays == {"graph output 'logits'": 4}
    shipped = onnx.load(folder / "int8.onnx").graph
    integers = {n.name for n in shipped.node if any(name.endswith("dequantized") for name in n.input)}
    drawn = {step.name: step.precision == "int8" for step in report.network if step.weight}
    assert drawn == {name: name in integers for name in drawn}
    assert any(drawn.values())
    rows = [e for e in page.all("g") if e["inside"][-2:] == ["figure", "svg"]]
    assert len(rows) == len(report.network)
    assert sum("channels, " in row["text"] for row in rows) == 4
    assert "graph output 'logits'" in rows[-2]["text"]
    for layer, row in zip(report.layers, (row for row in rows if "channels, " in row["text"]), strict=True):
        assert f"{layer.channels} channels, {layer.channels - layer.removed} after" in row["text"]
    assert len(page.all("path", **{"class": "way"})) == sum(len(s.reads) for s in report.network)


def test_a_network_of_many_layers_stays_readable(folder: Path, report: Report) -> None:
    layer, start = report.layers[0], report.network[0]
    names = [f"w{number}" for number in range(200)]
    layers = tuple(replace(layer, weight=name, removed=n % 5) for n, name in enumerate(names))
    steps = (start, *(Step(f"n{n}", "Conv", (n,), name, "int8") for n, name in enumerate(names)))
    shown = Page(render(replace(report, layers=layers, network=steps), folder))
    rows = [e for e in shown.all("g") if e["inside"][-2:] == ["figure", "svg"]]
    assert len(rows) == 3  # the input, the layer that reads it, all others
    assert "×199" in [e["text"] for e in shown.all("text")]
    table = next(e for e in shown.all("table") if "Every step" in e["text"])
    assert all(f": {name}" in table["text"] for name in names)


def test_samples_that_changed_are_shown(folder: Path, report: Report, page: Page) -> None:
    assert report.changes is not None and report.changes.worse > 0
    shown = report.changes.shown
    assert 0 < len(shown) == min(report.changes.worse, 12)
    assert len(page.all("img")) == len(shown)
    data = np.load(folder.parent / "data.npz")["input"]
    before, after = (
        ort.InferenceSession(path).run(None, {"input": data})[0].argmax(1)
        for path in (folder.parent / "model.onnx", report.shipped)
    )
    assert report.changes.worse == (before != after).sum()
    for change in shown:
        assert change.answers == (before[change.sample], after[change.sample])
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(change.picture))), float)
        original = data[change.sample, 0].astype(float)
        levels = (original - original.min()) / np.ptp(original)
        assert np.abs(picture / 255 - levels).max() < 1 / 200


def test_the_histogram_counts_every_prunable_unit(folder: Path, report: Report) -> None:
    found = report.saliency_histogram
    counted = [*found.kept, *found.removed, *found.not_positive, *found.unknown]
    assert sum(counted) == report.units.prunable
    assert sum(found.removed) + found.not_positive[1] + found.unknown[1] == report.units.removed
    scores = np.load(folder / ".cache" / "scores.npz")["unit"]
    assert found.edges[-1] <= np.log10(scores.max()) + 1e-9


def test_the_first_line_is_that_of_the_terminal(report: Report, page: Page) -> None:
    (first,) = page.all("p", **{"class": "result"})
    assert first["text"] == f"{result(report)}." and "times as fast" in first["text"]


def test_the_family_is_drawn_from_slow_to_fast(folder: Path, report: Report) -> None:
    """Each mark lies where its speed and its drop are, and names its file."""
    values = {"pareto/1.onnx": (1.5, 0.01), "pareto/2.onnx": (3.0, 0.02), "pareto/3.onnx": (4.0, 0.06)}
    row = {field.name: getattr(report.pruned, field.name) for field in fields(Row)}
    points = tuple(Point(**{**row, "speedup": s, "drop": d, "file": file}) for file, (s, d) in values.items())
    shown = Page(render(replace(report, pareto=points), folder))
    marks = {e["text"].partition(": ")[0]: e for e in shown.all("circle", **{"class": "accepted"})}
    places = [(float(marks[name]["cx"]), float(marks[name]["cy"])) for name in ("the input", *values)]
    speeds, drops = zip((1.0, 0.0), *values.values(), strict=True)
    for found, wanted, way in zip(zip(*places, strict=True), (speeds, drops), (1, -1), strict=True):
        scale = (found[-1] - found[0]) / (wanted[-1] - wanted[0])
        assert way * scale > 0  # to the right, and up, where y is smaller
        assert found == pytest.approx([found[0] + scale * (value - wanted[0]) for value in wanted], abs=0.02)
    (table,) = (e for e in shown.all("table") if "The family" in e["text"])
    assert all(f"{name}{speed:.2f}×" in table["text"] for name, (speed, _) in values.items())


@pytest.mark.parametrize(
    ("target", "suffix", "first", "words"),
    [
        ("litert", ".tflite", "LiteRT", "Interpreter(model_path={file!r}, num_threads=2)"),
        ("ethos-u55-256", ".tflite", "Ethos-U", "xxd -i {file} > model.h"),
        ("ethos-u55-256", ".onnx", "onnxruntime", "InferenceSession({file!r})"),
        ("cuda", ".onnx", "onnxruntime", "providers=['CUDAExecutionProvider', 'CPUExecutionProvider']"),
        ("onnxruntime:WarpExecutionProvider", ".onnx", "onnxruntime", "providers=['WarpExecutionProvider', "),
        ("openvino", ".onnx", "OpenVINO", '"CPU", {{"INFERENCE_NUM_THREADS": 2}}'),
        ("tensorrt-rtx", ".onnx", "TensorRT", "trtexec"),
    ],
)
def test_the_first_command_is_of_what_it_was_made_for(
    folder: Path, report: Report, target: str, suffix: str, first: str, words: str
) -> None:
    file = (folder / "int8.onnx").with_suffix(suffix)
    rows = {report.ships: replace(report.rows[report.ships], threads=2)}
    other = replace(report, settings={**report.settings, "target": target}, shipped=str(file), **rows)
    if suffix == ".tflite":
        file.touch()
    recipe, *others = recipes(other, folder)
    (folder / "int8.tflite").unlink(missing_ok=True)
    assert recipe.title.startswith(first) and words.format(file=str(file)) in recipe.code
    assert len({one.title for one in (recipe, *others)}) == 5 + (suffix == ".tflite")


def test_the_command_for_litert_runs(folder: Path, report: Report, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    export(folder / "int8.onnx", folder / "int8.tflite", "litert")
    other = replace(report, settings={**report.settings, "target": "litert"}, shipped=str(folder / "int8.tflite"))
    (tmp_path / "block").write_text(recipes(other, folder)[0].code + "\nprint(outputs[0].shape)")
    assert sh(f"python {tmp_path / 'block'}", tmp_path, host_environment(tmp_path)).stdout.strip().endswith("(1, 4)")
    (folder / "int8.tflite").unlink()


def test_an_engine_has_a_row(folder: Path, report: Report) -> None:
    judged = {field.name: getattr(report.hqp, field.name) for field in fields(Judged)}
    engine = EngineRow(**judged, admitted=False, latency_ms=7.0, latency_p99_ms=9.0, batch=8)
    shown = Page(render(replace(report, engine=engine), folder))
    assert "Engine, on the GPU" in [e["text"] for e in shown.all("text", **{"class": "name"})]
    assert [e["text"] for e in shown.all("th", scope="row")].count("Engine, on the GPU") == 2
    assert any(e["text"].endswith("7.000 to 9.000") for e in shown.all("rect", **{"class": "other"}))
    assert shown.all("dd")[0]["text"] == f"{report.hqp.speedup:.2f}×"
    shipped = Page(render(replace(report, engine=replace(engine, admitted=True)), folder))
    assert (shipped.all("dt")[0]["text"], shipped.all("dd")[0]["text"]) == ("batch 8, on the GPU", "7.000 ms")
    assert any("7.000 ms" in e["text"] for e in shipped.all("rect", **{"class": "main"}))


def test_a_recovered_model_is_what_ships(folder: Path, report: Report) -> None:
    (folder / "recovered").mkdir(exist_ok=True)
    shutil.copy(folder / "int8.onnx", folder / "recovered")
    trials = (*report.trials, *(replace(report.trials[-1], trained=True, floats=floats) for floats in (0, 2)))
    row = replace(report.hqp, speedup=77.0, latency_ms=1e-3)
    files = {**report.files, "recovered": "recovered/int8.onnx"}
    recovered = replace(report, recovered=row, trials=trials, ships="recovered", files=files)
    shown = Page(render(recovered, folder))
    assert shown.all("dd")[0]["text"] == "77.00×"
    assert any("HQP + recovery: 0.001 ms" in e["text"] for e in shown.all("rect", **{"class": "main"}))
    assert sum(str(folder / "recovered" / "int8.onnx") in e["text"] for e in shown.all("pre")) == 4
    shutil.rmtree(folder / "recovered")
    with pytest.raises(DataError, match=r"int8\.onnx: no such file"):
        render(recovered, folder)


def test_a_model_with_nothing_to_remove_has_a_page(folder: Path, report: Report) -> None:
    histogram = replace(report.saliency_histogram, kept=(0,) * 24, removed=(0,) * 24)
    nothing = replace(report, layers=(), trials=(), frozen=(), saliency_histogram=histogram)
    shown = Page(render(nothing, folder))
    assert len(shown.all("svg")) == 7
    assert not shown.all("circle", **{"class": "accepted"})


@pytest.mark.parametrize(
    ("name", "shown_as"),
    [
        ('</svg><script>alert("x")</script>&amp;', None),
        ('<!-- \'"--><b a="&lt;">]]>', None),
        ("\0nul \x1b[31mred \x85 \r\x7f", "\u2400nul \u241b[31mred \ufffd \u240d\ufffd"),
        ("not UTF-8 \udcff, turned \u202e round", "not UTF-8 \ufffd, turned \ufffd round"),
    ],
)
def test_names_from_the_model_are_text(folder: Path, report: Report, name: str, shown_as: str | None) -> None:
    """In every place that shows one; signs take the place of what a page cannot hold."""
    layer = replace(report.layers[0], weight=name, op=name, removed=report.layers[0].channels)
    inputs = (replace(report.inputs[0], name=name),)
    frozen, trials = (Frozen(name, 1, (name,)),), (replace(report.trials[0], why=name),)
    evil = replace(report, layers=(layer,), frozen=frozen, inputs=inputs, trials=trials, model=name, notes=(name,))
    evil = replace(evil, settings={**report.settings, "saliency": name, "keep": [name]})
    evil = replace(evil, metric=replace(report.metric, name=name))
    steps = (Step(name, name, (), name, "int8", 0, {name: 1}, 1.0, 0.5, 0.4), Step(name, "output", (0,)))
    evil = replace(evil, network=steps)
    evil = replace(evil, floats=(name,), data=name, seconds={name: 1.0}, machine=replace(report.machine, runtime=name))
    text = render(evil, folder)
    assert text.encode().decode() == text
    assert not [c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c != "\n"]
    shown, plain = Page(text), Page(render(report, folder))
    assert {e["tag"] for e in shown.elements} - {"details"} <= {e["tag"] for e in plain.elements}
    assert not shown.all("script") + shown.all("b")
    expected = shown_as or name
    for tag in ("th", "td", "p", "caption", "title", "desc", "figcaption"):
        assert any(expected in element["text"] for element in shown.all(tag)), tag
    assert any(expected in element["data-label"] for element in shown.all("td"))
    assert {*shown.elements[0], *shown.all("td")[0]} == {*plain.elements[0], *plain.all("td")[0]}  # no new attribute


def test_the_commands_run(folder: Path, page: Page, tmp_path: Path) -> None:
    code = {e["text"]: e["data-language"] for e in page.all("pre")}
    environment = host_environment(tmp_path)
    (tmp_path / "block").write_text(next(text for text in code if "onnxruntime" in text) + "\nprint(outputs[0].shape)")
    assert sh(f"python {tmp_path / 'block'}", tmp_path, environment).stdout.strip() == "(1, 4)"
    polygraphy = next(text for text in code if text.startswith("polygraphy"))
    done = sh(polygraphy, tmp_path, environment)
    assert done.returncode == 0, done.stdout[-2000:]
    assert done.stdout.count("PASSED") >= 1
    build = next(text for text in code if text.startswith("trtexec"))
    assert f"--onnx={folder / 'pruned.onnx'}" in build
    assert "--shapes=input:1x1x8x8" in build


def test_report_writes_the_page_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "report.html").read_text()
    (folder / "report.html").unlink()
    assert hqp(monkeypatch, "report", str(folder)) == 0
    assert (folder / "report.html").read_text() == before


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 7.7), (91.2, 93.1), (0, 3e-7), (0, 812)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in found)
    step = found[1] - found[0]
    assert np.allclose(np.diff(found), step)
    mantissa = step / 10 ** np.floor(np.log10(step) + 1e-9)
    assert min(abs(mantissa - m) for m in (1, 2, 5)) < 1e-6


def test_a_scale_is_linear_and_ends_at_its_edges() -> None:
    scale = Scale(10, 20, 100, 0)
    assert [scale(v) for v in (10, 12.5, 20, 5, 99)] == [100, 75, 0, 100, 0]
