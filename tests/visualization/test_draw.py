"""Boxes, captions and charts: what they change, what they leave alone, and that they stay inside."""

import numpy as np
import pytest

from faceexpr.utils.labels import FER_NAMES, colour
from faceexpr.visualization.boxes import draw_boxes

GREY = np.full((240, 320, 3), 128, np.uint8)


def changed(before, after):
    """Return where two images differ, as (H, W)."""
    return (before != after).any(axis=2)


def test_a_line_lies_around_the_face_in_its_colour_and_not_over_it():
    before = GREY.copy()
    assert (draw_boxes(GREY, np.zeros((0, 4))) == before).all()
    out = draw_boxes(GREY, [[100, 80, 180, 170]], colours="#ff0000")  # case F02: red stays red
    assert (before == GREY).all()
    assert not changed(GREY, out)[80:170, 100:180].any()
    assert out[120, 98].tolist() == [255, 0, 0]
    assert out[171, 140].tolist() == [255, 0, 0]
    assert not changed(GREY, out)[:70].any()


@pytest.mark.parametrize("box", [[0, 0, 60, 70], [250, 170, 320, 240]])
def test_a_caption_at_any_border_is_whole(box):
    """The caption has the same number of its ground's pixels wherever it is."""
    ground = np.array([10, 200, 30])
    captions = [
        (abs(draw_boxes(GREY, [place], ["Surprise 55%"], "#0ac81e").astype(int) - ground).sum(2) < 40).sum()
        - (abs(draw_boxes(GREY, [place], colours="#0ac81e").astype(int) - ground).sum(2) < 40).sum()
        for place in (box, [130, 90, 130 + box[2] - box[0], 90 + box[3] - box[1]])
    ]
    assert captions[0] > 300
    assert abs(captions[0] - captions[1]) <= 0.1 * captions[1]


def test_captions_and_charts_keep_off_the_neighbours_faces():
    boxes = np.array([[60, 60, 110, 120], [60, 5, 110, 50], [120, 60, 170, 120], [180, 150, 230, 220]])
    bars = np.full((4, 7), 1 / 7)
    out = draw_boxes(GREY, boxes, ["Angry 50%"] * 4, "#ff0000", bars, [colour(name) for name in FER_NAMES], FER_NAMES)
    plain = draw_boxes(GREY, boxes, colours="#ff0000")
    assert changed(plain, out).sum() > 2000
    for left, top, right, bottom in boxes:
        assert not changed(GREY, out)[top:bottom, left:right].any()


def test_a_crowd_without_room_is_drawn_without_captions():
    boxes = [[x, y, x + 9, y + 9] for y in range(0, 60, 12) for x in range(0, 60, 12)]
    small = np.full((60, 60, 3), 128, np.uint8)
    out = draw_boxes(small, boxes, ["Surprise 55%"] * 25, bars=np.full((25, 7), 0.5))
    assert (out == draw_boxes(small, boxes)).mean() > 0.9


def test_bars_are_as_long_as_their_values():
    lengths = []
    for value in (0.25, 0.5, 1.0):
        out = draw_boxes(GREY, [[20, 40, 120, 200]], bars=[[value, 0.0]], bar_colours=["#00ff00", "#0000ff"])
        found = (out == [0, 255, 0]).all(axis=2).any(axis=0).sum()
        lengths.append(found)
        assert not (out == [0, 0, 255]).all(axis=2).any()
    assert lengths == pytest.approx([lengths[2] / 4, lengths[2] / 2, lengths[2]], abs=1)


@pytest.mark.parametrize("caption", ["Ärger 5%", "غضب 5%"])
def test_letters_of_other_alphabets_have_shapes_of_their_own(caption):
    """A letter that the font lacks would be drawn as the same frame as one that no font has."""
    missing = "".join("\U000fffff" if letter.isalpha() else letter for letter in caption)
    drawn = [draw_boxes(GREY, [[50, 100, 150, 220]], [text]) for text in (caption, missing)]
    assert changed(*drawn).sum() > 20
