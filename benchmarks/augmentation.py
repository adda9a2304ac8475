"""What augmentation costs beside a training step of the smallest network: ours, kornia's and torchvision's.

Run ``python benchmarks/augmentation.py``. The three make the same kinds of changes, each drawn for each image: flip,
rotation, scale, shift, brightness, contrast and an erased square. The last column is the same on images so small that
only the fixed cost of a call is left, which is spent on the host and does not shrink on a fast accelerator.
Degradations are ours alone, all of them at once. The runs are interleaved, so that other work on the machine slows all
of them alike; each figure is the median.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchvision.transforms import v2

from faceexpr.data.augment import Augmentation, augment_batch
from faceexpr.data.degradations import Degradations, degrade_batch
from faceexpr.models.simple_cnn import SimpleCNN

STEPS = ("step, float32", "step, bfloat16")
BATCH, SIDE, TINY, CLASSES = 128, 48, 4, 7
WARM_UP, REPEATS = 3, 15
SETTINGS = Augmentation(
    flip=0.5, rotation=12, scale=0.15, shift=0.08, brightness=0.25, contrast=0.25, erasing=0.5, erasing_size=0.3
)
DEGRADATIONS = Degradations(gamma=0.3, blur=0.2, low_resolution=0.2, noise=0.2, jpeg=0.2)
AREA = SETTINGS.erasing_size**2


def training_step(bfloat16: bool) -> Callable[[Tensor, Tensor], None]:
    network = SimpleCNN(num_classes=CLASSES).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)

    def step(image: Tensor, target: Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = cross_entropy(network(image), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def ours() -> Callable[[Tensor, Tensor], None]:
    index = torch.randperm(28_709)[:BATCH]

    def change(image: Tensor, target: Tensor) -> None:
        augment_batch(image, target, index, SETTINGS, (0, 0), CLASSES)

    return change


def degradations() -> Callable[[Tensor, Tensor], None]:
    index = torch.randperm(28_709)[:BATCH]

    def change(image: Tensor, target: Tensor) -> None:
        degrade_batch(image, index, DEGRADATIONS, (0, 0))

    return change


def torchvision() -> Callable[[Tensor, Tensor], None]:
    # A transform draws once a call, so it is called for each image.
    transform = v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomHorizontalFlip(SETTINGS.flip),
            v2.RandomAffine(
                SETTINGS.rotation,
                translate=(SETTINGS.shift, SETTINGS.shift),
                scale=(1 - SETTINGS.scale, 1 + SETTINGS.scale),
                interpolation=v2.InterpolationMode.BILINEAR,
            ),
            v2.ColorJitter(SETTINGS.brightness, SETTINGS.contrast),
            v2.RandomErasing(SETTINGS.erasing, scale=(AREA, AREA), ratio=(1.0, 1.0)),
        ]
    )

    def change(image: Tensor, target: Tensor) -> None:
        torch.stack([transform(sample) for sample in image])

    return change


def kornia() -> Callable[[Tensor, Tensor], None]:
    augmentation = importlib.import_module("kornia.augmentation")
    transform = augmentation.AugmentationSequential(
        augmentation.RandomHorizontalFlip(p=SETTINGS.flip),
        augmentation.RandomAffine(
            degrees=SETTINGS.rotation,
            translate=(SETTINGS.shift, SETTINGS.shift),
            scale=(1 - SETTINGS.scale, 1 + SETTINGS.scale),
            padding_mode="border",
            p=1.0,
        ),
        augmentation.ColorJiggle(SETTINGS.brightness, SETTINGS.contrast, p=1.0),
        augmentation.RandomErasing(scale=(AREA, AREA), ratio=(1.0, 1.0), p=SETTINGS.erasing),
        data_keys=["input"],
        same_on_batch=False,
    )

    def change(image: Tensor, target: Tensor) -> None:
        transform(image.float() / 255)

    return change


def main() -> None:
    steps = {name: training_step(name.endswith("bfloat16")) for name in STEPS}
    contenders = {"ours": ours(), "ours, degradations": degradations(), "torchvision v2, per image": torchvision()}
    if importlib.util.find_spec("kornia") is not None:
        contenders["kornia"] = kornia()
    else:
        print("kornia is not installed and is left out: pip install kornia")
    times, fixed = measure(steps | contenders, SIDE), measure(contenders, TINY)
    print(f"batch of {BATCH} grey images of {SIDE} x {SIDE}, {torch.get_num_threads()} threads")
    for name, duration in times.items():
        shares = ", ".join(f"{100 * duration / times[step]:6.1f} % of a {step}" for step in STEPS)
        call = f"{1000 * fixed[name]:8.2f} ms fixed" if name in fixed else ""
        print(f"{name:26s} {1000 * duration:8.2f} ms {shares} {call}")


def measure(contenders: dict[str, Callable[[Tensor, Tensor], None]], side: int) -> dict[str, float]:
    image = torch.randint(0, 256, (BATCH, 1, side, side), dtype=torch.uint8)
    target = torch.randint(0, CLASSES, (BATCH,))
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(WARM_UP + REPEATS):
        for name, run in contenders.items():
            start = time.perf_counter()
            run(image, target)
            if repeat >= WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    return {name: median(times) for name, times in seconds.items()}


if __name__ == "__main__":
    main()
