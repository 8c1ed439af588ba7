"""Small transformers as torch exports them and as onnxruntime's optimizer fuses them: pruned, scored and in INT8.

    python tools/check_transformers.py [-o build/transformers] [--plans 5] [--only bert ...]

Seeded weights, two layers, width 48. For each file: the share of parameters in prunable units; the groups of units;
the worst relative error of random plans against the file itself with the removed slices set to zero (in brackets:
where the file lacks a tensor of the ledger, its canonical form); how many weights have a Fisher sensitivity; the SQNR
of static and of dynamic INT8. Exits with 1 if an error is over 1e-4. Needs torch and transformers.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import hqp_onnx
from hqp_onnx.channels import cost
from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.data.batch import Batch
from hqp_onnx.evaluation.deviation import Deviation
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.model import Model, open_model
from hqp_onnx.passes.prune_channels import prune_channels
from hqp_onnx.ranking.order import removal_order
from hqp_onnx.ranking.rank import filter_scores
from hqp_onnx.ranking.saliencies import Execution, Scoring

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from oracle import run, worst_error

SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
TOKENS, IMAGE, SAMPLES = {"ids": (12,)}, {"image": (3, 32, 32)}, 64
MODELS: dict[str, tuple[str, str, dict[str, Any], dict[str, tuple[int, ...]], str]] = {
    "bert": ("BertForSequenceClassification", "BertConfig", SMALL | {"vocab_size": 99}, TOKENS, "bert"),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {"n_embd": 48, "n_layer": 2, "n_head": 4, "vocab_size": 99},
        TOKENS,
        "gpt2",
    ),
    "llama": ("LlamaForCausalLM", "LlamaConfig", SMALL | {"num_key_value_heads": 2, "vocab_size": 99}, TOKENS, "gpt2"),
    "t5": (
        "T5EncoderModel",
        "T5Config",
        {"d_model": 48, "d_kv": 12, "d_ff": 96, "num_layers": 2, "num_heads": 4, "vocab_size": 99},
        TOKENS,
        "t5",
    ),
    "deit": ("DeiTForImageClassification", "DeiTConfig", SMALL | {"image_size": 32, "patch_size": 8}, IMAGE, "vit"),
    "swin": (
        "SwinForImageClassification",
        "SwinConfig",
        {"image_size": 32, "patch_size": 2, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        IMAGE,
        "swin",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("build/transformers"))
    parser.add_argument("--plans", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    head = ["file", "fused operators", "prunable", "groups", "error", "Fisher", "INT8, dB", "dynamic, dB"]
    print(f"| {' | '.join(head)} |\n|---|---|{'--:|' * (len(head) - 2)}")
    wrong = False
    for name in options.only:
        for path in files(name, options.output):
            row, error = checked(path, MODELS[name][3], options.plans)
            print(f"| {' | '.join([path.stem, *row])} |", flush=True)
            wrong |= error > 1e-4
    sys.exit(wrong)


def files(name: str, folder: Path) -> Iterator[Path]:
    """What either exporter writes, and the former as onnxruntime's optimizer fuses it."""
    import torch
    import transformers
    from onnxruntime.transformers.optimizer import optimize_model

    kind, config, settings, inputs, family = MODELS[name]
    torch.manual_seed(0)
    chosen = getattr(transformers, config)(**settings, use_cache=False, attn_implementation="eager")
    module = getattr(transformers, kind)(chosen).eval()
    with torch.no_grad():
        for weight in module.parameters():  # no two alike, or the exporter makes them one
            weight += 0.05 * torch.randn_like(weight)
    examples = tuple(torch.from_numpy(x) for x in feeds(inputs, 2).values())
    names = {"input_names": list(inputs), "output_names": ["out"], "verbose": False}
    batch = torch.export.Dim("batch", min=1, max=64)
    ways: dict[str, dict[str, Any]] = {
        "torchscript": {
            "dynamo": False,
            "opset_version": 17,
            "dynamic_axes": {n: {0: "batch"} for n in [*inputs, "out"]},
        },
        "dynamo": {"dynamo": True, "opset_version": 18, "dynamic_shapes": ({0: batch},), "external_data": False},
    }
    for exporter, way in ways.items():
        path = folder / f"{name}-{exporter}.onnx"
        try:
            torch.onnx.export(First(module), examples, str(path), **names, **way)
        except Exception as e:
            print(f"| {path.stem} | not exported: {type(e).__name__} |", file=sys.stderr)
            continue
        yield path
        optimize_model(str(path), model_type=family, num_heads=4, hidden_size=48, opt_level=0).save_model_to_file(
            str(fused := path.with_stem(f"{path.stem}-fused"))
        )
        yield fused


def First(module: Any) -> Any:  # noqa: N802 - a class that is made where torch is imported
    import torch

    class Output(torch.nn.Module):
        """The first output alone."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x: Any) -> Any:
            return self.inner(x)[0]

    return Output().eval()


def feeds(inputs: dict[str, tuple[int, ...]], count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        name: rng.integers(0, 90, (count, *shape))
        if name == "ids"
        else rng.standard_normal((count, *shape), np.float32)
        for name, shape in inputs.items()
    }


def checked(path: Path, inputs: dict[str, tuple[int, ...]], plans: int) -> tuple[list[str], float]:
    file, model, samples = onnx.load(path), open_model(path), feeds(inputs, 2)
    samples = {
        i.name: samples[i.name].astype(onnx.helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type))
        for i in file.graph.input
    }
    channels, graph = model.channels(), model.graph
    rng, worst, whole = np.random.default_rng(0), 0.0, True
    for _ in range(plans):
        order = removal_order(rng.random(channels.units), channels, 0.0, branches=True)
        plan = PruningPlan(order[: round(rng.uniform(0.1, 0.7) * len(order))])
        removed = channels.removed_slices(plan)
        named = removed.keys() <= {tensor.name for tensor in file.graph.initializer}
        pruned = to_proto(prune_channels(graph, channels, plan).graph)
        worst, whole = (
            max(worst, worst_error(file if named else to_proto(graph), pruned, removed, samples)),
            whole and named,
        )
    share = cost.prunable(graph, channels, cost.positions(graph, model.shapes))[0] / cost.params(graph)
    sizes = [len({int(u) for key in group for u in channels.members[key] if u >= 0}) for group in channels.groups()]
    fused = sorted({node.op_type for node in file.graph.node if node.domain == "com.microsoft"})
    scores = filter_scores(to_proto(graph), Scoring("fisher", loss="gauss-newton"), [Batch(samples)], Execution())
    row = [
        ", ".join(fused) or "none",
        f"{share:.0%}",
        " ".join(map(str, sizes)),
        f"{worst:.0e}" if whole else f"({worst:.0e})",
    ]
    return [*row, str(len(scores)), *(noise(path, model, samples, kind) for kind in ("int8", "dynamic"))], worst


def noise(path: Path, model: Model, samples: dict[str, np.ndarray], precision: str) -> str:
    made = hqp_onnx.quantize(path, samples, precision=precision)
    return f"{Deviation.between(run(to_proto(model.graph), samples)[0], run(made, samples)[0]).sqnr_db:.0f}"


if __name__ == "__main__":
    main()
