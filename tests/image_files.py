"""Images that tests make themselves, and what reading them gives."""

import io

import numpy as np
import pytest
from PIL import Image

from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import ImageError, read_image


def smooth_image(width=64, height=64, seed=0):
    """A smooth random RGB image, so that lossy formats stay close to it."""
    small = np.random.default_rng(seed).integers(30, 226, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, image_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def reason_of(source, **options):
    with pytest.raises(ImageError) as caught:
        read_image(source, **options)
    assert isinstance(caught.value, FaceExprError)
    return caught.value.reason
