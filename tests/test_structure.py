"""The shape of the package: which part may import which, and what every module and class owes its reader."""

import ast
import graphlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY

PACKAGE = REPOSITORY / "faceexpr"
LONGEST = 320
"""Lines of a module; what is longer holds more than one idea."""

BELOW_RUNS = {"utils", "boxes", "weights", "data", "models", "tasks", "metrics"}
ABOVE = {"visualization", "callbacks", "detectron2", "pipeline", "cli", "sweep"}

# From the bottom to the top: the parts of a group, and the groups below that they may import.
ARROWS = [
    ({"utils"}, {"utils"}),
    ({"boxes", "weights"}, {"utils"}),
    ({"data"}, {"utils", "boxes", "weights"}),
    ({"models"}, {"utils", "boxes", "weights"}),
    ({"metrics"}, {"utils", "boxes", "weights", "data", "models", "visualization"}),
    ({"tasks"}, BELOW_RUNS),
    (ABOVE, BELOW_RUNS | ABOVE),
    ({"__main__"}, {"cli"}),
    ({""}, {"pipeline"}),  # the package itself, whose one public name is loaded when it is asked for
]
MAY_IMPORT = {part: group | below for group, below in ARROWS for part in group}

MODULES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    """Return the name by which a file of the package is imported."""
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(path) for path in MODULES}


def imports(source: str) -> Iterator[str]:
    """Yield every module that the source imports, wherever in the file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which part is meant"
            for alias in node.names:
                within = f"{node.module}.{alias.name}"
                yield within if within in NAMES else str(node.module)


def part(name: str) -> str:
    """Return the part of the package that a module belongs to; empty for the package itself."""
    return name.removeprefix("faceexpr").removeprefix(".").partition(".")[0]


def wrong_arrows(name: str, source: str) -> list[str]:
    """Return the imports of a module that point the wrong way."""
    own = (found for found in imports(source) if found.partition(".")[0] == "faceexpr")
    return [found for found in own if part(found) and part(found) not in MAY_IMPORT[part(name)]]


def test_every_module_belongs_to_a_part() -> None:
    assert {part(name) for name in NAMES} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_arrows_point_one_way(path: Path) -> None:
    name = module_name(path)
    if name != "faceexpr":
        assert wrong_arrows(name, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("faceexpr.data.base", "from faceexpr.models.mlp import MLP"),
        ("faceexpr.models.mlp", "import faceexpr.data"),
        ("faceexpr.models.mlp", "def late():\n    from faceexpr.tasks import classify"),
        ("faceexpr.tasks.classify", "from faceexpr.callbacks.classification import ClassificationEvaluation"),
        ("faceexpr.metrics.classification", "from faceexpr import tasks"),
        ("faceexpr.utils.labels", "from faceexpr.cli.main import main"),
    ],
)
def test_a_wrong_arrow_is_seen(name: str, source: str) -> None:
    assert len(wrong_arrows(name, source)) == 1


def test_no_module_needs_itself() -> None:
    graph = {}
    for path in MODULES:
        # What only the type checker reads is not imported when the module is.
        tree = ast.parse(path.read_text(encoding="utf-8"))
        tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node))]
        graph[module_name(path)] = set(imports(ast.unparse(tree))) & NAMES - {"faceexpr"}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) >= len(NAMES) - 1


def loaded_by(*modules: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter has loaded after these imports."""
    code = f"import sys, {', '.join(modules)}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_vocabulary_loads_nothing_heavy() -> None:
    loaded = loaded_by(*(name for name in NAMES if part(name) == "utils"))
    assert loaded & {"torch", "torchvision", "lightning", "torchmetrics", "sklearn", "scipy", "matplotlib"} == set()


def test_networks_know_nothing_of_lightning() -> None:
    modules = [module.name for module in pkgutil.iter_modules([str(PACKAGE / "models")], "faceexpr.models.")]
    loaded = loaded_by(*modules)
    assert "torch" in loaded
    assert loaded & {"lightning", "pytorch_lightning", "torchmetrics", "matplotlib"} == set()


def classes(path: Path) -> Iterator[ast.ClassDef]:
    """Yield the classes of a module."""
    yield from (
        node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ClassDef)
    )


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_modules_and_classes_are_documented(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert [node.name for node in classes(path) if not ast.get_docstring(node)] == []


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_the_help_explains_every_argument(path: Path) -> None:
    """The command line's help is made of the Args of the classes' docstrings."""
    unexplained = []
    for node in classes(path):
        if node.name.startswith("_") or any("Error" in ast.unparse(base) for base in node.bases):
            continue
        for function in node.body:
            if isinstance(function, ast.FunctionDef) and function.name == "__init__":
                names = [argument.arg for argument in [*function.args.args[1:], *function.args.kwonlyargs]]
                docstring = ast.get_docstring(node) or ""
                unexplained += [f"{node.name}.{name}" for name in names if f"\n    {name}:" not in docstring]
    assert unexplained == []


@pytest.mark.parametrize("folder", ["faceexpr", "tests", "benchmarks"])
def test_modules_are_short(folder: str) -> None:
    lengths = {
        str(path.relative_to(REPOSITORY)): len(path.read_text(encoding="utf-8").splitlines())
        for path in (REPOSITORY / folder).rglob("*.py")
    }
    assert lengths
    assert {path: length for path, length in lengths.items() if length >= LONGEST} == {}


def networks() -> list[tuple[str, str]]:
    """Return (module, class) of every network, without importing one."""
    return [
        (path.stem, node.name)
        for path in sorted((PACKAGE / "models").glob("*.py"))
        for node in classes(path)
        if any(ast.unparse(base) in ("ExpressionNet", "DetectionNet") for base in node.bases)
    ]


def named_classes(config: object) -> Iterator[str]:
    """Yield the class names of a configuration, without their modules."""
    if isinstance(config, dict):
        if isinstance(config.get("class_path"), str):
            yield config["class_path"].rpartition(".")[2]
        for value in config.values():
            yield from named_classes(value)
    elif isinstance(config, list):
        for value in config:
            yield from named_classes(value)


@pytest.mark.parametrize(("module", "name"), networks())
def test_every_network_has_a_configuration_and_a_test(module: str, name: str) -> None:
    configs = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in (REPOSITORY / "configs").rglob("*.yaml")]
    assert any(name in named_classes(config) for config in configs)
    assert (REPOSITORY / "tests/models" / f"test_{module}.py").is_file()


def test_test_files_have_names_of_their_own() -> None:
    names = [path.name for path in (REPOSITORY / "tests").rglob("test_*.py")]
    assert len(set(names)) == len(names)  # pytest imports them by name alone
    assert list((REPOSITORY / "tests").rglob("__init__.py")) == []
    # `from conftest import` would find a second one, depending on the order in which the tests are collected.
    assert list((REPOSITORY / "tests").rglob("conftest.py")) == [REPOSITORY / "tests/conftest.py"]
