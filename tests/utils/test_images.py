"""Reading images: every kind of file that people hand to the product, damaged and very large ones, and folders."""

import io
import itertools
import os
import pickle
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from image_files import encoded, reason_of, smooth_image, with_orientation
from PIL import Image, ImageOps

from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import BACKGROUND, ImageError, find_images, list_images, read_image, resize, upright_size

RED = (220, 20, 30)


def difference(a, b):
    return np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).mean()


# Orientation


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF", "MPO"])
def test_pixels_and_size_are_upright_by_every_orientation(image_format, tmp_path):  # case C01
    if image_format == "HEIF":  # whose writer keeps no orientation
        pytest.importorskip("pillow_heif").register_heif_opener()
    path = tmp_path / "image"
    for orientation in (0, *range(1, 9), 4711):
        options = {"exif": with_orientation(orientation), "lossless": True}
        path.write_bytes(encoded(smooth_image(48, 24), image_format, **options))
        got = read_image(path)
        assert upright_size(path) == got.size == got.pixels.shape[1::-1]
        if image_format != "HEIF":
            expected = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
            assert np.array_equal(got.pixels, np.asarray(expected))
            assert got.size == ((24, 48) if 5 <= orientation <= 8 else (48, 24))


@pytest.mark.parametrize(
    "block",
    [
        b"Exif\0\0garbage that is no TIFF header",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03\xff\xff\xff\xff\0\x06",
        b"Exif\0\0",
    ],
)
def test_broken_exif_turns_nothing(block, tmp_path):  # case C01
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(smooth_image(40, 20), "JPEG", exif=block))
    assert read_image(path).size == upright_size(path) == (40, 20)
    assert np.array_equal(read_image(path).pixels, read_image(encoded(smooth_image(40, 20), "JPEG")).pixels)


def test_an_exif_block_after_the_pixels_of_a_png_counts(tmp_path):  # case C01
    content = encoded(smooth_image(48, 24), "PNG")
    body = b"eXIf" + with_orientation(6).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    path = tmp_path / "late.png"
    path.write_bytes(content[:-12] + chunk + content[-12:])
    assert upright_size(path) == read_image(path).size == (24, 48)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_sizes_need_the_header_alone(image_format, tmp_path):
    content = encoded(smooth_image(640, 480), image_format)
    (tmp_path / "cut").write_bytes(content[: len(content) // 2])
    assert upright_size(tmp_path / "cut") == (640, 480)


# Colour modes


def test_cmyk_jpeg_is_not_inverted():  # case C02
    rgb = smooth_image(32, 32)
    twin, cmyk = (read_image(encoded(one, "JPEG", quality=95, subsampling=0)) for one in (rgb, rgb.convert("CMYK")))
    assert difference(cmyk.pixels, twin.pixels) < 4
    assert difference(read_image(encoded(rgb.convert("CMYK"), "TIFF"), mode="L").pixels, rgb.convert("L")) < 2


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_grey_alpha_and_palette_give_the_same_shape(mode):  # case C04
    grey = smooth_image().convert("L")
    opaque = Image.merge("LA", (grey, Image.new("L", grey.size, 255)))
    expected = np.asarray(grey.convert(mode))
    for image in (grey, grey.convert("RGB"), opaque, opaque.convert("RGBA"), grey.convert("P")):
        got = read_image(encoded(image, "PNG"), mode=mode).pixels
        assert got.dtype == np.uint8
        assert np.array_equal(got, expected), image.mode
    one_bit = read_image(encoded(grey.convert("1"), "PNG"), mode=mode)
    assert one_bit.pixels.shape == expected.shape
    assert set(np.unique(one_bit.pixels)) == {0, 255}


def test_transparent_pixels_lie_on_the_documented_colour():  # case C04
    rgba = Image.new("RGBA", (8, 8), (*RED, 255))
    rgba.paste((0, 0, 0, 0), (0, 0, 4, 8))
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, *RED])
    palette.paste(0, (0, 0, 4, 8))
    key = Image.new("RGB", (8, 8), RED)
    key.paste((1, 2, 3), (0, 0, 4, 8))
    for content in (
        encoded(rgba, "PNG"),
        encoded(rgba, "WEBP", lossless=True),
        encoded(palette, "PNG", transparency=0),
        encoded(palette, "GIF", transparency=0),
        encoded(key, "PNG", transparency=(1, 2, 3)),
    ):
        pixels = read_image(content).pixels
        assert (pixels[:, :4] == BACKGROUND).all()
        assert (pixels[:, 4:] == RED).all()
    assert (read_image(encoded(Image.new("LA", (8, 8), (0, 0)), "PNG"), mode="L").pixels == 255).all()
    half = Image.new("RGBA", (4, 4), (100, 100, 100, 128))
    assert difference(read_image(half).pixels, round(100 * 128 / 255 + 255 * 127 / 255)) <= 1


