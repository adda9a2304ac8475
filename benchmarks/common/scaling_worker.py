"""One process of `benchmarks/scaling.py`: trains with the others and prints images/s, of all together, as JSON."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import warnings
from dataclasses import dataclass
from functools import partial

import torch

from common.training import Net, Noise, Precision, fit
from faceexpr.models.resnet import ResNet
from faceexpr.models.simple_cnn import SimpleCNN


@dataclass(frozen=True)
class Job:
    """What all processes of a run do.

    Attributes:
        net: ``simple_cnn`` or ``resnet50``.
        side: of the images in pixels.
        batches: images in a batch of one process, one training for each.
        steps: that are timed.
        precision: of the training.
        devices: number of processes.
        accelerator: ``cpu`` or ``gpu``.
    """

    net: str
    side: int
    batches: list[int]
    steps: int
    precision: Precision
    devices: int
    accelerator: str


def network(name: str, side: int) -> Net:
    """Return what makes a network, by the number of its classes."""
    return SimpleCNN if name == "simple_cnn" else partial(ResNet, depth=50, input_size=side)


def run(job: Job, rank: int) -> list[float]:
    """Return images/s of all processes together, for each size of batch."""
    if job.accelerator == "cpu":
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[rank % len(cores)]})
        torch.set_num_threads(1)
    rates = []
    with tempfile.TemporaryDirectory() as folder:
        for batch in job.batches:
            data = Noise((job.steps + 10) * batch * job.devices, job.side, batch)
            rates.append(
                fit(
                    network(job.net, job.side), data, job.steps, job.precision, folder, job.accelerator, job.devices
                )
            )  # fmt: skip
    return rates


if __name__ == "__main__":
    for name in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{name}").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    own = int(os.environ.get("RANK", "0"))
    measured = run(Job(**json.loads(sys.argv[1])), own)
    if own == 0:
        print(json.dumps(measured))
