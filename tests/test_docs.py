"""The pages: each is in the site, links and headings lead somewhere, names can be imported, and commands parse."""

import ast
import pkgutil
import re
import shlex
import sys
import unicodedata
from functools import cache
from itertools import pairwise

import pytest
import yaml
from conftest import REPOSITORY

from faceexpr.cli.main import VERBS, main
from faceexpr.cli.parser import Parser
from faceexpr.cli.train import FaceExprCLI, import_short_names
from faceexpr.utils.errors import FaceExprError
from faceexpr.weights.model_file import shipped_models

DOCS = REPOSITORY / "docs"
OUTSIDE = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"]
PAGES = [path for path in sorted(DOCS.rglob("*.md")) if not path.name.endswith(".prose.md")]
EVERY = [*PAGES, *(REPOSITORY / name for name in OUTSIDE)]
FOLDERS = ["data", "models", "tasks", "callbacks"]


def relative(path):
    return path.relative_to(REPOSITORY).as_posix()


@cache
def text(path):
    return path.read_text(encoding="utf-8")


@cache
def prose(path):
    """Return a page without its code."""
    return re.sub(r"`[^`\n]*`", "code", re.sub(r"^```.*?^```", "", text(path), flags=re.S | re.M))


def entries(nav):
    """Yield the pages of a part of the navigation."""
    for entry in nav:
        for value in entry.values():
            yield from entries(value) if isinstance(value, list) else [value]


def test_the_navigation_has_every_page_once():
    site = yaml.safe_load(text(REPOSITORY / "mkdocs.yml"))
    hooks = ast.parse(text(DOCS / "site_hooks.py"))
    outside = next(
        ast.literal_eval(node.value)
        for node in hooks.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PAGES"
    )
    assert sorted(outside) == sorted(OUTSIDE)
    expected = [path.relative_to(DOCS).as_posix() for path in PAGES] + list(outside.values())
    assert sorted(entries(site["nav"])) == sorted(expected)


def on_the_site(heading):
    """Return the anchor that Python-Markdown gives a heading."""
    plain = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def in_the_repository(heading):
    """Return the anchor that the hosts of repositories give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@cache
def anchors(path):
    """Return the anchors that lead to a page's headings in both places."""
    bare = re.sub(r"^```.*?^```", "", text(path), flags=re.S | re.M)
    headings = [re.sub(r"\[([^]]*)\]\([^)]*\)|`", r"\1", found) for found in re.findall(r"^#+ (.+)$", bare, re.M)]
    return {in_the_repository(heading) for heading in headings} & {on_the_site(heading) for heading in headings}


