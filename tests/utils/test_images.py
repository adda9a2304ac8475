"""Reading images: every kind of file that people hand to the product, damaged and very large ones, and folders."""

import io
import os
import pickle
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from image_files import encoded, reason_of, smooth_image
from PIL import Image, ImageOps

from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import BACKGROUND, ImageError, find_images, list_images, read_image, resize, upright_size

RED = (220, 20, 30)
ORIENTATION = 0x0112


def difference(a, b):
    return np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).mean()


def with_orientation(value):
    exif = Image.Exif()
    exif[ORIENTATION] = value
    return exif


# Orientation


@pytest.mark.parametrize("orientation", [0, *range(1, 9), 4711])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "TIFF", "WEBP"])
# Case C01
def test_every_orientation_agrees_with_pillow(orientation, image_format):
    content = encoded(smooth_image(12, 7), image_format, exif=with_orientation(orientation), lossless=True)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    got = read_image(content)
    assert np.array_equal(got.pixels, np.asarray(expected))
    assert got.size == expected.size == ((7, 12) if 5 <= orientation <= 8 else (12, 7))


@pytest.mark.parametrize("reduce_to", [None, 16])
# Case C01
def test_orientation_and_reduction_together(reduce_to):
    content = encoded(smooth_image(160, 80), "JPEG", exif=with_orientation(6), quality=95)
    got = read_image(content, reduce_to=reduce_to)
    assert got.size == (80, 160)
    assert got.reduction == (1 if reduce_to is None else 4)
    assert got.pixels.shape[:2] == (160 // got.reduction, 80 // got.reduction)


@pytest.mark.parametrize(
    "block",
    [
        b"Exif\0\0garbage that is no TIFF header",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03\xff\xff\xff\xff\0\x06",
        b"Exif\0\0",
    ],
)
# Case C01
def test_broken_exif_turns_nothing(block, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(smooth_image(40, 20), "JPEG", exif=block))
    assert read_image(path).size == upright_size(path) == (40, 20)
    assert np.array_equal(read_image(path).pixels, read_image(encoded(smooth_image(40, 20), "JPEG")).pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF", "MPO"])
# Case C01
def test_the_header_tells_the_upright_size(image_format, orientation, tmp_path):
    if image_format == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    path = tmp_path / "image"
    path.write_bytes(encoded(smooth_image(48, 24), image_format, exif=with_orientation(orientation)))
    assert upright_size(path) == read_image(path).size
    if image_format != "HEIF":  # whose writer keeps no orientation
        assert upright_size(path) == ((24, 48) if orientation >= 5 else (48, 24))


# Case C01
def test_an_exif_block_after_the_pixels_of_a_png_counts(tmp_path):
    content = encoded(smooth_image(48, 24), "PNG")
    body = b"eXIf" + with_orientation(6).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    path = tmp_path / "late.png"
    path.write_bytes(content[:-12] + chunk + content[-12:])
    assert upright_size(path) == read_image(path).size == (24, 48)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_sizes_need_the_header_alone(image_format, tmp_path):
    path = tmp_path / "cut"
    content = encoded(smooth_image(640, 480), image_format)
    path.write_bytes(content[: len(content) // 2])
    assert upright_size(path) == (640, 480)


# Colour modes


# Case C02
def test_cmyk_jpeg_is_not_inverted():
    rgb = smooth_image(32, 32)
    twin = read_image(encoded(rgb, "JPEG", quality=95, subsampling=0))
    cmyk = read_image(encoded(rgb.convert("CMYK"), "JPEG", quality=95, subsampling=0))
    assert cmyk.pixels.shape == (32, 32, 3)
    assert difference(cmyk.pixels, twin.pixels) < 4
    assert difference(read_image(encoded(rgb.convert("CMYK"), "TIFF"), mode="L").pixels, rgb.convert("L")) < 2


@pytest.mark.parametrize("mode", ["L", "RGB"])
# Case C04
def test_grey_alpha_and_palette_give_the_same_shape(mode):
    grey = smooth_image().convert("L")
    opaque = Image.merge("LA", (grey, Image.new("L", grey.size, 255)))
    expected = np.asarray(grey.convert(mode))
    for image in (grey, grey.convert("RGB"), opaque, opaque.convert("RGBA"), grey.convert("P")):
        got = read_image(encoded(image, "PNG"), mode=mode).pixels
        assert (got.dtype, got.shape) == (np.uint8, (64, 64) if mode == "L" else (64, 64, 3))
        assert np.array_equal(got, expected), image.mode
    one_bit = read_image(encoded(grey.convert("1"), "PNG"), mode=mode)
    assert one_bit.pixels.shape == expected.shape
    assert set(np.unique(one_bit.pixels)) == {0, 255}


# Case C04
def test_transparent_pixels_lie_on_the_documented_colour():
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
    grey = Image.merge("LA", (Image.new("L", (8, 8), 0), Image.new("L", (8, 8), 0)))
    assert (read_image(encoded(grey, "PNG"), mode="L").pixels == 255).all()
    half = Image.new("RGBA", (4, 4), (100, 100, 100, 128))
    assert difference(read_image(half).pixels, round(100 * 128 / 255 + 255 * 127 / 255)) <= 1


@pytest.mark.parametrize("mode", ["La", "RGBa", "PA", "RGBX", "YCbCr", "HSV", "LAB"])
# Case C04
def test_rarer_modes_keep_their_colour(mode):
    steps = {"La": ["LA", "La"], "PA": ["P", "PA"], "YCbCr": ["RGB", "YCbCr"], "HSV": ["RGB", "HSV"]}
    image = Image.new("LAB", (4, 4), (97, 128, 128))  # L* = 38 of 100 is sRGB 90
    if mode != "LAB":
        image = Image.new("RGBA", (4, 4), (90, 90, 90, 255))
        for step in steps.get(mode, [mode]):
            image = image.convert(step)
    assert difference(read_image(image).pixels, 90) <= 2


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    expected = np.rint(ramp / 257).astype(np.uint8)
    for image_format in ("PNG", "TIFF", "PPM"):
        assert np.array_equal(read_image(encoded(Image.fromarray(ramp), image_format), mode="L").pixels, expected)
    dark = np.full((4, 4), 257 * 3, np.uint16)  # scaled by the type's white, not by its own brightest pixel
    assert (read_image(encoded(Image.fromarray(dark), "PNG"), mode="L").pixels == 3).all()


def test_values_without_a_known_white_are_refused():
    assert "expected 0 to 1" in reason_of(encoded(Image.fromarray(np.full((4, 4), 200, np.float32)), "TIFF"))
    assert "expected 0 to 65535" in reason_of(encoded(Image.fromarray(np.full((4, 4), 70000, np.int32)), "TIFF"))
    assert "nan" in reason_of(np.full((4, 4), np.nan))
    assert "int64" in reason_of(np.zeros((4, 4), np.int64))
    assert "(0, 4)" in reason_of(np.zeros((0, 4), np.uint8))


def test_arrays_and_pil_images_are_taken_as_rgb():
    rgb = np.asarray(smooth_image(5, 3))
    expected = read_image(encoded(smooth_image(5, 3), "PNG")).pixels
    for source in (rgb, rgb.astype(np.float32) / 255, rgb.astype(np.uint16) * 257, Image.fromarray(rgb)):
        assert np.array_equal(read_image(source).pixels, expected)
    grey = rgb[:, :, :1]
    assert np.array_equal(read_image(grey).pixels, np.repeat(grey, 3, axis=2))
    assert np.array_equal(read_image(rgb[::-1, ::-1]).pixels, rgb[::-1, ::-1])
    assert read_image(np.array([[True, False]]), mode="L").pixels.tolist() == [[255, 0]]


def test_a_callers_pil_image_is_left_as_it_is():
    image = Image.open(io.BytesIO(encoded(smooth_image(640, 480), "JPEG")))
    assert read_image(image, reduce_to=60).pixels.shape[:2] == (60, 80)
    assert (image.size, image.mode) == ((640, 480), "RGB")


# Formats


# Case C07
def test_content_decides_and_not_the_name(tmp_path):
    image = smooth_image()
    (tmp_path / "a.jpg").write_bytes(encoded(image, "WEBP", lossless=True))
    (tmp_path / "b.jpeg").write_bytes(encoded(image, "PNG"))
    (tmp_path / "d").write_bytes(encoded(image, "JPEG", quality=95))
    for name in ("a.jpg", "b.jpeg", "d"):
        assert difference(read_image(tmp_path / name).pixels, image) < 2
    assert find_images(tmp_path / "d") == [tmp_path / "d"]


# Case C07
def test_heic_is_read_where_the_reader_is_installed(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(smooth_image()).save(tmp_path / "c.heic", quality=95)
    (tmp_path / "c.heic").rename(tmp_path / "c.jpg")
    assert difference(read_image(tmp_path / "c.jpg").pixels, smooth_image()) < 4


# Case C07
def test_heic_without_the_reader_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for brands in (b"heic\0\0\0\0mif1heic", b"mif1\0\0\0\0mif1heic", b"heix\0\0\0\0mif1heix"):
        content = (8 + len(brands)).to_bytes(4, "big") + b"ftyp" + brands + bytes(64)
        assert reason_of(content) == "format not supported: HEIC; pip install 'faceexpr[heic]'"


@pytest.mark.parametrize("image_format", ["GIF", "TIFF", "WEBP", "PNG"])
# Case C11
def test_of_several_frames_the_first_is_taken_and_noted(image_format):
    first = smooth_image().quantize(32)
    content = encoded(first, image_format, save_all=True, append_images=[Image.new("P", (64, 64))], lossless=True)
    got = read_image(content)
    assert got.notes == ("first of 2 frames",)
    assert difference(got.pixels, first.convert("RGB")) < 2
    assert read_image(encoded(first, image_format)).notes == ()


# Folders


# Case C11
def test_any_case_of_the_ending_and_nothing_but_images(tmp_path):
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
    (tmp_path / "data" / "real").mkdir(parents=True)
    (tmp_path / "data" / "real" / "a.jpg").write_bytes(b"x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.jpg").write_bytes(b"x")
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data", target_is_directory=True)
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "data" / "gone.jpg").symlink_to(tmp_path / "absent.jpg")
    names = [path.relative_to(tmp_path / "data").as_posix() for path in find_images(tmp_path / "data")]
    assert names == ["gone.jpg", "linked/b.jpg", "real/a.jpg"]


# Case C09
def test_names_with_accents_and_blanks(tmp_path):
    folder = tmp_path / "été"
    folder.mkdir()
    for name in ("café 顔.jpg", "a b#1%.jpg"):
        (folder / name).write_bytes(encoded(smooth_image(), "JPEG"))
    found = find_images(folder)
    assert [path.name for path in found] == ["a b#1%.jpg", "café 顔.jpg"]
    assert [read_image(path).size for path in found] == [(64, 64)] * 2
    with pytest.raises(ImageError, match=r"été/absent 顔\.jpg: no such file"):
        read_image(folder / "absent 顔.jpg")


# Damage


def shape_or_reason(content):
    """What reading gives; any exception but the promised one ends the test."""
    try:
        return read_image(content).pixels.shape
    except ImageError as error:
        return error.reason


# Case C05
def test_each_bad_file_is_named_with_its_reason(tmp_path):
    good = encoded(smooth_image(), "JPEG")
    files = {
        "truncated": good[: len(good) * 6 // 10],
        "empty file": b"",
        "not an image": b"not an image at all\n",
        "truncated or damaged: the JPEG header cannot be read": b"\xff\xd8\xff\xe0",
    }
    for number, (reason, content) in enumerate(files.items()):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(content)
        assert reason_of(path) == reason
        if reason != "truncated":
            with pytest.raises(ImageError, match=f"{number}.jpg: {reason}"):
                upright_size(path)
    assert reason_of(str(tmp_path / "absent.jpg")) == "no such file"
    assert reason_of(tmp_path) == "a folder, not a file"
    # Case C07
    assert reason_of(b"%PDF-1.7 ...").startswith("format not supported: PDF")
    assert reason_of(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") == "not an image"
    assert reason_of(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(40)) == "not an image"


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "JPEG2000", "HEIF"])
# Case C05
def test_a_cut_anywhere_is_an_image_error_or_a_whole_image(image_format):
    if image_format == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    content = encoded(smooth_image(40, 30), image_format)
    for percent in (1, 5, 20, 60, 90):
        outcome = shape_or_reason(content[: max(1, len(content) * percent // 100)])
        assert outcome == (30, 40, 3) or outcome.startswith(("truncated", "damaged", "not an image"))
    assert reason_of(content[: len(content) * 6 // 10]).startswith(("truncated", "damaged"))


# Case C05
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_bytes_never_end_in_another_exception():
    random = np.random.default_rng(1)
    for image_format in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"):
        content = encoded(smooth_image(24, 24), image_format)
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
    assert reason_of(encoded(smooth_image(11, 10), "PNG"), max_pixels=109).startswith("too large: 11 x 10 pixels")
    assert read_image(encoded(smooth_image(11, 10), "PNG"), max_pixels=110).size == (11, 10)


# Case C06
@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "GIF", "TIFF", "WEBP"])
@pytest.mark.filterwarnings("error")
def test_pillows_own_limit_is_left_alone(image_format, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    content = encoded(smooth_image(), image_format)
    if image_format in ("TIFF", "WEBP"):  # whose readers look at it by themselves
        assert reason_of(content) == "too large for Pillow (PIL.Image.MAX_IMAGE_PIXELS)"
    else:
        assert read_image(content).size == (64, 64)
    assert Image.MAX_IMAGE_PIXELS == 100


# Case C06
def test_a_hundred_megapixels_are_read_reduced():
    got = read_image(encoded(Image.new("RGB", (10000, 10000), RED), "PNG", compress_level=1), reduce_to=1000)
    assert (got.size, got.reduction, got.pixels.shape) == ((10000, 10000), 10, (1000, 1000, 3))
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