@pytest.mark.parametrize("mode", ["La", "RGBa", "PA", "RGBX", "YCbCr", "HSV", "LAB"])
def test_rarer_modes_keep_their_colour(mode):  # case C04
    steps = {"La": ["LA", "La"], "PA": ["P", "PA"], "YCbCr": ["RGB", "YCbCr"], "HSV": ["RGB", "HSV"]}
    image = Image.new("LAB", (4, 4), (97, 128, 128))  # L* = 38 of 100 is sRGB 90
    if mode != "LAB":
        image = Image.new("RGBA", (4, 4), (90, 90, 90, 255))
        for step in steps.get(mode, [mode]):
            image = image.convert(step)
    assert difference(read_image(image).pixels, 90) <= 2


def test_sixteen_bit_grey_is_scaled_by_the_white_of_its_type():
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    dark = np.full((4, 4), 257 * 3, np.uint16)
    for pixels, image_format in itertools.product((ramp, dark), ("PNG", "TIFF", "PPM")):
        got = read_image(encoded(Image.fromarray(pixels), image_format), mode="L").pixels
        assert np.array_equal(got, np.rint(pixels / 257))


def test_values_without_a_known_white_are_refused():
    assert "expected 0 to 1" in reason_of(encoded(Image.fromarray(np.full((4, 4), 200, np.float32)), "TIFF"))
    assert "expected 0 to 65535" in reason_of(encoded(Image.fromarray(np.full((4, 4), 70000, np.int32)), "TIFF"))
    assert "nan" in reason_of(np.full((4, 4), np.nan))
    assert "int64" in reason_of(np.zeros((4, 4), np.int64))
    assert "(0, 4)" in reason_of(np.zeros((0, 4), np.uint8))


def test_arrays_and_pil_images_are_taken_as_rgb_and_left_as_they_are():
    rgb = np.asarray(smooth_image(5, 3))
    for source in (rgb, rgb.astype(np.float32) / 255, rgb.astype(np.uint16) * 257, Image.fromarray(rgb)):
        assert np.array_equal(read_image(source).pixels, rgb)
    assert np.array_equal(read_image(rgb[:, :, :1]).pixels, np.repeat(rgb[:, :, :1], 3, axis=2))
    assert np.array_equal(read_image(rgb[::-1, ::-1]).pixels, rgb[::-1, ::-1])
    assert read_image(np.array([[True, False]]), mode="L").pixels.tolist() == [[255, 0]]
    image = Image.open(io.BytesIO(encoded(smooth_image(640, 480), "JPEG")))
    assert read_image(image, reduce_to=60).pixels.shape[:2] == (60, 80)
    assert (image.size, image.mode) == ((640, 480), "RGB")


# Formats


def test_content_decides_and_not_the_name(tmp_path):  # case C07
    for name, image_format in {"a.jpg": "WEBP", "b.jpeg": "PNG", "d": "JPEG"}.items():
        (tmp_path / name).write_bytes(encoded(smooth_image(), image_format, quality=95))
        assert difference(read_image(tmp_path / name).pixels, smooth_image()) < 3
        assert find_images(tmp_path / name) == [tmp_path / name]


