"""Turn our options into a configuration of Detectron2, every key of which exists there and has its type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg

from faceexpr.detectron2.detectron2_options import Detectron2Options, flat
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import say
from faceexpr.utils.text import nearest

TRAIN, VAL = "faceexpr_train", "faceexpr_val"  # in Detectron2's catalogue of data

FROM_SCRATCH = {"MODEL.BACKBONE.FREEZE_AT": 0, "MODEL.RESNETS.NORM": "BN", "MODEL.PIXEL_STD": [57.375, 57.12, 58.395]}
"""In the place of what belongs to ImageNet's weights: frozen stages and statistics, a scale of 1."""


def build_config(options: Detectron2Options, folder: Path) -> CfgNode:
    """Return Detectron2's configuration of a training into ``folder``, and print what of it may surprise."""
    try:
        own = Path(options.model).is_file()
        cfg = read_config(Path(options.model if own else model_zoo.get_config_file(options.model)), trusted=not own)
        weights = {"none": "", "imagenet": cfg.MODEL.WEIGHTS}.get(options.weights, options.weights)
        weights = model_zoo.get_checkpoint_url(options.model) if weights == "coco" else weights
    except RuntimeError as error:
        raise FaceExprError(f"model is {options.model} and weights {options.weights}, but {error}") from error
    if weights == options.weights and not Path(weights).is_file():
        raise FaceExprError(f"weights: {weights} does not exist; expected coco, imagenet, none or a file")
    if options.weights == "none":
        cfg.merge_from_list([part for item in FROM_SCRATCH.items() for part in item])
        changes = ", ".join(f"{key} {value}" for key, value in FROM_SCRATCH.items())
        say(f"note: weights is none: nothing is frozen, batch normalisation trains ({changes}) unless opts differ")
    steps = list(cfg.SOLVER.STEPS) if options.steps is None else sorted(options.steps)
    kept = tuple(step for step in steps if 0 < step < options.max_iter)  # Detectron2 fails at one that is max_iter
    if removed := ", ".join(str(step) for step in steps if step not in kept):
        effect = "" if kept else f", so that gamma {options.gamma:g} never acts"
        say(f"note: steps {removed} are not before max_iter {options.max_iter} and are removed{effect}")
    own_values = {
        "DATALOADER.NUM_WORKERS": options.workers,
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS": not options.data.get("face_free", True),
        "DATASETS.TRAIN": (TRAIN,),
        "DATASETS.TEST": (VAL,) if options.validates else (),
        "MODEL.KEYPOINT_ON": False,  # our records have boxes only
        "MODEL.MASK_ON": False,
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": options.rois_per_image,
        "MODEL.WEIGHTS": weights,
        "OUTPUT_DIR": str(folder),
        "SEED": options.seed,
        "SOLVER.AMP.ENABLED": options.amp,
        "SOLVER.BASE_LR": options.base_lr,
        "SOLVER.CHECKPOINT_PERIOD": options.checkpoint_period,
        "SOLVER.GAMMA": options.gamma,
        "SOLVER.IMS_PER_BATCH": options.images_per_batch,
        "SOLVER.MAX_ITER": options.max_iter,
        "SOLVER.STEPS": kept,
        "SOLVER.WARMUP_ITERS": options.warmup_iters,
        "TEST.EVAL_PERIOD": options.eval_period,
    }
    set_options(cfg, options, own_values)
    several = options.devices * options.num_machines > 1
    if (several or options.amp) and not cfg.MODEL.DEVICE.startswith("cuda"):
        wanted = f"devices is {options.devices}" if several else "amp is true"
        raise FaceExprError(f"{wanted}, but the device is {cfg.MODEL.DEVICE}; Detectron2 trains so on CUDA only")
    return cfg


def set_options(cfg: CfgNode, options: Detectron2Options, own_values: dict[str, Any]) -> None:
    """Put ``opts`` into a configuration, then ``own_values`` and those of the device and the suppression.

    Each of ``opts`` has to be a key of Detectron2 with a value of its type.
    """
    heads = ("MODEL.ROI_HEADS", "MODEL.RETINANET")
    own_values = own_values | {
        "MODEL.DEVICE": choose_device(options.device),
        "TEST.DETECTIONS_PER_IMAGE": 100_000,  # candidates, more than there ever are
        **{f"{head}.NUM_CLASSES": 1 for head in heads},
        # Their doubles are then suppressed as our own option says and not by Detectron2.
        **{f"{head}.NMS_THRESH_TEST": 1.0 for head in heads},
        **{f"{head}.SCORE_THRESH_TEST": options.suppression.min_score for head in heads},
    }
    defaults = dict(flat(cfg))
    for key, value in flat(options.opts):
        if key in own_values:
            raise FaceExprError(f"opts: {key} cannot be given here; an option of its own sets it, to {own_values[key]}")
        if key not in defaults:
            raise FaceExprError(f"opts: Detectron2 has no key {key}{nearest(key.upper(), defaults)}")
        whole = type(value) is int and isinstance(defaults[key], float)
        try:
            cfg.merge_from_list([key, float(value) if whole else value])  # Detectron2 takes no 1 for 1.0
        except ValueError as error:
            raise FaceExprError(f"opts: {error}") from error
    if cfg.INPUT.FORMAT not in ("BGR", "RGB"):
        raise FaceExprError(f"opts: INPUT.FORMAT is {cfg.INPUT.FORMAT}; expected BGR or RGB")
    if 0 < (here := torch.cuda.device_count()) < options.devices:
        raise FaceExprError(f"devices is {options.devices}; expected at most {here}, which are here")
    for key, value in own_values.items():
        cfg.merge_from_list([key, type(defaults[key])(value)])  # exactly that type, which no subclass is


def choose_device(wanted: str) -> str:
    """Return the device that an option means; ``auto`` is the GPU where there is one."""
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise FaceExprError(f"device is {wanted}, but CUDA is not available; expected auto or cpu")
    return wanted if wanted != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def read_config(path: Path, trusted: bool = False) -> CfgNode:
    """Return the configuration of a file in Detectron2's format; only one that is ``trusted`` may run code."""
    cfg = get_cfg()
    try:
        cfg.merge_from_file(str(path), allow_unsafe=trusted)
    except Exception as error:  # YAML's, Detectron2's and the file system's types
        raise FaceExprError(f"{path} is not a configuration of Detectron2: {' '.join(str(error).split())}") from error
    return cfg
