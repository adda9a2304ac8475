r"""Photographs in, expressions out: how right and how fast, against the package fer?

In one run, on the same files in turns, one at a time, reading included: this package's detector and classifier; ``fer``
as it comes, a Haar cascade and mini-Xception; and ``fer`` with MTCNN as its detector.

    python benchmarks/pipeline.py [--detector RUN] [--classifier RUN] --annotations wider_face_val_bbx_gt.txt \
        --fer2013 fer2013.csv.gz [--threads 2]

There are two kinds of images, since no data set here has both boxes and expressions:

- photographs with boxes, for finding faces: recall and precision at each system's own threshold, IoU 0.5;
- faces of FER-2013's PrivateTest, pasted into images at sides of 64 to 192 pixels, for the expressions. A face is
  found where a box overlaps it with an IoU of 0.3 or more, since what FER-2013 cuts out is no detector's box; it counts
  as right where it is found and its expression is the label, and as wrong where it is not found.

The pasted images show how well each system's own detector and classifier fit together: a crop that is too tight or
too wide costs accuracy, a face not found does too. They are easy to search, as there is nothing else in them, their
faces are cut off at chin and ears, and came as 48 x 48 grey pixels: they say nothing of photographs. ``fer``'s network
comes from FER-2013 too, by a recipe that stops the training by both of its test parts, this one among them.

Without a detector and a classifier those that come with the package are measured; without any data drawn images stand
in, and then only the times mean anything. fer is measured where it can be imported:

    pip install --target FOLDER --no-deps fer facenet-pytorch
    pip install --target FOLDER tensorflow-cpu "opencv-python-headless<5" "moviepy<2" pandas tqdm "setuptools<81"
    PYTHONPATH=FOLDER python benchmarks/pipeline.py

With ``--ray 2`` it is measured instead how much faster two actors of Ray Data, on a thread each, analyse the same
images than one process on one thread does, in turns. What it takes to start them is left out: the images are looked at
once, then five times, and the difference counts.

Prints what was measured, images/s (by the median time an image), and the median of our time by the peer's.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common.scenes import Scene, composed, drawn, photographs
from common.systems import Face, System, fer, ours
from jsonargparse import auto_cli

from faceexpr.boxes.detections import Detections
from faceexpr.boxes.matching import match, stack
from faceexpr.pipeline import FacePipeline
from faceexpr.pipeline.analysis import ImageFiles, analyze_items, analyze_with_ray
from faceexpr.pipeline.inputs import Item
from faceexpr.utils.labels import FER_NAMES
from faceexpr.weights.model_file import CLASSIFIER, DETECTOR

WARM_UP = 2
"""Images that are looked at before the clock runs."""

BATCH_SIZE = 8
"""Images that a pipeline looks at together, beside Ray's actors."""

REPEATS = 5
"""Times that the longer run beside Ray's actors has the images of the shorter one."""


@dataclass
class Tally:
    """What a system has done so far.

    Attributes:
        seconds: of each image.
        found: faces of the images that it has found.
        false: boxes on no face, and beyond one for the same face.
        labels: expression of each face, where they are known, as its place in `FER_NAMES`.
        answers: what the system takes it for; -1 where it has not found it.
    """

    seconds: list[float] = field(default_factory=list)
    found: int = 0
    false: int = 0
    labels: list[int] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)

    def add(self, scene: Scene, faces: Sequence[Face], iou: float) -> None:
        """Judge the faces that were found in an image."""
        boxes = torch.tensor([face.box for face in faces]).reshape(-1, 4)
        # Where a system gives no scores, its order is taken for one.
        detections = Detections(boxes, torch.linspace(1, 0.5, len(boxes)))
        of_face = match(stack([scene.truth], [detections], len(boxes)), [iou])[0].tolist()
        answers = {truth: face.expression for truth, face in zip(of_face, faces, strict=True) if truth >= 0}
        counted = [place for place in answers if not scene.truth.ignored[place]]
        self.found += len(counted)
        self.false += sum(truth < 0 for truth in of_face)
        self.labels += [FER_NAMES.index(name) for name in scene.expressions]
        self.answers += [_index(answers.get(place)) for place in range(len(scene.expressions))]


def measure(systems: Mapping[str, System], scenes: Sequence[Scene], iou: float) -> dict[str, Tally]:
    """Let each system look at each image, in turns."""
    tallies = {name: Tally() for name in systems}
    for number, scene in enumerate([*scenes[:WARM_UP], *scenes]):
        for name, system in systems.items():
            start = time.perf_counter()
            faces = system(scene.path)
            seconds = time.perf_counter() - start
            if number >= WARM_UP:
                tallies[name].seconds.append(seconds)
                tallies[name].add(scene, faces, iou)
    return tallies


