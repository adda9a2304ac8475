"""How fast is average precision, against pycocotools and torchmetrics?

In one run, in turns, on made-up images: from lists of boxes in memory to all average precisions. Ours and
pycocotools compute ten overlaps and four sizes of face for one limit of detections an image; torchmetrics'
``MeanAveragePrecision``, which calls pycocotools, always takes three limits. All look at the same boxes, and the values
are compared.

    python benchmarks/average_precision.py [--images 2000] [--rounds 3]

Prints seconds (median of the rounds), how many times ours that is (median of each round's ratio), and the largest
difference of the values. The first call, in which Numba compiles or reads what it has compiled, is printed on its own.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jsonargparse import auto_cli

from faceexpr.boxes.detections import Detections
from faceexpr.boxes.matching import Truth
from faceexpr.metrics.detection import score_detections

LIMIT = 100
"""Detections of an image that are looked at."""

COMPARED = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")

Scorer = Callable[[Sequence[Truth], Sequence[Detections]], Sequence[float | None]]


def made_up(images: int, faces: int, others: int) -> tuple[list[Truth], list[Detections]]:
    """Return faces of all sizes, and for most of them two detections, beside ``others`` in the wrong place."""
    random = np.random.default_rng(0)
    truths, found = [], []
    for _ in range(images):
        number = int(random.integers(0, 2 * faces + 1))
        corner, side = random.uniform(0, 900, (number, 2)), np.exp(random.uniform(2.3, 5.3, (number, 1)))
        boxes = np.concatenate([corner, corner + side], axis=1)
        near = np.repeat(boxes, 2, axis=0)
        near = near + 0.08 * (near[:, 2:3] - near[:, :1]) * random.normal(size=near.shape)
        corner = random.uniform(0, 900, (others, 2))
        wrong = np.concatenate([corner, corner + np.exp(random.uniform(2.3, 5.3, (others, 1)))], axis=1)
        scores = np.concatenate([random.beta(4, 2, len(near)), random.beta(2, 6, others)]).astype(np.float32)
        order = np.argsort(-scores)
        everything = np.concatenate([near, wrong]).astype(np.float32)[order]
        truths.append(Truth(boxes.astype(np.float32), random.random(number) < 0.05))
        found.append(Detections(torch.from_numpy(everything), torch.from_numpy(scores[order])))
    return truths, found


def ours(truths: Sequence[Truth], found: Sequence[Detections]) -> list[float | None]:
    values = score_detections(truths, found, max_detections=LIMIT, ties="in_order").values
    return [values[name] for name in COMPARED]


def pycocotools(truths: Sequence[Truth], found: Sequence[Detections]) -> list[float]:
    coco_class = importlib.import_module("pycocotools.coco").COCO
    evaluation_class = importlib.import_module("pycocotools.cocoeval").COCOeval
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image, (truth, detections) in enumerate(zip(truths, found, strict=True), start=1):
        common = {"image_id": image, "category_id": 1}
        for (left, top, right, bottom), ignored in zip(truth.boxes.tolist(), truth.ignored.tolist(), strict=True):
            box = [left, top, right - left, bottom - top]
            annotations.append(
                {**common, "id": len(annotations) + 1, "iscrowd": int(ignored), "bbox": box, "area": box[2] * box[3]}
            )
        for (left, top, right, bottom), score in zip(
            detections.boxes.tolist(), detections.scores.tolist(), strict=True
        ):
            results.append({**common, "bbox": [left, top, right - left, bottom - top], "score": score})
    truth_set = coco_class()
    truth_set.dataset = {
        "images": [{"id": image + 1} for image in range(len(truths))],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "face"}],
    }
    truth_set.createIndex()
    evaluation = evaluation_class(truth_set, truth_set.loadRes(results), "bbox")
    evaluation.params.maxDets = [LIMIT]
    evaluation.evaluate()
    evaluation.accumulate()
    by_size = evaluation.eval["precision"][:, :, 0, :, 0].mean(axis=1)
    return [float(value) for value in (by_size[:, 0].mean(), *by_size[[0, 5], 0], *by_size[:, 1:].mean(axis=0))]


def torchmetrics(truths: Sequence[Truth], found: Sequence[Detections]) -> list[float]:
    metric = importlib.import_module("torchmetrics.detection").MeanAveragePrecision()
    labels = [torch.zeros(len(detections), dtype=torch.int64) for detections in found]
    predictions = [
        {"boxes": detections.boxes, "scores": detections.scores, "labels": label}
        for detections, label in zip(found, labels, strict=True)
    ]
    targets = [
        {
            "boxes": torch.from_numpy(truth.boxes),
            "labels": torch.zeros(len(truth.boxes), dtype=torch.int64),
            "iscrowd": torch.from_numpy(truth.ignored).long(),
        }
        for truth in truths
    ]
    metric.update(predictions, targets)
    result = metric.compute()
    return [float(result[name]) for name in ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")]


def timed(scorer: Scorer, truths: Sequence[Truth], found: Sequence[Detections]) -> tuple[float, Sequence[float | None]]:
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        values = scorer(truths, found)
    return time.perf_counter() - start, values


def main(images: int = 2000, faces: int = 7, others: int = 30, rounds: int = 3) -> None:
    """Time the three in turns.

    Args:
        images: how many.
        faces: mean number of faces an image.
        others: false detections an image.
        rounds: how often each is timed.
    """
    truths, found = made_up(images, faces, others)
    inside, detections = sum(len(truth.boxes) for truth in truths), sum(map(len, found))
    print(f"{images:,} images, {inside:,} faces, {detections:,} detections, {rounds} rounds")
    first, _ = timed(ours, truths[:2], found[:2])
    scorers: dict[str, Scorer] = {"ours": ours, "pycocotools": pycocotools, "torchmetrics": torchmetrics}
    times: dict[str, list[float]] = {name: [] for name in scorers}
    values: dict[str, Sequence[float | None]] = {}
    for _ in range(rounds):
        for name, scorer in scorers.items():
            duration, values[name] = timed(scorer, truths, found)
            times[name].append(duration)
    print(f"  first call    {first:8.3f} s")
    for name, durations in times.items():
        line = f"  {name:<14}{statistics.median(durations):8.3f} s  ({min(durations):.3f} to {max(durations):.3f})"
        if name != "ours":
            ratio = statistics.median(d / our for d, our in zip(durations, times["ours"], strict=True))
            differences = [abs((a or 0) - (b or 0)) for a, b in zip(values[name], values["ours"], strict=True)]
            line += f"  {ratio:6.1f} times ours   largest difference {max(differences):.1e}"
        print(line, flush=True)


if __name__ == "__main__":
    auto_cli(main)
