r"""How well and how fast are faces found, against YuNet and MTCNN?

In one run, on the same photographs in turns: decoded RGB pixels in, boxes out, one image at a time. Average precision
is this package's own (equal to pycocotools').

    python benchmarks/detection.py [--detector RUN] --annotations wider_face_val_bbx_gt.txt \
        --yunet_file face_detection_yunet_2023mar.onnx [--most 40] [--threads 2]

Without a detector the one that comes with the package is measured; without annotations drawn images stand in, and
then only the times mean anything.

YuNet runs in OpenCV's FaceDetectorYN with its defaults, at the size of each image; a second line has it return what
it is less sure of, as average precision wants. Its file is OpenCV Zoo's face_detection_yunet_2023mar.onnx, the same as
onnx/yunet_s_640_640.onnx in ShiqiYu/libfacedetection.train. MTCNN is that of facenet-pytorch, smallest face 20 pixels,
its other options as they come. Both are measured where they can be imported:
``pip install --target FOLDER opencv-python-headless`` and ``pip install --target FOLDER --no-deps facenet-pytorch``,
then ``PYTHONPATH=FOLDER``.

Each detector looks at each image twice. What a network runner prepares for a new size counts in the first look only;
a folder of photographs needs the first, a video the second. Prints AP50, AP, the median milliseconds of both, and the
median over the images of our time by the peer's.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from common.finders import Finder, mtcnn, ours, yunet
from common.scenes import Scene, drawn, photographs
from jsonargparse import auto_cli
from numpy.typing import NDArray

from faceexpr.boxes.detections import Detections
from faceexpr.metrics.detection import score_detections
from faceexpr.utils.images import read_image
from faceexpr.weights.model_file import DETECTOR

WARM_UP = 3
"""Images that are looked at before the clock runs."""

LOOKS = ("first", "again")


def main(
    detector: str = DETECTOR,
    annotations: str | None = None,
    images: str | None = None,
    yunet_file: str | None = None,
    most: int | None = None,
    threads: int = 2,
) -> None:
    """Measure detectors.

    Args:
        detector: checkpoint, run folder or name of a model; the detector that comes with the package without it.
        annotations: file with the true boxes; drawn images without it.
        images: folder of the images; by default where the format has them.
        yunet_file: YuNet's ONNX file; it is left out without it.
        most: at most so many images, the first; all without it.
        threads: of torch and of OpenCV.
    """
    torch.set_num_threads(threads)
    finders = {
        "ours": ours(detector),
        "YuNet": yunet(yunet_file, threads),
        "YuNet, all": yunet(yunet_file, threads, min_score=0.02),
        "MTCNN": mtcnn(),
    }
    print(f"{threads} threads")
    with tempfile.TemporaryDirectory() as folder:
        scenes = (photographs(annotations, images) if annotations else drawn(Path(folder), 20, seed=0))[:most]
        measure(finders, scenes)


def measure(finders: Mapping[str, Finder | None], scenes: Sequence[Scene]) -> None:
    """Let the detectors look at the images in turns, and print what was measured."""
    there = {name: finder for name, finder in finders.items() if finder is not None}
    truths = [scene.truth for scene in scenes]
    found: dict[str, list[Detections]] = {name: [] for name in there}
    seconds: dict[str, list[list[float]]] = {name: [] for name in there}
    for number, scene in enumerate([*scenes[:WARM_UP], *scenes]):
        pixels = read_image(scene.path).pixels
        for name, finder in there.items():
            result, times = looked_at(finder, pixels)
            if number >= WARM_UP:
                seconds[name].append(times)
                found[name].append(result)
    print(f"{len(scenes)} images, {sum(len(truth.boxes) for truth in truths)} faces")
    for name in finders:
        if name not in there:
            print(f"{name:11} not installed, or no file given")
            continue
        values = score_detections(truths, found[name]).values
        times_of = [
            f"{look} {statistics.median(times[place] for times in seconds[name]) * 1e3:6.1f} ms, ours/this "
            f"{statistics.median(m[place] / t[place] for m, t in zip(seconds['ours'], seconds[name], strict=True)):.2f}"
            for place, look in enumerate(LOOKS)
        ]
        print(f"{name:11} AP50 {values['ap50']:.4f}  AP {values['ap']:.4f}  " + "  ".join(times_of))


def looked_at(finder: Finder, pixels: NDArray[np.uint8]) -> tuple[Detections, list[float]]:
    """Return what is found, and the seconds of each look."""
    times = []
    for _ in LOOKS:
        start = time.perf_counter()
        result = finder(pixels)
        times.append(time.perf_counter() - start)
    return result, times


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
