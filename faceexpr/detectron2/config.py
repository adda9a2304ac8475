"""From our options to a configuration of Detectron2, every key of which is known to exist and to have its type."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg

from faceexpr.detectron2.options import Detectron2Options, flat
from faceexpr.utils.errors import FaceExprError

OPTION_OF = {
    "DATALOADER.NUM_WORKERS": "workers",
    "SOLVER.IMS_PER_BATCH": "images_per_batch",
    "SOLVER.BASE_LR": "base_lr",
    "SOLVER.WARMUP_ITERS": "warmup_iters",
    "SOLVER.MAX_ITER": "max_iter",
    "SOLVER.GAMMA": "gamma",
    "SOLVER.CHECKPOINT_PERIOD": "checkpoint_period",
    "SOLVER.AMP.ENABLED": "amp",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": "rois_per_image",
    "TEST.EVAL_PERIOD": "eval_period",
    "SEED": "seed",
}
"""Keys whose value is that of an option of ours."""

ELSEWHERE = {
    "SOLVER.STEPS": "set by --steps",
    "MODEL.WEIGHTS": "set by --weights",
    "MODEL.DEVICE": "set by --device",
    "DATASETS.TRAIN": "set by --data.train",
    "DATASETS.TEST": "set by --data.val",
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": "set by --data.face_free",
    "OUTPUT_DIR": "set by --save_dir, --name and --version",
    "MODEL.ROI_HEADS.NUM_CLASSES": "1: the face is the only class",
    "MODEL.RETINANET.NUM_CLASSES": "1: the face is the only class",
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": "set by --suppression.iou",
    "MODEL.RETINANET.NMS_THRESH_TEST": "set by --suppression.iou",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "set by --suppression.min_score",
    "MODEL.RETINANET.SCORE_THRESH_TEST": "set by --suppression.min_score",
    "TEST.DETECTIONS_PER_IMAGE": "set by --suppression.max_faces",
}
"""Keys that `opts` may not hold either, and why."""

ALL_CANDIDATES = 100_000
"""Candidates of a picture that Detectron2 may return: more than there ever are."""

TRAIN, VAL = "faceexpr_train", "faceexpr_val"
"""Names of the data in Detectron2's catalogue."""

FROM_SCRATCH = {
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.PIXEL_STD": [57.375, 57.120, 58.395],
}
"""What belongs to ImageNet's weights and makes no sense without: frozen stages and statistics, a scale of 1."""


def build_config(options: Detectron2Options, folder: Path, validates: bool) -> tuple[CfgNode, list[str]]:
    """Return the configuration of a training and what the user should know of it.

    Args:
        options: all of them.
        folder: of the run.
        validates: there are validation pictures.

    Raises:
        FaceExprError: a key of ``opts`` that Detectron2 does not have, or a value of another type.
    """
    cfg, notes = _base(options.model), []
    imagenet = cfg.MODEL.WEIGHTS
    for key, option in OPTION_OF.items():
        _set(cfg, key, getattr(options, option))
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (TRAIN,), (VAL,) if validates else ()
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = not options.data.face_free
    cfg.OUTPUT_DIR = str(folder)
    cfg.MODEL.DEVICE = device(options.device)
    cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = False  # our records have boxes only
    if options.weights == "none":
        for key, value in FROM_SCRATCH.items():
            _set(cfg, key, value)
        notes.append(
            "weights is none: nothing is frozen and batch normalisation trains, unless opts says otherwise "
            f"({', '.join(f'{key} {value}' for key, value in FROM_SCRATCH.items())})"
        )
    cfg.MODEL.WEIGHTS = _weights(options, imagenet)
    set_options(cfg, options)
    notes += _schedule(cfg, options)
    if options.amp and not cfg.MODEL.DEVICE.startswith("cuda"):
        raise FaceExprError(f"amp is true, but the device is {cfg.MODEL.DEVICE}; expected CUDA, or amp: false")
    return cfg, notes


def set_options(cfg: CfgNode, options: Detectron2Options) -> None:
    """Put into a configuration what may change after training too: ``opts`` and the suppression.

    Raises:
        FaceExprError: as for `build_config`.
    """
    for key, value in flat(options.opts):
        if key in OPTION_OF or key in ELSEWHERE:
            why = ELSEWHERE.get(key) or f"set by --{OPTION_OF[key]}"
            raise FaceExprError(f"opts: {key} cannot be given here; it is {why}")
        _merge(cfg, key, value)
    for head in (cfg.MODEL.ROI_HEADS, cfg.MODEL.RETINANET):
        head.NUM_CLASSES = 1
        # Candidates, whose doubles are then suppressed as the product's option says and not by Detectron2.
        head.NMS_THRESH_TEST = 1.0
        head.SCORE_THRESH_TEST = options.suppression.min_score
    cfg.TEST.DETECTIONS_PER_IMAGE = ALL_CANDIDATES
    if cfg.INPUT.FORMAT not in ("BGR", "RGB"):
        raise FaceExprError(f"opts: INPUT.FORMAT is {cfg.INPUT.FORMAT}; expected BGR or RGB")


