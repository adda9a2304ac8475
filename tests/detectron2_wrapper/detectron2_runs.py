"""The smallest trainings through `faceexpr detectron2`, shared by its tests."""

import json
import logging

import numpy as np
import yaml
from PIL import Image

from faceexpr.cli.detectron2 import run
from faceexpr.data.synthetic.drawing import draw_scene

TINY = {
    "model": "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml",
    "weights": "none",
    "workers": 0,
    "images_per_batch": 2,
    "base_lr": 0.01,
    "warmup_iters": 2,
    "max_iter": 4,
    "eval_period": 0,
    "device": "cpu",
    "name": "tiny",
    "opts": {
        "MODEL.RESNETS": {"RES2_OUT_CHANNELS": 32, "STEM_OUT_CHANNELS": 8, "WIDTH_PER_GROUP": 8},
        "MODEL.FPN": {"OUT_CHANNELS": 16, "NORM": "BN"},
        "MODEL.ANCHOR_GENERATOR": {"SIZES": [[12], [24], [48], [96], [192]], "ASPECT_RATIOS": [[1.25]]},
        "MODEL.RPN": {"POST_NMS_TOPK_TRAIN": 50, "POST_NMS_TOPK_TEST": 50},
        "MODEL.ROI_BOX_HEAD": {"FC_DIM": 32, "POOLER_RESOLUTION": 4},
        "INPUT": {"MIN_SIZE_TRAIN": [96], "MAX_SIZE_TRAIN": 128, "MIN_SIZE_TEST": 96, "MAX_SIZE_TEST": 128},
    },
}
"""A ResNet50-FPN of few channels on small images."""


def write_scenes(folder, name, count, seed=0, category=1, faces=2):
    """Draw images and write their boxes as COCO JSON; the annotation file is returned."""
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    (folder / name).mkdir(parents=True)
    for index in range(count):
        pixels, boxes, _ = draw_scene(rng, 128, 96, faces)
        Image.fromarray(pixels).save(folder / name / f"{index}.png")
        images.append({"id": index + 1, "file_name": f"{index}.png", "width": 128, "height": 96})
        for left, top, right, bottom in boxes.tolist():
            box = [left, top, right - left, bottom - top]
            face = {"image_id": index + 1, "category_id": category, "iscrowd": 0, "bbox": box, "area": box[2] * box[3]}
            annotations.append({"id": len(annotations) + 1, **face})
    file = folder / f"{name}.json"
    categories = [{"id": category, "name": "face"}]
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file


def write_config(folder, train, val=None):
    """Write the options of a tiny training; the file is returned."""
    data = {"train": str(train), "images": str(train.with_suffix("")), "val_fraction": 0}
    if val is not None:
        data |= {"val": str(val), "val_images": str(val.with_suffix(""))}
    file = folder / "options.yaml"
    file.write_text(yaml.safe_dump({**TINY, "data": data}))
    return file


def fit(*arguments):
    """Train; Detectron2's loggers, which are for one run in a process, are emptied afterwards."""
    try:
        run(["detectron2", "fit", *map(str, arguments)])
    finally:
        from detectron2.utils.logger import setup_logger

        setup_logger.cache_clear()
        for name in ("detectron2", "fvcore", "faceexpr.detectron2"):
            logging.getLogger(name).handlers.clear()
