"""``faceexpr compare``: tell whether the difference between trained classifiers is more than chance, in tables."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from faceexpr.cli.parser import Parser, naming_options
from faceexpr.metrics.classification import check_resamples
from faceexpr.metrics.comparison import CONFIDENCE, Comparison, check_same, compare, known_leaks
from faceexpr.metrics.predictions import SavedSamples, file_name, read_samples
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import say, write_file
from faceexpr.utils.text import aligned_table, counted, csv_text, markdown_table

DESCRIPTION = (
    "Compare classifiers sample by sample: accuracy of each with its interval, and of each pair the difference with a "
    "paired bootstrap interval and McNemar's exact test, on all samples and on those that are in no training data."
)
RUNS = "Run folder of faceexpr test or validate (of fit for --split val), or its predictions_test.csv.gz; two or more."
VERB = {"test": "test", "val": "validate"}

Table: TypeAlias = Callable[[Sequence[str], list[Sequence[str]]], list[str]]

RUN_HEADER = ("run", "accuracy", f"{CONFIDENCE:.0%} interval", "balanced", "macro F1")
PAIR_HEADER = (
    "first", "second", "difference", f"{CONFIDENCE:.0%} interval", "only first", "only second", "McNemar's p",
    "Holm's p",
)  # fmt: skip
COLUMNS = (
    "samples", "run", "against", "n", "accuracy", "low", "high", "balanced_accuracy", "macro_f1", "difference",
    "difference_low", "difference_high", "only_first", "only_second", "p", "p_holm",
)  # fmt: skip

NOTE = (
    "The difference is in points, of the first less the second; only first: samples that only it has right. Holm's p "
    "counts for all pairs of a table together."
)


def run(args: list[str]) -> None:
    """Run ``faceexpr compare``."""
    parser = Parser(prog="faceexpr compare", description=DESCRIPTION)
    parser.add_argument("runs", nargs="+", type=str, metavar="RUN", help=RUNS)
    parser.add_argument("--split", type=Literal["test", "val"], default="test", help="What they were measured on.")
    parser.add_argument("--resamples", type=int, default=10_000, help="Bootstrap resamples behind the intervals.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the resampling.")
    parser.add_argument("--out", type=Path | None, default=None, help="File for the tables too: .csv, .md or .json.")
    config = parser.parse_args(args[1:])
    with naming_options(config):
        check_resamples(config.resamples)
        if config.seed < 0:
            raise FaceExprError(f"seed is {config.seed}; expected 0 or more")
        if config.out is not None and config.out.suffix not in (".csv", ".md", ".json"):
            raise FaceExprError(f"out is {config.out}; expected a file that ends in .csv, .md or .json")
        runs = load([Path(given) for given in config.runs], config.split)
    compared, note = on_all_and_unleaked(runs, config.resamples, config.seed)
    say("\n".join([*lines_of(compared, _aligned), note]))
    if config.out is None:
        return
    if config.out.suffix == ".csv":
        text = _as_csv(compared)
    elif config.out.suffix == ".md":
        text = "\n".join(["# Runs compared", "", *lines_of(compared, mark="## "), "", note, ""])
    else:
        settings = {"split": config.split, "resamples": config.resamples, "seed": config.seed, "leaks": note}
        samples = {name: asdict(comparison) for name, comparison in compared.items()}
        found = {**settings, "confidence": CONFIDENCE, "samples": samples}
        text = json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_file(config.out, text)
    say(f"written to {config.out}")


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
    absolute = [path.resolve() for path in paths]
    common = os.path.commonpath([path.parent for path in absolute])
    names = [path.relative_to(common).as_posix() for path in absolute]
    runs = {name: read_samples(file) for name, file in zip(names, files, strict=True)}
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
    measured = path / "metrics.json"
    if measured.is_file() and '"ap50"' in measured.read_text(encoding="utf-8", errors="replace"):
        raise FaceExprError(
            f"{path} is a run of a detector, whose boxes are not compared one by one; expected runs of classifiers"
        )
    raise FaceExprError(
        f"{path} has no predictions of the {split} split ({file.name}); expected a run of `faceexpr {VERB[split]} "
        f"--ckpt_path {path}`, which writes them into a folder of its own"
    )


def on_all_and_unleaked(runs: dict[str, SavedSamples], resamples: int, seed: int) -> tuple[dict[str, Comparison], str]:
    """Compare runs, which are of the same samples, on all and, where any is in the training data too, on the others.

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


def lines_of(compared: Mapping[str, Comparison], table: Table = markdown_table, mark: str = "") -> list[str]:
    """Return the lines of the tables.

    Args:
        compared: by what the samples are.
        table: writes one table.
        mark: stands before each heading.
    """
    lines = []
    for samples, comparison in compared.items():
        lines += [f"{mark}{samples}: {comparison.runs[0].count:,}", ""]
        for header, rows in _tables(comparison):
            lines += [*table(header, rows), ""]
    return [*lines, NOTE]


def _as_csv(compared: Mapping[str, Comparison]) -> str:
    """Return one table: a row for each run, then a row for each pair, in whole numbers and shares."""
    rows: list[Sequence[object]] = []
    for samples, comparison in compared.items():
        for run in comparison.runs:
            numbers = (run.count, run.accuracy, *run.interval, run.balanced_accuracy, run.macro_f1)
            rows.append((samples, run.run, "", *numbers, *[""] * 7))
        for pair in comparison.pairs:
            tests = (pair.difference, *pair.interval, pair.only_first, pair.only_second, pair.p, pair.p_holm)
            rows.append((samples, pair.first, pair.second, comparison.runs[0].count, *[""] * 5, *tests))
    return csv_text(COLUMNS, rows)


def _tables(comparison: Comparison) -> list[tuple[Sequence[str], list[Sequence[str]]]]:
    """Return the table of the runs and that of the pairs, each with its header, as texts."""
    runs: list[Sequence[str]] = [
        (run.run, f"{run.accuracy:.2%}", "{:.2%} to {:.2%}".format(*run.interval), f"{run.balanced_accuracy:.2%}",
         f"{run.macro_f1:.4f}")
        for run in comparison.runs
    ]  # fmt: skip
    pairs: list[Sequence[str]] = [
        (pair.first, pair.second, f"{100 * pair.difference:+.2f}",
         "{:+.2f} to {:+.2f}".format(*(100 * end for end in pair.interval)), f"{pair.only_first:,}",
         f"{pair.only_second:,}", _p(pair.p), _p(pair.p_holm))
        for pair in comparison.pairs
    ]  # fmt: skip
    return [(RUN_HEADER, runs), (PAIR_HEADER, pairs)]


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def _aligned(header: Sequence[str], rows: list[Sequence[str]]) -> list[str]:
    return aligned_table(header, rows, names=2 if header is PAIR_HEADER else 1)
