"""Reading images: every kind of file that people hand to the product, and the folders they lie in."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
from image_files import encoded, reason_of, smooth_image
from PIL import Image, ImageOps

from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import BACKGROUND, ImageError, find_images, list_images, read_image, upright_size

RED = (220, 20, 30)
ORIENTATION = 0x0112


def difference(a, b):
    return np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).mean()


def with_orientation(value):
    exif = Image.Exif()
    exif[ORIENTATION] = value
    return exif


# Orientation


# Case C01
def test_rotated_jpeg_reads_as_its_upright_twin():
    raw = Image.new("RGB", (40, 20), "white")
    raw.paste(RED, (0, 12, 8, 20))  # lower left as stored: upper left once turned clockwise
    turned = read_image(encoded(raw, "JPEG", exif=with_orientation(6), quality=95, subsampling=0))
    upright = read_image(encoded(raw.transpose(Image.Transpose.ROTATE_270), "JPEG", quality=95, subsampling=0))
    assert turned.size == upright.size == (20, 40)
    assert turned.pixels.shape == (40, 20, 3)
    assert difference(turned.pixels, upright.pixels) < 1
    assert difference(turned.pixels[1:7, 1:7].mean((0, 1)), RED) < 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "WEBP"])
# Case C01
def test_every_orientation_agrees_with_pillow(orientation, image_format):
    content = encoded(smooth_image(12, 7), image_format, exif=with_orientation(orientation), lossless=True)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    got = read_image(content)
    assert np.array_equal(got.pixels, np.asarray(expected))
    assert got.size == expected.size == ((7, 12) if orientation >= 5 else (12, 7))


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
def test_broken_exif_turns_nothing(block):
    plain = smooth_image(40, 20)
    got = read_image(encoded(plain, "JPEG", exif=block))
    assert got.size == (40, 20)
    assert np.array_equal(got.pixels, read_image(encoded(plain, "JPEG")).pixels)


@pytest.mark.parametrize("value", [0, 9, 4711])
# Case C01
def test_orientation_outside_its_range_turns_nothing(value):
    assert read_image(encoded(smooth_image(40, 20), "JPEG", exif=with_orientation(value))).size == (40, 20)


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
    shape = (64, 64) if mode == "L" else (64, 64, 3)
    expected = np.asarray(grey.convert(mode))
    for image in (grey, grey.convert("RGB"), opaque, opaque.convert("RGBA"), grey.convert("P")):
        got = read_image(encoded(image, "PNG"), mode=mode)
        assert got.pixels.dtype == np.uint8
        assert got.pixels.shape == shape
        assert np.array_equal(got.pixels, expected), image.mode
    one_bit = read_image(encoded(grey.convert("1"), "PNG"), mode=mode)
    assert one_bit.pixels.shape == shape
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
    contents = [
        encoded(rgba, "PNG"),
        encoded(rgba, "WEBP", lossless=True),
        encoded(palette, "PNG", transparency=0),
        encoded(palette, "GIF", transparency=0),
        encoded(key, "PNG", transparency=(1, 2, 3)),
    ]
    for content in contents:
        pixels = read_image(content).pixels
        assert (pixels[:, :4] == BACKGROUND).all()
        assert (pixels[:, 4:] == RED).all()
    grey = Image.merge("LA", (Image.new("L", (8, 8), 0), Image.new("L", (8, 8), 0)))
    assert (read_image(encoded(grey, "PNG"), mode="L").pixels == 255).all()


@pytest.mark.parametrize("mode", ["La", "RGBa", "PA", "RGBX", "YCbCr", "HSV", "LAB"])
# Case C04
def test_rarer_modes_keep_their_colour(mode):
    grey = Image.new("RGBA", (4, 4), (90, 90, 90, 255))
    steps = {"La": ["LA", "La"], "PA": ["P", "PA"], "YCbCr": ["RGB", "YCbCr"], "HSV": ["RGB", "HSV"]}
    if mode == "LAB":
        image = Image.new("LAB", (4, 4), (97, 128, 128))  # L* = 38 of 100 is sRGB 90
    else:
        image = grey
        for step in steps.get(mode, [mode]):
            image = image.convert(step)
    assert difference(read_image(image).pixels, 90) <= 2


# Case C04
def test_half_transparent_is_mixed_with_the_background():
    half = Image.new("RGBA", (4, 4), (100, 100, 100, 128))
    assert difference(read_image(half).pixels, round(100 * 128 / 255 + 255 * 127 / 255)) <= 1


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    expected = np.rint(ramp / 257).astype(np.uint8)
    for image_format in ("PNG", "TIFF", "PPM"):
        assert np.array_equal(read_image(encoded(Image.fromarray(ramp), image_format), mode="L").pixels, expected)
    assert np.array_equal(read_image(ramp, mode="L").pixels, expected)
    dark = np.full((4, 4), 257 * 3, np.uint16)  # scaled by the type's white, not by its own brightest pixel
    assert (read_image(encoded(Image.fromarray(dark), "PNG"), mode="L").pixels == 3).all()


def test_values_without_a_known_white_are_refused():
    assert "expected 0 to 1" in reason_of(encoded(Image.fromarray(np.full((4, 4), 200, np.float32)), "TIFF"))
    assert "expected 0 to 65535" in reason_of(encoded(Image.fromarray(np.full((4, 4), 70000, np.int32)), "TIFF"))
    assert "nan" in reason_of(np.full((4, 4), np.nan))
    assert "int64" in reason_of(np.zeros((4, 4), np.int64))
    assert "(4,)" in reason_of(np.zeros(4, np.uint8))
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
    got = read_image(image, reduce_to=60)
    assert got.pixels.shape[:2] == (60, 80)
    assert image.size == (640, 480)
    assert image.mode == "RGB"


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
    image = smooth_image()
    pillow_heif.from_pillow(image).save(tmp_path / "c.heic", quality=95)
    (tmp_path / "c.heic").rename(tmp_path / "c.jpg")
    got = read_image(tmp_path / "c.jpg")
    assert got.size == (64, 64)
    assert difference(got.pixels, image) < 4


# Case C07
def test_heic_without_the_reader_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for brands in (b"heic\0\0\0\0mif1heic", b"mif1\0\0\0\0mif1heic", b"heix\0\0\0\0mif1heix"):
        content = (8 + len(brands)).to_bytes(4, "big") + b"ftyp" + brands + bytes(64)
        assert reason_of(content) == "format not supported: HEIC; pip install 'faceexpr[heic]'"


# Case C07
def test_other_files_that_are_no_supported_image():
    assert reason_of(b"%PDF-1.7 ...").startswith("format not supported: PDF")
    assert reason_of(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") == "not an image"
    assert reason_of(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(40)) == "not an image"


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
    for name in ("A.GIF", "B.JPEG", "C.TIF", "d.bmp", "sub/e.PnG", "sub/deep/f.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    for name in ("notes.txt", ".hidden.jpg", "._A.GIF", ".cache/g.jpg", "jpg", "archive.jpg.zip"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    names = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert names == ["A.GIF", "B.JPEG", "C.TIF", "d.bmp", "sub/deep/f.webp", "sub/e.PnG"]


# Case C11
def test_a_folder_without_images_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(FaceExprError, match="holds no image"):
        find_images(tmp_path)
    assert list_images(tmp_path) == []


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


# Sizes by headers alone


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
def test_what_is_no_image_is_named(content, reason, tmp_path):
    path = tmp_path / "no.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=reason) as error:
        upright_size(path)
    assert error.value.source == str(path)
    with pytest.raises(ImageError, match="no such file"):
        upright_size(tmp_path / "nowhere.jpg")
