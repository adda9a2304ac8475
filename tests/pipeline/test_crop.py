"""From a box to pixels: what is kept, what is left out and why."""

import numpy as np
import pytest

from faceexpr.pipeline.crop import Crop, clip_box, cut_face
from faceexpr.utils.errors import FaceExprError

PICTURE = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
STRETCHED = Crop(margin=0, shape="stretched")
SQUARE = Crop(margin=0)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((-5, -5, 20, 20), (0, 0, 20, 20)),
        ((90, 90, 130, 130), (90, 90, 100, 100)),
        ((110, 10, 130, 30), "outside the picture"),
        ((-30, 10, -10, 30), "outside the picture"),
        ((100, 10, 130, 30), "outside the picture"),
        ((10, 10, 10, 40), "without area"),
        ((40, 10, 10, 40), "without area"),
        ((10, 10, 11, 80), "smaller than 8 pixels"),
        ((10, float("nan"), 40, 80), "not finite"),
        ((10, 10, float("inf"), 80), "not finite"),
    ],
)
def test_boxes_are_clipped_or_left_out_with_a_reason(box, expected):
    assert clip_box(box, (100, 100), min_face=8) == expected


def test_the_crop_is_the_visible_part():
    assert (cut_face(PICTURE, (0, 0, 20, 20), SQUARE) == PICTURE[:20, :20]).all()
    assert (cut_face(PICTURE, (90, 90, 100, 100), STRETCHED) == PICTURE[90:, 90:]).all()


@pytest.mark.parametrize("shape", ["square", "stretched"])
def test_a_margin_ends_at_the_border(shape):
    assert (cut_face(PICTURE, (0, 0, 20, 20), Crop(0.3, shape)) == PICTURE[:26, :26]).all()
    assert (cut_face(PICTURE, (40, 50, 60, 70), Crop(0.25, shape)) == PICTURE[45:75, 35:65]).all()


def test_a_square_keeps_the_centre_or_is_moved_into_the_picture():
    assert (cut_face(PICTURE, (40, 20, 60, 60), SQUARE) == PICTURE[20:60, 30:70]).all()
    assert (cut_face(PICTURE, (0, 20, 10, 60), SQUARE) == PICTURE[20:60, :40]).all()
    assert (cut_face(PICTURE, (95, 20, 100, 60), SQUARE) == PICTURE[20:60, 60:]).all()
    assert cut_face(PICTURE, (40, 20, 60, 60), STRETCHED).shape == (40, 20, 3)


def test_where_the_picture_is_too_narrow_its_border_is_repeated():
    narrow = PICTURE[:, :30]
    face = cut_face(narrow, (0, 0, 30, 80), SQUARE)
    assert face.shape == (80, 80, 3)
    assert (face[:, 25:55] == narrow[:80]).all()
    assert (face[:, :25] == narrow[:80, :1]).all()
    assert (face[:, 55:] == narrow[:80, -1:]).all()


def test_a_part_of_a_pixel_is_taken_in_whole():
    assert (cut_face(PICTURE, (10.5, 20.5, 29.5, 40.2), STRETCHED) == PICTURE[20:41, 10:30]).all()
    assert (cut_face(PICTURE, (10.0, 20.0, 30.0000001, 40.0), STRETCHED) == PICTURE[20:40, 10:30]).all()


@pytest.mark.parametrize("options", [{"margin": -0.1}, {"margin": float("nan")}, {"min_face": 0}, {"shape": "round"}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(FaceExprError, match=next(iter(options))):
        Crop(**options)
