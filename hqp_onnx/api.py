"""What a user of the library calls, beside ``optimize``: one function per command, on files or models in memory.

Models are paths or ModelProtos, which stay as they are; those that are returned were loaded, run and compared with the
original (``evaluation.verification``), and what their users should not miss is logged as a warning. Data are what the
command line takes (a .npz or .npy file, a folder of images, ``FILE.py:function``), arrays by name, an iterable of feed
dictionaries or pairs (feeds, targets), a function that returns such an iterable, or a ``Reading`` of any of these.
Shares may be percentages, as "5%". Everything raises ``HqpError`` with a message of one line:

    ModelError              the model is invalid, quantized already, or cannot run
    DataError               the data do not fit the model
    UsageError              an argument that makes no sense, or is missing here
    GradientError           a node that cannot be differentiated
    MissingRuntimeError     a runtime that is not installed; the message names the extra
    FileError               the system refuses to read or write
    LimitError              a model or data that would take more time or memory than they may
    WorkerError             workers that cannot be reached, are of another version, or die
    PluginError             what a user's file or an installed extension raises
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

import onnx

from hqp_onnx.boards.board import target_on
from hqp_onnx.boundary import public
from hqp_onnx.comparison import Comparison
from hqp_onnx.comparison import compare as compare_files
from hqp_onnx.data.reading import Data
from hqp_onnx.engine import BuildOptions, BuildReport
from hqp_onnx.evaluation.latency import Latencies
from hqp_onnx.evaluation.metrics import Metric, ScoreFunction, Scores
from hqp_onnx.evaluation.metrics.task import Task
from hqp_onnx.graphs.record import Record
from hqp_onnx.model import ModelSource, open_data, open_model, open_optional_data
from hqp_onnx.passes.quantize import Recipe
from hqp_onnx.progress import Progress, silent
from hqp_onnx.ranking.rank import Ranking
from hqp_onnx.ranking.saliencies import Scoring
from hqp_onnx.recovery import Recovery
from hqp_onnx.shares import Given, share
from hqp_onnx.steps.benchmark import benchmark_models
from hqp_onnx.steps.build import build_file
from hqp_onnx.steps.check import Finding, Thresholds, check_folder
from hqp_onnx.steps.dequantize import dequantized
from hqp_onnx.steps.evaluate import evaluate_model
from hqp_onnx.steps.inspect import Inspection, inspect_model
from hqp_onnx.steps.prune import Pruning, prune_model
from hqp_onnx.steps.quantize import asked_of, judging_of, made_model
from hqp_onnx.steps.recover import recover_model, recovery_source
from hqp_onnx.steps.score import score_model
from hqp_onnx.steps.writing import verified_model
from hqp_onnx.workers import Workers, using

T = TypeVar("T")
__all__ = [
    "benchmark",
    "build",
    "check",
    "compare",
    "dequantize",
    "evaluate",
    "inspect",
    "prune",
    "quantize",
    "recover",
    "score",
]


@public
def prune(
    model: ModelSource,
    sparsity: Given | None = None,
    *,
    plan: str | Path | None = None,
    data: Data | None = None,
    preprocess: str | Path | None = None,
    saliency: str | None = None,
    compensate: bool | None = None,
    refit: str | None = None,
    min_width: Given = 0.1,
    branches: bool = True,
    multiple_of: int = 1,
    keep: Sequence[str] = (),
    only: Sequence[str] = (),
    seed: int = 0,
    workers: Workers = None,
    progress: Progress = silent,
) -> onnx.ModelProto:
    """``model`` without a share of its prunable units, or those of a plan, whatever that costs.

    Args:
        model: opset 7 or newer; of a quantized one, the float model that it stands for is pruned.
        sparsity: share of the prunable units to remove, 0 to below 1.
        plan: in place of ``sparsity``: a ledger.json of another export of the same network, what it removed is removed.
        data: calibration data, for saliencies of gradients and for the refit.
        preprocess: of images: imagenet, clip, tf, yolo, JSON, or its file.
        saliency: how units are ranked: a name of ``hqp prune --help``, or ``FILE.py:name``; None takes fisher where
            there are data, else l2.
        compensate: refit the weights that read removed channels, which needs data; None does where there are data.
        refit: ``once``, or ``in-order``: once more, each weight from what it then reads; None takes in-order for a
            plan, else once.
        min_width: share of every tensor's units that stays; one always does.
        branches: whether gates and residual branches may be removed as a whole.
        multiple_of: widths stay multiples of it, where they are as wide.
        keep: shell patterns of tensors whose units stay.
        only: likewise of tensors whose units may be removed; empty for all.
        seed: of the random saliency.
        workers: that share the work: a number of processes, an address as ``hqp`` takes it, or an Executor.
        progress: called with stage, done and total.
    """
    chosen = Pruning(
        sparsity,
        saliency=saliency,
        compensate=compensate,
        refit=refit,
        min_width=min_width,
        branches=branches,
        multiple_of=multiple_of,
        keep=_several(keep),
        only=_several(only),
        seed=seed,
        plan=plan,
    )
    with using(workers):
        opened = open_model(model, quantized=True)
        dataset = open_optional_data(opened, data, preprocess)
        pruned = prune_model(opened, chosen, dataset, progress)
        return verified_model(pruned.graph, opened.source(dataset), pruned.record)


@public
def quantize(
    model: ModelSource,
    data: Data | None = None,
    *,
    precision: str | None = None,
    target: str = "onnxruntime",
    calibration: str = "entropy",
    equalize: bool = True,
    correct_bias: bool = True,
    round_weights: bool = True,
    int4_weights: Given | None = None,
    int4_convs: bool = False,
    in_order: bool = True,
    val: Data | None = None,
    max_drop: float | str | None = None,
    metric: str | None = None,
    preprocess: str | Path | None = None,
    workers: Workers = None,
    progress: Progress = silent,
) -> onnx.ModelProto:
    """``model`` in INT8, as explicit QuantizeLinear and DequantizeLinear pairs or dynamic, or in float16.

    Or with weights in INT4.

    Args:
        model: float, opset 7 or newer.
        data: calibration data; without, inputs are made up from what the model holds, and a warning is logged where
            these are not to be trusted. float16 needs none, dynamic rounds weights by them if they are given.
        precision: int8; mixed, INT8 where that is faster on ``target``, as measured here; dynamic, INT8 whose
            activations are quantized as they come; fp8, for TensorRT; or fp16. None takes int8, or fp16 where
            ``target`` does not compute in INT8.
        target: the runtime that the model is for: onnxruntime, openvino, tensorrt, tensorrt-rtx, cuda,
            onnxruntime:PROVIDER, or ``FILE.py:name``.
        calibration: how ranges are chosen, as entropy or percentile:99.9; see ``hqp quantize --help``.
        equalize: even out channels that share a range beforehand.
        correct_bias: give back the mean that rounding takes of a weight's output.
        round_weights: round for the least error of each layer's output.
        int4_weights: in place of a precision: the share of the parameters of Gemm and MatMul to store in INT4, the
            least sensitive weights first, the rest in float; "auto": as many as ``max_drop`` allows, the rest in INT8.
        int4_convs: INT4 for weights of Conv, too: a smaller file, computed in float.
        in_order: INT4 weights are rounded layer by layer, on what the rounded layers before give.
        val: validation data, on which "auto" is judged.
        max_drop: how much worse the metric may be there, in its units, or as "5%" of what the original has.
        metric: that of ``max_drop``: a name of ``hqp quantize --help``, or ``FILE.py:name``; None chooses.
        preprocess: of images: imagenet, clip, tf, yolo, JSON, or its file.
        workers: that share the work: a number of processes, an address as ``hqp`` takes it, or an Executor.
        progress: called with stage, done and total.
    """
    asked = asked_of(
        target,
        calibration,
        precision=precision,
        int4_weights=int4_weights,
        int4_convs=int4_convs,
        judging=judging_of(val, max_drop, metric, preprocess),
        recipe=Recipe(equalize, correct_bias, round_weights, in_order),
    )
    with using(workers):
        made = made_model(open_model(model), asked, data, preprocess, progress)
    return verified_model(made.result.graph, *made.written)


@public
def dequantize(model: ModelSource) -> onnx.ModelProto:
    """The float model that a quantized one stands for: its weights, and activations that are not rounded.

    Args:
        model: with QuantizeLinear and DequantizeLinear pairs, QLinear operators, or operators of dynamic quantization.

    Raises:
        ModelError: nothing in it is quantized, or a node has no known meaning in float.
    """
    result, source, record = dequantized(model)
    return verified_model(result.graph, source, record)


@public
def recover(
    student: ModelSource,
    teacher: ModelSource,
    data: Data,
    *,
    epochs: int | Literal["auto"] = 2,
    time_limit: float | str | None = None,
    rate: float = Recovery.rate,
    batch: int | None = None,
    held_out: Given = Recovery.held_out,
    loss: Literal["kl", "mse"] | None = None,
    temperature: float = Recovery.temperature,
    features: int = Recovery.features,
    beta: float = Recovery.beta,
    augment: Sequence[str] = (),
    seed: int = 0,
    metric_output: str = "",
    preprocess: str | Path | None = None,
    workers: Workers = None,
    progress: Progress = silent,
) -> onnx.ModelProto:
    """``student``, pruned or quantized by any tool, trained towards the model that it was made from, without labels.

    Args:
        student: a float model, or one with QuantizeLinear and DequantizeLinear pairs.
        teacher: the original float model, with the same inputs and outputs.
        data: samples; labels are not read.
        epochs: passes over the data; ``auto`` takes as many as they and ``time_limit`` allow, for as long as it helps.
        time_limit: seconds that the training may take, or as "10m"; None for any.
        rate: peak of the learning rate, as a share of the size of each weight tensor.
        batch: samples per step; None takes 16, or what fits ``auto``.
        held_out: share of the samples that judge and do not train.
        loss: of the outputs: kl (classifiers) or mse; None takes what fits.
        temperature: of kl.
        features: intermediate tensors to match, at most.
        beta: weight of these.
        augment: some of ``flip`` and ``crop``, for images that may be varied so.
        seed: of the split, the order and the augmentation.
        metric_output: the output that counts; others are as features. "" takes all alike.
        preprocess: of images: imagenet, clip, tf, yolo, JSON, or its file.
        workers: that share the work: a number of processes, an address as ``hqp`` takes it, or an Executor.
        progress: called with stage, done and total.
    """
    task, several = Task("any", metric_output), _several(augment)
    loss_of = loss, temperature, features, beta
    settings = Recovery(epochs, rate, batch, held_out, *loss_of, several, seed, task, time_limit)
    opened = open_model(teacher)
    dataset = open_data(opened, data, preprocess)
    with using(workers):
        recovered = recover_model(student, opened, dataset, settings, progress=progress).graph
    return verified_model(recovered, recovery_source(student, opened, dataset), Record(opened.digest))


@public
def score(
    model: ModelSource,
    data: Data | None = None,
    *,
    saliency: str = "fisher",
    engine: str = "native",
    loss: str | None = None,
    draws: int = 1,
    seed: int = 0,
    preprocess: str | Path | None = None,
    workers: Workers = None,
    progress: Progress = silent,
) -> Ranking:
    """The saliency of every filter (``filters``: weight -> float64 [filters]) and unit (``units``: float64 [units]).

    Args:
        model: float, opset 7 or newer.
        data: calibration data, for saliencies that need them.
        saliency: a name of ``hqp score --help``, or ``FILE.py:name``.
        engine: what differentiates: native or ort-training.
        loss: a name of ``hqp score --help``, or the file of a loss model; None takes what data and model allow.
        draws: sampled labels or projections per sample.
        seed: of the draws, and of the random saliency.
        preprocess: of images: imagenet, clip, tf, yolo, JSON, or its file.
        workers: that share the work: a number of processes, an address as ``hqp`` takes it, or an Executor.
        progress: called with stage, done and total.
    """
    with using(workers):
        return score_model(model, data, Scoring(saliency, engine, loss, draws, seed), preprocess, progress)


@public
def inspect(model: ModelSource) -> Inspection:
    """The units of a float model, which of them cannot be removed and why, its MACs and parameters."""
    return inspect_model(model)


@public
def evaluate(
    model: ModelSource,
    data: Data,
    *,
    metric: str | Metric | ScoreFunction | None = None,
    metric_output: str = "",
    reference: ModelSource | None = None,
    target: str = "onnxruntime",
    preprocess: str | Path | None = None,
    workers: Workers = None,
    progress: Progress = silent,
) -> Scores:
    """Scores of any runnable model, quantized ones included; ``metric`` of the result is the number that they make.

    Args:
        model: to be judged.
        data: samples, with labels if the metric needs them.
        metric: a name of ``hqp evaluate --help``, ``FILE.py:name``, or a function or class as ``evaluation.metrics``
            describes; None takes top1 where there are class numbers and classes, else fidelity.
        metric_output: the output that is judged; "" for the first, or all, as the metric reads.
        reference: the original model, for agreement and fidelity.
        target: what runs it, see ``quantize``.
        preprocess: of images: imagenet, clip, tf, yolo, JSON, or its file.
        workers: that share the work: a number of processes, an address as ``hqp`` takes it, or an Executor.
        progress: called with stage, done and total.
    """
    with using(workers):
        return evaluate_model(model, data, metric, preprocess, progress, reference, target, metric_output).scores


@public
def benchmark(
    models: Sequence[ModelSource],
    *,
    batch: int = 1,
    threads: int = 0,
    target: str = "onnxruntime",
    device: str | None = None,
    progress: Progress = silent,
) -> Latencies:
    """Latency of models in turn, each as if alone, on the same random input; speedups are over the first.

    Args:
        models: one or more.
        batch: samples per run, where the models leave it open.
        threads: of the runtime; 0 lets it choose.
        target: what runs them, see ``quantize``.
        device: a board that times them, as ssh://USER@HOST[:PORT].
        progress: called with stage, done and total.

    Returns:
        By path, in order; a model in memory is called ``<model N>``, N its place from 1 on.
    """
    return Latencies(benchmark_models(models, batch, threads, target_on(target, device), progress))


@public
def compare(
    models: Sequence[ModelSource],
    data: Data,
    *,
    metric: str | None = None,
    metric_output: str = "",
    ledgers: Sequence[str | Path] = (),
    tolerance: Given = 0.1,
    samples: int = 64,
    threads: int = 0,
    preprocess: str | Path | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Models beside the first, and each beside the one before it, layer by layer.

    Args:
        models: a chain, as original, pruned, INT8; also ``FILE@TARGET`` and engines of TensorRT.
        data: samples.
        metric: a name of ``hqp compare --help`` or ``FILE.py:name``; None takes top1 where there are
            labels and classes.
        metric_output: the output that is judged; "" for the first, or all, as the metric reads.
        ledgers: what was removed of pruned models, if not in ledger.json beside them.
        tolerance: own error that a layer may have, as a share of its signal.
        samples: to compare layers with.
        threads: of the runtimes; 0 takes their choice.
        preprocess: of images: imagenet, clip, tf, yolo, JSON, or its file.
        progress: called with stage, done and total.
    """
    with tempfile.TemporaryDirectory() as folder:
        return compare_files(
            [_named(model, Path(folder) / f"model{number}.onnx") for number, model in enumerate(models, 1)],
            data,
            preprocess=preprocess,
            metric=metric,
            metric_output=metric_output,
            ledgers=tuple(map(Path, _several(ledgers))),
            tolerance=share(tolerance, "tolerance"),
            samples=samples,
            threads=threads,
            progress=progress,
        )


