"""A first and a second step whose results are known in advance."""

import os
import time

import torch

from faceexpr.boxes.detections import Detections
from faceexpr.pipeline.pipeline import FacePipeline

WHOLE = (0, 0, 10_000, 10_000)


class Boxes:
    """A detector that finds the same boxes in every picture."""

    def __init__(self, *boxes):
        self.boxes = torch.tensor(boxes).float().reshape(-1, 4)
        self.seen = []

    def __call__(self, images):
        self.seen += images
        return [Detections(self.boxes, torch.linspace(0.9, 0.5, len(self.boxes))) for _ in images]


class Levels:
    """A classifier whose probabilities are the brightness of red, green and blue; it keeps what it was given."""

    class_names = ("Red", "Green", "Blue")
    image_size = 16

    def __init__(self):
        self.batches = []

    def __call__(self, faces):
        self.batches.append(faces)
        sums = faces.double().mean((2, 3))
        return (sums / sums.sum(1, keepdim=True)).float().numpy()


class Pids:
    """Files made from images, like `ImageFiles`: slowly, an empty one in a folder for each process."""

    def __init__(self, folder):
        self.folder = folder

    def write(self, name, analysis, pipeline):
        time.sleep(0.2)
        folder = self.folder / str(os.getpid())
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def pipeline(*boxes, classifier=None, **options):
    return FacePipeline(Boxes(*boxes), classifier or Levels(), **options)
