"""Pictures that the tests of the image reader make themselves."""

import io

import numpy as np
from PIL import Image


def smooth_image(width=64, height=64, seed=0):
    """A smooth random RGB picture, so that lossy formats stay close to it."""
    small = np.random.default_rng(seed).integers(30, 226, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, image_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()
