"""Parse options with jsonargparse, and say what is wrong with one in a single line that names it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import (  # type: ignore[attr-defined]  # which has the first for programs such as Lightning's
    ActionConfigFile,
    ArgumentError,
    ArgumentParser,
    Namespace,
    get_loader,
    set_loader,
)
from jsonargparse.typing import Path_fr

from faceexpr.utils.configurations import find_config
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import write_file
from faceexpr.utils.redirects import redirect
from faceexpr.utils.text import nearest

MODE = "faceexpr"
"""jsonargparse's name for how our parsers read values: by `load_yaml`, with the class paths of 0.1 redirected."""

NAMES = "name|version|id|project|group|tags|class_names|frozen|(experiment|run)_(name|id)"
FILES = (
    "paths?|train|val|test|votes|list|images|annotations|detector|classifier|weights|ckpt_path|out|filename|dirpath"
    "|exclude|(val|test)_(images|list)|(save|cache|default_root)_dir"
)
TEXT = re.compile(rf"(.*\.)?({NAMES}|{FILES})\+?")
"""Keys whose values are text, whatever they look like: names, and files and folders."""

USUAL = re.compile(r"true|false|[-+]?(0|[1-9][0-9]*|[0-9]*\.[0-9]*(e[-+]?[0-9]+)?|\.inf)|\.nan", re.IGNORECASE)
"""Truth values and numbers as everybody writes them."""