@public
def check(
    folder: str | Path,
    *,
    max_drop: float | str | None = None,
    min_speedup: float | None = None,
    max_size: int | str | None = None,
    data: Data | None = None,
    original: str | Path | None = None,
    preprocess: str | Path | None = None,
    progress: Progress = silent,
) -> tuple[Finding, ...]:
    """What ``optimize`` shipped, measured again on this machine: a finding for each threshold, ``met`` or not.

    Args:
        folder: OUT of ``optimize``.
        max_drop: how much worse the metric may be, in its units, or as "5%" of the original's; needs ``data``.
        min_speedup: over the original, timed in turn.
        max_size: bytes of the file that ships, or "2MB", "1.5 MiB".
        data: what the metric is judged on.
        original: the model that was optimized, if it is not where the report says.
        preprocess: of images: imagenet, clip, tf, yolo, JSON, or its file.
        progress: called with stage, done and total.

    Raises:
        DataError: no report, or one of its models is not there.
        UsageError: no threshold, or one that lacks what it needs.
    """
    place, source = Path(folder), None if original is None else Path(original)
    thresholds = Thresholds(max_drop, min_speedup, max_size)
    return tuple(check_folder(place, thresholds, data, source, preprocess, progress)[1])


@public
def build(options: BuildOptions, progress: Progress = silent) -> BuildReport:
    """Write a TensorRT engine of a model, or what trtexec needs to build it elsewhere, and a report beside it.

    Args:
        options: see ``BuildOptions``.
        progress: called with stage, done and total.
    """
    return build_file(options, progress)


def _several(values: Sequence[T] | str) -> tuple[T | str, ...]:
    """A sequence; a single string is one of one."""
    return (values,) if isinstance(values, str) else tuple(values)


def _named(model: ModelSource, file: Path) -> str:
    """The name of a model's file; one in memory is written to ``file``."""
    if isinstance(model, onnx.ModelProto):
        onnx.save(model, file)
        return str(file)
    return str(model)
