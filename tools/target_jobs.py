"""The jobs that tools/check_targets.py speaks of: networks with their data, optimized for one target after another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.job.options import Options
from hqp_onnx.job.results import Report
from hqp_onnx.model import open_data, open_model
from hqp_onnx.report.reading import read_report
from hqp_onnx.runtimes.targets import Target, target
from hqp_onnx.steps.optimize import optimize

NPU = "ethos-u55-256"
BY_MACS = "macs"
MODELS = Path(__file__).parents[1] / "models"
BUNDLED = [f"{MODELS / model}.onnx,{MODELS / 'fashion_mnist'}" for model in ("resnet18", "mobilenet_v3_small")]


@dataclass(frozen=True)
class Network:
    """A model, and what the names of its calib, val and test data begin with."""

    file: Path
    data: str

    @property
    def name(self) -> str:
        """Of its file."""
        return self.file.stem

    def model(self) -> onnx.ModelProto:
        """As it is."""
        return onnx.load(self.file)

    def feeds(self) -> dict[str, Array]:
        """One sample of the test data: on noise, integers of two runtimes may differ more than either is wrong."""
        return dict(next(iter(open_data(open_model(self.model()), self.part("test", 1)))).feeds)

    def part(self, name: str, most: int | None = None) -> dict[str, Array]:
        """Data, the first ``most`` samples."""
        with np.load(f"{self.data}_{name}.npz") as data:
            return {key: data[key][:most] for key in data.files}


@dataclass(frozen=True)
class Limit:
    """How many images of the calibration, validation and test data the jobs of a target, or MODEL/TARGET, take."""

    of: str
    calib: int
    val: int
    test: int


def network_of(words: str) -> Network:
    """Of ``MODEL.onnx,DATA``."""
    file, _, data = words.partition(",")
    return Network(Path(file), data)


def limit_of(words: str) -> Limit:
    """Of ``TARGET,CALIB,VAL,TEST``."""
    of, *counts = words.split(",")
    calib, val, test = map(int, counts)
    return Limit(of, calib, val, test)


def by_macs() -> Target:
    """The NPU, whose widths are chosen by multiply-accumulates."""
    return replace(target(NPU), name=BY_MACS, stand_in="widths are chosen by multiply-accumulates, to compare")


@dataclass(frozen=True)
class Jobs:
    """Those in a folder, as FOLDER/MODEL/TARGET.

    ``missing`` are run, unless it is False; of ``limits`` that are of the same job, the last one holds.
    """

    folder: Path
    missing: bool
    limits: tuple[Limit, ...] = ()

    def out(self, network: Network, way: str) -> Path:
        """The folder of a job."""
        return self.folder / network.name / way

    def report(self, network: Network, way: str) -> Report | None:
        """Of a job; None if it is not there, and is not to be run."""
        out = self.out(network, way)
        if not (out / "report.json").is_file():
            if not self.missing:
                return None
            print(f"\n{network.name}, {way} ...", flush=True)
            place = f"{__file__}:by_macs" if way == BY_MACS else way
            optimize(Options(network.file, output=out, target=place, resume=True, **self._data(network, way)))
        return read_report(out)

    def ships(self, network: Network, way: str) -> Path | None:
        """The .onnx that ships, or that what ships was compiled of."""
        report = self.report(network, way)
        return None if report is None else self.out(network, way) / report.files[report.ships]

    def _data(self, network: Network, way: str) -> dict[str, object]:
        files = {part: Path(f"{network.data}_{part}.npz") for part in ("calib", "val", "test")}
        some = {
            part: network.part(part, count)
            for limit in self.limits
            if limit.of in (way, f"{network.name}/{way}")
            for part, count in (("calib", limit.calib), ("val", limit.val), ("test", limit.test))
        }
        return {**files, **some}
