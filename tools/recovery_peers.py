"""Other pruners on one model, in an environment of their own: no training, one pruned ONNX file per share of channels.

    PYTHON tools/recovery_peers.py [--round-to N] METHOD MODEL.onnx CALIB.npz OUT/ SHARE ...

PYTHON is any interpreter that has the method's library. METHOD is a key of ``METHODS``. Torch-Pruning works on the
network of models/train.py of MODEL's name, with the weights read back from MODEL; where batch normalization is
folded there, it is put back with the statistics of the calibration data, which changes nothing, and lets it be
re-estimated after pruning ("BN"). SHARE is the share of channels: of each group, or, with "global", of all. The last
line of stdout is JSON: for each file, its variant and share, or the error. With ``--round-to N``, Torch-Pruning keeps
multiples of N channels, which a runtime may compute faster; onnxsim has no such setting.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx

BATCH, GRADIENT_SAMPLES, SEED = 100, 500, 0
Made = Iterator[tuple[str, onnx.ModelProto]]
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))


def samples(calib: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    with np.load(calib) as arrays:
        return arrays[name].astype(np.float32), arrays["labels"].astype(np.int64)


def onnxsim_pruned(wanda: bool) -> Callable[[Path, Path, float, int | None], Made]:
    def run(model: Path, calib: Path, share: float, _: int | None) -> Made:
        import onnxsim
        from onnxsim import pruning

        simple, _ = onnxsim.simplify(onnx.load(model))  # which folds BatchNormalization, or nothing is pruned
        name = simple.graph.input[0].name
        x, _ = samples(calib, name)
        feeds = [{name: x[i : i + BATCH]} for i in range(0, len(x), BATCH)]
        if wanda:
            yield "", pruning.apply_structured_wanda_pruning(simple, calibration_data=feeds, sparsity=share)
        else:
            yield "", pruning.apply_structured_pruning(simple, sparsity=share)

    return run


def network(name: str, shape: tuple[int, ...]):
    """The network ``name`` of models/train.py for images of this shape, untrained."""
    from architectures import Normalized
    from train import DATA, RECIPES

    for data, recipes in RECIPES.items():
        images = DATA[data].IMAGES
        if name in recipes and shape == (images.channels, images.side, images.side):
            return Normalized(recipes[name][0](images), images)
    raise ValueError(f"models/train.py has no {name} for images of {shape}")


def read_back(model: onnx.ModelProto, name: str, x: np.ndarray):
    """The torch network ``name`` with the weights of ``model``, layer by layer in the order of execution."""
    import torch
    from torch import nn

    net, order = network(name, x.shape[1:]).eval(), []
    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)
    hooks = [m.register_forward_hook(lambda m, *_: order.append(m)) for m in net.modules() if isinstance(m, kinds)]
    with torch.no_grad():
        net(torch.from_numpy(x[:1]))
    for hook in hooks:
        hook.remove()
    values = {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in model.graph.initializer}
    alias = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "Identity"}
    values |= {name: values[source] for name, source in alias.items() if source in values}
    layers = [n for n in model.graph.node if n.op_type in ("Conv", "BatchNormalization", "Gemm")]
    with torch.no_grad():
        bias = None
        for module in order:
            if isinstance(module, nn.BatchNorm2d):
                if layers[0].op_type == "BatchNormalization":
                    names = layers.pop(0).input[1:]
                    parts = (module.weight, module.bias, module.running_mean, module.running_var)
                    for tensor, source in zip(parts, names, strict=True):
                        tensor.copy_(values[source])
                else:  # folded: all that is left of it is the bias
                    module.weight.fill_((1 + module.eps) ** 0.5)
                    module.bias.copy_(bias)
                    module.folded = True
                continue
            inputs = layers.pop(0).input
            module.weight.copy_(values[inputs[1]])
            bias = values[inputs[2]] if len(inputs) > 2 else None
            if module.bias is not None:
                module.bias.copy_(bias)
    restate(net, torch.from_numpy(x))
    return net


def restate(net, x) -> None:
    """Folded batch normalization as that of the data: the same function."""
    import torch

    for module in [m for m in net.modules() if getattr(m, "folded", False)]:
        seen = []
        hook = module.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        with torch.no_grad():
            net(x[:GRADIENT_SAMPLES])
            hook.remove()
            mean, var = seen[0].mean((0, 2, 3)), seen[0].var((0, 2, 3))
            scale = module.weight / (module.running_var + module.eps).sqrt()
            module.bias += scale * (mean - module.running_mean)
            module.weight.copy_(scale * (var + module.eps).sqrt())
            module.running_mean.copy_(mean)
            module.running_var.copy_(var)


def recalibrate(net, x) -> None:
    """Batch normalization statistics of the data."""
    import torch
    from torch import nn

    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
            module.train()
    with torch.no_grad():
        for part in x.split(BATCH):
            net(part)
    net.eval()


def torch_pruned(kind: str, everywhere: bool) -> Callable[[Path, Path, float, int | None], Made]:
    def run(model: Path, calib: Path, share: float, round_to: int | None) -> Made:
        import torch
        import torch_pruning as tp

        torch.manual_seed(SEED)
        proto = onnx.load(model)
        x, labels = samples(calib, proto.graph.input[0].name)
        net = read_back(proto, model.stem, x)
        require_same(net, model, x[:BATCH])
        data = list(zip(torch.from_numpy(x).split(BATCH), torch.from_numpy(labels).split(BATCH), strict=True))
        importance = {
            "L2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
            "Taylor": tp.importance.GroupTaylorImportance,
            "OBD-C": lambda: tp.importance.OBDCImportance(num_classes=10),
        }[kind]()
        last = [m for m in net.modules() if isinstance(m, torch.nn.Linear)][-1]
        pruner = tp.pruner.BasePruner(
            net,
            data[0][0][:1],
            importance=importance,
            pruning_ratio=share,
            global_pruning=everywhere,
            max_pruning_ratio=0.9,
            round_to=round_to,
            ignored_layers=[last],
        )
        if kind == "OBD-C":
            attention = pruner._downstream_node_as_root_if_attention
            pruner._downstream_node_as_root_if_attention = lambda group: attention(group) or group  # None without any
            importance._prepare_model(net, pruner)
            pruner._downstream_node_as_root_if_attention = attention
        for part, classes in data[: GRADIENT_SAMPLES // BATCH] if kind != "L2" else ():
            logits = net(part)
            if kind == "OBD-C":  # the Fisher information takes labels from the model's own distribution
                classes = torch.multinomial(logits.softmax(1).detach(), 1)[:, 0]
            torch.nn.functional.cross_entropy(logits, classes).backward()
            if kind == "OBD-C":
                importance.step()
        pruner.step()
        if kind == "OBD-C":
            importance._rm_hooks(net)
            for module in net.modules():
                module._forward_pre_hooks.clear()
        yield "", exported(net, x)
        recalibrate(net, torch.from_numpy(x))
        yield " + BN", exported(net, x)

    return run


def require_same(net, model: Path, x: np.ndarray) -> None:
    import onnxruntime
    import torch

    want = onnxruntime.InferenceSession(str(model)).run(None, {onnx.load(model).graph.input[0].name: x})[0]
    with torch.no_grad():
        worst = np.abs(net(torch.from_numpy(x)).numpy() - want).max()
    if worst > 1e-3 * np.abs(want).max():
        raise ValueError(f"{model.stem} of models/train.py is another network than {model.name}")


def exported(net, x: np.ndarray) -> onnx.ModelProto:
    import io

    import torch

    stream = io.BytesIO()
    torch.onnx.export(
        net.eval(),
        (torch.from_numpy(x[:1]),),
        stream,
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "N"}, "logits": {0: "N"}},
        opset_version=17,
        dynamo=False,
    )
    return onnx.load_from_string(stream.getvalue())


METHODS = {
    "onnxsim L2": onnxsim_pruned(False),
    "onnxsim Wanda": onnxsim_pruned(True),
    **{
        f"Torch-Pruning {kind}{' global' * everywhere}": torch_pruned(kind, everywhere)
        for kind in ("L2", "Taylor", "OBD-C")
        for everywhere in (False, True)
    },
}


def main() -> None:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser()
    parser.add_argument("--round-to", type=int)
    parser.add_argument("method", choices=METHODS)
    for name in ("model", "calib", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("shares", type=float, nargs="+")
    chosen = parser.parse_args()
    method, output = chosen.method, chosen.output
    output.mkdir(parents=True, exist_ok=True)
    results = []
    for share in chosen.shares:
        try:
            for variant, pruned in METHODS[method](chosen.model, chosen.calib, share, chosen.round_to):
                file = output / f"{method}{variant} {share:g}.onnx".replace(" ", "_")
                onnx.save(pruned, file)
                results.append({"variant": variant, "share": share, "file": str(file)})
        except Exception as e:  # a peer may raise anything
            results.append({"variant": "", "share": share, "error": f"{type(e).__name__}: {e}"[:110]})
    print(json.dumps(results))


if __name__ == "__main__":
    main()
