"""The shape of the package: which folder may import which, what a file is, and what every module owes its reader."""

import ast
import graphlib
import inspect
import re
from collections import defaultdict
from functools import cache

import pytest
from conftest import REPOSITORY

PACKAGE = REPOSITORY / "faceexpr"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Each folder with those that it may import beside itself; a folder to the right of another never serves it.
FOUNDATIONS = {"utils", "boxes", "weights"}
BELOW_RUNS = FOUNDATIONS | {"data", "models", "tasks", "metrics"}
MAY_IMPORT = {
    "utils": set[str](),
    "boxes": {"utils"},
    "weights": {"utils"},
    "data": FOUNDATIONS,
    "models": FOUNDATIONS,
    "tasks": FOUNDATIONS | {"data", "models"},
    "metrics": FOUNDATIONS | {"data", "models"},
    "visualization": BELOW_RUNS,
    "callbacks": BELOW_RUNS | {"visualization"},
    "detectron2": BELOW_RUNS | {"visualization", "callbacks"},
    "pipeline": BELOW_RUNS | {"visualization", "callbacks", "detectron2"},
    "cli": BELOW_RUNS | {"visualization", "callbacks", "detectron2", "pipeline", "sweep"},
    "sweep": BELOW_RUNS | {"visualization", "callbacks", "cli"},
    "__main__": {"cli"},
    "": {"utils", "pipeline"},  # the package itself: its error, and the pipeline, which is loaded when it is asked for
}

SHORT = 150
"""Lines below which a module with a single importer is a part of that importer."""

SAME_SUBJECT = {"metrics", "visualization", "callbacks"}
"""Folders in which one subject may have a file each, of the same name."""


def module_name(path):
    """Return the name by which a file of the package is imported."""
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {module_name(path): path for path in MODULES}
NAMES = set(PATHS)


@cache
def source(path):
    return path.read_text(encoding="utf-8")


@cache
def tree(path):
    return ast.parse(source(path))


def imports(module):
    """Yield every module that a syntax tree imports, wherever in the file."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which part is meant"
            for alias in node.names:
                within = f"{node.module}.{alias.name}"
                yield within if within in NAMES else str(node.module)


def folder(name):
    """Return the folder of the package that a module lies in; empty for the package itself."""
    return name.removeprefix("faceexpr").removeprefix(".").partition(".")[0]


def test_every_folder_has_its_place():
    assert {folder(name) for name in NAMES} == set(MAY_IMPORT)
    assert len(list(PACKAGE.glob("*.py"))) <= 4


def test_arrows_point_one_way():
    wrong = {}
    for name, path in PATHS.items():
        own = [found for found in imports(tree(path)) if found.startswith("faceexpr.")]
        wrong[name] = [found for found in own if folder(found) not in MAY_IMPORT[folder(name)] | {folder(name)}]
    assert {name: arrows for name, arrows in wrong.items() if arrows} == {}


@cache
def needs(name):
    """Return what a module imports while it is itself imported: neither in a function nor for the type checker."""
    later = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.If)
    body = [node for node in tree(PATHS[name]).body if not isinstance(node, later)]
    return set(imports(ast.Module(body=body, type_ignores=[]))) - {"faceexpr", name}


def test_no_module_needs_itself():
    graph = {name: needs(name) & NAMES for name in NAMES}
    assert set(graphlib.TopologicalSorter(graph).static_order()) == NAMES


@cache
def loads(name):
    """Return all packages that a module loads, by their first names."""
    found = {each.partition(".")[0] for each in needs(name)}
    return found.union(*(loads(each) for each in needs(name) & NAMES))


@pytest.mark.parametrize(
    ("place", "foreign"),
    [
        ("utils", {"torch", "torchvision", "lightning", "torchmetrics", "sklearn", "scipy", "matplotlib"}),
        ("models", {"lightning", "torchmetrics", "matplotlib"}),  # networks are plain torch
        ("weights", {"lightning", "torchvision", "matplotlib"}),
        ("boxes", {"lightning", "torchvision", "matplotlib"}),
    ],
)
def test_foundations_and_networks_load_nothing_heavy(place, foreign):
    loaded = {name: loads(name) & foreign for name in NAMES if folder(name) == place}
    assert {name: found for name, found in loaded.items() if found} == {}


TRAINS = {"torchvision", "lightning", "torchmetrics", "optuna", "matplotlib", "sklearn", "scipy", "numba", "captum"}
ALL_BUT_TRAINING = ["merge", "compare", "fetch", "annotate", "analyze", "serve", "export", "detectron2"]


@pytest.mark.parametrize(
    ("name", "foreign"),
    [
        ("faceexpr.cli.main", TRAINS | {"torch", "numpy"}),
        ("faceexpr.cli.list_runs", TRAINS | {"torch", "numpy"}),
        *((f"faceexpr.cli.{verb}", TRAINS | {"torch"}) for verb in ALL_BUT_TRAINING),
        ("faceexpr.cli.sweep", (TRAINS - {"optuna"}) | {"torch"}),
        ("faceexpr.pipeline.pipeline", TRAINS),
        ("faceexpr.pipeline.analysis", TRAINS),
        ("faceexpr.pipeline.video", TRAINS),
    ],
)
def test_a_start_loads_no_library_that_it_does_not_use(name, foreign):
    """A subset of what `tests/cli/test_start.py` sees, which says at once by which module it would be loaded."""
    assert loads(name) & foreign == set()


def test_the_package_keeps_to_its_budget():
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.findall(r"Budget of the package: ([\d,]+) lines in ([\d,]+) files", changelog)
    lines, files = (int(number.replace(",", "")) for number in found[0])  # the newest stands first
    assert sum(len(source(path).splitlines()) for path in MODULES) <= lines
    assert len(MODULES) <= files


def importers():
    """Return for each module those that import it, without the folders' ``__init__`` that only name it again."""
    found = defaultdict(set)
    for path in MODULES:
        if path.name != "__init__.py":
            for name in imports(tree(path)):
                found[name].add(module_name(path))
    return found


