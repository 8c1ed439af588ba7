"""Runners of ``polygraphy run``: the model pruned, in INT8, or both, beside the original and any other runner.

    polygraphy run MODEL --onnxrt --hqp-pruned --hqp-int8 --hqp --hqp-sparsity 0.3 --hqp-data DATA

``--hqp-runtime trt`` runs the variants in TensorRT, under the options of ``--trt``. Polygraphy finds
``argument_groups`` by the entry point ``polygraphy.run.plugins``.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from polygraphy import config
from polygraphy.logger import G_LOGGER
from polygraphy.tools.args import (
    DataLoaderArgs,
    OnnxLoadArgs,
    OnnxrtSessionArgs,
    TrtLoadEngineArgs,
    TrtLoadNetworkArgs,
)
from polygraphy.tools.args import util as args_util
from polygraphy.tools.args.base import BaseArgs, BaseRunnerArgs
from polygraphy.tools.script import Script, make_invocable

from hqp_onnx.passes.cut import REFITS
from hqp_onnx.plugins.polygraphy_loaders import polygraphy_errors
from hqp_onnx.ranking.saliencies import SALIENCIES
from hqp_onnx.runtimes.targets import target
from hqp_onnx.statistics.thresholds import method
from hqp_onnx.steps.prune import Pruning

_ON_OR_OFF = argparse.BooleanOptionalAction
_LOADERS = "hqp_onnx.plugins.polygraphy_loaders"


class HqpArgs(BaseArgs):  # type: ignore[misc]  # Polygraphy is untyped
    """HQP Variants: pruning and quantizing the ONNX model.

    Depends on:

        - OnnxLoadArgs
        - DataLoaderArgs
        - OnnxrtSessionArgs
        - TrtLoadNetworkArgs
        - TrtLoadEngineArgs
    """

    def add_parser_args_impl(self) -> None:
        """Add the options."""
        add = self.group.add_argument
        add("--hqp-sparsity", default=0.3, help="Share of the prunable units to remove: 0.3 or 30%% (default: 0.3)")
        known = f"{', '.join(SALIENCIES.names)} or FILE.py:name"
        add("--hqp-saliency", help=f"How units are ranked: {known} (default: fisher with data, else l2)")
        add("--hqp-compensate", action=_ON_OR_OFF, help="Refit weights that read removed channels (default: with data)")
        add("--hqp-refit", choices=REFITS, default="once", help="in-order: once more, from what each weight then reads")
        add("--hqp-min-width", default=0.1, help="Share of every tensor's units that stays (default: 0.1)")
        add("--hqp-branches", action=_ON_OR_OFF, default=True, help="Whole gates and residual branches may be removed")
        add("--hqp-multiple-of", type=int, default=1, help="Widths stay multiples of this")
        add("--hqp-keep", nargs="+", default=[], help="Patterns of tensors whose channels stay")
        add("--hqp-only", nargs="+", default=[], help="Patterns of tensors whose channels may be removed")
        add("--hqp-seed", type=int, default=0, help="Of the random saliency")
        add("--hqp-data", help="Calibration data: .npz, folder of images or script. Default: --data-loader-script")
        add("--hqp-preprocess", help="JSON file for folders of images")
        add("--hqp-target", help="The runtime that INT8 is for. Default: that of --hqp-runtime")
        add("--hqp-calibration", default="entropy", help="How ranges are chosen, as by hqp quantize (default: entropy)")
        add("--hqp-runtime", choices=["onnxrt", "trt"], default="onnxrt", help="What runs the variants")

    def parse_impl(self, args: Any) -> None:
        """Read and check the options."""
        options = {field.name: args_util.get(args, f"hqp_{field.name}") for field in fields(Pruning)}
        options |= {"keep": tuple(options["keep"]), "only": tuple(options["only"])}
        self.runtime = args_util.get(args, "hqp_runtime")
        tensorrt = "tensorrt-rtx" if getattr(config, "USE_TENSORRT_RTX", False) else "tensorrt"
        runtime_target = tensorrt if self.runtime == "trt" else "onnxruntime"
        self.target = args_util.get(args, "hqp_target") or runtime_target
        self.calibration = args_util.get(args, "hqp_calibration")
        self.preprocess = args_util.get(args, "hqp_preprocess")
        self._data = args_util.get(args, "hqp_data")
        with polygraphy_errors(lambda argument: f"--hqp-{argument.replace('_', '-')}"):
            self.pruning = Pruning(**options)
            target(self.target)
            method(self.calibration)

    @property
    def data(self) -> str | None:
        """Calibration data: those of ``--hqp-data``, else the data-loader script that feeds the comparison."""
        loader = self.arg_groups[DataLoaderArgs]
        if self._data is None and loader.data_loader_script is not None:
            return f"{loader.data_loader_script}:{loader.data_loader_func_name}"
        data: str | None = self._data
        return data

    def add_to_script_impl(self, script: Script, pruned: bool, quantized: bool) -> Any:
        """Add the loaders of one variant; returns the name of a loader of its bytes."""
        name = self.arg_groups[OnnxLoadArgs].add_to_script(script)
        common = {"data": self.data, "preprocess": self.preprocess}
        if pruned:
            script.add_import(imports=["PruneOnnx"], frm=_LOADERS)
            name = script.add_loader(make_invocable("PruneOnnx", name, **common, **vars(self.pruning)), "hqp_prune")
        if quantized:
            if self.data is None:
                G_LOGGER.critical("INT8 needs calibration data: add --hqp-data DATA or --data-loader-script")
            script.add_import(imports=["QuantizeOnnx"], frm=_LOADERS)
            options = {"target": self.target, "calibration": self.calibration}
            name = script.add_loader(make_invocable("QuantizeOnnx", name, **common, **options), "hqp_quantize")
        script.add_import(imports=["BytesFromOnnx"], frm="polygraphy.backend.onnx")
        return script.add_loader(make_invocable("BytesFromOnnx", name), "hqp_serialize")


class _VariantArgs(BaseRunnerArgs):  # type: ignore[misc]
    option: str
    pruned: bool
    quantized: bool

    def get_name_opt_impl(self) -> tuple[str, str]:
        """Title and option, as Polygraphy asks for them."""
        return self.__doc__.strip().partition(":")[0], self.option  # type: ignore[union-attr]

    def add_to_script_impl(self, script: Script) -> None:
        """Add a runner of the variant."""
        variant = self.arg_groups[HqpArgs]
        model = variant.add_to_script(script, self.pruned, self.quantized)
        if variant.runtime == "onnxrt":
            kind, module = "OnnxrtRunner", "polygraphy.backend.onnxrt"
            loader = self.arg_groups[OnnxrtSessionArgs].add_to_script(script, model)
        else:
            kind, module = "TrtRunner", "polygraphy.backend.trt"
            loader = self._engine(script, model)
        script.add_import(imports=[kind], frm=module)
        script.add_runner(make_invocable(kind, loader, name=self.option))

    def _engine(self, script: Script, model: Any) -> Any:
        script.add_import(imports=["NetworkFromOnnxBytes"], frm="polygraphy.backend.trt")
        typed = self.arg_groups[TrtLoadNetworkArgs].strongly_typed
        network = make_invocable("NetworkFromOnnxBytes", model, strongly_typed=typed)
        name = script.add_loader(network, "hqp_parse_network")
        return self.arg_groups[TrtLoadEngineArgs].add_to_script(script, name)


class PrunedRunnerArgs(_VariantArgs):
    """HQP pruned: running inference with the pruned model."""

    option, pruned, quantized = "hqp-pruned", True, False


class Int8RunnerArgs(_VariantArgs):
    """HQP INT8: running inference with the quantized model."""

    option, pruned, quantized = "hqp-int8", False, True


class HqpRunnerArgs(_VariantArgs):
    """HQP pruned INT8: running inference with the pruned and quantized model."""

    option, pruned, quantized = "hqp", True, True


def argument_groups() -> list[BaseArgs]:
    """What ``polygraphy run`` adds to its own argument groups."""
    return [HqpArgs(), PrunedRunnerArgs(), Int8RunnerArgs(), HqpRunnerArgs()]