TYPED = {f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float", "timestamp")}


def load_yaml(text: str) -> Any:
    """Return what YAML holds, refuse a key that stands twice, and leave words alone that only YAML knows as others.

    ``yes``, ``0042``, ``1_000`` and ``1:30`` in a list or below a key are text; jsonargparse makes of it what the
    option expects. So is all that follows a key of `TEXT`.

    Raises:
        FaceExprError: a key stands twice in a mapping; the message begins with its line.
        yaml.YAMLError: it is no YAML.
    """
    root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if isinstance(root, yaml.CollectionNode) and _keep_text(root, set()):
        text = yaml.serialize(root, allow_unicode=True)
    return get_loader("yaml")(text)


def text_lists(args: Sequence[str]) -> list[str]:
    """Return arguments in which the words of lists are text below keys of `TEXT`: ``--data.class_names=[1,2]``."""
    changed = [*args]
    for place, (before, argument) in enumerate(pairwise(["", *args])):
        name, equals, value = argument.partition("=") if argument.startswith("--") else (before, "", argument)
        if value.startswith("[") and name.startswith("--") and TEXT.fullmatch(name[2:]):
            with suppress(yaml.YAMLError):  # which the parser will say
                root = yaml.compose(value, Loader=yaml.SafeLoader)
                if root is not None and _keep_text(root, set(), expected=True):
                    text = yaml.serialize(root, allow_unicode=True, width=math.inf).strip()
                    changed[place] = f"{name}={text}" if equals else text
    return changed


def complete_switches(args: Sequence[str], defaults: Iterable[tuple[str, Any]]) -> list[str]:
    """Return arguments in which an option that is true or false is true where neither follows it: ``--pictures``."""
    switches = {f"--{name}" for name, value in defaults if isinstance(value, bool)}
    return [
        f"{argument}=true" if argument in switches and not USUAL.fullmatch(after) else argument
        for argument, after in pairwise([*args, ""])
    ]


def _keep_text(node: yaml.Node, seen: set[int], expected: bool = False) -> bool:
    """Quote each scalar that is to be text, and return whether there was any."""
    if isinstance(node, yaml.ScalarNode):
        odd = node.tag in TYPED and not USUAL.fullmatch(node.value)
        if node.style or not (odd or (expected and not node.tag.endswith(":null"))):
            return False
        node.tag, node.style = "tag:yaml.org,2002:str", '"'
        return True
    if id(node) in seen:  # an alias, of a node around it perhaps
        return False
    seen.add(id(node))
    kept, lines = False, dict[str, int]()
    for item in node.value:
        key, value = item if isinstance(item, tuple) else (None, item)
        if key is not None:
            name, line = str(key.value), key.start_mark.line + 1
            if first := lines.get(name):
                raise FaceExprError(f"line {line}: {name} stands twice, first in line {first}; expected each key once")
            lines[name], expected = line, bool(TEXT.fullmatch(name))
            kept |= _keep_text(key, seen)
        kept |= _keep_text(value, seen, expected)
    return kept


set_loader(MODE, lambda text: redirect(load_yaml(text)), (yaml.YAMLError,))
# Defaults of Lightning's, such as that of Timer's interval, are members of enumerations that are text.
yaml.add_multi_representer(str, lambda dumper, text: dumper.represent_str("".join(text)), yaml.SafeDumper)


CLASSES = re.compile(r",\s+known\s+subclasses:[^)]*(?=\))")
"""What jsonargparse says of an option's classes, bases included; ``--OPTION.help`` lists those that can be chosen."""

UNKNOWN = re.compile(
    r"unrecognized arguments: --([^\s=]+)|Option '(.*)' is not|Group '(.*)' does not accept option '(.*)'"
)

PLACE = re.compile(r"Parser key \"(.*?)\":|Problem with given class_path '[\w.]*?(\w+)':|Type .*? callable class:")
"""Where jsonargparse has found an error: a key in what stands before it, or the class whose options it reads."""

KINDS = {
    "<class 'float'>": "a number", "<class 'int'>": "a whole number", "<class 'bool'>": "true or false",
    "string to float": "a number", "literal for int": "a whole number", "<class 'dict'>": "a mapping, as {a: 1, b: 2}",
    "<class 'list'>": "a list, as [a, b]", "<class 'tuple'>": "a list, as [a, b]", ".Sequence'>": "a list, as [a, b]",
}  # fmt: skip
"""Kinds of values in a user's words, by what its messages call them."""

NEEDED = "the following arguments are required: "


class ConfigFile(ActionConfigFile):
    """jsonargparse's action for a configuration, which finds those that come with the package by their names."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        path = values if "{" in values else str(find_config(values))  # options may be written in the place of a file
        super().__call__(parser, cfg, path, option_string)  # type: ignore[no-untyped-call]


class Parser(ArgumentParser):
    """jsonargparse's parser, whose errors are one line that names the option, and the configuration file.

    Args:
        *args: of jsonargparse's parser.
        left_out: sections that a configuration file may hold and that are not read.
        **kwargs: of jsonargparse's parser.
    """

    def __init__(self, *args: Any, left_out: Collection[str] = (), **kwargs: Any) -> None:
        kwargs.setdefault("parser_mode", MODE)
        kwargs.setdefault("allow_abbrev", False)  # a misspelt option may be the beginning of another
        super().__init__(*args, **kwargs)
        self.left_out = left_out
        self.configs: dict[str, dict[str, Any]] = {}  # what the configuration files hold, by their paths

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("action") in ("config", ActionConfigFile):
            kwargs["action"] = ConfigFile
        return super().add_argument(*args, **kwargs)

    def format_help(self, *args: Any, **kwargs: Any) -> str:  # a formatter, from Python 3.15 on
        return CLASSES.sub("", super().format_help(*args, **kwargs)).replace("``", "`")  # of docstrings

    def parse_args(self, args: Sequence[str] | None = None, *rest: Any, **kwargs: Any) -> Namespace:  # type: ignore[override]
        given = args if args is None else text_lists(args)
        if given and type(self) is Parser:  # the options of a training are many, and parsed twice
            given = complete_switches(given, flat(self.get_defaults().as_dict()))
        parsed: Namespace = super().parse_args(given, *rest, **kwargs)
        return parsed

    def parse_path(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Namespace:
        config = read_config(Path(path))
        kept = {section: value for section, value in config.items() if section not in self.left_out}
        self.configs[os.fspath(path)] = kept
        try:
            with Path_fr(path).relative_path_context():  # to which the files are relative that it names
                parsed: Namespace = self.parse_string(yaml.safe_dump(kept, sort_keys=False), path, *args, **kwargs)
        except (FaceExprError, ArgumentError, TypeError, KeyError) as error:
            reason = str(error) if isinstance(error, FaceExprError) else one_line(str(error), error)
            raise FaceExprError(f"{os.fspath(path)}: {reason}") from error
        return parsed

    def save(self, namespace: Namespace, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Write options as one file, in UTF-8 whatever the system's encoding is; see jsonargparse's parser."""
        for name in ("overwrite", "multifile"):
            kwargs.pop(name, None)
        write_file(Path(path), self.dump(namespace, *args, **kwargs))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a parser within the parser, whose message becomes part of a longer one
            super().error(message, ex)
        if '"comments" for --print_config' in message:  # which jsonargparse has with this package alone
            raise FaceExprError(
                "--print_config=comments takes the package ruamel.yaml: pip install ruamel.yaml"
            ) from ex
        unknown = UNKNOWN.match(message)
        word = ".".join(filter(None, unknown.groups())) if unknown else ""
        # An unknown option of a file is noticed when all files have been read.
        given = {path: [name for name, _ in flat(config)] for path, config in self.configs.items()}
        names = [path for path, each in given.items() if word in each or any(f"'{name}'" in message for name in each)]
        near = nearest(f"--{word}", [f"--{name}" for name, _ in self.get_defaults().items()]) if word else ""
        line = one_line(message, ex)
        if line.startswith(NEEDED):
            flags = {*self.format_usage().split()}
            needed = [f"--{name}" if f"--{name}" in flags else name for name in line.removeprefix(NEEDED).split(", ")]
            line = f"missing: {' and '.join(needed)}; see `{self.prog} --help`"
        # argparse would print the usage, hundreds of lines for a verb, and then the message.
        raise FaceExprError(": ".join([*names[:1], line]) + near) from ex


def one_line(message: str, error: BaseException | None) -> str:
    """Return where jsonargparse has found an error, and the innermost of its reasons.

    Its messages are trees of indented lines: a line that ends with a colon names an option or a class, and those below
    it say what is wrong there. Where one of several types is expected, the reason that lies deepest is of the one that
    fits best. The last cause of the exception often says the same, with the value.
    """
    cause = ""
    while error is not None:
        cause, error = str(error), error.__cause__
    lines = [(len(line) - len(line.lstrip(" -")), line.strip(" -")) for line in message.splitlines() if line.strip()]
    deepest = max(depth for depth, _ in lines)
    reasons = [(place, line) for place, (depth, line) in enumerate(lines) if depth == deepest]
    last = " ".join(cause.split())
    place, reason = next(
        ((place, last) for place, line in reasons if last and (last in line or last.startswith(line))), reasons[0]
    )
    above = []
    for depth, line in reversed(lines[:place]):
        if depth < deepest:
            deepest = depth
            above.append(line)
    places = [line for line in reversed(above) if line.endswith(":") and " " in line]
    return in_words(" ".join([*places, reason]), [line for _, line in reasons])


def in_words(line: str, reasons: Sequence[str]) -> str:
    """Return a line of jsonargparse's in a user's words: ``--data.batch_size is x; expected a whole number``.

    ``reasons`` are those of each type that the option may be of.
    """
    places = [*PLACE.finditer(line)]
    option = ".".join(place[1] for place in places if place[1])
    owner = (places[-1][2] or "") if places else ""
    reason = line[places[-1].end() :].strip() if places else line
    if unknown := UNKNOWN.match(reason):
        name = ".".join(filter(None, (option, *unknown.groups())))
        return f"--{name} is no option{f' of {owner}' if owner else ''}" if option or not unknown[1] else line
    if not option:
        return line
    if reason.startswith(NEEDED):
        return f"--{option}.{reason.removeprefix(NEEDED).split(', ')[0]} is required{f' by {owner}' if owner else ''}"
    value = re.search(r"(?:Got value|base 10|to float|import path string): '?(.*?)'?$", reason, re.DOTALL)
    literals = re.findall(r"Expected a typing\.Literal\[(.*?)\]", " ".join(reasons).replace("'", ""))
    kinds = [words for each in reasons for sign, words in KINDS.items() if sign in each]
    kinds += [f"one of {', '.join(dict.fromkeys(', '.join(literals).split(', ')))}"] if literals else []
    kinds = [*dict.fromkeys(kinds)] or ["a class"] * ("import path" in reason)
    return f"--{option} is {value[1]}; expected {' or '.join(kinds)}" if value and kinds else f"--{option}: {reason}"


def read_config(path: Path) -> dict[str, Any]:
    """Return what a configuration file holds; nothing where there is no such file, which the parser will say.

    Raises:
        FaceExprError: it does not hold options, or a key stands twice in it or in a file that one of its options names.
    """
    config = _read_yaml(path)
    if not isinstance(config, dict):
        what = "is empty" if config is None else f"holds {type(config).__name__} values"
        raise FaceExprError(f"{path} {what}; expected options, a line each, such as `name: value`")
    for _, value in flat(config):
        if str(value).endswith((".yaml", ".yml")) and (path.parent / value).is_file():
            _read_yaml(path.parent / value)
    return config


def _read_yaml(path: Path) -> Any:
    try:
        return load_yaml(path.read_text(encoding="utf-8"))
    except OSError:
        return {}
    except FaceExprError as error:
        raise FaceExprError(f"{path}, {error}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else path
        raise FaceExprError(
            f"{where}: {getattr(error, 'problem', None) or 'not a text file'}; expected YAML"
        ) from error


def flat(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield options by their dotted names as one writes them on a command line, such as ``model.net.dropout``.

    A class is the value of the option that it is chosen by: ``class_path`` and ``init_args`` are in no name.
    """
    for key, value in options.items():
        parts = [part for part in f"{prefix}{key}".rstrip("+").split(".") if part not in ("class_path", "init_args")]
        name = ".".join(parts)
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{name}.")
        elif name:
            yield name, value


def name_option(error: FaceExprError, config: Namespace) -> FaceExprError:
    """Return an error whose first word is a parameter's name with the name of the option in its place.

    Below the command line nobody knows options, only parameters: "batch_size is 0" becomes "--data.batch_size is 0".

    Args:
        error: from anywhere.
        config: the options of the command line.
    """
    message = str(error)
    word = message.partition(" ")[0].rstrip(":")
    rest = message[len(word) :]
    found = [
        (name, value)
        for name, value in flat(config.as_dict())
        if rest.startswith((": ", " is ", " has ")) and f".{name}".endswith(f".{word}")
    ]
    if len(found) > 1:  # the option that has the value which the message tells
        found = [(name, value) for name, value in found if str(value) in rest]
    return FaceExprError(f"--{found[0][0]}{rest}") if len(found) == 1 else error


@contextmanager
def naming_options(config: Namespace) -> Iterator[None]:
    """Name options in the errors that are raised within, as `name_option` does."""
    try:
        yield
    except FaceExprError as error:
        raise name_option(error, config) from error.__cause__