def report(title: str, scenes: Sequence[Scene], tallies: Mapping[str, Tally]) -> None:
    """Print a table."""
    faces = sum(int((~scene.truth.ignored).sum()) for scene in scenes)
    print(f"\n{title}: {len(scenes)} images, {faces} faces")
    mine = next(iter(tallies.values()))
    for name, tally in tallies.items():
        precision = tally.found / max(tally.found + tally.false, 1)
        line = f"{name:12} recall {tally.found / max(faces, 1):.4f}  precision {precision:.4f}"
        if tally.labels:
            line += "  expression right {:.4f} (balanced {:.4f}, of those found {:.4f})".format(*accuracies(tally))
        ratio = statistics.median(m / t for m, t in zip(mine.seconds, tally.seconds, strict=True))
        print(f"{line}  {1 / statistics.median(tally.seconds):6.2f} images/s  time ours/this {ratio:.2f}")


def accuracies(tally: Tally) -> tuple[float, float, float]:
    """Return the share of faces with the right expression, its mean over the classes, and its share of those found."""
    labels, answers = torch.tensor(tally.labels), torch.tensor(tally.answers)
    right, found = labels == answers, answers >= 0
    by_class = [float(right[labels == label].double().mean()) for label in labels.unique()]
    return float(right.double().mean()), statistics.mean(by_class), float(right[found].double().mean())


def _index(expression: str | None) -> int:
    return FER_NAMES.index(expression) if expression in FER_NAMES else -1


def against_ray(scenes: Sequence[Scene], detector: str, classifier: str, workers: int, rounds: int) -> None:
    """Compare actors of Ray with one process, and print images/s of each round and their ratio."""
    torch.set_num_threads(1)
    items = [Item(str(scene.path), str(number), None) for number, scene in enumerate([*scenes] * REPEATS)]
    make, files = partial(FacePipeline, detector, classifier), ImageFiles(Path())
    few = len(items) // REPEATS
    print(f"{len(items)} images; one process, and {workers} actors of Ray, a thread each", flush=True)
    ratios = []
    for _ in range(rounds):
        one = rate(lambda part: analyze_items(make(), part, files), items, few)
        many = rate(lambda part: analyze_with_ray(make, part, files, workers, BATCH_SIZE, gpu=False), items, few)
        ratios.append(many / one)
        print(f"one {one:6.2f}  Ray {many:6.2f} images/s  ratio {many / one:.2f}", flush=True)
    print(f"Ray / one: median {statistics.median(ratios):.2f}")


def rate(analyze: Callable[[Sequence[Item]], Iterator[Any]], items: Sequence[Item], few: int) -> float:
    """Return images/s of what a long run has more than a short one of ``few`` images; starting takes both alike."""
    seconds = []
    for part in (items[:few], items):
        start = time.perf_counter()
        for _ in analyze(part):
            pass
        seconds.append(time.perf_counter() - start)
    return (len(items) - few) / (seconds[1] - seconds[0])


def main(
    detector: str = DETECTOR,
    classifier: str = CLASSIFIER,
    annotations: str | None = None,
    images: str | None = None,
    fer2013: str | None = None,
    faces: int = 600,
    most: int | None = None,
    seed: int = 0,
    threads: int = 2,
    ray: int = 0,
    rounds: int = 3,
) -> None:
    """Measure systems.

    Args:
        detector: checkpoint, run folder or name of a model; the detector that comes with the package without it.
        classifier: checkpoint, run folder or name of a model; the classifier that comes with the package without it.
        annotations: file with the true boxes of photographs.
        images: folder of the photographs; by default where the format has them.
        fer2013: FER-2013's CSV file.
        faces: number of its PrivateTest faces that are pasted into images.
        most: at most so many photographs, the first; all without it.
        seed: of the images that are made.
        threads: of torch and of OpenCV.
        ray: number of Ray's actors to compare with one process, in the place of other systems.
        rounds: how often they are compared.
    """
    if ray:
        with tempfile.TemporaryDirectory() as folder:
            scenes = photographs(annotations, images)[:most] if annotations else drawn(Path(folder), most or 100, seed)
            against_ray(scenes, detector, classifier, ray, rounds)
        return
    torch.set_num_threads(threads)
    peers = {"fer": fer(False, threads), "MTCNN + fer": fer(True, threads)}
    systems = {"ours": ours(detector, classifier), **{name: peer for name, peer in peers.items() if peer is not None}}
    print(f"{threads} threads; not installed: {', '.join(peers.keys() - systems.keys()) or 'none'}")
    with tempfile.TemporaryDirectory() as folder:
        if annotations:
            scenes = photographs(annotations, images)[:most]
            report("photographs", scenes, measure(systems, scenes, 0.5))
        if fer2013:
            scenes = composed(Path(folder), fer2013, faces, seed)
            report("pasted faces of PrivateTest", scenes, measure(systems, scenes, 0.3))
        if not annotations and not fer2013:
            scenes = drawn(Path(folder), 20, seed)
            report("drawn images", scenes, measure(systems, scenes, 0.5))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
