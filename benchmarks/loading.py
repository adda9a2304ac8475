"""How fast do images stream from a folder that memory could not hold, against the bare decoding of the same files?

In one run, in turns, on drawn photographs (JPEG, 640 x 480 pixels, quality 90), at 48 pixels in grey and 224 in RGB:

- bare: every file opened, decoded and resized, by as many processes as the loader has workers, nothing else;
- full: the same without decoding at reduced size;
- loader: batches of `FaceFolder(memory_gib=0)`, shuffled, from its workers;
- fit: the same in `Trainer.fit`, for a model that does next to nothing.

    python benchmarks/loading.py [--workers 2] [--width 4000 --height 3000 --count 60]

Prints images/s and images a second of a core's work (medians of the rounds), the ratios to bare (medians of each
round's ratio), and how resident memory, that of the process and that of its workers, grows from the first 1,000 images
to the last of 100,000 (each file under many names). Where the machine has other work, look at the second column.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jsonargparse import auto_cli
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torch import Tensor, nn

from faceexpr.data.face_folder import FaceFolder
from faceexpr.data.image_reading import OVERSAMPLING, face_tensor
from faceexpr.data.synthetic.drawing import draw_scene

KINDS: tuple[tuple[Literal[1, 3], int], ...] = ((1, 48), (3, 224))
"""Channels and side of the images."""

Rate = tuple[float, float]
"""Of the clock, and of the time that cores are busy, which other work on the machine does not change."""

CLASSES = ("angry", "happy", "sad", "neutral")
NAMES = 100_000
WARM_UP = 1_000


class Idle(LightningModule):
    """A model that costs nothing but a step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.weight * batch["image"][0, 0, 0, 0]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def photographs(folder: Path, count: int, width: int, height: int) -> list[Path]:
    """Draw photographs into one folder a class."""
    rng = np.random.default_rng(0)
    files = [folder / CLASSES[index % len(CLASSES)] / f"{index:05}.jpg" for index in range(count)]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = draw_scene(rng, min(width, 1280), min(height, 960), 5)[0]
        # Noise, as every camera has it: a drawing alone would be decoded faster than a photograph.
        grain = rng.normal(0, 6, pixels.shape)
        image = Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8))
        image.resize((width, height)).save(file, quality=90)
    return files


