"""The options of ``faceexpr detectron2``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faceexpr.boxes.suppression import Suppression
from faceexpr.utils.errors import FaceExprError


@dataclass(frozen=True)
class BoxData:
    """The pictures and the faces in them, as `FaceBoxes` reads them for every other detector.

    Args:
        train: annotation file of the training pictures: WIDER FACE text, Dataturks JSON or COCO JSON.
        images: folder that their paths start from; by default where the format has them.
        val: annotation file of the pictures that choose the best checkpoint.
        val_images: folder that their paths start from.
        test: annotation file of the pictures that ``test`` measures on; by default those of validation.
        test_images: folder that their paths start from.
        val_list: text file with the names of the pictures of ``train`` to validate on, one a line.
        test_list: likewise of those to test on.
        val_fraction: part of the training pictures to validate on where neither ``val`` nor ``val_list`` is given; 0
            validates on none.
        split_seed: which pictures that part consists of; the seed of the training does not change it.
        face_free: train on pictures without a face as well; they are always validated and tested on.
    """

    train: str | None = None
    images: str | None = None
    val: str | None = None
    val_images: str | None = None
    test: str | None = None
    test_images: str | None = None
    val_list: str | None = None
    test_list: str | None = None
    val_fraction: float = 0.1
    split_seed: int = 0
    face_free: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.val_fraction < 1:
            raise FaceExprError(f"data.val_fraction is {self.val_fraction}; expected 0 to less than 1")


@dataclass(frozen=True)
class Detectron2Options:
    """A Detectron2 detector, its training as in the paper's Table 1, and where the run goes.

    Args:
        data: pictures and faces.
        model: a configuration of Detectron2's model zoo by name, or a YAML file of your own in its format.
        weights: ``coco`` or ``imagenet`` (of the zoo's page for the model), ``none`` (from scratch), or a local file.
        workers: processes that read training pictures, for each GPU.
        images_per_batch: pictures in a step, over all GPUs.
        base_lr: learning rate after the warm-up.
        warmup_iters: iterations over which the learning rate rises to ``base_lr``.
        max_iter: iterations in all.
        steps: iterations at which the learning rate is multiplied by ``gamma``; by default those of ``model``. Those
            that are not before ``max_iter`` are removed, and it is said.
        gamma: factor of the learning rate at each of the ``steps``.
        rois_per_image: regions of a picture that the second stage is trained on.
        eval_period: iterations between measurements of AP on the validation pictures; 0 measures at the end only.
        checkpoint_period: iterations between writings of ``checkpoints/last.pth``.
        amp: mixed precision, on CUDA.
        opts: further Detectron2 keys, such as ``{INPUT.MIN_SIZE_TRAIN: [480, 640]}``; one more on the command line:
            ``--opts.SOLVER.MOMENTUM 0.8``.
        suppression: how candidates become detections.
        seed: of weights, order and augmentation.
        device: ``auto`` (the GPU where there is one), ``cpu``, ``cuda``, ...
        devices: GPUs of each machine.
        num_machines: machines, each of which runs the same command with its own ``machine_rank``.
        machine_rank: number of this machine, counted from 0.
        dist_url: address of machine 0 where there are several, such as ``tcp://10.0.0.1:29500``.
        save_dir: folder of the runs.
        name: folder of this experiment in ``save_dir``.
        version: number of the run's folder; by default the next that is free.
        resume: run folder whose training goes on, in the same folder; its options are the defaults.
        ckpt_path: what ``test`` measures: a run folder (its best checkpoint) or a ``.pth`` file in one.
    """

    data: BoxData = field(default_factory=BoxData)
    model: str = "COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x.yaml"
    weights: str = "coco"
    workers: int = 4
    images_per_batch: int = 4
    base_lr: float = 0.00025
    warmup_iters: int = 1200
    max_iter: int = 2200
    steps: list[int] | None = None
    gamma: float = 0.05
    rois_per_image: int = 32
    eval_period: int = 200
    checkpoint_period: int = 200
    amp: bool = False
    opts: dict[str, Any] = field(default_factory=dict)
    suppression: Suppression = field(default_factory=Suppression)
    seed: int = 0
    device: str = "auto"
    devices: int = 1
    num_machines: int = 1
    machine_rank: int = 0
    dist_url: str = "auto"
    save_dir: Path = Path("lightning_logs")
    name: str = "detectron2"
    version: int | None = None
    resume: Path | None = None
    ckpt_path: Path | None = None

    def __post_init__(self) -> None:
        for name, least in (
            ("workers", 0), ("images_per_batch", 1), ("warmup_iters", 0), ("max_iter", 1), ("rois_per_image", 1),
            ("eval_period", 0), ("checkpoint_period", 1), ("seed", 0), ("devices", 1), ("num_machines", 1),
            ("machine_rank", 0),
        ):  # fmt: skip
            value = getattr(self, name)
            if value < least:
                raise FaceExprError(f"{name} is {value}; expected {least} or more")
        for name in ("base_lr", "gamma"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise FaceExprError(f"{name} is {value}; expected more than 0")
        if self.machine_rank >= self.num_machines:
            raise FaceExprError(
                f"machine_rank is {self.machine_rank} of {self.num_machines} machines; expected 0 to "
                f"{self.num_machines - 1}"
            )
        if self.num_machines > 1 and self.dist_url == "auto":
            raise FaceExprError("dist_url is auto; expected the address of machine 0, such as tcp://10.0.0.1:29500")
        if not self.name or Path(self.name).name != self.name:
            raise FaceExprError(f"name is {self.name!r}; expected the name of a folder, without others around it")


def flat(opts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each Detectron2 key with its value, whether it was written nested or dotted."""
    for key, value in opts.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
