"""A detector and pictures so small that every number is known in advance."""

from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import nn

from faceexpr.boxes.suppression import Suppression, suppress
from faceexpr.data.annotations.records import AnnotatedImage
from faceexpr.data.boxed_images import DetectionDataModule

FACES = [[(10, 10, 30, 30)], [(5, 5, 25, 25), (40, 20, 60, 50)], []]
"""The faces of three pictures."""

# In the first picture the face, twice; in the second one of two; in the third a false one, and a doubtful one.
FOUND = [
    [(10, 10, 30, 30, 0.9), (11, 10, 31, 30, 0.8), (10, 10, 30, 31, 0.7)],
    [(5, 5, 25, 26, 0.6)],
    [(40, 10, 60, 30, 0.7), (0, 0, 9, 9, 0.3)],
]


class KnowsTheBoxes(LightningModule):
    """Gives for each picture the candidates that stand in a list under its index, without some in later epochs."""

    gives = "detections"
    main_metric = "val/ap50"

    def __init__(self, found=FOUND, max_faces=300, worse_from=1000):
        super().__init__()
        self.found = found
        self.worse_from = worse_from
        self.net = nn.Linear(1, 1)
        self.net.suppression = Suppression(max_faces=max_faces)

    def step(self, batch, with_candidates):
        candidates = []
        for index in batch["index"].tolist():
            rows = [] if index < 0 or (index == 0 and self.current_epoch >= self.worse_from) else self.found[index]
            boxes = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
            candidates.append((boxes[:, :4], boxes[:, 4]))
        found = [suppress(*pair, self.net.suppression) for pair in candidates]
        return {"detections": found, **({"candidates": candidates} if with_candidates else {})}

    def training_step(self, batch, batch_idx):
        return {"loss": self.net(torch.ones(1)).sum() * 0}

    def validation_step(self, batch, batch_idx):
        return self.step(batch, self.trainer.state.fn != "fit")

    def test_step(self, batch, batch_idx):
        return self.step(batch, True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Scenes(DetectionDataModule):
    """Plain pictures of 64 x 56 pixels with faces at given places; the same in each split."""

    def __init__(self, batch_size: int = 2) -> None:
        super().__init__(batch_size=batch_size)
        self.faces, self.ignored = FACES, {}

    def load_records(self, stage):
        return [
            AnnotatedImage(
                Path(f"picture {number}.png"),
                (64, 56),
                np.array(faces, dtype=np.float32).reshape(-1, 4),
                np.array([(number, place) in self.ignored for place in range(len(faces))], dtype=bool),
            )
            for number, faces in enumerate(self.faces)
        ]

    def read_pixels(self, record):
        pixels = np.full((56, 64, 3), 120, dtype=np.uint8)
        for left, top, right, bottom in record.boxes.astype(int):
            pixels[top:bottom, left:right] = (200, 150, 120)
        return pixels


def scenes(faces=FACES, ignored=(), **options):
    data = Scenes(**options)
    data.faces, data.ignored = faces, set(ignored)
    return data