def decode(files: list[Path], channels: int, side: int, reduced: bool) -> None:
    """Decode and resize files, and do nothing else."""
    torch.set_num_threads(1)
    mode = "L" if channels == 1 else "RGB"
    for file in files:
        with Image.open(file) as image:
            if reduced:
                # Pillow's draft keeps at least the size asked for.
                least = OVERSAMPLING * side
                factor = max(1, min(image.size) // least)
                image.draft(mode, (image.width // factor, image.height // factor))
            face_tensor(np.array(image.convert(mode)), side)


def bare(files: list[Path], channels: int, side: int, workers: int, reduced: bool = True) -> Rate:
    """Return images/s of the decoding alone, in that many processes, which are there already."""
    parts = [(files[start::workers], channels, side, reduced) for start in range(workers)]
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        pool.starmap(decode, [(part[:5], *how) for part, *how in parts], chunksize=1)
        start = now()
        pool.starmap(decode, parts, chunksize=1)
        return rate(len(files), start)


def module(folder: Path, channels: Literal[1, 3], side: int, workers: int) -> FaceFolder:
    return FaceFolder(
        str(folder), batch_size=128, image_size=side, channels=channels, memory_gib=0, num_workers=workers,
        val_fraction=0.01, test_fraction=0,
    )  # fmt: skip


def loader(folder: Path, channels: Literal[1, 3], side: int, workers: int) -> Rate:
    """Return images/s of an epoch of batches, the second one, whose workers are there already."""
    data = module(folder, channels, side, workers)
    batches = data.train_dataloader()
    for _ in batches:
        pass
    start = now()
    found = rate(sum(len(batch["image"]) for batch in batches), start)
    data.teardown("fit")
    return found


def fit(folder: Path, channels: Literal[1, 3], side: int, workers: int) -> Rate:
    """Return images/s of a training epoch, the second one's end less the first one's."""
    data = module(folder, channels, side, workers)
    ends: list[Rate] = []
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    model = Idle()
    model.on_train_epoch_end = lambda: ends.append(now())  # type: ignore[method-assign]
    trainer.fit(model, datamodule=data)
    return rate(len(data.split("train")), ends[0], ends[1])


def family() -> list[str]:
    """Return the numbers of this process and its children."""
    return [str(os.getpid()), *Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def now() -> Rate:
    """Return the time, and the seconds that this process and its children have kept a core busy."""
    fields = [Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split() for name in family()]
    busy = sum(int(field[11]) + int(field[12]) for field in fields)
    return time.perf_counter(), busy / os.sysconf("SC_CLK_TCK")


def rate(count: int, start: Rate, end: Rate | None = None) -> Rate:
    """Return images/s, and images a second of a core's work."""
    end = now() if end is None else end
    return count / (end[0] - start[0]), count / (end[1] - start[1])


def resident() -> float:
    """Return MiB of memory that this process and its children have to themselves, with a share of what they share."""
    total = 0
    for name in family():
        rollup = Path(f"/proc/{name}/smaps_rollup").read_text()
        total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 1024


def growth(files: list[Path], folder: Path, workers: int) -> tuple[float, float, float]:
    """Return MiB before the first image, after `WARM_UP` images and after `NAMES`."""
    for index in range(NAMES):
        name = folder / CLASSES[index % len(CLASSES)] / f"{index:06}.jpg"
        name.parent.mkdir(parents=True, exist_ok=True)
        os.link(files[index % len(files)], name)
    data = module(folder, 1, 48, workers)
    batches = data.train_dataloader()
    first, seen, warm = resident(), 0, 0.0
    for batch in batches:
        seen += len(batch["image"])
        if not warm and seen >= WARM_UP:
            warm = resident()
    last = resident()
    data.teardown("fit")
    return first, warm, last


def main(
    count: int = 768, width: int = 640, height: int = 480, workers: int = 1, rounds: int = 5, memory: bool = True
) -> None:
    """Time loading in turns.

    Args:
        count: photographs.
        width: of each in pixels.
        height: of each in pixels.
        workers: processes that decode.
        rounds: how often each is timed.
        memory: look at the memory over 100,000 images as well, which takes minutes.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "photographs"
        files = photographs(folder, count, width, height)
        size = statistics.mean(file.stat().st_size for file in files) / 1024
        print(f"{count} photographs of {width} x {height}, {size:.0f} KiB each; {workers} workers, {rounds} rounds")
        for channels, side in KINDS:
            runs: dict[str, Callable[[], Rate]] = {
                "bare": lambda c=channels, s=side: bare(files, c, s, workers),  # type: ignore[misc]
                "full": lambda c=channels, s=side: bare(files, c, s, workers, reduced=False),  # type: ignore[misc]
                "loader": lambda c=channels, s=side: loader(folder, c, s, workers),  # type: ignore[misc]
                "fit": lambda c=channels, s=side: fit(folder, c, s, workers),  # type: ignore[misc]
            }
            report(f"{side} pixels, {'grey' if channels == 1 else 'RGB'}", runs, rounds)
        if memory:
            first, warm, last = growth(files, Path(name) / "names", workers)
            print(
                f"memory over {NAMES:,} images: {first:.0f} MiB at the start, {warm:.0f} after {WARM_UP:,}, "
                f"{last:.0f} at the end"
            )


def report(title: str, runs: dict[str, Callable[[], Rate]], rounds: int) -> None:
    """Print the medians of some ways of loading, timed in turns."""
    rates: dict[str, list[Rate]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            rates[name].append(run())
    print(title)
    for name, values in rates.items():
        line = f"  {name:<8}"
        for column, unit in enumerate(("images/s", "a second of a core")):
            ratios = [value[column] / other[column] for value, other in zip(values, rates["bare"], strict=True)]
            line += f"{statistics.median(value[column] for value in values):8.0f} {unit}, "
            line += f"{statistics.median(ratios):.2f} of bare ({min(ratios):.2f} to {max(ratios):.2f})"
        print(line)


if __name__ == "__main__":
    auto_cli(main)
