"""Judge what an audit suspects of FER-2013's labels by the votes of FER+, and write tables for trainings without them.

A label counts as wrong where at most one of FER+'s ten annotators has chosen it; the second share counts those images
only on which more than half agree, and a label as wrong where they agree on something else. The file has to be in the
original order of rows, by which the votes are joined.

    python benchmarks/label_errors.py fer2013.csv.gz fer2013new.csv [--out tables]

Prints, for the first suspects, how many labels are wrong, beside the share of all labels that are (the base rate), the
share whose suggestion is what most annotators chose, and what is known of copies. Of suspects in the training split,
``--out`` writes audit tables whose actions leave them out or give them the suggested label.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jsonargparse import auto_cli
from numpy.typing import NDArray

from faceexpr.data.corrections import COLUMNS, EXCLUDE
from faceexpr.data.fer2013 import FER2013, read_table
from faceexpr.data.ferplus import check_match, majority_labels, read_votes
from faceexpr.pipeline.auditing import (
    Album,
    Embedder,
    Finding,
    count_copies,
    find_copies,
    find_wrong_labels,
    read_faces,
)
from faceexpr.utils.files import write_file
from faceexpr.utils.text import csv_text
from faceexpr.weights.model_file import CLASSIFIER

FIRST = (100, 500, 2000)
FEW = 1
"""Votes for a label that are no support for it."""


def join_votes(album: Album, path: str, votes: str) -> NDArray[np.int64]:
    """Return the votes on each image of an album, int64 (N, 10)."""
    table, voted = read_table(Path(path), "skip", None), read_votes(votes)
    check_match(voted, table)
    rows = {f"{table.path.name}:{line}": row for row, line in enumerate(table.lines.tolist())}
    return voted.counts[[rows[image] for image in album.images]]


def judge(album: Album, suspects: Sequence[Finding], counts: NDArray[np.int64]) -> None:
    """Print the precision of the first suspects, of all splits and of each."""
    labels = np.array(album.labels, dtype=np.int64)
    alone = counts[np.arange(len(labels)), labels] <= FEW
    agreed = majority_labels(counts, 8)
    other = agreed.targets != labels
    splits = np.array(album.splits)
    for name in ("all", *dict.fromkeys(album.splits)):
        mine = splits == name if name != "all" else np.ones(len(splits), dtype=np.bool_)
        base, sure = alone[mine].mean(), other[mine & agreed.kept].mean()
        print(f"{name}: {mine.sum():,} images, base rate {base:.1%}; of those agreed on {sure:.1%}")
        places = np.array([one.place for one in suspects if mine[one.place or 0]], dtype=np.int64)
        said = {one.place: one.suggestion for one in suspects}
        for first in (*FIRST, len(places)):
            chosen = places[:first]
            kept = chosen[agreed.kept[chosen]]
            right = np.mean([said[place] == album.class_names[agreed.targets[place]] for place in kept.tolist()
                             if agreed.targets[place] < len(album.class_names)])  # fmt: skip
            if first <= len(places):
                wrong = alone[chosen].mean()
                print(
                    f"  first {first:,}: wrong {wrong:.1%} ({wrong / base:.1f} x the base rate); of the {len(kept):,} "
                    f"agreed on {other[kept].mean():.1%}, and {right:.1%} are what is suggested"
                )


def write_tables(suspects: Sequence[Finding], out: Path) -> None:
    """Write tables for trainings: the first suspects of the training split left out, or with the suggested label."""
    mine = [one for one in suspects if one.split == "train"]
    for first in (500, 2000, len(mine)):
        for name in ("excluded", "corrected"):
            rows = [
                (EXCLUDE if name == "excluded" else one.suggestion, one.issue, one.split, one.image, one.label,
                 one.suggestion, f"{one.score:.4g}", "", "", "")
                for one in mine[:first]
            ]  # fmt: skip
            write_file(out / f"{name}_{'all' if first == len(mine) else first}.csv", csv_text(COLUMNS, rows))


def main(path: str, votes: str, classifier: str = CLASSIFIER, similarity: float = 0.9, out: Path | None = None) -> None:
    """Audit FER-2013 and judge it.

    Args:
        path: fer2013.csv in the order of its original rows.
        votes: FER+'s fer2013new.csv.
        classifier: network whose features are used.
        similarity: correlation from which images are near copies.
        out: folder for the tables.
    """
    start = time.perf_counter()
    album = read_faces(FER2013(path), Embedder(classifier))
    print(f"{len(album.images):,} images read and described in {time.perf_counter() - start:.0f} s")
    report(album, join_votes(album, path, votes), similarity, out)


def report(album: Album, counts: NDArray[np.int64], similarity: float, out: Path | None) -> None:
    """Find copies and suspects in an album, and print what they are worth."""
    start, spent = time.perf_counter(), time.process_time()
    copies, groups = find_copies(album, similarity)
    print(f"copies in {time.perf_counter() - start:.0f} s, {time.process_time() - spent:.0f} s of CPU")
    print(count_copies(album, groups), f"{sum(one.issue == 'near_duplicate' for one in copies):,} near duplicates")
    start, spent = time.perf_counter(), time.process_time()
    suspects = find_wrong_labels(album, groups)
    took = f"{time.perf_counter() - start:.0f} s, {time.process_time() - spent:.0f} s of CPU"
    print(f"{len(suspects):,} suspects in {took}")
    judge(album, suspects, counts)
    if out is not None:
        write_tables(suspects, out)


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
