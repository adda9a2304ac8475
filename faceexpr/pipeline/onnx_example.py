"""Find the faces in photographs and tell their expressions, with numpy, Pillow and onnxruntime alone.

    python example.py photo.jpg ...

`faceexpr export` puts this program beside detector.onnx, classifier.onnx and bundle.json.
"""

import json
import sys
from math import ceil, floor
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

FOLDER = Path(__file__).parent


def cut(pixels: np.ndarray, box: list[float], margin: float, shape: str, **_: object) -> np.ndarray:
    """Return a face (h, w, 3), widened and made square as those that the classifier was trained on."""
    spans, places = [], []
    for low, high, limit in ((box[1], box[3], len(pixels)), (box[0], box[2], len(pixels[0]))):
        more = margin * (high - low)
        spans.append((max(floor(low - more + 0.005), 0), min(ceil(high + more - 0.005), limit), limit))
    for low, high, limit in spans:
        length = max(end - start for start, end, _ in spans) if shape == "square" else high - low
        start = max(min(low - (length - (high - low)) // 2, limit - length), 0)
        start = start if length <= limit else -((length - limit) // 2)
        places.append(np.arange(start, start + length).clip(0, limit - 1))  # the border is repeated
    return np.asarray(pixels[np.ix_(*places)])


def main(files: list[str]) -> None:
    """Print a line of JSON for each face."""
    onnxruntime.set_default_logger_severity(3)  # it warns of inputs that have defaults
    bundle = json.loads((FOLDER / "bundle.json").read_text(encoding="utf-8"))
    detector, classifier = (
        onnxruntime.InferenceSession(str(FOLDER / bundle[name]["file"])) for name in ("detector", "classifier")
    )
    for file in files:
        pixels = np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("RGB"))
        options = {"min_score": np.array(0.5, np.float32)}  # also iou and max_faces
        boxes, scores, _ = detector.run(None, {"images": pixels.transpose(2, 0, 1)[None], **options})
        for box, score in zip(boxes.tolist(), scores.tolist(), strict=True):
            face = cut(pixels, box, **bundle["classifier"]["crop"])
            (row,) = classifier.run(None, {"images": face.transpose(2, 0, 1)[None]})[0]
            named = dict(zip(bundle["classifier"]["class_names"], row.tolist(), strict=True))
            print(json.dumps({"image": file, "box": box, "score": score, "probabilities": named}))


if __name__ == "__main__":
    main(sys.argv[1:])