@pytest.mark.parametrize("path", EVERY, ids=relative)
def test_links_lead_to_files_and_headings(path):
    links = [link or image for link, image in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", prose(path))]
    wrong = []
    for link in links:
        name, _, anchor = link.partition("#")
        if "://" in link or link.startswith("mailto:"):
            continue
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert wrong == []


def test_the_readme_begins_with_an_image_and_its_links_work_on_the_package_index():
    lines = text(REPOSITORY / "README.md").splitlines()
    image = re.match(r'<img src="([^"]+)"', lines[2])
    if "[project.urls]" not in text(REPOSITORY / "pyproject.toml"):
        assert (REPOSITORY / image[1]).stat().st_size < 100_000
    else:  # the index shows the README elsewhere, where nothing lies beside it
        links = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", "\n".join(lines))
        assert [link for pair in links for link in pair if link and "://" not in link] == []


def test_targets_of_make_that_are_named_exist():
    targets = set(re.findall(r"^([a-z-]+):", text(REPOSITORY / "Makefile"), re.M))
    workflow = yaml.safe_load(text(REPOSITORY / ".github/workflows/ci.yml"))
    steps = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert steps == ["make lint", "make test", "make site"]
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.10", "3.11", "3.12", "3.13"]
    named = [name for path in EVERY for name in re.findall(r"`make ([a-z-]+)`", text(path))]
    assert {name for name in [*named, "lint", "test", "site"] if name not in targets} == set()


def test_the_citation_is_of_this_version():
    version = re.search(r'^version = "(.+)"', text(REPOSITORY / "pyproject.toml"), re.M)[1]
    assert str(yaml.safe_load(text(REPOSITORY / "CITATION.cff"))["version"]) == version


def test_every_script_of_the_examples_is_shown_on_a_page():
    # In this form only: `ruff format` makes something else of such a line in a block that begins with "```python".
    shown = re.findall(r'^``` \{ \.python title="(.+)" \}\n--8<-- "(.+)"\n```$', "\n".join(map(text, PAGES)), re.M)
    scripts = [relative(path) for path in sorted((REPOSITORY / "examples").glob("*.py"))]
    assert sorted(shown) == [(script, script) for script in scripts]


def test_every_verb_has_a_row_in_the_reference():
    table = text(DOCS / "reference/command_line.md")
    rows = [line.partition(" | ")[0] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(VERBS)


def test_what_the_reference_describes_can_be_imported_from_there():
    names = [name for path in PAGES for name in re.findall(r"^::: (\S+)", text(path), re.M)]
    assert len(names) > 60
    assert [name for name in names if not pkgutil.resolve_name(name).__doc__] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_names_its_public_classes_for_python_and_for_type_checkers(folder):
    module = pkgutil.resolve_name(f"faceexpr.{folder}")
    typed = ast.parse(text(REPOSITORY / f"faceexpr/{folder}/__init__.py"))
    imported = {alias.name for node in ast.walk(typed) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported - {"TYPE_CHECKING", "classes_of"} == set(module.__all__)
    described = text(DOCS / f"reference/{folder}.md")
    assert [name for name in module.__all__ if f"::: faceexpr.{folder}.{name}\n" not in described] == []
    assert [name for name in module.__all__ if getattr(module, name).__name__ != name] == []


# Commands.


def commands(path):
    """Yield the arguments of each ``faceexpr`` in the blocks of a page."""
    for block in re.findall(r"^```bash\n(.*?)^```", text(path), re.S | re.M):
        given = dict(re.findall(r'^(\w+)="(.*)"$', block, re.M))
        for line in block.replace("\\\n", " ").splitlines():
            for name, value in given.items():
                line = line.replace(f"${name}", value)
            words = shlex.split(re.sub(r"\$\w+", "1", line), comments=True)
            while "faceexpr" in words:
                words = words[words.index("faceexpr") + 1 :]
                ends = (at for at, word in enumerate(words) if word in ("|", "&&", "||", ";", "&") or word[-1:] == ";")
                end = next(ends, len(words))
                yield [word.rstrip(";") for word in words[: end + 1] if word not in ("|", "&&", "||", ";", "&", "...")]
                words = words[end:]


def with_files(args):
    """Return arguments in which a model and a configuration that the reader makes first are some that are there."""
    named = {path.stem for path in (REPOSITORY / "configs").rglob("*.yaml")}
    detects = r"data\.(train|test) |FaceBoxes|detection_evaluation|suppression|wider_light/|dataset1"
    boxes = re.search(detects, " ".join(args))
    changed = [*args]
    for at, (option, value) in enumerate(pairwise(args), start=1):
        if option == "--config" and not (REPOSITORY / value).exists() and value not in named:
            changed[at] = "wider_light" if boxes else "fer2013_simple_cnn"
        elif option == "--ckpt_path" and value == "last" and args[0] == "fit":
            changed[at] = "null"
        elif option == "--ckpt_path" and value not in shipped_models():
            changed[at] = "null" if args[0] == "fit" else "wider_light" if boxes else "fer2013_compact"
    return changed


class ParsedError(Exception):
    """Raised in the place of what a verb would do."""


def telling(args):
    """Return what a command could be wrong about: options, and the configurations and classes among their values."""
    files = {value for option, value in pairwise(args) if option in ("--config", "--sweep")}
    return {word for word in args if word[:2] == "--" or word[:1].isupper()} | files | {args[0]}


def telling_commands():
    """Return the commands of each page without those that another one holds all of."""
    found = {path: list(commands(path)) for path in EVERY}
    largest = []
    for args in sorted((args for listed in found.values() for args in listed), key=lambda args: -len(telling(args))):
        if not any(telling(args) <= telling(other) for other in largest):
            largest.append(args)
    return {path: [args for args in listed if args in largest] for path, listed in found.items()}


COMMANDS = telling_commands()


@pytest.mark.parametrize("path", [path for path in COMMANDS if COMMANDS[path]], ids=relative)
def test_commands_parse(path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.syspath_prepend(REPOSITORY / "examples")  # the network of one's own
    monkeypatch.setattr(FaceExprCLI, "instantiate_classes", lambda self: None)
    monkeypatch.setattr(sys, "stdin", None)
    import_short_names()
    parse = Parser.parse_args

    def stop(self, *args, **kwargs):
        parse(self, *args, **kwargs)
        raise ParsedError

    wrong = []
    for args in COMMANDS[path]:
        assert args[0] in VERBS, args
        try:
            if args[0] in ("fit", "validate", "test", "predict"):
                FaceExprCLI(args[0], with_files(args)[1:])
            else:
                with monkeypatch.context() as patch:
                    patch.setattr(Parser, "parse_args", stop)
                    main(with_files(args))
        except ParsedError:
            pass
        except (FaceExprError, SystemExit) as error:
            if getattr(error, "code", 2) == 0:  # a command that asks for help
                continue
            wrong.append((shlex.join(args), str(error)))
    assert wrong == []
