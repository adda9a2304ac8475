"""Images that tests make themselves, and what reading them gives."""

import csv
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


def stripes():
    """480 x 480 grey pixels in slanted stripes of 3, which a resize without anti-aliasing turns into others."""
    x = np.arange(480)
    return ((x[None, :] + x[:, None] // 7) % 3 * 127).astype(np.uint8)


def with_orientation(value):
    """The EXIF block of an image that is stored turned or mirrored; 6 is to be turned clockwise."""
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def damaged_inside(path):
    """Write a PNG file whose header and end are whole, and whose pixels are not; return its path."""
    content = encoded(Image.effect_noise((64, 64), 50), "PNG")
    middle = content.index(b"IDAT") + 400
    path.write_bytes(content[:middle] + bytes(64) + content[middle + 64 :])
    return path


def reason_of(source, **options):
    with pytest.raises(ImageError) as caught:
        read_image(source, **options)
    assert isinstance(caught.value, FaceExprError)
    return caught.value.reason


def write_fer2013(path, faces):
    """Write FER-2013's table with the same faces, uint8 (48, 48), in each split; the seven labels go round."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["emotion", "pixels", "Usage"])
        for usage in ("Training", "PublicTest", "PrivateTest"):
            rows = enumerate(faces)
            writer.writerows([number % 7, " ".join(map(str, face.flatten())), usage] for number, face in rows)