def test_heic_without_the_reader_says_what_to_install(monkeypatch):  # case C07
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for brands in (b"heic\0\0\0\0mif1heic", b"mif1\0\0\0\0mif1heic", b"heix\0\0\0\0mif1heix"):
        content = (8 + len(brands)).to_bytes(4, "big") + b"ftyp" + brands + bytes(64)
        assert reason_of(content) == "format not supported: HEIC; pip install 'faceexpr[heic]'"


@pytest.mark.parametrize("image_format", ["GIF", "TIFF", "WEBP", "PNG"])
def test_of_several_frames_the_first_is_taken_and_noted(image_format):  # case C11
    first = smooth_image().quantize(32)
    content = encoded(first, image_format, save_all=True, append_images=[Image.new("P", (64, 64))], lossless=True)
    got = read_image(content)
    assert got.notes == ("first of 2 frames",)
    assert difference(got.pixels, first.convert("RGB")) < 2
    assert read_image(encoded(first, image_format)).notes == ()


# Folders


def test_any_case_of_the_ending_and_nothing_but_images(tmp_path):  # case C11
    for name in ("A.GIF", "B.JPEG", "C.TIF", "d.bmp", "sub/e.PnG", "sub/deep/f.webp", "notes.txt", ".hidden.jpg",
                 "._A.GIF", ".cache/g.jpg", "jpg", "archive.jpg.zip", "none/notes.txt"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    names = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert names == ["A.GIF", "B.JPEG", "C.TIF", "d.bmp", "sub/deep/f.webp", "sub/e.PnG"]
    with pytest.raises(FaceExprError, match="holds no image"):
        find_images(tmp_path / "none")
    assert list_images(tmp_path / "none") == []


def test_circles_of_links_end(tmp_path):
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for path in (data / "real" / "a.jpg", elsewhere / "b.jpg"):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    (data / "loop").symlink_to(data, target_is_directory=True)
    (data / "linked").symlink_to(elsewhere, target_is_directory=True)
    (data / "gone.jpg").symlink_to(tmp_path / "absent.jpg")
    names = [path.relative_to(data).as_posix() for path in find_images(data)]
    assert names == ["gone.jpg", "linked/b.jpg", "real/a.jpg"]


# Damage


def shape_or_reason(content):
    """What reading gives; any exception but the promised one ends the test."""
    try:
        return read_image(content).pixels.shape
    except ImageError as error:
        return error.reason


def test_each_bad_file_is_named_with_its_reason(tmp_path):  # case C05
    good = encoded(smooth_image(), "JPEG")
    path = tmp_path / "a.jpg"
    assert reason_of(good[: len(good) * 6 // 10]) == "truncated"
    for reason, content in {
        "empty file": b"",
        "not an image": b"not an image at all\n",
        "truncated or damaged: the JPEG header cannot be read": b"\xff\xd8\xff\xe0",
    }.items():
        path.write_bytes(content)
        assert reason_of(path) == reason
        with pytest.raises(ImageError, match=f"a.jpg: {reason}"):
            upright_size(path)
    assert reason_of(str(tmp_path / "absent.jpg")) == "no such file"
    assert reason_of(tmp_path).startswith("a folder, not a file; in Python ")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert reason_of(tmp_path / "pipe.jpg") == "not a regular file"  # and not waited for
    # Case C07
    assert reason_of(b"%PDF-1.7 ...").startswith("format not supported: PDF")
    assert reason_of(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") == "not an image"
    assert reason_of(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(40)) == "not an image"


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "JPEG2000", "HEIF"])
def test_a_cut_anywhere_is_an_image_error_or_a_whole_image(image_format):  # case C05
    if image_format == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    content = encoded(smooth_image(40, 30), image_format)
    for percent in (1, 5, 20, 60, 90):
        outcome = shape_or_reason(content[: max(1, len(content) * percent // 100)])
        assert outcome == (30, 40, 3) or outcome.startswith(("truncated", "damaged", "not an image"))
    assert reason_of(content[: len(content) * 6 // 10]).startswith(("truncated", "damaged"))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_bytes_never_end_in_another_exception():  # case C05
    random = np.random.default_rng(1)
    for image_format in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"):
        content = encoded(smooth_image(24, 24), image_format)
        for _ in range(40):
            damaged = bytearray(content)
            for position in random.integers(0, len(content), 6):
                damaged[position] = random.integers(256)
            outcome = shape_or_reason(bytes(damaged))
            assert len(outcome) == 3 or outcome.split()[0] in ("truncated", "damaged:", "not", "too", "pixel")


def test_errors_cross_process_borders():
    error = pickle.loads(pickle.dumps(ImageError("a.jpg", "truncated")))
    assert (error.source, error.reason, str(error)) == ("a.jpg", "truncated", "a.jpg: truncated")


# Size


def test_too_large_is_said_with_the_size_before_decoding():  # case C06
    # A header alone, which claims 200 megapixels.
    content = bytearray(encoded(Image.new("L", (1, 1)), "PNG"))
    content[16:24] = struct.pack(">II", 20000, 10000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    assert reason_of(bytes(content)).startswith("too large: 20000 x 10000 pixels, the limit is 160,000,000")
    assert reason_of(encoded(smooth_image(11, 10), "PNG"), max_pixels=109).startswith("too large: 11 x 10 pixels")
    assert read_image(encoded(smooth_image(11, 10), "PNG"), max_pixels=110).size == (11, 10)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "GIF", "TIFF", "WEBP"])
@pytest.mark.filterwarnings("error")
def test_pillows_own_limit_is_left_alone(image_format, monkeypatch):  # case C06
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    content = encoded(smooth_image(), image_format)
    if image_format in ("TIFF", "WEBP"):  # whose readers look at it by themselves
        assert reason_of(content) == "too large for Pillow (PIL.Image.MAX_IMAGE_PIXELS)"
    else:
        assert read_image(content).size == (64, 64)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_large_images_are_read_reduced():  # case C06
    """Those of more than 32 megapixels take a way of their own."""
    got = read_image(encoded(Image.new("RGB", (8000, 4100), RED), "PNG", compress_level=1), reduce_to=410)
    assert (got.size, got.reduction, got.pixels.shape) == ((8000, 4100), 10, (410, 800, 3))
    assert (got.pixels == RED).all()


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [(641, 487), (150, 100), (99, 300)])
def test_reduction_keeps_the_shorter_side_and_the_image(image_format, size):
    got = read_image(encoded(smooth_image(*size), image_format, quality=95), reduce_to=100)
    assert (got.size, got.reduction) == (size, max(1, min(size) // 100))
    assert got.pixels.shape[:2] == tuple(-(-side // got.reduction) for side in size[::-1])
    turned = encoded(smooth_image(*size), image_format, quality=95, exif=with_orientation(6))
    assert read_image(turned, reduce_to=100).pixels.shape[1::-1] == got.pixels.shape[:2]
    tensors = (torch.tensor(np.array(image)).permute(2, 0, 1)[None] for image in (got.pixels, smooth_image(*size)))
    small, full = (resize(tensor.float(), 24) for tensor in tensors)
    assert (small - full).abs().mean() < 2


def test_strips_leave_no_seam():
    """Tall images are converted in strips; the result is that of one piece."""
    tall = np.random.default_rng(0).integers(0, 256, (1030, 1200, 3), dtype=np.uint8)
    assert np.array_equal(read_image(tall).pixels, tall)
    assert np.array_equal(read_image(tall, reduce_to=343).pixels, np.asarray(Image.fromarray(tall).reduce(3)))