def read_config(path: Path) -> CfgNode:
    """Return the configuration that a run has kept.

    Raises:
        FaceExprError: there is none, or it is damaged.
    """
    cfg = get_cfg()
    if not path.is_file():
        raise FaceExprError(f"{path} does not exist; expected the configuration that faceexpr detectron2 fit writes")
    _merge_file(cfg, path, trusted=False)
    return cfg


def device(wanted: str) -> str:
    """Return the device that an option means."""
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def _base(model: str) -> CfgNode:
    cfg = get_cfg()
    if Path(model).is_file():
        _merge_file(cfg, Path(model), trusted=False)
        return cfg
    try:
        path = model_zoo.get_config_file(model)
    except RuntimeError:
        folder = Path(model_zoo.__file__).parent / "configs"
        near = difflib.get_close_matches(model, [str(file.relative_to(folder)) for file in folder.rglob("*.yaml")], n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise FaceExprError(f"model: {model} is neither a file nor in Detectron2's model zoo{meant}") from None
    _merge_file(cfg, Path(path), trusted=True)
    return cfg


def _weights(options: Detectron2Options, imagenet: str) -> str:
    if options.weights == "none":
        return ""
    if options.weights == "imagenet":
        return imagenet
    if options.weights == "coco":
        try:
            url: str = model_zoo.get_checkpoint_url(options.model)
        except RuntimeError:
            raise FaceExprError(
                f"weights is coco, but Detectron2's model zoo has none for {options.model}; expected none or a file"
            ) from None
        return url
    if not Path(options.weights).is_file():
        raise FaceExprError(f"weights: {options.weights} does not exist; expected coco, imagenet, none or a file")
    return options.weights


def _merge_file(cfg: CfgNode, path: Path, trusted: bool) -> None:
    try:
        # Detectron2's own default would let a YAML file run code.
        cfg.merge_from_file(str(path), allow_unsafe=trusted)
    except KeyError as error:
        raise FaceExprError(f"{path}: {_unknown(cfg, str(error.args[0]).rpartition(' ')[2])}") from error
    except Exception as error:
        raise FaceExprError(f"{path} is not a configuration of Detectron2: {error}") from error


def _keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _unknown(cfg: CfgNode, key: str) -> str:
    known = {name.upper(): name for name in _keys(cfg)}
    near = difflib.get_close_matches(key.upper(), known, n=1, cutoff=0)
    return f"Detectron2 has no key {key}; did you mean {known[near[0]]}?"


def _set(cfg: CfgNode, key: str, value: Any) -> None:
    *nodes, last = key.split(".")
    for node in nodes:
        cfg = cfg[node]
    cfg[last] = value


def _merge(cfg: CfgNode, key: str, value: Any) -> None:
    if key not in _keys(cfg):
        raise FaceExprError(f"opts: {_unknown(cfg, key)}")
    node: Any = cfg
    for part in key.split("."):
        node = node[part]
    try:
        # Detectron2 takes no whole number for a broken one, and 1e-4 is text in YAML 1.1.
        number = isinstance(node, float) and not isinstance(value, bool) and isinstance(value, int | str)
        cfg.merge_from_list([key, float(value) if number else value])
    except Exception as error:
        raise FaceExprError(
            f"opts: {key} is {value!r}; expected {type(node).__name__}, such as its default {node!r}"
        ) from error


def _schedule(cfg: CfgNode, options: Detectron2Options) -> list[str]:
    last, notes = cfg.SOLVER.MAX_ITER, []
    steps = list(cfg.SOLVER.STEPS) if options.steps is None else sorted(options.steps)
    cfg.SOLVER.STEPS = tuple(step for step in steps if 0 < step < last)
    removed = [step for step in steps if step not in cfg.SOLVER.STEPS]
    if removed:
        effect = "" if cfg.SOLVER.STEPS else f", so that gamma {cfg.SOLVER.GAMMA:g} never acts"
        notes.append(f"steps {', '.join(map(str, removed))} are not before max_iter {last} and are removed{effect}")
    if last < cfg.SOLVER.WARMUP_ITERS:
        notes.append(
            f"warmup_iters {cfg.SOLVER.WARMUP_ITERS} is more than max_iter {last}: Detectron2 warms up over all of them"
        )
    return notes
