"""From a box to pixels: what is kept, what is left out and why."""

import numpy as np
import pytest

from faceexpr.utils.crop import Crop, clip_box, cut_face
from faceexpr.utils.errors import FaceExprError

IMAGE = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
STRETCHED = Crop(margin=0, shape="stretched")
SQUARE = Crop(margin=0)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((-5, -5, 20, 20), (0, 0, 20, 20)),
        ((90, 90, 130, 130), (90, 90, 100, 100)),
        ((100, 10, 130, 30), "outside the picture"),
        ((-30, 10, -10, 30), "outside the picture"),
        ((40, 10, 10, 40), "without area"),
        ((10, 10, 11, 80), "smaller than 8 pixels"),
        ((10, float("nan"), 40, 80), "not finite"),
        ((10, 10, float("inf"), 80), "not finite"),
    ],
)
def test_boxes_are_clipped_or_left_out_with_a_reason(box, expected):
    assert clip_box(box, (100, 100), min_face=8) == expected


@pytest.mark.parametrize(
    ("box", "options", "rows", "columns"),
    [
        ((90, 90, 100, 100), STRETCHED, (90, 100), (90, 100)),
        ((40, 20, 60, 60), STRETCHED, (20, 60), (40, 60)),
        # A part of a pixel is taken in whole, but for what rounding leaves.
        ((10.5, 20.5, 29.5, 40.2), STRETCHED, (20, 41), (10, 30)),
        ((10.0, 20.0, 30.0000001, 40.0), STRETCHED, (20, 40), (10, 30)),
        # A margin ends at the border.
        ((0, 0, 20, 20), Crop(0.3), (0, 26), (0, 26)),
        ((0, 0, 20, 20), Crop(0.3, "stretched"), (0, 26), (0, 26)),
        ((40, 50, 60, 70), Crop(0.25), (45, 75), (35, 65)),
        # A square keeps the centre, or is moved into the image.
        ((40, 20, 60, 60), SQUARE, (20, 60), (30, 70)),
        ((0, 20, 10, 60), SQUARE, (20, 60), (0, 40)),
        ((95, 20, 100, 60), SQUARE, (20, 60), (60, 100)),
    ],
)
def test_a_face_is_cut_out(box, options, rows, columns):
    assert np.array_equal(cut_face(IMAGE, box, options), IMAGE[slice(*rows), slice(*columns)])


def test_where_the_image_is_too_narrow_its_border_is_repeated():
    narrow = IMAGE[:, :30]
    face = cut_face(narrow, (0, 0, 30, 80), SQUARE)
    assert np.array_equal(face, np.pad(narrow[:80], ((0, 0), (25, 25), (0, 0)), mode="edge"))


@pytest.mark.parametrize("options", [{"margin": float("nan")}, {"min_face": 0}, {"shape": "round"}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(FaceExprError, match=next(iter(options))):
        Crop(**options)
