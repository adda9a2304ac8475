"""Define the options of a Detectron2 training and find its run folder; nothing here needs Detectron2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt

from faceexpr.boxes.suppression import Suppression
from faceexpr.utils.errors import FaceExprError

OPTIONS, CONFIG = "config.yaml", "detectron2.yaml"
"""Files of the run folder: our options, and the whole configuration of Detectron2 that they lead to."""

WRITTEN = "expected a file that faceexpr detectron2 fit has written"


@dataclass(frozen=True)
class Detectron2Options:
    """A Detectron2 detector, its training as in the paper's Table 1, and where the run goes.

    Args:
        data: images and faces: options of `FaceBoxes`; a ``val_fraction`` of 0 validates on none.
        model: a configuration of Detectron2's model zoo by name, or a YAML file of your own in its format.
        weights: ``coco`` or ``imagenet`` (of the zoo's page for the model), ``none`` (from scratch), or a local file.
        workers: processes that read training images, for each GPU.
        images_per_batch: images in a step, over all GPUs.
        base_lr: learning rate after the warm-up.
        warmup_iters: iterations over which the learning rate rises to ``base_lr``.
        max_iter: iterations in all.
        steps: iterations at which the learning rate is multiplied by ``gamma``; by default those of ``model``.
        gamma: factor of the learning rate at each of the ``steps``.
        rois_per_image: regions of an image that the second stage is trained on.
        eval_period: iterations between measurements of AP on the validation images; 0 measures at the end only.
        checkpoint_period: iterations between writings of ``checkpoints/last.pth``.
        amp: mixed precision, on CUDA.
        opts: further Detectron2 keys, such as ``{INPUT.MIN_SIZE_TRAIN: [480, 640]}`` or ``--opts.SOLVER.MOMENTUM 0.8``.
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

    data: Mapping[str, Any] = field(default_factory=dict)
    model: str = "COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x.yaml"
    weights: str = "coco"
    workers: NonNegativeInt = 4
    images_per_batch: PositiveInt = 4
    base_lr: PositiveFloat = 0.00025
    warmup_iters: NonNegativeInt = 1200
    max_iter: PositiveInt = 2200
    steps: list[int] | None = None
    gamma: PositiveFloat = 0.05
    rois_per_image: PositiveInt = 32
    eval_period: NonNegativeInt = 200
    checkpoint_period: PositiveInt = 200
    amp: bool = False
    opts: dict[str, Any] = field(default_factory=dict)
    suppression: Suppression = field(default_factory=Suppression)
    seed: NonNegativeInt = 0
    device: str = "auto"
    devices: PositiveInt = 1
    num_machines: PositiveInt = 1
    machine_rank: NonNegativeInt = 0
    dist_url: str = "auto"
    save_dir: Path = Path("lightning_logs")
    name: str = "detectron2"
    version: int | None = None
    resume: Path | None = None
    ckpt_path: Path | None = None

    def __post_init__(self) -> None:
        if self.machine_rank >= self.num_machines:
            raise FaceExprError(f"machine_rank is {self.machine_rank} of {self.num_machines} machines; expected less")
        if self.num_machines > 1 and self.dist_url == "auto":
            raise FaceExprError("dist_url is auto; expected the address of machine 0, such as tcp://10.0.0.1:29500")
        if not self.name or Path(self.name).name != self.name:
            raise FaceExprError(f"name is {self.name!r}; expected the name of a folder, without others around it")

    @property
    def validates(self) -> bool:
        """Whether there are images to validate on."""
        data = self.data
        return data.get("val") is not None or data.get("val_list") is not None or data.get("val_fraction", 0.1) > 0


def flat(opts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each Detectron2 key with its value, whether it was given nested or dotted."""
    for key, value in opts.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def find_weights(source: Path) -> tuple[Path, Path]:
    """Return the checkpoint that a run folder (its best, or else its last) or a ``.pth`` file means, and its folder."""
    found = [source]
    if source.is_dir():
        found = sorted(source.rglob("best.pth")) or sorted(source.rglob("last.pth"))
        if len(found) > 1:
            raise FaceExprError(f"{source} holds several runs; expected a checkpoint, such as {found[0]}")
    path = found[0] if found else None
    if path is None or not path.is_file():
        raise FaceExprError(f"{path or source / 'checkpoints/best.pth'} does not exist; expected a Detectron2 run")
    folder = next((folder for folder in path.resolve().parents[:2] if (folder / CONFIG).is_file()), None)
    if folder is None:
        raise FaceExprError(f"{path}: there is no {CONFIG} beside it or above it, to say its network; {WRITTEN}")
    return path, folder


def require_detectron2() -> None:
    """Import Detectron2, or raise a `FaceExprError` that says how to install it."""
    try:
        for part in ("engine", "model_zoo"):  # which needs pkg_resources, which setuptools 81 has dropped
            import_module(f"detectron2.{part}")
    except ImportError as error:
        missing = error.name is not None and error.name.startswith("detectron2")
        raise FaceExprError(
            f"Detectron2 is not installed{'' if missing else f' in working order ({error})'}, and no package registry "
            "has it; install it from its source, beside 'setuptools<81': `python -m pip install "
            "'git+https://github.com/facebookresearch/detectron2.git'` with pip's option no-build-isolation "
            "(https://detectron2.readthedocs.io/en/latest/tutorials/install.html)"
        ) from error
