"""``faceexpr compare``: whether the difference between trained classifiers is more than chance."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from faceexpr.cli import comparison_report as reports
from faceexpr.cli.parser import Parser
from faceexpr.metrics.classification import check_resamples
from faceexpr.metrics.comparison import Comparison, check_same, compare, known_leaks
from faceexpr.metrics.predictions import SavedSamples, file_name, read_samples
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import say, write_file
from faceexpr.utils.text import counted

DESCRIPTION = (
    "Compare classifiers sample by sample: accuracy of each with its interval, and of each pair the difference with a "
    "paired bootstrap interval and McNemar's exact test, on all samples and on those that are in no training data."
)
RUNS = "Run folder of faceexpr test or validate (of fit for --split val), or its predictions_test.csv.gz; two or more."
ENDINGS = (".csv", ".md", ".json")
VERB = {"test": "test", "val": "validate"}


def run(args: list[str]) -> None:
    """Run ``faceexpr compare``."""
    parser = Parser(prog="faceexpr compare", description=DESCRIPTION)
    parser.add_argument("runs", nargs="+", type=str, metavar="RUN", help=RUNS)
    parser.add_argument("--split", type=Literal["test", "val"], default="test", help="What they were measured on.")
    parser.add_argument("--resamples", type=int, default=10_000, help="Bootstrap resamples behind the intervals.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the resampling.")
    parser.add_argument("--out", type=Path | None, default=None, help="File for the tables too: .csv, .md or .json.")
    config = parser.parse_args(args[1:])
    check_resamples(config.resamples)
    if config.seed < 0:
        raise FaceExprError(f"--seed is {config.seed}; expected 0 or more")
    if config.out is not None and config.out.suffix not in ENDINGS:
        raise FaceExprError(f"--out is {config.out}; expected a file that ends in {', '.join(ENDINGS[:-1])} or .json")
    runs = load([Path(given) for given in config.runs], config.split)
    compared, note = on_all_and_unleaked(runs, config.resamples, config.seed)
    say(reports.as_text(compared))
    say(note)
    if config.out is not None:
        settings = {"split": config.split, "resamples": config.resamples, "seed": config.seed, "leaks": note}
        write_file(config.out, _written(config.out.suffix, compared, settings))
        say(f"written to {config.out}")


def _written(suffix: str, compared: dict[str, Comparison], settings: dict[str, Any]) -> str:
    if suffix == ".csv":
        return reports.as_csv(compared)
    if suffix == ".md":
        return reports.as_markdown(compared) + f"\n{settings['leaks']}\n"
    return reports.as_json(compared, settings)


def load(paths: Sequence[Path], split: str) -> dict[str, SavedSamples]:
    """Return the samples of runs by name: their paths without the folder that all are in.

    Args:
        paths: run folders or files of predictions.
        split: ``val`` or ``test``.

    Raises:
        FaceExprError: fewer than two, one given twice, one without predictions, or runs of other samples.
    """
    files = [_file(path, split) for path in paths]
    if len(files) < 2:
        raise FaceExprError(f"there is nothing to compare {paths[0]} with; expected two runs or more")
    for place, file in enumerate(files):
        if any(file.samefile(earlier) for earlier in files[:place]):
            raise FaceExprError(f"{paths[place]} is given twice; expected each run once")
    runs = {name: read_samples(file) for name, file in zip(_names(paths), files, strict=True)}
    check_same(runs)
    return runs


def _file(path: Path, split: str) -> Path:
    if path.is_file():
        told = next((other for other in VERB if path.name == file_name(other)), split)
        if told != split:
            raise FaceExprError(f"{path} is of the {told} split; expected one of the {split} split, or --split {told}")
        return path
    file = path / file_name(split)
    if file.is_file():
        return file
    if not path.is_dir():
        raise FaceExprError(f"{path} does not exist; expected the folder of a run")
    if _detects(path, split):
        raise FaceExprError(
            f"{path} is a run of a detector, whose boxes are not compared one by one; expected runs of classifiers"
        )
    raise FaceExprError(
        f"{path} has no predictions of the {split} split ({file.name}); expected a run of `faceexpr {VERB[split]} "
        f"--ckpt_path {path}`, which writes them into a folder of its own"
    )


def _detects(folder: Path, split: str) -> bool:
    try:
        found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        entries = [found[split]] if split in found else list(found.values())
        return any("ap50" in entry for entry in entries)
    except (OSError, ValueError, TypeError, AttributeError):
        return False


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the paths without the folder that all are in."""
    absolute = [path.resolve() for path in paths]
    common = os.path.commonpath([path.parent for path in absolute])
    return [path.relative_to(common).as_posix() for path in absolute]


def on_all_and_unleaked(runs: dict[str, SavedSamples], resamples: int, seed: int) -> tuple[dict[str, Comparison], str]:
    """Compare runs on all samples and, where any is in the training data too, on the others.

    Args:
        runs: of the same samples, by name.
        resamples: number of bootstrap resamples.
        seed: of the resampling.

    Returns:
        The comparisons by what the samples are, and what is known of leaked samples.
    """
    count = len(next(iter(runs.values())).indices)
    compared = {"all samples": compare(runs, np.ones(count, dtype=np.bool_), resamples, seed)}
    leaked = known_leaks(runs)
    if leaked is None:
        return compared, "Whether samples are in the training data too is not known for these data."
    number = int(leaked.sum())
    note = f"{number:,} of {counted(count, 'sample')} {'is' if number == 1 else 'are'} pixel-equal to a training image."
    if 0 < number < count:
        compared["samples that are in no training data"] = compare(runs, ~leaked, resamples, seed)
    return compared, note
