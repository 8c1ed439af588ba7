"""The house: every module on a floor of the import contract, no circles, and passes where the rule says."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
MODELS = ("ModelProto", "GraphProto", "gs.Graph", "PassResult")
# the same model as another type, for other tensors, of a stated size, with its data, or as another toolkit reads it
OTHER_FORM = {"to_proto", "to_file", "to_graph", "with_outputs", "needed", "with_one", "without_pairs", "loaded"}


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """Modules that each module imports, for its types as well."""
    graph = grimp.build_graph("hqp_onnx", exclude_type_checking_imports=False, cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


def test_every_module_is_on_a_floor_of_the_contract(imports: dict[str, set[str]]) -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        contract = tomllib.load(file)["tool"]["importlinter"]["contracts"][0]
    floors = {name.strip() for layer in contract["layers"] for name in layer.split(":")}
    homeless = [m for m in imports if not any(m == floor or m.startswith(f"{floor}.") for floor in floors)]
    assert sorted(homeless) == ["hqp_onnx", "hqp_onnx.passes"]
    assert not contract.get("ignore_imports")
    assert not any(imports["hqp_onnx.passes"])


def test_no_imports_go_in_a_circle(imports: dict[str, set[str]]) -> None:
    order = list(TopologicalSorter(imports).static_order())  # raises CycleError, which names the circle
    assert len(order) == len(imports)


def test_what_returns_a_changed_model_is_a_pass() -> None:
    """Commands and adapters for other tools compose passes; private functions feed sessions of their own."""
    changing = {}
    for path in (ROOT / "hqp_onnx").rglob("*.py"):
        room = path.relative_to(ROOT / "hqp_onnx").parts[0]
        if room not in ("passes", "plugins", "steps"):
            functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
            changing |= {f.name: path.name for f in functions if not f.name.startswith("_") and _changes_a_model(f)}
    assert changing.keys() == OTHER_FORM


def _changes_a_model(function: ast.FunctionDef) -> bool:
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    given = " ".join(ast.unparse(argument.annotation) for argument in arguments if argument.annotation)
    returned = "" if function.returns is None else ast.unparse(function.returns)
    return any(kind in given for kind in MODELS) and any(kind in returned for kind in MODELS)
