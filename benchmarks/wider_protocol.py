r"""What does a detector reach by WIDER FACE's own protocol, and is it what an independent implementation says?

    python benchmarks/wider_protocol.py --annotations wider_face_val_bbx_gt.txt --levels FOLDER [--detector RUN] \
        [--test_side 640] [--most 40] [--threads 1]

The folder has the benchmark's ``wider_{face,easy,medium,hard}_val.mat``. Prints easy, medium and hard of this package
beside those of ``common/wider_reference.py``, which takes the steps of the benchmark's ``eval_tools`` one by one, those
by heights, and the processor's time for a decoded photograph.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
import torch
from common.scenes import photographs
from common.wider_reference import evaluate
from jsonargparse import auto_cli

from faceexpr.boxes.detections import Detections
from faceexpr.metrics.detection import WIDER_LEVELS, level_by_height, read_wider_levels, wider_precision
from faceexpr.pipeline.detectors import NetDetector, load_detector
from faceexpr.utils.images import read_image
from faceexpr.weights.model_file import DETECTOR


def main(
    annotations: str | None = None,
    levels: str | None = None,
    detector: str = DETECTOR,
    images: str | None = None,
    test_side: int | None = None,
    most: int | None = None,
    threads: int = 1,
) -> None:
    """Measure a detector.

    Args:
        annotations: WIDER FACE's file of validation photographs.
        levels: folder with the four ``.mat`` files.
        detector: checkpoint, run folder or name of a model.
        images: folder of the images; by default where the format has them.
        test_side: longer side in pixels at which images are looked at; by default the detector's own.
        most: at most so many photographs, the first; all without it.
        threads: of torch.
    """
    if annotations is None or levels is None:
        print("no --annotations or no --levels given: there is nothing to measure")
        return
    torch.set_num_threads(threads)
    finder = load_detector(detector, batch_size=1)
    assert isinstance(finder, NetDetector)
    if test_side is not None:
        setattr(finder.net, "test_side", test_side)  # noqa: B010 (networks declare tensors and modules alone)
    scenes = photographs(annotations, images)[:most]
    found: list[Detections] = []
    seconds = []
    for scene in scenes:
        pixels = read_image(scene.path).pixels
        start = time.process_time()
        found += finder([pixels])
        seconds.append(time.process_time() - start)
    names = [f"{scene.path.parent.name}/{scene.path.stem}" for scene in scenes]
    known = read_wider_levels(Path(levels))
    predictions = {}
    for name, one in zip(names, found, strict=True):
        rows = np.concatenate([one.boxes.numpy(), one.scores.numpy()[:, None]], axis=1).astype(np.float64)
        rows[:, 2:4] -= rows[:, :2]
        predictions[name] = rows[np.argsort(-rows[:, 4], kind="stable")]
    values: dict[str, list[float] | list[float | None]] = {
        "this package": list(wider_precision(found, [known[name] for name in names]).values()),
        "independent": evaluate(predictions, levels),
        "by heights": list(wider_precision(found, [level_by_height(scene.truth) for scene in scenes]).values()),
    }
    print(f"{detector}, {len(scenes):,} of {len(known):,} photographs")
    print(f"{'':14}" + "".join(f"{level:>10}" for level in WIDER_LEVELS))
    for name, row in values.items():
        print(f"{name:14}" + "".join(f"{'-' if value is None else f'{value:.6f}':>10}" for value in row))
    print(
        f"processor time of a photograph, {threads} thread: median {statistics.median(seconds) * 1e3:.1f} ms, "
        f"mean {statistics.mean(seconds) * 1e3:.1f} ms"
    )


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
