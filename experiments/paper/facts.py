"""What the page says of the data, counted where they are at hand, and kept with the reference runs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.paper.commands import RUNS, SYSTEM, WIDER_TRAIN, WIDER_VAL
from faceexpr.data.annotations.reading import read_annotations, read_document
from faceexpr.data.fer2013 import FER2013
from faceexpr.data.ferplus import USUAL_AGREEMENT, FERPlus
from faceexpr.data.loading import FaceSplit
from faceexpr.data.module import Stage
from faceexpr.pipeline.records import RECORDS, read_records
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import say, write_file
from faceexpr.utils.labels import FER_NAMES

FACTS = "facts.json"
SPLITS: tuple[Stage, ...] = ("train", "val", "test")


def write_facts(out: Path) -> None:
    """Count what can be counted and put it into ``facts.json``; what cannot stays as it was.

    Args:
        out: folder of the runs, with the link ``data``.
    """
    path = out / RUNS / FACTS
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    counts: dict[str, Callable[[Path], dict[str, Any]]] = {
        "fer2013": _fer2013, "ferplus": _ferplus, "wider": _wider, "dataturks": _dataturks, "two_step": _two_step,
    }  # fmt: skip
    for name, count in counts.items():
        try:
            facts[name] = count(out)
        except (FaceExprError, FileNotFoundError) as error:
            say(f"nothing is counted of {name}: {error}")
    write_file(path, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def expression_data(out: Path) -> FER2013:
    """Return FER-2013 from the data of the runs."""
    return FER2013(str(out / "data/fer2013"))


def ferplus_data(out: Path) -> FERPlus:
    """Return FER+ from the data of the runs; see `experiments.paper.commands`."""
    folder = out / "data/ferplus"
    folder = folder if folder.is_dir() else out / "data/fer2013"
    return FERPlus(str(folder), str(folder))


def labels(split: FaceSplit) -> list[int]:
    """Return the class of each face: of a distribution, its most probable one."""
    assert split.targets is not None
    found: list[int] = (split.targets.argmax(dim=1) if split.targets.ndim == 2 else split.targets).tolist()
    return found


def _fer2013(out: Path) -> dict[str, Any]:
    data = expression_data(out)
    counts = {stage: Counter(labels(data.split(stage))) for stage in SPLITS}
    leaked = {stage: data.leaked(stage) for stage in ("val", "test")}
    return {
        "classes": {stage: [counts[stage][index] for index in range(len(FER_NAMES))] for stage in SPLITS},
        "leaked": {stage: 0 if rows is None else int(rows.sum()) for stage, rows in leaked.items()},
    }


def _ferplus(out: Path) -> dict[str, Any]:
    before, now = both_labels(out)
    moved = np.zeros((len(FER_NAMES), len(FER_NAMES)), dtype=np.int64)
    np.add.at(moved, (before, now), 1)
    return {"labels": moved.tolist(), "without": len(FER2013(ferplus_data(out).path).split("test")) - len(now)}


def both_labels(out: Path) -> tuple[list[int], list[int]]:
    """Return the labels of FER-2013 and of FER+ of the test images that have both, in the order of FER+'s split.

    Raises:
        FaceExprError: they agree so seldom that the votes must be about other images.
    """
    both = ferplus_data(out)
    before, now = FER2013(both.path).split("test"), both.split("test")
    known = dict(zip(before.sources, labels(before), strict=True))
    old, new = [known[source] for source in now.sources], labels(now)
    share = float(np.mean(np.equal(old, new)))
    if share < USUAL_AGREEMENT * 3 / 4:
        raise FaceExprError(
            f"the labels and the votes in {both.path} agree on {share:.0%} of the images, where {USUAL_AGREEMENT:.0%} "
            "is usual; expected the images in their original order, in ferplus/ with the votes where fer2013/ has "
            "another"
        )
    return old, new


def _wider(out: Path) -> dict[str, Any]:
    found = {stage: read_annotations(out / name).images for stage, name in (("train", WIDER_TRAIN), ("val", WIDER_VAL))}
    return {
        stage: {"pictures": len(images), "faces": sum(len(image.boxes) for image in images)}
        for stage, images in found.items()
    }


def _dataturks(out: Path) -> dict[str, Any]:
    entries = read_document(out / "data/dataturks/face_detection.json").entries
    return {"pictures": len(entries), "faces": sum(len(entry.faces) for entry in entries)}


def _two_step(out: Path) -> dict[str, Any]:
    records = list(read_records(out / RUNS / SYSTEM / "photographs" / RECORDS))
    if not records:
        raise FaceExprError("the two-step system has not run yet")
    faces = [face for record in records for face in record["faces"]]
    expressions = Counter(face["expression"] for face in faces)
    return {
        "pictures": len(records),
        "failed": sum(record["status"] != "ok" for record in records),
        "faces": len(faces),
        "expressions": dict(sorted(expressions.items())),
    }
