"""The size of a picture by its header alone is the size that it has when it is read."""

import struct
import zlib

import pytest
from image_files import encoded, smooth_image
from PIL import Image

from faceexpr.utils.images import ImageError, read_image, upright_size


def exif(orientation):
    block = Image.Exif()
    block[0x0112] = orientation
    return block


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF", "MPO"])
def test_c01_the_header_tells_the_upright_size(image_format, orientation, tmp_path):
    if image_format == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    path = tmp_path / "picture"
    path.write_bytes(encoded(smooth_image(48, 24), image_format, exif=exif(orientation)))
    assert upright_size(path) == read_image(path).size
    if image_format != "HEIF":  # whose writer keeps no orientation
        assert upright_size(path) == ((24, 48) if orientation >= 5 else (48, 24))


def test_c01_an_exif_block_after_the_pixels_of_a_png_counts(tmp_path):
    content = encoded(smooth_image(48, 24), "PNG")
    body = b"eXIf" + exif(6).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    path = tmp_path / "late.png"
    path.write_bytes(content[:-12] + chunk + content[-12:])
    assert upright_size(path) == read_image(path).size == (24, 48)


def test_a_broken_exif_block_turns_nothing(tmp_path):
    path = tmp_path / "broken.jpg"
    path.write_bytes(encoded(smooth_image(40, 20), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"))
    assert upright_size(path) == (40, 20)


def test_only_the_header_is_needed(tmp_path):
    path = tmp_path / "cut.jpg"
    content = encoded(smooth_image(640, 480), "JPEG", quality=95)
    path.write_bytes(content[: len(content) // 2])
    assert upright_size(path) == (640, 480)


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "empty file"), (b"hello", "not an image"), (b"\xff\xd8\xff\xe0", "JPEG header")]
)
def test_what_is_no_picture_is_named(content, reason, tmp_path):
    path = tmp_path / "no.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=reason) as error:
        upright_size(path)
    assert error.value.source == str(path)
    with pytest.raises(ImageError, match="no such file"):
        upright_size(tmp_path / "nowhere.jpg")
