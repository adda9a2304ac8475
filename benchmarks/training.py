"""How fast is training, against its own floor and against the recipe that people write?

In one run, in turns, for the paper's simple CNN on a batch of 128:

- bare: forward, backward and optimizer step of our network on one batch that is already in memory: the floor;
- fit: `Trainer.fit` with our data module (augmentation on), task, evaluation and checkpoint callbacks;
- recipe: image files opened with Pillow and transformed one by one by torchvision in a DataLoader with two workers,
  float32, contiguous, Table 4's layers as printed, in a plain loop.

    python benchmarks/training.py [--precision bf16-mixed] [--path fer2013.csv]

Prints images/s (median of the rounds), and the ratios fit/bare and fit/recipe (median of each round's ratio).
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import torch
from common.training import WARM_UP, Precision, bare, fit
from jsonargparse import auto_cli
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from faceexpr.data.augment import Augmentation
from faceexpr.data.base import ExpressionDataModule
from faceexpr.data.fer2013 import FER2013
from faceexpr.data.synthetic import SyntheticFaces
from faceexpr.models.simple_cnn import SimpleCNN

AUGMENTATION = Augmentation(flip=0.5, rotation=10, scale=0.1, shift=0.05)


class Files(Dataset[tuple[Tensor, int]]):
    """Image files, opened and transformed one by one."""

    def __init__(self, paths: list[Path], labels: list[int]) -> None:
        self.paths = paths
        self.labels = labels
        self.transform = transforms.Compose(
            [
                transforms.Grayscale(),
                transforms.RandomHorizontalFlip(),
                transforms.RandomAffine(degrees=10, translate=(0.05, 0.05), scale=(0.9, 1.1)),
                transforms.ToTensor(),
                transforms.Normalize((0.5,), (0.5,)),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self.paths[index]) as image:
            return self.transform(image), self.labels[index]


def table_4() -> nn.Sequential:
    """Return the layers in the order in which Table 4 prints them."""
    layers: list[nn.Module] = []
    for inputs, outputs, kernel, pool in ((1, 64, 5, 5), (64, 64, 3, 3), (64, 128, 3, 3)):
        layers += [nn.Conv2d(inputs, outputs, kernel), nn.ReLU(), nn.MaxPool2d(pool, 2)]
    head = [nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 7)]
    return nn.Sequential(*layers, nn.Flatten(), *head)


def recipe(files: Files, steps: int, batch_size: int) -> float:
    """Return images/s of the recipe."""
    loader = DataLoader(files, batch_size=batch_size, shuffle=True, num_workers=2, drop_last=True)
    net = table_4()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    start, step = 0.0, 0
    while True:
        for images, targets in loader:
            if step == WARM_UP:
                start = time.perf_counter()
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(images), targets)
            loss.backward()
            optimizer.step()
            step += 1
            if step == WARM_UP + steps:
                return steps * batch_size / (time.perf_counter() - start)


def main(
    path: str | None = None,
    precision: Precision = "32-true",
    batch_size: int = 128,
    steps: int = 20,
    rounds: int = 5,
) -> None:
    """Time training in turns.

    Args:
        path: FER-2013; drawn faces without it.
        precision: of bare and fit; the recipe is always float32.
        batch_size: images in a batch.
        steps: timed steps a round.
        rounds: how often each is timed.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    count = batch_size * (WARM_UP + steps + 2)
    torch.manual_seed(0)
    data: ExpressionDataModule = (
        FER2013(path, batch_size=batch_size, augment=AUGMENTATION)
        if path
        else SyntheticFaces(train_size=count, val_size=7, batch_size=batch_size, augment=AUGMENTATION)
    )
    split = data.split("train")
    assert split.targets is not None
    images = split.images[torch.arange(batch_size)]
    rates: dict[str, list[float]] = {"bare": [], "fit": [], "recipe": []}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{index}.png" for index in range(min(count, len(split)))]
        for index, file in enumerate(paths):
            Image.fromarray(split.images[index][0].numpy()).save(file)
        files = Files(paths, split.targets[: len(paths)].tolist())
        for _ in range(rounds):
            rates["bare"].append(bare(SimpleCNN, images, split.targets[:batch_size], steps, precision))
            rates["fit"].append(fit(SimpleCNN, data, steps, precision, folder))
            rates["recipe"].append(recipe(files, steps, batch_size))
    print(f"SimpleCNN, batch {batch_size}, {precision}, {torch.get_num_threads()} threads, {rounds} rounds")
    for name, values in rates.items():
        print(f"  {name:<8}{statistics.median(values):8.0f} images/s  ({min(values):.0f} to {max(values):.0f})")
    for name in ("bare", "recipe"):
        ratios = [ours / other for ours, other in zip(rates["fit"], rates[name], strict=True)]
        print(f"  fit/{name:<8}{statistics.median(ratios):6.2f}  ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    auto_cli(main)
