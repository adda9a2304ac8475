"""Tell the expression of a face by a program that ``export.py`` has written.

    python examples/plain_torch.py expressions.pt2 face.png

It takes torch, numpy and Pillow, and not faceexpr.
"""

import json
import sys

import numpy as np
import torch
from PIL import Image


def main(program: str, image: str) -> dict[str, float]:
    """Return the probability of each class."""
    extra = {"faceexpr.json": ""}
    classify = torch.export.load(program, extra_files=extra).module()
    class_names = json.loads(extra["faceexpr.json"])["class_names"]

    # uint8 (N, 3, height, width), of any size: all else that lies between pixels and probabilities is in the program.
    pixels = torch.from_numpy(np.array(Image.open(image).convert("RGB"))).permute(2, 0, 1)[None]
    with torch.inference_mode():
        probabilities = classify(pixels)[0].tolist()
    found = dict(zip(class_names, probabilities, strict=True))
    print(found)
    return found


if __name__ == "__main__":
    main(*sys.argv[1:3])
