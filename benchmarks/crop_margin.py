r"""With which margin should a found face be cut out, for a network that has learned from FER-2013?

    python benchmarks/crop_margin.py --fer2013 fer2013.csv.gz --annotations wider_face_val_bbx_gt.txt

No data set here has photographs with expressions, so three things are measured that bracket the answer:

- **Accuracy**: faces of PublicTest (never PrivateTest), pasted into images at sides of 40 to 160 pixels, found by the
  detector itself, cut out at each margin in both shapes, and classified. A frame of FER-2013 ends where the face ends.
  Its surroundings are made up in two ways: smooth colours, which overstate what a margin costs, and its own border
  pixels repeated, as training's own shifts do, which understates it.
- **Frames by boxes**: the side of each pasted frame by the longer side of the box found in it. A detector sees no
  chin or forehead beyond the frame, so this says too little where frames cut faces off.
- **Faces by marks**: the height of a face, eyes to mouth, in frames of FER-2013 and in the squares about the detector's
  boxes on photographs. The margin that makes both equal cuts photographs as FER-2013 was cut. MTCNN finds the marks,
  where facenet-pytorch is installed.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from common.finders import Finder, ours
from common.geometry import in_boxes, in_frames, mark_finder, median
from common.scenes import Pasting, Scene, composed, photographs
from jsonargparse import auto_cli
from numpy.typing import NDArray

from faceexpr.boxes.matching import match, stack
from faceexpr.data.fer2013 import read_table
from faceexpr.data.image_reading import face_tensor
from faceexpr.pipeline.classifiers import Classifier, load_classifier
from faceexpr.pipeline.records import MIN_SCORE
from faceexpr.utils.crop import Box, Crop, clip_box, cut_face
from faceexpr.utils.images import read_image
from faceexpr.utils.labels import FER_NAMES

MARGINS = (-0.05, 0.0, 0.05, 0.1, 0.15, 0.2)
SHAPES: tuple[Literal["square", "stretched"], ...] = ("square", "stretched")
SIDES = 40, 160
SURROUNDINGS = {"smooth colours": 0.0, "repeated borders": 0.5}
"""Kinds of surroundings, and for how far a frame's border pixels are repeated in them."""

BATCH = 64


class Found(NamedTuple):
    """A pasted face that was found.

    Attributes:
        pixels: of the whole image.
        box: of the detector.
        truth: of the frame that was pasted.
        label: its expression's place in `FER_NAMES`.
    """

    pixels: NDArray[np.uint8]
    box: Sequence[float]
    truth: Sequence[float]
    label: int


def main(
    fer2013: str | None = None,
    annotations: str | None = None,
    detector: str = "wider_light",
    classifier: str = "fer2013_compact",
    faces: int = 1000,
    frames: int = 400,
    seed: int = 0,
    threads: int = 1,
) -> None:
    """Measure margins.

    Args:
        fer2013: FER-2013's CSV file; nothing can be measured without it.
        annotations: boxes of photographs, which tell where these are; faces are not compared by their marks without.
        detector: checkpoint, run folder or name of a shipped model; the one that ships by default.
        classifier: checkpoint, run folder or name of a shipped model.
        faces: number of PublicTest faces that are pasted.
        frames: number of PublicTest frames whose marks are looked for.
        seed: of the images that are made.
        threads: of torch.
    """
    torch.set_num_threads(threads)
    if fer2013 is None:
        print("no --fer2013 given: nothing is measured")
        return
    finder = ours(detector)
    classify = load_classifier(classifier)
    for name, around in SURROUNDINGS.items():
        with tempfile.TemporaryDirectory() as folder:
            scenes = composed(Path(folder), fer2013, faces, seed, Pasting("val", SIDES, around))
            total = sum(len(scene.expressions) for scene in scenes)
            found = [one for scene in scenes for one in looked_for(scene, finder)]
        print(f"{name}: {len(found)} of {total} faces found")
        if len(found) > 1:
            report(found, classify)
    by_marks(fer2013, annotations, finder, frames)


