"""True and found boxes of an image from plain numbers, for tests."""

import numpy as np
import torch

from faceexpr.boxes.detections import Detections
from faceexpr.boxes.matching import Truth


def truth(*boxes, ignored=()):
    return Truth(
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        np.array([place in ignored for place in range(len(boxes))], bool),
    )


def found(*rows, limited=False):
    values = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    return Detections(values[:, :4], values[:, 4], limited)


FACE, OTHER, NOTHING = (0, 0, 10, 10), (30, 30, 50, 50), (70, 70, 80, 80)

# Scores 0.9 right, 0.8 wrong, 0.6 right, 0.4 right, 0.3 wrong; four faces.
TRUTHS = [truth(FACE, OTHER), truth(FACE, OTHER)]
SEEN = [found((*FACE, 0.9), (*NOTHING, 0.8)), found((*FACE, 0.6), (*OTHER, 0.4), (*NOTHING, 0.3))]