def stands_alone(path):
    """Tell whether a file is of a kind that has a file each: a verb, a program, a format, a model or a data set."""
    if folder(module_name(path)) == "cli" or path.name in ("__init__.py", "__main__.py", "base.py"):
        return True
    if "def recognises(" in source(path) or '__name__ == "__main__"' in source(path):
        return True
    bases = {ast.unparse(base) for node in classes(path) for base in node.bases}
    return any(re.search(r"(Net|DataModule|FER2013)$", base) for base in bases)


def test_a_short_module_with_one_importer_is_part_of_it():
    users = importers()
    slivers = {
        module_name(path): next(iter(users[module_name(path)]))
        for path in MODULES
        if len(source(path).splitlines()) < SHORT and len(users[module_name(path)]) == 1 and not stands_alone(path)
    }
    assert slivers == {}


def test_no_two_files_have_the_same_name():
    places = defaultdict(list)
    for path in MODULES:
        if path.stem not in ("__init__", "base"):
            places[path.stem].append(path.parent.name)
    assert {name: where for name, where in places.items() if len(where) > 1 and not set(where) <= SAME_SUBJECT} == {}


FOREIGN_INNARDS = re.compile(r"fit_loop|\[.loops.\]|excepthook|formatwarning|os\._exit|signal\.signal\(|_pytree")


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_the_innards_of_libraries_are_left_alone(path):
    assert FOREIGN_INNARDS.findall(source(path)) == []
    # Three are programs: the command and the process of a trial, which hand the arguments on, and a bundle's example.
    if module_name(path) not in ("faceexpr.cli.main", "faceexpr.sweep.trial", "faceexpr.pipeline.onnx_example"):
        assert "sys.argv" not in source(path)


def defined_here(path):
    """Return the names that a module defines or sets on its own objects."""
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(ast.unparse(node).removeprefix("self."))
    return names


def test_no_private_attribute_of_another_library_is_used():
    named_tuple = {"_replace", "_asdict"}  # which are public
    ours = named_tuple.union(*(defined_here(path) for path in MODULES))
    used = {}
    for path in MODULES:
        found = {node.attr for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)}
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom):
                found |= {alias.name for alias in node.names} | {*(node.module or "").split(".")}
        used[module_name(path)] = {name for name in found if re.match("_(?!_)", name)} - ours
    assert {name: names for name, names in used.items() if names} == {}


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_no_private_attribute_of_a_base_class_is_set(path):
    module = pytest.importorskip(module_name(path))
    for node in classes(path):
        bases = getattr(getattr(module, node.name, None), "__mro__", ())
        foreign = [base for base in bases if base.__module__.partition(".")[0] in ("lightning", "jsonargparse")]
        theirs = {name for base in foreign for name in re.findall(r"\b_[a-z]\w*", inspect.getsource(base))}
        ours = {inner.name for inner in node.body if isinstance(inner, ast.FunctionDef)}
        ours |= set(re.findall(r"\bself\.(_\w+)", ast.unparse(node)))
        assert ours & theirs == set(), node.name


OPTION = re.compile(r"(?:^|[\s(`'\"])--[a-z]|(?<![\w.])(?:data|model|trainer)\.(?:init_args\.)?[a-z_]{2,}\b(?!\()")


def texts(path):
    """Yield the texts of a module's code: everything in quotes but the documentation."""
    documentation = set()
    for node in ast.walk(tree(path)):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else []:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                documentation.add(id(statement.value))
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


def test_only_the_command_line_names_its_options():
    named = {
        module_name(path): [text for text in texts(path) if OPTION.search(text)]
        for path in MODULES
        if folder(module_name(path)) not in ("cli", "sweep", "__main__")
    }
    assert {name: found for name, found in named.items() if found} == {}


def classes(path):
    """Yield the classes of a module."""
    yield from (node for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef))


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_modules_and_the_arguments_of_classes_are_explained(path):
    """The command line's help is made of the Args of the classes' docstrings."""
    assert ast.get_docstring(tree(path))
    for node in classes(path):
        if node.name.startswith("_") or any("Error" in ast.unparse(base) for base in node.bases):
            continue
        for function in node.body:
            if isinstance(function, ast.FunctionDef) and function.name == "__init__":
                names = [argument.arg for argument in [*function.args.args[1:], *function.args.kwonlyargs]]
                docstring = ast.get_docstring(node) or ""
                assert [name for name in names if f"\n    {name}:" not in docstring] == [], node.name


def test_every_network_has_a_configuration_and_a_test():
    configs = " ".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "configs").rglob("*.yaml"))
    for path in (PACKAGE / "models").glob("*.py"):
        for node in classes(path):
            if {ast.unparse(base) for base in node.bases} & {"ExpressionNet", "DetectionNet"}:
                assert f"class_path: {node.name}" in configs
                assert (REPOSITORY / "tests/models" / f"test_{path.stem}.py").is_file()


def test_test_files_have_names_of_their_own():
    names = [path.name for path in (REPOSITORY / "tests").rglob("test_*.py")]
    assert len(set(names)) == len(names)  # pytest imports them by name alone
    assert list((REPOSITORY / "tests").rglob("__init__.py")) == []
    # `from conftest import` would find a second one, depending on the order in which the tests are collected.
    assert list((REPOSITORY / "tests").rglob("conftest.py")) == [REPOSITORY / "tests/conftest.py"]
