"""Turn our options into a configuration of Detectron2, every key of which exists there and has its type."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg

from faceexpr.detectron2.detectron2_options import Detectron2Options, flat
from faceexpr.utils.errors import FaceExprError

TRAIN, VAL = "faceexpr_train", "faceexpr_val"
"""Names of the data in Detectron2's catalogue."""

ALL_CANDIDATES = 100_000
"""Candidates of an image that Detectron2 may return: more than there ever are."""

FROM_SCRATCH = {
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.PIXEL_STD": [57.375, 57.120, 58.395],
}
"""What belongs to ImageNet's weights and makes no sense without: frozen stages and statistics, a scale of 1."""


def build_config(options: Detectron2Options, folder: Path) -> tuple[CfgNode, list[str]]:
    """Return the configuration of a training and what the user should know of it.

    Args:
        options: all of them.
        folder: of the run.

    Raises:
        FaceExprError: a key of ``opts`` that Detectron2 does not have, or a value of another type.
    """
    notes: list[str] = []
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
        cfg.merge_from_list([part for key, value in FROM_SCRATCH.items() for part in (key, value)])
        changes = ", ".join(f"{key} {value}" for key, value in FROM_SCRATCH.items())
        notes.append(f"weights is none: nothing is frozen, batch normalisation trains ({changes}) unless opts differ")
    steps = list(cfg.SOLVER.STEPS) if options.steps is None else sorted(options.steps)
    kept = tuple(step for step in steps if 0 < step < options.max_iter)
    if removed := [str(step) for step in steps if step not in kept]:
        effect = "" if kept else f", so that gamma {options.gamma:g} never acts"
        notes.append(f"steps {', '.join(removed)} are not before max_iter {options.max_iter} and are removed{effect}")
    if options.max_iter < options.warmup_iters:
        notes.append(f"warmup_iters {options.warmup_iters} is more than max_iter: Detectron2 warms up over all of them")
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
    if options.amp and not cfg.MODEL.DEVICE.startswith("cuda"):
        raise FaceExprError(f"amp is true, but the device is {cfg.MODEL.DEVICE}; expected CUDA, or amp: false")
    return cfg, notes


def set_options(cfg: CfgNode, options: Detectron2Options, own_values: dict[str, Any]) -> None:
    """Put ``opts`` into a configuration, then what has an option of its own.

    Args:
        cfg: is changed.
        options: all of them.
        own_values: keys and values that come from an option, beside those of the device and the suppression.

    Raises:
        FaceExprError: as for `build_config`.
    """
    heads = ("MODEL.ROI_HEADS", "MODEL.RETINANET")
    own_values = own_values | {
        "MODEL.DEVICE": choose_device(options.device),
        "TEST.DETECTIONS_PER_IMAGE": ALL_CANDIDATES,
        **{f"{head}.NUM_CLASSES": 1 for head in heads},
        # Candidates, whose doubles are then suppressed as our own option says and not by Detectron2.
        **{f"{head}.NMS_THRESH_TEST": 1.0 for head in heads},
        **{f"{head}.SCORE_THRESH_TEST": options.suppression.min_score for head in heads},
    }
    defaults = dict(flat(cfg))
    for key, value in flat(options.opts):
        if key in own_values:
            raise FaceExprError(f"opts: {key} cannot be given here; an option of its own sets it, to {own_values[key]}")
        if key not in defaults:
            raise FaceExprError(f"opts: {_suggest(cfg, key)}")
        number = isinstance(defaults[key], float) and isinstance(value, int | str) and not isinstance(value, bool)
        try:
            # Detectron2 takes no whole number for a broken one, and 1e-4 is text in YAML 1.1.
            cfg.merge_from_list([key, float(value) if number else value])
        except Exception as error:
            expected = f"{type(defaults[key]).__name__}, such as its default {defaults[key]!r}"
            raise FaceExprError(f"opts: {key} is {value!r}; expected {expected}") from error
    if cfg.INPUT.FORMAT not in ("BGR", "RGB"):
        raise FaceExprError(f"opts: INPUT.FORMAT is {cfg.INPUT.FORMAT}; expected BGR or RGB")
    for key, value in own_values.items():
        cfg.merge_from_list([key, type(defaults[key])(value)])  # exactly that type, which no subclass is


def choose_device(wanted: str) -> str:
    """Return the device that an option means; ``auto`` is the GPU where there is one."""
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def read_config(path: Path, trusted: bool = False) -> CfgNode:
    """Return the configuration of a file in Detectron2's format, such as a run has kept.

    Args:
        path: of the file.
        trusted: it comes with Detectron2; any other is not allowed to run code.

    Raises:
        FaceExprError: there is none, or it is damaged.
    """
    cfg = get_cfg()
    try:
        cfg.merge_from_file(str(path), allow_unsafe=trusted)
    except KeyError as error:
        raise FaceExprError(f"{path}: {_suggest(cfg, str(error.args[0]).rpartition(' ')[2])}") from error
    except Exception as error:  # YAML's, Detectron2's and the file system's types
        raise FaceExprError(f"{path} is not a configuration of Detectron2: {error}") from error
    return cfg


def _suggest(cfg: CfgNode, key: str) -> str:
    names = {name.upper(): name for name, _ in flat(cfg)}
    near = difflib.get_close_matches(key.upper(), names, n=1, cutoff=0)
    return f"Detectron2 has no key {key}; did you mean {names[near[0]]}?"
