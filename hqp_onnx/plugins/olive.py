"""Passes of a Microsoft Olive workflow: ``HqpPrune`` and ``HqpQuantize``.

Olive finds passes by a package configuration, which replaces its own. ``package_config()`` is Olive's with these two:

    olive.workflows.run(workflow, package_config=package_config())
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import fields
from typing import Any, ClassVar, get_type_hints

import onnx

from hqp_onnx.api import prune, quantize
from hqp_onnx.errors import MissingRuntimeError
from hqp_onnx.shares import Given, Share
from hqp_onnx.steps.prune import Pruning

try:
    from olive.hardware import AcceleratorSpec
    from olive.model import ONNXModelHandler
    from olive.model.utils import resolve_onnx_path
    from olive.package_config import OlivePackageConfig
    from olive.passes import Pass
    from olive.passes.onnx.common import get_external_data_config, model_proto_to_olive_model
    from olive.passes.pass_config import PassConfigParam
    from olive.search.search_parameter import Categorical
except ImportError as e:
    raise MissingRuntimeError("Olive is not installed: pip install 'hqp-onnx[olive]'") from e

_SUPPORTED = ("providers", "accelerators", "precisions")
Config = dict[str, PassConfigParam]


def package_config() -> dict[str, Any]:
    """Olive's package configuration, with the passes of this module."""
    config: dict[str, Any] = OlivePackageConfig.load_default_config().model_dump(mode="json")
    supported = {f"supported_{kind}": ["*"] for kind in _SUPPORTED}
    for name in ("HqpPrune", "HqpQuantize"):
        config["passes"][name.lower()] = {"module_path": f"{__name__}.{name}", **supported}
    return config


def _text(default: str | None, description: str, required: bool = False) -> PassConfigParam:
    return PassConfigParam(type_=str, default_value=default, description=description, required=required)


_PREPROCESS = _text(None, "JSON file for folders of images.")


class _FunctionPass(Pass):  # type: ignore[misc]  # Olive is untyped
    """A pass by a function of ModelProto, whose keyword arguments are the parameters of the pass."""

    change: ClassVar[Callable[..., onnx.ModelProto]]

    @staticmethod
    @abstractmethod
    def parameters() -> Config:
        """Those of the function."""

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> Config:
        return {**cls.parameters(), **get_external_data_config()}

    def _run_for_config(self, model: ONNXModelHandler, config: Any, output_model_path: str) -> ONNXModelHandler:
        parameters = {name: getattr(config, name) for name in self.parameters()}
        changed = self.change(model.load_model(), **parameters)
        return model_proto_to_olive_model(changed, resolve_onnx_path(output_model_path), config)


class HqpPrune(_FunctionPass):
    """Remove a share of the prunable units; see ``functions.prune``. Olive may search over ``sparsity``."""

    change = staticmethod(prune)

    @staticmethod
    def parameters() -> Config:
        """Fields of ``Pruning``, and the data."""
        types = {name: Given if kind is Share else kind for name, kind in get_type_hints(Pruning).items()}
        parameters = {
            field.name: PassConfigParam(
                type_=types[field.name], default_value=field.default, description="As `hqp prune`."
            )
            for field in fields(Pruning)
        }
        shares = Categorical([0.1, 0.2, 0.3, 0.4, 0.5])
        parameters["sparsity"] = PassConfigParam(
            type_=Given, default_value=0.3, search_defaults=shares, description="Share of the prunable units to remove."
        )
        return {
            **parameters,
            "data": _text(None, "Calibration data, for gradients and compensate."),
            "preprocess": _PREPROCESS,
        }


class HqpQuantize(_FunctionPass):
    """Quantize to INT8 with explicit Q/DQ pairs; see ``functions.quantize``."""

    change = staticmethod(quantize)

    @staticmethod
    def parameters() -> Config:
        """Arguments of ``functions.quantize``."""
        return {
            "data": _text(None, "Calibration data: .npz, folder of images or script.", required=True),
            "target": _text("onnxruntime", "The runtime that INT8 is for, as `hqp quantize`."),
            "calibration": _text("entropy", "How ranges are chosen, as `hqp quantize`."),
            "preprocess": _PREPROCESS,
        }
