"""``faceexpr runs``: list what was run in a folder, from what each run has left there."""

from __future__ import annotations

import json
import operator
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import yaml

from faceexpr.cli.parser import Parser, naming_options
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import say
from faceexpr.utils.text import aligned_table, csv_text, markdown_table

DESCRIPTION = (
    "List the runs in a folder: data, network, metrics, time and commit. Beside what a test has measured stand the "
    "validation, the seed and the epochs of the training whose checkpoint it was."
)
WHERE = "Conditions that all hold, such as verb=test, 'network=*ResNet*' or 'val/accuracy>=0.6'; = and != take * and ?."
SHOWN = (
    "run", "verb", "data", "network", "seed", "best_epoch", "epochs", "val/accuracy", "test/accuracy",
    "test/balanced_accuracy", "test/macro_f1", "val/ap50", "test/ap50", "test/ap", "minutes", "faceexpr", "commit",
)  # fmt: skip
"""Columns that are shown unless others are asked for, where any run has them."""

OF_TRAINING = ("data", "network", "seed", "epochs", "best_epoch")
ORDER = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def run(args: list[str]) -> None:
    """Run ``faceexpr runs``."""
    parser = Parser(prog="faceexpr runs", description=DESCRIPTION)
    parser.add_argument("folder", type=Path, default=Path("lightning_logs"), nargs="?", help="Folder of the runs.")
    parser.add_argument("--where", type=str, nargs="+", default=[], metavar="CONDITION", help=WHERE)
    parser.add_argument("--columns", type=str, nargs="+", default=[], metavar="COLUMN", help="Columns, in this order.")
    parser.add_argument("--sort", type=str, default="run", metavar="COLUMN", help="Column to sort by.")
    parser.add_argument("--descending", type=bool, default=False, help="Begin with the largest.")
    parser.add_argument("--format", type=Literal["text", "markdown", "csv"], default="text", help="How to print.")
    config = parser.parse_args(args[1:])
    with naming_options(config):
        rows = read_runs(config.folder)
        known = dict.fromkeys([*SHOWN, *(name for row in rows for name in row)])
        conditions = [re.split("([<>!]=|[=<>])", condition, maxsplit=1) for condition in config.where]
        named = [("where", test[0]) for test in conditions] + [("columns", name) for name in config.columns]
        for option, name in [*named, ("sort", config.sort)]:
            if name not in known:
                raise FaceExprError(f"{option} has {name}, which is no column here; expected of {', '.join(known)}")
        if unfinished := next((test[0] for test in conditions if len(test) == 1), None):
            raise FaceExprError(f"where has {unfinished} alone; expected =, !=, <, <=, > or >= and a value after it")
    rows = [row for row in rows if all(_holds(row.get(name), *test) for name, *test in conditions)]
    rows.sort(key=lambda row: _key(row.get(config.sort)), reverse=config.descending)
    rows.sort(key=lambda row: row.get(config.sort) is None)  # those without a value come last either way
    columns = config.columns or [name for name in SHOWN if any(row.get(name) is not None for row in rows)]
    if config.format == "csv":
        say(csv_text(columns, [[row.get(name) for name in columns] for row in rows]).rstrip("\n"))
        return
    cells = [[_shown(name, row.get(name)) for name in columns] for row in rows]
    say("\n".join(aligned_table(columns, cells) if config.format == "text" else markdown_table(columns, cells)))


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """Return a row for each run below a folder, with all that it says of itself by the name of the column.

    Raises:
        FaceExprError: there is no run.
    """
    found = sorted({path.parent for name in ("run.json", "metrics.json") for path in folder.rglob(name)})
    if not found:
        raise FaceExprError(f"folder: {folder} holds no run; expected a folder with a run.json in it or below")
    rows = {path.resolve(): dict(_describe(path, folder)) for path in found}
    for row in rows.values():
        training = rows.get(row.pop("training"), {})
        row |= {name: row.get(name, value) for name, value in training.items() if name in OF_TRAINING or "val/" in name}
    return [*rows.values()]


def _describe(path: Path, folder: Path) -> Iterator[tuple[str, Any]]:
    record, metrics, config = (_read(path / name) for name in ("run.json", "metrics.json", "config.yaml"))
    verb = record.get("verb") or ("test" if "test" in metrics else "fit")  # runs of 0.1 have no record
    yield "run", path.relative_to(folder).as_posix() if path != folder else path.resolve().name
    yield "verb", verb
    source = record.get("checkpoint") or config.get("ckpt_path")
    training = path.parent  # where an experiment of the paper keeps what it has tested
    if source:
        checkpoint = (path if record else Path()) / source
        training = checkpoint.parents[checkpoint.parent.name == "checkpoints"]
    yield "training", None if verb == "fit" else training.resolve()
    if config:
        net = _get(config, "model", "init_args", "net") or config.get("model")
        names = _get(config, "data", "class_path"), _get(net, "class_path")
        data, network = (str(name or "").rpartition(".")[2] or None for name in names)
        yield "data", data
        yield "network", " ".join(filter(None, (network, _get(net, "init_args", "name")))) or None
    if config and verb == "fit":
        yield "seed", config.get("seed_everything")
        yield "epochs", _get(config, "trainer", "max_epochs")
        best = _get(record, "best", "epoch") if record else _get(metrics, "val", "epoch")
        yield "best_epoch", None if best is None else best + 1
    for stage, values in metrics.items():
        for name, value in values.items() if isinstance(values, Mapping) else ():
            if isinstance(value, int | float | str):
                yield f"{stage}/{name}", value
            elif name.endswith("_interval"):
                yield f"{stage}/{name}", " to ".join(f"{end:.4f}" for end in value)
    if record.get("started") and record.get("ended"):
        started, ended = (datetime.fromisoformat(record[name]) for name in ("started", "ended"))
        yield "minutes", (ended - started).total_seconds() / 60
    yield from ((name, record.get(name)) for name in ("started", "stopped_by", "faceexpr", "commit", "command"))


def _read(path: Path) -> dict[str, Any]:
    """Return what a file of a run holds; one that is broken is named and passed over."""
    if not path.exists():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        found = json.loads(text) if path.suffix == ".json" else yaml.load(text, loader)
        return {**found}
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        print(f"note: {path} is passed over ({' '.join(str(error).split())})", file=sys.stderr)
        return {}


def _get(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _key(value: Any) -> tuple[Any, ...]:
    """Return what sorts numbers before texts, and texts by the numbers in them."""
    if isinstance(value, int | float):
        return 0, value
    return 1, [(part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", str(value))]


def _holds(value: Any, comparison: str, wanted: str) -> bool:
    if comparison in ("=", "!="):
        return (value is not None and fnmatchcase(str(value), wanted)) == (comparison == "=")
    try:
        other = wanted if isinstance(value, str) else float(wanted)
        return value is not None and bool(ORDER[comparison](value, other))
    except ValueError:  # a word, where the column has numbers
        return False


def _shown(name: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1f}" if name == "minutes" else f"{value:.4f}"
    return "" if value is None else str(value)[: 9 if name == "commit" else None]
