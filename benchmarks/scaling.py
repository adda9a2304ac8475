"""How fast is training with several devices, and how near is it to the bare loop of torch with a ResNet-50?

1. One against N processes, each with a device of its own (all GPUs; on a CPU two processes of one thread, each on a
   core): *weak* scaling gives each the batch of the one, *strong* scaling divides that batch among them.
2. ResNet-50 at 48 and 224 pixels, float32 and bfloat16, on one device: `Trainer.fit` with our data module (in memory,
   augmentation off), task and callbacks, against forward, backward and optimizer step alone, on one batch that lies on
   the device: the same network, batch, precision and memory format, in one run and in turns.

    python benchmarks/scaling.py [--devices N] [--batch_size B] [--steps S] [--rounds R]

Prints images/s (median of the rounds) and ratios (median of each round's ratio). Without a GPU all is so small that the
figures only show that it works; where other programs use the cores, two processes cannot be faster than one.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import torch
from common.scaling_worker import Job, network
from common.training import Noise, Precision, bare, fit
from jsonargparse import auto_cli

GPU = torch.cuda.is_available()
PRECISIONS: tuple[Precision, ...] = ("32-true", "bf16-mixed")


def main(devices: int | None = None, batch_size: int | None = None, steps: int | None = None, rounds: int = 3) -> None:
    """Time training in turns.

    Args:
        devices: number of processes that are compared with one; by default all GPUs, or two processes on a CPU.
        batch_size: images in a batch; by default 256 on a GPU and 64, or 16 and 2 for ResNet-50, on a CPU.
        steps: timed steps a round; by default 50 on a GPU, few on a CPU.
        rounds: how often each is timed.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    number = devices or (torch.cuda.device_count() if GPU else 2)
    device = torch.cuda.get_device_name() if GPU else f"CPU, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"{device}; torch {torch.__version__}", flush=True)
    if number > 1:
        processes(number, batch_size or (256 if GPU else 64), steps or (50 if GPU else 20), rounds)
    else:
        print("one GPU: nothing to compare several with")
    for side in (48, 224):
        for precision in PRECISIONS:
            batch = batch_size or (256 if GPU else {48: 16, 224: 2}[side])
            against_bare(side, precision, batch, steps or (50 if GPU else 2), rounds)


def processes(number: int, batch: int, steps: int, rounds: int) -> None:
    """Compare one process with several."""
    net, precision = ("resnet50", PRECISIONS[1]) if GPU else ("simple_cnn", PRECISIONS[0])
    accelerator = "gpu" if GPU else "cpu"
    one, weak, strong = [], [], []
    for _ in range(rounds):
        one.append(together(Job(net, 48, [batch], steps, precision, 1, accelerator))[0])
        several = together(Job(net, 48, [batch, max(batch // number, 1)], steps, precision, number, accelerator))
        weak.append(several[0])
        strong.append(several[1])
    print(f"{net}, 48 px, {precision}: 1 process with a batch of {batch}, and {number}")
    show("1 process", one)
    show(f"weak, {batch} each", weak)
    show(f"strong, {max(batch // number, 1)} each", strong)
    ratio(f"weak / ({number} x one)", (many / (number * single) for many, single in zip(weak, one, strict=True)))
    ratio("strong / one", (many / single for many, single in zip(strong, one, strict=True)))


def together(job: Job) -> list[float]:
    """Run a job in processes of its own, connected as by ``torchrun``, and return what the first one has printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "common.scaling_worker", json.dumps(asdict(job))]
    shared = {"WORLD_SIZE": str(job.devices), "LOCAL_WORLD_SIZE": str(job.devices), "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "benchmark"}  # fmt: skip
    running = []
    for rank in range(job.devices):
        own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0"} if job.devices > 1 else {}
        running.append(
            subprocess.Popen(
                command, cwd=Path(__file__).parent, env={**os.environ, **own}, stdout=subprocess.PIPE, text=True
            )
        )
    printed = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit("a process of the benchmark has failed")
    rates: list[float] = json.loads(printed[0].splitlines()[-1])
    return rates


def against_bare(side: int, precision: Precision, batch: int, steps: int, rounds: int) -> None:
    """Compare our training of a ResNet-50 with the bare loop."""
    warm_up = 10 if GPU else 1
    net = network("resnet50", side)
    data = Noise((steps + warm_up + 1) * batch, side, batch)
    split = data.split("train")
    assert split.targets is not None
    place = "cuda" if GPU else "cpu"
    images, targets = split.images[torch.arange(batch)].to(place), split.targets[:batch].to(place)
    rates: dict[str, list[float]] = {"bare": [], "fit": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            rates["bare"].append(bare(net, images, targets, steps, precision, warm_up))
            rates["fit"].append(
                fit(net, data, steps, precision, folder, "gpu" if GPU else "cpu", warm_up=warm_up)
            )  # fmt: skip
    print(f"ResNet-50, {side} px, {precision}, batch {batch}, {torch.get_num_threads()} threads")
    for name, values in rates.items():
        show(name, values)
    ratio("fit / bare", (ours / floor for ours, floor in zip(rates["fit"], rates["bare"], strict=True)))


def show(name: str, values: list[float]) -> None:
    """Print images/s of the rounds."""
    print(
        f"  {name:<20}{statistics.median(values):10.1f} images/s  ({min(values):.1f} to {max(values):.1f})", flush=True
    )


def ratio(name: str, values: Iterable[float]) -> None:
    """Print a ratio of each round."""
    found = [*values]
    print(f"  {name:<20}{statistics.median(found):10.2f}           ({min(found):.2f} to {max(found):.2f})", flush=True)


if __name__ == "__main__":
    auto_cli(main)
