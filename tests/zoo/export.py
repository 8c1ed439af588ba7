"""Write the graphs of this folder: ``python tests/zoo/export.py`` where torch, timm, transformers and pytorchcv are.

Each is what an exporter made of a small model, as ONNX text without its weights: initializers of more than four
floating-point values are declared with their shapes only, and ``test_zoo`` fills them. Names are shortened.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

sys.path.append(str(Path(__file__).parents[2] / "tools"))
import zoo_export
import zoo_models
from blocks import BLOCKS
from zoo_models import Entry

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
WORDS = {**TINY, "vocab_size": 100, "max_position_embeddings": 16}
ONE_STAGE = {"embed_dim": 8, "depths": [2], "num_heads": [2], "window_size": 4, "image_size": 32}
SOUND = {"conv_dim": [8] * 3, "conv_kernel": [10, 3, 2], "conv_stride": [5, 2, 2], "num_feat_extract_layers": 3}
POSITIONS = {"num_conv_pos_embedding_groups": 2, "num_conv_pos_embeddings": 4}
GPT = {"vocab_size": 100, "n_embd": 16, "n_layer": 1, "n_head": 2}
PICTURE = {"pixel_values": (3, 32, 32)}
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_encoder_blocks": 2, "sr_ratios": [8, 1]}
LAYERS = {"patch_sizes": [7, 3], "strides": [4, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2]}
ANY_SIZE = ("segformer", "gpt2", "unet", "shuffle")  # again, with every size but the channels dynamic
# file -> (transformers class, config, options, input shapes, exporter)
TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any], dict[str, tuple[int, ...]], str]] = {
    "vit": ("ViTForImageClassification", "ViTConfig", {**TINY, "image_size": 32}, PICTURE, "torchscript"),
    "swin": ("SwinForImageClassification", "SwinConfig", ONE_STAGE, PICTURE, "torchscript"),
    "segformer": (
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        {**STAGES, **LAYERS, "decoder_hidden_size": 8},
        PICTURE,
        "torchscript",
    ),
    "poolformer": (
        "PoolFormerForImageClassification",
        "PoolFormerConfig",
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_encoder_blocks": 2, "patch_sizes": [7, 3]},
        PICTURE,
        "dynamo",
    ),
    "bert": ("BertForSequenceClassification", "BertConfig", WORDS, {"input_ids": (6,)}, "dynamo"),
    "gpt2": ("GPT2Model", "GPT2Config", GPT, {"input_ids": (6,)}, "torchscript"),
    "llama": ("LlamaModel", "LlamaConfig", {**WORDS, "num_key_value_heads": 1}, {"input_ids": (6,)}, "torchscript"),
    "wav2vec2": (
        "Wav2Vec2ForCTC",
        "Wav2Vec2Config",
        {**TINY, **SOUND, **POSITIONS, "vocab_size": 8},
        {"input_values": (400,)},
        "torchscript",
    ),
}


def small_entries() -> list[tuple[str, Entry, str]]:
    """File, architecture and exporter."""
    found = []
    for file, (model, config, options, shapes, exporter) in TRANSFORMERS.items():
        zoo_models.TRANSFORMERS = {**zoo_models.TRANSFORMERS, file: (model, config, options, shapes)}
        make = partial(zoo_models._transformers, file)
        found.append((file, Entry(file, True, False, make), exporter))
        if file in ANY_SIZE:
            found.append((f"{file}_any_size", Entry(file, False, True, make), "torchscript"))
    for file, (make, exporter) in BLOCKS.items():
        found.append((file, Entry(file, True, False, make), exporter))
        if file in ANY_SIZE:
            found.append((f"{file}_any_size", Entry(file, False, True, make), "torchscript"))
    return found


def as_text(model: onnx.ModelProto) -> str:
    """ONNX text with short names and without large weights."""
    graph = model.graph
    names: dict[str, str] = {"": ""}
    keep = {value.name for value in [*graph.input, *graph.output]}

    def short(name: str) -> str:
        if name not in names:
            names[name] = name if name in keep and name.isidentifier() else f"t{len(names)}"
        return names[name]

    del graph.value_info[:]
    graph.name, model.producer_name = "zoo", ""
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = graph.initializer.add()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
    for node in [n for n in graph.node if n.op_type == "Constant" and n.attribute[0].name == "value"]:
        graph.node.remove(node)
    small = []
    for tensor in graph.initializer:
        values, tensor.name = numpy_helper.to_array(tensor), short(tensor.name)
        if values.size > 4 and values.dtype.kind == "f":
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, values.shape)
            graph.value_info.append(info)
        else:
            small.append(numpy_helper.from_array(values, tensor.name))
    del graph.initializer[:]
    graph.initializer.extend(small)
    for node in graph.node:
        node.name, node.doc_string = "", ""
        del node.metadata_props[:]
        node.input[:] = [short(name) for name in node.input]
        node.output[:] = [short(name) for name in node.output]
    for value in [*graph.input, *graph.output]:
        value.name = short(value.name)
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.HasField("dim_param"):
                dim.dim_param = "n" if axis == 0 else f"d{axis}"
    del model.metadata_props[:]
    return onnx.printer.to_text(model)


def main() -> None:
    """Write every graph."""
    for file, entry, exporter in small_entries():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            zoo_export.export(entry, exporter, path)
            text = as_text(onnx.load(path))
        onnx.parser.parse_model(text)
        Path(__file__).with_name(f"{file}.onnxtxt").write_text(text + "\n")


if __name__ == "__main__":
    main()
