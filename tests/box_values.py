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
