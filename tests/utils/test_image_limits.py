"""Damaged and very large images: one kind of error with its reason, and bounded memory."""

import os
import pickle
import zlib

import numpy as np
import pytest
import torch
from image_files import encoded, reason_of, smooth_image
from PIL import Image

from faceexpr.utils.images import ImageError, read_image, resize

RED = (220, 20, 30)


def shape_or_reason(content):
    """What reading gives; any exception but the promised one ends the test."""
    try:
        return read_image(content).pixels.shape
    except ImageError as error:
        return error.reason


# Case C05
def test_each_bad_file_is_named_with_its_reason(tmp_path):
    good = encoded(smooth_image(), "JPEG")
    files = {"ok": good, "cut": good[: len(good) * 6 // 10], "empty": b"", "text": b"not an image at all\n"}
    for name, content in files.items():
        (tmp_path / f"{name}.jpg").write_bytes(content)
    assert read_image(tmp_path / "ok.jpg").size == (64, 64)
    assert reason_of(tmp_path / "cut.jpg") == "truncated"
    assert reason_of(tmp_path / "empty.jpg") == "empty file"
    assert reason_of(tmp_path / "text.jpg") == "not an image"
    assert reason_of(tmp_path / "absent.jpg") == "no such file"
    assert reason_of(tmp_path) == "a folder, not a file"
    with pytest.raises(ImageError, match=r"cut\.jpg: truncated"):
        read_image(str(tmp_path / "cut.jpg"))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "JPEG2000", "HEIF"])
# Case C05
def test_a_cut_anywhere_is_an_image_error_or_a_whole_image(image_format):
    if image_format == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    content = encoded(smooth_image(40, 30), image_format)
    whole = read_image(content)
    for percent in (1, 5, 20, 60, 90):
        cut = content[: max(1, len(content) * percent // 100)]
        outcome = shape_or_reason(cut)
        assert outcome == whole.pixels.shape or outcome.startswith(("truncated", "damaged", "not an image"))
    assert reason_of(content[: len(content) * 6 // 10]).startswith(("truncated", "damaged"))


# Case C05
def test_damaged_bytes_never_end_in_another_exception():
    random = np.random.default_rng(1)
    for image_format in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"):
        content = bytearray(encoded(smooth_image(24, 24), image_format))
        for _ in range(40):
            damaged = bytearray(content)
            for position in random.integers(0, len(content), 6):
                damaged[position] = random.integers(256)
            outcome = shape_or_reason(bytes(damaged))
            assert len(outcome) == 3 or outcome.split()[0] in ("truncated", "damaged:", "not", "too", "pixel")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert reason_of(tmp_path / "pipe.jpg") == "not a regular file"


def test_errors_cross_process_borders():
    error = pickle.loads(pickle.dumps(ImageError("a.jpg", "truncated")))
    assert (error.source, error.reason, str(error)) == ("a.jpg", "truncated", "a.jpg: truncated")


# Size


def png_header(width, height):
    """A one-colour PNG of any size would be slow to make: header and a few bytes are enough to ask for its size."""
    content = bytearray(encoded(Image.new("L", (1, 1)), "PNG"))
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


# Case C06
def test_too_large_is_said_with_the_size_before_decoding():
    assert reason_of(png_header(20000, 10000)).startswith("too large: 20000 x 10000 pixels, the limit is 160,000,000")
    assert reason_of(png_header(100_000, 90_000)).startswith("too large: 100000 x 90000 pixels")
    assert reason_of(encoded(smooth_image(11, 10), "PNG"), max_pixels=109).startswith("too large: 11 x 10 pixels")
    assert read_image(encoded(smooth_image(11, 10), "PNG"), max_pixels=110).size == (11, 10)


# Case C06
@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "GIF"])
@pytest.mark.filterwarnings("error")
def test_pillows_own_limit_is_left_alone(image_format, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_image(encoded(smooth_image(), image_format)).size == (64, 64)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("image_format", ["TIFF", "WEBP"])
def test_formats_that_pillow_limits_by_itself_say_so(image_format, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert reason_of(encoded(smooth_image(), image_format)) == "too large for Pillow (PIL.Image.MAX_IMAGE_PIXELS)"


# Case C06
def test_a_hundred_megapixels_are_read_reduced():
    content = encoded(Image.new("RGB", (10000, 10000), RED), "PNG", compress_level=1)
    got = read_image(content, reduce_to=1000)
    assert got.size == (10000, 10000)
    assert got.reduction == 10
    assert got.pixels.shape == (1000, 1000, 3)
    assert (got.pixels == RED).all()


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [(640, 480), (641, 487), (150, 100), (99, 300), (3000, 110)])
def test_reduction_keeps_the_shorter_side_and_the_image(image_format, size):
    got = read_image(encoded(smooth_image(*size), image_format, quality=95), reduce_to=100)
    assert got.size == size
    assert got.reduction == max(1, min(size) // 100)
    assert min(got.pixels.shape[:2]) >= min(100, *size)
    assert got.pixels.shape[:2] == tuple(-(-side // got.reduction) for side in size[::-1])
    small = torch.from_numpy(got.pixels).permute(2, 0, 1)[None].float()
    full = torch.from_numpy(np.array(smooth_image(*size))).permute(2, 0, 1)[None].float()
    assert (resize(small, 24) - resize(full, 24)).abs().mean() < 2


def test_strips_leave_no_seam():
    """Tall images are converted in strips; the result is that of one piece."""
    tall = np.random.default_rng(0).integers(0, 256, (1030, 6, 3), dtype=np.uint8)
    assert np.array_equal(read_image(tall).pixels, tall)
    assert np.array_equal(read_image(tall, reduce_to=2).pixels, np.asarray(Image.fromarray(tall).reduce(3)))
