"""A comparison of runs as tables for people and as files for machines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from faceexpr.metrics.comparison import CONFIDENCE, Comparison
from faceexpr.utils.text import markdown_table

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


def as_text(compared: Mapping[str, Comparison]) -> str:
    """Return the tables for the console, by what the samples are."""
    blocks = []
    for samples, comparison in compared.items():
        tables = [(RUN_HEADER, _run_rows(comparison)), (PAIR_HEADER, _pair_rows(comparison))]
        lines = [_aligned([header, *rows]) for header, rows in tables]
        blocks.append("\n\n".join([_heading(samples, comparison), *lines]))
    return "\n\n".join([*blocks, NOTE])


def as_markdown(compared: Mapping[str, Comparison]) -> str:
    """Return the same tables as a page in Markdown."""
    return "\n".join(["# Runs compared", "", *sections(compared, 2), ""])


def sections(compared: Mapping[str, Comparison], level: int) -> list[str]:
    """Return the lines of the same tables in Markdown.

    Args:
        compared: by what the samples are.
        level: of the headings.
    """
    lines = []
    for samples, comparison in compared.items():
        lines += [f"{'#' * level} {_heading(samples, comparison)}", ""]
        for header, rows in ((RUN_HEADER, _run_rows(comparison)), (PAIR_HEADER, _pair_rows(comparison))):
            lines += [*markdown_table(header, rows), ""]
    return [*lines, NOTE]


def as_csv(compared: Mapping[str, Comparison]) -> str:
    """Return one table: a row for each run, then a row for each pair, in whole numbers and shares."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for samples, comparison in compared.items():
        for run in comparison.runs:
            low, high = run.interval
            writer.writerow(
                {
                    "samples": samples, "run": run.run, "n": run.count, "accuracy": run.accuracy, "low": low,
                    "high": high, "balanced_accuracy": run.balanced_accuracy, "macro_f1": run.macro_f1,
                }
            )  # fmt: skip
        for pair in comparison.pairs:
            low, high = pair.interval
            writer.writerow(
                {
                    "samples": samples, "run": pair.first, "against": pair.second, "n": comparison.runs[0].count,
                    "difference": pair.difference, "difference_low": low, "difference_high": high,
                    "only_first": pair.only_first, "only_second": pair.only_second, "p": pair.p, "p_holm": pair.p_holm,
                }
            )  # fmt: skip
    return text.getvalue()


def as_json(compared: Mapping[str, Comparison], settings: Mapping[str, Any]) -> str:
    """Return everything as JSON.

    Args:
        compared: by what the samples are.
        settings: how it was computed.
    """
    found = {**settings, "confidence": CONFIDENCE, "samples": {name: asdict(one) for name, one in compared.items()}}
    return json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _heading(samples: str, comparison: Comparison) -> str:
    return f"{samples}: {comparison.runs[0].count:,}"


def _run_rows(comparison: Comparison) -> list[Sequence[str]]:
    return [
        (
            run.run,
            f"{run.accuracy:.2%}",
            "{:.2%} to {:.2%}".format(*run.interval),
            f"{run.balanced_accuracy:.2%}",
            f"{run.macro_f1:.4f}",
        )
        for run in comparison.runs
    ]


def _pair_rows(comparison: Comparison) -> list[Sequence[str]]:
    return [
        (
            pair.first,
            pair.second,
            f"{100 * pair.difference:+.2f}",
            "{:+.2f} to {:+.2f}".format(*(100 * end for end in pair.interval)),
            f"{pair.only_first:,}",
            f"{pair.only_second:,}",
            _p(pair.p),
            _p(pair.p_holm),
        )
        for pair in comparison.pairs
    ]


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    # Names at the left, numbers at the right.
    names = 2 if len(widths) == len(PAIR_HEADER) else 1
    return "\n".join(
        "  " + "  ".join(
            cell.ljust(width) if place < names else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )  # fmt: skip
