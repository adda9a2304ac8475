"""Judge what an audit of FER-2013 has found by the votes of FER+, and write tables for trainings without wrong labels.

A label counts as wrong where at most one of FER+'s ten annotators has chosen it; the second share counts those images
only on which more than half agree, and a label as wrong where they agree on something else. The file has to be in the
original order of rows, by which the votes are joined.

    faceexpr audit fer2013.csv.gz --out audit
    python benchmarks/label_errors.py audit/audit.csv fer2013.csv.gz fer2013new.csv [--out tables]

Prints, for the first suspects, how many labels are wrong, beside the share of all labels that are (the base rate), and
the share whose suggestion is what most annotators chose; then how many images without a face are none to annotators. Of
the suspects in the training split, ``--out`` writes audit tables whose actions leave them out or give the suggestion.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from jsonargparse import auto_cli
from numpy.typing import NDArray

from faceexpr.data.base import Stage
from faceexpr.data.corrections import COLUMNS, EXCLUDE
from faceexpr.data.fer2013 import FerTable, read_table
from faceexpr.data.ferplus import NOT_A_FACE, check_match, majority_labels, read_votes
from faceexpr.utils.files import write_file
from faceexpr.utils.labels import FER_NAMES
from faceexpr.utils.text import csv_text

FIRST = (100, 500, 2000)
FEW = 1
"""Votes for a label that are no support for it."""


def main(audit: Path, path: Path, votes: str, out: Path | None = None) -> None:
    """Judge the findings of an audit.

    Args:
        audit: audit.csv.
        path: fer2013.csv, which was audited, in the order of its original rows.
        votes: FER+'s fer2013new.csv.
        out: folder for the tables.
    """
    table, voted = read_table(path, "skip", None), read_votes(votes)
    check_match(voted, table)
    with audit.open(encoding="utf-8", newline="") as file:
        findings = [*csv.DictReader(file)]
    rows = {f"{table.path.name}:{line}": row for row, line in enumerate(table.lines.tolist())}
    suspects = [(rows[one["image"]], one) for one in findings if one["issue"] == "wrong_label"]
    suggested = np.array([FER_NAMES.index(one["suggestion"]) for _, one in suspects], dtype=np.int64)
    judge(table, voted.counts, np.array([row for row, _ in suspects], dtype=np.int64), suggested)
    judge_faces(voted.counts, np.array([rows[one["image"]] for one in findings if one["issue"] == "no_face"], np.int64))
    if out is not None:
        write_tables([one for _, one in suspects if one["split"] == "train"], out)


def judge(
    table: FerTable, counts: NDArray[np.int64], suspects: NDArray[np.int64], suggested: NDArray[np.int64]
) -> None:
    """Print the precision of the first suspects, of all splits and of each.

    Args:
        table: the images.
        counts: votes on each of them, int64 (N, 10).
        suspects: their rows, the most doubtful first, int64 (S,).
        suggested: the label that is suggested for each, int64 (S,).
    """
    alone = counts[np.arange(len(counts)), table.labels] <= FEW
    agreed = majority_labels(counts, 8)
    other = agreed.targets != table.labels
    stages: tuple[Stage, ...] = ("train", "val", "test")
    for name, members in (("all", np.arange(len(counts))), *((stage, table.rows(stage)) for stage in stages)):
        base, sure = alone[members].mean(), other[members][agreed.kept[members]].mean()
        print(f"{name}: {len(members):,} images, base rate {base:.1%}; of those agreed on {sure:.1%}")
        mine = np.isin(suspects, members)
        places, labels = suspects[mine], suggested[mine]
        for first in (*(first for first in FIRST if first < len(places)), len(places)):
            wrong, kept = alone[places[:first]].mean(), agreed.kept[places[:first]]
            chosen = places[:first][kept]
            right = (agreed.targets[chosen] == labels[:first][kept]).mean()
            print(
                f"  first {first:,}: wrong {wrong:.1%} ({wrong / base:.1f} x the base rate); of the {len(chosen):,} "
                f"agreed on {other[chosen].mean():.1%}, and {right:.1%} are what is suggested"
            )


def judge_faces(counts: NDArray[np.int64], found: NDArray[np.int64]) -> None:
    """Print how many of the images without a face, by their rows, annotators call no face, and of how many such."""
    for least in (1, 6):
        said = counts[:, NOT_A_FACE] >= least
        print(
            f"no_face: {len(found):,}; of them {said[found].sum():,} ({said[found].mean():.1%}) are no face to {least} "
            f"or more annotators, as are {said.sum():,} ({said.mean():.1%}) of all"
        )


def write_tables(suspects: list[dict[str, str]], out: Path) -> None:
    """Write tables for trainings: the first suspects of the training split left out, or with the suggested label."""
    for first, name in ((500, "500"), (2000, "2000"), (len(suspects), "all")):
        for action in ("excluded", "corrected"):
            for one in suspects[:first]:
                one["action"] = EXCLUDE if action == "excluded" else one["suggestion"]
            rows = [[one[column] for column in COLUMNS] for one in suspects[:first]]
            write_file(out / f"{action}_{name}.csv", csv_text(COLUMNS, rows))


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
