"""How well and how fast are faces found, against MTCNN?

In one run, on the same photographs in turns: decoded RGB pixels in, boxes out, one picture at a time. Average precision
is this package's own (equal to pycocotools').

    python benchmarks/detection.py --detector RUN --annotations wider_face_val_bbx_gt.txt [--threads 2]

Without a detector an untrained one stands in, without annotations drawn pictures do: then only the times mean anything.

MTCNN is that of facenet-pytorch (smallest face 20 pixels, its other options as they come) and is measured where the
package can be imported: ``pip install --no-deps facenet-pytorch`` into an environment for such things. Prints AP50, AP
and the median milliseconds a picture of each, and their ratio.
"""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import auto_cli
from numpy.typing import NDArray

from faceexpr.boxes.detections import Detections, no_detections
from faceexpr.boxes.matching import Truth
from faceexpr.data.formats.read import read_annotations
from faceexpr.data.synthetic_scenes import SyntheticScenes
from faceexpr.detection.detector import NetDetector
from faceexpr.detection.load import load_detector
from faceexpr.evaluation.detection_metrics import score_detections
from faceexpr.images import read_picture
from faceexpr.models.light_detector import LightDetector

Finder = Callable[[NDArray[np.uint8]], Detections]

WARM_UP = 3
"""Pictures that are looked at before the clock runs."""


Pictures = Sequence[tuple[Truth, Callable[[], NDArray[np.uint8]]]]
"""The true boxes of each picture, and what reads its pixels."""


def photographs(annotations: str, images: str | None) -> Pictures:
    """Return annotated pictures."""
    records = read_annotations(Path(annotations), Path(images) if images else None).images
    return [
        (Truth(record.boxes, record.ignored), lambda path=record.path: read_picture(path).pixels)  # type: ignore[misc]
        for record in records
    ]


def drawings(number: int = 20) -> Pictures:
    """Return drawn pictures of the usual size of a photograph on the web."""
    data = SyntheticScenes(test_size=number, width=1024, height=683)
    split = data.split("test")
    return [
        (Truth(record.boxes, record.ignored), lambda place=place: split.read(place))  # type: ignore[misc]
        for place, record in enumerate(split.records)
    ]


def ours(detector: str | None) -> Finder:
    """Return this package's detector."""
    loaded: Any = load_detector(detector) if detector else NetDetector(LightDetector())

    def find(pixels: NDArray[np.uint8]) -> Detections:
        found: Detections = loaded([pixels])[0]
        return found

    return find


def mtcnn() -> Finder | None:
    """Return MTCNN (Zhang et al., 2016); None where it is not installed."""
    try:
        module: Any = importlib.import_module("facenet_pytorch")
    except ImportError:
        return None
    network = module.MTCNN(keep_all=True, min_face_size=20, device="cpu")

    def find(pixels: NDArray[np.uint8]) -> Detections:
        boxes, scores = network.detect(pixels)
        if boxes is None:
            return no_detections()
        order = np.argsort(-scores)
        return Detections(
            torch.from_numpy(boxes[order].astype(np.float32)), torch.from_numpy(scores[order].astype(np.float32))
        )

    return find


def main(
    detector: str | None = None, annotations: str | None = None, images: str | None = None, threads: int = 2
) -> None:
    """Measure detectors.

    Args:
        detector: checkpoint or run folder; an untrained network without it.
        annotations: file with the true boxes; drawn pictures without it.
        images: folder of the pictures; by default where the format has them.
        threads: of torch.
    """
    torch.set_num_threads(threads)
    finders = {"ours": ours(detector), "MTCNN": mtcnn()}
    pictures = photographs(annotations, images) if annotations else drawings()
    truths = [truth for truth, _ in pictures]
    found: dict[str, list[Detections]] = {name: [] for name in finders}
    seconds: dict[str, list[float]] = {name: [] for name in finders}
    for number, (_, read) in enumerate([*pictures[:WARM_UP], *pictures]):
        pixels = read()
        for name, finder in finders.items():
            if finder is None:
                continue
            start = time.perf_counter()
            result = finder(pixels)
            if number >= WARM_UP:
                seconds[name].append(time.perf_counter() - start)
                found[name].append(result)
    print(f"{len(pictures)} pictures, {sum(len(truth.boxes) for truth in truths)} faces, {threads} threads")
    for name, finder in finders.items():
        if finder is None:
            print(f"{name:8} not installed")
            continue
        values = score_detections(truths, found[name]).values
        ratio = statistics.median(mine / its for mine, its in zip(seconds["ours"], seconds[name], strict=True))
        print(
            f"{name:8} AP50 {values['ap50']:.4f}  AP {values['ap']:.4f}  {statistics.median(seconds[name]) * 1e3:7.1f} "
            f"ms a picture  ours/this {ratio:.2f}"
        )


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