def looked_for(scene: Scene, detector: Finder) -> list[Found]:
    """Return the pasted faces of an image that a detector finds, with an IoU of 0.3 or more."""
    pixels = read_image(scene.path).pixels
    found = detector(pixels)
    boxes = found.boxes[found.scores >= MIN_SCORE]
    of_face = match(stack([scene.truth], [found], len(found)), [0.3])[0].tolist()[: len(boxes)]
    labels = [FER_NAMES.index(name) for name in scene.expressions]
    truths = scene.truth.boxes.tolist()
    return [
        Found(pixels, box, truths[face], labels[face])
        for box, face in zip(boxes.tolist(), of_face, strict=True)
        if face >= 0
    ]


def report(found: Sequence[Found], classifier: Classifier) -> None:
    """Print accuracies by margin and shape, and how large frames are by the boxes in them."""
    print(f"  {'margin':10} {' '.join(f'{margin:7.2f}' for margin in MARGINS)}")
    for shape in SHAPES:
        accuracies = [accuracy(found, classifier, margin, shape) for margin in MARGINS]
        print(f"  {shape:10} {' '.join(f'{value:7.4f}' for value in accuracies)}")
    ratios = [side(one.truth) / side(one.box) for one in found]
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(
        f"  frame by box {middle:.3f} (quartiles {low:.3f} and {high:.3f}): margin {(middle - 1) / 2:+.3f} "
        f"({(low - 1) / 2:+.3f} and {(high - 1) / 2:+.3f})"
    )


def accuracy(
    found: Sequence[Found], classifier: Classifier, margin: float, shape: Literal["square", "stretched"]
) -> float:
    """Return the share of faces whose expression is told right when they are cut out with a margin, also below 0."""
    options = Crop(margin=0, shape=shape)
    right = 0
    for start in range(0, len(found), BATCH):
        batch = found[start : start + BATCH]
        crops = [cut_face(one.pixels, widened(one, margin), options) for one in batch]
        probabilities = classifier(torch.stack([face_tensor(crop, classifier.image_size) for crop in crops]))
        right += int((probabilities.argmax(axis=1) == [one.label for one in batch]).sum())
    return right / len(found)


def widened(found: Found, margin: float) -> Box:
    """Return the box with a margin, inside its image; `Crop` itself takes none below 0."""
    left, top, right, bottom = found.box
    across, down = margin * (right - left), margin * (bottom - top)
    height, width = found.pixels.shape[:2]
    box = clip_box((left - across, top - down, right + across, bottom + down), (width, height), 1)
    assert not isinstance(box, str), box
    return box


def side(box: Sequence[float]) -> float:
    """Return the side of the square about a box."""
    return max(box[2] - box[0], box[3] - box[1])


def by_marks(fer2013: str, annotations: str | None, detector: Finder, frames: int) -> None:
    """Print the margin at which faces are as high in crops of photographs as in FER-2013's frames."""
    find = mark_finder()
    if find is None or annotations is None:
        print("faces by marks: facenet-pytorch is not installed, or no --annotations given")
        return
    table = read_table(Path(fer2013), "stop", None)
    split = table.split(table.rows("val"))
    learned = in_frames(split.tensor[:frames, 0].numpy(), find)
    boxed = in_boxes(photographs(annotations, None), detector, find, MIN_SCORE)
    frame, box = median(learned), median(boxed)
    ratio = box.height / frame.height
    print(
        f"faces by marks: eyes to mouth {frame.height:.3f} of a frame's side ({len(learned)} of {frames}), "
        f"{box.height:.3f} of a box's ({len(boxed)} on photographs): margin {(ratio - 1) / 2:+.3f}"
    )
    print(f"  eyes at {frame.eyes:.3f} of a frame; at {0.5 + (box.eyes - 0.5) / ratio:.3f} of a crop with this margin")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
