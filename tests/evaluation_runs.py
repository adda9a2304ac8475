"""Models and data so small that every number is known in advance, and readers of what their runs leave."""

from pathlib import Path

import numpy as np
import torch
from conftest import measured
from lightning.pytorch import LightningModule
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from faceexpr.boxes.suppression import Suppression, suppress
from faceexpr.data.annotations.reading import AnnotatedImage
from faceexpr.data.base import ExpressionDataModule
from faceexpr.data.boxed_images import DetectionDataModule
from faceexpr.data.loading import FaceSplit
from faceexpr.metrics.tables import SampleTable
from faceexpr.utils.labels import FER_NAMES

SEVEN = [(label, label) for label in range(7)]
"""Seven images, all predicted right: (pixel, label)."""


class ReadsThePixel(LightningModule):
    """Predicts the class that the first pixel names, with a confidence that training changes; it can be NaN."""

    def __init__(self, class_names=FER_NAMES, lr=0.1):
        super().__init__()
        net = {"class_path": "some.where.PixelNet", "init_args": {"depth": 3, "preprocess": None}}
        optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": lr, "weight_decay": 0.01}}
        hparams = {"net": net, "optimizer": optimizer, "scheduler": None, "lr": None, "_class_path": "some.where.Task"}
        self.save_hyperparameters({**hparams, "class_names": list(class_names)}, logger=False)
        self.class_names = tuple(class_names)
        self.lr = lr
        self.scale = nn.Parameter(torch.tensor(3.0))

    def logits(self, image):
        pixel = image[:, 0, 0, 0]
        hot = nn.functional.one_hot(pixel.long().clamp(max=len(self.class_names) - 1), len(self.class_names))
        return torch.where(pixel[:, None] == 255, torch.nan, hot.float() * self.scale)

    def training_step(self, batch, batch_idx):
        logits = self.logits(batch["image"])
        loss = nn.functional.cross_entropy(logits, batch["target"])
        return {"loss": loss, "probabilities": logits.softmax(1), "target": batch["target"]}

    def validation_step(self, batch, batch_idx):
        return {"probabilities": self.logits(batch["image"]).softmax(1), "target": batch.get("target")}

    test_step = predict_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class PixelFaces(ExpressionDataModule):
    """Has the splits that `pixel_faces` has put in."""

    def load_split(self, stage):
        return self.given[stage]


def pixel_faces(splits, batch_size=2, class_names=FER_NAMES):
    """Return data whose splits are given as lists of (pixel, label), or ready-made."""
    data = PixelFaces(batch_size=batch_size)
    data.class_names, data.given = tuple(class_names), {}
    for stage, given in splits.items():
        data.given[stage] = given if isinstance(given, FaceSplit) else make_split(*zip(*given, strict=True))
    return data


def make_split(pixels, labels=None, **extra):
    images = torch.tensor(pixels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).clone()
    images[:, :, 4:] = torch.arange(4, dtype=torch.uint8).view(1, 1, 4, 1) * 60
    targets = None if labels is None else torch.tensor(labels)
    extra.setdefault("sources", [f"image {place}" for place in range(len(pixels))])
    return FaceSplit(images=images, targets=targets, **extra)


def make_table(count=500, classes=7, labels=None):
    """Return random samples of which most are predicted right."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, classes, count) if labels is None else labels
    logits = generator.normal(size=(count, classes))
    logits[np.arange(count), labels] += 1
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return SampleTable(np.arange(count), probabilities.astype(np.float32), labels)


FACES = [[(10, 10, 30, 30)], [(5, 5, 25, 25), (40, 20, 60, 50)], []]
"""The faces of three images."""

# In the first image the face, three times; in the second one of two; in the third a false one, and a doubtful one.
FOUND = [
    [(10, 10, 30, 30, 0.9), (11, 10, 31, 30, 0.8), (10, 10, 30, 31, 0.7)],
    [(5, 5, 25, 26, 0.6)],
    [(40, 10, 60, 30, 0.7), (0, 0, 9, 9, 0.3)],
]


class KnowsTheBoxes(LightningModule):
    """Gives for each image the candidates that stand in a list under its index, without some in later epochs."""

    gives = "detections"
    main_metric = "val/ap50"

    def __init__(self, found=FOUND, max_faces=300, worse_from=1000):
        super().__init__()
        self.found = found
        self.worse_from = worse_from
        self.net = nn.Linear(1, 1)
        self.net.suppression = Suppression(max_faces=max_faces)

    def step(self, batch, with_candidates):
        gone = {0} if self.current_epoch >= self.worse_from else set()
        rows = [[] if index < 0 or index in gone else self.found[index] for index in batch["index"].tolist()]
        boxes = [torch.tensor(row, dtype=torch.float32).reshape(-1, 5) for row in rows]
        candidates = [(row[:, :4], row[:, 4]) for row in boxes]
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
    """Plain images of 64 x 56 pixels with faces at given places; the same in each split."""

    def load_records(self, stage):
        records = []
        for number, faces in enumerate(self.faces):
            boxes = np.array(faces, dtype=np.float32).reshape(-1, 4)
            ignored = np.array([(number, place) in self.ignored for place in range(len(faces))], dtype=bool)
            records.append(AnnotatedImage(Path(f"image {number}.png"), (64, 56), boxes, ignored))
        return records

    def read_pixels(self, record):
        return np.full((56, 64, 3), 120, dtype=np.uint8)


def scenes(faces=FACES, ignored=()):
    data = Scenes(batch_size=2)
    data.faces, data.ignored = faces, set(ignored)
    return data


def read_metrics(folder, stage, version=0):
    """Return one stage of a run's ``metrics.json``."""
    return measured(folder / f"runs/version_{version}", stage)


def read_events(folder, version=0):
    return EventAccumulator(str(folder / "runs" / f"version_{version}"), size_guidance={"images": 0}).Reload()


def texts_inside(figure):
    """Draw a figure, and return its texts, all of which must lie inside it."""
    FigureCanvasAgg(figure).draw()
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    for text in texts:
        box = text.get_window_extent()
        assert min(box.x0, box.y0) >= 0, text
        assert box.x1 <= figure.bbox.width, text
        assert box.y1 <= figure.bbox.height, text
    return [text.get_text() for text in texts]
